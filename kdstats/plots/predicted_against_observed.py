"""Point by point, whether the measured variance sits where theory puts it."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import EstimationError, invalid
from kdstats.plots.style import (
    BLUE,
    COMPONENT_LOOKS,
    MUTED,
    VERMILLION,
    head,
    house_style,
    new_figure,
    scale_axis,
    settle,
    squared_unit,
    wants_log,
)
from kdstats.problem.validation import as_choice, as_probability

__all__ = ["predicted_against_observed"]


@house_style()
def predicted_against_observed(
    predicted: VarianceComponents,
    observed: VarianceComponents,
    *,
    component: str = "inter_student",
    unit: str | None = None,
    prob: float = 0.95,
) -> Figure:
    """Draw the observed against the predicted variance of every point, with intervals and the identity line.

    Parameters
    ----------
    predicted, observed : VarianceComponents
        With the same point and output labels and no leading dims.
    component : {"inter_student", "intra_student", "total"}, default "inter_student"
        Which variance.
    unit : str, optional
        Unit of the outputs, for the axis labels.
    prob : float, default 0.95
        Coverage of the intervals.

    Returns
    -------
    matplotlib.figure.Figure
        Observed intervals that leave out the predicted estimate are drawn as vermillion diamonds and
        counted, beside the number, ``(1 - prob)`` times the intervals, to expect of a right theory.
        Points share their students, so misses come in clusters and the count spreads more than a
        binomial one: the picture is no test.

    Raises
    ------
    EstimationError
        If the points differ.
    """
    name, prob = as_choice("component", component, COMPONENTS), as_probability("prob", prob)
    _check_labels(predicted, observed)
    x = predicted.estimate[name].values.ravel()
    across = predicted.interval(prob)[name]
    y, bounds = observed.estimate[name].values.ravel(), observed.interval(prob)[name]
    low, high = (_bound(bounds, side) for side in ("lower", "upper"))
    missed = (x < low) | (x > high)
    log = wants_log(np.concatenate([x, y])) and bool((low > 0).all())

    figure = new_figure(width=5.6, height=6.3)
    axes = figure.subplots()
    everything = np.concatenate([x, y, low, high])
    scale_axis(axes, "x", everything, log=log)
    scale_axis(axes, "y", everything, log=log)
    ends = axes.get_xlim()
    axes.plot(ends, ends, color=MUTED, lw=1.2, ls=(0, (4, 2)), zorder=1.5, gid="identity")
    for chosen, colour, marker, size, gid in (
        (~missed, BLUE, "o", 3.5, "covered"),
        (missed, VERMILLION, "D", 5.5, "missed"),
    ):
        axes.vlines(
            x[chosen],
            low[chosen],
            high[chosen],
            color=colour,
            lw=1.0,
            alpha=0.55 if gid == "covered" else 1,
            gid=f"interval-{gid}",
        )
        axes.plot(x[chosen], y[chosen], ls="none", marker=marker, ms=size, color=colour, zorder=3, gid=gid)
    if predicted.exactness != "exact":
        axes.hlines(y, _bound(across, "lower"), _bound(across, "upper"), color=MUTED, lw=0.8, gid="interval-predicted")
    axes.set_box_aspect(1)
    axes.set_xlabel(f"Predicted variance [{squared_unit(unit)}]")
    axes.set_ylabel(f"Observed variance, engine {observed.engine} [{squared_unit(unit)}]")
    expected = (1 - prob) * x.size
    handles = [
        Line2D(
            [],
            [],
            ls="none",
            marker="o",
            ms=4,
            color=BLUE,
            label=f"interval holds the prediction: {int((~missed).sum())}",
        ),
        Line2D(
            [],
            [],
            ls="none",
            marker="D",
            ms=5.5,
            color=VERMILLION,
            label=f"misses it: {int(missed.sum())}, about {expected:.3g} expected",
        ),
    ]
    head(figure, f"Predicted against observed {COMPONENT_LOOKS[name].name} variance", handles, columns=1)
    axes.text(
        0.98,
        0.03,
        f"{prob:.0%} intervals\ndashed: observed = predicted",
        transform=axes.transAxes,
        ha="right",
        color=MUTED,
        fontsize=9.5,
    )
    figure.set_label(
        f"Students of engine {observed.engine}: observed against predicted {COMPONENT_LOOKS[name].name} variance at "
        f"{x.size} points; "
        f"{int(missed.sum())} of {x.size} intervals ({prob:.0%}) leave out the prediction; "
        f"a right theory expects about {expected:.3g} on average, and misses come together, for points share students. "
        f"Predicted values run from {x.min():.3g} to {x.max():.3g}, observed ones from {y.min():.3g} to {y.max():.3g}."
    )
    return settle(figure)


def _bound(bounds: Any, side: str) -> NDArray[np.float64]:
    return np.asarray(bounds.sel(ci_bound=side).values, dtype=float).ravel()


def _check_labels(predicted: VarianceComponents, observed: VarianceComponents) -> None:
    for name, components in (("predicted", predicted), ("observed", observed)):
        if len(components.total.dims) > 2:
            raise invalid(name, "have no leading dims", f"{components.total.dims[:-2]}", EstimationError)
    for dim in ("point", "output"):
        ours, theirs = (list(c.estimate.coords[dim].values) for c in (predicted, observed))
        if ours != theirs:
            raise invalid(
                "observed",
                f"have the {dim} labels of predicted",
                f"{len(theirs)} labels against {len(ours)}",
                EstimationError,
            )
