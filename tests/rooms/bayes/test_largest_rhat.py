"""What chance allows the largest R-hat to be, against simulated converged chains, independent and autocorrelated."""

import warnings

import arviz as az
import numpy as np
import pytest
import scipy.signal
import scipy.stats

from kdstats.prediction.bayes.largest_rhat import LEVEL, MAX_RHAT, allowed_rhat, worst_rhat


def chains(n_chains, length, memory, n_series, rng):
    """Return converged autoregressive chains (chain, draw, series)."""
    noise = rng.normal(size=(n_chains, length + 100, n_series))
    return scipy.signal.lfilter([1.0], [1.0, -memory], noise, axis=1)[:, 100:]


def split_rhat(draws):
    half = draws.shape[1] // 2
    pieces = np.concatenate([draws[:, :half], draws[:, half : 2 * half]])
    between, within = pieces.mean(axis=1).var(axis=0, ddof=1), pieces.var(axis=1, ddof=1).mean(axis=0)
    return np.sqrt((half - 1) / half + between / within)


@pytest.mark.parametrize(
    ("n_chains", "length", "memory"), [(4, 250, 0.0), (2, 250, 0.5), (4, 500, 0.6), (4, 250, -0.3)]
)
def test_the_allowance_is_exceeded_as_often_as_stated(n_chains, length, memory):
    n = 8000
    seen = split_rhat(chains(n_chains, length, memory, n, np.random.default_rng(1)))
    half = length // 2
    effective = half * (1.0 - memory) / (1.0 + memory)  # known for an autoregression
    allowed = allowed_rhat(n_pieces=2 * n_chains, length=half, effective=effective, n_parameters=1)
    assert scipy.stats.binomtest(int((seen > allowed).sum()), n, LEVEL / 2).pvalue > 1e-3
    if memory:  # taking correlated draws for independent ones gives another number
        wrong = allowed_rhat(n_pieces=2 * n_chains, length=half, effective=half, n_parameters=1)
        assert scipy.stats.binomtest(int((seen > wrong).sum()), n, LEVEL / 2).pvalue < 1e-6


def data_of(draws):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return az.from_dict(posterior={"w": draws})


def test_many_converged_parameters_pass_and_one_that_is_not_fails():
    """Of 8 converged runs two or more fail with a chance of 0.003; all of them have an R-hat above the plain gate."""
    rng, failed = np.random.default_rng(2), 0
    for _ in range(8):
        draws = chains(4, 250, 0.5, 300, rng)
        worst, allowed = worst_rhat(data_of(draws))
        assert worst > MAX_RHAT
        failed += worst > allowed
    assert failed <= 1
    draws[0, :, 7] += 1.5 * draws[..., 7].std()
    worst, allowed = worst_rhat(data_of(draws))
    assert worst > allowed


def test_constant_parameters_have_no_rhat():
    worst, allowed = worst_rhat(data_of(np.ones((4, 100, 2))))
    assert np.isnan(worst)
    assert allowed == MAX_RHAT
