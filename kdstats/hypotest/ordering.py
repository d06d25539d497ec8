"""Test that strategies are ordered: averaging leaves less inter-student variance than a single response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.errors import ComparisonError
from kdstats.hypotest.multiplicity import adjust_pvalues
from kdstats.hypotest.ratio import RatioResult, ratio_test

__all__ = ["OrderingResult", "ordering_test"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderingResult:
    """Test that inter-student variances fall from each strategy to the next.

    Attributes
    ----------
    pvalue : float
        Of "some step does not fall" against "every step falls": the largest of ``pvalues``.
    pvalue_any : float
        Of "no step falls" against "some step falls": the smallest of ``adjusted_pvalues``.
    pvalues, adjusted_pvalues : ndarray
        One-sided, of each step; adjusted by Holm, for claims about single steps.
    labels : tuple
        Strategies, in the order that was tested.
    steps : tuple of RatioResult
        Variance of each strategy over that of the next.
    """

    pvalue: float
    pvalue_any: float
    pvalues: FloatArray
    adjusted_pvalues: FloatArray
    labels: tuple[Any, ...]
    steps: tuple[RatioResult, ...]

    @property
    def statistic(self) -> float:
        """Smallest ratio of a strategy's variance to the next's."""
        return min(step.statistic for step in self.steps)

    @property
    def unreliable(self) -> tuple[str, ...]:
        """Why steps decide nothing, as in :class:`kdstats.hypotest.RatioResult`; empty if all do."""
        return tuple(step.unreliable for step in self.steps if step.unreliable)

    def summary(self) -> str:
        """Return a printable table."""
        rows = [f"{'step':<28}{'ratio':>10}{'95% interval':>24}{'p (falls)':>11}{'Holm':>9}"]
        for index, step in enumerate(self.steps):
            low, high = step.confidence_interval()
            name = f"{self.labels[index]} over {self.labels[index + 1]}"
            rows.append(
                f"{name:<28}{step.statistic:>10.4g}{f'[{low:.4g}, {high:.4g}]':>24}"
                f"{self.pvalues[index]:>11.3g}{self.adjusted_pvalues[index]:>9.3g}"
            )
        rows += [f"level: {statement}" for statement in dict.fromkeys(step.coverage for step in self.steps)]
        rows += [f"UNRELIABLE: {reason}" for reason in dict.fromkeys(self.unreliable)]
        rows.append(f"every step falls: p = {self.pvalue:.3g}; some step falls: p = {self.pvalue_any:.3g}")
        return "\n".join(rows)

    def __str__(self) -> str:
        return self.summary()


def ordering_test(observed: Mapping[Any, VarianceComponents], **options: Any) -> OrderingResult:
    """Test that inter-student variance falls from each strategy to the next.

    Parameters
    ----------
    observed : mapping of label to VarianceComponents
        At least two observations, in the order of variances that is claimed, largest first: for example
        ``{"single": ..., "averaging": ...}`` or ``{1: ..., 2: ..., 5: ...}`` by number of responses.
    **options
        ``paired``, ``method``, ``n_resamples``, ``rng``, ``component``: as in :func:`kdstats.ratio_test`.

    Returns
    -------
    OrderingResult

    Raises
    ------
    ComparisonError
        If there are fewer than two, or two cannot be compared.

    Notes
    -----
    The whole ordering is shown if every one-sided test of a step rejects at alpha: an intersection-union test,
    whose level is at most alpha although the steps share observations and no p-value is adjusted (Berger 1982). For
    claims about single steps Holm's adjustment holds the family-wise level under any dependence between them, which is
    the closed test with Bonferroni's tests of the intersections.

    Examples
    --------
    >>> import kdstats as kd
    >>> problem = kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8)
    >>> cells = {k: problem.with_design(n_responses=k, strategy="averaging") for k in (1, 3, 9)}
    >>> observed = {k: kd.observe(cell, n_students=150, rng=k) for k, cell in cells.items()}
    >>> kd.ordering_test(observed).pvalue < 0.05
    True
    """
    if not isinstance(observed, Mapping) or len(observed) < 2:
        got = len(observed) if isinstance(observed, Mapping) else f"a {type(observed).__name__}"
        raise ComparisonError(f"`observed` must map at least 2 labels to observations; got {got}")
    labels, results = tuple(observed), list(observed.values())
    steps = tuple(ratio_test(one, other, alternative="greater", **options) for one, other in pairwise(results))
    pvalues = np.array([step.pvalue for step in steps])
    adjusted = adjust_pvalues(pvalues)
    return OrderingResult(
        pvalue=float(pvalues.max()),
        pvalue_any=float(adjusted.min()),
        pvalues=pvalues,
        adjusted_pvalues=adjusted,
        labels=labels,
        steps=steps,
    )
