import numpy as np
import pytest

from kdstats.components.estimation import estimate_components
from kdstats.errors import EstimationError
from kdstats.observation.linear import observe
from kdstats.plots import convergence


def test_the_last_step_is_the_observation_itself(observed, artists):
    axes = convergence(observed, prob=0.8).axes[0]
    (line,), (band,) = artists(axes, "running"), artists(axes, "interval")
    average = observed.average()
    assert line.get_xdata()[-1] == observed.n_students
    assert line.get_ydata()[-1] == pytest.approx(average.inter_student.item(), rel=1e-12)
    last = band.get_paths()[0].vertices
    ends = last[last[:, 0] == observed.n_students][:, 1]
    bounds = average.interval(0.8)["inter_student"].values.ravel()
    assert ends.min() == pytest.approx(bounds[0], rel=1e-12)
    assert ends.max() == pytest.approx(bounds[1], rel=1e-12)


def test_each_step_knows_only_the_students_so_far(observed, artists):
    (line,) = artists(convergence(observed).axes[0], "running")
    values = observed.student_predictions.values
    for count, height in list(zip(*line.get_data(), strict=True))[::7]:
        assert height == pytest.approx(np.var(values[: int(count)], axis=0, ddof=1).mean(), rel=1e-12)


def test_the_prediction_is_a_line(predicted, observed, artists):
    (line,) = artists(convergence(observed, predicted=predicted).axes[0], "predicted")
    assert line.get_ydata()[0] == pytest.approx(predicted.inter_student.mean().item(), rel=1e-12)


def test_means_of_sampled_outputs_keep_their_share_of_intra(predicted, artists):
    rng = np.random.default_rng(1)
    table = estimate_components(3 * rng.normal(size=(40, 1, 12)) + rng.normal(size=(40, 4, 12)))
    axes = convergence(table, predicted=predicted).axes[0]
    (line,), (running,) = artists(axes, "predicted"), artists(axes, "running")
    assert line.get_ydata()[0] == pytest.approx((predicted.inter_student + predicted.intra_student / 4).mean().item())
    assert running.get_ydata()[-1] == pytest.approx(table.mean_squares["between"].mean().item())
    assert "Variance of student means" in axes.get_ylabel()


def test_means_that_the_engine_knows_have_no_share(predicted, replicated, artists):
    axes = convergence(replicated, predicted=predicted).axes[0]
    (line,) = artists(axes, "predicted")
    assert line.get_ydata()[0] == pytest.approx(predicted.inter_student.mean().item(), rel=1e-12)
    assert "Inter-student variance" in axes.get_ylabel()


def test_the_axes_have_units(observed):
    axes = convergence(observed, unit="m/s").axes[0]
    assert axes.get_xlabel() == "Number of students"
    assert axes.get_ylabel().endswith("[(m/s)²]")


def test_too_few_students_are_refused(problem):
    with pytest.raises(EstimationError, match="more than 5 students"):
        convergence(observe(problem, n_students=5, rng=1))


def test_an_answer_without_students_is_refused(predicted):
    with pytest.raises(EstimationError, match="student_predictions"):
        convergence(predicted)


def test_students_that_are_all_equal_can_be_drawn(artists):
    same = estimate_components(np.ones((8, 1, 3)), variances=0.0)
    (line,) = artists(convergence(same).axes[0], "running")
    assert not line.get_ydata().any()
