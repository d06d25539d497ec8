"""The one answer: variance components at every query point, with their uncertainty and provenance.

Predictions and observations of every class of student come back as the same frozen object, so that
a test, a table or a picture never asks where a number came from before it can use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr

from kdstats.errors import EstimationError, invalid
from kdstats.problem.validation import as_choice, as_probability

__all__ = ["COMPONENTS", "EXACTNESS", "VarianceComponents", "label_array"]

COMPONENTS = ("inter_student", "intra_student", "total")
EXACTNESS = ("exact", "asymptotic", "approximate", "simulated", "observed")

#: Relative rounding allowed in total = inter + intra.
SUM_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class VarianceComponents:
    """Inter-student, intra-student and total variance at each query point.

    Parameters
    ----------
    estimate : xarray.Dataset
        Variables ``inter_student``, ``intra_student`` and ``total`` in squared output units, dims
        ``(..., point, output)``. Leading dims label the cells of a grid.
    standard_error : xarray.Dataset
        Their standard errors, same shape; 0 for exact engines.
    attrs : mapping
        Provenance. Required: ``engine`` and ``exactness``. Understood: ``estimator``, ``ddof``,
        ``seed``, ``versions``, ``wall_time`` (seconds), ``n_students``, ``effective_rank`` (the
        number of independent points that the correlated query points amount to,
        ``(tr C)^2 / tr C^2``), ``problem`` (fingerprint).
    draws : xarray.Dataset, optional
        Posterior or simulation draws of the components, leading dims ``chain``, ``draw``.
    mean_squares : xarray.Dataset, optional
        The sums behind an observation: variables ``between`` (variance of the student means,
        divisor S-1) and ``within`` (mean variance of one student's outputs), attrs
        ``df_between``, ``df_within`` and ``n_replicates`` (0: each student's own variance was
        known rather than sampled).
    covariance : xarray.DataArray, optional
        Inter-student covariance between query points, dims ``(output, point, point_other)``.
    student_predictions : xarray.DataArray, optional
        Mean prediction of each student, dims ``(student, point, output)``.
    intra_parts : xarray.Dataset, optional
        What ``intra_student`` of Bayesian students is made of: variables ``parameter`` (uncertainty
        about the parameters) and ``noise`` (the noise they believe in), which add up to it.

    Raises
    ------
    EstimationError
        If a variable or dim is missing, shapes differ, or total is not inter + intra.

    Notes
    -----
    An unbiased inter-student component may be negative; its sign is kept.
    """

    estimate: xr.Dataset
    standard_error: xr.Dataset
    attrs: Mapping[str, Any]
    draws: xr.Dataset | None = None
    mean_squares: xr.Dataset | None = None
    covariance: xr.DataArray | None = None
    student_predictions: xr.DataArray | None = None
    intra_parts: xr.Dataset | None = None

    def __post_init__(self) -> None:
        for name in ("estimate", "standard_error"):
            dataset = getattr(self, name)
            missing = [variable for variable in COMPONENTS if variable not in dataset]
            if missing:
                raise invalid(name, f"have the variables {', '.join(COMPONENTS)}", f"no {missing[0]}", EstimationError)
        shape, dims = self.estimate["total"].shape, self.estimate["total"].dims
        if dims[-2:] != ("point", "output"):
            raise invalid("estimate", "end in the dims point, output", f"dims {dims}", EstimationError)
        for variable in COMPONENTS:
            for name in ("estimate", "standard_error"):
                array = getattr(self, name)[variable]
                if array.shape != shape or array.dims != dims:
                    raise invalid(f"{name}.{variable}", f"have shape {shape}", f"shape {array.shape}", EstimationError)
        inter, intra, total = (self.estimate[variable].values for variable in COMPONENTS)
        scale = np.abs(inter) + np.abs(intra)
        gap = np.abs(total - inter - intra)
        if (gap > SUM_TOLERANCE * scale).any():
            raise invalid(
                "total", "equal inter_student + intra_student", f"a gap of {np.nanmax(gap):.3g}", EstimationError
            )
        as_choice("attrs['exactness']", self.attrs.get("exactness"), EXACTNESS)
        if "engine" not in self.attrs:
            raise invalid("attrs", "name the engine", "no 'engine'", EstimationError)
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    @classmethod
    def from_arrays(
        cls,
        *,
        inter_student: Any,
        intra_student: Any,
        point_labels: Sequence[Any],
        attrs: Mapping[str, Any],
        inter_student_se: Any = 0.0,
        intra_student_se: Any = 0.0,
        total_se: Any = 0.0,
        leading: Mapping[str, Sequence[Any]] | None = None,
        output_labels: Sequence[Any] | None = None,
        **rest: Any,
    ) -> VarianceComponents:
        """Build the answer from plain arrays of shape ``(*leading, m, q)``.

        Parameters
        ----------
        inter_student, intra_student : array_like
            Components; broadcast against each other.
        point_labels : sequence
            Labels of the m points.
        attrs : mapping
            Provenance, as in the constructor.
        inter_student_se, intra_student_se, total_se : array_like, default 0
            Standard errors.
        leading : mapping, optional
            Name and labels of each leading dim of a grid.
        output_labels : sequence, optional
            Labels of the outputs. Default: 0, 1, ...
        **rest
            Further fields of the constructor.
        """
        leading = dict(leading or {})
        dims = (*leading, "point", "output")
        shape = np.broadcast_shapes(np.shape(inter_student), np.shape(intra_student))
        outputs = range(shape[-1]) if output_labels is None else output_labels
        coords = {**leading, "point": label_array(point_labels), "output": label_array(outputs)}

        def full(*values: Any) -> dict[str, Any]:
            arrays = (np.array(np.broadcast_to(value, shape), dtype=float) for value in values)
            return dict(zip(COMPONENTS, arrays, strict=True))

        numbers = full(inter_student, intra_student, np.add(inter_student, intra_student))
        estimate = xr.Dataset({name: (dims, array) for name, array in numbers.items()}, coords=coords)
        return cls(
            estimate=estimate,
            standard_error=estimate.copy(data=full(inter_student_se, intra_student_se, total_se)),
            attrs=attrs,
            **rest,
        )

    @property
    def inter_student(self) -> xr.DataArray:
        """Variance over students of each student's mean output."""
        return self.estimate["inter_student"]

    @property
    def intra_student(self) -> xr.DataArray:
        """Mean over students of the variance of one student's outputs."""
        return self.estimate["intra_student"]

    @property
    def total(self) -> xr.DataArray:
        """Variance of one output of a random student."""
        return self.estimate["total"]

    @property
    def engine(self) -> str:
        """Name of the engine that gave the answer."""
        return str(self.attrs["engine"])

    @property
    def exactness(self) -> str:
        """How exact the answer is: one of ``EXACTNESS``."""
        return str(self.attrs["exactness"])

    @property
    def n_students(self) -> int | None:
        """Number of students behind a simulated or observed answer."""
        count = self.attrs.get("n_students")
        return None if count is None else int(count)

    def interval(self, prob: float = 0.95, *, students: str = "gaussian") -> xr.Dataset:
        """Return confidence (or credible) intervals with a ``ci_bound`` dim (``lower``, ``upper``).

        Exact answers have intervals of width 0. See :mod:`kdstats.components.uncertainty` for the
        method that each kind of answer gets; ``students="any"`` asks for intervals that do not take
        observed students to be Gaussian.
        """
        from kdstats.components.uncertainty import interval

        return interval(self, as_probability("prob", prob), students=students)

    def average(self) -> VarianceComponents:
        """Return the components averaged over points and outputs, with the standard error of the average.

        Query points share students and are correlated; the average has
        ``effective_rank`` times the degrees of freedom of one point, not m times.
        """
        from kdstats.components.uncertainty import average

        return average(self)

    def summary(self, prob: float = 0.95, *, students: str = "gaussian") -> str:
        """Return a printable table: averages, their intervals and what these promise, ranges over points, provenance.

        ``students`` is the law behind the interval, as in :meth:`interval`.
        """
        from kdstats.components.summary import summary

        return summary(self, as_probability("prob", prob), students=students)

    def to_dataframe(self) -> Any:
        """Return a long table: one row per cell, point and output; estimates and ``*_se`` columns."""
        from kdstats.components.convert import to_dataframe

        return to_dataframe(self)

    def to_datatree(self) -> xr.DataTree:
        """Return everything as an xarray DataTree (groups estimate, standard_error, ...)."""
        from kdstats.components.convert import to_datatree

        return to_datatree(self)

    def to_netcdf(self, path: str | Path) -> None:
        """Write to NetCDF, atomically and with checksums."""
        from kdstats.components.convert import to_netcdf

        to_netcdf(self, Path(path))

    @classmethod
    def from_netcdf(cls, path: str | Path) -> VarianceComponents:
        """Read what :meth:`to_netcdf` wrote."""
        from kdstats.components.convert import from_netcdf

        return from_netcdf(Path(path))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {size}" for name, size in self.estimate.sizes.items())
        return f"<VarianceComponents engine={self.engine!r} exactness={self.exactness!r} ({sizes})>"

    __str__ = __repr__


def label_array(labels: Sequence[Any]) -> Any:
    """Return labels as a one-dimensional coordinate; tuples stay objects."""
    array = np.array(labels) if not any(isinstance(label, tuple) for label in labels) else np.empty(0)
    if array.ndim != 1 or array.size != len(labels):
        array = np.empty(len(labels), dtype=object)
        array[:] = list(labels)
    return array
