"""One look for every picture: colours that colour-blind readers tell apart, and shapes for those who print in grey.

Colours are those of Okabe and Ito's palette. No meaning rests on colour alone: every component has a
line style and a marker of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation, Transform

__all__ = [
    "BLUE",
    "COMPONENT_LOOKS",
    "GREEN",
    "INK",
    "MUTED",
    "VERMILLION",
    "ComponentLook",
    "EndLabel",
    "head",
    "house_style",
    "label_curve_ends",
    "new_figure",
    "scale_axis",
    "settle",
    "shifted",
    "squared_unit",
    "wants_log",
]

INK, MUTED, GRID = "#1a1a1a", "#595959", "#dcdcdc"
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 2.2,
    "figure.facecolor": "white",
}
#: An axis spanning more than this ratio is drawn on a log scale, if it can be.
LOG_SPAN = 20.0
#: Share of the width that is laid out: words are a little wider at other resolutions.
ROOM = 0.98
#: Height of a text line, in points, for stacking direct labels.
LINE_HEIGHT = 13.0


@dataclass(frozen=True, kw_only=True)
class ComponentLook:
    """How one variance component is named and drawn; ``shift`` in points keeps markers apart."""

    name: str
    colour: str
    linestyle: Any
    marker: str
    shift: float


COMPONENT_LOOKS: Mapping[str, ComponentLook] = {
    "total": ComponentLook(name="total", colour=INK, linestyle=(0, (6, 2, 1, 2)), marker="^", shift=3.0),
    "inter_student": ComponentLook(name="inter-student", colour=BLUE, linestyle="-", marker="o", shift=0.0),
    "intra_student": ComponentLook(name="intra-student", colour=VERMILLION, linestyle="--", marker="s", shift=-3.0),
}


@dataclass(frozen=True, kw_only=True)
class EndLabel:
    """Words to put beside the right end of a curve that ends at height ``y``."""

    text: str
    y: float
    colour: str


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style whatever the user's matplotlibrc says; also a decorator."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(cast(Any, RC))
        yield


def new_figure(*, width: float = 6.4, height: float = 4.4) -> Figure:
    """Return an empty Figure, in inches; no pyplot state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0.0, 0.0, ROOM, 1.0))  # type: ignore[call-arg]
    return figure


def settle(figure: Figure) -> Figure:
    """Lay the figure out and keep the layout, so that every drawing of it is the same to the byte."""
    for _ in range(2):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def head(figure: Figure, title: str, handles: Sequence[Any], *, columns: int = 3) -> None:
    """Put title and legend in a strip above everything else, where they hide nothing."""
    legend = figure.legend(
        handles=list(handles),
        title=title,
        title_fontproperties={"weight": "bold", "size": 12},
        alignment="left",
        loc="outside upper left",
        ncols=columns,
        columnspacing=1.6,
        borderaxespad=0.2,
    )
    legend.set_gid("head")


def squared_unit(unit: str | None) -> str:
    """Return the unit of a variance of outputs in ``unit``, safe to put in a label of matplotlib.

    Examples
    --------
    >>> squared_unit(None), squared_unit("K"), squared_unit("m/s")
    ('squared output units', 'K²', '(m/s)²')
    """
    if unit is None:
        return "squared output units"
    safe = unit.replace("$", r"\$")
    return f"{safe}²" if unit.isalpha() else f"({safe})²"


def wants_log(values: Any) -> bool:
    """Whether all finite values are positive and span a ratio that a linear axis would squash."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    return bool(finite.size and finite.min() > 0 and finite.max() > LOG_SPAN * finite.min())


def scale_axis(axes: Axes, name: Literal["x", "y"], values: Any, *, log: bool, margin: float = 0.06) -> None:
    """Set scale, limits and plain-number ticks of an axis from the values that must be visible.

    On a log axis values of 0 or less cannot be shown and do not count.
    """
    finite = np.asarray(values, dtype=float).ravel()
    finite = finite[np.isfinite(finite)]
    axis, limits = (axes.xaxis, axes.set_xlim) if name == "x" else (axes.yaxis, axes.set_ylim)
    if log:
        (axes.set_xscale if name == "x" else axes.set_yscale)("log")
        low, high = np.log10(finite[finite > 0].min()), np.log10(finite[finite > 0].max())
        pad = margin * (high - low) or 0.3
        limits(10 ** (low - pad), 10 ** (high + pad))
        subs = (1.0,) if high - low > 2.5 else (1.0, 2.0, 5.0) if high - low > 0.7 else tuple(np.arange(1.0, 10.0))
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
        return
    low, high = float(finite.min()), float(finite.max())
    pad = margin * (high - low) or 0.1 * abs(high) or 1.0
    limits(0.0 if 0 <= low < 0.3 * high else low - pad, high + pad)
    axis.set_major_locator(MaxNLocator(6))


def shifted(axes: Axes, points: float) -> Transform:
    """Return the data transform moved sideways by some points, so that markers at one x stay apart."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return axes.transData + ScaledTranslation(points / 72.0, 0.0, figure.dpi_scale_trans)


def label_curve_ends(axes: Axes, labels: Sequence[EndLabel], *, height: float) -> None:
    """Write the labels right of the axes beside the curve ends, pushed apart where they would collide.

    Parameters
    ----------
    axes : Axes
        With its scales and limits set.
    labels : sequence of EndLabel
        Curve ends, in data coordinates.
    height : float
        Approximate height of the axes in inches.
    """
    low, high = axes.get_ylim()
    move = np.log if axes.get_yscale() == "log" else np.asarray
    order = sorted(labels, key=lambda label: label.y)
    ends = [float((move(max(label.y, low)) - move(low)) / (move(high) - move(low))) for label in order]
    gap = LINE_HEIGHT / 72.0 / height
    places = _pushed_apart(ends, gap)
    for label, end, place in zip(order, ends, places, strict=True):
        axes.add_line(
            Line2D(
                [1.0, 1.025, 1.04],
                [end, place, place],
                transform=axes.transAxes,
                color=label.colour,
                lw=1.0,
                clip_on=False,
            )
        )
        axes.text(1.05, place, label.text, transform=axes.transAxes, va="center", ha="left", fontsize=9.5)


def _pushed_apart(positions: Sequence[float], gap: float) -> list[float]:
    """Move sorted positions as little as needed to be ``gap`` apart: merge overlapping ones into centred blocks."""
    blocks: list[list[float]] = []  # members of a block share one centre
    for position in positions:
        blocks.append([position])
        while len(blocks) > 1 and _top(blocks[-2], gap) + gap > _bottom(blocks[-1], gap):
            last = blocks.pop()
            blocks[-1].extend(last)
    return [_bottom(block, gap) + gap * index for block in blocks for index in range(len(block))]


def _bottom(block: Sequence[float], gap: float) -> float:
    return float(np.mean(block)) - 0.5 * gap * (len(block) - 1)


def _top(block: Sequence[float], gap: float) -> float:
    return float(np.mean(block)) + 0.5 * gap * (len(block) - 1)
