"""Components averaged over points, laid out along one dim of a grid: what a curve or a row of markers is drawn from."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import EstimationError, invalid

__all__ = ["MAX_PANELS", "Observed", "Series", "along", "grid_dims", "runs_along"]

FloatArray = NDArray[np.float64]
Observed = VarianceComponents | Mapping[Any, VarianceComponents] | Sequence[VarianceComponents]

MAX_PANELS = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """Average components and their intervals against x; arrays of shape (n,), variances in squared output units."""

    x: FloatArray
    estimate: Mapping[str, FloatArray]
    lower: Mapping[str, FloatArray]
    upper: Mapping[str, FloatArray]


def grid_dims(components: VarianceComponents) -> tuple[str, ...]:
    """Return the names of the leading dims of a grid."""
    return tuple(str(dim) for dim in components.total.dims[:-2])


def along(grid: VarianceComponents, dim: str, *, prob: float, name: str = "predicted") -> dict[Any, Series]:
    """Return one series along ``dim`` for each label of the grid's other leading dim (key None where there is none).

    Raises
    ------
    EstimationError
        If the grid lacks ``dim``, has more than two leading dims, or more panels than fit a page.
    """
    dims = grid_dims(grid)
    if dim not in dims:
        raise invalid(name, f"be a grid along {dim}", f"leading dims {dims}", EstimationError)
    others = [other for other in dims if other != dim]
    if len(others) > 1:
        raise invalid(name, f"have at most one leading dim besides {dim}", f"{', '.join(others)}", EstimationError)
    average = grid.average()
    estimate, interval = _flat(average.estimate), _flat(average.interval(prob))
    if not others:
        return {None: _series(estimate, interval, dim)}
    labels = estimate.coords[others[0]].values
    if len(labels) > MAX_PANELS:
        raise invalid(
            name, f"have at most {MAX_PANELS} labels of {others[0]}, one panel each", len(labels), EstimationError
        )
    return {
        label.item() if isinstance(label, np.generic) else label: _series(
            estimate.sel({others[0]: label}), interval.sel({others[0]: label}), dim
        )
        for label in labels
    }


def runs_along(observed: Observed, dim: str, *, grid: VarianceComponents, prob: float) -> dict[Any, Series]:
    """Return the observed series that belong to the panels of ``along(grid, dim)``.

    Parameters
    ----------
    observed : VarianceComponents, mapping or sequence
        A grid; or runs without leading dims: a mapping from the label of a cell (for a grid with
        two dims of more than one label the tuple of both, in the order of its dims) to its run, or one run per cell of
        the predicted grid, in its order.
    dim : str
        The x axis.
    grid : VarianceComponents
        The predicted grid.
    prob : float
        Coverage of the intervals.

    Raises
    ------
    EstimationError
        If runs and cells do not match.
    """
    if isinstance(observed, VarianceComponents):
        return along(observed, dim, prob=prob, name="observed")
    dims = [each for each in grid_dims(grid) if each == dim or grid.total.sizes[each] > 1]
    labels = {each: grid.estimate.coords[each].values.tolist() for each in grid_dims(grid)}
    runs = _keyed(observed, [labels[each] for each in dims])
    panels: dict[Any, list[tuple[float, VarianceComponents]]] = {}
    for key, run in runs.items():
        if len(key) != len(dims):
            raise invalid("observed", f"be keyed by {', '.join(dims)}", f"the key {key}", EstimationError)
        if grid_dims(run):
            raise invalid(
                "observed", "hold runs without leading dims", f"leading dims {grid_dims(run)}", EstimationError
            )
        cell = {each: values[0] for each, values in labels.items()} | dict(zip(dims, key, strict=True))
        x = float(cell.pop(dim))
        other, panel = next(iter(cell.items()), (None, None))
        if other is not None and panel not in labels[other]:
            raise invalid("observed", f"use the predicted labels of {other}", panel, EstimationError)
        panels.setdefault(panel, []).append((x, run))
    return {panel: _joined(sorted(runs_, key=lambda item: item[0]), prob) for panel, runs_ in panels.items()}


def _keyed(
    observed: Mapping[Any, VarianceComponents] | Sequence[VarianceComponents], labels: Sequence[Sequence[Any]]
) -> dict[tuple[Any, ...], VarianceComponents]:
    """Return runs by cell; runs without keys take those of the predicted cells in their order."""
    cells = list(itertools.product(*labels))
    if not len(observed):
        raise invalid("observed", "hold at least one run", "none", EstimationError)
    if isinstance(observed, Mapping):
        return {key if isinstance(key, tuple) else (key,): run for key, run in observed.items()}
    if len(observed) != len(cells):
        rule = f"have one run per predicted cell ({len(cells)})"
        raise invalid("observed", rule, f"{len(observed)} runs", EstimationError)
    return dict(zip(cells, observed, strict=True))


def _joined(runs: Sequence[tuple[float, VarianceComponents]], prob: float) -> Series:
    averages = [run.average() for _, run in runs]
    estimates = [_flat(average.estimate) for average in averages]
    intervals = [_flat(average.interval(prob)) for average in averages]

    def column(datasets: Sequence[xr.Dataset], name: str, bound: str | None = None) -> FloatArray:
        return np.array([float(ds[name] if bound is None else ds[name].sel(ci_bound=bound)) for ds in datasets])

    return Series(
        x=np.array([x for x, _ in runs]),
        estimate={name: column(estimates, name) for name in COMPONENTS},
        lower={name: column(intervals, name, "lower") for name in COMPONENTS},
        upper={name: column(intervals, name, "upper") for name in COMPONENTS},
    )


def _flat(dataset: xr.Dataset) -> xr.Dataset:
    """Drop the dims point and output, of size 1 in an average."""
    return dataset[list(COMPONENTS)].isel(point=0, output=0, drop=True)


def _series(estimate: xr.Dataset, interval: xr.Dataset, dim: str) -> Series:
    order = np.argsort(np.asarray(estimate.coords[dim].values, dtype=float), kind="stable")

    def column(dataset: xr.Dataset, name: str) -> FloatArray:
        return np.asarray(dataset[name].transpose(dim).values, dtype=float)[order]

    return Series(
        x=np.asarray(estimate.coords[dim].values, dtype=float)[order],
        estimate={name: column(estimate, name) for name in COMPONENTS},
        lower={name: column(interval.sel(ci_bound="lower"), name) for name in COMPONENTS},
        upper={name: column(interval.sel(ci_bound="upper"), name) for name in COMPONENTS},
    )
