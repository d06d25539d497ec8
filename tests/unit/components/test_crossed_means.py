"""Means over students and inputs: jackknife contributions against leaving out, intervals against known ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdstats.components.crossed_means import (
    CrossedMean,
    crossed_contrast,
    crossed_mean,
    mean_interval,
    pair_contributions,
    rate_interval,
)


def _pair_product(vectors):
    n = len(vectors)
    return np.mean([vectors[s] @ vectors[t] for s in range(n) for t in range(n) if s != t])


def test_pair_contributions_are_jackknife_pseudo_values():
    vectors = np.random.default_rng(1).normal(size=(5, 3, 4))
    found = pair_contributions(vectors)
    for i in range(3):
        own = vectors[:, i]
        whole = _pair_product(own)
        left = [_pair_product(np.delete(own, s, axis=0)) for s in range(5)]
        assert found[:, i] == pytest.approx([5 * whole - 4 * each for each in left])
        assert found[:, i].mean() == pytest.approx(whole)


def test_two_students_give_the_product_alone():
    vectors = np.random.default_rng(2).normal(size=(2, 3, 4))
    expected = np.einsum("id,id->i", *vectors)
    assert pair_contributions(vectors) == pytest.approx(np.stack([expected, expected]))


def test_without_student_effects_the_error_is_that_over_inputs():
    one = np.random.default_rng(3).normal(size=12)
    mean = crossed_mean(np.stack([one, one, one]))
    assert (mean.standard_error, mean.df) == (pytest.approx(one.std(ddof=1) / np.sqrt(12)), pytest.approx(11))


def test_without_input_effects_the_error_is_that_over_students():
    one = np.random.default_rng(3).normal(size=6)
    mean = crossed_mean(np.repeat(one[:, None], 9, axis=1))
    assert (mean.standard_error, mean.df) == (pytest.approx(one.std(ddof=1) / np.sqrt(6)), pytest.approx(5))


def test_contrast_pairs_inputs():
    rng = np.random.default_rng(4)
    inputs = 100 * rng.normal(size=40)
    one, other = (inputs + rng.normal(size=(5, 40)) for _ in range(2))
    paired = crossed_contrast(one + 1.0, other)
    alone = crossed_mean(one)
    assert abs(paired.estimate - 1.0) < 4 * paired.standard_error
    assert paired.standard_error < 0.1 * alone.standard_error


def test_rate_of_many_independent_answers_is_clopper_pearson():
    mean = CrossedMean(estimate=0.1, standard_error=np.sqrt(0.09 / 200), df=1e9)
    exact = stats.binomtest(20, 200).proportion_ci(0.95, method="exact")
    assert rate_interval(mean, 0.95, n_inputs=200) == pytest.approx((exact.low, exact.high), rel=1e-6)


@pytest.mark.parametrize(("rate", "index"), [(0.0, 0), (1.0, 1)])
def test_a_rate_at_its_end_counts_inputs(rate, index):
    mean = crossed_mean(np.full((5, 30), rate))
    bounds = rate_interval(mean, 0.95, n_inputs=30)
    assert bounds[index] == rate
    assert abs(bounds[1 - index] - rate) == pytest.approx(1 - 0.025 ** (1 / 30))


def test_nan_stays():
    mean = crossed_mean(np.full((3, 4), np.nan))
    assert np.isnan(mean.estimate)
    assert np.isnan(rate_interval(mean, 0.95, n_inputs=4)).all()
    assert np.isnan(mean_interval(mean, 0.95)).all()
