"""Variance components as a page of fixed-width text."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from kdstats.components.coverage import coverage_statement
from kdstats.components.kurtosis import Kurtosis, excess_kurtosis, excess_kurtosis_within
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.components.uncertainty import average, interval

__all__ = ["summary"]

WIDTH = 78
COLUMNS = (11, 10, 11, 10, 11, 11)
#: Level of the tests of Gaussian student means and equally noisy students that put a note under the table.
KURTOSIS_LEVEL = 0.01
TOO_NARROW = 'these intervals are too narrow; interval(students="any") allows for it.'
#: Grid cells printed in full.
MAX_CELLS = 12
DEGENERATE = {"between": "all students have the same mean", "within": "each student's outputs are all equal"}
CAVEATS = {
    "asymptotic": "The estimates hold in the limit the estimator names; standard errors leave out the distance to it.",
    "approximate": "The estimates are approximate; standard errors leave out the error of the approximation.",
}


def summary(components: VarianceComponents, prob: float = 0.95, *, students: str = "gaussian") -> str:
    """Return the average over points of each component with its interval, the range over points, and provenance.

    Parameters
    ----------
    components : VarianceComponents
    prob : float, default 0.95
        Coverage of the interval of the average.
    students : {"gaussian", "any"}, default "gaussian"
        Law of students behind it.

    Returns
    -------
    str
    """
    mean = average(components)
    bounds = interval(mean, prob, students=students)
    lines = ["Variance components".center(WIDTH).rstrip(), "=" * WIDTH, *_header(components), "=" * WIDTH]
    heads = ("average", "std err", f"[{(1 - prob) / 2:.4g}", f"{(1 + prob) / 2:.4g}]", "min", "max")
    heading = " " * 14 + "".join(f"{head:>{width}}" for head, width in zip(heads, COLUMNS, strict=True))
    leading = [str(dim) for dim in components.total.dims[:-2]]
    cells = list(itertools.product(*(range(components.total.sizes[dim]) for dim in leading)))
    for cell in cells[:MAX_CELLS]:
        where = dict(zip(leading, cell, strict=True))
        if where:
            lines.append(", ".join(f"{dim} = {_label(components.total, dim, index)}" for dim, index in where.items()))
        lines += [heading, "-" * WIDTH]
        for name in COMPONENTS:
            points = components.estimate[name].isel(where).values
            numbers = (
                float(mean.estimate[name].isel(where).item()),
                float(mean.standard_error[name].isel(where).item()),
                *bounds[name].isel(where).values.ravel().tolist(),
                float(points.min()),
                float(points.max()),
            )
            row = (
                f"{number:>#{width}.4g}" if number == number else f"{'-':>{width}}"
                for number, width in zip(numbers, COLUMNS, strict=True)
            )
            lines.append(f"{name:<14}" + "".join(row))
        lines.append("=" * WIDTH)
    if len(cells) > MAX_CELLS:
        lines.append(f"... and {len(cells) - MAX_CELLS} more cells: see to_dataframe()")
    promise = coverage_statement(components, prob, students=students)
    notes = [*([promise] if promise else []), *_notes(components, too_narrow=students == "gaussian")]
    if notes:
        lines.append("Notes:")
        for number, note in enumerate(notes, 1):
            lines += textwrap.wrap(f"[{number}] {note}", WIDTH, subsequent_indent="    ")
    return "\n".join(lines)


def _header(components: VarianceComponents) -> list[str]:
    attrs, sizes = components.attrs, components.total.sizes
    n_replicates = None if components.mean_squares is None else f"{components.mean_squares.attrs['n_replicates']:.3g}"
    outputs = "known variance" if n_replicates == "0" else n_replicates
    left = [
        ("Engine:", components.engine),
        ("Exactness:", components.exactness),
        ("Points x outputs:", f"{sizes['point']} x {sizes['output']}"),
        ("Effective rank:", None if attrs.get("effective_rank") is None else _ranks(attrs["effective_rank"])),
    ]
    right = [
        ("Students:", components.n_students),
        ("Outputs a student:", outputs),
        ("Seed:", _seed(attrs.get("seed"))),
        ("Wall time:", None if attrs.get("wall_time") is None else f"{float(attrs['wall_time']):.3g} s"),
    ]
    lines = [f"{_entry(*a)}    {_entry(*b)}".rstrip() for a, b in zip(left, right, strict=True)]
    if attrs.get("estimator"):
        lines += textwrap.wrap(f"Estimator: {attrs['estimator']}", WIDTH, subsequent_indent=" " * 11)
    return lines


def _entry(name: str, value: Any) -> str:
    half = WIDTH // 2 - 2
    text = "-" if value is None else str(value)
    return f"{name:<18}{text if len(text) <= half - 18 else text[: half - 21] + '...':>{half - 18}}"


def _seed(value: Any) -> Any:
    """Return the one seed behind all sources, or say that they have their own."""
    seeds = set(value.values()) if isinstance(value, Mapping) else {value}
    return seeds.pop() if len(seeds) == 1 else "one per source"


def _ranks(value: Any) -> str:
    ranks = np.asarray(value, dtype=float)
    return f"{ranks.min():.3g}" if ranks.size == 1 else f"{ranks.min():.3g} to {ranks.max():.3g}"


def _label(array: xr.DataArray, dim: str, index: int) -> Any:
    return array.coords[dim].values[index] if dim in array.coords else index


def _notes(components: VarianceComponents, *, too_narrow: bool) -> list[str]:
    notes = []
    if components.attrs.get("not_identified"):
        notes.append(
            "One output of each student at a point does not identify inter_student and intra_student: - stands for not "
            "identified. total = inter_student + intra_student is, and neither exceeds it."
        )
    inter = components.inter_student.values
    negative = int((inter < 0).sum())
    if negative:
        notes.append(
            f"inter_student is negative at {negative} of {inter.size} points: the unbiased estimate keeps its sign "
            f"(clipped at 0 its average would be {np.maximum(inter, 0).mean():.4g}, which overstates). boundary = True."
        )
    degenerate = components.attrs.get("degenerate") or ()
    for name, meaning in DEGENERATE.items():
        if name in degenerate:
            notes.append(f"Degenerate: {meaning}, so the {name} mean square is 0 and its standard error says nothing.")
    kurtosis, within = _kurtosis(components)
    remark = f": {TOO_NARROW}" if too_narrow else "."
    if kurtosis is not None and kurtosis.pvalue < KURTOSIS_LEVEL:
        notes.append(
            f"Student means have an excess kurtosis of {kurtosis.excess:.3g} "
            f"(p = {kurtosis.pvalue:.2g} if Gaussian){remark}"
        )
    if within is not None and within.pvalue < KURTOSIS_LEVEL:
        notes.append(
            "Own variances of students spread more than those of equally noisy Gaussian ones: outputs about their "
            f"student's mean have an excess kurtosis of {within.excess:.3g} (p = {within.pvalue:.2g} if "
            f"Gaussian){remark}"
        )
    if components.intra_parts is not None:
        parameter, noise = (float(components.intra_parts[name].mean()) for name in ("parameter", "noise"))
        notes.append(f"intra_student is {parameter:.4g} of parameter uncertainty and {noise:.4g} of noise, on average.")
    unreliable = components.attrs.get("unreliable") or ()
    if unreliable:
        reason = components.attrs.get("unreliable_because", "their diagnostics fail")
        notes.append(f"UNRELIABLE: {', '.join(unreliable)}: {reason}.")
    if components.exactness in CAVEATS:
        notes.append(CAVEATS[components.exactness])
    if components.exactness != "exact" and components.total.sizes["point"] * components.total.sizes["output"] > 1:
        known = components.attrs.get("effective_rank") is not None
        notes.append(
            "Points share students: the average counts them as their effective rank."
            if known
            else "Points share students, with unknown correlation: the average counts them as one."
        )
    return notes


def _kurtosis(components: VarianceComponents) -> tuple[Kurtosis | None, Kurtosis | None]:
    """Kurtosis of student means and of replicate errors, where there are enough of them."""
    if components.mean_squares is None or components.student_predictions is None:
        return None, None
    students = components.student_predictions
    return excess_kurtosis(students), excess_kurtosis_within(components.mean_squares, students.sizes["student"])
