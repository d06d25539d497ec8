r"""From posterior draws of many students to variance components, with the error of the chains.

The posterior mean of each student is known up to the error of its chains, which inflates the variance of the means:
its square (from batch means, with no assumption on the chains but that batches are long) is taken off again.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.estimation import estimate_components
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import ConvergenceWarning
from kdstats.prediction.bayes.largest_rhat import MAX_RHAT, worst_rhat
from kdstats.prediction.bayes.libraries import az
from kdstats.prediction.bayes.moments import StudentMoments
from kdstats.prediction.bayes.posteriors import draws_of, quiet
from kdstats.prediction.bayes.stacks import Stack
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.problem.specification import DistillationProblem

__all__ = ["Diagnostics", "components_of", "diagnose"]

FloatArray = NDArray[np.float64]

#: The gate: smallest effective sample size (as the largest R-hat, of Vehtari et al. 2021).
MIN_ESS = 400.0
#: Draws whose predictions are held at once.
SERIES_BLOCK = 50


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    r"""What the chains say about themselves.

    Attributes
    ----------
    n_chains, n_draws : int
    rhat, ess_bulk, ess_tail : float
        The worst over the series that the components are made of: per draw, the variance over students of their
        predictions, and the mean over students of their squared deviations plus noise. R-hat is NaN with one chain.
    n_divergent : int
    worst_rhat : float
        Largest R-hat of any student's parameter.
    worst_allowed : float
        What it may be: the larger of 1.01 and the value that the largest of so many R-hats of converged chains
        exceeds once in a hundred runs.
    exact_draws : bool
        Whether draws are independent, from an approximation: chains say nothing then.
    n_refused : int
        Reweighted students whose weights cannot be trusted, and that were not refitted.
    worst_pareto_k, pareto_k_limit : float
        Largest k-hat of a reweighted student, and what it may be. NaN where nothing was reweighted.
    least_effective : float
        Smallest effective number of draws of a reweighted student. NaN where nothing was reweighted.
    """

    n_chains: int
    n_draws: int
    rhat: float
    ess_bulk: float
    ess_tail: float
    n_divergent: int
    worst_rhat: float = float("nan")
    worst_allowed: float = MAX_RHAT
    exact_draws: bool = False
    n_refused: int = 0
    worst_pareto_k: float = float("nan")
    pareto_k_limit: float = float("nan")
    least_effective: float = float("nan")

    @property
    def failures(self) -> tuple[str, ...]:
        """What fails the gate, in words; empty if nothing does."""
        if self.exact_draws:
            return ()
        found = []
        if self.n_chains < 2:
            found.append("one chain, which cannot show that it has converged")
        elif not self.rhat <= MAX_RHAT:
            found.append(f"R-hat {self.rhat:.3f} above {MAX_RHAT:g}")
        elif self.worst_rhat > self.worst_allowed:
            found.append(f"R-hat {self.worst_rhat:.3f} of a student's parameter, above {self.worst_allowed:.3f}")
        for name, value in (("bulk", self.ess_bulk), ("tail", self.ess_tail)):
            if not value >= MIN_ESS:
                found.append(f"{name} effective sample size {value:.0f} below {MIN_ESS:.0f}")
        if self.n_divergent:
            found.append(f"{self.n_divergent} divergent transitions")
        if self.n_refused:
            found.append(
                f"{self.n_refused} students cannot be reweighted (largest k-hat {self.worst_pareto_k:.2f}, limit "
                f"{self.pareto_k_limit:.2f}; fewest effective draws {self.least_effective:.0f}, limit {MIN_ESS:.0f}): "
                "use Reweighting(refit=True) or NUTS"
            )
        return tuple(found)

    def summary(self) -> str:
        """Return one line."""
        text = (
            f"{self.n_chains} chains x {self.n_draws} draws, R-hat {self.rhat:.4f}, ESS bulk {self.ess_bulk:.0f}, "
            f"tail {self.ess_tail:.0f}, {self.n_divergent} divergent; worst R-hat of a parameter {self.worst_rhat:.4f}"
        )
        if not np.isnan(self.worst_pareto_k):
            text += (
                f"; reweighted: largest k-hat {self.worst_pareto_k:.2f} (limit {self.pareto_k_limit:.2f}), "
                f"{self.least_effective:.0f} effective draws or more, {self.n_refused} students refused"
            )
        return text + (f"; FAILS: {'; '.join(self.failures)}" if self.failures else "")


def diagnose(stack: Stack, data: az.InferenceData) -> Diagnostics:
    """Return the diagnostics of posterior draws of a stack's students."""
    n_chains, n_draws = data.posterior.sizes["chain"], data.posterior.sizes["draw"]
    series = _component_series(stack, draws_of(data))
    with quiet():
        rhat = max(float(az.rhat(one)) for one in series) if n_chains > 1 else float("nan")
        bulk, tail = (min(float(az.ess(one, method=kind)) for one in series) for kind in ("bulk", "tail"))
        worst, allowed = worst_rhat(data) if n_chains > 1 else (float("nan"), MAX_RHAT)
    divergent = 0
    if "sample_stats" in data.groups() and "diverging" in data.sample_stats:
        divergent = int(data.sample_stats["diverging"].sum())
    return Diagnostics(
        n_chains=n_chains,
        n_draws=n_draws,
        rhat=rhat,
        ess_bulk=bulk,
        ess_tail=tail,
        n_divergent=divergent,
        worst_rhat=worst,
        worst_allowed=allowed,
    )


