r"""Intervals for variance components, and the average over correlated points.

Which interval an answer gets:

========================================  ==========================================================
answer                                    method
========================================  ==========================================================
exact                                     width 0
``draws``                                 equal-tailed quantiles
``mean_squares``, r >= 2 replicates       inter: modified large sample for a difference of mean
                                          squares [1]_; intra: chi-square; total: modified large
                                          sample for a sum [2]_
unbalanced ``mean_squares``              the same, about the unweighted variance of the student means
                                          and the harmonic mean of the replicates [4]_, with the degrees
                                          of freedom that unequal cells leave
``mean_squares``, one output each          total: chi-square; its parts: NaN
``mean_squares``, known variances         inter: chi-square; intra: Student t over students; total:
                                          recovered from the other two and their correlation [3]_
otherwise (Monte Carlo, ...)              Gaussian, estimate +- z standard errors
========================================  ==========================================================

``students="any"`` replaces the chi-square law of each mean square by a law on the log scale from the students' own
spread, which carries kurtosis and skewness, as [5]_ does from the kurtosis alone.

References
----------
.. [1] Ting, N., Burdick, R. K., Graybill, F. A., Jeyaratnam, S. & Lu, T.-F. C. (1990), J. Statist.
   Comput. Simul. 35; Burdick, R. K. & Graybill, F. A. (1992), *Confidence Intervals on Variance
   Components*.
.. [2] Graybill, F. A. & Wang, C.-M. (1980), J. Amer. Statist. Assoc. 75.
.. [3] Zou, G. Y. & Donner, A. (2008), Statist. Med. 27.
.. [4] Thomas, J. D. & Hultquist, R. A. (1978), Ann. Statist. 6.
.. [5] Bonett, D. G. (2006), Comput. Statist. Data Anal. 50.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import fdtri, ndtri, stdtrit

from kdstats.components.coverage import coverage_statement
from kdstats.components.margins import chi_square_margins, known_total_margins, sampled_total_margins
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import EstimationError, invalid
from kdstats.problem.validation import as_choice, as_probability

__all__ = ["LAWS", "average", "average_df", "interval"]

FloatArray = NDArray[np.float64]

BOUNDS = ("lower", "upper")
#: Laws of students that intervals are for.
LAWS = ("gaussian", "any")
#: Skewness over coefficient of variation of the squared deviations of Gaussian students.
GAUSSIAN_SKEWNESS = 2.0
#: The same for any law. It is 3.75 for exponential students; with 6, calibrated on 10,000 tables of 20 to 200 of them,
#: the interval also makes up for standard errors that are too small in just the samples whose variance is.
CAUTIOUS_SKEWNESS = 6.0
#: Fewest students for intervals of an unknown law: 10 put the upper bound at some 13 times the variance, 5 at some 200.
FEWEST_ANY = 10
#: Labels of an average.
AVERAGE = xr.Coordinates({"point": ["average"], "output": [0]})


@dataclass(frozen=True, eq=False, kw_only=True)
class _Margin:
    """Distances from a centre (None: the estimate) down to the lower and up to the upper bound."""

    below: FloatArray
    above: FloatArray
    centre: FloatArray | None = None


def interval(components: VarianceComponents, prob: float = 0.95, *, students: str = "gaussian") -> xr.Dataset:
    r"""Return two-sided intervals of each component at each point.

    Parameters
    ----------
    components : VarianceComponents
    prob : float, default 0.95
        Coverage at each point (not over all points at once).
    students : {"gaussian", "any"}, default "gaussian"
        Law of the student means and replicate errors behind mean squares. ``"any"`` takes standard errors from
        the students' own spread, never smaller than those of Gaussian students, and allows for squares as skewed
        as those of an exponential law: wider than need be for Gaussian students, see Notes.

    Returns
    -------
    xarray.Dataset
        ``attrs`` name the law of students that is assumed (``students``) and what the intervals promise under it
        (``coverage``). Variables of ``estimate`` with a last dim
        ``ci_bound`` (``lower``, ``upper``). A lower bound of ``inter_student`` may be negative: the data do not exclude
        0.

    Raises
    ------
    EstimationError
        ``students="any"`` where the mean squares carry no standard errors, or with fewer than ten students.

    Notes
    -----
    Intervals from sampled mean squares lie about the difference of the mean squares, which is the
    unbiased estimate of a balanced table; they do not depend on how the components were estimated from it.

    With ``students="any"`` a mean square v, the mean over S students of squares with relative standard error
    :math:`\rho`, lies between :math:`v\exp(-t\rho+c_2\rho_0^2)` and :math:`v\exp(t\rho+c_6\rho^2)`, with t of S-1
    degrees of freedom, :math:`\rho_0^2` = 2/df that of Gaussian students (the smallest :math:`\rho` allowed), and
    :math:`c_k=z^2(k/3-1/2)+k/6`. That is the Edgeworth expansion of a studentised mean on the log scale, for squares
    whose skewness is k coefficients of variation: 2 if Gaussian, 3.75 if exponential; 6 is calibrated to cover
    exponential students from 20 on, whose standard errors are themselves too small when their variance is.
    Differences are recovered from both margins; the total is a mean over students itself.
    """
    prob = as_probability("prob", prob)
    as_choice("students", students, LAWS)
    if students == "any" and components.n_students is not None and components.n_students < FEWEST_ANY:
        rule = f"be 'gaussian' with fewer than {FEWEST_ANY} students: of an unknown law they bound it from below only"
        raise invalid("students", rule, f"'any' with {components.n_students} students", EstimationError)
    if components.exactness != "exact" and components.draws is not None:
        return _quantiles(components, prob)
    if components.exactness == "exact":
        margins = {name: _gaussian(np.zeros_like(components.estimate[name].values), prob) for name in COMPONENTS}
    elif components.mean_squares is None:
        margins = {name: _gaussian(components.standard_error[name].values, prob) for name in COMPONENTS}
    elif components.attrs.get("not_identified"):
        margins = _single_margins(components, prob, students)
    elif components.mean_squares.attrs["n_replicates"] == 0:
        margins = _known_margins(components, prob, students)
    else:
        margins = _sampled_margins(components, prob, students)
    bounds = {}
    for name, margin in margins.items():
        estimate = components.estimate[name]
        centre = estimate.values if margin.centre is None else margin.centre
        stacked = np.stack([centre - margin.below, centre + margin.above], axis=-1)
        bounds[name] = ((*estimate.dims, "ci_bound"), stacked)
    return xr.Dataset(
        bounds,
        coords={**components.estimate.coords, "ci_bound": list(BOUNDS)},
        attrs={
            "prob": prob,
            "students": students,
            "coverage": coverage_statement(components, prob, students=students),
        },
    )


def average(components: VarianceComponents) -> VarianceComponents:
    r"""Average over points and outputs; leading dims stay.

    Parameters
    ----------
    components : VarianceComponents

    Returns
    -------
    VarianceComponents
        One point labelled ``"average"`` and one output 0. Its ``mean_squares`` have the degrees of
        freedom of the average, so that :func:`interval` holds its coverage; the average of exact
        components is exact.

    Notes
    -----
    Query points share the students, so the average of their mean squares has
    :math:`\nu = (S-1)(\mathrm{tr}\,C)^2/\mathrm{tr}\,C^2` degrees of freedom (Satterthwaite; C the
    covariance of the student means), not :math:`m(S-1)`. For intervals C is the sample covariance as it
    stands: its rank falls below the consistent ``attrs["effective_rank"]`` when students are few, which
    makes up for not knowing C (coverage of the 95% interval in simulations with 5 to 150 students .947 or more,
    against .90 to .95 with the consistent rank). The replicate errors have their own effective
    rank, ``attrs["effective_rank_within"]``: m when points are sampled independently, 1 when one draw
    serves them all. An effective rank that is not in ``attrs`` counts as 1, which can only make
    intervals too wide. Standard errors are those of ``attrs["average_standard_error"]`` where the
    estimation recorded them, else the mean standard error divided by the root of the effective rank.
    """
    total = components.estimate["total"]
    n_cells, leading = total.shape[-2] * total.shape[-1], total.shape[:-2]
    rank = _rank(components.attrs, "effective_rank", leading)
    own = n_cells > 1 and not leading
    recorded = dict(components.attrs.get("average_standard_error") or {}) if own else {}
    draws = None if components.draws is None else _mean(components.draws)
    mean_squares = None
    if components.mean_squares is not None:
        rank_within = _rank(components.attrs, "effective_rank_within", leading)
        mean_squares = _averaged_squares(components.mean_squares, rank=rank, rank_within=rank_within, recorded=recorded)
    attrs = {name: value for name, value in components.attrs.items() if name != "average_standard_error"}
    return replace(
        components,
        estimate=_mean(components.estimate),
        standard_error=_averaged_errors(components, rank=rank, recorded=recorded, draws=draws),
        attrs={**attrs, "effective_rank": 1.0, "effective_rank_within": 1.0, "averaged_over": n_cells},
        draws=draws,
        mean_squares=mean_squares,
        covariance=None,
        student_predictions=None,
        intra_parts=None if components.intra_parts is None else _mean(components.intra_parts),
    )


def _averaged_errors(
    components: VarianceComponents, *, rank: FloatArray, recorded: Mapping[str, float], draws: xr.Dataset | None
) -> xr.Dataset:
    errors = _mean(components.standard_error)
    if draws is not None:
        return xr.Dataset({name: draws[name].std(("chain", "draw")) for name in COMPONENTS}, coords=errors.coords)
    for name in COMPONENTS:
        if name in recorded:
            errors[name].values[...] = recorded[name]
    if components.attrs.get("not_identified"):
        errors["total"].values /= 1.0 if "total" in recorded else np.sqrt(rank)[..., None, None]
        return errors
    if "total" not in recorded:
        errors["inter_student"].values /= np.sqrt(rank)[..., None, None]
        bound = errors["inter_student"].values + errors["intra_student"].values
        errors["total"].values = np.minimum(errors["total"].values, bound)
    return errors


def _averaged_squares(
    squares: xr.Dataset, *, rank: FloatArray, rank_within: FloatArray, recorded: Mapping[str, float]
) -> xr.Dataset:
    averaged = _mean(squares)
    for name in ("between", "within"):
        if f"{name}_se" in averaged and name in recorded:
            averaged[f"{name}_se"].values[...] = recorded[name]
    if "between_se" in averaged and "between" not in recorded:
        averaged["between_se"].values /= np.sqrt(rank)[..., None, None]
    sampled = squares.attrs["n_replicates"] > 0
    df_between = average_df(squares.attrs["df_between"], rank)
    if not squares.attrs["df_within"]:
        averaged["df_between"].values[...] = df_between
        return averaged.assign_attrs(df_between=float(df_between))
    df_within = average_df(squares.attrs["df_within"], rank_within)
    if "replicates" in squares:
        share = float((squares["within"].values / squares["replicates"].values).mean())
        plain = float(1 / (1 / squares["replicates"].values).mean())
        averaged["replicates"].values[...] = averaged["within"].values / share if share else plain
        averaged["df_between"].values[...], averaged["df_within"].values[...] = df_between, df_within
    return averaged.assign_attrs(
        df_between=df_between if df_between.ndim else float(df_between),
        df_within=squares.attrs["df_within"] if not sampled else df_within if df_within.ndim else float(df_within),
    )


def average_df(df: Any, rank: FloatArray) -> FloatArray:
    """Degrees of freedom of an averaged mean square: df times the rank of the *sample* covariance.

    The consistent rank is taken back to the plain ratio of the sample traces, the inverse of what
    :func:`kdstats.components.estimation.effective_rank` does: never above df, and cautious where few students know
    the rank badly.
    """
    n = np.asarray(df, dtype=float)
    return np.asarray(n * (rank + 2 / n) / ((n - 1) * (n + 2) / n**2 + (rank + 2 / n) / n))


def _mean(dataset: xr.Dataset) -> xr.Dataset:
    """Average the last two dims, point and output, into one point "average" and one output 0."""
    averaged = {
        name: (array.dims, array.values.mean(axis=(-2, -1), keepdims=True)) for name, array in dataset.data_vars.items()
    }
    first = next(iter(dataset.data_vars.values()))
    leading = {dim: dataset.coords[dim] for dim in first.dims[:-2] if dim in dataset.coords}
    coords = AVERAGE if not leading else {**leading, **AVERAGE}
    return xr.Dataset(averaged, coords=coords, attrs=dataset.attrs)


def _rank(attrs: Mapping[str, Any], name: str, leading: tuple[int, ...]) -> FloatArray:
    value = attrs.get(name)
    return np.array(np.broadcast_to(1.0 if value is None else np.asarray(value, dtype=float), leading))


def _quantiles(components: VarianceComponents, prob: float) -> xr.Dataset:
    assert components.draws is not None
    tails = [(1 - prob) / 2, (1 + prob) / 2]
    bounds = components.draws[list(COMPONENTS)].quantile(tails, dim=("chain", "draw")).rename(quantile="ci_bound")
    return bounds.assign_coords(ci_bound=list(BOUNDS)).transpose(..., "ci_bound").assign_attrs(prob=prob)


def _gaussian(standard_error: FloatArray, prob: float) -> _Margin:
    margin = ndtri((1 + prob) / 2) * standard_error
    return _Margin(below=margin, above=margin)


def _known_margins(components: VarianceComponents, prob: float, students: str) -> dict[str, _Margin]:
    """Inter from a chi-square; intra from a t over students; total recovered from both with their correlation."""
    squares, errors = components.mean_squares, components.standard_error
    assert squares is not None
    between = squares["between"].values
    lower, upper = _relative("between", components, prob, students)
    inter = _Margin(below=lower * between, above=upper * between)
    n_students = components.n_students or int(np.min(squares.attrs["df_between"])) + 1
    spread = stdtrit(n_students - 1, (1 + prob) / 2) * errors["intra_student"].values
    se_inter, se_intra, se_total = (errors[name].values for name in COMPONENTS)
    below, above = known_total_margins(
        (inter.below, inter.above), errors=(se_inter, se_intra, se_total), n_students=n_students, prob=prob
    )
    return {
        "inter_student": inter,
        "intra_student": _Margin(below=spread, above=spread),
        "total": _Margin(below=below, above=above),
    }


def _sampled_margins(components: VarianceComponents, prob: float, students: str) -> dict[str, _Margin]:
    """Modified large-sample margins for between - within/r, within and between + (1 - 1/r) within."""
    squares = components.mean_squares
    assert squares is not None
    r = squares["replicates"].values if "replicates" in squares else float(squares.attrs["n_replicates"])
    b, w = squares["between"].values, squares["within"].values
    if students == "any":
        return _any_margins(components, r, prob)
    df_b, df_w = (_degrees(name, squares) for name in ("between", "within"))
    (g_b, h_b), (g_w, h_w) = chi_square_margins(df_b, prob), chi_square_margins(df_w, prob)
    tail = (1 - prob) / 2
    f_high, f_low = fdtri(df_b, df_w, 1 - tail), fdtri(df_b, df_w, tail)
    cross_low = ((f_high - 1) ** 2 - (g_b * f_high) ** 2 - h_w**2) / f_high
    cross_high = ((1 - f_low) ** 2 - (h_b * f_low) ** 2 - g_w**2) / f_low
    first, second, both = b**2, (w / r) ** 2, b * w / r
    rest = (1 - 1 / r) * w
    below, above = sampled_total_margins(b, rest, df_between=df_b, df_within=df_w, prob=prob)
    return {
        "inter_student": _Margin(
            below=_root(g_b**2 * first + h_w**2 * second + cross_low * both),
            above=_root(h_b**2 * first + g_w**2 * second + cross_high * both),
            centre=b - w / r,
        ),
        "intra_student": _Margin(below=g_w * w, above=h_w * w, centre=w),
        "total": _Margin(below=below, above=above, centre=b + rest),
    }


def _any_margins(components: VarianceComponents, r: Any, prob: float) -> dict[str, _Margin]:
    """Margins of both mean squares, recovered for their difference; the total is a mean over students itself."""
    squares = components.mean_squares
    assert squares is not None
    b, w = squares["between"].values, squares["within"].values
    (g_b, h_b), (g_w, h_w) = (_relative(name, components, prob, "any") for name in ("between", "within"))
    df_b, df_w = (_degrees(name, squares) for name in ("between", "within"))
    rest = (1 - 1 / r) * w
    total = b + rest
    gaussian = np.sqrt(2 / df_b * b**2 + 2 / df_w * rest**2)
    if "replicates" in squares:  # the standard error is that of another estimate: that of the sum if wholly correlated
        error = squares["between_se"].values + (1 - 1 / r) * squares["within_se"].values
    else:
        error = components.standard_error["total"].values
    g, h = _log_scale(_ratio(error, total), _ratio(gaussian, total), _student_df(components), prob)
    return {
        "inter_student": _Margin(
            below=np.hypot(g_b * b, h_w * w / r), above=np.hypot(h_b * b, g_w * w / r), centre=b - w / r
        ),
        "intra_student": _Margin(below=g_w * w, above=h_w * w, centre=w),
        "total": _Margin(below=g * total, above=h * total, centre=total),
    }


def _single_margins(components: VarianceComponents, prob: float, students: str) -> dict[str, _Margin]:
    """Total from a chi-square; what one output of each student does not identify has no interval."""
    squares = components.mean_squares
    assert squares is not None
    between = squares["between"].values
    lower, upper = _relative("between", components, prob, students)
    none = _gaussian(np.full_like(between, np.nan), prob)
    total = _Margin(below=lower * between, above=upper * between)
    return {"inter_student": none, "intra_student": none, "total": total}


def _root(square: FloatArray) -> FloatArray:
    return np.sqrt(np.maximum(square, 0.0))


def _relative(name: str, components: VarianceComponents, prob: float, students: str) -> tuple[FloatArray, FloatArray]:
    """Distances, relative to a mean square, down to its lower and up to its upper bound."""
    squares = components.mean_squares
    assert squares is not None
    df = _degrees(name, squares)
    if students == "gaussian":
        return chi_square_margins(df, prob)
    if f"{name}_se" not in squares:
        raise invalid("students", "be 'gaussian' where mean squares have no errors", students, EstimationError)
    relative = _ratio(squares[f"{name}_se"].values, squares[name].values)
    return _log_scale(relative, np.sqrt(2 / df), _student_df(components), prob)


def _log_scale(
    relative: FloatArray, gaussian: FloatArray, df: FloatArray, prob: float
) -> tuple[FloatArray, FloatArray]:
    """Relative margins of a mean of skewed squares with these relative standard errors: its own, and if Gaussian."""
    z, t = ndtri((1 + prob) / 2), stdtrit(df, (1 + prob) / 2)
    least, most = (z**2 * (k / 3 - 0.5) + k / 6 for k in (GAUSSIAN_SKEWNESS, CAUTIOUS_SKEWNESS))
    error = np.maximum(relative, gaussian)
    with np.errstate(over="ignore"):
        return -np.expm1(np.minimum(least * gaussian**2 - t * error, 0.0)), np.expm1(t * error + most * error**2)


def _ratio(error: FloatArray, estimate: FloatArray) -> FloatArray:
    return np.divide(error, estimate, out=np.zeros_like(estimate), where=estimate > 0)


def _student_df(components: VarianceComponents) -> FloatArray:
    """Degrees of freedom of a mean over students, one less than there are at a point."""
    squares = components.mean_squares
    assert squares is not None
    df = _degrees("between", squares)
    return df if components.n_students is None else np.minimum(df, components.n_students - 1.0)


def _degrees(name: str, squares: xr.Dataset) -> FloatArray:
    """Degrees of freedom of a mean square of Gaussian students, shaped to broadcast against it."""
    if f"df_{name}" in squares:
        return np.asarray(squares[f"df_{name}"].values)
    df = np.asarray(squares.attrs[f"df_{name}"], dtype=float)
    return df[..., None, None] if df.ndim else df
