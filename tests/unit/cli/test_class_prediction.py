"""`kdstats predict-classes` as a user meets it."""

import contextlib
import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import kdstats as kd
from kdstats.cli import main

P = np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])


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
def table(tmp_path):
    frame = pd.DataFrame(P, columns=["p_yes", "p_no", "p_maybe"]).assign(point=["first", "second"])
    frame.to_csv(tmp_path / "teacher.csv", index=False)
    return tmp_path / "teacher.csv"


def expected(k, *, student=None, teacher=None):
    whole = kd.CategoricalTeacher(P, class_labels=("p_yes", "p_no", "p_maybe"))
    problem = kd.DistillationProblem(
        teacher=teacher(whole) if teacher else whole,
        student=student or kd.TabularStudent(),
        design=kd.Design(n_responses=k, point_labels=("first", "second")),
    )
    return kd.predict_classes(problem, reference=whole)


def test_it_prints_what_python_says(table):
    assert run("predict-classes", table, "-k", 5).stdout == expected(5).summary() + "\n"
    bayes = run("predict-classes", table, "-k", 5, "--prior-count", 0.5, "--classes", "p_*")
    assert bayes.stdout == expected(5, student=kd.DirichletStudent(prior_count=0.5)).summary() + "\n"
    cold = run("predict-classes", table, "-k", 5, "--temperature", 0.5, "--top-k", 2)
    answer = expected(5, teacher=lambda whole: whole.at_temperature(0.5).truncated(top_k=2))
    assert cold.stdout == answer.summary() + "\n"


def test_several_numbers_of_responses_and_risk(table, tmp_path):
    result = run("predict-classes", table, "-k", "1,4", "--threshold", 0.25, "--out", tmp_path / "o")
    assert result.returncode == 0, result.stderr
    assert "mode right" in result.stdout
    assert "hardly ever" in result.stdout
    frame = pd.read_csv(tmp_path / "o" / "predicted_classes.csv")
    assert frame["n_responses"].tolist() == [1, 1, 4, 4]
    assert frame["point"].tolist() == ["first", "second"] * 2
    np.testing.assert_allclose(frame["expected_entropy"][2:], expected(4).expected_entropy)
    risk = pd.read_csv(tmp_path / "o" / "risk.csv").set_index(["strategy", "n_responses", "point"])
    assert risk.loc[("single", 4, "first"), "first_choice"] == pytest.approx(0.2)


def test_json(table):
    result = run("predict-classes", table, "-k", "2", "--json", "--threshold", 0.25, "--unit", "bits")
    found = json.loads(result.stdout)
    (prediction,) = found["predictions"]
    assert prediction["n_responses"] == 2
    assert prediction["exactness"] == "exact"
    assert prediction["points"][0]["kl_from_teacher"] is None  # infinite
    np.testing.assert_allclose(
        [row["mutual_information"] * np.log(2) for row in prediction["points"]], expected(2).mutual_information
    )
    assert len(found["risk"]) == 6 * 2
    assert json.loads(run("predict-classes", table, "--json").stdout)["risk"] is None


BAD = [
    (("-k", "two"), "`--n-responses` must be whole numbers"),
    (("-k", "2,2"), "`--n-responses` must be unique"),
    (("-k", "0"), "`--n-responses` must be at least 1; got 0"),
    (("--pseudo-count", "1", "--prior-count", "1"), "`--prior-count` must be left out with --pseudo-count"),
    (("--classes", "q_*"), "`--classes` must fit some of the columns"),
    (("--classes", "p_yes,p_no"), "`probabilities` must sum to 1 in every row"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input(table, arguments, message):
    result = run("predict-classes", table, *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_table_without_names(tmp_path):
    pd.DataFrame(P).to_csv(tmp_path / "plain.csv", index=False)
    assert "Points: 2, classes: 3" in run("predict-classes", tmp_path / "plain.csv").stdout
