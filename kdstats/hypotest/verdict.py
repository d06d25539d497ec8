"""Prediction against observation: all tests at once, and one verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.hypotest.covariance import CovarianceResult, covariance_of
from kdstats.hypotest.equality import (
    KURTOSES,
    EqualityResult,
    PointwiseResult,
    Ratio,
    equality_of,
    margin_ends,
    pointwise_of,
    ratio_of,
)
from kdstats.hypotest.equivalence import EquivalenceResult, equivalence_of
from kdstats.hypotest.multiplicity import METHODS, adjust_pvalues
from kdstats.hypotest.pairing import Pair, pair
from kdstats.hypotest.power import df_for_equality, df_for_equivalence, df_to_decide, students
from kdstats.hypotest.ratio_law import ConfidenceInterval, LocationLaw
from kdstats.problem.validation import as_choice, as_number, as_probability

__all__ = ["VERDICTS", "Comparison", "compare"]

VERDICTS = ("agree", "disagree", "undecided")
#: Predictions whose own error is not known are not tested for equality, only for equivalence.
INEXACT = ("approximate", "asymptotic")
#: The tests of equality in words.
REJECTED_BY = {
    "equality": "the test of the average",
    "pointwise": "the tests of the points",
    "covariance": "the test of the covariance",
}
#: Power that the number of students for an approximate prediction is planned for.
PLANNED_POWER = 0.8

Result = EqualityResult | EquivalenceResult | PointwiseResult | CovarianceResult


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Verdict on a prediction, with the tests behind it.

    Attributes
    ----------
    verdict : {"agree", "disagree", "undecided"}
        By the rule of :func:`compare`.
    reason : str
        Why, in one sentence.
    tests : mapping of str to result
        ``equality``, ``equivalence``; ``pointwise`` and ``covariance`` where the component and the
        data allow them; ``intra_student`` and ``total``: equality of the other components (not part of the
        verdict).
    n_students : int
        Students observed.
    n_students_needed : int or None
        Students that would decide an undecided comparison; None if it is decided, or if no number would.
    component, confidence_level, equivalence_margin
        As asked.
    predicted_engine, observed_engine, exactness : str
        What was compared.
    notes : tuple of str
        What the reader should know before using the verdict.
    """

    verdict: str
    reason: str
    tests: Mapping[str, Result]
    n_students: int
    n_students_needed: int | None
    component: str
    confidence_level: float
    equivalence_margin: float
    predicted_engine: str
    observed_engine: str
    exactness: str
    notes: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """Observed over predicted average variance."""
        return self.tests["equality"].statistic  # type: ignore[return-value]

    @property
    def ratio_interval(self) -> ConfidenceInterval:
        """Confidence interval of the true ratio at ``confidence_level``."""
        return self.tests["equality"].confidence_interval(self.confidence_level)  # type: ignore[union-attr]

    def summary(self) -> str:
        """Return a printable table of the tests and the verdict."""
        from kdstats.hypotest.presentation import summary

        return summary(self)

    def to_frame(self) -> Any:
        """Return one row per test as a pandas DataFrame: statistic, df, p-value, interval."""
        import pandas as pd

        return pd.DataFrame(self._rows()).set_index("test")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings, lists and dicts (valid JSON: no NaN, no infinity)."""
        low, high = self.ratio_interval
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("tests", "notes")}
        return {
            **own,
            "ratio": _plain(self.ratio),
            "ratio_interval": [_plain(low), _plain(high)],
            "notes": list(self.notes),
            "tests": {row.pop("test"): {k: _plain(v) for k, v in row.items()} for row in self._rows()},
        }

    def _rows(self) -> list[dict[str, Any]]:
        return [_row(name, test, self.confidence_level) for name, test in self.tests.items()]

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<Comparison verdict={self.verdict!r} component={self.component!r} ratio={self.ratio:.4g}>"


def compare(
    predicted: VarianceComponents,
    observed: VarianceComponents,
    *,
    equivalence_margin: float = 1.5,
    confidence_level: float = 0.95,
    component: str = "inter_student",
    multiplicity: str = "holm",
    kurtosis: str = "auto",
) -> Comparison:
    """Test a prediction against an observation and give a verdict.

    Parameters
    ----------
    predicted : VarianceComponents
        From :func:`kdstats.predict`.
    observed : VarianceComponents
        From :func:`kdstats.observe` or :func:`kdstats.estimate_components`. Points are matched by label.
    equivalence_margin : float, default 1.5
        Variances whose ratio lies in (1/margin, margin) are close enough.
    confidence_level : float, default 0.95
        One minus the level alpha of every test.
    component : {"inter_student", "intra_student", "total"}
        What the verdict is about.
    multiplicity : str, default "holm"
        Adjustment of the pointwise tests, see :func:`kdstats.hypotest.adjust_pvalues`.
    kurtosis : {"auto", "gaussian", "estimated"}
        See :func:`kdstats.hypotest.equality_test`.

    Returns
    -------
    Comparison

    Raises
    ------
    ComparisonError
        Not a prediction and an observation (or swapped), points or outputs that differ (naming the first),
        a grid of cells, fewer than two students, or one output per student where intra-student variance
        is needed.

    Notes
    -----
    The rule. Equality is rejected if, after Holm's adjustment between them, the test of the average, the
    family of pointwise tests or the covariance test rejects at alpha. Equivalence is shown if both one-sided
    tests of the average reject at alpha.

    * **agree**: equivalence is shown, and no point lies beyond the margin significantly. If
      equality is rejected as well, the difference, if it is no false alarm of level alpha, is smaller than the
      margin; the reason says so.
    * **disagree**: equality is rejected and equivalence is not shown, or some point, or the average, lies
      beyond the margin significantly.
    * **undecided**: neither; ``n_students_needed`` is the number of students beyond which the average
      cannot be undecided, whatever its true ratio.

    A true prediction is called "disagree" with probability at most alpha; a ratio outside the margin is called
    "agree" with probability at most alpha. An ``approximate`` or ``asymptotic`` prediction cannot be exactly
    right, so equality does not count: it agrees if equivalence is shown, disagrees if the average or a point
    lies beyond the margin significantly, and ``n_students_needed`` is for 80% power at the observed ratio.

    Students that all gave the same predictions where variance was predicted are a degenerate
    observation: undecided. Where zero was predicted, zero observed agrees and anything else disagrees.
    """
    margin = as_number("equivalence_margin", equivalence_margin, minimum=1.0, exclusive=True)
    level = as_probability("confidence_level", confidence_level)
    as_choice("component", component, COMPONENTS)
    as_choice("multiplicity", multiplicity, METHODS)
    as_choice("kurtosis", kurtosis, KURTOSES)
    both = pair(predicted, observed)
    ratio = ratio_of(both, component=component, kurtosis=kurtosis)
    tests = _tests(both, ratio, component, margin=margin, multiplicity=multiplicity, kurtosis=kurtosis)
    facts = _Facts(tests=tests, alpha=1.0 - level, margin=margin, inexact=predicted.exactness in INEXACT)
    verdict, reason = _judge(facts, degenerate=_degenerate(both, component, ratio))
    return Comparison(
        verdict=verdict,
        reason=reason,
        tests=MappingProxyType(tests),
        n_students=int(both.observed.df_between) + 1,
        n_students_needed=_needed(facts, ratio, both) if verdict == "undecided" else None,
        component=component,
        confidence_level=level,
        equivalence_margin=margin,
        predicted_engine=predicted.engine,
        observed_engine=observed.engine,
        exactness=predicted.exactness,
        notes=(*both.notes, *_remarks(facts, ratio, both, component)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Facts:
    tests: dict[str, Result]
    alpha: float
    margin: float
    inexact: bool

    @property
    def families(self) -> list[str]:
        """Names of the tests of equality that the verdict rests on."""
        return [name for name in ("equality", "pointwise", "covariance") if name in self.tests]

    @cached_property
    def rejecting(self) -> list[str]:
        """Names of the tests of equality that reject, after Holm between them."""
        raw = [self.tests[name].pvalue for name in self.families]
        if min(raw) > self.alpha:
            return []
        adjusted = adjust_pvalues(raw)
        return [name for name, p in zip(self.families, adjusted, strict=True) if p <= self.alpha]

    @property
    def equivalent(self) -> bool:
        """Whether equivalence of the average is shown."""
        return self.tests["equivalence"].pvalue <= self.alpha

    @cached_property
    def beyond(self) -> str | None:
        """What lies beyond the margin, in words."""
        pointwise, equivalence = self.tests.get("pointwise"), self.tests["equivalence"]
        shares = 1 if pointwise is None else 2
        if equivalence.pvalue_beyond * shares <= self.alpha:  # type: ignore[union-attr]
            return "the average variance"
        if isinstance(pointwise, PointwiseResult) and pointwise.unadjusted_beyond(self.margin).min() <= self.alpha:
            pvalues = pointwise.beyond(self.margin)
            if float(pvalues.min()) * shares <= self.alpha:
                point, _ = pointwise.labels[int(np.argmin(pvalues))]
                return f"the variance at point {point!r}"
        return None


def _tests(
    both: Pair, ratio: Ratio, component: str, *, margin: float, multiplicity: str, kurtosis: str
) -> dict[str, Result]:
    tests: dict[str, Result] = {
        "equality": equality_of(ratio, component=component, alternative="two-sided"),
        "equivalence": equivalence_of(ratio, component, margin),
    }
    if component == "inter_student" or both.observed.single_output:
        tests["pointwise"] = pointwise_of(both, multiplicity=multiplicity)
    if component == "inter_student" and _covariance_is_testable(both):
        tests["covariance"] = covariance_of(both)
    for other in COMPONENTS:
        if other != component and not both.observed.single_output:
            found = ratio_of(both, component=other, kurtosis=kurtosis)
            tests[other] = equality_of(found, component=other, alternative="two-sided")
    return tests


def _covariance_is_testable(both: Pair) -> bool:
    exact = both.exactness not in INEXACT and not (both.inter_se > 0).any()
    return exact and both.covariance is not None and both.observed.predictions is not None and bool(both.inter.any())


def _degenerate(both: Pair, component: str, ratio: Ratio) -> bool:
    """Whether nothing varies in the observation although the prediction says that it does."""
    return component != "intra_student" and ratio.predicted > 0.0 and not both.between.any()


def _judge(facts: _Facts, *, degenerate: bool) -> tuple[str, str]:
    ratio = facts.tests["equality"].statistic
    if degenerate:
        return "undecided", "all students gave the same predictions: the observation is degenerate"
    if np.isnan(ratio):
        return "agree", "zero variance was predicted and observed"
    beyond, rejecting = facts.beyond, [] if facts.inexact else facts.rejecting
    if beyond is not None:
        return "disagree", f"{beyond} lies beyond the margin {facts.margin:g}"
    if facts.equivalent:
        shown = f"the ratio of average variances lies within the margin {facts.margin:g}"
        found = f"; equality is rejected by {_words(rejecting)}: a difference, if real, is smaller" if rejecting else ""
        return "agree", shown + found
    if rejecting:
        return "disagree", f"equality is rejected by {_words(rejecting)}, and equivalence is not shown"
    return "undecided", "neither a difference nor equivalence is shown"


def _words(names: list[str]) -> str:
    words = [REJECTED_BY[name] for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _needed(facts: _Facts, ratio: Ratio, both: Pair) -> int | None:
    """Return the number of students that would decide, None if the prediction's own error forbids it."""
    law, value, n = ratio.law, ratio.value, both.observed.df_between
    low, high = margin_ends(facts.margin, ratio.share)
    margin = min(high, 1.0 / low)
    if margin <= 1.0:
        return None
    if law is None or not np.isfinite(value) or value <= 0.0:
        return None
    df = 2.0 / law.standard_error**2 if isinstance(law, LocationLaw) else law.df
    df_denominator = getattr(law, "df_denominator", np.inf)
    if not facts.inexact:
        alpha = facts.alpha / len(facts.families)
        wanted = df_to_decide(
            margin, significance=facts.alpha, significance_equality=alpha, df_denominator=df_denominator
        )
    elif 1.0 / margin < value < margin:
        wanted = df_for_equivalence(
            margin, ratio=value, power=PLANNED_POWER, significance=facts.alpha, df_denominator=df_denominator
        )
    else:
        excess = max(value / margin, 1.0 / (value * margin))
        wanted = df_for_equality(excess, power=PLANNED_POWER, significance=facts.alpha)
    found = students(wanted, effective_rank=df / n)
    return None if found is None else max(found, int(n) + 2)


