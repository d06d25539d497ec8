r"""Simulation-based calibration: does the sampler sample the posterior of the model.

Parameters are drawn from the prior, labels from the model given the parameters; the rank of a drawn parameter among
independent posterior draws is then uniform [1]_, and so is that of any function of parameters and labels. Ranks of
parameters cannot tell a posterior from its prior (which has the same ranks, labels or none); those of the log
likelihood can [2]_, so they are looked at too. Every simulation is a student of one stacked model, so all are fitted
at once.

References
----------
.. [1] Talts, S., Betancourt, M., Simpson, D., Vehtari, A. & Gelman, A. (2018), arXiv:1804.06788.
.. [2] Modrák, M. et al. (2023), Bayesian Analysis (simulation-based calibration with data-dependent quantities).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.prediction.bayes.libraries import az, pm
from kdstats.prediction.bayes.methods import NUTS
from kdstats.prediction.bayes.models import stack_of
from kdstats.prediction.bayes.posteriors import quiet, sample
from kdstats.prediction.bayes.rank_uniformity import uniform_band, uniform_pvalue
from kdstats.prediction.bayes.stacks import Stack
from kdstats.problem.bayesian import BayesianLinearStudent, BayesianStudent
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count
from kdstats.streams import as_seeds

__all__ = ["SimulationCalibration", "simulation_calibration"]

#: Draws that are kept of a simulation, the most that its smallest effective sample size allows.
KEPT = (99, 49, 19, 9, 4, 1)
#: Values of a rank.
N_RANKS = KEPT[0] + 1
#: Level of the whole test.
LEVEL = 0.01
#: The quantity beside the parameters.
LIKELIHOOD = "log_likelihood"


@dataclass(frozen=True, eq=False, kw_only=True)
class SimulationCalibration:
    """Ranks of true parameters, and of their log likelihood, among posterior draws.

    Attributes
    ----------
    ranks : mapping
        Quantity to (S, ...) ranks, 0 to 99. Of a simulation with fewer kept draws, ranks are spread out at random
        over the values that they stand for, which keeps them uniform.
    pvalues : mapping
        Quantity to the exact p-values (...) of uniformity.
    band : (2, 99) ndarray
        Shares of ranks below 1, 2, ... that uniform ranks of all quantities stay within with 99% (Bonferroni over
        quantities).
    n_simulations : int
    n_kept : (S,) ndarray of int
        Posterior draws of each simulation that are kept: 99, 49, 19, 9, 4 or 1, no more than the smallest effective
        sample size of its parameters, so that they are as good as independent.
    n_divergent : int
    """

    ranks: dict[str, NDArray[np.int64]]
    pvalues: dict[str, NDArray[np.float64]]
    band: NDArray[np.float64]
    n_simulations: int
    n_kept: NDArray[np.int64]
    n_divergent: int

    @property
    def n_quantities(self) -> int:
        """Number of ranks of one simulation."""
        return sum(np.size(values) for values in self.pvalues.values())

    @property
    def worst(self) -> str:
        """Quantity with the smallest p-value."""
        return min(self.pvalues, key=lambda name: float(np.min(self.pvalues[name])))

    @property
    def pvalue(self) -> float:
        """Smallest p-value times the number of quantities (Bonferroni), at most 1."""
        return float(min(1.0, np.min(self.pvalues[self.worst]) * self.n_quantities))

    @property
    def uniform(self) -> bool:
        """Whether uniformity is not rejected at 1%: every quantity's ranks are inside the 99% band."""
        return self.pvalue > LEVEL

    def summary(self) -> str:
        """Return two lines."""
        word = "uniform" if self.uniform else "NOT uniform"
        return (
            f"{self.n_simulations} simulations, {self.n_quantities} quantities: ranks {word} "
            f"(p = {self.pvalue:.3g} over all, smallest for {self.worst})\n"
            f"independent draws kept of each: {np.median(self.n_kept):.0f} (median), {self.n_kept.min()} (fewest); "
            f"{self.n_divergent} divergent transitions"
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
        At least 20.
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
    n_simulations = as_count("n_simulations", n_simulations, minimum=20, reason="for the test to have any power")
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
    data = sample(fitted, how, seed=seed + 1)
    n_kept = _independent(data.posterior)
    kept = _thinned(data.posterior, KEPT[0])
    below = {name: kept[name].to_numpy()[0] < np.asarray(value) for name, value in parameters.items() if name in kept}
    if (of_likelihood := _likelihoods_below(fitted, kept, parameters)) is not None:
        below[LIKELIHOOD] = of_likelihood
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(1,))))
    ranks = {name: _ranks(values, n_kept, generator) for name, values in below.items()}
    pvalues = {name: _pvalues(rank) for name, rank in ranks.items()}
    level = LEVEL / sum(np.size(values) for values in pvalues.values())
    return SimulationCalibration(
        ranks=ranks,
        pvalues=pvalues,
        band=uniform_band(n_simulations, n_ranks=N_RANKS, level=level),
        n_simulations=n_simulations,
        n_kept=n_kept,
        n_divergent=int(data.sample_stats["diverging"].sum()),
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


def _independent(posterior: xr.Dataset) -> NDArray[np.int64]:
    """Return how many draws (S,) of each simulation may be kept."""
    with quiet():
        sizes = az.ess(posterior)
    least = np.min([np.nanmin(_columns(array.to_numpy()), axis=1) for array in sizes.data_vars.values()], axis=0)
    return np.asarray(np.array(KEPT)[np.argmax(np.array(KEPT)[:, None] <= np.maximum(least, 1.0), axis=0)])


def _columns(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(values), -1)


def _ranks(below: NDArray[np.bool_], n_kept: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return ranks (S, ...), 0 to 99, from which of the thinned draws (draw, S, ...) lie below the true value."""
    ranks = np.empty(below.shape[1:], dtype=np.int64)
    for number in np.unique(n_kept):
        chosen = np.linspace(0, KEPT[0] - 1, number + 2)[1:-1].round().astype(int) if number < KEPT[0] else slice(None)
        some = n_kept == number
        found = below[chosen][:, some].sum(axis=0)
        width = N_RANKS // (number + 1)
        ranks[some] = found * width + generator.integers(width, size=found.shape)
    return ranks


def _thinned(posterior: xr.Dataset, n_draws: int) -> xr.Dataset:
    """Return one chain of draws, evenly spaced over all chains."""
    n_chains, length = posterior.sizes["chain"], posterior.sizes["draw"]
    chosen = np.linspace(0, n_chains * length - 1, n_draws).round().astype(int)
    flat = posterior.stack(every=("chain", "draw")).isel(every=chosen).drop_vars(("every", "chain", "draw"))
    return flat.rename(every="draw").expand_dims("chain").transpose("chain", "draw", ...)


def _likelihoods_below(stack: Stack, kept: xr.Dataset, true: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """Return which draws (1, draw, S, ...) have a log likelihood below that of the true parameters, (draw, S)."""
    with quiet(), stack.model() as model:
        names = [variable.name for variable in model.free_RVs]
        if set(names) != set(true):
            return None  # parameters come from a model with others, whose likelihood is not this one's
        last = xr.Dataset({name: (kept[name].dims, np.asarray(true[name])[None, None]) for name in names})
        both = az.InferenceData(
            posterior=xr.concat([kept[names].drop_vars(kept.coords, errors="ignore"), last], dim="draw")
        )
        found = pm.compute_log_likelihood(both, extend_inferencedata=False, progressbar=False)
    terms = [array.to_numpy()[0] for array in found.data_vars.values()]
    values = sum(term.reshape(*term.shape[:2], -1).sum(axis=2) for term in terms)
    return np.asarray(values[:-1] < values[-1])


def _pvalues(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the p-value of each column of ranks (S, ...)."""
    found = [uniform_pvalue(column, n_ranks=N_RANKS) for column in _columns(ranks).T]
    return np.asarray(found).reshape(ranks.shape[1:])
