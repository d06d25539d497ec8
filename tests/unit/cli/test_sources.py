"""`kdstats decompose --sources` as a user meets it."""

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
def table(tmp_path):
    rng = np.random.default_rng(1)
    index = np.indices((6, 5, 2, 3)).reshape(4, -1)
    frame = pd.DataFrame(dict(zip(["teacher", "init", "replicate", "point"], index, strict=True)))
    effects = 3 * rng.standard_normal((6, 3))[index[0], index[3]] + 2 * rng.standard_normal((5, 3))[index[1], index[3]]
    frame["value"] = effects + rng.standard_normal((6, 5, 3))[index[0], index[1], index[3]] + rng.standard_normal(180)
    path = tmp_path / "crossed.csv"
    frame.to_csv(path, index=False)
    return path


def test_table_json_and_file_say_the_same(table, tmp_path):
    text = run("decompose", table, "--sources", "teacher,init")
    assert text.returncode == 0
    assert "teacher:init" in text.stdout
    assert "share" in text.stdout
    result = run("decompose", table, "--sources", "teacher, init", "--json", "--out", tmp_path / "out")
    found = json.loads(result.stdout)
    expected = kd.decompose_sources(pd.read_csv(table), ["teacher", "init"])
    average = {row["component"]: row for row in found["average"]}
    assert average["teacher"]["variance"] == pytest.approx(expected.average().estimate.sel(component="teacher").item())
    assert average["teacher"]["share_lower"] < average["teacher"]["share"] < average["teacher"]["share_upper"]
    assert found["attrs"]["n_levels"] == {"teacher": 6, "init": 5}
    written = pd.read_csv(tmp_path / "out" / "sources.csv")
    np.testing.assert_allclose(written["variance"], [row["variance"] for row in found["points"]], rtol=1e-12)


def test_columns_that_are_not_there_need_not_be_named(table):
    frame = pd.read_csv(table).query("replicate == 0 and point == 0").drop(columns=["replicate", "point"])
    frame.to_csv(table, index=False)
    result = run("decompose", table, "--sources", "teacher,init", "--method", "reml")
    assert result.returncode == 0
    assert "method reml" in result.stdout
    named = run("decompose", table, "--sources", "teacher,init", "--replicate", "row")
    assert named.returncode == 2
    assert "must have a column 'row'" in named.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--sources", "teacher,data"), "must have a column 'data'"),
        (("--sources", ""), "must have a column ''"),
        (("--sources", "teacher,init", "--method", "bayes"), "`--method` must be one of anova, reml, ml"),
        (("--sources", "teacher,init", "--interactions", 5), "`--interactions` must be at most"),
        (("--sources", "teacher,init", "--value", "price"), "`--value` must be one of"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(table, flags, words):
    result = run("decompose", table, *flags)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.filterwarnings("always::kdstats.errors.NegativeComponentWarning")
def test_a_negative_component_is_announced_on_stderr(table):
    frame = pd.read_csv(table)
    frame["value"] = np.random.default_rng(0).standard_normal(len(frame))
    frame.to_csv(table, index=False)
    result = run("decompose", table, "--sources", "teacher,init")
    assert result.returncode == 0
    assert "kdstats: warning: negative components" in result.stderr
    assert "keeps its sign" in result.stdout
