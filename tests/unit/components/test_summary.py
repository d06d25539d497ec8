import re

import numpy as np
import pytest

from kdstats.components.estimation import estimate_components
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import NegativeComponentWarning


def observed(**attrs):
    rng = np.random.default_rng(0)
    return estimate_components(rng.normal(size=(50, 1, 4)) + rng.normal(size=(50, 3, 4)), attrs=attrs)


def row(text, name):
    return [float(word) for word in next(line for line in text.splitlines() if line.startswith(name)).split()[1:]]


def test_numbers_of_the_table():
    c = observed(seed=11, wall_time=1.5)
    text, mean = c.summary(0.9), c.average()
    for name in COMPONENTS:
        bounds = mean.interval(0.9)[name].values.ravel()
        points = c.estimate[name].values
        expected = [mean.estimate[name].item(), mean.standard_error[name].item(), *bounds, points.min(), points.max()]
        assert row(text, name) == pytest.approx(expected, rel=1e-3)
    assert "[0.05" in text
    assert "0.95]" in text


def test_header_names_the_source():
    text = observed(seed=11, wall_time=1.5).summary()
    for pattern in (
        r"Engine: +table ",
        r"Exactness: +observed ",
        r"Students: +50\b",
        r"Seed: +11\b",
        r"Wall time: +1.5 s",
    ):
        assert re.search(pattern, text), pattern
    assert re.search(r"Outputs a student: +3\b", text)
    assert re.search(r"Points x outputs: +4 x 1", text)
    assert re.search(r"Effective rank: +[34]", text)
    assert "random effects" in text


def test_fixed_width():
    long = observed(seed=2**100, estimator="word " * 60, engine="x")
    assert max(map(len, long.summary().splitlines())) <= 78


def test_notes():
    with pytest.warns(NegativeComponentWarning):
        negative = estimate_components(np.array([[1.0, -1.0], [-1.0, 1.0], [2.0, -2.0]]))
    text = " ".join(negative.summary().split())
    assert "inter_student is negative at 1 of 1 points" in text
    assert "boundary = True" in text
    assert "Degenerate: all students have the same mean" in text
    assert "Points share students" in observed().summary()
    assert "negative" not in observed().summary()


def test_exact_has_no_notes_and_no_students():
    c = VarianceComponents.from_arrays(
        inter_student=[[1.0], [2.0]],
        intra_student=0.5,
        point_labels=["a", "b"],
        attrs={"engine": "closed_form", "exactness": "exact"},
    )
    text = c.summary()
    assert "Notes" not in text
    assert re.search(r"Students: +-", text)
    assert row(text, "total") == [2.0, 0.0, 2.0, 2.0, 1.5, 2.5]


@pytest.mark.parametrize(
    ("exactness", "caveat"), [("asymptotic", "hold in the limit"), ("approximate", "error of the approx")]
)
def test_caveat_of_inexact_theory(exactness, caveat):
    attrs = {"engine": "x", "exactness": exactness}
    c = VarianceComponents.from_arrays(inter_student=[[1.0]], intra_student=0.5, point_labels=["a"], attrs=attrs)
    assert caveat in " ".join(c.summary().split())


def test_grid_has_a_table_per_cell_up_to_a_limit():
    c = VarianceComponents.from_arrays(
        inter_student=np.arange(20.0).reshape(20, 1, 1),
        intra_student=0.0,
        point_labels=["a"],
        leading={"n_responses": range(1, 21)},
        attrs={"engine": "x", "exactness": "exact"},
    )
    text = c.summary()
    assert "n_responses = 3\n" in text
    assert text.count("inter_student") == 12
    assert "8 more cells" in text
