"""The coordinates in which students are tested one after another: whitened directions, or the points themselves."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.errors import ComparisonError, DependentStudentsWarning
from kdstats.hypotest.covariance import RANGE_TOLERANCE
from kdstats.problem.validation import as_array, as_count

__all__ = ["StudentSpace", "predicted_space", "refuse_sampled_means", "student_rows", "warn_of_shared_seeds"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class StudentSpace:
    """Where the students of a prediction live.

    Attributes
    ----------
    whitening : ndarray, shape (m q, r)
        Maps predictions to scores of predicted variance 1.
    range : ndarray, shape (m q, r)
        Orthonormal basis of what may vary.
    independent : bool
        Whether the scores of one student are predicted to be independent; False where only the variance of each
        point is predicted, and the scores are the points.
    points, outputs : list
        Labels.
    """

    whitening: FloatArray
    range: FloatArray
    independent: bool
    points: list[Any]
    outputs: list[Any]

    @property
    def rank(self) -> int:
        """Number of scores of one student."""
        return int(self.whitening.shape[1])

    def rows(self, students: Any, n_replicates: int) -> FloatArray:
        """Return predictions as rows, shape (S, m q), in the order of the prediction's points."""
        if isinstance(students, VarianceComponents):
            squares = students.mean_squares
            given = 0 if squares is None else int(squares.attrs.get("n_replicates", 0))
            if given != n_replicates:
                raise ComparisonError(f"`n_replicates` must be that of the students, {given}; got {n_replicates}")
        return student_rows("students", students, points=self.points, outputs=self.outputs)


def student_rows(name: str, students: Any, *, points: list[Any], outputs: list[Any]) -> FloatArray:
    """Return predictions as rows, shape (S, m q), aligned by label where they carry labels.

    Raises
    ------
    ComparisonError
        If an observation keeps no predictions, or points and outputs are not those wanted.
    """
    shape = (len(points), len(outputs))
    if isinstance(students, VarianceComponents):
        students = students.student_predictions
        if students is None:
            raise ComparisonError(f"`{name}` must keep their student_predictions; got None")
    if isinstance(students, xr.DataArray):
        students = _aligned(name, students, points=points, outputs=outputs)
    values = as_array(name, students, ndim=(1, 2, 3))
    if values.ndim == 1 and shape[1] == 1:
        values = values[:, None]
    values = values[None] if values.ndim == 2 else values
    if values.shape[1:] != shape:
        raise ComparisonError(
            f"`{name}` must have {shape[0]} points and {shape[1]} outputs each; got shape {np.shape(students)}"
        )
    return np.asarray(values.reshape(len(values), -1))


def predicted_space(predicted: Any, n_directions: int | None, n_replicates: int) -> StudentSpace:
    """Return the space of a prediction.

    Raises
    ------
    ComparisonError
        If it is no prediction, has Monte Carlo error or no variance, or too few directions.
    """
    if not isinstance(predicted, VarianceComponents):
        raise ComparisonError(f"`predicted` must be VarianceComponents; got a {type(predicted).__name__}")
    if predicted.exactness == "observed" or predicted.inter_student.ndim > 2:
        raise ComparisonError(f"`predicted` must be one prediction; got {predicted!r}")
    if (predicted.standard_error["inter_student"].values > 0).any():
        raise ComparisonError("`predicted` must have no Monte Carlo error; got standard errors above 0")
    inter, intra = predicted.inter_student.values, predicted.intra_student.values
    extra = intra / n_replicates if n_replicates else np.zeros(inter.shape)
    labels = {
        "points": predicted.inter_student["point"].values.tolist(),
        "outputs": predicted.inter_student["output"].values.tolist(),
    }
    if predicted.covariance is None:
        variances, basis = _of_points(inter + extra)
    else:
        blocks = np.asarray(predicted.covariance.transpose("output", "point", "point_other").values, float)
        variances, basis = _of_directions(blocks + np.stack([np.diag(column) for column in extra.T]))
    if not variances.size:
        raise ComparisonError("`predicted` must have some variance to be tested; got 0 everywhere")
    if n_directions is not None and as_count("n_directions", n_directions) > variances.size:
        raise ComparisonError(f"`n_directions` must be at most the rank {variances.size}; got {n_directions}")
    return StudentSpace(
        whitening=(basis / np.sqrt(variances))[:, :n_directions],
        range=basis,
        independent=predicted.covariance is not None or variances.size == 1,
        **labels,
    )


def _of_points(variance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the positive variances and the unit vectors of their points, shape (m q, r)."""
    flat = variance.ravel()
    kept = np.flatnonzero(flat > RANGE_TOLERANCE * flat.max(initial=0.0))
    return flat[kept], np.eye(flat.size)[:, kept]


def _of_directions(blocks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the eigenvalues in the range, largest first over all outputs, and their vectors, shape (m q, r)."""
    values, vectors = np.linalg.eigh(blocks)
    q, m = values.shape
    kept = [(values[j, i], j, i) for j in range(q) for i in range(m) if _counts(values[j], i)]
    kept.sort(key=lambda item: -item[0])
    basis = np.zeros((m, q, len(kept)))
    for place, (_, output, index) in enumerate(kept):
        basis[:, output, place] = vectors[output, :, index]
    return np.array([value for value, *_ in kept]), basis.reshape(m * q, len(kept))


def _counts(eigenvalues: FloatArray, index: int) -> bool:
    return bool(eigenvalues[-1] > 0.0 and eigenvalues[index] > RANGE_TOLERANCE * eigenvalues[-1])


def _aligned(name: str, students: xr.DataArray, *, points: list[Any], outputs: list[Any]) -> FloatArray:
    wanted = {"point": points, "output": outputs}
    for dim, labels in wanted.items():
        given = students[dim].values.tolist() if dim in students.dims else []
        if sorted(map(repr, given)) != sorted(map(repr, labels)):
            raise ComparisonError(f"`{name}` must have the {dim} labels {labels[:6]}; got {given[:6]}")
        place = {label: index for index, label in enumerate(given)}
        students = students.isel({dim: [place[label] for label in labels]})
    dims = [dim for dim in students.dims if dim not in wanted]
    return np.asarray(students.transpose(*dims, "point", "output").values, float)


def refuse_sampled_means(name: str, observed: VarianceComponents) -> None:
    """Refuse students that are known from sampled outputs, whose means vary by intra/r beside inter.

    Raises
    ------
    ComparisonError
    """
    if observed.mean_squares is not None and observed.mean_squares.attrs.get("n_replicates", 0):
        raise ComparisonError(
            f"`{name}` must know each student's own mean to compare inter-student variance; got sampled replicates "
            "(average each student's outputs and decompose them with `variances=0`: that compares inter + intra/r)"
        )


def warn_of_shared_seeds(observations: Sequence[VarianceComponents], advice: str, *, stacklevel: int) -> None:
    """Warn where students of one seed, who may share teacher draws, are about to be taken for independent."""
    seeds = [item.attrs.get("seed") for item in observations]
    known = [seed.get("teacher_output") if isinstance(seed, Mapping) else seed for seed in seeds]
    told = [seed for seed in known if seed is not None]
    if any(seed in told[:index] for index, seed in enumerate(told)):
        warnings.warn(advice, DependentStudentsWarning, stacklevel=stacklevel + 1)
