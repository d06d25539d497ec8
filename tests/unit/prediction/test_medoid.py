"""Variance of the medoid: figures for Gaussian responses, enumeration against brute force and drawing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import ProblemError
from kdstats.prediction import medoid


@pytest.mark.parametrize("dimension", [1, 3, 10])
def test_gaussian_against_medoids_that_were_chosen(dimension):
    predicted = kd.medoid_variance(5, dimension=dimension, n_draws=20_000, rng=1)
    x = np.random.default_rng(2).normal(size=(20_000, 5, dimension))
    nearest = ((x - x.mean(axis=1, keepdims=True)) ** 2).sum(axis=2).argmin(axis=1)
    squares = (x[np.arange(len(x)), nearest] ** 2).mean(axis=1)
    error = np.hypot(squares.std(ddof=1) / np.sqrt(len(x)), predicted.standard_error)
    assert abs(squares.mean() - predicted.ratio) < 4 * error
    assert abs(squares.mean() - 0.2) > 4 * error  # not the 1/k of an average


@pytest.mark.parametrize(("dimension", "figure"), [(1, 0.27), (10, 0.64), (384, 0.94)])
def test_known_figures(dimension, figure):
    found = kd.medoid_variance(5, dimension=dimension, rng=3)
    assert abs(found.ratio - figure) < 0.005 + 4 * found.standard_error  # figures are rounded to two digits


def test_median_of_three():
    found = kd.medoid_variance(3, dimension=1, rng=4)  # the middle one of three is the nearest to their mean
    assert abs(found.ratio - (1 - np.sqrt(3) / np.pi)) < 4 * found.standard_error


def test_one_and_two_responses_gain_nothing():
    assert kd.medoid_variance(1, dimension=7, n_draws=100, rng=1).ratio == pytest.approx(1.0)
    two = kd.medoid_variance(2, dimension=7, rng=1)
    assert abs(two.ratio - 1.0) < 4 * two.standard_error
    assert kd.medoid_variance(2, embeddings=np.eye(3)).ratio == pytest.approx(1.0)


def test_enumeration_against_all_sequences():
    rng = np.random.default_rng(5)
    points, law = rng.normal(size=(4, 2)), rng.dirichlet(np.ones(4))
    chosen = np.zeros(4)
    for sequence in itertools.product(range(4), repeat=4):
        x = points[list(sequence)]
        distance = ((x - x.mean(axis=0)) ** 2).sum(axis=1)
        best = [c for c, d in zip(sequence, distance, strict=True) if d <= distance.min() + 1e-9]
        for c in best:
            chosen[c] += np.prod(law[list(sequence)]) / len(best)
    found = kd.medoid_variance(4, embeddings=points, probabilities=law)
    assert found.exactness == "exact"
    assert found.label_law == pytest.approx(chosen, abs=1e-12)
    mean, centre = chosen @ points, law @ points
    spread = law @ ((points - centre) ** 2).sum(axis=1)
    assert found.ratio == pytest.approx(chosen @ ((points - mean) ** 2).sum(axis=1) / spread)
    assert found.squared_bias == pytest.approx(((mean - centre) ** 2).sum() / spread)


def test_medoid_of_classes_is_the_plurality():
    found = kd.medoid_variance(3, embeddings=np.eye(2), probabilities=[0.7, 0.3])
    majority = 0.7**3 + 3 * 0.7**2 * 0.3
    assert found.label_law == pytest.approx([majority, 1 - majority])


def test_drawn_against_enumerated(monkeypatch):
    rng = np.random.default_rng(6)
    points, law = rng.normal(size=(6, 3)), rng.dirichlet(np.ones(6))
    exact = kd.medoid_variance(5, embeddings=points, probabilities=law)
    monkeypatch.setattr(medoid, "MAX_OUTCOMES", 1)
    drawn = kd.medoid_variance(5, embeddings=points, probabilities=law, rng=7)
    assert drawn.exactness == "monte_carlo"
    assert 0 < abs(drawn.ratio - exact.ratio) < 4 * drawn.standard_error
    assert abs(drawn.squared_bias - exact.squared_bias) < 0.05


def test_answers_of_probability_zero_do_not_matter():
    found = kd.medoid_variance(3, embeddings=np.eye(3), probabilities=[0.7, 0.3, 0.0])
    assert len(found.label_law) == 2


def test_summary():
    assert "where averaging would give 0.2" in kd.medoid_variance(5, embeddings=np.eye(2)).summary()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither"),
        ({"dimension": 2, "embeddings": np.eye(2)}, "both"),
        ({"dimension": 2, "probabilities": [1.0]}, "go with"),
        ({"embeddings": np.ones((2, 2))}, "differ"),
        ({"embeddings": np.eye(2), "probabilities": [0.5, 0.6]}, "sum to 1"),
        ({"embeddings": np.eye(2), "probabilities": [1.0]}, "2 numbers"),
        ({"dimension": 0}, "at least 1"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ProblemError, match=message):
        kd.medoid_variance(5, **options)


def medians(points, law):
    """The middle one of three on a line is the medoid."""
    chosen = np.zeros(len(points))
    for sequence in itertools.product(range(len(points)), repeat=3):
        chosen[sorted(sequence, key=lambda c: points[c])[1]] += np.prod(np.asarray(law)[list(sequence)])
    return chosen


@pytest.mark.parametrize("far", [1e5, 1e9, 1e200])
@pytest.mark.parametrize("kept", [4096, 1])
def test_a_far_answer_does_not_make_near_ones_tie(monkeypatch, far, kept):
    monkeypatch.setattr(medoid, "MAX_ANSWERS", kept)
    near = far * 1e-9 if far > 1e9 else 1.0
    points, law = [0.0, near, far], [0.2, 0.79, 0.01]
    found = kd.medoid_variance(3, embeddings=np.array(points)[:, None], probabilities=law)
    assert found.label_law == pytest.approx(medians(points, law), abs=1e-12)


@pytest.mark.parametrize("kept", [4096, 1])
def test_equally_near_answers_tie_wherever_they_lie(monkeypatch, kept):
    monkeypatch.setattr(medoid, "MAX_ANSWERS", kept)
    for shift, scale in ((0.0, 1.0), (1000.0, 0.1), (0.0, 1e200), (0.0, 1e-200)):
        points = shift + scale * np.arange(4.0)[:, None]
        law = kd.medoid_variance(4, embeddings=points).label_law
        assert law == pytest.approx(law[::-1], abs=1e-12)
        assert law == pytest.approx(kd.medoid_variance(4, embeddings=np.arange(4.0)[:, None]).label_law, abs=1e-12)
    apart = kd.medoid_variance(2, embeddings=[[1.0, 0.0], [1.0, 1e-200]], probabilities=[0.2, 0.8])
    assert apart.label_law == pytest.approx([0.2, 0.8])


def test_many_gaussian_responses_are_drawn_in_parts_or_refused(monkeypatch):
    shapes = []
    draw = medoid._gram_root
    monkeypatch.setattr(medoid, "_gram_root", lambda rng, *shape: shapes.append(shape) or draw(rng, *shape))
    found = kd.medoid_variance(300, dimension=200, n_draws=300, rng=1)
    assert sum(size for size, *_ in shapes) >= 300
    assert max(size * k * min(k, d) for size, k, d in shapes) <= 2**24
    assert 0.0 < found.standard_error < 0.01
    with pytest.raises(ProblemError, match="`n_draws` must be at most 13020 for 2000 responses in 384 dimensions; got"):
        kd.medoid_variance(2000, dimension=384)
