"""Predictions of networks that are refused before any work, and teachers that leave nothing to compare."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import PredictionError
from kdstats.prediction.networks import class_response, response

MANY = np.random.default_rng(0).normal(size=(12000, 4))


@pytest.fixture
def no_work(monkeypatch):
    """Whatever trains or differentiates fails."""

    def fail(*_, **__):
        raise AssertionError("work was done")

    for module, name in (
        (response, "run_pilot"),
        (class_response, "label_response"),
        (class_response, "train_networks"),
    ):
        monkeypatch.setattr(module, name, fail)


def test_derivatives_by_too_many_labels_say_their_size_first(no_work):
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(MANY, MANY[:, 0], noise_variance=0.1),
        student=kd.NetworkStudent(hidden=(64,)),
        design=kd.Design(MANY[:5], sources=["teacher_output"]),
    )
    size = 4 * 64 + 64 + 64 + 1
    gib = 12000 * (16 * size + 24 * 12005) / 2**30
    message = rf"{size} parameters along 12000 directions of the labels would take {gib:.1f} GiB, .*kdstats.observe"
    with pytest.raises(PredictionError, match=message):
        kd.predict(problem, response="tangent", rng=1)


def test_derivatives_along_too_many_label_sets_say_their_size_first(no_work):
    X = MANY[:6000]
    odds = np.exp(X[:, :2])
    problem = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(odds / odds.sum(axis=1, keepdims=True), X),
        student=kd.NetworkStudent(hidden=(2048, 2048), head="softmax"),
        design=kd.Design(MANY[:5], sources=["teacher_output"]),
    )
    with pytest.raises(PredictionError, match=r"4210690 parameters along 256 directions .* would take 16.1 GiB"):
        kd.predict(problem, response="tangent", rng=1)


@pytest.mark.filterwarnings("ignore::kdstats.errors.KdstatsWarning")
def test_a_teacher_of_no_variance_leaves_no_verdict():
    X = MANY[:20]
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=0.0),
        student=kd.NetworkStudent(hidden=(4,), epochs=5),
        design=kd.Design(X[:3], sources=["teacher_output"]),
    )
    predicted, observed = kd.predict(problem, rng=1), kd.observe(problem, n_students=40, rng=1)
    assert (predicted.total.values == 0.0).all()
    assert (observed.total.values == 0.0).all()
    assert kd.compare(predicted, observed).verdict == "agree"
    noisy = kd.predict(problem.with_teacher(noise_variance=0.1), rng=1, n_students=64)
    verdict = kd.compare(noisy, observed)
    assert verdict.verdict == "undecided"
    assert "degenerate" in verdict.reason
