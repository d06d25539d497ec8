"""Students observed in several batches, put together as one observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.estimation import estimate_components
from kdstats.components.result import VarianceComponents
from kdstats.errors import EstimationError, invalid

__all__ = ["join_batches"]

FloatArray = NDArray[np.float64]

NAMES = ("inter_student", "intra_student", "total")
#: Provenance of one batch that is found again from all students.
_RECOMPUTED = (
    "engine",
    "estimator",
    "ddof",
    "n_students",
    "effective_rank",
    "average_standard_error",
    "boundary",
    "degenerate",
    "versions",
    "wall_time",
)


def join_batches(batches: Sequence[VarianceComponents]) -> VarianceComponents:
    """Return the components of the students of all batches.

    Parameters
    ----------
    batches : sequence of VarianceComponents
        Observations of the same points, with ``student_predictions`` and known variance within students.

    Returns
    -------
    VarianceComponents
        Estimates are those of one run of all students, to rounding, and so are the standard errors of inter and intra;
        that of the total takes the covariance between a student's distance and its own variance from within batches.

    Raises
    ------
    EstimationError
        If there are no batches, points differ, or outputs were sampled.
    """
    if not batches:
        raise invalid("batches", "not be empty", "no batches", EstimationError)
    first = batches[0]
    for batch in batches:
        squares, predictions = batch.mean_squares, batch.student_predictions
        if squares is None or predictions is None or squares.attrs.get("n_replicates", 0):
            raise invalid("batches", "keep predictions, with known variance within students", "others", EstimationError)
        if not batch.estimate["point"].equals(first.estimate["point"]):
            raise invalid("batches", "have the same points", "others", EstimationError)
    if len(batches) == 1:
        return first
    sizes = np.array([float(len(batch.student_predictions)) for batch in batches])  # type: ignore[arg-type]
    values = np.concatenate([batch.student_predictions.values for batch in batches])  # type: ignore[union-attr]
    within = [batch.intra_student.values for batch in batches]
    mean = np.tensordot(sizes, within, axes=1) / sizes.sum()
    joined = estimate_components(
        xr.DataArray(values[:, None], dims=("student", "replicate", "point", "output")),
        variances=np.broadcast_to(mean, values.shape),
        point_labels=first.estimate["point"].values.tolist(),
        engine=first.engine,
        attrs={key: value for key, value in first.attrs.items() if key not in _RECOMPUTED},
    )
    coords = {"output": first.estimate["output"].values}
    parts = [batch.standard_error for batch in batches]
    se = joined.standard_error.assign_coords(coords).copy()
    se["intra_student"].values, se["total"].values = _errors(
        sizes, within, [_three(part) for part in parts], se["inter_student"].values
    )
    recorded = [batch.attrs.get("average_standard_error") for batch in batches]
    average = dict(joined.attrs["average_standard_error"])
    if all(item is not None for item in recorded):
        errors = [tuple(np.array(item[name]) for name in NAMES) for item in recorded]  # type: ignore[index]
        own, total = _errors(sizes, [item.mean() for item in within], errors, np.array(average["inter_student"]))
        average |= {"intra_student": float(own), "total": float(total)}
    squares = joined.mean_squares
    assert squares is not None
    squares = squares.assign_coords(coords)
    squares["within_se"] = se["intra_student"]
    return replace(
        joined,
        estimate=joined.estimate.assign_coords(coords),
        standard_error=se,
        mean_squares=squares,
        student_predictions=joined.student_predictions.assign_coords(coords),  # type: ignore[union-attr]
        attrs={
            **joined.attrs,
            "average_standard_error": average,
            "n_batches": len(batches),
            "wall_time": sum(float(batch.attrs.get("wall_time", 0.0)) for batch in batches),
        },
    )


def _three(errors: xr.Dataset) -> tuple[FloatArray, ...]:
    return tuple(errors[name].values for name in NAMES)


def _errors(
    sizes: FloatArray, means: Sequence[Any], errors: Sequence[tuple[Any, ...]], inter: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return standard errors of intra and total over all students, from those of the batches."""
    n = sizes.sum()
    centre = sum(size * mean for size, mean in zip(sizes, means, strict=True)) / n
    spread, covariance = np.zeros(np.shape(centre)), np.zeros(np.shape(centre))
    for size, mean, (of_inter, of_intra, of_total) in zip(sizes, means, errors, strict=True):
        spread = spread + (size - 1.0) * size * of_intra**2 + size * (mean - centre) ** 2
        covariance = covariance + size * size * (of_total**2 - of_inter**2 - of_intra**2) / 2.0
    own = spread / (n - 1.0) / n
    return np.sqrt(own), np.sqrt(np.maximum(inter**2 + own + 2.0 * covariance / n**2, 0.0))
