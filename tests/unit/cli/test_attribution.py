"""`kdstats attribute` as a user meets it."""

import contextlib
import io
import json
import sys
from types import SimpleNamespace

import pandas as pd
import pytest

from kdstats.cli import main

STUDY = """
[data]
dataset = "diabetes"
max_points = 6
[teacher]
noise_fraction = 0.5
[student]
kind = "network"
hidden = [4]
epochs = 5
"""


def run(*arguments):
    out, err, code, before = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = ["kdstats", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture
def study(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


def test_json_and_tables(study, tmp_path):
    answer = run("attribute", study, "--n-levels", "5", "--json", "--out", tmp_path / "out")
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    first = {row["source"]: row["first_order"] for row in found["average"]}
    assert first["data_order"] == 0.0
    assert 0.0 < first["student_initialization"] < 1.0
    assert found["inactive"]["data_order"] == "every step sees all rows"
    assert found["components"]["attrs"]["n_levels"] == {"teacher_output": 5, "student_initialization": 5}
    assert len(pd.read_csv(tmp_path / "out" / "indices.csv")) == 5 * 6
    assert (tmp_path / "out" / "sources.csv").exists()


@pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")
def test_levels_by_name_and_text(study):
    answer = run("attribute", study, "--n-levels", "teacher_output=4,student_initialization=3")
    assert answer.returncode == 0
    assert "Levels: teacher_output 4, student_initialization 3" in answer.stdout


@pytest.mark.parametrize(
    ("levels", "text"), [("many", "a count"), ("data_order=3", "sources that are crossed"), ("1", "at least 2")]
)
def test_bad_levels_are_one_line(study, levels, text):
    answer = run("attribute", study, "--n-levels", levels)
    assert answer.returncode == 2
    assert text in answer.stderr
    assert "Traceback" not in answer.stderr
