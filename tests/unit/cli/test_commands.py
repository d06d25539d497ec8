"""The command as a user meets it: exit codes, one clear line, nothing half-written."""

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import kdstats as kd
from kdstats.cli import main

STUDY = """
[data]
dataset = "diabetes"
max_points = 10
[teacher]
noise_fraction = 0.5
[design]
n_responses = 2
[run]
n_students = 80
n_simulated = 500
observe = ["linear"]
"""


def run(*arguments):
    """Run the command in this process and return what a shell would see."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = sys.argv
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


def test_predict_observe_compare_agree(study, tmp_path):
    out = tmp_path / "out"
    assert run("predict", study, "--out", out).returncode == 0
    assert run("observe", study, "--out", out, "--n-students", 400).returncode == 0
    verdict = run("compare", out / "predicted.nc", out / "observed.nc", "--json")
    assert json.loads(verdict.stdout)["verdict"] == "agree"
    assert verdict.returncode == 0


def test_a_wrong_theory_is_refuted_and_too_few_students_are_undecided(study, tmp_path):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(STUDY.replace("0.5", "1.5"))
    run("predict", wrong, "--out", tmp_path / "wrong")
    run("observe", study, "--out", tmp_path / "right", "--n-students", 400)
    assert run("compare", tmp_path / "wrong/predicted.nc", tmp_path / "right/observed.nc").returncode == 1
    run("predict", study, "--out", tmp_path / "right")
    run("observe", study, "--out", tmp_path / "few", "--n-students", 4)
    few = run("compare", tmp_path / "right/predicted.nc", tmp_path / "few/observed.nc")
    assert few.returncode == 4
    assert "UNDECIDED" in few.stdout


def test_json_has_every_number_with_its_error(study):
    result = json.loads(run("predict", study, "--engine", "monte_carlo", "--n-students", 500, "--json").stdout)
    entry = result["average"]["inter_student"]
    assert entry["lower"] < entry["estimate"] < entry["upper"]
    assert entry["standard_error"] > 0
    assert len(result["points"]) == 10
    assert result["attrs"]["engine"] == "monte_carlo"


def test_same_seed_same_output_other_seed_other_output(study):
    first, again = (run("observe", study, "--seed", 7, "--json") for _ in range(2))
    a, b = json.loads(first.stdout), json.loads(again.stdout)
    assert a["points"] == b["points"]
    assert json.loads(run("observe", study, "--seed", 8, "--json").stdout)["points"] != a["points"]


def test_report_writes_a_page_and_says_where(study, tmp_path):
    result = run("report", study, "--out", tmp_path / "out")
    assert result.returncode in (0, 4)
    assert (tmp_path / "out" / "report.html").exists()
    assert str(tmp_path / "out" / "report.html") in result.stdout
    assert "Traceback" not in result.stderr


def test_csv_in_place_of_a_study_file(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("x,m,v\n" + "\n".join(f"{i},{2 * i},{1 + i}" for i in range(10)))
    result = run(
        "predict",
        "--csv",
        table,
        "--teacher-mean",
        "m",
        "--noise-variance",
        "v",
        "-k",
        2,
        "--test-fraction",
        0,
        "--json",
    )
    assert result.returncode == 0
    assert len(json.loads(result.stdout)["points"]) == 10
    assert "kdstats: inputs: x (every column without a role; choose with --features)" in result.stderr


def test_input_columns_of_a_csv_can_be_chosen(tmp_path):
    table = tmp_path / "mine.csv"
    table.write_text("x,id,m\n" + "\n".join(f"{i % 4},{i},{2 * i}" for i in range(10)))
    flags = ["--teacher-mean", "m", "--noise-variance", 1, "--test-fraction", 0, "--json"]
    every = json.loads(run("predict", "--csv", table, *flags).stdout)
    chosen = json.loads(run("predict", "--csv", table, "--features", "x", *flags).stdout)
    assert every["average"]["inter_student"]["estimate"] == pytest.approx(0.3)  # p / n, with the intercept
    assert chosen["average"]["inter_student"]["estimate"] == pytest.approx(0.2)


def test_own_predictions_are_decomposed(tmp_path):
    table = tmp_path / "long.csv"
    rows = [f"{s},{r},{p},{s + 0.1 * r * (-1) ** p + p}" for s in range(4) for r in range(3) for p in range(2)]
    table.write_text("student,replicate,point,value\n" + "\n".join(rows))
    result = run("decompose", table, "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["attrs"]["exactness"] == "observed"


@pytest.mark.filterwarnings("ignore::kdstats.errors.NotIdentifiedWarning")
def test_a_parquet_table_of_one_output_a_student_gives_the_total_alone(tmp_path):
    path = tmp_path / "single.parquet"
    columns = {"student": list("abcd"), "replicate": [0] * 4, "point": [0] * 4, "value": [1.0, 2.0, 4.0, np.nan]}
    pd.DataFrame(columns).to_parquet(path)
    refused = run("decompose", path)
    assert refused.returncode == 2
    assert "got 1 NaN or infinite values, the first in row 3" in refused.stderr
    assert refused.stderr.count("\n") == 1
    result = run("decompose", path, "--nan-policy", "omit", "--json")
    assert result.returncode == 0
    average = json.loads(result.stdout)["average"]
    assert average["total"]["estimate"] == pytest.approx(7 / 3)
    assert average["inter_student"]["estimate"] is None


def test_what_is_not_parquet_is_refused_in_a_line(tmp_path):
    (tmp_path / "fake.parquet").write_text("student,value")
    result = run("decompose", tmp_path / "fake.parquet")
    assert result.returncode == 2
    assert "must be a Parquet file; got 'fake.parquet'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STUDY.replace("n_students = 80", "n_students = 1"), "`run.n_students`"),
        (STUDY.replace("n_responses = 2", "n_responses = 2.5"), "`design.n_responses`"),
        (STUDY.replace("n_responses = 2", "n_responses = 0"), "`n_responses` must be at least 1; got 0"),
        (STUDY.replace("[run]", "[run]\ncolour = 1"), "`run.colour` must be a known key"),
        (STUDY.replace("noise_fraction = 0.5", "noise_variance = -1.0"), "`teacher.noise_variance`"),
        (STUDY.replace("noise_fraction = 0.5", "noise_fraction = 0.5\nresponse_correlation = -1.0"), None),
        (
            STUDY.replace("noise_fraction = 0.5", "noise_fraction = 0.5\nresponse_correlation = 1.5"),
            "`response_correlation`",
        ),
        (STUDY.replace('dataset = "diabetes"', 'csv = "none.csv"\ntarget = "y"'), "No such file"),
        (STUDY.replace('dataset = "diabetes"', 'csv = "empty.csv"\ntarget = "y"'), "empty"),
        (
            STUDY.replace('dataset = "diabetes"', 'csv = "short.csv"\ntarget = "y"'),
            "at least as many rows as coefficients",
        ),
        (STUDY.replace('dataset = "diabetes"', 'csv = "constant.csv"\ntarget = "y"'), "'c' is constant"),
        (STUDY.replace('dataset = "diabetes"', 'csv = "mine.csv"\ntarget = "z"'), "`target` must name a column"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing(tmp_path, text, words):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "short.csv").write_text("a,b,c,d,y\n" + "1,2,3,4,5\n2,1,4,3,6\n3,5,1,2,2\n")
    (tmp_path / "constant.csv").write_text("a,c,y\n" + "\n".join(f"{i},1,{i}" for i in range(20)))
    (tmp_path / "mine.csv").write_text("a,y\n1,2\n2,3\n")
    path = tmp_path / "study.toml"
    path.write_text(text)
    before = sorted(p.name for p in tmp_path.iterdir())
    result = run("report", path, "--out", tmp_path / "out")
    if words is None:
        assert result.returncode in (0, 4)  # -1 is possible for two responses
        return
    assert result.returncode == 2
    assert result.stdout == ""
    assert words in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.endswith("...")]
    assert len(lines) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict"], "`STUDY` must be given"),
        (["predict", "none.toml"], "No such file"),
        (["compare", "none.nc", "none.nc"], "none.nc"),
        (["observe", "study.toml", "--engine", "quantum"], "`--engine` must be one of"),
        (["predict", "study.toml", "--n-students", "50"], "without --engine monte_carlo"),
        (["predict", "study.toml", "-k", "3"], "`--n-responses` must go with --csv"),
        (["predict", "study.toml", "--out", "study.toml"], "must be a folder that can be written"),
        (["decompose", "none.csv"], "No such file"),
        (["decompose", "none.csv", "--method", "reml"], "`--method` must go with --sources; got reml"),
        (["decompose", "none.csv", "--interactions", "1"], "`--interactions` must go with --sources; got 1"),
        (
            ["predict", "study.toml", "--engine", "monte_carlo", "--n-students", "0"],
            "`--n-students` must be at least 2",
        ),
        (["predict", "--nonsense"], "No such option"),
        (["predict", "--csv", "x.csv", "-k", "2.5"], "Invalid value for '--n-responses'"),
        (["nonsense"], "No such command"),
    ],
)
def test_bad_usage_is_exit_code_2(study, monkeypatch, arguments, words):
    monkeypatch.chdir(study.parent)
    result = run(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_interruption_keeps_finished_parts_and_says_how_to_go_on(study, tmp_path):
    code = (
        "import kdstats.study.run as stage\n"
        "def stop(*a, **k): raise KeyboardInterrupt\n"
        "stage.observe = stop\n"
        "from kdstats.cli import main; main()"
    )
    out = tmp_path / "out"
    result = subprocess.run(
        [sys.executable, "-c", code, "report", str(study), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert result.returncode == 130
    assert f"go on with: kdstats report {study} --out {out}" in result.stderr
    assert (out / "closed_form.nc").exists()
    assert "Traceback" not in result.stderr


def test_weighting_gains_and_their_refusals(study, tmp_path):
    text = run("predict", study, "--weighting-gains", "--n-students", 64)
    assert text.returncode == 0
    assert "undefined at k=2" in text.stdout
    assert "infinite variance: per-input with k<=5" in text.stdout
    out = tmp_path / "out"
    printed = run("predict", study, "--weighting-gains", "--n-students", 64, "--json", "--out", out)
    gains = json.loads(printed.stdout)
    assert gains == json.loads((out / "weighting_gains.json").read_text())
    assert gains["estimators"]["same_estimated"]["effect"] == "none"
    again = json.loads(run("predict", study, "--weighting-gains", "--n-students", 64, "--json", "--seed", 9).stdout)
    shrunken = [found["estimators"]["inputs_shrunken"]["error"] for found in (gains, again)]
    assert shrunken[0] != shrunken[1]
    refused = run("predict", study, "--weighting-gains", "--engine", "monte_carlo")
    assert refused.returncode == 2
    assert "`--engine` must be left out with --weighting-gains" in refused.stderr


def test_observe_until_decided(study, tmp_path):
    out = tmp_path / "out"
    finished = run("observe", study, "--until-decided", "--out", out, "--json", "--batch", 16)
    told = json.loads(finished.stdout)
    assert finished.returncode == {"agree": 0, "disagree": 1, "undecided": 4}[told["verdict"]]
    assert told["stopped_at"] <= told["n_trained"]
    assert (out / "observed.nc").exists()
    again = run("observe", study, "--until-decided", "--out", out, "--json", "--batch", 16)
    assert json.loads(again.stdout) == told
    assert run("observe", study, "--until-decided", "--max-students", 2).returncode == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--batch", "16"], "`--batch` must go with --until-decided"), (["--until-decided", "-S"], "No such option")],
)
def test_flags_of_until_decided_go_with_it(study, flags, message):
    finished = run("observe", study, *flags)
    assert finished.returncode == 2
    assert message in finished.stderr
    taken = run("observe", study, "--until-decided", "--n-students", "10")
    assert "`--n-students` must be left out" in taken.stderr


def test_a_sweep_over_responses_prints_the_floor_with_its_interval(study, tmp_path):
    study.write_text(STUDY + "sweep_responses = [1, 4]\nsweep_students = 40\n")
    told = json.loads(run("report", study, "--out", tmp_path / "out", "--json").stdout)["rate"]
    low, high = told["response_correlation_interval"]
    assert low <= told["response_correlation"] <= high
    text = run("report", study, "--out", tmp_path / "out").stdout
    assert f"{told['floor']:.4g}" in text
    assert f"{told['response_correlation']:.2g} [{low:.2g}, {high:.2g}]" in text


NETWORK = """
[data]
dataset = "diabetes"
max_points = 8
[teacher]
noise_fraction = 0.5
[student]
kind = "network"
hidden = [64]
activation = "erf"
optimizer = "sgd"
parameterization = "ntk"
learning_rate = 0.2
epochs = 10
[run]
n_students = 40
observe = ["networks"]
"""


def test_network_students_are_predicted_by_either_theory(tmp_path):
    study = tmp_path / "network.toml"
    study.write_text(NETWORK)
    default = json.loads(run("predict", study, "--n-students", 64, "--json").stdout)
    assert default["attrs"]["engine"] == "linear_response"
    assert json.loads(run("predict", study, "--n-students", 64, "--json").stdout)["average"] == default["average"]
    assert (
        json.loads(run("predict", study, "--n-students", 64, "--seed", 9, "--json").stdout)["average"]
        != default["average"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        told = run("predict", study, "--engine", "wide_network", "--json")
    assert "too far from their start" in told.stderr  # labels of this size move students far
    wide = json.loads(told.stdout)
    assert wide["attrs"]["engine"] == "wide_network"
    assert set(wide["attrs"]["source_variances"]) == {"teacher_output", "student_initialization"}
    refused = run("predict", study, "--engine", "wide_network", "--n-students", 50)
    assert refused.returncode == 2
    assert "`--n-students` must be left out without --engine monte_carlo or linear_response" in refused.stderr


def test_plan_prints_a_sentence_or_json_and_writes_both_files(study, tmp_path):
    flags = ("plan", study, "--budget", 900, "--prompt-cost", 5, "--response-cost", 1)
    out = tmp_path / "out"
    finished = run(*flags, "--out", out)
    assert finished.returncode == 0
    assert "Ask the teacher about" in finished.stdout
    assert "planning" in finished.stderr
    told = json.loads(run(*flags, "--json").stdout)
    assert told == json.loads((out / "plan.json").read_text())
    assert told["cost"] <= 900
    assert (out / "frontier.png").read_bytes()[:4] == b"\x89PNG"
    goal = json.loads(run("plan", study, "--goal", told["value"], *flags[4:], "--json").stdout)
    assert goal["cost"] <= told["cost"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--budget", 3, "--response-cost", 1), "`--budget` must be at least"),
        (("--budget", 900), "Missing option '--response-cost'"),
        (("--response-cost", 1), "`--budget` must be given"),
        (("--budget", 900, "--response-cost", 1, "--pilot", 1), "`--pilot` must be at least 2"),
        (("--budget", 900, "--response-cost", 1, "--target", "y"), "`--target` must go with --csv"),
    ],
)
def test_a_plan_that_cannot_be_is_one_line(study, flags, message):
    finished = run("plan", study, *flags)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stderr.count("\n") <= 2  # "planning ..." and the error
    assert not finished.stdout


@pytest.fixture
def predictions(tmp_path):
    """Twenty skewed students, three outputs each."""
    rng = np.random.default_rng(3)
    path = tmp_path / "predictions.csv"
    own = 4.0 * rng.exponential(size=20)
    rows = [(s, r, 0, own[s] + rng.normal()) for s in range(20) for r in range(3)]
    pd.DataFrame(rows, columns=["student", "replicate", "point", "value"]).to_csv(path, index=False)
    return path


def test_intervals_of_any_law_and_what_each_promises(predictions):
    gaussian, anyway = (
        json.loads(run("decompose", predictions, "--json", *flags).stdout) for flags in ((), ("--students", "any"))
    )
    upper = [found["average"]["inter_student"]["upper"] for found in (gaussian, anyway)]
    assert upper[1] > 1.2 * upper[0]
    assert "Gaussian students and their outputs" in gaussian["interval_coverage"]
    assert "students of any law" in anyway["interval_coverage"]
    expected = kd.decompose(pd.read_csv(predictions)).average().interval(students="any")["inter_student"]
    assert upper[1] == pytest.approx(float(expected.sel(ci_bound="upper").item()))
    page = run("decompose", predictions, "--students", "any").stdout
    assert "students of any law" in " ".join(page.split())
    assert "--students any" in " ".join(run("decompose", predictions).stdout.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["decompose", "{table}", "--nan-policy", "drop"], "`--nan-policy` must be one of raise, omit; got 'drop'"),
        (["decompose", "{table}", "--students", "some"], "`--students` must be one of gaussian, any; got 'some'"),
        (["decompose", "{table}", "--students", "any", "--sources", "student"], "`--students` must be left out with"),
        (["decompose", "{table}", "--student", "who"], "must have a column 'who'"),
        (["decompose", "{holes}"], "(or --nan-policy omit, which leaves NaN out)"),
        (
            ["decompose-classes", "{labels}"],
            "(--kind labels reads sampled classes, from the column that --label names)",
        ),
        (["plan", "{study}", "--response-cost", "1", "--goal", "-1"], "`--goal` must be greater than 0; got -1.0"),
        (["plan", "{study}", "--response-cost", "1"], "or `--goal` or a requirement on students in its place"),
        (["observe", "{study}", "--n-students", "1"], "`--n-students`: input should be greater than or equal to 2"),
    ],
)
def test_errors_name_flags(arguments, said, predictions, study, tmp_path):
    holes, labels = tmp_path / "holes.csv", tmp_path / "labels.csv"
    table = pd.read_csv(predictions)
    table.assign(value=table["value"].where(table.index > 0)).to_csv(holes, index=False)
    table.assign(value=np.where(table["value"] > 4, "yes", "no")).rename(columns={"value": "label"}).to_csv(
        labels, index=False
    )
    places = {"table": predictions, "holes": holes, "labels": labels, "study": study}
    result = run(*(argument.format(**places) for argument in arguments))
    assert result.returncode == 2
    assert said in result.stderr
    assert "=..." not in result.stderr


def test_the_keys_of_a_study_file_keep_their_names(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(STUDY.replace("n_students = 80", "n_students = 1"))
    assert "`run.n_students`" in run("observe", path).stderr


@pytest.mark.parametrize("verb", ["predict", "observe", "plan"])
def test_commands_of_a_study_have_the_same_posing_options(verb):
    page = run(verb, "--help").stdout
    for name in ("csv", "target", "teacher-mean", "noise-variance", "features", "n-responses", "strategy", "penalty"):
        assert f"--{name}" in page
