"""Which source the variance comes from: shares of the total with their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from kdstats.components.sources import SourceComponents
from kdstats.errors import EstimationError, invalid
from kdstats.plots.style import BLUE, GREEN, INK, MUTED, VERMILLION, head, house_style, new_figure, settle
from kdstats.problem.validation import as_probability

__all__ = ["variance_by_source"]

TIMES = "\N{MULTIPLICATION SIGN}"
LOOKS: dict[str, dict[str, Any]] = {
    "source": {"color": BLUE, "marker": "o"},
    "interaction": {"color": GREEN, "marker": "D"},
    "residual": {"color": VERMILLION, "marker": "s"},
}
ROW_HEIGHT = 0.46
#: Characters of a name from which it is broken into lines.
LONG = 40
#: Room beyond the truth's range, 0 to 1, that bounds may take before they are cut and marked.
BEYOND = 0.25


@house_style()
def variance_by_source(components: SourceComponents, *, prob: float = 0.95) -> Figure:
    """Draw the share of each source, interaction and the residual with its interval, averaged over points.

    Parameters
    ----------
    components : SourceComponents
    prob : float, default 0.95
        Coverage of each interval.

    Returns
    -------
    matplotlib.figure.Figure
        One row per part of the total, in the order of the sources; behind it a dot for each point where there
        are several. Intervals may reach below 0, where no true share lies: the data do not exclude 0.

    Raises
    ------
    EstimationError
        If the total is estimated to be 0 or less.
    """
    if not isinstance(components, SourceComponents):
        raise invalid("components", "be SourceComponents", f"a {type(components).__name__}", EstimationError)
    prob = as_probability("prob", prob)
    mean = components.average()
    terms = list(components.terms)
    shares = mean.shares.sel(component=terms).values.ravel()
    if np.isnan(shares).any():
        raise invalid("components", "have a total above 0", "0 or less", EstimationError)
    bounds = mean.interval(prob)["share"].sel(component=terms).values.reshape(-1, 2)
    figure = new_figure(width=7.4, height=1.7 + ROW_HEIGHT * len(terms))
    axes = figure.subplots()
    rows = np.arange(len(terms))
    spread = components.shares.sel(component=terms).values.reshape(len(terms), -1)
    seen = np.concatenate([bounds.ravel(), shares, spread[np.isfinite(spread)]])
    low, high = max(-BEYOND, min(0.0, seen.min()) - 0.03), min(1 + BEYOND, seen.max() + 0.04)
    axes.axvline(0.0, color=INK, lw=1.0, zorder=1)
    kinds = ["residual" if term == "residual" else "interaction" if ":" in term else "source" for term in terms]
    for row, kind in zip(rows, kinds, strict=True):
        colour = LOOKS[kind]["color"]
        if spread.shape[1] > 1:
            inside = np.clip(spread[row], low, high)
            axes.plot(
                inside, np.full(inside.size, row), ls="", marker="|", ms=9, color=colour, alpha=0.35, gid="points"
            )
        ends = np.clip(bounds[row], low, high)
        axes.plot(ends, [row, row], color=colour, lw=2.0, solid_capstyle="butt", gid="interval")
        axes.plot([shares[row]], [row], ls="", mfc="white", mew=1.8, ms=8, gid="share", **LOOKS[kind])
    axes.set_xlim(low, high)
    axes.set_ylim(len(terms) - 0.5, -0.5)
    axes.set_yticks(rows, [_name(term) for term in terms])
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
    axes.set_xlabel("Share of the variance of one output")
    used = [kind for kind in LOOKS if kind in kinds]
    handles = [Line2D([], [], ls="", mfc="white", mew=1.8, label=kind, **LOOKS[kind]) for kind in used]
    handles.append(Line2D([], [], color=MUTED, lw=2.0, label=f"{100 * prob:g}% interval"))
    if spread.shape[1] > 1:
        handles.append(Line2D([], [], color=MUTED, ls="", marker="|", ms=9, label="single points"))
    head(figure, "Where the variance between outputs comes from", handles, columns=len(handles))
    figure.set_label(_words(terms, shares, bounds, prob))
    return settle(figure)


def _name(term: str) -> str:
    """Write an interaction as a product, broken where it would take the room of the picture."""
    return term.replace(":", f"\n{TIMES} " if len(term) > LONG else f" {TIMES} ")


def _words(terms: list[str], shares: NDArray[np.float64], bounds: NDArray[np.float64], prob: float) -> str:
    parts = ", ".join(
        f"{term} {100 * share:.0f}% ({100 * low:.0f}% to {100 * high:.0f}%)"
        for term, share, (low, high) in zip(terms, shares, bounds, strict=True)
    )
    return f"Share of the variance of one output from each source, with {100 * prob:g}% intervals: {parts}."
