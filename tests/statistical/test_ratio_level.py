"""Level and power of the tests between strategies, over 40 correlated points of rank 6."""

import numpy as np
import pytest
from scipy import stats

from kdstats.hypotest.ratio import _normal, _paired_normal, _Resampling, paired_interval

N_NULL, ALPHA = 2_000, 0.05
RNG = np.random.default_rng(11)
X, X_QUERY = (np.c_[np.ones(size), RNG.normal(size=(size, 5))] for size in (60, 40))
FACTOR = X_QUERY @ np.linalg.inv(np.linalg.qr(X)[1])


def inside(n_rejected, probability=ALPHA, n=N_NULL):
    low, high = stats.binom.interval(0.99, n, probability)
    return low <= n_rejected <= high


def strategies(rng, n_students, *, rho=0.0, ratio=1.0, n_other=None, factor=FACTOR, law="normal"):
    draw = getattr(rng, law) if law != "exponential" else rng.exponential
    first, second = (draw(size=(size, factor.shape[1])) for size in (n_students, n_other or n_students))
    second = second if rho == 0.0 else rho * first + np.sqrt(1 - rho**2) * second
    a, b = np.sqrt(ratio) * first @ factor.T, second @ factor.T
    return a - a.mean(axis=0), b - b.mean(axis=0)


def n_rejected(test, rng, n=N_NULL, **options):
    return sum(test(*strategies(rng, **options), 1.0, "two-sided").pvalue <= ALPHA for _ in range(n))


@pytest.mark.parametrize("n_students", [5, 30, pytest.param(200, marks=pytest.mark.slow)])
def test_unpaired_ratio_holds_its_level(n_students):
    assert inside(n_rejected(_normal, np.random.default_rng(1), n_students=n_students))


@pytest.mark.parametrize("n_students", [5, 30, pytest.param(200, marks=pytest.mark.slow)])
def test_paired_ratio_holds_its_level_and_ignoring_the_pairs_does_not(n_students):
    rejected = n_rejected(_paired_normal, np.random.default_rng(2), n_students=n_students, rho=0.7)
    assert rejected <= stats.binom.ppf(0.995, N_NULL, ALPHA)  # the larger of two p-values: cautious with few students
    assert rejected >= stats.binom.ppf(0.005, N_NULL, ALPHA / 2)
    unpaired = n_rejected(_normal, np.random.default_rng(3), n_students=n_students, rho=0.7)
    assert not inside(unpaired)  # negative control: far too few rejections


def test_unequal_numbers_hold_their_level():
    assert inside(n_rejected(_normal, np.random.default_rng(4), n_students=8, n_other=25))


def test_counting_points_as_independent_rejects_equal_strategies():
    """Negative control: 40 times the degrees of freedom."""
    rng, rejected = np.random.default_rng(5), 0
    for _ in range(400):
        a, b = strategies(rng, 30)
        rejected += abs(np.log((a**2).sum() / (b**2).sum())) > np.log(stats.f.ppf(0.975, 29 * 40, 29 * 40))
    assert rejected > 400 * 0.3


@pytest.mark.slow
def test_intervals_cover_a_true_ratio():
    rng, ratio = np.random.default_rng(6), 3.0
    covered = np.zeros(2, dtype=int)
    for _ in range(N_NULL):
        a, b = strategies(rng, 30, ratio=ratio)
        low, high = _normal(a, b, 1.0, "two-sided").confidence_interval()
        covered[0] += low <= ratio <= high
        a, b = strategies(rng, 30, ratio=ratio, rho=0.7, factor=FACTOR[:1])
        x, y = a[:, 0], b[:, 0]
        low, high = paired_interval((x @ x) / (y @ y), (x @ y) / np.sqrt((x @ x) * (y @ y)), 28.0, 0.95)
        covered[1] += low <= ratio <= high
    assert inside(covered[0], 0.95)
    assert inside(covered[1], 0.95)


def test_power_of_a_pair_exceeds_that_of_two_samples():
    rng = np.random.default_rng(7)
    alone = n_rejected(_normal, rng, n=300, n_students=30, ratio=1.4, rho=0.0)
    paired = n_rejected(_paired_normal, rng, n=300, n_students=30, ratio=1.4, rho=0.8)
    assert alone > 300 * ALPHA * 3
    assert paired > alone + 4 * np.sqrt(300 / 4)


def resampled_rejections(method, law, *, n_students, paired, n, seed):
    rng, rejected = np.random.default_rng(seed), 0
    for _ in range(n):
        a, b = strategies(rng, n_students, law=law, rho=0.6 if paired else 0.0)
        found = _Resampling(a=a, b=b, paired=paired, n_resamples=399, rng=rng, method=method)
        rejected += found.result(1.0, "two-sided").pvalue <= ALPHA
    return rejected


@pytest.mark.slow
@pytest.mark.parametrize("law", ["normal", "laplace", "exponential"])
@pytest.mark.parametrize("paired", [False, True])
def test_permutations_hold_their_level_under_any_law(law, paired):
    """Exchanging is exact up to the centring; 40 students."""
    assert inside(resampled_rejections("permutation", law, n_students=40, paired=paired, n=300, seed=8), n=300)


def test_gaussian_law_rejects_equal_skewed_strategies():
    """Negative control of the robust methods."""
    rejected = n_rejected(_normal, np.random.default_rng(9), n=300, n_students=40, law="exponential")
    assert rejected > stats.binom.ppf(0.995, 300, ALPHA)
