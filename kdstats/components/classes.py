"""How much students disagree about classes, and how unsure each is: Gini index and entropy, split in two."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import stdtrit

from kdstats.components.class_moments import Cells, estimate_points
from kdstats.components.class_parts import COMPONENTS, DIMS, ENTROPY, GINI, ClassParts, check_components
from kdstats.components.provenance import versions
from kdstats.errors import ApproximationWarning, EstimationError, NegativeComponentWarning
from kdstats.problem.validation import as_probability

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COMPONENTS", "UNITS", "ClassComponents", "estimate_classes"]

FloatArray = NDArray[np.float64]

#: Unit of entropy and its size in nats.
UNITS = {"nats": 1.0, "bits": float(np.log(2.0))}
WIDTH = 98
#: Students below which the measured coverage of 95% intervals falls short.
FEW_STUDENTS = 30
#: Rounding of sums of probabilities.
ROUNDING = 1e-13
#: Bias left, in standard errors, at which an interval of coverage 95% covers 92%.
BIAS_SHARE = 0.5


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassComponents(ClassParts):
    """Variance between and within students of a predicted class, and the same of its entropy.

    Parameters
    ----------
    estimate : xarray.DataArray
        Dims ``component`` and ``point``. Of the Gini index (the probability that two draws differ):
        ``inter_student``, ``intra_student`` and ``total``, their sum. Of the entropy: ``mutual_information`` (of
        class and student), ``expected_entropy`` (of one student) and ``total_entropy`` (of students' mean), their
        sum. NaN where the table does not identify a component.
    standard_error : xarray.DataArray
        Same shape; jackknife over students.
    plug_in : xarray.DataArray
        Same shape: components of the observed frequencies taken for the truth, without any correction.
    n_students : xarray.DataArray
        Dim ``point``.
    attrs : mapping
        ``kind``, ``classes``, ``known`` (whether rows are the students' own probabilities), ``n_students``,
        ``n_outputs`` (fewest and most in a cell), ``unit`` (of entropy), ``last_step`` (last correction for the number
        of outputs that went into ``expected_entropy``, averaged), ``boundary``, ``notes``, ``engine``, ``exactness``,
        ``versions``.
    averaged : ClassComponents, optional
        Averages over points, with standard errors that count points of the same students as dependent.

    Notes
    -----
    ``inter_student`` and ``mutual_information`` may come out negative; their sign is kept.
    """

    estimate: xr.DataArray
    standard_error: xr.DataArray
    plug_in: xr.DataArray
    n_students: xr.DataArray
    attrs: Mapping[str, Any]
    averaged: ClassComponents | None = None

    def __post_init__(self) -> None:
        for name in ("estimate", "standard_error", "plug_in"):
            check_components(name, getattr(self, name))
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def average(self) -> ClassComponents:
        """Return the components averaged over points."""
        return self if self.averaged is None else self.averaged

    def interval(self, prob: float = 0.95) -> xr.DataArray:
        r"""Return two-sided intervals of each component at each point.

        Parameters
        ----------
        prob : float, default 0.95
            Nominal coverage of each, not of all at once.

        Returns
        -------
        xarray.DataArray
            Dims ``component``, ``point`` and ``ci_bound`` (``lower``, ``upper``). NaN where students agree exactly or
            there are fewer than three. ``attrs["clipped"]`` names components with a bound that was beyond what is
            possible, and is now that limit.

        Notes
        -----
        Student's t with one degree of freedom less than students: of the logarithm of ``inter_student`` and
        ``mutual_information`` (before what the noise of outputs adds is taken off), of the logit of ``intra_student``
        and ``expected_entropy`` between 0 and their maximum, and of totals as they are. A total that no student moves
        although they differ, as it may be at its maximum, has the distances of the bounds of its parts, squared and
        added. Bounds end at 0 and at the maximum of equally likely classes, which costs no coverage. The measured
        coverage is on the theory page "Class predictions".
        """
        prob = as_probability("prob", prob)
        quantile = stdtrit(np.maximum(self.n_students.values - 1, 1), 0.5 + prob / 2)
        unit = UNITS[self.attrs["unit"]]
        n_classes = len(self.attrs["classes"])
        most = np.where(np.isin(COMPONENTS, GINI), 1.0 - 1.0 / n_classes, np.log(n_classes) / unit)
        bounds = np.full((*self.estimate.shape, 2), np.nan)
        for i, name in enumerate(COMPONENTS):
            value, error = self.estimate.values[i], self.standard_error.values[i]
            if name in ("inter_student", "mutual_information"):
                bounds[i] = _log_interval(value, quantile * error, np.maximum(value, self.plug_in.values[i]))
            elif name in ("intra_student", "expected_entropy"):
                bounds[i] = _logit_interval(value, quantile * error, float(most[i]))
            else:
                bounds[i] = value[:, None] + (quantile * error)[:, None] * [-1.0, 1.0]
            bounds[i][~(error > ROUNDING)] = np.nan
        for i in (2, 5):
            apart = np.sqrt(((bounds[i - 2 : i] - self.estimate.values[i - 2 : i, :, None]) ** 2).sum(axis=0))
            whole = self.estimate.values[i][:, None] + apart * [-1.0, 1.0]
            bounds[i] = np.where(np.isnan(bounds[i]), whole, bounds[i])
        coords = {**self.estimate.coords, "ci_bound": ["lower", "upper"]}
        possible = np.clip(bounds, 0.0, most[:, None, None])
        beyond = (np.abs(possible - bounds) > ROUNDING).any(axis=(1, 2))
        clipped = tuple(name for name, is_beyond in zip(COMPONENTS, beyond, strict=True) if is_beyond)
        return xr.DataArray(possible, coords, (*DIMS, "ci_bound"), attrs={"prob": prob, "clipped": clipped})

    def to_dataframe(self, prob: float = 0.95) -> pd.DataFrame:
        """Return a long table: one row per component and point, with intervals of coverage ``prob``."""
        bounds = self.interval(prob)
        columns = {"estimate": self.estimate, "standard_error": self.standard_error}
        columns |= {end: bounds.sel(ci_bound=end, drop=True) for end in ("lower", "upper")}
        columns |= {"plug_in": self.plug_in}
        return xr.Dataset(columns).to_dataframe(dim_order=list(DIMS)).reset_index()

    def summary(self, prob: float = 0.95) -> str:
        """Return a printable table of the averages over points, with intervals and what to know about them."""
        mean = self.average()
        interval = mean.interval(prob)
        bounds = interval.values[:, 0]
        heads = ("estimate", "std err", f"[{(1 - prob) / 2:.4g}", f"{(1 + prob) / 2:.4g}]", "share", "plug-in")
        width = 20
        rule = width + 10 * len(heads)
        fewest, most = self.attrs["n_outputs"]
        outputs = (
            "known probabilities"
            if self.attrs["known"]
            else f"outputs a cell: {fewest}" + ("" if fewest == most else f" to {most}")
        )
        size = f"Students: {self.attrs['n_students']}, points: {self.estimate.shape[1]}, classes: "
        lines = [f"Class predictions, {self.attrs['kind']}", "=" * rule]
        lines += [size + f"{len(self.attrs['classes'])}, {outputs}", "=" * rule]
        lines += [" " * width + "".join(f"{head:>10}" for head in heads)]
        for title, names in (("Gini index", GINI), (f"entropy, {self.attrs['unit']}", ENTROPY)):
            lines += ["-" * rule, title]
            whole = mean._of(names[2]).item()
            for name in names:
                i = COMPONENTS.index(name)
                value = mean.estimate.values[i, 0]
                numbers = (value, mean.standard_error.values[i, 0], *bounds[i])
                share = f"{100 * value / whole:>9.1f}%" if whole > 0 and np.isfinite(value) else f"{'nan':>10}"
                row = "".join(f"{number:>#10.4g}" for number in numbers)
                lines.append(f"{name:<{width}}{row}{share}{mean.plug_in.values[i, 0]:>#10.4g}")
        lines.append("=" * rule)
        level = f"{100 * prob:g}%"
        promise = (
            f"{level} intervals for students of any law, from a jackknife over them: about {level} of averages over "
            "points; of single points .91 to .97 was measured at 95% with 30 students."
        )
        marks = [f"UNRELIABLE: {', '.join(self.attrs['unreliable'])}."] if self.attrs.get("unreliable") else []
        limits = ["Intervals end at what is possible: " + ", ".join(interval.attrs["clipped"]) + "."]
        notes = [promise, *(limits if interval.attrs["clipped"] else []), *self.attrs["notes"], *marks]
        notes += self.attrs.get("unreliable_because", ())
        for number, note in enumerate(notes, 1):
            lines += textwrap.wrap(f"[{number}] {note}", WIDTH, subsequent_indent="    ")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"<ClassComponents kind={self.attrs['kind']!r} (students: {self.attrs['n_students']}, point: "
            f"{self.estimate.shape[1]}, classes: {len(self.attrs['classes'])})>"
        )

    __str__ = __repr__


def estimate_classes(
    cells: Cells,
    *,
    classes: Sequence[Any],
    points: Sequence[Any],
    kind: str,
    known: bool,
    unit: str = "nats",
    notes: Sequence[str] = (),
) -> ClassComponents:
    """Estimate class components from sums by student and point.

    Parameters
    ----------
    cells : Cells
        At least two students at every point.
    classes, points : sequence
        Labels.
    kind : str
        ``"probabilities"`` or ``"labels"``, for reports.
    known : bool
        Whether the rows are the students' own probabilities, and not draws of them.
    unit : {"nats", "bits"}
        Of entropy.
    notes : sequence of str
        Put before what is found here.

    Returns
    -------
    ClassComponents

    Raises
    ------
    EstimationError
        With fewer than two students at a point.
    """
    n = (cells.count > 0).sum(axis=0)
    if n.min() < 2:
        where = int(n.argmin())
        place = f" at point {points[where]!r}" if len(points) > 1 else ""
        raise EstimationError(
            f"`table` must have at least 2 students at every point, to tell what they differ by; got {n[where]}{place}"
        )
    found = estimate_points(cells)
    scale = np.where(np.isin(COMPONENTS, ENTROPY), 1.0 / UNITS[unit], 1.0)[:, None]
    usable = cells.count > (0 if known else 1)
    steps = cells.last_step[usable]
    attrs: dict[str, Any] = {
        "kind": kind,
        "classes": tuple(classes),
        "n_students": cells.count.shape[0],
        "n_outputs": (int(cells.count[cells.count > 0].min()), int(cells.count.max())),
        "known": known,
        "unit": unit,
        "last_step": float(steps.mean()) / UNITS[unit] if steps.size else float("nan"),
        "engine": "table",
        "exactness": "observed",
        "versions": versions(),
    }
    errors = np.sqrt((found.moves**2).sum(axis=1))
    moves = found.moves.mean(axis=-1)
    result = _labelled(found.estimate * scale, errors * scale, found.plug_in * scale, n, points, attrs)
    mean = _labelled(
        found.estimate.mean(axis=-1, keepdims=True) * scale,
        np.sqrt((moves**2).sum(axis=1, keepdims=True)) * scale,
        found.plug_in.mean(axis=-1, keepdims=True) * scale,
        np.array([len(cells.count)]),
        ["average"],
        {**attrs, "averaged_over": len(points)},
    )
    below = {name: int((result._of(name).values < -ROUNDING).sum()) for name in (GINI[0], ENTROPY[0])}
    doubtful = _doubts(mean, known=known, estimated=bool(steps.size))
    doubts = [reason for _, reason in doubtful]
    remarks = (*notes, *_remarks(result, mean, below))
    for name, count in below.items():
        if count:
            text = f"{name} is negative at {count} of {len(points)} points: unbiased estimates keep their sign"
            warnings.warn(text, NegativeComponentWarning, stacklevel=3)
    for doubt in doubts:
        warnings.warn(doubt, ApproximationWarning, stacklevel=3)
    marked = {name for names, _ in doubtful for name in names}
    extra = {
        "notes": remarks,
        "boundary": any(below.values()),
        "unreliable": tuple(name for name in COMPONENTS if name in marked),
        "unreliable_because": tuple(doubts),
    }
    mean = replace(mean, attrs={**mean.attrs, **extra})
    return replace(result, attrs={**attrs, **extra}, averaged=mean)


def _labelled(
    estimate: FloatArray,
    errors: FloatArray,
    plug_in: FloatArray,
    n: NDArray[np.int64],
    points: Sequence[Any],
    attrs: Mapping[str, Any],
) -> ClassComponents:
    labels = np.empty(len(points), dtype=object)
    labels[:] = list(points)
    where = labels if any(isinstance(point, tuple) for point in points) else np.asarray(list(points))
    coords = {"component": list(COMPONENTS), "point": where}
    array = xr.DataArray(estimate, coords, DIMS, name="estimate")
    return ClassComponents(
        estimate=array,
        standard_error=array.copy(data=errors).rename("standard_error"),
        plug_in=array.copy(data=plug_in).rename("plug_in"),
        n_students=xr.DataArray(n, {"point": where}, ("point",)),
        attrs=attrs,
    )


def _doubts(mean: ClassComponents, *, known: bool, estimated: bool) -> list[tuple[tuple[str, ...], str]]:
    """Name components whose intervals should not be taken for what they are called, and say why."""
    doubts: list[tuple[tuple[str, ...], str]] = []
    n = mean.attrs["n_students"]
    if estimated and not known:
        step, unit = mean.attrs["last_step"], mean.attrs["unit"]
        error = mean.standard_error.sel(component="expected_entropy").item()
        if not abs(step) < BIAS_SHARE * error:
            reason = (
                f"expected_entropy and mutual_information rest on {mean.attrs['n_outputs'][0]} outputs a student and "
                f"point: the last correction was {step:.2g} {unit}, which is not small beside the standard error "
                f"{error:.2g}, and a bias of that order may be left (too little expected_entropy, too much "
                "mutual_information): their intervals may not cover. More outputs a student help; more students do not"
            )
            doubts.append((("expected_entropy", "mutual_information"), reason))
    if 3 <= n < FEW_STUDENTS:
        reason = (
            f"{n} students: intervals of every component may not cover; those of 95% were seen to cover as little as "
            "57% (10 confident students, of whom one in ten dissents), 72% (5 students of two labels), 89% (5 of known "
            "probabilities) and 91% (20): see the theory page 'Class predictions'"
        )
        doubts.append((COMPONENTS, reason))
    return doubts


def _remarks(result: ClassComponents, mean: ClassComponents, below: Mapping[str, int]) -> list[str]:
    remarks, n_points = [], result.estimate.shape[1]
    missing = int(np.isnan(result.intra_student.values).sum())
    if missing:
        remarks.append(
            f"inter_student, intra_student, expected_entropy and mutual_information are not identified at {missing} of "
            f"{n_points} points: no student has two outputs there. Totals are."
        )
    remarks += [
        f"{name} is negative at {count} of {n_points} points: the estimate keeps its sign. boundary = True."
        for name, count in below.items()
        if count
    ]
    if mean.attrs["n_students"] == 2:
        remarks.append("Two students: no standard errors; the jackknife needs three.")
    still = result.standard_error.sel(component="total").values <= ROUNDING
    differ = still & (result.standard_error.sel(component="inter_student").values > ROUNDING)
    if still.sum() > differ.sum():
        remarks.append(
            f"Students agree exactly at {int(still.sum() - differ.sum())} of {n_points} points: there are no intervals "
            "there."
        )
    if differ.any():
        remarks.append(
            f"No student moves the total at {int(differ.sum())} of {n_points} points: its interval there is made of "
            "those of its parts."
        )
    top = 1.0 - 1.0 / len(mean.attrs["classes"])
    if mean.total.item() > top - 2 * mean.standard_error.sel(component="total").item():
        remarks.append(
            "The total is close to its maximum, all classes equally likely, where its first-order variance vanishes: "
            "intervals of total and total_entropy are rough there (coverage of 89% to 99% was seen)."
        )
    if n_points > 1:
        remarks.append("Averages leave out one student at a time, at all points: correlated points count as such.")
    return remarks


def _log_interval(value: FloatArray, half_width: FloatArray, base: FloatArray) -> FloatArray:
    """Return intervals of value that are symmetric in the logarithm of base, and shifted by value - base."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        factor = np.exp(half_width / base)
        return np.stack([base / factor, base * factor], axis=-1) + (value - base)[:, None]


def _logit_interval(value: FloatArray, half_width: FloatArray, top: float) -> FloatArray:
    """Return intervals that are symmetric in the logit of value / top; as they are where that is not within (0, 1)."""
    plain = value[:, None] + half_width[:, None] * [-1.0, 1.0]
    inside = (value > 0) & (value < top)
    share = np.where(inside, value / top, 0.5)
    spread = half_width / top / (share * (1 - share))
    odds = np.log(share / (1 - share))[:, None] + spread[:, None] * [-1.0, 1.0]
    with np.errstate(over="ignore"):
        return np.where(inside[:, None], top / (1.0 + np.exp(-odds)), plain)
