"""The example in its quick mode: what each strategy does to a student's own uncertainty, and that PyMC agrees."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "bayesian_students.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("bayesian_students_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def found(example):
    return example.run(example.QUICK)


@pytest.mark.slow
def test_the_example_in_its_quick_mode(example, found, tmp_path):
    rows = {key.split("/")[1]: row for key, row in found["strategies"].items()}
    assert set(rows) == set(example.STRATEGIES)
    for name in example.SAMPLED:
        predicted, sampled = rows[name]["predicted"]["intra_student"], rows[name]["sampled"]["intra_student"]
        # four students: the mean of their variances is t with 3 degrees of freedom, 12.9 at 1e-3
        assert abs(sampled[0] - predicted[0]) < 12.9 * sampled[1]
        # the same labels: what differs is the error of the chains
        exact, chains = rows[name]["exact"]["intra_student"], rows[name]["sampled"]["mcse"]["intra_student"]
        assert abs(sampled[0] - exact[0]) < 4 * chains
    assert set(found["approximations"]) == {"NUTS", "Laplace", "ADVI"}
    example.write(found, tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["strategies"].keys() == found["strategies"].keys()
    text = (tmp_path / "summary.md").read_text()
    assert text.count("\n| diabetes, ") == len(example.STRATEGIES) + len(example.SAMPLED)
    assert text.count(" of 50 | ") == len(example.SAMPLED)
    assert "PyMC, hierarchical" in text
    assert (tmp_path / "bayesian_students.png").stat().st_size > 10_000


def test_which_student_reflects_its_teacher(example):
    """Rows kept apart cover at their level; a mean of 5 leaves a student sqrt(5) times too sure; told, too unsure."""
    import kdstats as kd

    X, mean, noise = example.standardised("diabetes", 400)
    fits = {
        name: kd.predictive_calibration(example.posed(X, mean, noise, name), n_students=100, rng=1)
        for name in example.STRATEGIES
    }
    # a student's noise is known from 400 rows to 3.5%, which takes less than .004 off a coverage of .95
    for name in ("5 rows", "one response", "mean of 5, told, weight 5", "mean of 5, told the noise of one"):
        assert abs(fits[name].coverage[-1] - 0.95) < 0.01, name
    assert fits["mean of 5"].coverage[-1] < 0.70
    assert fits["mean of 5"].sharpness == pytest.approx(1.0 / np.sqrt(example.K), rel=0.1)
    wrong = kd.predict(example.posed(X, mean, noise, "mean of 5, told the noise of one")).intra_parts.parameter
    right = kd.predict(example.posed(X, mean, noise, "mean of 5, told, weight 5")).intra_parts.parameter
    # the trap is in the parameters: 5 times too uncertain of what students differ by, up to the prior
    assert 4.0 < float(wrong.mean() / right.mean()) <= 5.0
