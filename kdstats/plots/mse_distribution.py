"""The test error of one student is random: its predicted law over the errors that students really made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from kdstats.errors import invalid
from kdstats.plots.style import BLUE, MUTED, VERMILLION, head, house_style, new_figure, scale_axis, settle, squared_unit
from kdstats.problem.validation import as_array, as_probability

__all__ = ["MseLaw", "mse_distribution"]

FloatArray = NDArray[np.float64]

N_GRID = 300
DASHED = (0, (5, 1.5))
#: Beyond these quantiles the law is not drawn, unless a student was there.
TAILS = (0.0005, 0.9995)


class MseLaw(Protocol):
    """Law of the test MSE of one student, squared output units."""

    @property
    def mean(self) -> float:
        """Expectation."""
        ...

    @property
    def variance(self) -> float:
        """Variance."""
        ...

    def quantile(self, q: Any) -> Any:
        """Return quantiles."""
        ...

    def cdf(self, x: Any) -> Any:
        """Return probabilities of at most x."""
        ...

    def pdf(self, x: Any) -> Any:
        """Return densities."""
        ...


@house_style()
def mse_distribution(
    law: MseLaw,
    observed_mse: ArrayLike | None = None,
    *,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    unit: str | None = None,
    prob: float = 0.95,
) -> Figure:
    """Draw the predicted law of one student's test MSE over the test MSEs of trained students.

    Parameters
    ----------
    law : MseLaw
        With ``mean``, ``variance``, ``quantile(q)``, ``cdf(x)`` and ``pdf(x)``.
    observed_mse : array_like, shape (S,), optional
        Test MSE of each of S independent students.
    quantiles : sequence of float, default (0.05, 0.5, 0.95)
        Predicted quantiles to mark.
    unit : str, optional
        Unit of the outputs, for the axis labels.
    prob : float, default 0.95
        Coverage of the band around the observed cumulative distribution.

    Returns
    -------
    matplotlib.figure.Figure
        Densities above, cumulative distributions below. The band is that of Dvoretzky, Kiefer,
        Wolfowitz and Massart: it holds the whole true curve at once with at least ``prob``.

    Raises
    ------
    ProblemError
        If an MSE is not finite, a quantile is outside (0, 1), or the law has no variance to draw.
    """
    if not float(law.variance) > 0.0:
        raise invalid("law", "vary over students", f"variance {float(law.variance):g}")
    prob = as_probability("prob", prob)
    marks = [as_probability("quantiles", q) for q in quantiles]
    sample = None if observed_mse is None else np.sort(as_array("observed_mse", observed_mse, ndim=1))
    ends = [float(law.quantile(tail)) for tail in TAILS]
    if sample is not None:
        ends = [min(ends[0], float(sample[0])), max(ends[1], float(sample[-1]))]
    grid = np.linspace(ends[0], ends[1], N_GRID)

    figure = new_figure(height=6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    density = np.array([float(law.pdf(x)) for x in grid])
    cumulative = np.array([float(law.cdf(x)) for x in grid])
    handles: list[Any] = [Line2D([], [], color=BLUE, ls=DASHED, label="predicted law")]
    peak = density.max()
    if sample is not None:
        heights, _, _ = upper.hist(
            sample, bins="fd", density=True, color="#d0d0d0", edgecolor="white", lw=0.6, gid="observed"
        )
        peak = max(peak, float(np.max(heights)))
        _draw_cumulative(lower, sample, ends, prob)
        handles += [
            Patch(color="#d0d0d0", label=f"{sample.size} observed students"),
            Line2D([], [], color=VERMILLION, lw=1.3, label=f"observed, {prob:.0%} band"),
        ]
    upper.plot(grid, density, color=BLUE, ls=DASHED, gid="pdf")
    lower.plot(grid, cumulative, color=BLUE, ls=DASHED, gid="cdf")
    scale_axis(upper, "x", grid, log=False, margin=0.0)
    upper.set_xlim(ends[0], ends[1])
    upper.set_ylim(0.0, (1.1 + 0.08 * len(marks)) * peak)
    lower.set_ylim(-0.02, 1.02)
    for row, mark in enumerate(sorted(marks)):
        _mark(upper, lower, float(law.quantile(mark)), mark, row=row)
    head(figure, "Test error of one student", handles)
    lower.set_xlabel(f"Test MSE of one student [{squared_unit(unit)}]")
    upper.set_ylabel(f"Density [per {squared_unit(unit)}]")
    lower.set_ylabel("Probability of\nat most this MSE")
    figure.set_label(_in_words(law, sample, marks))
    return settle(figure)


def _draw_cumulative(axes: Axes, sample: FloatArray, ends: Sequence[float], prob: float) -> None:
    steps = np.arange(sample.size + 1) / sample.size
    reach = math.sqrt(math.log(2 / (1 - prob)) / (2 * sample.size))
    x = np.concatenate([[ends[0]], sample, [ends[1]]])
    y = np.append(steps, 1.0)
    axes.fill_between(
        x,
        np.maximum(y - reach, 0),
        np.minimum(y + reach, 1),
        step="post",
        color=VERMILLION,
        alpha=0.18,
        lw=0,
        gid="band",
    )
    axes.step(x, y, where="post", color=VERMILLION, lw=1.3, gid="ecdf")


def _mark(upper: Axes, lower: Axes, place: float, q: float, *, row: int) -> None:
    """Mark a predicted quantile in both panels; each label has a row of its own."""
    for axes in (upper, lower):
        axes.axvline(place, color=MUTED, ls=":", lw=1.2, zorder=1.5, gid="quantile")
    upper.annotate(
        f"{100 * q:.4g}% quantile {place:.3g}",
        (place, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, -2 - 14 * row),
        textcoords="offset points",
        va="top",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )


def _in_words(law: MseLaw, sample: FloatArray | None, marks: Sequence[float]) -> str:
    parts = ", ".join(f"{100 * q:.4g}% quantile {float(law.quantile(q)):.3g}" for q in marks)
    mean, sd = float(law.mean), math.sqrt(float(law.variance))
    text = f"Predicted law of the test MSE of one student: mean {mean:.4g}, sd {sd:.3g}, {parts}."
    if sample is None or sample.size < 2:
        return text
    low, high = min(marks), max(marks)
    inside = np.mean((sample >= float(law.quantile(low))) & (sample <= float(law.quantile(high))))
    return (
        f"{text} The {sample.size} observed students have mean {sample.mean():.4g}, sd {sample.std(ddof=1):.3g}; "
        f"{inside:.1%} of them lie between the {100 * low:.4g}% and {100 * high:.4g}% quantiles, "
        f"{high - low:.1%} predicted."
    )
