"""Bayesian students sampled with PyMC: every student's posterior, all of them in one model."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.classes import ClassComponents
from kdstats.components.result import VarianceComponents
from kdstats.errors import ApproximationWarning, UnsupportedProblemError
from kdstats.linear.bayesian import fit_bayesian_students
from kdstats.prediction.bayes.components import Diagnostics, components_of, diagnose
from kdstats.prediction.bayes.entropies import EntropyParts, class_components, entropy_parts
from kdstats.prediction.bayes.libraries import az
from kdstats.prediction.bayes.methods import NUTS, Approximation, Reweighting, as_method
from kdstats.prediction.bayes.models import stack_of
from kdstats.prediction.bayes.moments import StudentMoments, moments_of
from kdstats.prediction.bayes.posteriors import draws_of, sample
from kdstats.prediction.bayes.reweighting import reweight
from kdstats.problem.bayesian import BayesianLinearStudent, BayesianStudent
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count
from kdstats.progress import ProgressLike
from kdstats.sampling import BLOCK, as_noise_law
from kdstats.sampling.classes import draw_class_counts
from kdstats.sampling.training_sets import draw_responses
from kdstats.streams import Seeds, as_seeds

__all__ = ["SampledStudents", "observe", "predict", "sample_students"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class SampledStudents:
    """Posteriors of many students, and what they say.

    Attributes
    ----------
    components : VarianceComponents
        ``attrs`` has ``mcse`` (error of each average component that more draws would remove), ``rhat``, ``ess_bulk``,
        ``ess_tail``, ``n_divergent``, and ``unreliable`` where the gate fails.
    inference_data : arviz.InferenceData
        Draws (chain, draw, student, ...) with named variables and coords; ready for ArviZ plots. For
        reweighted students: of the pilot.
    diagnostics : Diagnostics
    pareto_k : (S,) ndarray or None
        k-hat of each reweighted student.
    entropy_parts : EntropyParts or None
        Of students of classes that are not reweighted.
    refused : (S,) ndarray of bool or None
        Students whose weights cannot be trusted; refitted if that was asked for, else the answer is marked.
    """

    components: VarianceComponents
    inference_data: az.InferenceData
    diagnostics: Diagnostics
    pareto_k: FloatArray | None = None
    entropy_parts: EntropyParts | None = None
    refused: NDArray[np.bool_] | None = None

    def class_components(self, *, unit: str = "nats") -> ClassComponents:
        """Return what students of classes disagree about, by the Gini index and by entropy.

        Raises
        ------
        UnsupportedProblemError
            For students of numbers.
        """
        kept = self.components.student_predictions
        if self.entropy_parts is None or kept is None:
            raise UnsupportedProblemError("entropies are of students of classes; got students of numbers")
        return class_components(kept, unit=unit)

    def summary(self) -> str:
        """Return the components and the diagnostics as text."""
        return f"{self.components.summary()}\n{self.diagnostics.summary()}"


def observe(problem: DistillationProblem, **options: Any) -> VarianceComponents:
    """Fit Bayesian students with PyMC and estimate their variance components.

    Takes the options of :func:`sample_students` and returns its ``components``.
    """
    return sample_students(problem, **options).components


def predict(problem: DistillationProblem, **options: Any) -> VarianceComponents:
    """Predict the variance components of Bayesian students by sampling some of them with PyMC.

    Takes the options of :func:`sample_students` and returns its ``components``, with ``exactness`` "simulated".
    """
    found = sample_students(problem, **options).components
    exactness = "simulated" if found.exactness == "observed" else found.exactness
    return replace(found, attrs={**found.attrs, "exactness": exactness}, student_predictions=None)


def sample_students(
    problem: DistillationProblem,
    *,
    n_students: int = 50,
    rng: Any = None,
    method: Any = "nuts",
    noise_law: Any = "gaussian",
    progress: ProgressLike = None,
) -> SampledStudents:
    """Sample the posteriors of many students with PyMC, in one model that is compiled once.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.BayesianLinearStudent` or :class:`~kdstats.BayesianStudent`, and one output or classes.
    n_students : int, default 50
        At least 2. Students see the labels that every other engine draws from the same seeds.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`. The chains have seeds of the source ``student_output``.
    method : {"nuts", "advi", "laplace", "pathfinder", "reweighting"} or an object, default "nuts"
        :class:`NUTS`, :class:`ADVI`, :class:`Laplace`, :class:`Pathfinder`, :class:`Reweighting` of
        ``kdstats.prediction.bayes``.
    noise_law : str, NoiseLaw or callable, default "gaussian"
        Law of the teacher's noise.
    progress : bool or callable, optional
        Accepted as by every engine; all students are sampled in one step.

    Returns
    -------
    SampledStudents

    Raises
    ------
    PredictionError
        If no chain can start.

    Warns
    -----
    ConvergenceWarning
        If a component fails the gate: R-hat above 1.01, an effective sample size below 400, divergences, one chain,
        or students that cannot be reweighted.
    ApproximationWarning
        Where an approximation suppresses the parameter part of intra_student, as far as it is known.
    """
    started = time.perf_counter()
    if not isinstance(problem.student, BayesianLinearStudent | BayesianStudent):
        raise UnsupportedProblemError(
            "engine 'pymc' samples a BayesianLinearStudent or a BayesianStudent; got a "
            f"{type(problem.student).__name__} (leave `engine` out for the engine of its own)"
        )
    n_students = as_count("n_students", n_students, minimum=2, reason="to estimate inter-student variance")
    how, seeds, law = as_method(method), as_seeds(rng), as_noise_law(noise_law)
    responses = _responses(problem, seeds, n_students, law)
    stack, seed = stack_of(problem, responses), _seed(seeds)
    pareto_k = refused = None
    attrs: dict[str, Any] = {"seed": seeds.as_dict(), "noise_law": law.name, "method": type(how).__name__}
    exactness = "observed"
    if isinstance(how, Reweighting):
        found = reweight(stack, how, seed=seed)
        data, moments, diagnostics, pareto_k = found.pilot, found.moments, found.diagnostics, found.pareto_k
        refused = found.refused
        attrs |= {
            "worst_pareto_k": float(pareto_k.max()),
            "n_moved": found.n_moved,
            "n_refused": int(found.refused.sum()),
            "n_refitted": found.n_refitted,
        }
    else:
        data = sample(stack, how, seed=seed)
        moments = moments_of(stack, data)
        if isinstance(how, NUTS):
            diagnostics = diagnose(stack, data)
        else:
            diagnostics = _independent(data)
            exactness = "approximate"
            attrs |= _suppression(problem, moments, responses, how)
    components = components_of(
        problem, moments, diagnostics=diagnostics, engine="pymc", exactness=exactness, attrs=attrs
    )
    components = replace(components, attrs={**components.attrs, "wall_time": time.perf_counter() - started})
    has_classes = isinstance(problem.teacher, CategoricalTeacher) and pareto_k is None
    return SampledStudents(
        components=components,
        inference_data=data,
        diagnostics=diagnostics,
        pareto_k=pareto_k,
        refused=refused,
        entropy_parts=entropy_parts(problem, draws_of(data)) if has_classes else None,
    )


def _responses(problem: DistillationProblem, seeds: Seeds, n_students: int, law: Any) -> FloatArray:
    """Draw the responses of the first students, (S, k, n, q) or counts (S, n, C), as every other engine does."""
    n_blocks = -(-n_students // BLOCK)
    if isinstance(problem.teacher, CategoricalTeacher):
        return np.concatenate([draw_class_counts(problem, seeds, block) for block in range(n_blocks)])[:n_students]
    return np.concatenate([draw_responses(problem, seeds, block, law) for block in range(n_blocks)])[:n_students]


def _seed(seeds: Seeds) -> int:
    return int(seeds.sequence("student_output", "chains").generate_state(1)[0])


def _independent(data: az.InferenceData) -> Diagnostics:
    n_draws = int(data.posterior.sizes["draw"])
    return Diagnostics(
        n_chains=1,
        n_draws=n_draws,
        rhat=float("nan"),
        ess_bulk=float(n_draws),
        ess_tail=float(n_draws),
        n_divergent=0,
        exact_draws=True,
    )


def _suppression(
    problem: DistillationProblem, moments: StudentMoments, responses: FloatArray, method: Approximation
) -> dict[str, Any]:
    """Return how the approximation's parameter variance compares with the exact one, where that is known."""
    if not isinstance(problem.student, BayesianLinearStudent):
        return {}
    labels = responses.mean(axis=1)
    within = ((responses - labels[:, None]) ** 2).sum(axis=1)
    exact = fit_bayesian_students(problem, labels=labels, within=within)
    ratio = float(moments.parameter.mean() / exact.parameter_variance.mean())
    error = float(moments.intra_error.mean() / exact.parameter_variance.mean() / np.sqrt(len(labels)))
    if ratio < 1.0 - 4.0 * error:
        warnings.warn(
            f"{type(method).__name__} gives {ratio:.3g} of the exact parameter variance: intra_student is suppressed",
            ApproximationWarning,
            stacklevel=4,
        )
    return {"parameter_variance_ratio": ratio}
