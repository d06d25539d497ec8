"""Distribution of quadratic forms against scipy, and against numerical convolution."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from hypothesis import example, given, settings, strategies as st

import kdstats as kd
from kdstats.prediction.closed_form import QuadraticForm


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 20, 101])
@pytest.mark.parametrize("noncentrality", [0.0, 1e-8, 0.3, 25.0, 4000.0])
@pytest.mark.parametrize("weight", [1e-6, 1.0, 300.0])
def test_equal_weights_against_scipy(degrees, noncentrality, weight):
    shifts = np.linspace(0, 2, degrees) / max(1, degrees) * noncentrality if degrees > 1 else np.array([noncentrality])
    form = QuadraticForm(np.full(degrees, weight), shifts)
    law = scipy.stats.ncx2(degrees, shifts.sum()) if shifts.sum() > 0 else scipy.stats.chi2(degrees)
    levels = np.array([0.001, 0.05, 0.3, 0.5, 0.8, 0.99, 0.9999])
    x = law.ppf(levels) * weight
    np.testing.assert_allclose(form.cdf(x), law.cdf(x / weight), rtol=0, atol=2e-10)
    np.testing.assert_allclose(form.sf(x), law.sf(x / weight), rtol=0, atol=2e-10)
    np.testing.assert_allclose(form.pdf(x) * weight, law.pdf(x / weight), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(form.quantile(levels), x, rtol=1e-6)
    assert form.mean == pytest.approx(weight * law.mean(), rel=1e-12)
    assert form.variance == pytest.approx(weight**2 * law.var(), rel=1e-12)


@pytest.mark.parametrize("degrees", [1, 2, 7, 40])
def test_far_upper_tail_against_scipy(degrees):
    form = QuadraticForm(np.ones(degrees), np.zeros(degrees))
    law = scipy.stats.chi2(degrees)
    for level in (1e-6, 1e-15, 1e-30, 1e-100):
        x = law.isf(level)
        assert form.sf(x) == pytest.approx(law.sf(x), rel=1e-8)
        assert form.cdf(x) == pytest.approx(1.0 - level, abs=1e-12)


@pytest.mark.parametrize("degrees", [1, 2, 7, 40])
def test_far_lower_tail_against_scipy(degrees):
    form = QuadraticForm(np.ones(degrees), np.zeros(degrees))
    law = scipy.stats.chi2(degrees)
    for level in (1e-4, 1e-8, 1e-15, 1e-30):
        x = law.ppf(level)
        assert form.cdf(x) == pytest.approx(law.cdf(x), rel=1e-8)


@pytest.mark.parametrize("weights", [(1.0, 3.0), (1.0, 1e-3), (5.0, 4.99)])
@pytest.mark.parametrize("shifts", [(0.0, 0.0), (2.0, 0.5)])
def test_two_weights_against_convolution(weights, shifts):
    form = QuadraticForm(weights, shifts)

    def both(x):  # with z = t^2 the density of the first variable has no pole
        def integrand(t):
            first = np.exp(-0.5 * (t - np.sqrt(shifts[0])) ** 2) + np.exp(-0.5 * (t + np.sqrt(shifts[0])) ** 2)
            rest = np.sqrt(max(x - weights[0] * t * t, 0.0) / weights[1])
            centre = np.sqrt(shifts[1])
            return (
                first
                / np.sqrt(2 * np.pi)
                * (scipy.stats.norm.cdf(rest - centre) - scipy.stats.norm.cdf(-rest - centre))
            )

        edge = np.sqrt(x / weights[0])
        near = edge * np.sqrt(1 - min(1.0, 30 * weights[1] / x)) if x > 0 else 0.0
        parts = [
            scipy.integrate.quad(integrand, a, b, epsabs=1e-13, epsrel=1e-12, limit=400)[0]
            for a, b in ((0, near), (near, edge))
        ]
        return sum(parts)

    for x in (0.05, 0.7, 3.0, 9.0, 20.0):
        assert form.cdf(x) == pytest.approx(both(x), abs=2e-9)
        assert form.cdf(x) + form.sf(x) == pytest.approx(1.0, abs=1e-14)


positive = st.floats(1e-4, 1e4)


@given(st.lists(st.tuples(positive, st.floats(0, 1e4)), min_size=1, max_size=8), st.floats(-5, 5))
@example([(1e-4, 0.0)], 2.0)  # the quantile is far smaller than the rounding of the offset
@example([(0.0625, 0.0)], -1.0)  # everything lies below 0
@example([(1.0, 0.0), (1.0, 0.0)], -2.2250738585072014e-308)  # an excess at the end of the number range
@settings(max_examples=20, deadline=None)
def test_distribution_function_is_one(parts, offset):
    weights, shifts = np.array(parts).T
    form = QuadraticForm(weights, shifts, offset=offset)
    x = form.mean + form.sd * np.linspace(-3, 8, 23)
    cdf, sf, pdf = form.cdf(x), form.sf(x), form.pdf(x)
    assert (np.diff(cdf) >= -1e-10).all()
    assert (np.diff(sf) <= 1e-10).all()
    assert (pdf >= 0).all()
    assert (cdf >= 0).all()
    assert (cdf <= 1).all()
    np.testing.assert_allclose(cdf + sf, 1.0, atol=1e-13)
    assert not cdf[x <= offset].any()
    for level in (0.01, 0.5, 0.999):
        assert form.cdf(form.quantile(level)) == pytest.approx(level, abs=1e-8)


def test_density_is_the_slope():
    form = QuadraticForm([1.0, 0.2, 0.05], [3.0, 0.0, 1.0], offset=0.5)
    for x in (1.0, 3.0, 8.0):
        step = 1e-3
        slope = (form.cdf(x - 2 * step) - 8 * form.cdf(x - step) + 8 * form.cdf(x + step) - form.cdf(x + 2 * step)) / (
            12 * step
        )
        assert form.pdf(x) == pytest.approx(slope, rel=1e-6)


def test_huge_noncentrality_is_gaussian():
    form = QuadraticForm([1e-3], [1e9])
    z = np.array([-3.0, -1.0, 0.0, 2.0])
    exact = scipy.stats.norm.cdf(np.sqrt((form.mean + z * form.sd) / 1e-3) - np.sqrt(1e9))
    np.testing.assert_allclose(form.cdf(form.mean + z * form.sd), exact, atol=1e-9)


def test_tiny_weights_beside_large_ones():
    law = scipy.stats.chi2(1)
    form = QuadraticForm([1.0, 1e-12], [0.0, 0.0])
    x = law.ppf([0.1, 0.5, 0.9])
    np.testing.assert_allclose(form.cdf(x), law.cdf(x), atol=1e-9)
    many = QuadraticForm(np.geomspace(1, 1e-9, 300), np.zeros(300))
    assert many.cdf(many.quantile(0.9)) == pytest.approx(0.9, abs=1e-9)


def test_constant():
    form = QuadraticForm([], [], offset=2.0)
    assert (form.mean, form.variance, form.quantile(0.3)) == (2.0, 0.0, 2.0)
    np.testing.assert_array_equal(form.cdf([1.9, 2.0, 2.1]), [0, 1, 1])
    np.testing.assert_array_equal(form.sf([1.9, 2.0, 2.1]), [1, 0, 0])


def test_edges():
    form = QuadraticForm([1.0, 2.0], [0.0, 1.0], offset=1.0)
    np.testing.assert_array_equal(form.cdf([-np.inf, 0.0, 1.0, np.inf]), [0, 0, 0, 1])
    np.testing.assert_array_equal(form.sf([-np.inf, 0.0, 1.0, np.inf]), [1, 1, 1, 0])
    assert isinstance(form.cdf(2.0), float)
    assert form.cdf(np.full((2, 3), 2.0)).shape == (2, 3)
    assert np.isnan(form.cdf(np.nan))
    assert np.isnan(form.pdf(np.nan))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0], [1.0]), "`weights` must be positive"),
        (([-1.0], [1.0]), "`weights` must be positive"),
        (([1.0], [-1.0]), "`weights` must be positive"),
        (([np.nan], [1.0]), "`weights` must be positive"),
        (([1.0, 2.0], [1.0]), r"`noncentrality` must have shape \(2,\); got shape \(1,\)"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(kd.errors.ProblemError, match=message):
        QuadraticForm(*arguments)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, np.nan, "half"])
def test_quantile_refuses(level):
    with pytest.raises(kd.errors.ProblemError, match="`probability` must"):
        QuadraticForm([1.0], [0.0]).quantile(level)
