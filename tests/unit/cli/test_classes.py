"""`kdstats decompose-classes` as a user meets it."""

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

pytestmark = pytest.mark.filterwarnings("ignore::kdstats.errors.KdstatsWarning")


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
def probabilities(tmp_path):
    p = np.random.default_rng(1).dirichlet([2.0, 1.0, 1.0], (40, 3))
    student, point = np.indices((40, 3)).reshape(2, -1)
    frame = pd.DataFrame({"student": student, "point": point, "loss": 9.0})
    frame = frame.join(pd.DataFrame(p.reshape(-1, 3), columns=["p_cat", "p_dog", "p_eel"]))
    frame.to_csv(tmp_path / "probabilities.csv", index=False)
    return tmp_path / "probabilities.csv"


@pytest.fixture
def labels(tmp_path):
    rng = np.random.default_rng(2)
    p = rng.dirichlet([2.0, 1.0, 1.0], 40)
    student, replicate = np.indices((40, 12)).reshape(2, -1)
    drawn = [rng.choice(3, p=p[s]) for s in student]
    frame = pd.DataFrame({"student": student, "replicate": replicate, "label": drawn})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path / "labels.csv"


def test_print_json_and_file_say_the_same(probabilities, tmp_path):
    text = run("decompose-classes", probabilities, "--classes", "p_*")
    assert text.returncode == 0
    assert "mutual_information" in text.stdout
    result = run(
        "decompose-classes", probabilities, "--classes", "p_cat, p_dog,p_eel", "--json", "--out", tmp_path / "o"
    )
    found = json.loads(result.stdout)
    expected = kd.decompose_classes(pd.read_csv(probabilities), classes="p_*", replicate=None)
    average = {row["component"]: row for row in found["average"]}
    for name in ("inter_student", "total", "mutual_information"):
        assert average[name]["estimate"] == pytest.approx(expected.average().estimate.sel(component=name).item())
        assert average[name]["lower"] < average[name]["estimate"] < average[name]["upper"]
    assert found["attrs"]["classes"] == ["p_cat", "p_dog", "p_eel"]
    written = pd.read_csv(tmp_path / "o" / "classes.csv")
    np.testing.assert_allclose(written["estimate"], [row["estimate"] for row in found["points"]], rtol=1e-12)


def test_labels_and_bits(labels):
    result = run("decompose-classes", labels, "--kind", "labels", "--classes", "0,1,2,3", "--unit", "bits", "--json")
    found = {row["component"]: row for row in json.loads(result.stdout)["average"]}
    expected = kd.decompose_classes(pd.read_csv(labels), "labels", point=None, unit="bits")
    assert found["expected_entropy"]["estimate"] == pytest.approx(expected.expected_entropy.item())
    text = run("decompose-classes", labels, "--kind", "labels", "--classes", "0,1,2,3")
    assert "Classes never seen: 3" in text.stdout


def test_what_is_not_identified_is_null(labels):
    frame = pd.read_csv(labels).query("replicate == 0").drop(columns="replicate")
    frame.to_csv(labels, index=False)
    result = run("decompose-classes", labels, "--kind", "labels", "--json")
    assert result.returncode == 0
    found = {row["component"]: row for row in json.loads(result.stdout)["average"]}
    assert found["inter_student"]["estimate"] is None
    assert 0 < found["total"]["estimate"] < 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "that sum to 1 within 1e-06"),
        (("--classes", "q_*"), "`--classes` must match one of the columns"),
        (("--kind", "scores"), "`--kind` must be one of probabilities, labels"),
        (("--kind", "labels"), "must have a column 'label'"),
        (("--classes", "p_*", "--student", "model"), "must have a column 'model'"),
        (("--classes", "p_*", "--replicate", "pass"), "must have a column 'pass'"),
        (("--classes", "p_*", "--unit", "dits"), "`--unit` must be one of nats, bits"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(probabilities, flags, words):
    result = run("decompose-classes", probabilities, *flags)
    assert result.returncode == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    result = run("decompose-classes", tmp_path / "no.csv")
    assert result.returncode == 2
    assert "must be a readable file" in result.stderr


def test_a_country_code_is_no_missing_label(tmp_path):
    rows = [("NA", "US"), ("US", "NA"), ("US", "US"), ("NA", "NA")]
    text = "".join(f"{s},{r},0,{x}\n" for s, pair in enumerate(rows) for r, x in enumerate(pair))
    (tmp_path / "codes.csv").write_text("student,replicate,point,label\n" + text)
    done = run("decompose-classes", tmp_path / "codes.csv", "--kind", "labels", "--json")
    assert json.loads(done.stdout)["attrs"]["classes"] == ["NA", "US"]
    (tmp_path / "empty.csv").write_text("student,replicate,point,label\n" + text.replace("NA", ""))
    assert "hold a label in every row" in run("decompose-classes", tmp_path / "empty.csv", "--kind", "labels").stderr


def test_a_missing_probability_is_one_however_it_is_written(tmp_path):
    p = np.random.default_rng(1).dirichlet([1.0, 1.0], 12)
    rows = [f"{i},{a:.6f},{1 - round(a, 6):.6f}" for i, (a, _) in enumerate(p)]
    found = []
    for mark in ("NA", "nan", ""):
        lines = ["student,p_a,p_b", *rows, f"12,{mark},0.5"]
        (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
        options = ("--classes", "p_*", "--nan-policy", "omit", "--json")
        found.append(json.loads(run("decompose-classes", tmp_path / "p.csv", *options).stdout)["average"])
    assert found[0] == found[1] == found[2]