def _remarks(facts: _Facts, ratio: Ratio, both: Pair, component: str) -> list[str]:
    remarks = []
    if facts.inexact:
        remarks.append(f"the prediction is {both.exactness}: judged by equivalence alone")
    if both.observed.single_output:
        remarks.append("one output per student: only the total is tested")
    if "estimated kurtosis" in ratio.method:
        remarks.append("the students' predictions are not Gaussian: degrees of freedom from their estimated kurtosis")
    if component != "intra_student" and ratio.rank_source != "predicted":
        remarks.append(f"effective rank of the query points: {ratio.rank_source}")
    if ratio.share < 1.0:
        remarks.append(
            f"students are known from {both.observed.n_replicates} outputs each: the tests are on the variance of "
            f"their means, of which inter_student is predicted to be {ratio.share:.1%}; ratio and margin are those of "
            "inter_student"
        )
    covariance = facts.tests.get("covariance")
    if isinstance(covariance, CovarianceResult):
        if covariance.share_tested < 1.0 - 1e-9:
            remarks.append(
                f"covariance tested in its {covariance.n_directions} leading directions, "
                f"{covariance.share_tested:.1%} of the predicted variance"
            )
        if "covariance" in facts.rejecting:
            remarks.append("the test of the covariance between points rejects the predicted one")
    return remarks


