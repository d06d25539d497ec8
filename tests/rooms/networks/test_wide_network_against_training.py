"""Wide-network theory against networks that torch trains."""

import importlib.util
import sys
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location("wide_networks", Path(__file__).parents[3] / "examples/wide_networks.py")
example = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = example  # dataclasses look their module up
SPEC.loader.exec_module(example)
#: Standard errors allowed; what 1/width leaves at 512 units is far below one of them with 48 students.
Z = 4.0


def gap(point, part):
    """Distance of a ratio from 1 in standard errors."""
    return abs(point.ratio[part] - 1.0) / point.error[part]


@pytest.mark.slow
def test_parts_of_wide_students_against_theory():
    wide = example.point(512, n_students=48, rng=2)
    for part in example.PARTS:
        assert gap(wide, part) < Z
    narrow = example.point(32, n_students=400, rng=1)
    assert max(gap(narrow, part) for part in example.PARTS) > Z  # the theory is not one of any width
