"""The gallery with few students: every verb has a picture that is small, not blank, and on the page."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).parents[3]
VERBS = ("demo", "predict", "observe", "compare", "decompose", "plan", "report", "sources")
#: Bytes beyond which a picture is not small.
SMALL = 60_000


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("gallery_example", ROOT / "examples" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def is_blank(path):
    """Whether a picture has next to nothing below its title."""
    pixels = np.asarray(Image.open(path).convert("L"), dtype=float)
    return (pixels[pixels.shape[0] // 4 :] < 200).mean() < 0.005


def test_every_verb_has_a_small_picture(example, tmp_path):
    example.main(["--out", str(tmp_path), "--n-students", "60"])
    pictures = {verb: tmp_path / f"gallery_{verb}.png" for verb in VERBS}
    assert set(example.VERBS) == set(VERBS)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in pictures.values()}
    for path in pictures.values():
        assert path.stat().st_size < SMALL
        assert not is_blank(path)
    assert len({path.read_bytes() for path in pictures.values()}) == len(VERBS)
    example.save(Figure(figsize=(5, 4)), tmp_path / "blank.png")
    assert is_blank(tmp_path / "blank.png")


def test_table_is_drawn_within_its_axes(example):
    figure = example.Gallery(n_students=60).decompose()
    (axes,) = figure.axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    markers = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    assert len(markers) == 2
    for line in markers:
        x, y = line.get_data()
        assert len(x) == 12
        assert left < x.min() <= x.max() < right
        assert low < y.min() <= y.max() < high


def test_page_shows_every_picture():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^\]]{20,}\]\((_static/\S+\.png)\)", page)
    assert {f"_static/gallery_{verb}.png" for verb in VERBS} <= set(shown)
    for path in shown:
        picture = ROOT / "docs" / path
        assert picture.stat().st_size < SMALL
        assert not is_blank(picture)
