import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

from kdstats.plots import style


def luminance(colour):
    channels = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_words_have_enough_contrast_on_white():
    for colour in (style.INK, style.MUTED):
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5


@pytest.mark.parametrize("field", ["colour", "linestyle", "marker", "shift", "name"])
def test_components_differ_in_every_channel(field):
    assert len({str(getattr(look, field)) for look in style.COMPONENT_LOOKS.values()}) == 3


def test_a_dollar_in_the_unit_is_no_formula():
    assert style.squared_unit("$1000") == r"(\$1000)²"


def test_house_style_leaves_the_users_settings_alone():
    before = dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 31.0, "axes.grid": False}):
        with style.house_style():
            assert mpl.rcParams["font.size"] == style.RC["font.size"]
        assert mpl.rcParams["font.size"] == 31.0
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(
    ("values", "log"), [([1, 30], True), ([1, 10], False), ([0, 100], False), ([-1, 100], False), ([np.nan], False)]
)
def test_log_axes_are_for_positive_values_of_wide_range(values, log):
    assert style.wants_log(values) is log


def test_labels_keep_their_distance_and_order():
    placed = np.array(style._pushed_apart([0.1, 0.11, 0.12, 0.5, 0.51, 0.9], 0.06))
    assert (np.diff(placed) >= 0.06 - 1e-12).all()
    assert placed[:3].mean() == pytest.approx(0.11)
    assert placed[-1] == 0.9


def test_labels_that_do_not_collide_stay():
    assert style._pushed_apart([0.0, 0.3, 0.8], 0.1) == [0.0, 0.3, 0.8]


def loaded_after(imports):
    code = f"import sys, {imports}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_drawing_does_not_load_pyplot_or_torch():
    loaded = loaded_after("kdstats.plots")
    assert "matplotlib" in loaded
    assert not loaded & {"matplotlib.pyplot", "torch"}


def test_importing_the_package_does_not_load_matplotlib():
    assert "matplotlib" not in loaded_after("kdstats")
