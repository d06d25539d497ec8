"""The network experiments: predictions that hold, entropies that collapse on hard labels of a teacher with doubts."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "paper_network_experiments.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT.stem] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[SCRIPT.stem]


def test_hard_labels_collapse_entropy_and_soft_labels_do_not(example):
    """A teacher with doubts: log ratios of the students' mean entropy to the teacher's, at its own inputs."""
    X = np.random.default_rng(1).normal(size=(40, 3))
    odds = np.exp(X @ np.random.default_rng(2).normal(size=(3, 3)) * 0.7)
    p = odds / odds.sum(axis=1, keepdims=True)
    whole = example.entropy_of(p).mean()
    assert whole > 0.5
    ratios = {}
    for kind in ("hard", "soft"):
        students = example.class_students(X, p, X, 8, n=6, labels=kind, rng=3)
        ratios[kind] = example.ratio_point(kind, np.log(example.entropy_of(students).mean(axis=1) / whole))
    assert ratios["hard"].upper < 0.5
    assert 0.9 < ratios["soft"].lower
    assert ratios["soft"].upper < 1.1


@pytest.mark.slow
def test_entropies_of_wine_are_written(example, tmp_path):
    found = example.run(example.QUICK, only=["entropy"])
    hard, soft = (found["entropy"].series(f"wine: {kind} over teacher")[0] for kind in ("hard", "soft"))
    assert soft.lower < soft.measured < soft.upper
    assert hard.measured > 0.0
    example.write(found, example.QUICK, tmp_path)
    assert (tmp_path / "entropy.png").exists()
    assert "| wine | correct |" in (tmp_path / "summary.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["entropy"]["points"]


def test_entropies_are_apart_by_whether_the_student_is_right(example):
    sure, unsure = [0.98, 0.02], [0.45, 0.55]
    predictions = [np.array([[sure, unsure]]), np.array([[sure, sure[::-1]]])]
    points = example.entropy_points("x", "hard", predictions, np.array([0, 0]))
    means = {point.quantity.split(", ")[1]: point.measured for point in points}
    low, high = (float(example.entropy_of(np.array(p))) for p in (sure, unsure))
    assert means["correct"] == pytest.approx(low)
    assert means["incorrect"] == pytest.approx((low + high) / 2)


def test_oracle_weighting_is_noise_of_the_stated_variance(example):
    for k in (2, 5, 20):
        chi = np.random.default_rng(k).chisquare(k - 1, 400_000)
        draws = (1 + chi / k) ** -2
        assert abs(example.oracle_gain(k) - draws.mean()) < 4 * draws.std() / np.sqrt(draws.size)


def test_parameters_of_perturbed_starts_vary_by_the_square_of_the_perturbation(example):
    student = example.kd.NetworkStudent(hidden=(16,), weight_variance=2.0, epochs=20)
    boston = example.load_boston()
    size, start, end = example.parameter_points(boston, student, 0.3, 32)
    for point in (size, start):
        assert abs(point.measured - point.predicted) < 4.5 * point.error
    assert abs(start.measured - start.predicted * (0.4 / 0.3) ** 2) > 4.5 * start.error
    assert np.isnan(end.predicted)
    assert end.measured != start.measured


@pytest.mark.slow
def test_predictions_hold_in_quick_mode(example):
    found = example.run(example.QUICK, only=["noise", "averaging", "initialization", "bootstrap"])
    for name in ("noise", "averaging"):
        ratios = [p.measured / p.predicted for p in found[name].points if np.isfinite(p.predicted)]
        assert len(ratios) >= 5
        assert 0.75 < np.exp(np.mean(np.log(ratios))) < 1.33  # 60 students know a variance to a fifth or better
    assert (
        found["initialization"].series("perturbed")[-1].measured
        > found["initialization"].series("perturbed")[0].measured
    )
    assert found["bootstrap"].series("A")[0].measured > found["bootstrap"].series("A")[-1].measured
