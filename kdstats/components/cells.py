"""Grids of results: the same question asked along one more dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from kdstats.components.result import EXACTNESS, VarianceComponents
from kdstats.errors import EstimationError, invalid

__all__ = ["stack_cells"]

#: Provenance that belongs to one cell and does not survive stacking.
_OF_ONE_CELL = ("problem", "average_standard_error")
#: Provenance that becomes an array over the cells.
_OF_EACH_CELL = ("effective_rank", "effective_rank_within")


def stack_cells(cells: Mapping[Any, VarianceComponents], *, dim: str) -> VarianceComponents:
    """Return one result with a new leading dimension, one label per cell.

    Parameters
    ----------
    cells : mapping
        Label to result; all with the same points and outputs, in the order of the labels.
    dim : str
        Name of the new dimension.

    Returns
    -------
    VarianceComponents
        As exact as its least exact cell. Predictions of single students, draws and covariances stay
        with the cells.

    Raises
    ------
    EstimationError
        If there are no cells, or their points differ.
    """
    if not cells:
        raise invalid("cells", "not be empty", "no results", EstimationError)
    results = list(cells.values())
    for label, result in cells.items():
        if not result.estimate.indexes["point"].equals(results[0].estimate.indexes["point"]):
            raise invalid("cells", "have the same points", f"others in cell {label!r}", EstimationError)

    attrs = {key: value for key, value in results[0].attrs.items() if key not in _OF_ONE_CELL}
    attrs["exactness"] = max((result.exactness for result in results), key=EXACTNESS.index)
    attrs["wall_time"] = sum(float(result.attrs.get("wall_time", 0.0)) for result in results)
    for name in _OF_EACH_CELL:
        if all(name in result.attrs for result in results):
            attrs[name] = np.array([result.attrs[name] for result in results])
    along = pd.Index(list(cells), name=dim)
    return VarianceComponents(
        estimate=_joined([result.estimate for result in results], along),
        standard_error=_joined([result.standard_error for result in results], along),
        attrs=attrs,
        mean_squares=_joined_squares([result.mean_squares for result in results], along),
    )


def _joined(datasets: list[xr.Dataset], along: pd.Index) -> xr.Dataset:
    joined: xr.Dataset = xr.concat(datasets, dim=along, join="exact", coords="minimal", compat="override")
    return joined


def _joined_squares(squares: list[xr.Dataset | None], along: pd.Index) -> xr.Dataset | None:
    """Join mean squares that have the same degrees of freedom; others say nothing about the whole grid."""
    known = [item for item in squares if item is not None]
    if len(known) < len(squares) or any(dict(item.attrs) != dict(known[0].attrs) for item in known):
        return None
    return _joined(known, along)
