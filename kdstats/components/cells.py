"""Grids of results: the same question asked along one more dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from kdstats.components.result import EXACTNESS, VarianceComponents
from kdstats.errors import EstimationError, invalid

__all__ = ["stack_cells"]

#: Provenance that belongs to one cell and does not survive stacking.
_OF_ONE_CELL = ("problem", "wall_time")


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

    def joined(name: str) -> xr.Dataset:
        datasets = [getattr(result, name) for result in results]
        along = xr.IndexVariable(dim, list(cells))
        return xr.concat(datasets, dim=along, join="exact", coords="minimal", compat="override")

    attrs = {key: value for key, value in results[0].attrs.items() if key not in _OF_ONE_CELL}
    attrs["exactness"] = max((result.exactness for result in results), key=EXACTNESS.index)
    attrs["wall_time"] = sum(float(result.attrs.get("wall_time", 0.0)) for result in results)
    return VarianceComponents(estimate=joined("estimate"), standard_error=joined("standard_error"), attrs=attrs)
