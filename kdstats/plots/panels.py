"""Panels of component curves with measured points over them, shared by the pictures that run along a grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdstats.components.result import VarianceComponents
from kdstats.plots.series import Observed, Series, along, grid_dims, runs_along
from kdstats.plots.style import (
    COMPONENT_LOOKS,
    MUTED,
    EndLabel,
    head,
    label_curve_ends,
    new_figure,
    scale_axis,
    settle,
    shifted,
    squared_unit,
    wants_log,
)

__all__ = ["Panels", "draw_panels"]

PANEL_HEIGHT = 3.6
DIM_NAMES = {"noise_variance": "noise variance", "n_responses": "responses per input"}


@dataclass(frozen=True, kw_only=True)
class Panels:
    """What runs along x, and what to add to each panel.

    ``extra`` draws reference lines and returns their labels; it runs once limits are set.
    """

    dim: str
    title: str
    x_label: str
    log: bool | None
    extra: Callable[[Axes, Series], list[EndLabel]] | None = None
    extra_handles: tuple[Line2D, ...] = ()


def draw_panels(
    predicted: VarianceComponents, observed: Observed | None, *, what: Panels, unit: str | None, prob: float
) -> Figure:
    """Draw one panel per label of the grid's other dim, all with the same axes."""
    curves = along(predicted, what.dim, prob=prob)
    points: Mapping[Any, Series] = {}
    if observed is not None:
        points = runs_along(observed, what.dim, grid=predicted, prob=prob)
    n_columns = 1 if len(curves) == 1 else 2
    n_rows = -(-len(curves) // n_columns)
    figure = new_figure(
        width=6.4 if n_columns == 1 else 9.6, height=4.5 if n_rows == 1 else 0.8 + PANEL_HEIGHT * n_rows
    )
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    shown = [name for name in COMPONENT_LOOKS if any(_nonzero(s, name) for s in (*curves.values(), *points.values()))]
    xs, ys = _extent(curves, points, shown)
    log_y = _can_log(curves, shown) and (what.log is True or wants_log(_positive(curves, shown)))
    log_x = what.log is True or wants_log(xs) or (log_y and min(xs) > 0)  # a power of x is then a straight line
    other = next((dim for dim in grid_dims(predicted) if dim != what.dim), "")
    hidden = 0
    for place, (axes, (label, curve)) in enumerate(zip(grid.flat, curves.items(), strict=False)):
        scale_axis(axes, "x", xs, log=log_x)
        scale_axis(axes, "y", ys, log=log_y)
        _draw_curves(axes, curve, shown)
        if label in points:
            hidden += _draw_points(axes, points[label], shown, log=log_y)
        ends = [
            EndLabel(text=COMPONENT_LOOKS[n].name, y=float(curve.estimate[n][-1]), colour=COMPONENT_LOOKS[n].colour)
            for n in shown
        ]
        ends += what.extra(axes, curve) if what.extra else []
        label_curve_ends(axes, ends, height=PANEL_HEIGHT * 0.75)
        if place + n_columns >= len(curves):
            axes.set_xlabel(what.x_label)
        if place % n_columns == 0:
            axes.set_ylabel(f"Variance, mean over points\n[{squared_unit(unit)}]")
        if label is not None:
            axes.set_title(f"{DIM_NAMES.get(other, other)} {label:.4g}", fontweight="bold")
    for spare in list(grid.flat)[len(curves) :]:
        spare.set_axis_off()
    handles = [*_legend(predicted, curves, prob=prob, measured=bool(points), hidden=hidden), *what.extra_handles]
    head(figure, what.title, handles)
    figure.set_label(_in_words(what, predicted, curves, points, shown, prob=prob, unit=unit))
    return settle(figure)


def _draw_curves(axes: Axes, curve: Series, shown: list[str]) -> None:
    for name in shown:
        look = COMPONENT_LOOKS[name]
        if (curve.upper[name] > curve.lower[name]).any():
            axes.fill_between(curve.x, curve.lower[name], curve.upper[name], color=look.colour, alpha=0.15, lw=0)
        axes.plot(curve.x, curve.estimate[name], color=look.colour, ls=look.linestyle, gid=f"predicted-{name}")


def _draw_points(axes: Axes, points: Series, shown: list[str], *, log: bool) -> int:
    """Draw measured points; return how many estimates of 0 or less a log axis cannot show."""
    hidden = 0
    for name in shown:
        look = COMPONENT_LOOKS[name]
        estimate, low, high = points.estimate[name], points.lower[name], points.upper[name]
        if not _nonzero(points, name):
            continue
        place = shifted(axes, look.shift)
        floor = axes.get_ylim()[0]
        axes.vlines(
            points.x,
            np.maximum(low, floor) if log else low,
            high,
            color=look.colour,
            lw=1.3,
            transform=place,
            gid=f"interval-{name}",
        )
        axes.plot(
            points.x,
            estimate,
            ls="none",
            marker=look.marker,
            ms=6,
            mfc="white",
            mec=look.colour,
            mew=1.5,
            transform=place,
            zorder=3,
            gid=f"observed-{name}",
        )
        below = estimate <= 0
        if log and below.any():
            hidden += int(below.sum())
            axes.plot(
                points.x[below],
                np.full(below.sum(), floor),
                ls="none",
                marker="v",
                ms=7,
                color=look.colour,
                transform=place,
                clip_on=False,
            )
    return hidden


def _legend(
    predicted: VarianceComponents, curves: Mapping[Any, Series], *, prob: float, measured: bool, hidden: int
) -> list[Line2D]:
    band = f" with {prob:.0%} band" if predicted.exactness != "exact" else ""
    handles = [Line2D([], [], color=MUTED, label=f"predicted ({predicted.exactness}){band}")]
    if measured:
        handles.append(
            Line2D(
                [], [], ls="none", marker="o", mfc="white", mec=MUTED, mew=1.5, label=f"observed, {prob:.0%} interval"
            )
        )
    if hidden:
        handles.append(Line2D([], [], ls="none", marker="v", color=MUTED, label=f"{hidden} estimates of 0 or less"))
    return handles


def _in_words(
    what: Panels,
    predicted: VarianceComponents,
    curves: Mapping[Any, Series],
    points: Mapping[Any, Series],
    shown: list[str],
    *,
    prob: float,
    unit: str | None,
) -> str:
    curve = next(iter(curves.values()))
    parts = [
        f"predicted {COMPONENT_LOOKS[n].name} variance from {curve.estimate[n][0]:.3g} to {curve.estimate[n][-1]:.3g}"
        for n in shown
    ]
    panels = f" in {len(curves)} panels (numbers of the first)" if len(curves) > 1 else ""
    measured = sum(series.x.size for series in points.values())
    over = f"; {measured} measured points with {prob:.0%} intervals are drawn over the curves" if measured else ""
    along_x = f"{DIM_NAMES.get(what.dim, what.dim)} from {curve.x[0]:.4g} to {curve.x[-1]:.4g}"
    where = "squared output units" if unit is None else f"squared {unit}"
    return f"{what.title}{panels}. For {along_x}: {', '.join(parts)} ({where}){over}."


def _nonzero(series: Series, name: str) -> bool:
    return bool(np.any(series.estimate[name] != 0) or np.any(series.upper[name] != 0))


def _can_log(curves: Mapping[Any, Series], shown: list[str]) -> bool:
    return bool(shown) and all((curve.estimate[name] > 0).all() for curve in curves.values() for name in shown)


def _positive(curves: Mapping[Any, Series], shown: list[str]) -> Any:
    return np.concatenate([curve.estimate[name] for curve in curves.values() for name in shown])


def _extent(curves: Mapping[Any, Series], points: Mapping[Any, Series], shown: list[str]) -> tuple[Any, Any]:
    every = [*curves.values(), *points.values()]
    names = shown or list(COMPONENT_LOOKS)
    xs = np.concatenate([series.x for series in every])
    ys = np.concatenate(
        [
            values
            for s in every
            for name in names
            for values in (s.estimate[name], s.lower[name], s.upper[name])
            if _nonzero(s, name) or not shown
        ]
    )
    return xs, ys
