"""The minimiser behind REML and ML, and designs that are not orthogonal."""

import numpy as np
import pytest

from kdstats.components.likelihood import _lowest, _minimised, _Value, fit_rows
from kdstats.errors import EstimationError


def two_minima(ratios):
    """One minimum on the boundary, at 0, and a lower one at 20."""
    x = float(ratios[0])
    curve = np.array([[2 * x - 24]])
    return _Value(
        criterion=x**3 / 3 - 12 * x**2 + 80 * x,
        gradient=np.array([(x - 4) * (x - 20)]),
        hessian=curve,
        expected=np.abs(curve) + 1.0,
    )


def test_a_minimum_on_the_boundary_is_not_believed_at_once():
    assert _minimised(two_minima, np.array([0.5]))[0] == 0.0
    assert _lowest(two_minima, np.array([0.5]))[0] == pytest.approx(20.0, rel=1e-12)


def simulated(n, seed):
    rng = np.random.default_rng(seed)
    one, other = np.indices((7, 6)).reshape(2, -1)
    counts = rng.integers(1, 4, 42).astype(float)
    means = 2 * rng.standard_normal((7, n))[one] + rng.standard_normal((6, n))[other]
    means += rng.standard_normal((42, n)) / np.sqrt(counts)[:, None]
    squares = rng.chisquare(np.maximum(counts - 1, 1e-12)[:, None], (42, n)) * (counts > 1)[:, None]
    kept = rng.random(42) < 0.8
    levels = [np.unique(level[kept], return_inverse=True)[1] for level in (other, one)]
    return levels, {"counts": counts[kept], "means": means[kept], "squares": squares[kept]}


@pytest.mark.parametrize("restricted", [True, False])
def test_scale_and_offset_change_nothing_but_the_units(restricted):
    levels, data = simulated(3, seed=1)
    plain = fit_rows(levels, names=["b", "a"], restricted=restricted, **data)
    moved = dict(data, means=1e3 * data["means"] + 7.0, squares=1e6 * data["squares"])
    for one, other in zip(plain, fit_rows(levels, names=["b", "a"], restricted=restricted, **moved), strict=True):
        np.testing.assert_allclose(other.components, 1e6 * one.components, rtol=1e-8)
        np.testing.assert_allclose(other.df, one.df, rtol=1e-7)


def test_unbounded_components_are_unbiased():
    """What intervals rest on, over 400 tables; REML itself, held at 0, need not be."""
    levels, data = simulated(400, seed=2)
    fits = fit_rows(levels, names=["b", "a"], restricted=True, **data)
    found = np.array([fit.coefficients @ fit.mean_squares for fit in fits])
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - [1.0, 4.0, 1.0]) < 4 * error).all()


def test_no_residual_is_refused():
    one, other = np.indices((4, 3)).reshape(2, -1)
    means = (np.arange(4.0)[one] + np.arange(3.0)[other] ** 2)[:, None]
    with pytest.raises(EstimationError, match="residual variance may be too near 0"):
        fit_rows(
            [other, one],
            names=["b", "a"],
            counts=np.ones(12),
            means=means,
            squares=np.zeros((12, 1)),
            restricted=True,
        )
