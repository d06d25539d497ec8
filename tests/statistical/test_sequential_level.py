"""Whatever the stopping rule: e-processes over 2,000 runs of up to 1,000 students.

Ville's inequality bounds the probability of ever rejecting by 5%, so that the number of rejections may not exceed the
99.5% quantile of the binomial law with probability 5%: 126 of 2,000.
"""

import numpy as np
import pytest
from scipy import stats

from kdstats.hypotest.evalues import (
    log_evalue,
    log_evalue_of_groups,
    log_evalue_unknown_scale,
    log_mean,
    prior_of_margin,
    ratios_of_margin,
)
from kdstats.hypotest.sequential import log_evalues
from kdstats.hypotest.sequential_ratio import log_evalues_of_groups, shares_of

N_RUNS, N_STUDENTS, MARGIN, LIMIT = 2_000, 1_000, 1.5, np.log(20.0)
MOST = stats.binom.ppf(0.995, N_RUNS, 0.05)
DF = np.arange(1.0, N_STUDENTS)
PRIOR = prior_of_margin(MARGIN)
#: Five points that vary in two directions.
FACTOR = np.random.default_rng(5).normal(size=(5, 2))


def ever(logs, n_runs=N_RUNS):
    """Runs in which the e-process ever rejects; whole runs, not students, are counted."""
    assert logs.shape[0] == n_runs
    return int((logs >= LIMIT).any(axis=1).sum())


def squares(seed, n_directions, *, ratio=1.0):
    rng = np.random.default_rng(seed)
    return ratio * np.cumsum(rng.chisquare(1, (N_RUNS, N_STUDENTS - 1, n_directions)), axis=1)


@pytest.fixture(scope="module")
def null_of_one_direction():
    q = squares(1, 1)
    return q, log_evalues(q, np.broadcast_to(DF, q.shape[:2]), prior=PRIOR, margin=MARGIN)


def test_a_true_prediction_is_never_rejected_too_often(null_of_one_direction):
    _, logs = null_of_one_direction
    assert ever(logs["equality"]) <= MOST
    assert ever(logs["beyond"]) <= MOST
    assert ever(logs["equivalence"]) > 0.99 * N_RUNS


def test_repeating_a_chi_square_test_rejects_a_true_prediction_many_times_too_often(null_of_one_direction):
    """Negative control: the same students, a test at 5% after every one of them."""
    q, _ = null_of_one_direction
    low, high = (stats.chi2.ppf(p, DF) for p in (0.025, 0.975))
    rejected = int(((q[..., 0] < low) | (q[..., 0] > high)).any(axis=1).sum())
    assert rejected > 5 * MOST


def test_an_evalue_returns_one_on_average_at_a_fixed_time():
    """E[E] = 1 after 10 students, checked with its own standard error; truncated bets only lose below the end."""
    q, df = np.random.default_rng(2).chisquare(9, 400_000)[:, None], np.full(400_000, 9.0)
    e = np.exp(log_evalues(q, df, prior=prior_of_margin(1.2), margin=1.2)["equality"])
    assert abs(e.mean() - 1.0) < 4.0 * e.std() / np.sqrt(e.size)


@pytest.mark.parametrize("ratio", [MARGIN, 1.0 / MARGIN])
def test_a_ratio_at_the_margin_is_rarely_called_equivalent(ratio):
    q = squares(3, 1, ratio=ratio)
    logs = log_evalues(q, np.broadcast_to(DF, q.shape[:2]), prior=PRIOR, margin=MARGIN)
    assert ever(logs["equivalence"]) <= MOST
    assert ever(logs["beyond"]) <= MOST
    assert ever(logs["equality"]) == N_RUNS  # power: a ratio of 1.5 is always found by student 1,000


def correlated_squares(seed, *, ratio=1.0):
    """Sums of squares of five points that vary in two directions."""
    unit = FACTOR / np.linalg.norm(FACTOR, axis=1, keepdims=True)
    scores = np.sqrt(ratio) * np.random.default_rng(seed).normal(size=(N_RUNS, N_STUDENTS - 1, 2))
    return np.cumsum((scores @ unit.T) ** 2, axis=1)


