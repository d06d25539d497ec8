"""`kdstats decompose-responses` as a user meets it."""

from __future__ import annotations

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
def logged(tmp_path):
    rng = np.random.default_rng(1)
    rows = [
        {"prompt_id": f"q{i}", "student": s, "response": str(rng.choice(["Lima", "Oslo", "It is Rome"]))}
        for s in (1, 2, 3, None)
        for i in range(4)
        for _ in range(5)
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    references = [{"prompt_id": f"q{i}", "reference": ["Rome", "Roma"]} for i in range(4)]
    (tmp_path / "right.jsonl").write_text("\n".join(map(json.dumps, references)))
    vectors = np.array([[len(row["response"]), row["response"].count("i"), 1.0] for row in rows])
    np.save(tmp_path / "vectors.npy", vectors)
    return tmp_path, pd.DataFrame(rows), vectors


def test_measures_are_those_of_python(logged):
    folder, table, vectors = logged
    options = ("--references", folder / "right.jsonl", "--embeddings", folder / "vectors.npy")
    done = run("decompose-responses", folder / "log.jsonl", *options, "--json", "--out", folder / "out")
    assert done.returncode == 0, done.stderr
    found = {row["measure"]: row["estimate"] for row in json.loads(done.stdout)["measures"]}
    expected = kd.decompose_responses(
        table, embeddings=vectors, references={f"q{i}": ["Rome", "Roma"] for i in range(4)}
    )
    assert found["contained_match"] == pytest.approx(expected.mean("contained_match").estimate)
    assert found["gini_total"] == pytest.approx(expected.mean("gini_total").estimate)
    assert "hallucination" not in found or found["hallucination"] is not None
    written = pd.read_csv(folder / "out" / "responses.csv", index_col="measure")
    assert written["estimate"]["text_inter"] == pytest.approx(found["text_inter"])
    assert "Students: 3, prompts: 4" in run("decompose-responses", folder / "log.jsonl").stdout


def test_bad_files_are_named(logged):
    folder, _, _ = logged
    (folder / "bad.npy").write_text("x")
    done = run("decompose-responses", folder / "log.jsonl", "--embeddings", folder / "bad.npy")
    assert (done.returncode, "numpy.save" in done.stderr) == (2, True)
    done = run("decompose-responses", folder / "nowhere.csv")
    assert (done.returncode, "nowhere" in done.stderr) == (2, True)


@pytest.mark.parametrize(("key", "value"), [("prompt_id", ["a"]), ("student", {"name": 1}), ("response_index", [1])])
def test_lists_and_objects_are_no_labels(tmp_path, key, value):
    rows = [{"prompt_id": "a", "student": s, "response": "x", "response_index": s} | {key: value} for s in (1, 2)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run("decompose-responses", tmp_path / "log.jsonl")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"kdstats: `table['{key}']` must hold labels (text or numbers); got {value!r} in row 0"
    )


def test_ended_is_true_or_false(tmp_path):
    rows = [{"prompt_id": p, "student": s, "response": "x", "ended": "yes"} for p in "ab" for s in (1, 2)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert (
        "`table['ended']` must be True or False; got 'yes'" in run("decompose-responses", tmp_path / "log.jsonl").stderr
    )


def test_missing_students_and_country_codes(tmp_path):
    lines = [f"{p},{s},{a}" for p in ("q0", "q1") for s, a in ((1, "NA"), (2, "US"), ("NA", "NA"), ("", "NA"))]
    (tmp_path / "log.csv").write_text("\n".join(["prompt_id,student,response", *lines]) + "\n")
    done = run("decompose-responses", tmp_path / "log.csv", "--json")
    found = json.loads(done.stdout)
    assert found["attrs"]["n_teacher"] == 2
    assert next(row for row in found["measures"] if row["measure"] == "text_total")["estimate"] == 1.0
