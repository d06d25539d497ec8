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
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.streams import Seeds, as_seeds
from kdstats.study.file import Setting, Study
from kdstats.study.folder import ResultFolder

__all__ = ["StudyResult", "Sweep", "run_study"]

FloatArray = NDArray[np.float64]
Report = Callable[[str], None]


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
    """

    predicted: VarianceComponents
    observed: Mapping[Any, VarianceComponents]
    rate: RateResult | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class StudyResult:
    """Everything a study found.

    Attributes
    ----------
    study, setting
        What was asked.
    predicted : VarianceComponents or None
        Closed form, where one exists.
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


def run_study(study: Study, *, out: Path | None = None, say: Report = lambda _: None) -> StudyResult:
    """Predict, observe and test.

    Parameters
    ----------
    study : Study
    out : Path, optional
        Folder that keeps every unit; an interrupted study is resumed from it.
    say : callable, optional
        Told what is being done, for progress on a terminal.

    Returns
    -------
    StudyResult

    Notes
    -----
    Simulation, each engine and each cell of a sweep have seeds of their own, derived from the study's, so
    that they are independent evidence.
    """
    setting, run, seeds = study.setting(), study.run, as_seeds(study.run.seed)
    problem = setting.problem
    engines = _engines(study, problem)
    folder = ResultFolder(out, study.as_dict())
    linear = isinstance(problem.student, LinearStudent)

    predicted = simulated = None
    if linear:
        say("predicting in closed form")
        predicted = _closed_form(problem, folder)
        say(f"simulating {run.n_simulated} students")
        simulated = folder.unit(
            "monte_carlo",
            lambda: predict(
                problem, engine="monte_carlo", n_students=run.n_simulated, rng=_later(seeds, 1), noise_law=run.noise_law
            ),
        )
    observed: dict[str, VarianceComponents] = {}
    for engine in engines:
        say(f"training {run.n_students} students ({engine})")
        own = _later(seeds, 2 + len(observed))
        observed[engine] = folder.unit(f"observed_{engine}", partial(_observe, problem, study, engine, own))
    reference = predicted if predicted is not None else simulated
    comparisons = (
        {} if reference is None else {name: _compare(study, reference, run_) for name, run_ in observed.items()}
    )
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
        by_responses=_sweep_responses(study, problem, engines[0], folder, say),
        by_noise=_sweep_noise(study, problem, engines[0], folder, say),
        reused=folder.reused,
    )


def _engines(study: Study, problem: DistillationProblem) -> list[str]:
    default = ["linear", "networks"] if isinstance(problem.student, LinearStudent) else ["networks"]
    chosen = study.run.observe if study.run.observe else default
    if not isinstance(problem.student, LinearStudent) and "linear" in chosen:
        raise invalid("run.observe", "be ['networks'] for a network student", list(chosen))
    return list(dict.fromkeys(chosen))


def _closed_form(problem: DistillationProblem, folder: ResultFolder) -> VarianceComponents | None:
    try:
        return folder.unit("closed_form", lambda: predict(problem, engine="closed_form", covariance=True))
    except UnsupportedProblemError:
        return None


def _observe(
    problem: DistillationProblem, study: Study, engine: str, seeds: Seeds, n_students: int | None = None
) -> VarianceComponents:
    count = study.run.n_students if n_students is None else n_students
    return observe(problem, engine=engine, n_students=count, rng=seeds, noise_law=study.run.noise_law)


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
    return law, mse_test(student_mse(observed, setting.target), law)


def _sweep_responses(
    study: Study, problem: DistillationProblem, engine: str, folder: ResultFolder, say: Report
) -> Sweep | None:
    counts = sorted(set(study.run.sweep_responses))
    if not counts or not isinstance(problem.student, LinearStudent):
        return None
    strategy = "averaging" if problem.design.strategy == "single" else problem.design.strategy
    cells = {k: problem.with_design(n_responses=k, strategy=strategy) for k in counts}
    sweep = _sweep(study, cells, "n_responses", engine, folder, say)
    rate = rate_test(sweep.observed) if len(counts) > 1 else None
    return Sweep(predicted=sweep.predicted, observed=sweep.observed, rate=rate)


def _sweep_noise(
    study: Study, problem: DistillationProblem, engine: str, folder: ResultFolder, say: Report
) -> Sweep | None:
    factors = sorted(set(study.run.sweep_noise))
    if not factors or not isinstance(problem.student, LinearStudent):
        return None
    noise = problem.teacher.noise_variance
    cells = {
        factor * float(problem.teacher.variances.mean()): problem.with_teacher(noise_variance=factor * noise)
        for factor in factors
    }
    return _sweep(study, cells, "noise_variance", engine, folder, say)


def _sweep(
    study: Study,
    cells: Mapping[Any, DistillationProblem],
    dim: str,
    engine: str,
    folder: ResultFolder,
    say: Report,
) -> Sweep:
    """Predict and observe each cell with seeds of its own, so that cells are independent."""
    predicted, observed = {}, {}
    for number, (label, cell) in enumerate(cells.items()):
        say(f"training {study.run.sweep_students} students at {dim.replace('_', ' ')} {label:.4g}")
        seeds = _later(as_seeds(study.run.seed), 100 * (1 + (dim == "noise_variance")) + number)
        predicted[label] = predict(cell)
        job = partial(_observe, cell, study, engine, seeds, study.run.sweep_students)
        observed[label] = folder.unit(f"{dim}_{number}", job)
    return Sweep(predicted=stack_cells(predicted, dim=dim), observed=observed)


def _later(seeds: Seeds, number: int) -> Seeds:
    """Return seeds for another part of the study, unrelated to the first."""
    return as_seeds(seeds.sequence("teacher_output", "study part", number))
