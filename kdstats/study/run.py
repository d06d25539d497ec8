"""Run a study: predict, observe, test. The only place that knows all stages.

The order is fixed and every step is a unit of its own (see :mod:`kdstats.study.folder`): a study that
was interrupted goes on where it stopped and ends with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.cells import stack_cells
from kdstats.components.result import VarianceComponents
from kdstats.engine import observe, predict
from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.hypotest import Comparison, MseResult, RateResult, compare, mse_test, rate_test, student_mse
from kdstats.prediction.closed_form import MSEDistribution, mse_distribution
from kdstats.problem.bayesian import BayesianLinearStudent, BayesianStudent
from kdstats.problem.categorical import CategoricalTeacher, SoftmaxStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent, NetworkStudent
from kdstats.streams import Seeds, as_seeds
from kdstats.study.file import Setting, Study
from kdstats.study.folder import ResultFolder

__all__ = ["StudyResult", "Sweep", "run_study"]

FloatArray = NDArray[np.float64]
Say = Callable[..., None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sweep:
    """Predictions and observations along one quantity.

    Attributes
    ----------
    predicted : VarianceComponents
        With one leading dim.
    observed : mapping
        Label to run.
    rate : RateResult or None
        Test of the 1/k rate, for a sweep over responses.
    starts_vary : bool
        Whether networks start from weights of their own, whose variance no response reduces.
    """

    predicted: VarianceComponents
    observed: Mapping[Any, VarianceComponents]
    rate: RateResult | None = None
    starts_vary: bool = False


@dataclass(frozen=True, eq=False, kw_only=True)
class StudyResult:
    """Everything a study found.

    Attributes
    ----------
    study, setting
        What was asked.
    predicted : VarianceComponents or None
        Closed form where one exists; linear response of networks that it covers.
    simulated : VarianceComponents or None
        Monte Carlo, where it covers the student.
    observed : mapping
        Engine to observation.
    comparisons : mapping
        Engine to comparison with the prediction.
    mse_law, mse_test : MSEDistribution, MseResult or None
        Predicted law of the test error, and its test against the first observation.
    by_responses, by_noise : Sweep or None
    reused : list of str
        Units that an earlier run had left finished.
    """

    study: Study
    setting: Setting
    predicted: VarianceComponents | None
    simulated: VarianceComponents | None
    observed: Mapping[str, VarianceComponents]
    comparisons: Mapping[str, Comparison]
    mse_law: MSEDistribution | None
    mse_test: MseResult | None
    by_responses: Sweep | None
    by_noise: Sweep | None
    reused: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """The worst verdict over the engines: disagree before undecided before agree."""
        verdicts = {comparison.verdict for comparison in self.comparisons.values()}
        return next((verdict for verdict in ("disagree", "undecided", "agree") if verdict in verdicts), "undecided")

    @property
    def problem(self) -> DistillationProblem:
        """The problem."""
        return self.setting.problem


def run_study(study: Study, *, out: Path | None = None, say: Say = lambda *_: None) -> StudyResult:
    """Predict, observe and test.

    Parameters
    ----------
    study : Study
    out : Path, optional
        Folder that keeps every unit; an interrupted study is resumed from it.
    say : callable, optional
        Told what is being done, and from time to time how many of how many students are finished:
        ``say(text)`` or ``say(text, done, total)``.

    Returns
    -------
    StudyResult

    Notes
    -----
    Simulation, each engine and each cell of a sweep have seeds of their own, derived from the study's, so
    that they are independent evidence.
    """
    setting = study.setting()
    engines = _engines(study, setting.problem)
    stage = _Stage(study=study, folder=ResultFolder(out, study.as_dict()), say=say)
    problem = setting.problem
    linear = isinstance(problem.student, LinearStudent)
    if isinstance(problem.student, NetworkStudent):
        predicted = _network_response(problem, stage)
        predictable = predicted is not None
    else:
        predictable = linear or isinstance(problem.student, (BayesianLinearStudent, SoftmaxStudent))
        predicted = _closed_form(problem, stage) if predictable else None
    simulated = stage.simulate(problem) if linear else None
    observed = {
        engine: stage.observe(problem, engine=engine, part=2 + number, name=f"observed_{engine}")
        for number, engine in enumerate(engines)
    }
    reference = predicted if predicted is not None else simulated
    comparisons = {} if reference is None else {name: _compare(study, reference, run) for name, run in observed.items()}
    law, test = _test_error(study, setting, observed[engines[0]]) if linear else (None, None)
    return StudyResult(
        study=study,
        setting=setting,
        predicted=predicted,
        simulated=simulated,
        observed=observed,
        comparisons=comparisons,
        mse_law=law,
        mse_test=test,
        by_responses=_sweep_responses(stage, problem, engines[0]) if predictable else None,
        by_noise=_sweep_noise(stage, problem, engines[0]) if predictable else None,
        reused=stage.folder.reused,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Stage:
    """What every step needs: the study, where its units are kept, and whom to tell."""

    study: Study
    folder: ResultFolder
    say: Say

    def simulate(self, problem: DistillationProblem) -> VarianceComponents:
        """Return the Monte Carlo prediction."""
        run, text = self.study.run, f"simulating {self.study.run.n_simulated} students"

        def compute() -> VarianceComponents:
            self.say(text)
            return predict(
                problem,
                engine="monte_carlo",
                n_students=run.n_simulated,
                rng=self.seeds(1),
                noise_law=run.noise_law,
                progress=partial(self.say, text),
            )

        return self.folder.unit("monte_carlo", compute)

    def observe(
        self,
        problem: DistillationProblem,
        *,
        engine: str,
        part: int,
        name: str,
        n_students: int | None = None,
        where: str = "",
    ) -> VarianceComponents:
        """Return one observation, with the seeds of its part of the study."""
        count = self.study.run.n_students if n_students is None else n_students
        text = f"training {count} students ({engine}){where}"

        def compute() -> VarianceComponents:
            self.say(text)
            return observe(
                problem,
                engine=engine,
                n_students=count,
                rng=self.seeds(part, problem),
                **({} if engine == "softmax" else {"noise_law": self.study.run.noise_law}),
                progress=partial(self.say, text),
            )

        return self.folder.unit(name, compute)

    def predict(self, problem: DistillationProblem, *, part: int) -> VarianceComponents:
        """Return the prediction of the default engine; a network's has the common start of its observation."""
        options: dict[str, Any] = (
            {"rng": self.seeds(part, problem)} if isinstance(problem.student, NetworkStudent) else {}
        )
        return predict(problem, **options)

    def seeds(self, part: int, problem: DistillationProblem | None = None) -> Seeds:
        """Return the seeds of one part of the study, unrelated to every other's.

        Networks that start alike, or near one common start, start there in all parts: another is another student.
        """
        whole = as_seeds(self.study.run.seed)
        seeds = whole.branch("study part", part)
        if problem is None or not isinstance(problem.student, NetworkStudent):
            return seeds
        shared = "student_initialization" not in problem.design.sources or problem.student.perturbation_sd is not None
        common = whole.branch("study part", "common start").student_initialization
        return seeds.with_seed(student_initialization=common) if shared else seeds


