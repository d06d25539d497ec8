"""Test that inter-student variance is the same at every point, or in the proportions that were predicted."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.errors import ComparisonError
from kdstats.hypotest.covariance import RANGE_TOLERANCE
from kdstats.hypotest.student_space import refuse_sampled_means, student_rows
from kdstats.problem.validation import as_choice, as_count

__all__ = ["HomogeneityResult", "homogeneity_test"]

FloatArray = NDArray[np.float64]

METHODS = ("auto", "normal", "bootstrap")
#: Numbers drawn at a time.
CHUNK = 4_000_000
#: Most samples of students of another law.
OTHERS = 499


@dataclass(frozen=True, kw_only=True, eq=False)
class HomogeneityResult:
    """Test that points differ in variance no more than they should.

    Attributes
    ----------
    statistic : float
        Variance over points of the log ratio of observed to expected variance.
    pvalue : float
        Share of reference samples with a statistic at least as large, counting the observation.
    n_resamples : int
        Reference samples; ``exact`` whether their law is known and not estimated.
    log_ratios : ndarray, shape (m q,)
        Log of observed over expected variance, mean 0.
    labels : tuple
        (point, output) of each.
    level_if_laplace : float
        How often a 5% test with this reference rejects a true null if students are Laplace in independent directions,
        by simulation; NaN for resampled students.
    """

    statistic: float
    pvalue: float
    n_resamples: int
    exact: bool
    log_ratios: FloatArray
    labels: tuple[tuple[Hashable, Hashable], ...]
    method: str
    alternative: str = "greater"
    level_if_laplace: float = np.nan

    @property
    def most_different(self) -> tuple[Hashable, Hashable]:
        """Labels of the point and output farthest from the others."""
        return self.labels[int(np.argmax(np.abs(self.log_ratios)))]

    def summary(self) -> str:
        """Return a printable account."""
        factor = float(np.exp(self.log_ratios[int(np.argmax(np.abs(self.log_ratios)))]))
        return (
            f"homogeneity over {len(self.labels)} points and outputs: sd of log variance ratios "
            f"{np.sqrt(self.statistic):.4g}, p = {self.pvalue:.4g} ({self.method})\n"
            f"farthest: {self.most_different[0]!r}, {factor:.3g} times the typical ratio\n"
            f"level: {self._level()}"
        )

    def _level(self) -> str:
        if np.isnan(self.level_if_laplace):
            return "about 5% for students of any law (.03 to .06 was measured with 30 and 200)"
        gaussian = "5%" if self.exact else "about 5% (.06 to .08 was measured with 200 and 30)"
        return (
            f"{gaussian} for Gaussian students; were they Laplace (excess kurtosis 3, in independent directions), "
            f"{self.level_if_laplace:.0%}"
        )

    def __str__(self) -> str:
        return self.summary()


def homogeneity_test(
    observed: VarianceComponents,
    predicted: VarianceComponents | None = None,
    *,
    method: str = "auto",
    n_resamples: int = 1999,
    rng: Any = None,
) -> HomogeneityResult:
    """Test that the variance of student means is the same at every point, or as predicted up to one common factor.

    Parameters
    ----------
    observed : VarianceComponents
        With ``student_predictions``, each student's own mean: those of sampled replicates vary by intra/r beside.
    predicted : VarianceComponents, optional
        Expected proportions of the points; without it they are equal.
    method : {"auto", "normal", "bootstrap"}
        Reference: ``"normal"``, Gaussian students with the predicted covariance, or, where none is predicted, with the
        observed correlation between points and the variances of the null hypothesis; ``"bootstrap"``, the observed
        students rescaled to the null and resampled. Default: ``"normal"``.
    n_resamples : int, default 1999
        Reference samples.
    rng : int, Generator or None
        Of the reference samples.

    Returns
    -------
    HomogeneityResult

    Raises
    ------
    ComparisonError
        If predictions are missing, replicates were sampled, points differ, there are fewer than two points with
        variance, or a prediction of 0 was not met.

    Notes
    -----
    Points are correlated, so that tests for independent groups (Bartlett, Levene) do not apply. With a predicted
    covariance the reference is exact for Gaussian students (a Monte Carlo test, whose level does not depend on
    ``n_resamples``); otherwise the correlation is estimated and the level approximate. The common factor is left free:
    it is what :func:`kdstats.equality_test` tests.

    Examples
    --------
    >>> import kdstats as kd
    >>> problem = kd.catalog.shared_noise()
    >>> seen = kd.observe(problem, n_students=100, rng=1)
    >>> kd.homogeneity_test(seen, kd.predict(problem, covariance=True), rng=2).pvalue > 0.05
    True
    """
    as_choice("method", method, METHODS)
    n_resamples = as_count("n_resamples", n_resamples, minimum=99)
    if not isinstance(observed, VarianceComponents) or observed.exactness != "observed":
        raise ComparisonError("`observed` must be an observation; got something else")
    refuse_sampled_means("observed", observed)
    labels = {dim: observed.inter_student[dim].values.tolist() for dim in ("point", "output")}
    rows = student_rows("observed", observed, points=labels["point"], outputs=labels["output"])
    expected, covariance = _expected(predicted, labels, rows.shape[1])
    centered = rows - rows.mean(axis=0)
    kept = expected > RANGE_TOLERANCE * expected.max()
    variance = (centered**2).sum(axis=0) / (len(rows) - 1)
    if (variance[~kept] > RANGE_TOLERANCE * variance.max()).any():
        raise ComparisonError("`observed` must not vary where the prediction is 0; got variance there")
    if kept.sum() < 2 or (variance[kept] <= 0.0).any():
        raise ComparisonError(
            f"`observed` must vary at 2 points or more, and wherever it should; got {int((variance[kept] > 0).sum())}"
        )
    logs = log_ratios(variance[kept], expected[kept])
    statistic = float((logs**2).mean())
    generator = np.random.default_rng(rng)
    null = centered[:, kept] * np.sqrt(expected[kept] / variance[kept])
    exact = method != "bootstrap" and covariance is not None
    level_if_laplace = np.nan
    if method == "bootstrap":
        reference = bootstrap_reference(null, expected[kept], n_resamples, generator)
    else:
        null_covariance = null.T @ null / (len(rows) - 1) if covariance is None else covariance[np.ix_(kept, kept)]
        root = covariance_root(null_covariance)
        reference = gaussian_reference(root, expected[kept], len(rows), n_resamples, generator)
        others = laplace_reference(root, expected[kept], len(rows), min(n_resamples, OTHERS), generator)
        level_if_laplace = float((others > np.quantile(reference, 0.95)).mean())
    names = [(point, output) for point in labels["point"] for output in labels["output"]]
    return HomogeneityResult(
        statistic=statistic,
        pvalue=float((1 + (reference >= statistic * (1.0 - 1e-12)).sum()) / (n_resamples + 1)),
        n_resamples=n_resamples,
        exact=exact,
        log_ratios=logs,
        labels=tuple(name for name, keep in zip(names, kept, strict=True) if keep),
        method=_name(method, exact=exact),
        level_if_laplace=level_if_laplace,
    )


def log_ratios(variance: FloatArray, expected: FloatArray) -> FloatArray:
    """Return log variance over expected variance, less its mean over the last axis."""
    logs = np.log(variance / expected)
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True))


def gaussian_reference(
    factor: FloatArray, expected: FloatArray, n_students: int, n_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Return statistics of samples of Gaussian students with covariance ``factor @ factor.T``, shape (n_resamples,)."""

    def draw(size: int) -> FloatArray:
        students = rng.standard_normal((size, n_students, factor.shape[1])) @ factor.T
        return np.asarray(students.var(axis=1, ddof=1))

    return _statistics(draw, expected, n_students * max(factor.shape), n_resamples)


