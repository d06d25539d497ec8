"""Predictions of networks that are refused before any work, and teachers that leave nothing to compare."""

import numpy as np
import pytest
import torch

import kdstats as kd
from kdstats.errors import DivergedStudentError, ObservationError, PredictionError, ProblemError
from kdstats.networks import memory
from kdstats.networks.architecture import Architecture
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


def make(student, **design):
    X = MANY[:20]
    teacher = kd.GaussianTeacher(X, X[:, 0], noise_variance=0.1)
    return kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(X[:3], **design))


def linear(p, q):
    return torch.nn.Sequential(torch.nn.Linear(p, 4), torch.nn.Tanh(), torch.nn.Linear(4, q))


class Logarithm(torch.nn.Linear):
    """Not a number where a row's output is negative."""

    def forward(self, rows):
        return torch.log(super().forward(rows))


@pytest.mark.parametrize(
    "options",
    [
        {"module": linear},
        {"dropout": 0.3},
        {"head": "gaussian"},
        {"hidden": (6, 6), "batch_size": 7},
        {"early_stopping": kd.EarlyStopping()},
    ],
    ids=["module", "dropout", "gaussian", "batches", "stopping"],
)
def test_training_that_explodes_names_student_step_and_what_to_change(options):
    student = kd.NetworkStudent(optimizer="sgd", learning_rate=1e6, epochs=60, **options)
    message = r"student \d+ diverged after step [1-9]\d* of \d+ \(.*`learning_rate` must be smaller than 1e\+06"
    with pytest.raises(DivergedStudentError, match=message):
        kd.observe(make(student), n_students=6, rng=1)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0, 10**9, 3], {}, r"`labels` must number classes .*; got 3 x 1000000001 probabilities"),
        ([0, 1], {"n_classes": 10**10}, r"`labels` must number classes .*; got 2 x 10000000000 probabilities"),
        ([0, 0.9999999999], {}, r"`labels` must be integers .*; got 0.9999999999 at index 1"),
        ([0, 1], {"class_labels": 2}, "`class_labels` must be a sequence of labels; got 2"),
        ([0, 1], {"class_labels": iter("ab")}, "`class_labels` must be a sequence of labels"),
    ],
)
def test_labels_that_are_no_classes(labels, options, message):
    with pytest.raises(ProblemError, match=message):
        kd.CategoricalTeacher.from_labels(labels, **options)


def test_a_first_loss_that_is_not_finite_is_not_put_down_to_the_learning_rate():
    message = r"student \d+ diverged after step 0 of 5, its first loss is not finite .*`module` must give finite"
    with pytest.raises(DivergedStudentError, match=message):
        kd.observe(make(kd.NetworkStudent(module=Logarithm, epochs=5)), n_students=6, rng=1)


def test_a_student_beyond_the_memory_of_the_machine_says_its_size_first(monkeypatch):
    with pytest.raises(ObservationError, match=r"`hidden` must make students that fit .*40001400001 parameters.* GiB"):
        kd.observe(make(kd.NetworkStudent(hidden=(200_000, 200_000))), n_students=2, rng=1)
    shape = Architecture(widths=(3, 5, 1), activation="relu")
    needed = 4 * (memory.PARAMETER_COPIES * (4 * 5 + 6) + memory.UNIT_COPIES * 10 * 6)
    monkeypatch.setattr(memory, "machine_memory", lambda: float(needed))
    memory.refuse_too_large(shape, n_rows=10)
    monkeypatch.setattr(memory, "machine_memory", lambda: float(needed - 1))
    with pytest.raises(ObservationError, match="26 parameters"):
        memory.refuse_too_large(shape, n_rows=10)


def test_labels_outside_the_classes():
    X, labels = MANY[:20], np.arange(20) % 3
    teacher = kd.CategoricalTeacher.from_labels(labels, X, class_labels=["a", "b", "c"])
    assert np.array_equal(teacher.probabilities.argmax(axis=1), labels)
    assert kd.CategoricalTeacher.from_labels(labels).n_outputs == 3
    with pytest.raises(ProblemError, match=r"`labels` must be integers from 0 to 2, .*got 7 at index 3 \(2 of 20"):
        kd.CategoricalTeacher.from_labels([0, 1, 2, 7, -1, *labels[5:]], n_classes=3)
    for wrong in ([0, -1], [0.5, 1], [0, np.nan], ["a", "b"], [[0, 1]]):
        with pytest.raises(ProblemError, match="`labels` must"):
            kd.CategoricalTeacher.from_labels(wrong)
    with pytest.raises(ProblemError, match=r"one column per class \(labels go to CategoricalTeacher.from_labels\)"):
        kd.CategoricalTeacher(labels, X)
    with pytest.raises(ProblemError, match="`head` must be mean or gaussian for a GaussianTeacher; got softmax"):
        make(kd.NetworkStudent(head="softmax"))


@pytest.mark.filterwarnings("ignore::kdstats.errors.KdstatsWarning")
@pytest.mark.parametrize("engine", [{}, {"response": "tangent"}])
def test_a_teacher_of_classes_without_doubt_makes_no_difference_to_the_bit(engine):
    X = MANY[:20]
    problem = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher.from_labels((X[:, 0] > 0).astype(int), X),
        student=kd.NetworkStudent(hidden=(4,), head="softmax", epochs=5),
        design=kd.Design(X[:3], sources=["teacher_output"]),
    )
    predicted, observed = kd.predict(problem, rng=1, n_students=16, **engine), kd.observe(problem, n_students=40, rng=1)
    assert (predicted.inter_student.values == 0.0).all()
    assert (observed.inter_student.values == 0.0).all()
    assert (kd.predict(problem.with_design(sources=None), rng=1, n_students=16).inter_student.values > 0.0).all()


def test_a_teacher_of_no_variance_under_the_theory_of_wide_networks():
    X = MANY[:20]
    student = kd.NetworkStudent(hidden=(512,), optimizer="sgd", parameterization="ntk", learning_rate=0.1, epochs=20)
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=0.0), student=student, design=kd.Design(X[:3])
    )
    answer = kd.predict(problem, engine="wide_network", rng=1)
    assert answer.attrs["source_variances"]["teacher_output"] == 0.0
