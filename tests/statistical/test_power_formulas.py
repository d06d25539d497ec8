"""Every number of students against simulated experiments with that many."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import stdtr

from kdstats.hypotest import (
    ratio_power,
    students_for_mean,
    students_for_rate,
    students_for_ratio,
    students_until_decided,
)
from kdstats.hypotest.evalues import log_evalue, log_evalue_one_sided, prior_of_margin
from kdstats.hypotest.rate import slope_of

N, ALPHA = 2_000, 0.05


def inside(n_rejected, probability, n=N):
    low, high = stats.binom.interval(0.99, n, probability)
    return low <= n_rejected <= high


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_ratio(alternative):
    ratio = 1.6
    size = students_for_ratio(ratio, effective_rank=1.0, alternative=alternative)
    df = size - 1
    predicted = ratio_power(ratio, df=df, alternative=alternative)
    assert 0.8 <= predicted < ratio_power(ratio, df=df + 5, alternative=alternative)
    assert ratio_power(ratio, df=df - 1, alternative=alternative) < 0.8
    a, b = np.random.default_rng(1).chisquare(df, (2, N))
    f = ratio * a / b
    rejected = f > stats.f.ppf(1 - ALPHA, df, df)
    if alternative == "two-sided":
        rejected = np.abs(np.log(f)) > np.log(stats.f.ppf(1 - ALPHA / 2, df, df))
    assert inside(rejected.sum(), predicted)


@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_paired_ratio(correlation):
    """Fisher's transform is an approximation: its error is allowed for by two percentage points."""
    ratio, rng = 1.5, np.random.default_rng(2)
    size = students_for_ratio(ratio, effective_rank=1.0, correlation=correlation)
    assert size < students_for_ratio(ratio, effective_rank=1.0)
    a = rng.normal(size=(N, size))
    b = correlation * a + np.sqrt(1 - correlation**2) * rng.normal(size=(N, size))
    u, d = np.sqrt(ratio) * a + b, np.sqrt(ratio) * a - b
    u, d = u - u.mean(axis=1, keepdims=True), d - d.mean(axis=1, keepdims=True)
    r = (u * d).sum(axis=1) / np.sqrt((u**2).sum(axis=1) * (d**2).sum(axis=1))
    t = r * np.sqrt((size - 2) / (1 - r**2))
    rejected = (2 * stdtr(size - 2.0, -np.abs(t)) <= ALPHA).mean()
    predicted = ratio_power(ratio, df=size - 1.0, correlation=correlation)
    assert abs(rejected - predicted) < 0.02 + stats.norm.ppf(0.995) * np.sqrt(0.16 / N)
    assert predicted >= 0.8


def test_rate():
    rng, counts = np.random.default_rng(3), np.array([1, 2, 5, 10])
    size = students_for_rate(-0.8, counts, effective_rank=2.0)
    df = np.full(4, (size - 1) * 2.0)
    variances = rng.chisquare(df, (N, 4)) / df * counts**-0.8
    rejected = sum(slope_of(counts, v, df).pvalue <= ALPHA for v in variances[:500])
    assert inside(rejected, 0.8, 500)
    assert students_for_rate(-1.0, counts, effective_rank=2.0) is None
    assert students_for_rate(-0.8, [3, 3], effective_rank=2.0) is None


def test_mean_over_students():
    rng, sd, ratio = np.random.default_rng(4), 0.3, 1.1
    size = students_for_mean(ratio, relative_sd=sd)
    values = ratio * (1 + sd * rng.normal(size=(N, size)))
    assert inside((stats.ttest_1samp(values, 1.0, axis=1).pvalue <= ALPHA).sum(), 0.8)
    assert students_for_mean(1.0, relative_sd=sd) is None


@pytest.mark.parametrize(("ratio", "n_directions"), [(1.0, 6), (1.0, 1), (2.0, 1), (0.5, 3)])
def test_sequential(ratio, n_directions):
    """The median stopping time lies within its own spread of the number at expected squares."""
    rng, steps = np.random.default_rng(5), 600
    prior = prior_of_margin(1.5)
    df = np.arange(1.0, steps) * n_directions
    q = ratio * np.cumsum(rng.chisquare(n_directions, (400, steps - 1)), axis=1)
    sides = (
        log_evalue_one_sided(q, df, prior=prior, boundary=end, alternative=side)
        for side, end in (("less", 1.5), ("greater", 1 / 1.5))
    )
    decided = np.maximum(log_evalue(q, df, prior=prior), np.minimum(*sides)) >= np.log(20)
    assert decided.any(axis=1).mean() > 0.95
    stopped = decided.argmax(axis=1) + 2
    low, high = np.quantile(stopped, [0.25, 0.75])
    assert low <= students_until_decided(ratio, n_directions=n_directions) <= high


def test_no_number_is_enough():
    assert students_for_ratio(1.0, effective_rank=2.0) is None
    assert students_for_ratio(0.5, effective_rank=2.0, alternative="greater") is None
    assert students_until_decided(1.5, n_directions=1, margin=1.01) is not None
