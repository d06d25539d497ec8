"""Test that strategies move variance between and within students without changing their sum.

A tabular student of k sampled responses has ``E[intra] = (1 - 1/k) G`` and ``inter = G/k``: the total is the Gini
index G of the teacher for every k. A linear student that predicts with the maximum-likelihood variance of its residuals
has, on average over its training points and with one response, ``inter + intra = sigma^2``. Both parts come from the
same students, so that their sum has a standard error of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.errors import ApproximationWarning, ComparisonError
from kdstats.hypotest.multiplicity import adjust_pvalues
from kdstats.hypotest.pairing import observed_arrays
from kdstats.hypotest.resampled_ratio import not_gaussian
from kdstats.hypotest.student_space import warn_of_shared_seeds
from kdstats.problem.validation import as_number

__all__ = ["ConservationResult", "conservation_test"]

FloatArray = NDArray[np.float64]

#: Fewest Gaussian students with whom the test holds its level, and fewest of another law or of classes.
FEWEST, FEWEST_OF_CLASSES = 60, 200


@dataclass(frozen=True, kw_only=True, eq=False)
class ConservationResult:
    """Test that total variances are equal, or equal to a given value.

    Attributes
    ----------
    statistic : float
        Welch's F; with a given total, the t of largest size.
    pvalue : float
        That all totals are equal; with a given total, the smallest of ``adjusted_pvalues``.
    df, df_denominator : float
        Of Welch's F; with a given total, of the t named above and NaN.
    totals, standard_errors : ndarray
        Average total variance of each strategy.
    pvalues, adjusted_pvalues : ndarray
        Of each total against the given one, and after Holm; NaN without one.
    labels : tuple
        Strategies.
    total : float or None
        What was given.
    unreliable : str
        Why the p-values decide nothing; empty where the test holds its level.
    """

    statistic: float
    pvalue: float
    df: float
    df_denominator: float
    totals: FloatArray
    standard_errors: FloatArray
    pvalues: FloatArray
    adjusted_pvalues: FloatArray
    labels: tuple[Any, ...]
    total: float | None
    alternative: str = "two-sided"
    unreliable: str = ""

    def summary(self) -> str:
        """Return a printable table."""
        rows = [f"{'strategy':<24}{'total variance':>16}{'se':>12}"]
        rows += [
            f"{label!s:<24}{value:>16.5g}{error:>12.2g}"
            for label, value, error in zip(self.labels, self.totals, self.standard_errors, strict=True)
        ]
        claim = "the totals are equal" if self.total is None else f"every total is {self.total:.5g}"
        marked = [f"UNRELIABLE: {self.unreliable}"] if self.unreliable else []
        level = f"level: about 5% for Gaussian students from {FEWEST} on, of other laws from {FEWEST_OF_CLASSES} on"
        return "\n".join([*rows, f"p = {self.pvalue:.4g} that {claim}", level, *marked])

    def __str__(self) -> str:
        return self.summary()


def conservation_test(observed: Mapping[Any, VarianceComponents], *, total: Any = None) -> ConservationResult:
    """Test that the total variance is the same whatever the strategy, or is the predicted one.

    Parameters
    ----------
    observed : mapping of label to VarianceComponents
        Observations with independent students at the same points; at least two, or one with ``total``.
    total : float or VarianceComponents, optional
        Average total variance that theory gives, without error, or a prediction of it.

    Returns
    -------
    ConservationResult

    Raises
    ------
    ComparisonError
        If there are too few observations, each student gave one output only, or a total is not positive.

    Warns
    -----
    DependentStudentsWarning
        If strategies of one seed are compared with each other.
    ApproximationWarning
        If the result is marked unreliable.

    Notes
    -----
    The average total has the standard error that the estimation recorded, which includes the covariance between a
    student's distance from the others and its own variance. Logarithms of the totals are compared by Welch's analysis
    of variance, with S-1 degrees of freedom each, so that strategies may differ in how well their totals are
    known. With ``total`` each logarithm is tested by Student's t and the p-values adjusted by Holm. Asymptotic in S:
    Gaussian students rejected .050 to .075 of 6,000 true nulls with S=30, .050 to .059 with 60 and .049 to .060 with
    100; tabular students of one response .08 with 30, and hold 5% with 200. The result is marked unreliable below 60
    students, and below 200 of classes or of means that are found not to be Gaussian.

    References
    ----------
    B. L. Welch, "On the comparison of several mean values: an alternative approach", Biometrika 38, 1951.

    Examples
    --------
    >>> import numpy as np, kdstats as kd
    >>> X = np.random.default_rng(0).normal(size=(20, 3))
    >>> problem = kd.DistillationProblem(  # at the training points, one response, maximum-likelihood variance
    ...     teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=1.5),
    ...     student=kd.LinearStudent(residual_variance="mle"),
    ...     design=kd.Design(X),
    ... )
    >>> kd.conservation_test({"single": kd.observe(problem, n_students=300, rng=2)}, total=1.5).pvalue > 0.05
    True
    """
    least = 2 if total is None else 1
    if not isinstance(observed, Mapping) or len(observed) < least:
        got = len(observed) if isinstance(observed, Mapping) else f"a {type(observed).__name__}"
        raise ComparisonError(f"`observed` must map at least {least} labels to observations; got {got}")
    wanted = None if total is None else _wanted(total)
    found = [_average_total(label, item) for label, item in observed.items()]
    if wanted is None:
        warn_of_shared_seeds(
            list(observed.values()),
            "`observed` must have independent students in every strategy, and observations here share a seed: give "
            "each strategy its own `rng`, or the level of the test is not held",
            stacklevel=2,
        )
    totals, errors, df = (np.array(column) for column in zip(*found, strict=True))
    logs, relative = np.log(totals), errors / totals
    if wanted is None:
        statistic, first, second, pvalue = _welch(logs, relative, df)
        each = adjusted = np.full(len(totals), np.nan)
    else:
        from scipy.special import stdtr

        t = (logs - np.log(wanted)) / relative
        each = 2.0 * stdtr(df, -np.abs(t))
        adjusted = adjust_pvalues(each)
        worst = int(np.argmax(np.abs(t)))
        statistic, first, second, pvalue = float(t[worst]), float(df[worst]), np.nan, float(adjusted.min())
    unreliable = _doubt(observed)
    if unreliable:
        warnings.warn(f"the conservation test is unreliable: {unreliable}", ApproximationWarning, stacklevel=2)
    return ConservationResult(
        statistic=statistic,
        pvalue=pvalue,
        df=first,
        df_denominator=second,
        totals=totals,
        standard_errors=errors,
        pvalues=each,
        adjusted_pvalues=adjusted,
        labels=tuple(observed),
        total=wanted,
        unreliable=unreliable,
    )


def _doubt(observed: Mapping[Any, VarianceComponents]) -> str:
    """Name the strategies with fewer students than the level was shown to hold for."""
    for label, item in observed.items():
        classes = _of_classes(item)
        fewest, n = FEWEST_OF_CLASSES if classes else FEWEST, int(item.n_students or 0)
        if n < fewest:
            kind = "students of classes" if classes else "students"
            return f"{n} {kind} in {label!r}, and the test holds its level from {fewest} on: train more"
        if n < FEWEST_OF_CLASSES and item.student_predictions is not None:
            found = not_gaussian(item.student_predictions)
            if found:
                rule = f"the test holds its level from {FEWEST_OF_CLASSES} of any law on"
                return f"students of {label!r} have {found}, and {rule}: train more"
    return ""


def _of_classes(item: VarianceComponents) -> bool:
    """Whether the outputs of a student are probabilities of classes."""
    if item.student_predictions is None or item.student_predictions.sizes["output"] < 2:
        return False
    values = item.student_predictions.values
    return bool((values >= 0.0).all() and np.allclose(values.sum(axis=-1), 1.0))


def _welch(values: FloatArray, errors: FloatArray, df: FloatArray) -> tuple[float, float, float, float]:
    """Return Welch's F, its degrees of freedom and its p-value."""
    from scipy.special import fdtrc

    groups, weights = len(values), errors**-2
    centre = weights @ values / weights.sum()
    spare = ((1.0 - weights / weights.sum()) ** 2 / df).sum()
    between = weights @ (values - centre) ** 2 / (groups - 1.0)
    statistic = float(between / (1.0 + 2.0 * (groups - 2.0) / (groups**2 - 1.0) * spare))
    first, second = groups - 1.0, float((groups**2 - 1.0) / (3.0 * spare))
    return statistic, first, second, float(fdtrc(first, second, statistic))


def _average_total(label: Any, observed: Any) -> tuple[float, float, float]:
    if not isinstance(observed, VarianceComponents) or observed.exactness != "observed":
        raise ComparisonError(f"`observed` must hold observations; got something else for {label!r}")
    arrays = observed_arrays(observed)
    if arrays.single_output:
        raise ComparisonError(
            f"`observed` must have at least 2 outputs per student, or their known variance; got 1 for {label!r}"
        )
    total = float(observed.total.values.mean())
    error = float(arrays.average_se.get("total", observed.standard_error["total"].values.mean()))
    if total <= 0.0 or error <= 0.0:
        raise ComparisonError(
            f"`observed` must have a positive total that varies between students; got {total:.4g} for {label!r}"
        )
    return total, error, arrays.df_between


def _wanted(total: Any) -> float:
    if isinstance(total, VarianceComponents):
        if total.exactness == "observed" or (total.standard_error["total"].values > 0).any():
            raise ComparisonError("`total` must be a prediction without error; got an observation or a simulation")
        return as_number("total", float(total.total.values.mean()), minimum=0.0, exclusive=True)
    return as_number("total", total, minimum=0.0, exclusive=True)