def _row(name: str, test: Result, confidence_level: float) -> dict[str, Any]:
    row: dict[str, Any] = {"test": name, "pvalue": test.pvalue, "alternative": test.alternative, "df": test.df}
    if isinstance(test, PointwiseResult):
        index = int(np.argmin(test.pvalues))
        rejected = int((test.adjusted_pvalues <= 1.0 - confidence_level).sum())
        low, high = (float(np.ravel(end)[index]) for end in test.confidence_interval(confidence_level))
        return {
            **row,
            "statistic": float(test.statistic.ravel()[index]),
            "ci_lower": low,
            "ci_upper": high,
            "worst_point": _label(test.worst[0]),
            "n_rejected": rejected,
            "n_tests": test.pvalues.size,
            "method": f"every point, {test.multiplicity}",
        }
    row["statistic"] = test.statistic
    if isinstance(test, CovarianceResult):
        return {**row, "n_directions": test.n_directions, "outside_range": test.outside_range, "method": test.method}
    if isinstance(test, EquivalenceResult):
        ends = test.confidence_interval(2.0 * confidence_level - 1.0) if confidence_level > 0.5 else (np.nan, np.nan)
        return {**row, "ci_lower": ends[0], "ci_upper": ends[1], "margin": test.margin, "method": "two one-sided tests"}
    low, high = test.confidence_interval(confidence_level)
    return {
        **row,
        "observed": test.observed,
        "predicted": test.predicted,
        "ci_lower": low,
        "ci_upper": high,
        "df_denominator": test.df_denominator,
        "method": test.method,
    }


def _label(label: Any) -> Any:
    return list(label) if isinstance(label, tuple) else label


def _plain(value: Any) -> Any:
    """Return numbers as JSON knows them; NaN and infinity as None."""
    if isinstance(value, (np.generic,)):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
