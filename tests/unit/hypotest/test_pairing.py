import dataclasses

import numpy as np
import pytest
import xarray as xr

import kdstats as kd
from kdstats.errors import ComparisonError
from kdstats.hypotest.pairing import estimated_rank, pair

LABELS = ("a", "b", "c")


def test_points_are_aligned_by_label(make_predicted, make_observed, with_variance):
    values = with_variance([1.0, 2.0, 3.0])
    straight = pair(make_predicted([1.0, 2.0, 3.0], labels=LABELS), make_observed(values, labels=LABELS))
    turned = pair(make_predicted([1.0, 2.0, 3.0], labels=LABELS), make_observed(values[:, ::-1], labels=LABELS[::-1]))
    np.testing.assert_array_equal(straight.observed.between, turned.observed.between)
    np.testing.assert_array_equal(straight.observed.predictions, turned.observed.predictions)
    assert turned.labels[0] == ("a", 0)


def test_tuple_labels_are_aligned(make_predicted, make_observed, with_variance):
    labels = [("x", 1), ("x", 2)]
    found = pair(
        make_predicted([1.0, 2.0], labels=labels), make_observed(with_variance([2.0, 1.0]), labels=labels[::-1])
    )
    np.testing.assert_allclose(found.observed.between[:, 0], [1.0, 2.0])


def test_first_differing_label_is_named(make_predicted, make_observed, with_variance):
    with pytest.raises(ComparisonError, match=r"the first that differs is predicted 'b' at position 1, .* has 'B'"):
        pair(make_predicted([1.0] * 3, labels=LABELS), make_observed(with_variance([1.0] * 3), labels=("a", "B", "c")))
    with pytest.raises(ComparisonError, match=r"3 predicted and 2 observed, with 'c' on one side only"):
        pair(make_predicted([1.0] * 3, labels=LABELS), make_observed(with_variance([1.0] * 2), labels=LABELS[:2]))


def test_outputs_must_be_the_same(make_predicted, make_observed):
    with pytest.raises(ComparisonError, match=r"must have the outputs of the prediction \(\[0\]\); got \[0, 1\]"):
        pair(make_predicted([1.0]), make_observed(np.random.default_rng(0).normal(size=(9, 1, 2))))


def test_swapped_and_equal_kinds_are_refused(make_predicted, make_observed, with_variance):
    predicted, observed = make_predicted([1.0]), make_observed(with_variance([1.0]))
    with pytest.raises(ComparisonError, match="must not be swapped; got an observation \\(linear\\) as the prediction"):
        pair(observed, predicted)
    with pytest.raises(ComparisonError, match="got two predictions"):
        pair(predicted, predicted)
    with pytest.raises(ComparisonError, match="got two observations"):
        pair(observed, observed)
    with pytest.raises(ComparisonError, match="`observed` must be VarianceComponents; got a float"):
        pair(predicted, 1.0)


def test_too_few_students(make_predicted, make_observed, with_variance):
    observed = make_observed(with_variance([1.0]), n_students=1)
    with pytest.raises(ComparisonError, match="at least 2 students to be tested; got 1"):
        pair(make_predicted([1.0]), observed)


def test_grid_of_cells_is_refused(make_observed, with_variance):
    grid = kd.VarianceComponents.from_arrays(
        inter_student=np.ones((2, 1, 1)),
        intra_student=0.0,
        point_labels=[0],
        leading={"n_responses": [1, 2]},
        attrs={"engine": "closed_form", "exactness": "exact"},
    )
    with pytest.raises(ComparisonError, match="one cell of a grid; got the leading dims n_responses"):
        pair(grid, make_observed(with_variance([1.0])))


def test_missing_mean_squares_and_nan_are_refused(make_predicted, make_observed, with_variance):
    observed = make_observed(with_variance([1.0]))
    with pytest.raises(ComparisonError, match="keep its mean_squares"):
        pair(make_predicted([1.0]), dataclasses.replace(observed, mean_squares=None))
    with pytest.raises(ComparisonError, match=r"`predicted.inter_student` must be finite; got 1 values"):
        pair(make_predicted([np.nan]), observed)


