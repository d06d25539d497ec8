r"""Simulation-based calibration: does the sampler sample the posterior of the model.

Parameters are drawn from the prior, labels from the model given the parameters; the rank of a drawn parameter among
posterior draws is then uniform [1]_. Every simulation is a student of one stacked model, so all are fitted at once.

References
----------
.. [1] Talts, S., Betancourt, M., Simpson, D., Vehtari, A. & Gelman, A. (2018), arXiv:1804.06788.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, chdtrc

from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.prediction.bayes.libraries import pm
from kdstats.prediction.bayes.methods import NUTS
from kdstats.prediction.bayes.models import stack_of
from kdstats.prediction.bayes.posteriors import draws_of, quiet, sample
from kdstats.prediction.bayes.stacks import Stack
from kdstats.problem.bayesian import BayesianLinearStudent, BayesianStudent
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count
from kdstats.streams import as_seeds

__all__ = ["SimulationCalibration", "simulation_calibration"]

#: Ranks run from 0 to N_RANKS - 1 and are counted in N_BINS bins.
N_RANKS, N_BINS = 100, 10
#: Level of the whole test.
LEVEL = 0.01


@dataclass(frozen=True, eq=False, kw_only=True)
class SimulationCalibration:
    """Ranks of true parameters among their posterior draws.

    Attributes
    ----------
    ranks : mapping
        Parameter to (S, ...) ranks, 0 to 99.
    pvalues : mapping
        Parameter to the p-values (...) of a chi-square test of uniformity over 10 bins.
    band : tuple of float
        Counts of a bin that hold with 99% under uniformity, over all bins and parameters.
    worst_counts : tuple of int
        Smallest and largest count.
    n_simulations : int
    """

    ranks: dict[str, NDArray[np.int64]]
    pvalues: dict[str, NDArray[np.float64]]
    band: tuple[float, float]
    worst_counts: tuple[int, int]
    n_simulations: int

    @property
    def pvalue(self) -> float:
        """Smallest p-value times the number of parameters (Bonferroni), at most 1."""
        every = np.concatenate([np.ravel(values) for values in self.pvalues.values()])
        return float(min(1.0, every.min() * every.size))

    @property
    def uniform(self) -> bool:
        """Whether neither the test at 1% nor the 99% band speaks against uniform ranks."""
        return self.pvalue >= LEVEL and self.band[0] <= self.worst_counts[0] and self.worst_counts[1] <= self.band[1]

    def summary(self) -> str:
        """Return two lines."""
        word = "uniform" if self.uniform else "NOT uniform"
        return (
            f"{self.n_simulations} simulations: ranks {word} (p = {self.pvalue:.3g} over all parameters)\n"
            f"counts of {N_BINS} bins {self.worst_counts[0]} to {self.worst_counts[1]}, 99% band {self.band[0]:.0f} to "
            f"{self.band[1]:.0f}"
        )

    __str__ = summary


def simulation_calibration(
    problem: DistillationProblem,
    *,
    n_simulations: int = 200,
    rng: Any = None,
    method: NUTS | None = None,
    truth: DistillationProblem | None = None,
) -> SimulationCalibration:
    """Check a student's model and its sampler by simulation-based calibration.

    Parameters
    ----------
    problem : DistillationProblem
        With a student whose prior is proper. Its teacher gives the inputs alone.
    n_simulations : int, default 200
        At least 100.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`.
    method : NUTS, optional
        Default: four chains of 500 draws.
    truth : DistillationProblem, optional
        Where parameters and labels come from, if not from ``problem`` itself: a student that is wrong about them
        must be found out. The same model with other numbers.

    Returns
    -------
    SimulationCalibration
    """
    n_simulations = as_count("n_simulations", n_simulations, minimum=100, reason="to fill the bins")
    how = NUTS() if method is None else method
    if not isinstance(how, NUTS):
        raise invalid("method", "be a NUTS", how)
    source = problem if truth is None else truth
    for one in (problem, source):
        _check_proper(one)
    seeds = as_seeds(rng)
    blank = np.zeros((n_simulations, _rows(source), source.teacher.n_inputs, 1))
    if isinstance(source.teacher, CategoricalTeacher):
        blank = np.zeros((n_simulations, *source.teacher.probabilities.shape))
    stack, origin = stack_of(problem, blank), stack_of(source, blank)
    if not origin.observed or not stack.observed:
        raise UnsupportedProblemError(
            "calibration by simulation needs a likelihood that labels can be drawn from; got averaged classes, "
            "a power of the likelihood or a weight of the teacher"
        )
    seed = int(seeds.sequence("student_output", "simulation").generate_state(1)[0])
    parameters, arrays = _from_prior(origin, seed)
    fitted = replace(stack, arrays={**stack.arrays, **arrays})
    draws = draws_of(sample(fitted, how, seed=seed + 1))
    ranks = {name: _ranks(value, draws[name]) for name, value in parameters.items() if name in draws}
    counts = {name: _counts(rank) for name, rank in ranks.items()}
    every = np.concatenate([count.reshape(N_BINS, -1) for count in counts.values()], axis=1)
    expected = n_simulations / N_BINS
    return SimulationCalibration(
        ranks=ranks,
        pvalues={
            name: np.asarray(chdtrc(N_BINS - 1, ((count - expected) ** 2 / expected).sum(axis=0)))
            for name, count in counts.items()
        },
        band=_band(n_simulations, every.size),
        worst_counts=(int(every.min()), int(every.max())),
        n_simulations=n_simulations,
    )


def _rows(problem: DistillationProblem) -> int:
    return problem.design.n_responses if problem.design.strategy == "multi_response" else 1


def _check_proper(problem: DistillationProblem) -> None:
    student = problem.student
    if isinstance(student, BayesianStudent) and not callable(student.model):
        return
    if not isinstance(student, BayesianLinearStudent):
        raise UnsupportedProblemError(
            "calibration by simulation covers BayesianLinearStudent and named BayesianStudent"
        )
    improper_noise = student.noise_variance is None and not (student.noise_shape > 0.0 and student.noise_scale > 0.0)
    if student.is_flat or student.fit_intercept or improper_noise:
        raise invalid(
            "student", "have a proper prior (finite variance, no intercept, a proper noise prior)", "an improper one"
        )


def _from_prior(stack: Stack, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw every student's parameters and data from the model."""
    with quiet(), stack.model() as model:
        names = [variable.name for variable in model.free_RVs]
        variables = [model[name] for name in (*names, *stack.observed.values())]
        values = pm.draw(variables, random_seed=seed)
    parameters = dict(zip(names, values[: len(names)], strict=True))
    return parameters, dict(zip(stack.observed, values[len(names) :], strict=True))


def _ranks(true: Any, draws: Any) -> NDArray[np.int64]:
    """Return how many of 99 thinned draws (chain, draw, S, ...) lie below each true value."""
    flat = draws.reshape(-1, *draws.shape[2:])
    kept = flat[np.linspace(0, len(flat) - 1, N_RANKS - 1).astype(int)]
    return np.asarray((kept < true).sum(axis=0))


def _counts(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count ranks (S, ...) in bins, shape (bins, ...)."""
    bins = ranks * N_BINS // N_RANKS
    return np.stack([(bins == number).sum(axis=0) for number in range(N_BINS)])


def _band(n_simulations: int, n_counts: int) -> tuple[float, float]:
    """Return the counts that a binomial stays within at 99% over all counts (Bonferroni)."""
    tail, counts = 0.5 * LEVEL / n_counts, np.arange(n_simulations + 1)
    below = bdtr(counts, n_simulations, 1.0 / N_BINS)
    return float(counts[below >= tail][0]), float(counts[below >= 1.0 - tail][0])
