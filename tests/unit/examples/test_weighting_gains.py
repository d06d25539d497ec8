"""The example in its quick mode: the oracle's formula, and intervals that hold predictions as often as they should."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kdstats.prediction.closed_form import published_oracle_gain

SCRIPT = Path(__file__).parents[3] / "examples" / "weighting_gains.py"
#: Two-sided level at which a coverage is called wrong.
LEVEL = 1e-4


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("weighting_gains_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def found(example):
    return example.run(example.QUICK)


def coverage_pvalue(points):
    return stats.binomtest(sum(p.covered for p in points), len(points), 0.95).pvalue


def test_predictions_lie_within_measured_intervals(found):
    assert len(found.measured) == 3 * (3 + 3 + 2)
    assert coverage_pvalue(found.measured) > LEVEL
    wrong = [dataclasses.replace(p, predicted=1.5 * p.predicted) for p in found.measured]
    assert coverage_pvalue(wrong) < LEVEL


def test_oracle_gains_the_same_everywhere(found):
    for by_k in found.gains.values():
        assert by_k[1]["oracle"].refused.startswith("undefined at k=1")
        for k in (3, 6, 10):
            assert by_k[k]["oracle"].variance == pytest.approx(published_oracle_gain(k), rel=1e-9)


def test_what_users_can_have(found):
    for data, by_k in found.gains.items():
        assert by_k[3]["split_shrunken"].effect == "loss"
        assert by_k[3]["split_pooled"].label_error < 0.2
        assert "infinite" in by_k[3]["inputs_per_input"].refused
        assert (by_k[10]["inputs_shrunken"].effect == "gain") is (data == "engel")
        assert by_k[10]["inputs_per_input"].effect == ("gain" if data == "engel" else "loss")


def test_noise_of_the_heteroscedastic_set_grows_with_income(example):
    chosen = example.settings()
    engel = chosen["engel"]
    assert np.all(np.diff(engel.noise_variance[np.argsort(engel.X_train[:, 0])]) >= 0)
    assert engel.noise_variance.max() > 50 * engel.noise_variance.min()
    assert np.ptp(chosen["boston"].noise_variance) == 0.0


def test_fitted_variance_recovers_its_slope(example):
    by = np.random.default_rng(1).uniform(-1, 1, 20_000)
    drawn = np.random.default_rng(2).standard_normal(by.size) * np.exp(0.5 * (0.3 + 1.5 * by))
    logs = np.log(example.fitted_variance(drawn, by))
    slope, level = np.polyfit(by, logs, 1)
    # The logarithm of a chi-squared variable on 1 degree of freedom has variance pi^2/2.
    spread = 4.0 * np.pi / np.sqrt(2 * by.size)
    assert abs(level - 0.3) < spread
    assert abs(slope - 1.5) < spread / by.std()
    assert abs(slope) > spread / by.std()


def test_results_are_written(example, found, tmp_path):
    example.write(found, example.QUICK, tmp_path)
    document = json.loads((tmp_path / "results.json").read_text())
    assert set(document["gains"]) == {"boston", "diabetes", "engel"}
    assert len(document["measured"]) == len(found.measured)
    assert "undefined" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "weighting_gains.png").stat().st_size > 10_000
