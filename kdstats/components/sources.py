"""Variance components by source: which draw, crossed with the others, makes students differ."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.combinations import combination_interval, ratio_interval
from kdstats.components.departure import inflation, level_of_variance
from kdstats.errors import EstimationError, invalid
from kdstats.problem.validation import as_probability

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SourceComponents"]

FloatArray = NDArray[np.float64]

DIMS = ("component", "point", "output")
SQUARES = ("mean_square", "df", "coefficient", "average_df")
WIDTH = 98
#: Most lines of notes on components below 0 or at it.
LISTED = 6


@dataclass(frozen=True, eq=False, kw_only=True)
class SourceComponents:
    """Variance that each source, each interaction and the residual add to one output of a random student.

    Parameters
    ----------
    estimate : xarray.DataArray
        Dims ``component``, ``point``, ``output``, in squared output units. Components: each source and
        interaction (``"a:b"``), ``residual``; where replicates identify them ``inter_student`` (the sum of all
        but the residual) and ``intra_student`` (the residual); ``total``.
    standard_error : xarray.DataArray
        Same shape; Gaussian theory.
    mean_squares : xarray.Dataset
        Variables ``mean_square`` and ``df`` (``stratum``, ``point``, ``output``), ``coefficient``
        (``component``, ``stratum``, ``point``, ``output``) that make components of them, and ``average_df``
        (``stratum``), the effective degrees of freedom of their average over points.
    attrs : mapping
        ``method``, ``sources``, ``interactions`` (highest order in the model), ``n_students``, ``n_levels`` (of each
        source), ``n_outputs`` (rows at the first point), ``notes`` (what was found about the design), ``estimator``,
        ``engine``, ``exactness``, ``versions``.

    Notes
    -----
    A component estimated by ``method="anova"`` may be negative; its sign is kept.
    """

    estimate: xr.DataArray
    standard_error: xr.DataArray
    mean_squares: xr.Dataset
    attrs: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("estimate", "standard_error"):
            if getattr(self, name).dims != DIMS or getattr(self, name).shape != self.estimate.shape:
                raise invalid(
                    name, f"have the dims {', '.join(DIMS)}", f"dims {getattr(self, name).dims}", EstimationError
                )
        missing = [name for name in SQUARES if name not in self.mean_squares]
        if missing:
            raise invalid(
                "mean_squares", f"have the variables {', '.join(SQUARES)}", f"no {missing[0]}", EstimationError
            )
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components."""
        return tuple(str(name) for name in self.estimate["component"].values)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the parts that add up to the total: sources, interactions and residual."""
        return tuple(str(name) for name in self.mean_squares["stratum"].values)

    @property
    def shares(self) -> xr.DataArray:
        """Each component divided by the total; NaN where the total is estimated to be 0 or less."""
        total = self.estimate.sel(component="total", drop=True)
        shares: xr.DataArray = (self.estimate / total.where(total > 0)).rename("share")
        return shares.transpose(*DIMS)

    def interval(self, prob: float = 0.95) -> xr.Dataset:
        """Return two-sided intervals of each component (``variance``) and of its part of the total (``share``).

        Parameters
        ----------
        prob : float, default 0.95
            Coverage at each point, of each component; not of all at once.

        Returns
        -------
        xarray.Dataset
            Dims ``component``, ``point``, ``output`` and ``ci_bound`` (``lower``, ``upper``). A lower bound may be
            negative: the data do not exclude 0.

        Notes
        -----
        Modified large-sample intervals of linear combinations of mean squares, and the ratios that they do not
        exclude (see :mod:`kdstats.components.combinations`). They rest on the mean squares, not on
        the method: an estimate held at 0 by "reml" or "ml" has the interval of the unbiased one. Gaussian effects are
        assumed.
        """
        prob = as_probability("prob", prob)
        squares, df, coefficients = (self.mean_squares[name].values for name in SQUARES[:3])
        total = coefficients[self.components.index("total")]
        found: dict[str, list[FloatArray]] = {"variance": [], "share": []}
        for name, row in zip(self.components, coefficients, strict=True):
            found["variance"].append(combination_interval(row, squares, df, prob=prob))
            whole = np.where((total * squares).sum(axis=0) > 0, 1.0, np.nan)[..., None]
            share = ratio_interval(row, total, squares, df, prob=prob) if name != "total" else whole * np.ones(2)
            found["share"].append(share)
        dims = (*DIMS, "ci_bound")
        coords = {**self.estimate.coords, "ci_bound": ["lower", "upper"]}
        return xr.Dataset({name: (dims, np.stack(parts)) for name, parts in found.items()}, coords, {"prob": prob})

    def average(self) -> SourceComponents:
        r"""Return the components averaged over points and outputs, with their own degrees of freedom.

        Notes
        -----
        Points share the levels of every source. The average of a mean square with df degrees of freedom over points
        has :math:`df (\mathrm{tr} C)^2/\mathrm{tr} C^2` of them (Satterthwaite), C the sample covariance between
        points of what the mean square is made of; where points have different designs, or likelihood stood in for mean
        squares, df.
        """
        squares, coefficients = self.mean_squares["mean_square"].values, self.mean_squares["coefficient"].values
        n_cells = self.estimate.shape[1] * self.estimate.shape[2]
        mean = squares.mean(axis=(1, 2), keepdims=True)
        weighted = (coefficients * squares).mean(axis=(2, 3), keepdims=True)
        plain = coefficients.mean(axis=(2, 3), keepdims=True)
        combined = np.divide(weighted, mean, out=np.array(np.broadcast_to(plain, weighted.shape)), where=mean > 0)
        df = self.mean_squares["average_df"].values[:, None, None]
        if n_cells == 1:
            df = self.mean_squares["df"].values
        errors = self.standard_error.values if n_cells == 1 else combination_error(combined, mean, df)
        coords = {"point": ["average"], "output": [0]}
        along = {"component": list(self.components), **coords}
        values = self.estimate.values.mean(axis=(1, 2), keepdims=True)
        estimate = xr.DataArray(values, along, DIMS, name=self.estimate.name)
        return replace(
            self,
            estimate=estimate,
            standard_error=estimate.copy(data=errors),
            mean_squares=squares_dataset(
                mean, df=df, coefficients=combined, average_df=df.ravel(), like=estimate, terms=self.terms
            ),
            attrs={**self.attrs, "averaged_over": n_cells},
        )

    def summary(self, prob: float = 0.95) -> str:
        """Return a printable table: components averaged over points, their shares, and intervals of both."""
        mean = self.average()
        bounds = mean.interval(prob)
        tails = (f"[{(1 - prob) / 2:.4g}", f"{(1 + prob) / 2:.4g}]")
        heads = ("variance", "std err", *tails, "share", *tails)
        width = max(len(name) for name in self.components) + 1
        widths = (11, 11, 11, 11, 10, 10, 10)
        rule = width + sum(widths)
        lines = [f"Variance by source, method {self.attrs['method']}", "=" * rule, *self._design(), "=" * rule]
        titles = "".join(f"{head:>{size}}" for head, size in zip(heads, widths, strict=True))
        lines += [" " * width + titles, "-" * rule]
        for name in self.components:
            if name in ("inter_student", "total") and name == self.components[len(self.terms)]:
                lines.append("-" * rule)
            numbers = (
                mean.estimate.sel(component=name).item(),
                mean.standard_error.sel(component=name).item(),
                *bounds["variance"].sel(component=name).values.ravel(),
            )
            shares = (mean.shares.sel(component=name).item(), *bounds["share"].sel(component=name).values.ravel())
            row = "".join(f"{number:>#11.4g}" for number in numbers) + "".join(f"{100 * s:>9.1f}%" for s in shares)
            lines.append(f"{name:<{width}}{row}")
        lines.append("=" * rule)
        for number, note in enumerate(self._notes(), 1):
            lines += textwrap.wrap(f"[{number}] {note}", WIDTH, subsequent_indent="    ")
        return "\n".join(lines)

    def to_dataframe(self, prob: float = 0.95) -> pd.DataFrame:
        """Return a long table: one row per component, point and output, with intervals of coverage ``prob``."""
        bounds = self.interval(prob)
        columns = {"variance": self.estimate, "variance_se": self.standard_error}
        columns |= {f"variance_{end}": bounds["variance"].sel(ci_bound=end, drop=True) for end in ("lower", "upper")}
        columns |= {"share": self.shares}
        columns |= {f"share_{end}": bounds["share"].sel(ci_bound=end, drop=True) for end in ("lower", "upper")}
        return xr.Dataset(columns).to_dataframe(dim_order=list(DIMS)).reset_index()

    def _of_other_laws(self) -> str:
        """Say what intervals would cover if effects were not Gaussian, by formula."""
        n = min(self.attrs["n_levels"].values())
        covered = 1.0 - level_of_variance(n - 1.0, inflation(n))
        return (
            f"Intervals are for Gaussian effects and errors: were those of a source of {n} levels Laplace (excess "
            f"kurtosis 3), 95% intervals of its variance would cover down to {covered:.0%}."
        )

    def _of_products(self) -> list[str]:
        """Say what intervals allow for where effects of several sources are products of their draws."""
        if not any(":" in term for term in self.terms):
            return []
        if self.attrs.get("effect_df") != "effects":
            return [
                "Intervals allow for interactions that are products of the draws of two sources, as of trained "
                "students, only where every combination of levels is there: here such products vary more than the "
                "intervals say."
            ]
        return [
            "Intervals allow for interactions that are products of the draws of two sources, as of trained students: "
            "95% intervals still covered less then, .71 to .94 of an interaction and .81 to .97 of a source with 3 to "
            "40 levels (more with as many of both and without noise of outputs), down to .44 with 2; of heavier tails "
            "less."
        ]

    def _design(self) -> list[str]:
        levels = ", ".join(f"{name} {count}" for name, count in self.attrs["n_levels"].items())
        n_points, n_outputs = self.estimate.shape[1:]
        lines = textwrap.wrap(f"Levels: {levels}", WIDTH, subsequent_indent="        ")
        size = f"Students: {self.attrs['n_students']}, outputs at a point: {self.attrs['n_outputs']}"
        return [*lines, f"{size}, points x outputs: {n_points} x {n_outputs}", f"Estimator: {self.attrs['estimator']}"]

    def _notes(self) -> list[str]:
        notes = [self._of_other_laws(), *self.attrs.get("not_gaussian", ()), *self.attrs.get("notes", ())]
        below = (self.estimate.sel(component=list(self.terms)).values < 0).reshape(len(self.terms), -1).sum(axis=1)
        held = (self.estimate.sel(component=list(self.terms)).values == 0).reshape(len(self.terms), -1).sum(axis=1)
        n_cells = self.estimate[0].size
        for count, name in [(count, name) for count, name in zip(below, self.terms, strict=True) if count][:LISTED]:
            notes.append(
                f"{name} is negative at {count} of {n_cells} points: the unbiased estimate keeps its sign. "
                "boundary = True."
            )
        if self.attrs["method"] != "anova":
            for count, name in [(count, name) for count, name in zip(held, self.terms, strict=True) if count][:LISTED]:
                notes.append(f"{name} is on the boundary, exactly 0, at {count} of {n_cells} points.")
            notes.append("Intervals are those of the mean squares: unbiased, and so not bounded at 0.")
        notes += self._of_products()
        if n_cells > 1:
            df = ", ".join(f"{v:.3g}" for v in self.mean_squares["average_df"].values)
            notes.append(f"Points share levels: the averaged mean squares have {df} degrees of freedom.")
        return notes

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}: {size}" for name, size in self.estimate.sizes.items())
        return f"<SourceComponents method={self.attrs['method']!r} sources={list(self.attrs['sources'])} ({sizes})>"

    __str__ = __repr__


def combination_error(coefficients: FloatArray, mean_squares: FloatArray, df: FloatArray) -> FloatArray:
    """Return standard errors, unbiased in their squares, of (K, J, ...) combinations of (J, ...) mean squares."""
    error: FloatArray = np.sqrt((coefficients**2 * (2 * mean_squares**2 / (df + 2))).sum(axis=1))
    return error


def squares_dataset(
    mean_squares: FloatArray,
    *,
    df: FloatArray,
    coefficients: FloatArray,
    average_df: FloatArray,
    like: xr.DataArray,
    terms: tuple[str, ...],
) -> xr.Dataset:
    """Label mean squares (J, m, q), their degrees of freedom, coefficients (K, J, m, q) and averages (J,)."""
    shape = mean_squares.shape
    return xr.Dataset(
        {
            "mean_square": (("stratum", *DIMS[1:]), mean_squares),
            "df": (("stratum", *DIMS[1:]), np.array(np.broadcast_to(df, shape))),
            "coefficient": (
                ("component", "stratum", *DIMS[1:]),
                np.array(np.broadcast_to(coefficients, (coefficients.shape[0], *shape))),
            ),
            "average_df": (("stratum",), average_df),
        },
        coords={**like.coords, "stratum": list(terms)},
    )