def test_averaged_bets_on_correlated_points_hold_their_level_and_pooled_ones_do_not():
    q = correlated_squares(4)
    averaged = log_mean(log_evalue(q, DF[:, None], prior=PRIOR), axis=-1)
    assert ever(averaged) <= MOST
    pooled = log_evalue(q.sum(axis=-1), 5 * DF, prior=PRIOR)
    assert ever(pooled) > 3 * MOST  # negative control: five points counted as independent


def test_averaged_bets_find_a_wrong_prediction():
    q = correlated_squares(5, ratio=1.5)
    assert ever(log_mean(log_evalue(q, DF[:, None], prior=PRIOR), axis=-1)) > 0.99 * N_RUNS


def test_shape_at_unknown_scale_holds_its_level_and_finds_another_shape():
    n = 200
    q = np.cumsum(np.random.default_rng(6).chisquare(1, (n, 199, 6)), axis=1)
    df = np.broadcast_to(np.arange(1.0, 200.0), q.shape[:2])
    assert ever(log_evalue_unknown_scale(3.7 * q, df, prior=PRIOR), n) <= stats.binom.ppf(0.995, n, 0.05)
    other = np.array([2.0, 1.0, 1.0, 0.5, 1.0, 1.5])
    assert ever(log_evalue_unknown_scale(q * other, df, prior=PRIOR), n) > 0.95 * n


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_two_strategies_with_one_unknown_variance_are_rarely_called_different(every):
    q = np.cumsum(np.random.default_rng(7).chisquare(1, (N_RUNS, N_STUDENTS - 1, 2)), axis=1)[:, ::every]
    shares, df = q[..., :1] / q.sum(axis=-1, keepdims=True), DF[::every]
    assert ever(log_evalue_of_groups(shares, df, df, log_ratios=ratios_of_margin(MARGIN))) <= MOST
    f = q[..., 0] / q[..., 1]
    repeated = (np.abs(np.log(f)) > np.log(stats.f.ppf(0.975, df, df))).any(axis=1).sum()
    assert repeated > 5 * MOST  # negative control: an F test after every pair of students


def scatters(seed, *, ratio=1.0, every=5, n=N_RUNS):
    """Scatter matrices of three correlated directions of unknown covariance, after every fifth pair of students."""
    rng = np.random.default_rng(seed)
    total, found = np.zeros((n, 2, 3, 3)), []
    mix = np.eye(3) + 0.8 * np.tri(3, k=-1)
    for student in range(1, N_STUDENTS):
        z = rng.normal(size=(n, 2, 3)) @ mix
        z[:, 0] *= np.sqrt(ratio)
        total = total + z[..., :, None] * z[..., None, :]
        if student % every == 0:
            found.append(total)
    return np.stack(found, axis=1), np.arange(every, N_STUDENTS, every).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, MARGIN, 1.0 / MARGIN])
def test_two_strategies_with_any_common_covariance_hold_their_levels(ratio):
    scatter, df = scatters(8, ratio=ratio)
    logs = log_evalues_of_groups(scatter, df, log_ratios=ratios_of_margin(MARGIN), margin=MARGIN)
    if ratio == 1.0:
        assert ever(logs["equality"]) <= MOST
        assert ever(logs["equivalence"]) > 0.99 * N_RUNS
    else:
        assert ever(logs["equivalence"]) <= MOST
        assert ever(logs["equality"]) > 0.99 * N_RUNS
    assert ever(logs["beyond"]) <= MOST


def test_two_strategies_of_three_directions():
    """As above with fewer runs; the likelihood ratio at theta is a fair bet for any common covariance."""
    n = 300
    scatter, df = scatters(9, every=20, n=n)
    logs = log_evalues_of_groups(scatter, df, log_ratios=ratios_of_margin(MARGIN), margin=MARGIN)
    assert ever(logs["equality"], n) <= stats.binom.ppf(0.995, n, 0.05)
    e = np.exp(log_evalue_of_groups(shares_of(scatter[:, 0]), 20.0, 20.0, log_ratios=(0.1,)))
    assert abs(e.mean() - 1.0) < 4.0 * e.std() / np.sqrt(n)
