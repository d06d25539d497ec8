"""What every price buys: the best designs from cheap to dear, and what else the recommended one's money would buy."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdstats.errors import invalid
from kdstats.planning.result import Plan
from kdstats.plots.style import (
    BLUE,
    INK,
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

__all__ = ["frontier"]

#: Other designs for the same money are drawn up to this multiple of the best value.
WORST_SHOWN = 30.0
#: Designs on the frontier that are labelled with their numbers.
N_LABELLED = 5


@house_style()
def frontier(plan: Plan, *, unit: str | None = None) -> Figure:
    """Draw the best value that each price buys, and the value of other designs for the recommended one's price.

    Parameters
    ----------
    plan : Plan
        From :func:`kdstats.plan`.
    unit : str, optional
        Unit of the outputs, for the axis labels.

    Returns
    -------
    matplotlib.figure.Figure
        Left: the frontier over cost, some designs labelled inputs x responses, with the interval that a pilot leaves.
        Right: value against responses per input at one price; with unequal noise, against the number of inputs.
    """
    if not isinstance(plan, Plan):
        raise invalid("plan", "be a Plan, from kdstats.plan", f"a {type(plan).__name__}")
    what = "inter_student" if plan.mse is None else "mse"
    name = "Average inter-student variance" if plan.mse is None else "Expected squared error"
    figure = new_figure(width=9.4, height=4.6)
    left, right = figure.subplots(1, 2, sharey=False)
    _draw_frontier(left, plan, what)
    left.set_xlabel("Cost")
    left.set_ylabel(f"{name}, {squared_unit(unit)}")
    _draw_same_money(right, plan, what)
    handles = [
        Line2D([], [], color=BLUE, marker="o", ms=4, label="best design for its cost"),
        Line2D([], [], color=VERMILLION, marker="D", ls="", ms=7, label="recommended"),
        Line2D([], [], color=MUTED, marker=".", ls="", label="other designs for the same money"),
    ]
    if plan.value_interval is not None:
        handles.append(Line2D([], [], color=VERMILLION, marker="|", ls="-", label="95%, given the pilot"))
    head(figure, "What a budget buys", handles, columns=4)
    figure.set_label(
        f"{name} of the best design against its cost, and of other designs that cost {plan.cost:.6g}. {plan.sentence}"
    )
    return settle(figure)


def _draw_frontier(axes: Axes, plan: Plan, what: str) -> None:
    table = plan.frontier
    cost, value = table["cost"].to_numpy(), table[what].to_numpy()
    axes.plot(cost, value, color=BLUE, marker="o", ms=4, gid="frontier")
    for row in np.unique(np.linspace(0, len(table) - 1, N_LABELLED).round().astype(int)):
        text = f"{table['n_inputs'].iloc[row]} x {table['n_responses'].iloc[row]:.3g}"
        axes.annotate(text, (cost[row], value[row]), xytext=(5, 5), textcoords="offset points", fontsize=9, color=INK)
    shown = [*value, plan.value]
    if plan.value_interval is not None:
        low, high = plan.value_interval.low, plan.value_interval.high
        axes.plot([plan.cost, plan.cost], [low, high], color=VERMILLION, marker="_", ms=9, gid="interval")
        shown += [low, high]
    axes.plot([plan.cost], [plan.value], color=VERMILLION, marker="D", ls="", ms=7, zorder=3, gid="recommended")
    scale_axis(axes, "x", [*cost, plan.cost], log=wants_log(cost) or cost.min() > 0, margin=0.16)
    scale_axis(axes, "y", shown, log=wants_log(shown))
    axes.set_title("inputs x responses to each, by cost")


def _draw_same_money(axes: Axes, plan: Plan, what: str) -> None:
    even = isinstance(plan.n_responses, int)
    column, label = ("n_responses", "Responses to each input, k") if even else ("n_inputs", "Inputs, n")
    table = plan.alternatives[plan.alternatives[what] <= WORST_SHOWN * plan.value]
    x, value = table[column].to_numpy(dtype=float), table[what].to_numpy()
    axes.plot(x, value, color=MUTED, marker=".", ls="", gid="alternatives")
    best = float(plan.n_responses if isinstance(plan.n_responses, int) else plan.n_inputs)
    axes.plot([best], [plan.value], color=VERMILLION, marker="D", ls="", ms=7, zorder=3, gid="recommended")
    scale_axis(axes, "x", [*x, best], log=wants_log([*x, best]))
    scale_axis(axes, "y", [*value, plan.value], log=wants_log([*value, plan.value]))
    axes.set_xlabel(label)
    axes.set_title(f"all that costs about {plan.cost:.6g}")
