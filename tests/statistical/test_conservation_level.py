"""Level of the conservation test: totals of linear and tabular students, 2,000 null experiments of 200 students."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import stdtr

from kdstats.hypotest.conservation import _welch

N_NULL, S, ALPHA = 2_000, 200, 0.05
PROBABILITIES = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
LOW, HIGH = stats.binom.interval(0.99, N_NULL, ALPHA)


def totals(distance, own):
    """Average totals and standard errors as the estimation gives them, from (N, S) distances and own variances."""
    summands = distance * (S / np.sqrt((S - 1.0) * (S - 2.0))) + own
    return distance.sum(axis=1) / (S - 1) + own.mean(axis=1), summands.std(axis=1, ddof=1) / np.sqrt(S)


def tabular(rng, k):
    share = rng.multinomial(k, PROBABILITIES, size=(N_NULL, S)) / k
    return totals(((share - share.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1), 1 - (share**2).sum(axis=-1))


def linear(rng, n=20, p=4):
    """At the training points: p coordinates in the column space, n - p residual ones."""
    fit = rng.normal(size=(N_NULL, S, p))
    residual = rng.chisquare(n - p, size=(N_NULL, S))
    return totals(((fit - fit.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1) / n, residual / n)


def welch(samples):
    value, error = (np.stack(part, axis=1) for part in zip(*samples, strict=True))
    df = np.full(len(samples), S - 1.0)
    return np.array([_welch(np.log(v), e / v, df)[3] for v, e in zip(value, error, strict=True)])


@pytest.mark.parametrize("counts", [(1, 5), (1, 2, 5, 20)])
def test_tabular_totals_hold_the_level(counts):
    rng = np.random.default_rng(1)
    assert LOW <= (welch([tabular(rng, k) for k in counts]) <= ALPHA).sum() <= HIGH


def test_linear_totals_against_the_noise_variance():
    value, error = linear(np.random.default_rng(2))
    pvalues = 2 * stdtr(S - 1.0, -np.abs(np.log(value) / (error / value)))
    assert LOW <= (pvalues <= ALPHA).sum() <= HIGH


def test_adding_variances_of_independent_parts_is_wrong_for_tabular_students():
    """Negative control: a student far from the others has little variance of its own, the errors do not add."""
    rng, k = np.random.default_rng(3), 2
    share = rng.multinomial(k, PROBABILITIES, size=(N_NULL, S)) / k
    distance = ((share - share.mean(axis=1, keepdims=True)) ** 2).sum(axis=-1)
    own = 1 - (share**2).sum(axis=-1)
    value = distance.sum(axis=1) / (S - 1) + own.mean(axis=1)
    naive = np.sqrt((distance.var(axis=1, ddof=1) + own.var(axis=1, ddof=1)) / S)
    gini = 1 - (PROBABILITIES**2).sum()
    rejected = (2 * stdtr(S - 1.0, -np.abs((value - gini) / naive)) <= ALPHA).sum()
    assert not LOW <= rejected <= HIGH


def test_another_teacher_is_found():
    rng = np.random.default_rng(4)
    value, error = tabular(rng, 5)
    assert (np.abs(np.log(value / 0.75)) / (error / value) > 1.96).mean() > 0.5
