"""Problems as text: what is written reads back bit for bit, and what is wrong is named."""

import dataclasses
import re

import numpy as np
import pytest

import kdstats as kd

RNG = np.random.default_rng(1)
X = RNG.normal(size=(7, 2)) * np.array([1e-17, 1e211]) / 3
MEAN = RNG.normal(size=7) / 7
ROOT = RNG.normal(size=(7, 7))


def make(teacher=None, student=None, design=None, mean=MEAN):
    student = kd.LinearStudent(**student) if isinstance(student, dict) else student or kd.LinearStudent()
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, **teacher or {}), student=student, design=kd.Design(**design or {})
    )


PROBLEMS = {name: getattr(kd.catalog, name)() for name in kd.catalog.__all__} | {
    "per_input": make({"noise_variance": RNG.uniform(size=7), "input_correlation": 1 / 3, "response_correlation": 0.1}),
    "full": make({"noise_variance": ROOT @ ROOT.T, "fitting_covariance": ROOT.T @ ROOT}),
    "outputs": make(mean=RNG.normal(size=(7, 3))),
    "names": make({"feature_names": ("a b", 'quote " and \\ and é')}),
    "weights": make(student={"weights": RNG.uniform(0.1, 1, 7), "penalty": 1 / 3}),
    "estimated": make(student={"weights": "estimated"}, design={"n_responses": 8}),
    "covariance": make(student={"covariance": ROOT @ ROOT.T + np.eye(7), "residual_variance": "mle"}),
    "steps": make(
        student={
            "training": kd.GradientDescent(n_steps=np.int64(3), learning_rate=0.1 + 0.2),
            "fit_intercept": np.False_,
        }
    ),
    "network": make(student=kd.NetworkStudent(hidden=(3, np.int64(2)), learning_rate=1e-3)),
    "query": make(design={"X_query": X[:3] * np.pi, "point_labels": ["a", 2, ("c", 0.1)]}),
    "sources": make(design={"sources": ["teacher_output"], "n_responses": 3, "strategy": "multi_response"}),
    "resampled": make(design={"resample_size": np.int64(5)}),
    "pilot": make(design={"n_responses": 4, "strategy": "variance_weighting"}),
    "array": make(
        design={
            "n_responses": 2,
            "strategy": "variance_weighting",
            "weighting": kd.VarianceWeighting(
                student_estimate=MEAN / 3, student_variance=1 / 3, weight=RNG.uniform(size=7)
            ),
        }
    ),
    "chain": make(design={"n_generations": np.int64(4)}),
}


def assert_identical(one, other):
    assert type(one) is type(other)
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_identical(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()
    else:
        assert one == other


@pytest.mark.parametrize("name", PROBLEMS)
def test_round_trip_bit_for_bit(name, tmp_path):
    problem = PROBLEMS[name]
    text = problem.to_toml()
    again = kd.DistillationProblem.from_toml(text)
    assert_identical(problem, again)
    assert again.fingerprint() == problem.fingerprint()
    assert again.to_toml() == text
    path = tmp_path / "problem.toml"
    path.write_text(text, encoding="utf-8")
    assert_identical(problem, kd.DistillationProblem.from_toml(path))


TEXT = PROBLEMS["intercept_only"].to_toml()


def without(key):
    table = re.compile(rf"^{key} = (\[.*?^\]|[^\n]*)\n", re.MULTILINE | re.DOTALL)
    assert table.search(TEXT)
    return table.sub("", TEXT)


def with_line(table, line):
    assert f"[{table}]\n" in TEXT
    return TEXT.replace(f"[{table}]\n", f"[{table}]\n{line}\n")


BAD = [
    ("", "`source` must have the tables teacher, student and design; got no [teacher]"),
    (TEXT[: TEXT.index("[design]")], "`source` must have the tables teacher, student and design; got no [design]"),
    (TEXT + "\n[budget]\n", "`source` must have only the tables teacher, student, design; got [budget]"),
    ("teacher = 1\nstudent = 2\ndesign = 3\n", "`teacher` must be a table; got 1"),
    ("[teacher", "`source` must be valid TOML; got "),
    (with_line("teacher", "nois_variance = 1"), "`teacher.nois_variance` must be one of the known keys ("),
    (with_line("design", "seed = 1"), "`design.seed` must be one of the known keys ("),
    (
        TEXT + "[student.training]\nrate = 1\n",
        "`student.training.rate` must be one of the known keys",
    ),
    (
        TEXT + "[student.training]\nn_steps = 1\n",
        "`student.training` must have every key it needs; got missing 1 required keyword",
    ),
    (without("mean"), "`teacher` must have every key it needs; got missing 1 required positional"),
    (
        TEXT.replace('kind = "gaussian"', 'kind = "cauchy"'),
        "`teacher.kind` must be one of gaussian, categorical; got cauchy",
    ),
    (TEXT.replace('kind = "gaussian"', "kind = [1]"), "`teacher.kind` must be one of gaussian, categorical; got [1]"),
    (
        TEXT.replace('kind = "linear"\n', ""),
        "`student.kind` must be one of linear, network, bayesian_linear, bayesian, tabular, dirichlet, softmax; "
        "got None",
    ),
    (TEXT.replace("penalty = 0.0", "penalty = -1"), "`penalty` must be at least 0; got -1.0"),
    (TEXT.replace("penalty = 0.0", "penalty = nan"), "`penalty` must be finite; got nan"),
    (TEXT.replace("penalty = 0.0", "penalty = 2000-01-01"), "`penalty` must be a number; got"),
    (TEXT.replace("n_responses = 1", "n_responses = 1.5"), "`n_responses` must be an integer of at least 1; got 1.5"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_text_is_named(text, message):
    assert text != TEXT
    with pytest.raises(kd.errors.ProblemError, match=f"^{re.escape(message)}"):
        kd.DistillationProblem.from_toml(text)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for path, reason in [("missing.toml", "No such file"), ("binary.toml", "not UTF-8 text"), ("", "Is a directory")]:
        with pytest.raises(kd.errors.ProblemError, match=f"`source` must be a file that can be read; got .*: {reason}"):
            kd.DistillationProblem.from_toml(tmp_path / path)
    with pytest.raises(kd.errors.ProblemError, match="`source` must be TOML text or a Path; got a int"):
        kd.DistillationProblem.from_toml(3)


def test_kind_of_a_design_may_be_left_out():
    assert "kind" in TEXT[TEXT.index("[design]") :]
    shorter = TEXT.replace('kind = "design"\n', "")
    assert_identical(kd.DistillationProblem.from_toml(shorter), PROBLEMS["intercept_only"])
