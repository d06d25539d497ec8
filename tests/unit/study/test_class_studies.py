"""Studies whose teacher answers with classes: files, refusals, and the commands on them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import kdstats as kd
from kdstats.cli import main
from kdstats.errors import StudyError
from kdstats.study import run_study
from kdstats.study.file import Study

EXAMPLE = Path(__file__).parents[3] / "examples" / "wine_classes.toml"
BASE = {
    "data": {"dataset": "wine", "max_points": 10},
    "teacher": {"kind": "classes", "penalty": 20.0},
    "student": {"kind": "softmax", "penalty": 1.0},
    "design": {"n_responses": 10},
    "run": {"n_students": 200},
}


def changed(**tables):
    return Study({**BASE, **tables})


def test_the_teacher_is_fitted_to_the_true_classes():
    problem = changed().setting().problem
    teacher = problem.categorical_teacher
    assert problem.student == kd.SoftmaxStudent(penalty=1.0)
    assert teacher.output_labels == (0, 1, 2)
    truth = Study({**BASE, "data": {"dataset": "wine", "test_fraction": 0.0}}).setting()
    right = truth.problem.categorical_teacher.probabilities.argmax(axis=1) == truth.target
    assert right.mean() > 0.95
    warm = changed(teacher={"kind": "classes", "penalty": 20.0, "temperature": 2.0}).setting().problem
    np.testing.assert_allclose(warm.teacher.probabilities, teacher.at_temperature(2.0).probabilities)


def test_a_study_predicts_trains_and_compares():
    found = run_study(changed())
    assert found.verdict == "agree"
    assert found.predicted.exactness == "asymptotic"
    assert list(found.observed) == ["softmax"]


def test_networks_of_classes_are_studied_too():
    student = {"kind": "network", "head": "softmax", "hidden": [4], "epochs": 20, "activation": "tanh"}
    problem = changed(student=student).setting().problem
    assert kd.predict(problem, rng=1, n_students=128).estimate.sizes["output"] == 3


def test_commands_on_a_study_of_classes(tmp_path, monkeypatch):
    file = tmp_path / "study.toml"
    file.write_text(changed().to_toml())

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["kdstats", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code

    assert call("predict", file, "--out", tmp_path, "--json") in (0, None)
    assert call("observe", file, "--out", tmp_path, "--json") in (0, None)
    assert call("compare", tmp_path / "predicted.nc", tmp_path / "observed.nc") in (0, None)


def test_the_example_is_a_study():
    assert Study.from_toml(EXAMPLE).setting().problem.teacher.n_outputs == 3
    assert json.loads(json.dumps(Study.from_toml(EXAMPLE).as_dict()))["student"]["kind"] == "softmax"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"teacher": {"kind": "classes", "noise_variance": 1.0}}, "takes penalty and temperature with kind"),
        ({"teacher": {"penalty": 1.0, "noise_variance": 1.0}}, "takes penalty and temperature with kind"),
        ({"teacher": {"kind": "classes", "penalty": 0.0}}, "`teacher.penalty` must be larger"),
        ({"data": {"dataset": "diabetes"}}, "`teacher.penalty` must be larger|class"),
    ],
)
def test_bad_files(tables, message):
    with pytest.raises(StudyError, match=message):
        changed(**(tables if "data" not in tables else {"teacher": {"kind": "classes", "penalty": 0.0}})).setting()
