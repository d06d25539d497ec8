r"""Variance attribution: how much of the variance of a student each source carries, alone and with the others.

Students f(a, b, ...) are a function of independent draws of their sources. Its functional analysis of variance [1]_
splits the variance into :math:`\sigma_T^2` of every source and interaction T. First-order Sobol index of a source s:
:math:`\sigma_s^2/\sigma^2`, what knowing its draw would remove. Total index: :math:`\sum_{T\ni s}\sigma_T^2/\sigma^2`,
what would be left if all others were known [2]_. Without interactions both are equal and sum to 1.

Students that cross all levels of all sources are a balanced random-effects design, in which the mean squares give
unbiased estimates of every :math:`\sigma_T^2`; a trained student's prediction is known without noise, so that the
highest interaction is identified too.

References
----------
.. [1] Efron, B. & Stein, C. (1981), Ann. Statist. 9.
.. [2] Homma, T. & Saltelli, A. (1996), Reliab. Eng. Syst. Saf. 52.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.combinations import ratio_interval
from kdstats.components.crossed import estimate_sources
from kdstats.components.sources import DIMS, WIDTH, SourceComponents, combination_error, squares_dataset
from kdstats.components.uneven_effects import NO_ERROR, df_of_mean_variance
from kdstats.errors import NegativeComponentWarning
from kdstats.problem.design import SOURCES
from kdstats.problem.validation import as_probability

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["VarianceAttribution", "crossed_components"]

FloatArray = NDArray[np.float64]

INDEX_DIMS = ("source", "point", "output")
OUTPUT_NOISE = "student_output"


@dataclass(frozen=True, eq=False, kw_only=True)
class VarianceAttribution:
    """Sobol indices of the sources of randomness, and the components behind them.

    Attributes
    ----------
    components : SourceComponents
        Variance of every source that acts, of every interaction, and sums; shares and intervals of both.
    predictions : xarray.DataArray
        Mean prediction of every student, dims the crossed sources (their levels), ``point``, ``output``.
    inactive : mapping
        Source that adds exactly nothing to the reason why.
    """

    components: SourceComponents
    predictions: xr.DataArray
    inactive: Mapping[str, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "inactive", MappingProxyType(dict(self.inactive)))

    @property
    def first_order(self) -> xr.DataArray:
        """First-order index of each source, dims source, point, output; NaN where the total is not above 0."""
        return self._index("first_order")

    @property
    def total_order(self) -> xr.DataArray:
        """Total index of each source, its interactions included, dims source, point, output."""
        return self._index("total_order")

    def interval(self, prob: float = 0.95) -> xr.Dataset:
        """Return two-sided intervals of both indices, variables ``first_order`` and ``total_order``.

        Parameters
        ----------
        prob : float, default 0.95
            Coverage of each index at each point.

        Returns
        -------
        xarray.Dataset
            Dims source, point, output and ``ci_bound``. Exactly 0 for a source that is off. Bounds end at 0 and 1,
            which indices cannot pass; a bound of 0 says that the data do not exclude 0. ``attrs["clipped"]`` names
            the sources where that took something off. Gaussian effects are assumed.
        """
        prob = as_probability("prob", prob)
        squares, df, _ = self._squares()
        total = self._rows("total_order")[1]
        found, clipped = {}, set()
        for kind in ("first_order", "total_order"):
            bounds = [
                np.zeros((*squares.shape[1:], 2)) if row is None else ratio_interval(row, total, squares, df, prob=prob)
                for row in self._rows(kind)[0]
            ]
            plain = np.stack(bounds)
            possible = np.clip(plain, 0.0, 1.0)
            beyond = (np.abs(possible - plain) > 0).any(axis=(1, 2, 3))
            clipped |= {source for source, is_beyond in zip(SOURCES, beyond, strict=True) if is_beyond}
            found[kind] = ((*INDEX_DIMS, "ci_bound"), possible)
        coords = {**self.first_order.coords, "ci_bound": ["lower", "upper"]}
        return xr.Dataset(found, coords, {"prob": prob, "clipped": tuple(s for s in SOURCES if s in clipped)})

    def average(self) -> VarianceAttribution:
        """Return the attribution of the variance averaged over points and outputs."""
        return replace(self, components=self.components.average())

    def to_dataframe(self, prob: float = 0.95) -> pd.DataFrame:
        """Return a long table: one row per source, point and output, both indices with intervals."""
        bounds = self.interval(prob)
        columns: dict[str, xr.DataArray] = {}
        for kind in ("first_order", "total_order"):
            columns[kind] = self._index(kind)
            for end in ("lower", "upper"):
                columns[f"{kind}_{end}"] = bounds[kind].sel(ci_bound=end, drop=True)
        return xr.Dataset(columns).to_dataframe(dim_order=list(INDEX_DIMS)).reset_index()

    def summary(self, prob: float = 0.95) -> str:
        """Return two printable tables: indices of the sources averaged over points, and the components."""
        mean = self.average()
        table = mean.to_dataframe(prob)
        tails = (f"[{(1 - prob) / 2:.4g}", f"{(1 + prob) / 2:.4g}]")
        titles = "".join(f"{t:>9}" for t in ("first", *tails)) + "".join(f"{t:>9}" for t in ("total", *tails))
        rule = 24 + 54
        lines = ["Sobol indices of the sources (share of the variance of one output)", "=" * rule]
        lines += [" " * 24 + titles, "-" * rule]
        for row in table.itertuples():
            values = [getattr(row, f"{k}{e}") for k in ("first_order", "total_order") for e in ("", "_lower", "_upper")]
            lines.append(f"{row.source:<24}" + "".join(f"{100 * value:>8.1f}%" for value in values))
        lines.append("=" * rule)
        for source, reason in self.inactive.items():
            lines += textwrap.wrap(f"{source} adds exactly 0: {reason}.", WIDTH)
        lines.append("Intervals are for Gaussian effects and errors.")
        beyond = mean.interval(prob).attrs["clipped"]
        lines += textwrap.wrap(f"Intervals end at what is possible: {', '.join(beyond)}.", WIDTH) if beyond else []
        return "\n".join([*lines, "", self.components.summary(prob)])

    def _squares(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        data = self.components.mean_squares
        return data["mean_square"].values, data["df"].values, data["coefficient"].values

    def _rows(self, kind: str) -> tuple[list[FloatArray | None], FloatArray]:
        """Return the coefficients of each source's index (None if it is off), and those of the total."""
        coefficients = self._squares()[2]
        names = self.components.components
        rows: list[FloatArray | None] = []
        for source in SOURCES:
            chosen = [
                names.index(term)
                for term in self.components.terms
                if term == source or (kind == "total_order" and source in term.split(":"))
            ]
            rows.append(coefficients[chosen].sum(axis=0) if chosen else None)
        return rows, coefficients[names.index("total")]

    def _index(self, kind: str) -> xr.DataArray:
        squares = self._squares()[0]
        rows, total = self._rows(kind)
        whole = (total * squares).sum(axis=0)
        known = np.where(whole > 0, whole, np.nan)
        values = [0.0 * known if row is None else (row * squares).sum(axis=0) / known for row in rows]
        values = [np.zeros_like(known) if row is None else value for row, value in zip(rows, values, strict=True)]
        like = self.components.estimate
        coords = {"source": list(SOURCES), "point": like["point"].values, "output": like["output"].values}
        return xr.DataArray(np.stack(values), coords, INDEX_DIMS, name=kind)

    def __repr__(self) -> str:
        return f"<VarianceAttribution {self.components!r}>"

    __str__ = __repr__


