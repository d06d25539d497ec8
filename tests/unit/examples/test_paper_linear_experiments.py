"""The example in its quick mode: predictions lie within the measured intervals as often as 95% intervals let them."""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from scipy import stats

SCRIPT = Path(__file__).parents[3] / "examples" / "paper_linear_experiments.py"
#: Two-sided level at which a coverage is called wrong; one of four tests errs in 2,500 runs of other seeds.
LEVEL = 1e-4


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT.stem] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[SCRIPT.stem]


@pytest.fixture(scope="module")
def found(example):
    return example.run(example.QUICK)


def independent_points(found, prefix, without=()):
    """One quantity per set of students, so that intervals fail independently."""
    points = [point for findings in found.values() for point in findings.points]
    return [p for p in points if p.quantity.startswith(prefix) and p.quantity not in without]


def coverage_pvalue(points):
    return stats.binomtest(sum(p.covered for p in points), len(points), 0.95).pvalue


def test_predicted_variances_lie_within_measured_intervals(found):
    points = independent_points(found, ("inter", "A'", "B"), without=("inter, train",))
    assert len(points) >= 40
    assert coverage_pvalue(points) > LEVEL


def test_predicted_test_errors_lie_within_measured_intervals(found):
    points = independent_points(found, "MSE mean", without=("MSE mean, train",))
    assert len(points) >= 20
    assert coverage_pvalue(points) > LEVEL


def test_variance_off_by_half_would_be_seen(found):
    points = independent_points(found, ("inter", "A'", "B"), without=("inter, train",))
    wrong = [dataclasses.replace(p, predicted=1.5 * p.predicted) for p in points]
    assert coverage_pvalue(wrong) < LEVEL


def test_oracle_gains_what_its_formula_says_and_the_pilot_loses(example, found):
    facts = found["corrections"].facts
    assert example.oracle_gain(3) == pytest.approx(0.491, abs=5e-4)
    assert example.oracle_gain(10) == pytest.approx(0.317, abs=5e-4)
    for point in found["corrections"].points:
        if point.quantity == "relative, oracle":
            assert point.predicted == pytest.approx(facts["oracle_gain"][point.at["k"]], rel=1e-9)
            assert point.upper < 1.0
        if point.quantity == "relative, pilot":
            assert point.lower > 1.0


def test_rate_is_one_over_k_until_responses_are_correlated(found):
    facts = found["corrections"].facts
    assert all(rate["pvalue"] > LEVEL for rate in facts["rate"].values())
    assert facts["correlated"]["floor_pvalue"] < LEVEL
    low, high = facts["correlated"]["correlation_interval"]
    assert low < 0.3 < high


def test_noiseless_linear_labels_leave_nothing_to_resample(found):
    rows = [row for row in found["bootstrap"].facts["fractions"] if row["quantity"] == "A"]
    full, broken = ([row for row in rows if bool(row["n_rank_deficient"]) is lost] for lost in (False, True))
    assert full
    assert all(row["measured"] < 1e-25 for row in full)
    assert broken
    assert all(row["measured"] > 1e-6 for row in broken)


def test_first_order_form_warns_outside_its_regime_alone(found):
    rows = found["bootstrap"].facts["fractions"]
    assert {row["rows"] for row in rows if not row["in_regime"]} == {40, 121}
    assert all("engine='monte_carlo'" in text for text in found["bootstrap"].facts["warnings"].values())


def test_results_are_written(example, found, tmp_path):
    example.write(found, example.QUICK, tmp_path / "out")
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(document["noise"]["points"]) == len(found["noise"].points)
    summary = (tmp_path / "out" / "summary.md").read_text()
    for path in (tmp_path / "out").glob("*.png"):
        assert f"({path.name})" in summary
    assert len(list((tmp_path / "out").glob("*.png"))) == 7
