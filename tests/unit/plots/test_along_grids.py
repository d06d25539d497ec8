import warnings

import numpy as np
import pytest

from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import EstimationError, KdstatsError, NegativeComponentWarning
from kdstats.observation.linear import observe
from kdstats.plots import components_against_noise, components_against_responses
from kdstats.prediction.closed_form import predict_grid

PROB = 0.9


@pytest.mark.parametrize("name", COMPONENTS)
def test_curves_are_the_averages_of_the_prediction(noise_grid, artists, name):
    (line,) = artists(components_against_noise(noise_grid).axes[0], f"predicted-{name}")
    assert np.array_equal(line.get_xdata(), noise_grid.estimate["noise_variance"])
    np.testing.assert_allclose(
        line.get_ydata(), noise_grid.estimate[name].mean(("point", "output")).values.ravel(), rtol=1e-12
    )


@pytest.mark.parametrize("name", COMPONENTS)
def test_markers_and_bars_are_the_observed_averages_and_their_intervals(noise_grid, noise_runs, artists, name):
    axes = components_against_noise(noise_grid, noise_runs, prob=PROB).axes[0]
    (markers,), (bars,) = artists(axes, f"observed-{name}"), artists(axes, f"interval-{name}")
    averages = [run.average() for run in noise_runs.values()]
    assert list(markers.get_xdata()) == list(noise_runs)
    np.testing.assert_allclose(markers.get_ydata(), [a.estimate[name].item() for a in averages])
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, [a.interval(PROB)[name].values.ravel() for a in averages])


def test_runs_may_come_as_mapping_list_or_any_subset(noise_grid, noise_runs, artists):
    def heights(observed):
        (markers,) = artists(components_against_noise(noise_grid, observed).axes[0], "observed-total")
        return list(markers.get_ydata())

    assert heights(noise_runs) == heights(list(noise_runs.values())) == heights(dict(reversed(noise_runs.items())))
    assert heights({0.5: noise_runs[0.5]}) == heights(noise_runs)[1:2]


def test_an_observed_grid_is_drawn_as_it_is(plain_grid, artists):
    grid = plain_grid([1, 2, 3], [0.5, 1, 2], "noise_variance", [1, 2, 3])
    (markers,) = artists(components_against_noise(grid, grid).axes[0], "observed-total")
    assert list(markers.get_ydata()) == [1.5, 3.0, 5.0]


def test_axes_say_what_and_in_which_unit(noise_grid, response_grid):
    axes = components_against_noise(noise_grid, unit="$1000").axes[0]
    assert axes.get_xlabel() == r"Noise variance of one teacher response [(\$1000)²]"
    assert axes.get_ylabel().endswith(r"[(\$1000)²]")
    axes = components_against_responses(response_grid).axes[0]
    assert axes.get_xlabel() == "Responses per input, k"
    assert "squared output units" in axes.get_ylabel()


def test_the_label_tells_the_picture_in_words(noise_grid, noise_runs):
    words = components_against_noise(noise_grid, noise_runs).get_label()
    average = noise_grid.estimate["inter_student"].mean(("point", "output")).values.ravel()
    assert f"inter-student variance from {average[0]:.3g} to {average[-1]:.3g}" in words
    assert "3 measured points with 95% intervals" in words


def test_a_component_that_is_zero_is_left_out(plain_grid, artists):
    axes = components_against_noise(plain_grid([1, 2], [0, 0], "noise_variance", [1, 2])).axes[0]
    assert artists(axes, "predicted-inter_student")
    assert not artists(axes, "predicted-intra_student")


def test_zero_noise_makes_the_axes_linear(plain_grid):
    axes = components_against_noise(plain_grid([0, 2], [0, 90], "noise_variance", [0, 100])).axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "linear"


def test_negative_estimates_are_shown_on_a_log_axis(plain_grid):
    grid = plain_grid([0.001, 1], [0.1, 100], "noise_variance", [0.01, 10])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegativeComponentWarning)
        seen = plain_grid([-0.001, 1], [0.1, 100], "noise_variance", [0.01, 10])
    figure = components_against_noise(grid, seen)
    axes = figure.axes[0]
    assert axes.get_yscale() == "log"
    (foot,) = [line for line in axes.lines if line.get_marker() == "v"]
    assert list(foot.get_xdata()) == [0.01]
    assert any("1 estimates of 0 or less" in text.get_text() for text in figure.legends[0].get_texts())


