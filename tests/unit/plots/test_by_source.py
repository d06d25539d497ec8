import numpy as np
import pandas as pd
import pytest

import kdstats as kd
from kdstats.errors import EstimationError
from kdstats.plots import variance_by_source

pytestmark = pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")


def answer(n_points=3, **options):
    rng = np.random.default_rng(4)
    index = np.indices((5, 4, 2, n_points)).reshape(4, -1)
    table = pd.DataFrame(dict(zip(["a", "b", "replicate", "point"], index, strict=True)))
    table["value"] = 2 * rng.standard_normal((5, n_points))[index[0], index[3]] + rng.standard_normal(len(table))
    return kd.decompose_sources(table, ["a", "b"], **options)


def test_marks_are_the_averaged_shares_and_their_intervals(artists):
    components = answer()
    axes = variance_by_source(components, prob=0.8).axes[0]
    mean = components.average()
    terms = ["a", "b", "a:b", "residual"]
    found = [line.get_xdata()[0] for line in artists(axes, "share")]
    np.testing.assert_allclose(found, mean.shares.sel(component=terms).values.ravel(), rtol=1e-12)
    low, high = axes.get_xlim()
    expected = mean.interval(0.8)["share"].sel(component=terms).values.reshape(-1, 2)
    ends = np.array([line.get_xdata() for line in artists(axes, "interval")])
    np.testing.assert_allclose(ends, np.clip(expected, low, high), rtol=1e-12)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["a", "b", "a \N{MULTIPLICATION SIGN} b", "residual"]


def test_single_points_stand_behind(artists):
    components = answer()
    dots = artists(variance_by_source(components).axes[0], "points")
    np.testing.assert_allclose(dots[0].get_xdata(), components.shares.sel(component="a").values.ravel(), rtol=1e-12)
    assert not artists(variance_by_source(answer(n_points=1)).axes[0], "points")


def test_the_words_say_what_the_picture_shows():
    figure = variance_by_source(answer(method="reml"))
    assert "95% intervals" in figure.get_label()
    assert "residual" in figure.get_label()


def test_other_results_are_refused():
    with pytest.raises(EstimationError, match="`components` must be SourceComponents; got a str"):
        variance_by_source("shares")


def test_drawing_twice_is_the_same_to_the_byte(tmp_path):
    for name in ("one.png", "two.png"):
        variance_by_source(answer()).savefig(tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
