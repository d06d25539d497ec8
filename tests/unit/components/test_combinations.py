"""Intervals of combinations of mean squares, against exact ones where there are any."""

import numpy as np
import pytest
from scipy.stats import chi2, f

from kdstats.components.combinations import combination_interval, ratio_interval

S, R = 12, 4
SQUARES, DF = np.array([5.0, 1.3]), np.array([S - 1.0, S * (R - 1.0)])
INTER, TOTAL = np.array([1 / R, -1 / R]), np.array([1 / R, 1 - 1 / R])


@pytest.mark.parametrize("prob", [0.8, 0.95])
def test_one_mean_square_has_its_chi_square_interval(prob):
    low, high = combination_interval(np.array([2.0]), SQUARES[:1], DF[:1], prob=prob)
    tail = (1 - prob) / 2
    assert low == pytest.approx(2 * 5 * DF[0] / chi2.isf(tail, DF[0]))
    assert high == pytest.approx(2 * 5 * DF[0] / chi2.ppf(tail, DF[0]))


def test_the_share_of_one_source_has_the_exact_f_interval():
    found = ratio_interval(INTER, TOTAL, SQUARES, DF, prob=0.95)
    ratios = SQUARES[0] / SQUARES[1] / f.ppf([0.975, 0.025], *DF)
    np.testing.assert_allclose(found, (ratios - 1) / (ratios - 1 + R), rtol=1e-12)


def test_a_difference_excludes_0_where_the_f_test_rejects():
    critical = f.isf(0.025, *DF)
    for factor, excluded in ((1 + 1e-9, True), (1 - 1e-9, False)):
        squares = np.array([critical * factor * 1.3, 1.3])
        assert (combination_interval(INTER, squares, DF, prob=0.95)[0] > 0) == excluded


def test_signs_mirror_and_points_are_separate():
    squares = np.stack([SQUARES, 3 * SQUARES], axis=1)
    found = combination_interval(INTER[:, None], squares, DF[:, None], prob=0.9)
    np.testing.assert_allclose(found[1], 3 * found[0], rtol=1e-12)
    mirrored = combination_interval(-INTER[:, None], squares, DF[:, None], prob=0.9)
    np.testing.assert_allclose(mirrored, -found[:, ::-1], rtol=1e-12)


def test_a_share_of_nothing_is_unknown():
    bounds = ratio_interval(INTER, INTER, np.array([1.0, 2.0]), DF, prob=0.95)
    assert np.isnan(bounds).all()