def test_a_second_dim_becomes_panels(problem, artists):
    grid = predict_grid(problem, noise_variance=[0.5, 2.0], n_responses=[1, 4])
    runs = {
        (s2, k): observe(problem.with_teacher(noise_variance=s2).with_design(n_responses=k), n_students=10, rng=2)
        for s2 in (0.5, 2.0)
        for k in (1, 4)
    }
    figure = components_against_responses(grid, runs)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["noise variance 0.5", "noise variance 2"]
    for axes, s2 in zip(figure.axes, (0.5, 2.0), strict=True):
        (line,) = artists(axes, "predicted-total")
        (markers,) = artists(axes, "observed-total")
        np.testing.assert_allclose(
            line.get_ydata(), grid.total.sel(noise_variance=s2).mean(("point", "output")).values, rtol=1e-12
        )
        np.testing.assert_allclose(markers.get_ydata(), [runs[s2, k].average().total.item() for k in (1, 4)])


def test_without_correlation_the_rate_line_is_the_curve_and_there_is_no_floor(response_grid, artists):
    axes = components_against_responses(response_grid).axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    (rate,), (line,) = artists(axes, "rate"), artists(axes, "predicted-inter_student")
    x, y = rate.get_xdata(), rate.get_ydata()
    np.testing.assert_allclose(x * y, line.get_ydata()[0], rtol=1e-12)
    assert not artists(axes, "floor")


def test_correlated_responses_show_their_floor_against_theory(problem, artists):
    rho = 0.3
    correlated = problem.with_teacher(response_correlation=rho)
    grid = predict_grid(correlated, noise_variance=[1.0], n_responses=[1, 2, 4, 8])
    axes = components_against_responses(grid).axes[0]
    (floor,) = artists(axes, "floor")
    truth = rho * predict_grid(problem, noise_variance=[1.0], n_responses=[1]).inter_student.mean().item()
    assert floor.get_ydata()[0] == pytest.approx(truth, rel=1e-9)
    assert any(text.get_text().startswith("floor") for text in axes.texts)


def test_a_curve_of_another_form_gets_no_floor(plain_grid, artists):
    axes = components_against_responses(plain_grid([1, 0.8, 0.5], [1, 1, 1], "n_responses", [1, 2, 4])).axes[0]
    assert artists(axes, "rate")
    assert not artists(axes, "floor")


def test_a_simulated_prediction_gets_a_band():
    grid = VarianceComponents.from_arrays(
        inter_student=np.array([[[1.0]], [[2.0]]]),
        intra_student=np.zeros((2, 1, 1)),
        inter_student_se=0.1,
        total_se=0.1,
        point_labels=[0],
        leading={"noise_variance": [1.0, 2.0]},
        attrs={"engine": "monte_carlo", "exactness": "simulated"},
    )
    figure = components_against_noise(grid)
    assert len(figure.axes[0].collections) == 2
    assert "predicted (simulated) with 95% band" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda grid, runs: (grid, list(runs.values())[:2]), "one run per predicted cell"),
        (lambda grid, runs: (grid, {(1, 2): runs[0.5]}), "keyed by noise_variance"),
        (lambda grid, runs: (grid, {}), "at least one run"),
        (lambda grid, runs: (runs[0.5], None), "grid along noise_variance"),
        (lambda grid, runs: (grid, {0.5: grid}), "without leading dims"),
    ],
)
def test_what_does_not_fit_is_named(noise_grid, noise_runs, change, message):
    with pytest.raises(EstimationError, match=message):
        components_against_noise(*change(noise_grid, noise_runs))


def test_too_many_panels_are_refused(problem):
    grid = predict_grid(problem, noise_variance=np.arange(1.0, 9.0), n_responses=[1, 2])
    with pytest.raises(EstimationError, match="at most 6 labels of noise_variance"):
        components_against_responses(grid)


def test_a_coverage_outside_0_and_1_is_refused(noise_grid):
    with pytest.raises(KdstatsError, match="prob"):
        components_against_noise(noise_grid, prob=95)
