"""The printed form of a comparison."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from kdstats.components.departure import inflation, level_of_variance
from kdstats.hypotest.covariance import covariance_level

if TYPE_CHECKING:
    from kdstats.hypotest.verdict import Comparison

__all__ = ["summary"]

WIDTH = 86
#: Students below which Student's t of their own variances is not at its level.
FEW = 50
FEW_STUDENTS = (
    "5% tests of intra-student variance rejected 7% of true predictions with five students whose own variances spread "
    "like 8 degrees of freedom; where they spread like 2, 12% with three or five, 10% with ten, 7% with thirty, and "
    "those of the total 11%, 8%, 6% and 4%"
)
NAMES = {
    "equality": "equality of the average",
    "equivalence": "equivalence of the average",
    "pointwise": "equality at every point",
    "covariance": "covariance between points",
    "inter_student": "equality, inter-student",
    "intra_student": "equality, intra-student",
    "total": "equality, total",
}


def summary(comparison: Comparison) -> str:
    """Return the table: header, one line per test, verdict, notes."""
    title = "Prediction against observation".center(WIDTH).rstrip()
    needed = comparison.n_students_needed
    equality: Any = comparison.tests["equality"]
    header = [
        _pair("Component:", comparison.component, "Students observed:", f"{comparison.n_students:,}"),
        _pair(
            "Predicted by:",
            f"{comparison.predicted_engine} ({comparison.exactness})",
            "Points x outputs:",
            _size(comparison),
        ),
        _pair("Observed by:", comparison.observed_engine, "Effective rank:", f"{equality.effective_rank:.2f}"),
        _pair(
            "Predicted average:", _number(equality.predicted), "Confidence level:", f"{comparison.confidence_level:g}"
        ),
        _pair("Observed average:", _number(equality.observed), "Margin (ratio):", f"{comparison.equivalence_margin:g}"),
    ]
    level = f"{comparison.confidence_level:.0%}"
    columns = f"{'':<27}{'ratio or LR':>12}{'df':>10}{'p-value':>10}{f'[{level} interval of ratio]':>27}"
    rows = [_row(row) for row in comparison._rows()]
    verdict = [f"Verdict: {comparison.verdict.upper()}. {_sentence(comparison.reason)}"]
    if comparison.verdict == "undecided":
        verdict.append(
            f"About {needed:,} students would decide it."
            if needed is not None
            else "More students alone would not decide it."
        )
    if "pointwise" in comparison.tests:
        verdict.append(_pointwise(comparison))
    notes = [f"[{index}] {_sentence(note)}" for index, note in enumerate(_notes(comparison), start=1)]
    body = [title, "=" * WIDTH, *header, "-" * WIDTH, columns, "-" * WIDTH, *rows, "=" * WIDTH, *_wrap(verdict)]
    return "\n".join([*body, "", "Notes:", *_wrap(notes)])


def _notes(comparison: Comparison) -> list[str]:
    equality: Any = comparison.tests["equality"]
    return [
        "agree: equivalence is shown and no point lies beyond the margin; disagree: equality is rejected (Holm over "
        "the average, the points and the covariance) and equivalence is not shown, or something lies beyond the margin",
        f"law of the average: {equality.method}; levels hold for Gaussian students unless it says otherwise; "
        "the interval of the equivalence row has level "
        f"{2 * comparison.confidence_level - 1:.0%}",
        *_other_laws(comparison),
        *([FEW_STUDENTS] if comparison.n_students < FEW and "intra_student" in comparison.tests else []),
        *comparison.notes,
    ]


def _other_laws(comparison: Comparison) -> list[str]:
    """Say what Laplace students would make of the tests that take a Gaussian law, by formula."""
    equality: Any = comparison.tests["equality"]
    alpha, factor = 1.0 - comparison.confidence_level, inflation(comparison.n_students)
    found = []
    if any(word in equality.method for word in ("weighted chi-square", "effective degrees")):
        law = {"df_other": equality.df_denominator, "alpha": alpha}
        average, margin = (level_of_variance(equality.df, factor, one_sided=one, **law) for one in (False, True))
        found += [f"the average in up to {average:.0%}", f"one at the margin as equivalent in up to {margin:.0%}"]
    if "pointwise" in comparison.tests:
        pointwise: Any = comparison.tests["pointwise"]
        found.append(f"one point alone in up to {level_of_variance(pointwise.df, factor, alpha=alpha):.0%}")
    if "covariance" in comparison.tests:
        covariance: Any = comparison.tests["covariance"]
        level = covariance_level(covariance.n_directions, factor, alpha=alpha)
        found.append(f"the covariance in up to {level:.0%}")
    if not found:
        return []
    said = "were students Laplace (excess kurtosis 3, in independent directions), "
    return [f"{said}{alpha:.0%} tests would be wrong more often: {', '.join(found)}"]


def _pointwise(comparison: Comparison) -> str:
    row = next(row for row in comparison._rows() if row["test"] == "pointwise")
    return (
        f"Points rejected: {row['n_rejected']} of {row['n_tests']}; smallest p-value at point {row['worst_point']!r}."
    )


def _row(row: dict[str, Any]) -> str:
    interval = ""
    if "ci_lower" in row:
        interval = f"[{_number(row['ci_lower'])}, {_number(row['ci_upper'])}]"
    pvalue = "<0.0001" if row["pvalue"] < 1e-4 else f"{row['pvalue']:.4f}"
    df = f"{row['df']:.1f}" if np.isfinite(row["df"]) else "-"
    return f"{NAMES[row['test']]:<27}{_number(row['statistic']):>12}{df:>10}{pvalue:>10}{interval:>27}"


def _size(comparison: Comparison) -> str:
    test: Any = comparison.tests.get("pointwise")
    return "-" if test is None else " x ".join(str(size) for size in test.pvalues.shape)


def _pair(left: str, left_value: str, right: str, right_value: str) -> str:
    return f"{left:<19}{left_value:<30.30}{right:>22}{right_value:>15}"


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else "-"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _wrap(lines: list[str]) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="    ")]