def _engines(study: Study, problem: DistillationProblem) -> list[str]:
    default = ["linear", "networks"] if isinstance(problem.student, LinearStudent) else ["networks"]
    if isinstance(problem.student, BayesianLinearStudent):
        default = ["conjugate"]
    elif isinstance(problem.student, BayesianStudent):
        default = ["pymc"]
    if isinstance(problem.student, SoftmaxStudent) or "softmax" in (study.run.observe or []):
        if list(study.run.observe or ["softmax"]) != ["softmax"] or not isinstance(problem.student, SoftmaxStudent):
            raise invalid("run.observe", "be ['softmax'] for a SoftmaxStudent, and for no other", study.run.observe)
        return ["softmax"]
    chosen = study.run.observe if study.run.observe else default
    allowed = [*default, "pymc"] if default == ["conjugate"] else default
    is_bayesian = "pymc" in allowed
    if any(engine not in allowed if is_bayesian else engine in ("conjugate", "pymc") for engine in chosen):
        raise invalid("run.observe", f"be out of {allowed} for a {type(problem.student).__name__}", list(chosen))
    if not isinstance(problem.student, LinearStudent) and "linear" in chosen:
        raise invalid("run.observe", "be ['networks'] for a network student", list(chosen))
    return list(dict.fromkeys(chosen))


