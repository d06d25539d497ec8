import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_allclose, assert_array_equal

from kdstats.components.estimation import estimate_components
from kdstats.components.result import COMPONENTS

pytestmark = pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")

#: Multiples of 1/64 below 16: sums and shifts of them are exact in float64.
GRID = st.integers(-1024, 1024).map(lambda i: i / 64)
REPLICATES = st.tuples(st.integers(2, 6), st.integers(2, 4), st.integers(1, 3), st.integers(1, 2))


@st.composite
def tables(draw):
    """Predictions and, for one replicate, the students' own variances."""
    shape = draw(REPLICATES)
    if draw(st.booleans()):
        return draw(hnp.arrays(float, shape, elements=GRID)), None
    shape = (shape[0], 1, *shape[2:])
    variances = draw(hnp.arrays(float, (shape[0], *shape[2:]), elements=GRID.map(abs)))
    return draw(hnp.arrays(float, shape, elements=GRID)), variances


def size_of(components):
    return float(np.abs(components.mean_squares["between"]).max() + np.abs(components.mean_squares["within"]).max())


def assert_close(first, second, *, factor=1.0):
    tolerance = 1e-9 * factor * size_of(second) + 1e-300
    for name in COMPONENTS:
        assert_allclose(first.estimate[name], factor * second.estimate[name], atol=tolerance, rtol=0)
        assert_allclose(first.standard_error[name], factor * second.standard_error[name], atol=tolerance, rtol=0)


@given(tables(), hnp.arrays(float, (3, 2), elements=st.integers(-(10**6), 10**6).map(float)))
@settings(deadline=None, max_examples=60)
def test_shift_changes_no_bit(table, shift):
    y, v = table
    moved = y + shift[: y.shape[2], : y.shape[3]]
    first, second = estimate_components(y, variances=v), estimate_components(moved, variances=v)
    for name in COMPONENTS:
        assert_array_equal(first.estimate[name], second.estimate[name])
        assert_array_equal(first.standard_error[name], second.standard_error[name])


@given(tables(), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=60)
def test_scale_enters_squared(table, scale):
    y, v = table
    scaled = estimate_components(scale * y, variances=None if v is None else scale**2 * v)
    assert_close(scaled, estimate_components(y, variances=v), factor=scale**2)


@given(tables(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_order_of_students_points_and_replicates_does_not_matter(table, random):
    y, v = table
    order = [random.sample(range(n), n) for n in y.shape]
    shuffled = estimate_components(
        y[np.ix_(*order)], variances=None if v is None else v[np.ix_(order[0], *order[2:])], point_labels=order[2]
    )
    first = estimate_components(y, variances=v)
    back = shuffled.estimate.sel(point=first.total.point.values).isel(output=np.argsort(order[3]))
    for name in COMPONENTS:
        assert_allclose(back[name].values, first.estimate[name].values, atol=1e-12 * size_of(first) + 1e-300, rtol=0)
    assert_allclose(shuffled.average().total.item(), first.average().total.item(), atol=1e-12 * size_of(first) + 1e-300)
    assert_allclose(shuffled.attrs["effective_rank"], first.attrs["effective_rank"], rtol=1e-6)


@given(tables())
@settings(deadline=None, max_examples=60)
def test_total_is_the_sum_and_labels_survive(table):
    y, v = table
    labels = [("point", index) for index in range(y.shape[2])]
    c = estimate_components(y, variances=v, point_labels=labels)
    assert_allclose(c.total, c.inter_student + c.intra_student, atol=1e-12 * size_of(c) + 1e-300)
    assert (c.intra_student >= 0).all()
    assert list(c.interval().point.values) == labels
    assert list(c.to_dataframe()["point"].unique()) == labels
    assert list(c.student_predictions.point.values) == labels


@given(tables())
@settings(deadline=None, max_examples=60)
def test_interval_contains_the_estimate_and_grows_with_prob(table):
    y, v = table
    c = estimate_components(y, variances=v)
    narrow, wide = c.interval(0.6), c.interval(0.99)
    for name in COMPONENTS:
        for bounds in (narrow, wide):
            assert np.isfinite(bounds[name]).all()
        slack = 1e-9 * size_of(c)
        assert (wide[name].sel(ci_bound="lower") <= narrow[name].sel(ci_bound="lower") + slack).all()
        assert (wide[name].sel(ci_bound="upper") >= narrow[name].sel(ci_bound="upper") - slack).all()
        assert (wide[name].sel(ci_bound="lower") <= c.estimate[name] + slack).all()
        assert (wide[name].sel(ci_bound="upper") >= c.estimate[name] - slack).all()


@given(tables())
@settings(deadline=None, max_examples=40)
def test_labelled_and_plain_input_agree(table):
    y, v = table
    labelled = xr.DataArray(y, dims=("student", "replicate", "point", "output"))
    turned = labelled.transpose("point", "output", "replicate", "student")
    assert_close(estimate_components(turned, variances=v), estimate_components(y, variances=v))