def test_rank_prefers_the_spectrum_then_the_prediction_then_the_observation(
    make_predicted, make_observed, with_variance
):
    covariance = np.array([[[2.0, 1.0], [1.0, 2.0]]])
    observed = make_observed(with_variance([2.0, 2.0]), effective_rank=1.1)
    full = pair(make_predicted([2.0, 2.0], covariance=covariance, effective_rank=9.0), observed).rank
    assert (full.value, full.source) == (pytest.approx(16 / 10), "predicted")
    np.testing.assert_allclose(sorted(full.weights), [0.25, 0.75])
    assert pair(make_predicted([2.0, 2.0], effective_rank=1.6), observed).rank.value == 1.6
    given = pair(make_predicted([2.0, 2.0], effective_rank=None), observed).rank
    assert (given.value, given.source) == (1.1, "observed")
    eigenvalues = pair(make_predicted([2.0, 2.0], covariance_eigenvalues=[1.0, 1.0, 1e-20]), observed).rank
    assert eigenvalues.value == pytest.approx(2.0)


def test_rank_falls_back_on_the_cautious_bound(make_predicted, make_observed, with_variance):
    observed = make_observed(with_variance([2.0, 2.0]), keep=False)
    rank = pair(make_predicted([2.0, 2.0], effective_rank=None), observed).rank
    assert rank.value == 1.0
    assert "lower bound" in rank.source


def test_sampled_outputs_raise_the_rank(make_predicted, make_observed, with_variance):
    """C + D/r with independent D: the shortcut from the rank alone equals the eigenvalues."""
    covariance = np.array([[[2.0, 1.9], [1.9, 2.0]]])
    observed = make_observed(with_variance([3.0, 3.0]), within=[[2.0], [2.0]], n_replicates=2)
    with_spectrum = pair(make_predicted([2.0, 2.0], covariance=covariance), observed).rank.value
    plain = 16.0 / (covariance**2).sum()
    shortcut = pair(make_predicted([2.0, 2.0], effective_rank=plain), observed).rank.value
    assert shortcut == pytest.approx(with_spectrum)
    assert shortcut > plain


def test_estimated_rank_is_unbiased_enough_where_the_plug_in_is_not():
    rng, n, m = np.random.default_rng(3), 20, 30
    estimates, plug_in = [], []
    for _ in range(400):
        values = rng.normal(size=(n, m))
        estimates.append(1 / estimated_rank(values))
        spectrum = np.linalg.eigvalsh(np.cov(values))
        plug_in.append((spectrum**2).sum() / spectrum.sum() ** 2)
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - 1 / m) < 4 * error + 1 / (n * m)
    assert np.mean(plug_in) > 2 / m
    assert estimated_rank(np.zeros((5, 3))) is None


def test_different_problems_are_noted_not_refused(make_predicted, make_observed, with_variance):
    one = pair(make_predicted([1.0], problem="a" * 64), make_observed(with_variance([1.0]), problem="b" * 64))
    assert one.notes == ("the two answer different problems (fingerprints aaaaaaaa and bbbbbbbb)",)
    assert pair(make_predicted([1.0], problem="a"), make_observed(with_variance([1.0]), problem="a")).notes == ()


def test_recorded_standard_error_of_the_average_is_used(make_predicted, make_observed, with_variance):
    observed = make_observed(
        with_variance([1.0, 1.0]),
        within=1.0,
        within_se=0.5,
        n_replicates=2,
        average_standard_error={"intra_student": 0.1},
    )
    assert pair(make_predicted([1.0, 1.0]), observed).observed.within_se_of_mean == 0.1
    predicted = make_predicted([1.0, 1.0], se=0.3, average_standard_error={"inter_student": 0.2}, exactness="simulated")
    assert pair(predicted, observed).inter_se_of_mean == 0.2
    assert isinstance(observed.mean_squares, xr.Dataset)


def test_one_output_matches_whatever_it_is_called(make_predicted, make_observed, with_variance):
    observed = make_observed(with_variance([3.0], 40))
    called = kd.decompose(observed.student_predictions.assign_coords(output=["score"]), replicate=None, variances=0)
    assert kd.equality_test(make_predicted([3.0]), called).statistic == pytest.approx(1.0)
