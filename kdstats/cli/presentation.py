"""Results as text and JSON for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdstats.components.coverage import coverage_statement
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.study.run import StudyResult, Sweep

__all__ = ["components_json", "study_json", "study_text"]

WIDTH = 78


def components_json(result: VarianceComponents, prob: float = 0.95, *, students: str = "gaussian") -> dict[str, Any]:
    """Return averages and points with standard errors and intervals, and provenance, as plain values."""
    return {
        "average": _entry(result.average(), prob, students)[0],
        "points": _entry(result, prob, students),
        "interval_probability": prob,
        "interval_coverage": coverage_statement(result, prob, students=students),
        "attrs": {key: _plain(value) for key, value in result.attrs.items()},
    }


def study_json(result: StudyResult, report: Path) -> dict[str, Any]:
    """Return a study's verdict, averages and tests as plain values."""
    found: dict[str, Any] = {
        "title": result.study.title,
        "verdict": result.verdict,
        "report": str(report),
        "predicted": None if result.predicted is None else components_json(result.predicted),
        "simulated": None if result.simulated is None else components_json(result.simulated),
        "observed": {name: components_json(observed) for name, observed in result.observed.items()},
        "comparisons": {name: comparison.to_dict() for name, comparison in result.comparisons.items()},
    }
    if result.mse_law is not None and result.mse_test is not None:
        found["test_error"] = {
            "predicted_mean": result.mse_law.mean,
            "predicted_sd": result.mse_law.sd,
            "observed_mean": result.mse_test.observed,
            "pvalue": float(result.mse_test.pvalue),
        }
    if result.by_responses is not None and result.by_responses.rate is not None:
        rate = result.by_responses.rate
        found["rate"] = {
            "slope": float(rate.slope),
            "interval": [float(bound) for bound in rate.confidence_interval()],
            "pvalue": float(rate.pvalue),
            "floor_pvalue": float(rate.floor.pvalue),
            "floor": float(rate.floor.floor),
            "response_correlation": float(rate.floor.correlation),
            "response_correlation_interval": [float(bound) for bound in rate.floor.confidence_interval()],
        }
    return found


def study_text(result: StudyResult, report: Path) -> str:
    """Return a study's findings as a page of text."""
    lines = [result.study.title, "=" * WIDTH, *_setting_lines(result), "", *_component_lines(result)]
    for name, comparison in result.comparisons.items():
        low, high = comparison.ratio_interval
        lines += ["", f"Verdict on the prediction, students of engine {name!r}: {comparison.verdict.upper()}"]
        lines.append(
            f"  observed / predicted inter-student variance {comparison.ratio:.3f}, "
            f"{100 * comparison.confidence_level:g}% interval [{low:.3f}, {high:.3f}]"
        )
        lines.append(f"  {comparison.reason}")
    if result.mse_law is not None and result.mse_test is not None:
        law, test = result.mse_law, result.mse_test
        lines += [
            "",
            f"Test error of one student: predicted {law.mean:.4g} (sd {law.sd:.3g}), observed mean {test.observed:.4g}",
            f"  test of the whole predicted law: p = {float(test.pvalue):.3g}",
        ]
    lines += _sweep_lines("responses per input", result.by_responses)
    lines += _sweep_lines("noise variance", result.by_noise)
    if result.reused:
        lines += ["", f"Taken from an earlier run: {', '.join(result.reused)}"]
    return "\n".join([*lines, "", f"Report: {report}"])


def _setting_lines(result: StudyResult) -> list[str]:
    problem, design = result.problem, result.problem.design
    teacher = problem.teacher
    if isinstance(teacher, CategoricalTeacher):
        spread = f"{teacher.n_outputs} classes, mean Gini index {teacher.gini.mean():.4g}"
    else:
        spread = f"variance of one response {teacher.variances.mean():.4g}"
    return [
        f"{teacher.n_inputs} inputs x {teacher.n_features} features, {problem.n_points} query points; "
        f"strategy {design.strategy}, {design.n_responses} response{'s' if design.n_responses > 1 else ''} per input; "
        f"{spread}"
    ]


def _component_lines(result: StudyResult) -> list[str]:
    rows = {_prediction_name(result): result.predicted, "Monte Carlo": result.simulated}
    rows |= {f"observed ({name})": observed for name, observed in result.observed.items()}
    lines = [f"{'average over points':<24}{'inter-student':>20}{'intra-student':>20}{'students':>12}", "-" * WIDTH]
    for name, components in rows.items():
        if components is None:
            continue
        mean = components.average()
        cells = (
            f"{mean.estimate[part].item():.5g} ± {mean.standard_error[part].item():.2g}"
            if components.exactness not in ("exact", "asymptotic")
            else f"{mean.estimate[part].item():.5g} ({components.exactness})"
            for part in COMPONENTS[:2]
        )
        count = components.n_students
        lines.append(f"{name:<24}" + "".join(f"{cell:>20}" for cell in cells) + f"{count if count else '-':>12}")
    return lines


def _sweep_lines(what: str, sweep: Sweep | None) -> list[str]:
    if sweep is None:
        return []
    dim = sweep.predicted.total.dims[0]
    means = sweep.predicted.average()
    lines = ["", f"{what:<24}{'predicted inter':>20}{'observed inter':>24}", "-" * WIDTH]
    for label, run in sweep.observed.items():
        mean = run.average()
        predicted = float(means.inter_student.sel({dim: label}).item())
        observed = f"{mean.inter_student.item():.5g} ± {mean.standard_error['inter_student'].item():.2g}"
        lines.append(f"{label:<24.5g}{predicted:>20.5g}{observed:>24}")
    if sweep.rate is not None:
        low, high = sweep.rate.confidence_interval()
        lines.append(f"log-log slope {sweep.rate.slope:.3f} [{low:.3f}, {high:.3f}] where -1 is the 1/k rate")
        floor = sweep.rate.floor
        low, high = floor.confidence_interval()
        lines += [
            f"floor below which more responses do not help: {floor.floor:.4g}, p = {float(floor.pvalue):.3g};",
            "  it holds the variance that first weights add, which no response reduces"
            if sweep.starts_vary
            else f"  it implies a correlation between responses of {floor.correlation:.2g} [{low:.2g}, {high:.2g}]",
        ]
    return lines


def _entry(result: VarianceComponents, prob: float, students: str) -> list[dict[str, Any]]:
    intervals = result.interval(prob, students=students)
    bounds = {
        (name, end): intervals[name].sel(ci_bound=end).values.ravel()
        for name in COMPONENTS
        for end in ("lower", "upper")
    }
    entries = []
    for index, row in enumerate(result.to_dataframe().to_dict(orient="records")):
        entry = {key: _plain(value) for key, value in row.items() if key in result.total.dims}
        for name in COMPONENTS:
            entry[name] = {
                "estimate": _plain(row[name]),
                "standard_error": _plain(row[f"{name}_se"]),
                "lower": _plain(bounds[name, "lower"][index]),
                "upper": _plain(bounds[name, "upper"][index]),
            }
        entries.append(entry)
    return entries


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _prediction_name(result: StudyResult) -> str:
    """Name what a study was predicted by."""
    network = result.predicted is not None and result.predicted.engine == "linear_response"
    return "linear response" if network else "closed form"
