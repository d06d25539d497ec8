"""The verdict in words that a newcomer can act on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdstats.components.result import VarianceComponents
from kdstats.report.formatting import count, interval, number, percent

__all__ = ["Wording", "notes", "word_verdict"]

HEADLINES = {
    "agree": "Prediction and observation agree",
    "disagree": "Prediction and observation disagree",
    "undecided": "Undecided",
    "none": "Nothing was compared",
}
MEANINGS = {
    "agree": "The students varied as much as predicted, up to the margin. This says more than that no difference was "
    "found: a difference beyond the margin would most likely have been noticed.",
    "disagree": "The students did not vary as predicted, by more than chance explains. Either an assumption of the "
    "prediction does not hold here, or the students were not trained as the problem says.",
    "undecided": "The observation neither supports nor refutes the prediction.",
    "none": "This page shows results without a test of one against the other.",
}
COMPONENT_NAMES = {
    "inter_student": "inter-student variance",
    "intra_student": "intra-student variance",
    "total": "total variance",
}


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Headline, sentences, caveats and the kind (``agree``, ``disagree``, ``undecided``, ``none``)."""

    kind: str
    headline: str
    sentences: tuple[str, ...]
    caveats: tuple[str, ...] = ()


def word_verdict(comparison: Any, comparisons: Mapping[str, Any] | None = None) -> Wording:
    """Return the verdict of a comparison in words, and in a sentence each those on other students.

    Parameters
    ----------
    comparison : Comparison or None
        With ``verdict`` and ``n_students_needed``; ``reason``, ``ratio``, ``ratio_interval``, ``n_students``,
        ``component``, ``confidence_level`` and ``notes`` are used where it has them.
    comparisons : mapping of str to Comparison, optional
        Every verdict of the study by the engine whose students it is about.
    """
    kind = "none" if comparison is None else str(comparison.verdict)
    if kind not in HEADLINES:
        return Wording(kind="undecided", headline=kind, sentences=())
    sentences = [MEANINGS[kind]]
    reason = getattr(comparison, "reason", None)
    if reason:
        sentences.append(f"Why: {reason}.")
    if getattr(comparison, "ratio", None) is not None:
        sentences.append(_ratio(comparison))
    if kind == "undecided":
        sentences.append(_needed(comparison))
    others = {} if comparisons is None else comparisons
    if len(others) > 1:
        decisive = [name for name, each in others.items() if each is comparison]
        sentences += [f"This is about the students of engine {name}." for name in decisive]
        sentences += [_other(name, each) for name, each in others.items() if each is not comparison]
    caveats = tuple(f"Note: {note}." for note in getattr(comparison, "notes", ()))
    return Wording(kind=kind, headline=HEADLINES[kind], sentences=tuple(sentences), caveats=caveats)


def notes(predicted: VarianceComponents | None, observed: VarianceComponents | None) -> tuple[str, ...]:
    """Return what a reader should know before using the numbers."""
    found = []
    for name, components in (("predicted", predicted), ("observed", observed)):
        if components is None:
            continue
        inter = components.inter_student.values
        if (inter < 0).any():
            found.append(
                f"The {name} inter-student variance is negative at {int((inter < 0).sum())} of {inter.size} points: "
                "the unbiased estimate keeps its sign, because setting it to 0 would bias the average. "
                "Read it as too small to tell from 0."
            )
        if components.exactness in ("approximate", "asymptotic"):
            found.append(
                f"The {name} values are {components.exactness}: their standard errors leave out the approximation."
            )
        if components.attrs.get("degenerate"):
            found.append(
                f"The {name} values are degenerate: {', '.join(components.attrs['degenerate'])} is 0 everywhere."
            )
    return tuple(found)


def _ratio(comparison: Any) -> str:
    name = COMPONENT_NAMES.get(getattr(comparison, "component", "inter_student"), "variance")
    bounds = getattr(comparison, "ratio_interval", None)
    within = "" if bounds is None else f" ({_level(comparison)}interval {interval(*bounds)})"
    return f"The observed average {name} is {number(comparison.ratio)} times the predicted one{within}."


def _other(name: str, comparison: Any) -> str:
    within = "" if comparison.ratio_interval is None else f" ({interval(*comparison.ratio_interval)})"
    return f"Students of engine {name}: {comparison.verdict}, ratio {number(comparison.ratio)}{within}."


def _level(comparison: Any) -> str:
    level = getattr(comparison, "confidence_level", None)
    return "" if level is None else f"{percent(level)} "


def _needed(comparison: Any) -> str:
    have = getattr(comparison, "n_students", None)
    after = "" if have is None else f" ({count(have)} were trained)"
    if comparison.n_students_needed is None:
        return f"More students alone would not decide it{after}."
    return f"About {count(comparison.n_students_needed)} students would decide it{after}."
