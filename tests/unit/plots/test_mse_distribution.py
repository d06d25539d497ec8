import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from kdstats.errors import KdstatsError
from kdstats.plots import mse_distribution
from kdstats.prediction.closed_form import mse_distribution as predict_mse

LAW = SimpleNamespace(
    mean=stats.gamma.mean(6),
    variance=stats.gamma.var(6),
    quantile=stats.gamma(6).ppf,
    cdf=stats.gamma(6).cdf,
    pdf=stats.gamma(6).pdf,
)
SAMPLE = stats.gamma(6).rvs(200, random_state=np.random.default_rng(5))


def test_the_law_is_drawn_as_it_is(artists):
    upper, lower = mse_distribution(LAW, SAMPLE).axes
    for axes, gid, function in ((upper, "pdf", LAW.pdf), (lower, "cdf", LAW.cdf)):
        (line,) = artists(axes, gid)
        np.testing.assert_allclose(line.get_ydata(), function(line.get_xdata()))
        assert line.get_xdata()[0] <= SAMPLE.min()
        assert line.get_xdata()[-1] >= SAMPLE.max()


def test_the_histogram_has_area_one():
    upper, _ = mse_distribution(LAW, SAMPLE).axes
    area = sum(bar.get_width() * bar.get_height() for bar in upper.patches)
    assert area == pytest.approx(1.0)


def test_the_steps_are_the_observed_shares(artists):
    _, lower = mse_distribution(LAW, SAMPLE).axes
    (steps,) = artists(lower, "ecdf")
    x, y = steps.get_data()
    np.testing.assert_array_equal(x[1:-1], np.sort(SAMPLE))
    np.testing.assert_allclose(y[1:-1], np.arange(1, 201) / 200)
    assert y[0] == 0.0


def test_the_band_has_the_width_of_massart(artists):
    _, lower = mse_distribution(LAW, SAMPLE, prob=0.9).axes
    (band,) = artists(lower, "band")
    vertices = band.get_paths()[0].vertices
    middle = np.median(SAMPLE)
    near = vertices[np.abs(vertices[:, 0] - np.sort(SAMPLE)[99]) < 1e-12][:, 1]
    assert np.sort(SAMPLE)[99] <= middle
    reach = math.sqrt(math.log(2 / 0.1) / 400)
    assert near.max() == pytest.approx(0.5 + reach)
    assert near.min() == pytest.approx(0.5 - 0.005 - reach)


def test_quantiles_are_marked_in_both_panels(artists):
    figure = mse_distribution(LAW, SAMPLE, quantiles=(0.9, 0.1))
    for axes in figure.axes:
        places = sorted(line.get_xdata()[0] for line in artists(axes, "quantile"))
        np.testing.assert_allclose(places, LAW.quantile([0.1, 0.9]))
    assert [text.get_text() for text in figure.axes[0].texts] == [
        f"{q}% quantile {LAW.quantile(q / 100):.3g}" for q in (10, 90)
    ]


def test_units_and_words():
    figure = mse_distribution(LAW, SAMPLE, unit="K")
    upper, lower = figure.axes
    assert lower.get_xlabel() == "Test MSE of one student [K²]"
    assert upper.get_ylabel() == "Density [per K²]"
    inside = np.mean((SAMPLE > LAW.quantile(0.05)) & (SAMPLE < LAW.quantile(0.95)))
    assert f"{inside:.1%} of them lie between the 5% and 95% quantiles, 90.0% predicted" in figure.get_label()


def test_the_law_can_be_drawn_alone():
    upper, lower = mse_distribution(LAW).axes
    assert not upper.patches
    assert not lower.collections


def test_the_closed_form_law_fits(problem, observed, artists):
    truth = problem.X_query @ [1.0, -2.0, 0.5]
    law = predict_mse(problem, truth)
    errors = ((observed.student_predictions.values[:, :, 0] - truth) ** 2).mean(axis=1)
    _, lower = mse_distribution(law, errors, prob=0.999).axes
    (line,), (steps,) = artists(lower, "cdf"), artists(lower, "ecdf")
    distance = stats.kstest(errors, law.cdf).statistic
    assert distance < math.sqrt(math.log(2 / 0.001) / (2 * errors.size))
    assert np.all(np.diff(line.get_ydata()) >= -1e-9)
    assert steps.get_xdata().size == errors.size + 2


@pytest.mark.parametrize(
    ("sample", "quantiles", "name"),
    [([1.0, np.nan], (0.5,), "observed_mse"), ([], (0.5,), "observed_mse"), (SAMPLE, (5,), "quantiles")],
)
def test_bad_input_is_named(sample, quantiles, name):
    with pytest.raises(KdstatsError, match=name):
        mse_distribution(LAW, sample, quantiles=quantiles)


def test_a_law_without_variance_is_refused_by_name():
    class Constant:
        mean, variance = 1.0, 0.0

    with pytest.raises(KdstatsError, match="`law` must vary over students; got variance 0"):
        mse_distribution(Constant(), [1.0, 1.0])