def _closed_form(problem: DistillationProblem, stage: _Stage) -> VarianceComponents | None:
    stage.say("predicting in closed form")
    try:
        if isinstance(problem.student, BayesianLinearStudent):
            run = stage.study.run
            options: dict[str, Any] = {"rng": stage.seeds(0), "n_students": run.n_simulated, "noise_law": run.noise_law}
            return stage.folder.unit("closed_form", lambda: predict(problem, covariance=True, **options))
        return stage.folder.unit("closed_form", lambda: predict(problem, engine="closed_form", covariance=True))
    except UnsupportedProblemError:
        return None


def _network_response(problem: DistillationProblem, stage: _Stage) -> VarianceComponents | None:
    """Predict network students by a few of their own, or say that no theory covers them."""
    stage.say("predicting network students by linear response")
    try:
        return stage.folder.unit("linear_response", lambda: stage.predict(problem, part=0))
    except UnsupportedProblemError as error:
        stage.say(f"no prediction: {error}")
        return None


def _compare(study: Study, predicted: VarianceComponents, observed: VarianceComponents) -> Comparison:
    run = study.run
    return compare(
        predicted, observed, equivalence_margin=run.equivalence_margin, confidence_level=run.confidence_level
    )


def _test_error(
    study: Study, setting: Setting, observed: VarianceComponents
) -> tuple[MSEDistribution | None, MseResult | None]:
    if setting.target is None or study.run.noise_law != "gaussian":
        return None, None
    try:
        law = mse_distribution(setting.problem, setting.target)
    except UnsupportedProblemError:
        return None, None
    if law.variance == 0.0:  # every student has the same error; there is no law to test
        return None, None
    return law, mse_test(student_mse(observed, setting.target), law)


def _sweep_responses(stage: _Stage, problem: DistillationProblem, engine: str) -> Sweep | None:
    counts = sorted(set(stage.study.run.sweep_responses))
    if not counts:
        return None
    strategy = "averaging" if problem.design.strategy == "single" else problem.design.strategy
    cells = {k: problem.with_design(n_responses=k, strategy=strategy) for k in counts}
    sweep = _sweep(stage, cells, dim="n_responses", engine=engine, first_part=100)
    rate = rate_test(sweep.observed) if len(counts) > 1 else None
    starts_vary = isinstance(problem.student, NetworkStudent) and "student_initialization" in problem.design.sources
    return Sweep(predicted=sweep.predicted, observed=sweep.observed, rate=rate, starts_vary=starts_vary)


def _sweep_noise(stage: _Stage, problem: DistillationProblem, engine: str) -> Sweep | None:
    factors = sorted(set(stage.study.run.sweep_noise))
    if not factors:
        return None
    if isinstance(problem.teacher, CategoricalTeacher):
        raise invalid("run.sweep_noise", "be left out for a teacher of classes", factors)
    noise, mean = problem.gaussian_teacher.noise_variance, float(problem.gaussian_teacher.variances.mean())
    cells = {factor * mean: problem.with_teacher(noise_variance=factor * noise) for factor in factors}
    return _sweep(stage, cells, dim="noise_variance", engine=engine, first_part=200)


def _sweep(stage: _Stage, cells: Mapping[Any, DistillationProblem], *, dim: str, engine: str, first_part: int) -> Sweep:
    """Predict and observe each cell with seeds of its own, so that cells are independent."""
    predicted, observed = {}, {}
    for number, (label, cell) in enumerate(cells.items()):
        predicted[label] = stage.predict(cell, part=1000 + first_part + number)
        observed[label] = stage.observe(
            cell,
            engine=engine,
            part=first_part + number,
            name=f"{dim}_{number}",
            n_students=stage.study.run.sweep_students,
            where=f" at {dim.replace('_', ' ')} {label:.4g}",
        )
    return Sweep(predicted=stack_cells(predicted, dim=dim), observed=observed)