def components_of(
    problem: DistillationProblem,
    moments: StudentMoments,
    *,
    diagnostics: Diagnostics,
    engine: str,
    exactness: str,
    attrs: dict[str, Any],
) -> VarianceComponents:
    """Estimate the components; mark and warn of those whose diagnostics fail.

    ``attrs["mcse"]`` has the part of each average component's error that more draws would remove.
    """
    quiet_students = "student_output" not in problem.design.sources
    n_students = len(moments.mean)
    intra = np.zeros_like(moments.mean) if quiet_students else moments.parameter + moments.noise
    shape = (n_students, problem.n_points, problem.teacher.n_outputs)
    answer = estimate_components(
        xr.DataArray(
            moments.mean.reshape(shape)[:, None],
            dims=("student", "replicate", "point", "output"),
            coords={"output": list(problem.teacher.output_labels)}
            if isinstance(problem.teacher, CategoricalTeacher)
            else None,
        ),
        variances=intra.reshape(shape),
        point_labels=problem.point_labels,
        engine=engine,
        attrs={"exactness": exactness, "problem": problem.fingerprint(), **attrs},
    )
    excess = (moments.mean_error**2).mean(axis=0).reshape(shape[1:])
    estimate = answer.estimate.copy(deep=True)
    estimate["inter_student"] -= excess
    estimate["total"] -= excess
    squares = answer.mean_squares
    assert squares is not None
    squares = squares.copy(deep=True)
    squares["between"] -= excess
    whole = answer.intra_student
    parts = xr.Dataset(
        {
            "parameter": whole.copy(data=moments.parameter.mean(axis=0).reshape(shape[1:])),
            "noise": whole.copy(data=moments.noise.mean(axis=0).reshape(shape[1:])),
        }
    )
    facts: dict[str, Any] = {
        "mcse": _chain_errors(moments, silent=quiet_students),
        "rhat": diagnostics.rhat,
        "ess_bulk": diagnostics.ess_bulk,
        "ess_tail": diagnostics.ess_tail,
        "n_divergent": diagnostics.n_divergent,
        "n_chains": diagnostics.n_chains,
        "n_students": n_students,
    }
    if diagnostics.failures:
        unreliable = ("inter_student", "total") if quiet_students else COMPONENTS
        facts |= {"unreliable": tuple(unreliable), "unreliable_because": "; ".join(diagnostics.failures)}
        warnings.warn(
            f"{', '.join(unreliable)} are unreliable: {'; '.join(diagnostics.failures)}",
            ConvergenceWarning,
            stacklevel=4,
        )
    return replace(
        answer,
        estimate=estimate,
        mean_squares=squares,
        intra_parts=None if quiet_students else parts,
        attrs={**answer.attrs, **facts},
    )


def _component_series(stack: Stack, draws: dict[str, FloatArray]) -> list[FloatArray]:
    """Return, per component, the series (chain, draw) whose mean it is, averaged over points."""
    n_chains, n_draws = next(iter(draws.values())).shape[:2]
    between, within = np.empty((n_chains, n_draws)), np.empty((n_chains, n_draws))
    centre = _centre(stack, draws)
    for chain in range(n_chains):
        for first in range(0, n_draws, SERIES_BLOCK):
            part = slice(first, first + SERIES_BLOCK)
            found = stack.predictive({name: array[chain, part] for name, array in draws.items()})
            if found.mean.shape[1] > 1:
                between[chain, part] = found.mean.var(axis=1).mean(axis=-1)
            within[chain, part] = ((found.mean - centre) ** 2 + found.variance).mean(axis=(1, 2))
    return [within] if len(centre) < 2 else [between, within]


def _centre(stack: Stack, draws: dict[str, FloatArray]) -> FloatArray:
    """Return each student's posterior mean prediction, shape (S, m)."""
    n_chains, n_draws = next(iter(draws.values())).shape[:2]
    total: FloatArray | float = 0.0
    for chain in range(n_chains):
        for first in range(0, n_draws, SERIES_BLOCK):
            part = slice(first, first + SERIES_BLOCK)
            found = stack.predictive({name: array[chain, part] for name, array in draws.items()})
            total = total + found.mean.sum(axis=0)
    return np.asarray(total / (n_chains * n_draws))


def _chain_errors(moments: StudentMoments, *, silent: bool) -> dict[str, float]:
    """Return the Monte Carlo standard error of each component, averaged over points, given the students.

    Points share draws, and so do some students: their errors are added as if perfectly correlated, which cannot
    understate.
    """
    n, alone = len(moments.mean), ~moments.common[:, None]
    deviations, squared = moments.mean - moments.mean.mean(axis=0), moments.mean_error**2
    means = (4.0 * deviations**2 * squared + 2.0 * squared**2) / (n - 1) ** 2
    inter = _added(means, alone)
    intra = np.zeros_like(inter) if silent else _added(moments.intra_error**2 / n**2, alone)
    return {
        "inter_student": float(inter.mean()),
        "intra_student": float(intra.mean()),
        "total": float(np.hypot(inter, intra).mean()),
    }


def _added(squares: FloatArray, alone: NDArray[np.bool_]) -> FloatArray:
    """Return the error (m,) of a sum over students, from squared errors (S, m): independent where ``alone``."""
    together = np.sqrt(np.where(alone, 0.0, squares)).sum(axis=0)
    return np.asarray(np.sqrt(np.where(alone, squares, 0.0).sum(axis=0) + together**2))
