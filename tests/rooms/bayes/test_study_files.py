"""Sampled Bayesian students in TOML: problems of every named model, studies, and the command."""

import sys
import types

import numpy as np
import pytest
from typer.testing import CliRunner

import kdstats as kd
from kdstats.cli.application import application
from kdstats.study import Study, run_study

STUDY = """
[data]
dataset = "diabetes"
max_points = 4
[teacher]
noise_fraction = 0.2
[student]
kind = "bayesian"
model = "MODEL"
prior_variance = 2.0
[design]
n_responses = 2
strategy = "multi_response"
[run]
n_students = 2
"""


def study(tmp_path, model="student_t", more=""):
    path = tmp_path / "study.toml"
    path.write_text(STUDY.replace("MODEL", model) + more)
    return path


@pytest.mark.parametrize("model", ["gaussian", "student_t", "horseshoe", "hierarchical", "logistic", "softmax"])
def test_problems_of_every_model_read_back(model):
    rng = np.random.default_rng(0)
    X, of_classes = rng.normal(size=(6, 2)), model in ("logistic", "softmax")
    options = {"groups": np.arange(6) % 2, "query_groups": np.arange(6) % 2} if model == "hierarchical" else {}
    options |= {"teacher_weight": 0.5} if of_classes else {"noise_scale": 0.3}
    teacher = kd.CategoricalTeacher(np.full((6, 2), 0.5), X) if of_classes else kd.GaussianTeacher(X, X[:, 0])
    problem = kd.DistillationProblem(
        teacher=teacher,
        student=kd.BayesianStudent(model=model, prior_variance=1.7, likelihood_power=0.5, **options),
        design=kd.Design(),
    )
    again = kd.DistillationProblem.from_toml(problem.to_toml())
    assert again.fingerprint() == problem.fingerprint()
    assert again.student.model == model
    other = problem.with_student(likelihood_power=0.25)
    assert kd.DistillationProblem.from_toml(other.to_toml()).fingerprint() != problem.fingerprint()


def own_model(data):
    """Never called."""


def test_models_of_users_are_not_written():
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(np.eye(3), np.zeros(3)),
        student=kd.BayesianStudent(model=own_model),
        design=kd.Design(),
    )
    with pytest.raises(kd.errors.ProblemError, match="`model` must be left out of a problem that is written to TOML"):
        problem.to_toml()


@pytest.fixture
def sampler(monkeypatch):
    """Stand for the engine: keep what it is asked, and answer with the exact components of a linear student."""
    asked = []

    def answer(problem, **options):
        asked.append((problem, options))
        linear = kd.BayesianLinearStudent(fit_intercept=True)
        return kd.predict(kd.DistillationProblem(teacher=problem.teacher, student=linear, design=problem.design))

    monkeypatch.setitem(sys.modules, "stand_in", types.SimpleNamespace(predict=answer, observe=answer))
    monkeypatch.setitem(kd.engine.PREDICTION_ENGINES, "pymc", "stand_in:predict")
    monkeypatch.setitem(kd.engine.OBSERVATION_ENGINES, "pymc", "stand_in:observe")
    return asked


@pytest.mark.parametrize("model", ["gaussian", "student_t", "horseshoe"])
def test_the_command_asks_for_the_model_of_the_file(tmp_path, sampler, model):
    done = CliRunner().invoke(application, ["predict", str(study(tmp_path, model)), "--n-students", "3"])
    assert done.exit_code == 0, done.output
    problem, options = sampler[0]
    assert (problem.student.model, problem.student.prior_variance) == (model, 2.0)
    assert (options["n_students"], options["noise_law"]) == (3, "gaussian")
    assert CliRunner().invoke(application, ["observe", str(study(tmp_path, model))]).exit_code == 0
    assert sampler[1][1]["n_students"] == 2


def test_a_study_samples_its_students(tmp_path, sampler):
    result = run_study(Study.from_toml(study(tmp_path)))
    assert list(result.observed) == ["pymc"]
    assert result.predicted is None
    assert len(sampler) == 1


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("lasso", "", r"student.model`: .*gaussian"),
        ("student_t", 'observe = ["conjugate"]\n', r"`run.observe` must be out of \['pymc'\] for a BayesianStudent"),
        ("student_t", 'observe = ["linear"]\n', r"`run.observe` must be out of \['pymc'\] for a BayesianStudent"),
    ],
)
def test_bad_study_files(tmp_path, model, more, message):
    with pytest.raises(kd.errors.KdstatsError, match=message):
        run_study(Study.from_toml(study(tmp_path, model, more)))


@pytest.mark.slow
def test_a_study_really_sampled(tmp_path):
    done = CliRunner().invoke(application, ["predict", str(study(tmp_path, "gaussian")), "--n-students", "2"])
    assert done.exit_code == 0, done.output
    assert "pymc" in done.output
