"""Engines by name, loaded on request.

An engine is a function of a problem: ``engine(problem, *, rng=None, **options)`` returns
:class:`~kdstats.components.result.VarianceComponents` and keeps no state between calls. The tables
below are the only place that knows where engines live; they name them by dotted path, so that no
heavy library is imported before its engine is asked for. Registering an engine here puts it under
the contract test of ``tests/architecture``.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from kdstats.components.result import VarianceComponents
from kdstats.errors import MissingDependencyError, UnsupportedProblemError, invalid
from kdstats.problem.bayesian import BayesianLinearStudent, BayesianStudent
from kdstats.problem.categorical import DirichletStudent, SoftmaxStudent, TabularStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent, NetworkStudent

__all__ = ["OBSERVATION_ENGINES", "PREDICTION_ENGINES", "Engine", "load_engine", "observe", "predict"]

PREDICTION_ENGINES = {
    "closed_form": "kdstats.prediction.closed_form:predict",
    "monte_carlo": "kdstats.prediction.monte_carlo:predict",
    "conjugate": "kdstats.prediction.conjugate:predict",
    "wide_network": "kdstats.prediction.networks.wide:predict",
    "linear_response": "kdstats.prediction.networks.linear_response:predict",
    "pymc": "kdstats.prediction.bayes:predict",
}
OBSERVATION_ENGINES = {
    "linear": "kdstats.observation.linear:observe",
    "networks": "kdstats.observation.networks:observe",
    "conjugate": "kdstats.observation.conjugate:observe",
    "pymc": "kdstats.prediction.bayes:observe",
    "categorical": "kdstats.observation.categorical:observe",
    "softmax": "kdstats.observation.softmax:observe",
}
#: What each student is predicted and observed with when no engine is named.
DEFAULTS: dict[type, tuple[str | None, str]] = {
    LinearStudent: ("closed_form", "linear"),
    BayesianLinearStudent: ("conjugate", "conjugate"),
    NetworkStudent: ("linear_response", "networks"),
    BayesianStudent: ("pymc", "pymc"),
    TabularStudent: ("closed_form", "categorical"),
    DirichletStudent: ("closed_form", "categorical"),
    SoftmaxStudent: ("closed_form", "softmax"),
}
#: Extra that brings a top-level library an engine needs.
EXTRAS = {"torch": "networks", "pymc": "bayes", "pytensor": "bayes", "arviz": "bayes", "transformers": "language"}


class Engine(Protocol):
    """Function from a problem to variance components."""

    def __call__(self, problem: DistillationProblem, *, rng: Any = None, **options: Any) -> VarianceComponents:
        """Return the components of ``problem``."""
        ...


def predict(problem: DistillationProblem, *, engine: str | None = None, **options: Any) -> VarianceComponents:
    """Predict the variance components of a distillation before any student is trained.

    Parameters
    ----------
    problem : DistillationProblem
        What is asked.
    engine : {"closed_form", "monte_carlo", "wide_network", "linear_response"}, optional
        Default: the engine of the student's class: ``closed_form`` for linear students, ``linear_response`` (which
        trains a few students itself) for networks.
    **options
        Passed to the engine: ``covariance=True`` (closed form: keep the full inter-student
        covariance); ``n_students``, ``rng``, ``noise_law``, ... (Monte Carlo); ``response``, ``rng``, ...
        (linear response).

    Returns
    -------
    VarianceComponents

    Raises
    ------
    UnsupportedProblemError
        If the engine has no answer for this problem.
    """
    default = DEFAULTS[_student_class(problem)][0]
    if engine is None and default is None:
        raise UnsupportedProblemError(
            f"no prediction engine covers a {type(problem.student).__name__} yet; `kdstats.observe` trains them"
        )
    return load_engine(PREDICTION_ENGINES, cast(str, default) if engine is None else engine)(problem, **options)


def observe(problem: DistillationProblem, *, engine: str | None = None, **options: Any) -> VarianceComponents:
    """Train students for real and estimate their variance components.

    Parameters
    ----------
    problem : DistillationProblem
        What is asked.
    engine : {"linear", "networks"}, optional
        ``linear`` solves each student's least-squares problem; ``networks`` trains with torch.
        Default: the engine of the student's class.
    **options
        Passed to the engine: ``n_students``, ``rng``, ``n_replicates``, ``noise_law``, ...

    Returns
    -------
    VarianceComponents
    """
    default = DEFAULTS[_student_class(problem)][1]
    return load_engine(OBSERVATION_ENGINES, default if engine is None else engine)(problem, **options)


def load_engine(table: dict[str, str], name: str) -> Engine:
    """Import an engine by its name in one of the tables.

    Raises
    ------
    ProblemError
        If the table has no such name.
    MissingDependencyError
        If a library the engine needs is not installed.
    """
    if not isinstance(name, str) or name not in table:
        raise invalid("engine", f"be one of {', '.join(table)}", name)
    module, attribute = table[name].split(":")
    try:
        return cast(Engine, getattr(importlib.import_module(module), attribute))
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        raise MissingDependencyError(
            f'engine {name!r} needs {library}, which is not installed: pip install "kdstats[{EXTRAS[library]}]"'
        ) from error


def _student_class(problem: DistillationProblem) -> type:
    if not isinstance(problem, DistillationProblem):
        raise invalid("problem", "be a DistillationProblem", f"a {type(problem).__name__}")
    return type(problem.student)
