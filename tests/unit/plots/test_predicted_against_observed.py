import numpy as np
import pytest

from kdstats.errors import EstimationError
from kdstats.plots import predicted_against_observed
from kdstats.prediction.closed_form.engine import predict


def split(axes, artists):
    return [artists(axes, gid)[0] for gid in ("covered", "missed")]


def test_every_point_is_drawn_once_at_its_two_values(predicted, observed, artists):
    covered, missed = split(predicted_against_observed(predicted, observed).axes[0], artists)
    drawn = sorted(zip(*(np.r_[covered.get_data()[i], missed.get_data()[i]] for i in (0, 1)), strict=True))
    assert drawn == sorted(
        zip(predicted.inter_student.values.ravel(), observed.inter_student.values.ravel(), strict=True)
    )


def test_misses_are_the_intervals_that_leave_out_the_prediction(predicted, observed, artists):
    prob = 0.5
    figure = predicted_against_observed(predicted, observed, prob=prob)
    bounds = observed.interval(prob)["inter_student"].values[:, 0]
    x = predicted.inter_student.values[:, 0]
    outside = (x < bounds[:, 0]) | (x > bounds[:, 1])
    assert 0 < outside.sum() < x.size
    _, missed = split(figure.axes[0], artists)
    assert sorted(missed.get_xdata()) == sorted(x[outside])
    assert f"misses it: {outside.sum()}, about 6 expected" in [
        text.get_text() for text in figure.legends[0].get_texts()
    ]
    (bars,) = artists(figure.axes[0], "interval-missed")
    np.testing.assert_allclose([segment[:, 1] for segment in bars.get_segments()], bounds[outside])


def test_a_wrong_theory_misses_and_the_words_say_so(problem, observed):
    wrong = predict(problem.with_teacher(noise_variance=4.0))
    words = predicted_against_observed(wrong, observed).get_label()
    assert "12 of 12 intervals (95%) leave out the prediction" in words


def test_the_identity_spans_the_axes(predicted, observed, artists):
    axes = predicted_against_observed(predicted, observed).axes[0]
    (line,) = artists(axes, "identity")
    assert list(line.get_xdata()) == list(line.get_ydata()) == list(axes.get_xlim())
    assert axes.get_xlim() == axes.get_ylim()


@pytest.mark.parametrize("component", ["inter_student", "intra_student", "total"])
def test_each_component_can_be_drawn(predicted, observed, component):
    axes = predicted_against_observed(predicted, observed, component=component, unit="K").axes[0]
    assert axes.get_xlabel() == "Predicted variance [K²]"
    assert axes.get_ylabel() == f"Observed variance, engine {observed.engine} [K²]"


def test_other_points_are_refused(problem, observed):
    other = predict(problem.with_design(X_query=problem.X_query[:5], point_labels=None))
    with pytest.raises(EstimationError, match="point labels of predicted"):
        predicted_against_observed(other, observed)


def test_grids_are_refused(noise_grid, observed):
    with pytest.raises(EstimationError, match="no leading dims"):
        predicted_against_observed(noise_grid, observed)