def laplace_reference(
    factor: FloatArray, expected: FloatArray, n_students: int, n_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Return the same for students ``factor @ z``, z independent Laplace numbers of variance 1."""

    def draw(size: int) -> FloatArray:
        students = rng.laplace(scale=np.sqrt(0.5), size=(size, n_students, factor.shape[1])) @ factor.T
        return np.asarray(students.var(axis=1, ddof=1))

    return _statistics(draw, expected, n_students * max(factor.shape), n_resamples)


def bootstrap_reference(
    null: FloatArray, expected: FloatArray, n_resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Return statistics of resamples of students that satisfy the null hypothesis, shape (n_resamples,)."""
    size = len(null)

    def draw(n: int) -> FloatArray:
        counts = rng.multinomial(size, np.full(size, 1.0 / size), size=n).astype(float)
        square = counts @ null**2 - (counts @ null) ** 2 / size
        return np.asarray(np.maximum(square, np.finfo(float).tiny) / (size - 1))

    return _statistics(draw, expected, size, n_resamples)


def _statistics(draw: Any, expected: FloatArray, cost: int, n_resamples: int) -> FloatArray:
    size = max(1, CHUNK // max(cost, 1))
    found = []
    for start in range(0, n_resamples, size):
        logs = log_ratios(draw(min(size, n_resamples - start)), expected)
        found.append((logs**2).mean(axis=-1))
    return np.concatenate(found)


def _expected(predicted: Any, labels: dict[str, list[Any]], size: int) -> tuple[FloatArray, FloatArray | None]:
    """Return expected variances (m q,) and their covariance (m q, m q), in the order of the observation."""
    if predicted is None:
        return np.ones(size), None
    if not isinstance(predicted, VarianceComponents) or predicted.exactness == "observed":
        raise ComparisonError("`predicted` must be a prediction; got something else")
    if (predicted.standard_error["inter_student"].values > 0).any():
        raise ComparisonError("`predicted` must have no Monte Carlo error; got standard errors above 0")
    place = {label: index for index, label in enumerate(predicted.inter_student["point"].values.tolist())}
    missing = [label for label in labels["point"] if label not in place]
    if missing or len(place) != len(labels["point"]) or predicted.inter_student["output"].size != len(labels["output"]):
        raise ComparisonError(f"`predicted` must have the points and outputs of `observed`; got others ({missing[:3]})")
    order = [place[label] for label in labels["point"]]
    inter = predicted.inter_student.values[order]
    if not inter.any():
        raise ComparisonError("`predicted` must have some variance; got 0 everywhere")
    if predicted.covariance is None:
        return inter.ravel(), None
    blocks = predicted.covariance.transpose("output", "point", "point_other").values[:, order][:, :, order]
    q = len(blocks)
    whole = np.zeros((len(order), q, len(order), q))
    for output, block in enumerate(blocks):
        whole[:, output, :, output] = block
    return inter.ravel(), whole.reshape(size, size)


def covariance_root(covariance: FloatArray) -> FloatArray:
    """Return a factor F with ``F F' = covariance`` and as many columns as its rank."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > RANGE_TOLERANCE * values[-1]
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def _name(method: str, *, exact: bool) -> str:
    if method == "bootstrap":
        return "students resampled under the null"
    source = "predicted covariance, exact" if exact else "observed correlation"
    return f"Gaussian reference, {source}"
