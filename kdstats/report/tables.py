"""The report's tables as plain text cells, ready for the template."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.report.formatting import MISSING, count, entry, interval, number, percent, pvalue

__all__ = ["Table", "average_table", "engine_table", "point_table", "provenance_table", "table_of_tests"]

#: Rows of the table of points; the rest is in the data, not on the page.
MAX_POINTS = 200
#: Longest list of facts in one cell.
MAX_PARTS = 8
COMPONENT_NAMES = {"inter_student": "Inter-student", "intra_student": "Intra-student", "total": "Total"}
TEST_NAMES = {
    "equality": "Equality of the average",
    "equivalence": "Equivalence of the average",
    "pointwise": "Equality at every point (the point furthest off)",
    "covariance": "Covariance between points",
    "inter_student": "Equality, inter-student",
    "intra_student": "Equality, intra-student",
    "total": "Equality, total",
    "rate": "Rate of decrease in k",
    "mse": "Test error",
}
PROVENANCE = {
    "engine": "Engine",
    "exactness": "Exactness",
    "estimator": "Estimator",
    "n_students": "Students",
    "seed": "Seed",
    "effective_rank": "Effective rank of the points",
    "wall_time": "Wall time (seconds)",
    "problem": "Problem (fingerprint)",
}
#: Kept for machines, not for readers; or told elsewhere on the page.
UNTOLD = {
    "versions",
    "average_standard_error",
    "degenerate",
    "boundary",
    "effective_rank_within",
    "averaged_over",
    "ddof",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Column heads, and rows of a head and cells; ``numeric`` columns are aligned right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: bool = True


def average_table(
    predicted: VarianceComponents | None, observed: VarianceComponents | None, *, unit: str, prob: float
) -> Table:
    """Return averages over points with standard errors and intervals, one row per component and grid cell."""
    sides = [(n, c) for n, c in (("Predicted", predicted), ("Observed", observed)) if c is not None]
    told = [_averages(components, prob) for _, components in sides]
    columns = ["Variance"]
    for name, components in sides:
        columns += _heads(name, components, prob)
    rows = []
    for key in dict.fromkeys(key for averages in told for key in averages):
        row = [", ".join([*key[0], COMPONENT_NAMES[key[1]]])]
        for averages in told:
            row += averages[key].cells if key in averages else [MISSING] * len(next(iter(averages.values())).cells)
        if len(told) == 2:
            row.append(_ratio(*(averages.get(key) for averages in told)))
        rows.append(tuple(row))
    return Table(
        caption=f"Variances, averaged over points, in {unit}",
        columns=(*columns, *(["Observed / predicted"] if len(told) == 2 else [])),
        rows=tuple(rows),
    )


def engine_table(
    engines: Mapping[str, VarianceComponents], comparisons: Mapping[str, Any], *, unit: str
) -> Table | None:
    """Return one row per engine, with its averages and its verdict on the prediction; None for fewer than two."""
    if len(engines) < 2:
        return None
    rows = []
    for name, components in engines.items():
        average, comparison = components.average(), comparisons.get(name)
        cells = [
            number(average.estimate[part].item())
            + ("" if _is_exact(components) else f" ± {number(average.standard_error[part].item())}")
            for part in COMPONENTS[:2]
        ]
        ratio = (
            MISSING if comparison is None else f"{number(comparison.ratio)} ({interval(*comparison.ratio_interval)})"
        )
        students = MISSING if components.n_students is None else count(components.n_students)
        verdict = MISSING if comparison is None else str(comparison.verdict)
        rows.append((name, components.exactness, students, *cells, ratio, verdict))
    return Table(
        caption=f"Every engine: averages over points ± standard error, in {unit}",
        columns=(
            "Engine",
            "Exactness",
            "Students",
            "Inter-student",
            "Intra-student",
            "Observed / predicted",
            "Verdict",
        ),
        rows=tuple(rows),
    )


def point_table(
    predicted: VarianceComponents | None, observed: VarianceComponents | None, *, unit: str, prob: float
) -> Table | None:
    """Return inter-student variance at each point, or None for grids."""
    sides = [(n, c) for n, c in (("Predicted", predicted), ("Observed", observed)) if c is not None]
    if not sides or any(len(components.total.dims) > 2 for _, components in sides):
        return None
    columns, told = ["Point"], []
    for name, components in sides:
        columns += _heads(name, components, prob)
        told.append(_points(components, prob))
    keys = list(dict.fromkeys(key for cells in told for key in cells))
    left_out = f", the first {MAX_POINTS} of {count(len(keys))} points" if len(keys) > MAX_POINTS else ""
    widths = [len(next(iter(cells.values()))) for cells in told]
    rows = [
        (key, *(cell for cells, width in zip(told, widths, strict=True) for cell in cells.get(key, [MISSING] * width)))
        for key in keys[:MAX_POINTS]
    ]
    return Table(
        caption=f"Inter-student variance at each point, in {unit}{left_out}", columns=tuple(columns), rows=tuple(rows)
    )


def table_of_tests(comparison: Any) -> Table:
    """Return one row per test of a comparison."""
    rows = []
    for name, row in comparison.to_frame().to_dict("index").items():
        margin = row.get("margin")
        known = TEST_NAMES.get(str(name), str(name).replace("_", " "))
        label = known if not _finite(margin) else f"{known} (margin {number(margin)})"
        bounds = interval(row.get("ci_lower"), row.get("ci_upper"))
        rows.append(
            (
                label,
                number(row.get("statistic")),
                number(row.get("df")),
                pvalue(row.get("pvalue")),
                bounds,
                _method(row),
            )
        )
    return Table(
        caption="Tests of the prediction against the observation",
        columns=("Test", "Statistic", "Degrees of freedom", "p-value", "Interval of the ratio", "Method"),
        rows=tuple(rows),
    )


def provenance_table(
    predicted: VarianceComponents | None, observed: VarianceComponents | None, *, facts: Mapping[str, str]
) -> Table:
    """Return where each side's numbers came from; ``facts`` are rows that both sides share."""
    sides = {n: _attrs(c) for n, c in (("Predicted", predicted), ("Observed", observed)) if c is not None}
    shown = {key for attrs in sides.values() for key, value in attrs.items() if value is not None} - UNTOLD
    keys = [key for key in PROVENANCE if key in shown] + sorted(key for key in shown if key not in PROVENANCE)
    rows = [
        (PROVENANCE.get(key, key.replace("_", " ").capitalize()), *(entry(attrs.get(key)) for attrs in sides.values()))
        for key in keys
        if all(_tellable(attrs.get(key)) for attrs in sides.values())
    ]
    if any(attrs.get("versions") for attrs in sides.values()):
        rows.append(("Versions", *(_versions(attrs.get("versions")) for attrs in sides.values())))
    told = {attrs.get("problem") for attrs in sides.values()}
    rows += [(name, *([value] * len(sides))) for name, value in facts.items() if told != {value}]
    return Table(caption="Where the numbers come from", columns=("Fact", *sides), rows=tuple(rows), numeric=False)


