"""How the three components fall with the number of responses that are averaged, and where they stop falling."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.plots.panels import Panels, draw_panels
from kdstats.plots.series import Observed, Series
from kdstats.plots.style import GREEN, MUTED, EndLabel, house_style
from kdstats.problem.validation import as_probability

__all__ = ["components_against_responses"]

#: Relative departure from a/k + floor above which a curve is not taken to have that form.
SHAPE_TOLERANCE = 1e-6


@house_style()
def components_against_responses(
    predicted: VarianceComponents, observed: Observed | None = None, *, unit: str | None = None, prob: float = 0.95
) -> Figure:
    """Draw the components against the number of responses k, on log axes, beside the 1/k line.

    Parameters
    ----------
    predicted : VarianceComponents
        A grid with leading dim ``n_responses``. One further leading dim of up to six labels gives
        one panel each.
    observed : VarianceComponents, mapping or sequence, optional
        Measured runs: a grid, a mapping from k to run, or one run for each predicted cell in its order.
    unit : str, optional
        Unit of the outputs, for the axis labels.
    prob : float, default 0.95
        Coverage of the intervals.

    Returns
    -------
    matplotlib.figure.Figure
        The dotted line continues the first inter-student variance as 1/k. Where the predicted
        inter-student curve has the form a/k + floor with a floor above 0 (responses correlated, or
        a teacher with an error of its own), the floor is drawn and named.

    Raises
    ------
    EstimationError
        If the grid lacks the dim, or runs do not match its cells.
    """
    what = Panels(
        dim="n_responses",
        title="How much students vary, against the number of responses",
        x_label="Responses per input, k",
        log=True,
        extra=_references,
        extra_handles=(Line2D([], [], color=MUTED, ls=":", lw=1.4, label="falling as 1/k"),),
    )
    return draw_panels(predicted, observed, what=what, unit=unit, prob=as_probability("prob", prob))


def _references(axes: Axes, curve: Series) -> list[EndLabel]:
    inter = curve.estimate["inter_student"]
    if not (inter > 0).all() or inter.size < 2:
        return []
    ends = np.array(axes.get_xlim())
    rate = inter[0] * curve.x[0] / curve.x
    low, high = axes.get_ylim()
    if low > rate[-1]:
        axes.set_ylim(rate[-1] / (high / low) ** 0.04, high)
    axes.plot(ends, inter[0] * curve.x[0] / ends, color=MUTED, ls=":", lw=1.4, zorder=1.5, gid="rate")
    labels = []
    if np.abs(inter / rate - 1).max() > SHAPE_TOLERANCE:
        labels.append(EndLabel(text="1/k", y=float(inter[0] * curve.x[0] / ends[1]), colour=MUTED))
    floor = _floor(curve.x, inter)
    if floor is not None:
        axes.axhline(floor, color=GREEN, ls=(0, (1, 1, 5, 1)), lw=1.2, zorder=1.5, gid="floor")
        labels.append(EndLabel(text=f"floor {floor:.3g}", y=floor, colour=GREEN))
    return labels


def _floor(k: NDArray[np.float64], inter: NDArray[np.float64]) -> float | None:
    """Return the limit of a curve a/k + floor, or None where the curve has another form or falls to 0."""
    floor = (k[-1] * inter[-1] - k[0] * inter[0]) / (k[-1] - k[0])
    fitted = floor + (inter[0] - floor) * k[0] / k
    straight = np.abs(fitted / inter - 1).max() <= SHAPE_TOLERANCE
    return float(floor) if straight and floor > SHAPE_TOLERANCE * inter[0] else None