def crossed_components(
    outputs: FloatArray,
    *,
    sources: Sequence[str],
    points: Sequence[Any],
    labels: Sequence[Any],
    variances: FloatArray | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> SourceComponents:
    """Estimate the components of students that cross every level of every source.

    Parameters
    ----------
    outputs : (L_1, ..., L_k, r, m, q) ndarray
        r drawn outputs of each student; one, its mean prediction, with ``variances`` or where outputs do not vary.
    sources : sequence of str
        The k crossed sources.
    points, labels : sequence
        Of the points and of the outputs.
    variances : (L_1, ..., L_k, m, q) ndarray, optional
        Variance of each student's own outputs. Default, with r = 1: outputs do not vary.
    attrs : mapping, optional
        More provenance.

    Returns
    -------
    SourceComponents
        Every interaction is identified. The noise of outputs, where there is any, is called ``student_output``.

    Warns
    -----
    NegativeComponentWarning
        If a component averaged over points is negative.
    """
    sizes, (r, m, q) = outputs.shape[: len(sources)], outputs.shape[-3:]
    students = outputs.reshape(-1, r, m, q)
    known = r == 1
    analysis = _analysis(np.repeat(students, 2, axis=1) if known else students, sizes, sources, points, labels)
    if known:
        analysis = _with_known_noise(analysis, variances, sizes)
    analysis = _renamed(analysis, noisy=not known or variances is not None)
    analysis = replace(analysis, attrs={**analysis.attrs, "n_outputs": len(students) * r, **(attrs or {})})
    terms = analysis.average().estimate.sel(component=list(analysis.terms)).values.ravel()
    below = [f"{name} ({value:.3g})" for name, value in zip(analysis.terms, terms, strict=True) if value < 0.0]
    if below:
        warnings.warn(
            f"negative components, averaged over points: {', '.join(below)}: the unbiased estimate keeps its sign; "
            "more levels would settle it",
            NegativeComponentWarning,
            stacklevel=3,
        )
    return analysis


def _analysis(
    outputs: FloatArray, sizes: tuple[int, ...], sources: Sequence[str], points: Sequence[Any], labels: Sequence[Any]
) -> SourceComponents:
    """Analyse outputs (S, r, m, q) of students in the order of their levels."""
    n_students, r, m, q = outputs.shape
    student, replicate, point = np.indices((n_students, r, m)).reshape(3, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegativeComponentWarning)  # judged on the average instead
        return estimate_sources(
            np.ascontiguousarray(outputs, dtype=np.float64).reshape(-1, q),
            student=student,
            point=point,
            replicate=replicate,
            levels=np.indices(sizes).reshape(len(sizes), -1).T.copy(),
            sources=sources,
            level_labels=[list(range(size)) for size in sizes],
            points=points,
            outputs=labels,
            engine="networks",
        )


def _with_known_noise(
    analysis: SourceComponents, variances: FloatArray | None, sizes: tuple[int, ...]
) -> SourceComponents:
    """Put known variances in the place of a residual that is 0, predictions having been given twice."""
    data = analysis.mean_squares
    squares = data["mean_square"].values / 2.0
    coefficients = 2.0 * data["coefficient"].values
    df, average_df = data["df"].values.copy(), data["average_df"].values.copy()
    squares[-1], df[-1], average_df[-1] = 0.0, NO_ERROR, NO_ERROR
    coefficients[:, -1] = 0.0
    if variances is not None:
        own = variances.reshape(-1, *squares.shape[1:])
        squares[-1] = own.mean(axis=0)
        df[-1] = df_of_mean_variance(own.reshape(*sizes, -1)).reshape(own.shape[1:])
        average_df[-1] = df_of_mean_variance(own.mean(axis=(1, 2)).reshape(*sizes, 1)).item()
        for name in ("residual", "intra_student", "total"):
            coefficients[analysis.components.index(name), -1] = 1.0
    estimate = analysis.estimate.copy(data=(coefficients * squares).sum(axis=1))
    errors = combination_error(coefficients, squares, df)
    return replace(
        analysis,
        estimate=estimate,
        standard_error=estimate.copy(data=errors),
        mean_squares=squares_dataset(
            squares, df=df, coefficients=coefficients, average_df=average_df, like=estimate, terms=analysis.terms
        ),
    )


def _renamed(analysis: SourceComponents, *, noisy: bool) -> SourceComponents:
    """Call the residual by its source, or leave it out where outputs do not vary."""
    names = [OUTPUT_NOISE if name == "residual" else name for name in analysis.components]
    terms = [OUTPUT_NOISE if name == "residual" else name for name in analysis.terms]
    estimate, errors = (a.assign_coords(component=names) for a in (analysis.estimate, analysis.standard_error))
    data = analysis.mean_squares
    if not noisy:
        kept = [name for name in names if name != OUTPUT_NOISE]
        estimate, errors = estimate.sel(component=kept), errors.sel(component=kept)
    chosen = [i for i, name in enumerate(names) if noisy or name != OUTPUT_NOISE]
    strata = [i for i, name in enumerate(terms) if noisy or name != OUTPUT_NOISE]
    squares = squares_dataset(
        data["mean_square"].values[strata],
        df=data["df"].values[strata],
        coefficients=data["coefficient"].values[np.ix_(chosen, strata)],
        average_df=data["average_df"].values[strata],
        like=estimate,
        terms=tuple(terms[i] for i in strata),
    )
    boundary = tuple(terms[i] for i in strata if (estimate.sel(component=terms[i]).values <= 0.0).any())
    return replace(
        analysis,
        estimate=estimate.transpose(*DIMS),
        standard_error=errors.transpose(*DIMS),
        mean_squares=squares,
        attrs={**analysis.attrs, "boundary": boundary},
    )
