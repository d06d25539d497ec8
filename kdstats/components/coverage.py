"""What the intervals of components promise: under which law of students, and whether at least or about that often."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdstats.components.departure import inflation, level_of_variance

if TYPE_CHECKING:
    from kdstats.components.result import VarianceComponents

__all__ = ["coverage_statement"]

SEVERAL = "; of the average over points: at least"
#: Differentiated runs from which their error is known well enough for a Gaussian interval.
MANY_PILOTS = 30


def coverage_statement(components: VarianceComponents, prob: float, *, students: str = "gaussian") -> str:
    """Return what intervals of components promise, empty for exact components, which have none.

    Parameters
    ----------
    components : VarianceComponents
    prob : float
        Nominal coverage.
    students : {"gaussian", "any"}
        Law that :func:`kdstats.components.uncertainty.interval` was asked for.

    Returns
    -------
    str
        Law of students, and the coverage under it.
    """
    if components.exactness == "exact":
        return ""
    level = f"{100 * prob:g}%"
    if components.draws is not None:
        return f"{level} intervals are quantiles of the draws: {level} if the model they come from is right."
    if components.mean_squares is None:
        runs = int(components.attrs.get("n_pilots", MANY_PILOTS))
        few = (
            f"; with {runs} differentiated runs less: 83% was measured at 95% with 4" if 1 < runs < MANY_PILOTS else ""
        )
        return f"{level} intervals take errors of estimates for Gaussian: about {level} where many were averaged{few}."
    if students == "any":
        return (
            f"{level} intervals for students of any law: at least {level} for tails up to exponential (.94 was "
            "measured at 95% with 20 students), less for heavier ones."
        )
    outputs = "" if components.mean_squares.attrs["n_replicates"] == 0 else " and their outputs"
    several = int(components.attrs.get("averaged_over") or components.total.sizes["point"]) > 1
    average = f"{SEVERAL} {level}" if several else ""
    n = float(components.n_students or np.min(components.mean_squares.attrs["df_between"]) + 1)
    laplace = 1.0 - level_of_variance(n - 1.0, inflation(n), alpha=1.0 - prob)
    return (
        f"{level} intervals for Gaussian students{outputs}: about {level} at a point{average}. Were students Laplace "
        f"(excess kurtosis 3, in independent directions), down to {laplace:.0%}: "
        'interval(students="any") is for others.'
    )
