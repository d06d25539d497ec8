"""What text answers of many students were found to be: measures, with intervals over students and prompts."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.crossed_means import (
    CrossedMean,
    crossed_contrast,
    crossed_mean,
    mean_interval,
    rate_interval,
)
from kdstats.errors import ApproximationWarning, ComparisonError, EstimationError, invalid
from kdstats.problem.validation import as_flag, as_probability

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MEASURES", "Measure", "ResponseComponents"]

FloatArray = NDArray[np.float64]

DIMS = ("measure", "student", "prompt")
_CLUSTERED = ("gini_inter", "gini_intra", "gini_total", "mutual_information", "semantic_entropy", "total_entropy")
_BULK = ("off_bulk", "hallucination", "shared_hallucination")
_MATCHED = ("fuzzy_match", "shared_wrong", "lone_wrong", "hallucination", "shared_hallucination", "teacher_match")
#: Measures whose meaning each setting is part of.
_DEFINED_BY = {"similarity": _CLUSTERED + _BULK, "bulk": _BULK, "fuzzy_threshold": _MATCHED}
#: Measures that grow or are biased by how many answers there are.
_COUNTED = {
    "n_responses": ("distinct_responses", "mutual_information", "semantic_entropy"),
    "n_teacher": (*_BULK, "cosine_to_teacher"),
}
WIDTH = 98
#: Distance of a bound beyond a limit that is rounding.
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How a measure is printed and what range it has.

    Attributes
    ----------
    group : str
        Heading.
    is_rate : bool
        Whether it is the mean of numbers in [0, 1], one for each student and prompt.
    meaning : str
    """

    group: str
    is_rate: bool
    meaning: str


_EMBEDDING, _ERROR, _RIGHT = "Embeddings, squared distance", "Error against the reference", "Right and wrong answers"
_MEANING, _TEXT, _TEACHER = "Clusters of one meaning", "Texts", "The teacher itself"
#: Every measure there is, in the order of the summary.
MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "embedding_inter": Measure(group=_EMBEDDING, is_rate=False, meaning="variance between students' mean answers"),
        "embedding_intra": Measure(group=_EMBEDDING, is_rate=False, meaning="variance of one student's own answers"),
        "embedding_total": Measure(
            group=_EMBEDDING, is_rate=False, meaning="variance of an answer of a random student"
        ),
        "teacher_distance": Measure(
            group=_EMBEDDING, is_rate=False, meaning="students' common mean to the teacher's mean"
        ),
        "cosine_to_teacher": Measure(group=_EMBEDDING, is_rate=False, meaning="of an answer to the teacher's mean"),
        "cosine_to_reference": Measure(
            group=_EMBEDDING, is_rate=False, meaning="of an answer to the nearest reference"
        ),
        "squared_error": Measure(group=_ERROR, is_rate=False, meaning="systematic + idiosyncratic + intra"),
        "systematic_error": Measure(group=_ERROR, is_rate=False, meaning="of the students' common mean: shared by all"),
        "idiosyncratic_error": Measure(group=_ERROR, is_rate=False, meaning="of one student's mean: embedding_inter"),
        "exact_match": Measure(group=_RIGHT, is_rate=True, meaning="the reference, word for word"),
        "contained_match": Measure(group=_RIGHT, is_rate=True, meaning="the reference within the answer"),
        "fuzzy_match": Measure(group=_RIGHT, is_rate=True, meaning="or a run of words spelt much like it"),
        "shared_wrong": Measure(group=_RIGHT, is_rate=False, meaning="answers of two students: both without a match"),
        "lone_wrong": Measure(group=_RIGHT, is_rate=False, meaning="wrong, where another student's answer matches"),
        "off_bulk": Measure(group=_RIGHT, is_rate=True, meaning="in no large cluster of the teacher's answers"),
        "hallucination": Measure(group=_RIGHT, is_rate=True, meaning="off the bulk, and no match"),
        "shared_hallucination": Measure(group=_RIGHT, is_rate=False, meaning="of two students' answers at once"),
        "gini_inter": Measure(group=_MEANING, is_rate=False, meaning="Gini index, between students"),
        "gini_intra": Measure(group=_MEANING, is_rate=False, meaning="two answers of one student differ"),
        "gini_total": Measure(group=_MEANING, is_rate=False, meaning="answers of two students differ"),
        "mutual_information": Measure(group=_MEANING, is_rate=False, meaning="nats, between students"),
        "semantic_entropy": Measure(group=_MEANING, is_rate=False, meaning="nats, of one student"),
        "total_entropy": Measure(group=_MEANING, is_rate=False, meaning="nats, of a random student"),
        "distinct_responses": Measure(group=_TEXT, is_rate=False, meaning="different texts among those of one student"),
        "text_inter": Measure(group=_TEXT, is_rate=False, meaning="Gini index of texts, between students"),
        "text_intra": Measure(group=_TEXT, is_rate=False, meaning="two texts of one student differ"),
        "text_total": Measure(group=_TEXT, is_rate=False, meaning="texts of two students differ"),
        "words": Measure(group=_TEXT, is_rate=False, meaning="of an answer"),
        "ended": Measure(group=_TEXT, is_rate=True, meaning="answers that ended before they were cut"),
        "teacher_spread": Measure(group=_TEACHER, is_rate=False, meaning="embedding variance of its answers"),
        "teacher_error": Measure(group=_TEACHER, is_rate=False, meaning="squared, of its mean answer"),
        "teacher_match": Measure(group=_TEACHER, is_rate=True, meaning="fuzzy_match of its answers"),
    }
)