def _heads(name: str, components: VarianceComponents, prob: float) -> list[str]:
    """Exact values have no error to show."""
    return [f"{name} (exact)"] if _is_exact(components) else [name, "Standard error", f"{percent(prob)} interval"]


def _is_exact(components: VarianceComponents) -> bool:
    return components.exactness == "exact"


@dataclass(frozen=True, kw_only=True)
class _Average:
    value: float
    cells: list[str]


def _averages(components: VarianceComponents, prob: float) -> dict[tuple[tuple[str, ...], str], _Average]:
    """Averages keyed by (cell in words, component)."""
    average = components.average()
    bounds, told = average.interval(prob), {}
    for words, place in _cells(average):
        for name in COMPONENTS:
            value, error = (float(ds[name].isel(place).item()) for ds in (average.estimate, average.standard_error))
            low, high = bounds[name].isel(place).values.ravel()
            cells = [number(value), *([] if _is_exact(components) else [number(error), interval(low, high)])]
            told[words, name] = _Average(value=value, cells=cells)
    return told


def _cells(components: VarianceComponents) -> Iterator[tuple[tuple[str, ...], dict[str, int]]]:
    dims = [str(dim) for dim in components.total.dims[:-2]]
    labels = [components.estimate.coords[dim].values for dim in dims]
    for index in itertools.product(*(range(len(values)) for values in labels)):
        words = tuple(f"{dim} {entry(values[i])}" for dim, values, i in zip(dims, labels, index, strict=True))
        yield words, dict(zip(dims, index, strict=True))


def _points(components: VarianceComponents, prob: float) -> dict[str, list[str]]:
    bounds = components.interval(prob)["inter_student"].transpose("point", "output", "ci_bound").values
    told = {}
    for i, j in np.ndindex(components.inter_student.shape):
        key = entry(components.estimate.coords["point"].values[i])
        if components.inter_student.shape[1] > 1:
            key += f", output {entry(components.estimate.coords['output'].values[j])}"
        cells = [number(components.inter_student.values[i, j])]
        if not _is_exact(components):
            cells += [number(components.standard_error["inter_student"].values[i, j]), interval(*bounds[i, j])]
        told[key] = cells
    return told


def _ratio(predicted: _Average | None, observed: _Average | None) -> str:
    if predicted is None or observed is None or predicted.value == 0.0:
        return MISSING
    return number(observed.value / predicted.value)


def _method(row: Mapping[Any, Any]) -> str:
    method = row.get("method")
    text = method if isinstance(method, str) else MISSING
    if _finite(row.get("n_rejected")) and _finite(row.get("n_tests")):
        text += f"; {int(row['n_rejected'])} of {int(row['n_tests'])} rejected"
    return text


def _versions(versions: Mapping[str, str] | None) -> str:
    return MISSING if not versions else ", ".join(f"{name} {version}" for name, version in versions.items())


def _attrs(components: VarianceComponents) -> dict[str, Any]:
    """Provenance with one name for the seeds."""
    return {"seed" if name == "seeds" else name: value for name, value in components.attrs.items()}


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and bool(np.isfinite(value))


def _tellable(value: Any) -> bool:
    """Whether a fact is short enough for a cell."""
    if isinstance(value, Mapping):
        return len(value) <= MAX_PARTS and not any(isinstance(item, (Mapping, Sequence)) for item in value.values())
    return not isinstance(value, Sequence) or isinstance(value, str) or len(value) <= MAX_PARTS
