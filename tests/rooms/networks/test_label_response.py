"""The derivative of a training run with respect to its labels, against differences of whole runs."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import DivergedStudentError
from kdstats.networks.architecture import architecture_of, initial_parameters, predict
from kdstats.networks.tangents import label_response
from kdstats.networks.training import train_networks

N, P, Q, B = 30, 4, 2, 3
GENERATOR = np.random.default_rng(0)
X, LABELS, POINTS = (GENERATOR.normal(size=shape) for shape in ((N, P), (N, Q), (5, P)))
DIRECTIONS = GENERATOR.normal(size=(N, Q, B))
#: Step of the central differences: their error is STEP**2 from curvature and 1e-16 / STEP from rounding.
STEP, TOLERANCE = 1e-6, 1e-7
STUDENTS = [
    kd.NetworkStudent(hidden=hidden, activation=activation, learning_rate=0.02, epochs=30, **options)
    for hidden in ((6,), (5, 4, 3))
    for activation in ("relu", "tanh", "erf", "gelu")
    for options in (
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.5},
        {"optimizer": "sgd", "momentum": 0.8, "weight_decay": 0.1},
        {"optimizer": "sgd", "parameterization": "ntk", "bias_variance": 0.3},
    )
]


def start(student, seed=1):
    return initial_parameters(
        architecture_of(student, n_features=P, n_outputs=Q), np.random.default_rng(seed), n_students=1
    )


def respond(student, labels=LABELS, directions=DIRECTIONS, **options):
    return label_response(
        X, labels, student=student, initial=start(student), directions=directions, points=POINTS, **options
    )


def difference(student):
    ends = [
        respond(student, LABELS + sign * STEP * DIRECTIONS[..., b], DIRECTIONS[..., :1], double=True).predictions
        for b in range(B)
        for sign in (1, -1)
    ]
    return np.stack([(ends[2 * b] - ends[2 * b + 1]) / (2 * STEP) for b in range(B)], axis=-1)


def relative_error(response, truth):
    return np.abs(response - truth).max() / np.abs(truth).max()


@pytest.mark.parametrize("student", STUDENTS, ids=lambda s: f"{s.hidden}-{s.activation}-{s.optimizer}-{s.momentum}")
def test_response_against_differences_of_runs(student):
    assert relative_error(respond(student, double=True).response, difference(student)) < TOLERANCE


def test_the_comparison_notices_a_slightly_different_run():
    student, other = (kd.NetworkStudent(hidden=(6,), epochs=30, learning_rate=rate) for rate in (0.02, 0.02001))
    assert relative_error(respond(other, double=True).response, difference(student)) > 100 * TOLERANCE


@pytest.mark.parametrize("student", STUDENTS[::5], ids=lambda s: f"{s.hidden}-{s.activation}-{s.optimizer}")
def test_the_run_is_that_of_students(student):
    trained = train_networks(X, LABELS[None], student=student, initial=start(student)).parameters
    ours = predict(architecture_of(student, n_features=P, n_outputs=Q), trained, POINTS)[0]
    exact = respond(student, double=True).predictions
    single = respond(student).predictions
    # Two float32 runs and a float64 one: the batch must not be further off than rounding of 30 steps allows.
    assert np.abs(single - exact).max() < 1e-4
    assert np.abs(ours - exact).max() < 1e-4


def test_many_rows_are_cut_into_tiles(monkeypatch):
    student = STUDENTS[4]
    whole = respond(student, double=True).response
    monkeypatch.setattr("kdstats.networks.tangents.TILE_SIZE", 7 * B * 6)
    np.testing.assert_allclose(respond(student, double=True).response, whole, rtol=1e-9)


def test_a_unit_that_is_always_off_does_not_respond():
    student = kd.NetworkStudent(hidden=(1,), epochs=20, optimizer="adam")
    dead = tuple(layer.copy() for layer in start(student))
    dead[0][0] = np.array([[0.0]] * P + [[-5.0]])
    found = label_response(X, LABELS, student=student, initial=dead, directions=DIRECTIONS, points=POINTS, double=True)
    assert np.isfinite(found.response).all()
    assert np.ptp(found.response, axis=0).max() == 0.0  # only the output bias is left


def test_divergence_is_an_error_that_says_what_to_change():
    student = kd.NetworkStudent(hidden=(6,), optimizer="sgd", learning_rate=60.0, epochs=200)
    with pytest.raises(DivergedStudentError, match=r"within 200 steps; `learning_rate` must be smaller than 60"):
        respond(student)