#: Least and most that a measure can be; others are rates, or at least 0.
_LIMITS = (
    dict.fromkeys(("cosine_to_teacher", "cosine_to_reference"), (-1.0, 1.0))
    | dict.fromkeys(("squared_error", "systematic_error", "teacher_distance", "teacher_error"), (0.0, 4.0))
    | dict.fromkeys(("embedding_inter", "embedding_intra", "embedding_total", "idiosyncratic_error"), (0.0, 1.0))
    | dict.fromkeys(("gini_inter", "gini_intra", "gini_total", "text_inter", "text_intra", "text_total"), (0.0, 1.0))
    | dict.fromkeys(("shared_wrong", "lone_wrong", "shared_hallucination", "teacher_spread"), (0.0, 1.0))
    | {"distinct_responses": (1.0, float("inf"))}
)


@dataclass(frozen=True, eq=False, kw_only=True)
class ResponseComponents:
    """Measures of students' text answers, averaged over students and prompts that are both samples.

    Parameters
    ----------
    contributions : xarray.DataArray
        Dims ``measure`` (names in ``MEASURES``), ``student``, ``prompt``: tables whose means are the estimates. For
        measures over pairs of students they are jackknife pseudo-values over students.
    attrs : mapping
        ``n_responses`` (fewest and most of a student at a prompt), ``n_teacher`` (fewest of the teacher, 0 without),
        ``similarity``, ``bulk``, ``fuzzy_threshold``, ``notes``, ``engine``, ``exactness``, ``versions``.

    Notes
    -----
    Standard errors and intervals are those of :mod:`kdstats.components.crossed_means`.
    """

    contributions: xr.DataArray
    attrs: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.contributions.dims != DIMS:
            raise invalid(
                "contributions", f"have the dims {', '.join(DIMS)}", f"{self.contributions.dims}", EstimationError
            )
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures that the data allow."""
        return tuple(str(name) for name in self.contributions["measure"].values)

    def mean(self, measure: str) -> CrossedMean:
        """Return one measure with its standard error and degrees of freedom."""
        return crossed_mean(self._table(measure))

    def by_prompt(self) -> pd.DataFrame:
        """Return every measure at every prompt, one row each."""
        import pandas as pd

        mean = self.contributions.mean("student")
        return pd.DataFrame(mean.values.T, index=pd.Index(mean["prompt"].values, name="prompt"), columns=self.measures)

    def interval(self, measure: str, prob: float = 0.95) -> tuple[float, float]:
        """Return a two-sided interval of one measure, over other students and other prompts of the same kinds.

        Parameters
        ----------
        measure : str
        prob : float, default 0.95
            Coverage. Of rates, Clopper-Pearson with an effective sample size, at least this; of others, t. Bounds end
            at what the measure can be, such as 0 for a variance.
        """
        prob = as_probability("prob", prob)
        table = self._table(measure)
        return _interval(measure, crossed_mean(table), prob=prob, n_inputs=table.shape[1])

    def to_dataframe(self, prob: float = 0.95) -> pd.DataFrame:
        """Return one row per measure: ``estimate``, ``standard_error``, ``df``, ``lower``, ``upper``, ``meaning``."""
        import pandas as pd

        rows = []
        for name in self.measures:
            mean, (lower, upper) = self.mean(name), self.interval(name, prob)
            rows.append((mean.estimate, mean.standard_error, mean.df, lower, upper, MEASURES[name].meaning))
        columns = ["estimate", "standard_error", "df", "lower", "upper", "meaning"]
        return pd.DataFrame(rows, columns=columns, index=pd.Index(self.measures, name="measure"))

    def difference(self, other: ResponseComponents, *, prob: float = 0.95, relative: bool = False) -> pd.DataFrame:
        """Return how much larger each measure is than that of other students who were asked the same prompts.

        Parameters
        ----------
        other : ResponseComponents
            Students independent of these; prompts are paired by their labels and must be the same.
        prob : float, default 0.95
        relative : bool, default False
            The ratio of both in place of their difference (delta method on its logarithm). Its bounds are NaN where one
            of both is not separable from 0, its own interval reaching below 0: the logarithm has no such interval, and
            the difference is what can be said.

        Returns
        -------
        DataFrame
            Index ``measure``; ``estimate``, ``standard_error`` (of the logarithm, if relative), ``df``, ``lower``,
            ``upper``; bounds are NaN where neither side varies, which leaves the error unknown. ``attrs["notes"]``
            names what else differs.

        Raises
        ------
        ComparisonError
            If the prompts differ, or a setting that a common measure is defined by (``similarity``, ``bulk``,
            ``fuzzy_threshold``).

        Warns
        -----
        ApproximationWarning
            If the numbers of answers differ, for measures that depend on them.
        """
        import pandas as pd

        prob, relative = as_probability("prob", prob), as_flag("relative", relative)
        mine, theirs = (list(each.contributions["prompt"].values) for each in (self, other))
        if len(mine) != len(theirs) or set(mine) != set(theirs):
            only = sorted(map(str, set(mine) ^ set(theirs)))
            raise invalid("other", "answer the same prompts", f"{len(only)} others, first {only[0]!r}", ComparisonError)
        place = {label: i for i, label in enumerate(theirs)}
        order = [place[label] for label in mine]
        names, rows = [name for name in self.measures if name in other.measures], []
        self._refuse_other_settings(other, names)
        notes = self._other_numbers(other, names)
        for note in notes:
            warnings.warn(note, ApproximationWarning, stacklevel=2)
        for name in names:
            one, two = self._table(name), other._table(name)[:, order]
            if relative:
                one, two = _per_unit(one), _per_unit(two)
            found = crossed_contrast(one, two)
            value, bounds = found.estimate, mean_interval(found, prob)
            if found.standard_error == 0.0:  # every answer alike on both sides: nothing shows how far it may be wrong
                bounds = (float("nan"), float("nan"))
            if relative and not (self._is_separable(name, prob) and other._is_separable(name, prob)):
                ratio = self.mean(name).estimate / other.mean(name).estimate if np.isfinite(value) else float("nan")
                value, bounds = ratio, (float("nan"), float("nan"))
            elif relative:
                ratio = self.mean(name).estimate / other.mean(name).estimate if np.isfinite(value) else float("nan")
                half = (bounds[1] - bounds[0]) / 2
                value, bounds = ratio, (float(ratio * np.exp(-half)), float(ratio * np.exp(half)))
            rows.append((value, found.standard_error, found.df, *bounds))
        columns = ["estimate", "standard_error", "df", "lower", "upper"]
        frame = pd.DataFrame(rows, columns=columns, index=pd.Index(names, name="measure"))
        frame.attrs["notes"] = notes
        return frame

    def _refuse_other_settings(self, other: ResponseComponents, names: Sequence[str]) -> None:
        for setting, measures in _DEFINED_BY.items():
            mine, theirs = (each.attrs.get(setting) for each in (self, other))
            affected = [name for name in names if name in measures]
            if affected and mine != theirs:
                rule = f"have the {setting} of the first ({mine}), which {', '.join(affected)} are defined by"
                raise invalid("other", rule, theirs, ComparisonError)

    def _other_numbers(self, other: ResponseComponents, names: Sequence[str]) -> tuple[str, ...]:
        notes = []
        for number, measures in _COUNTED.items():
            mine, theirs = (each.attrs.get(number) for each in (self, other))
            affected = [name for name in names if name in measures]
            if affected and mine != theirs:
                what = "answers of a student to a prompt" if number == "n_responses" else "answers of the teacher"
                numbers = (
                    f"{each[0]} to {each[1]}" if isinstance(each, tuple) else f"{each}" for each in (mine, theirs)
                )
                notes.append(
                    f"{what}: {' against '.join(numbers)}; part of the difference of {', '.join(affected)} is due to "
                    "that"
                )
        return tuple(notes)

    def summary(self, prob: float = 0.95) -> str:
        """Return a printable table with intervals of coverage ``prob``."""
        frame = self.to_dataframe(prob)
        width = max(map(len, self.measures)) + 1
        tails = (f"[{(1 - prob) / 2:.4g}", f"{(1 + prob) / 2:.4g}]")
        heads = "".join(f"{head:>10}" for head in ("mean", "std err", *tails))
        few, many = self.attrs["n_responses"]
        answers = f"{few}" if few == many else f"{few} to {many}"
        sizes = self.contributions.sizes
        lines = [
            "Text answers, averages over students and prompts",
            "=" * WIDTH,
            f"Students: {sizes['student']}, prompts: {sizes['prompt']}, answers of a student to a prompt: {answers}, "
            f"of the teacher: {self.attrs['n_teacher'] or 'none'}",
            "=" * WIDTH,
            " " * width + heads,
        ]
        group = ""
        for name in self.measures:
            if MEASURES[name].group != group:
                group = MEASURES[name].group
                lines += ["-" * WIDTH, group]
            row = frame.loc[name]
            numbers = "".join(f"{row[key]:>#10.3g}" for key in ("estimate", "standard_error", "lower", "upper"))
            lines.append(f"{name:<{width}}{numbers}  {MEASURES[name].meaning}")
        lines.append("=" * WIDTH)
        clipped = [name for name in self.measures if self._is_clipped(name, prob)]
        limits = [f"Intervals end at what is possible: {', '.join(clipped)}."] if clipped else []
        promise = (
            f"{100 * prob:g}% intervals for students and prompts of any law, from jackknives: about {100 * prob:g}% "
            "(.92 to .94 was measured at 95% for means of exponential numbers)."
        )
        for number, note in enumerate([promise, *limits, *self.attrs["notes"]], 1):
            lines += textwrap.wrap(f"[{number}] {note}", WIDTH, subsequent_indent="    ")
        return "\n".join(lines)

    def _is_separable(self, measure: str, prob: float) -> bool:
        return bool(mean_interval(crossed_mean(self._table(measure)), prob)[0] > 0)

    def _is_clipped(self, measure: str, prob: float) -> bool:
        return not MEASURES[measure].is_rate and any(
            abs(plain - bound) > ROUNDING
            for plain, bound in zip(mean_interval(self.mean(measure), prob), self.interval(measure, prob), strict=True)
        )

    def _table(self, measure: str) -> FloatArray:
        if measure not in self.measures:
            raise invalid("measure", f"be one of {', '.join(self.measures)}", measure, EstimationError)
        return np.asarray(self.contributions.sel(measure=measure).values, dtype=np.float64)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {size}" for name, size in self.contributions.sizes.items())
        return f"<ResponseComponents ({sizes})>"

    __str__ = __repr__


def _interval(name: str, mean: CrossedMean, *, prob: float, n_inputs: int) -> tuple[float, float]:
    if MEASURES[name].is_rate:
        return rate_interval(mean, prob, n_inputs=n_inputs)
    lower, upper = np.clip(mean_interval(mean, prob), *_LIMITS.get(name, (0.0, np.inf)))
    return float(lower), float(upper)


def _per_unit(table: FloatArray) -> FloatArray:
    value = table.mean()
    return np.asarray(table / value if value > 0 else np.full_like(table, np.nan))
