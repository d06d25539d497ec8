"""A prediction and an observation put side by side: checked, aligned by label, as plain arrays."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.errors import ComparisonError

__all__ = ["Observed", "Pair", "Rank", "observed_arrays", "pair"]

FloatArray = NDArray[np.float64]

#: Eigenvalues below this share of the largest are rounding.
RANK_TOLERANCE = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Rank:
    """How many independent points the correlated (point, output) pairs amount to, and how that is known.

    ``weights`` are the eigenvalues of the covariance of the student means, of sum 1, where they are known.
    """

    value: float
    source: str
    weights: FloatArray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """Sums of squares of an observation, shape (m, q); ``within`` is NaN where each student gave one output."""

    between: FloatArray
    within: FloatArray
    within_se: FloatArray
    df_between: float
    n_replicates: int
    predictions: FloatArray | None
    average_se: Mapping[str, float]
    df_within: float
    rank_within: float | None

    @property
    def left_within_se(self) -> FloatArray:
        """Standard error at each point of the within-student variance that is left in the student means.

        Given each student's true variance, because that is in the variance between as well and cancels.
        """
        if self.df_within > 0:
            return np.asarray(self.within_share * self.within * np.sqrt(2.0 / self.df_within))
        return np.asarray(self.within_share * self.within_se)

    @property
    def left_within_se_of_mean(self) -> float:
        """The same for its mean over points, which are ``rank_within`` independent ones."""
        if self.df_within > 0 and self.rank_within is not None:
            return float(self.within_share * self.within.mean() * np.sqrt(2.0 / (self.df_within * self.rank_within)))
        return self.within_share * self.within_se_of_mean

    @property
    def within_se_of_mean(self) -> float:
        """Standard error of the mean of ``within`` over points: as recorded, else bounded by full correlation."""
        return float(self.average_se.get("intra_student", self.within_se.mean()))

    @property
    def within_share(self) -> float:
        """Part of the within-student variance that is left in the variance of student means."""
        return 1.0 / self.n_replicates if self.n_replicates else 0.0

    @property
    def single_output(self) -> bool:
        """Whether each student gave one output, so that only the total can be tested."""
        return bool(np.isnan(self.within).all())


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """What the tests need; arrays have shape (m, q), in the order of the prediction's points."""

    observed: Observed
    labels: tuple[tuple[Hashable, Hashable], ...]
    inter: FloatArray
    inter_se: FloatArray
    intra: FloatArray
    intra_se: FloatArray
    covariance: FloatArray | None
    exactness: str
    notes: tuple[str, ...]
    rank_given: Rank | None
    average_se: Mapping[str, float]

    @cached_property
    def between(self) -> FloatArray:
        """Variance of the student means, 0 where it is rounding of equal predictions."""
        between, values = self.observed.between, self.observed.predictions
        if values is None:
            return between
        rounding = (8.0 * np.finfo(float).eps * np.abs(values).max(axis=0)) ** 2
        return np.where(between <= rounding, 0.0, between)

    @cached_property
    def expected_between(self) -> FloatArray:
        """Variance of the student means if the predicted inter-student variance is true."""
        if self.observed.single_output:
            return self.inter + self.intra
        return self.inter + self._left_within

    @cached_property
    def expected_between_variance(self) -> FloatArray:
        """Sampling variance of :attr:`expected_between`: Monte Carlo error, and the share of within in it."""
        if self.observed.single_output:
            return np.asarray(self.inter_se**2 + self.intra_se**2)
        return np.asarray(self.inter_se**2 + self.observed.left_within_se**2)

    @property
    def _left_within(self) -> FloatArray:
        return self.observed.within_share * self.observed.within if self.observed.n_replicates else 0.0 * self.inter

    @cached_property
    def expected_mean_variance(self) -> float:
        """Sampling variance of the mean of :attr:`expected_between` over points and outputs."""
        monte_carlo = self.inter_se_of_mean**2
        if not self.observed.n_replicates:
            return monte_carlo
        if self.observed.single_output:
            return monte_carlo + self.intra_se_of_mean**2
        return monte_carlo + self.observed.left_within_se_of_mean**2

    @cached_property
    def inter_se_of_mean(self) -> float:
        """Standard error of the mean of the predicted inter-student variance.

        As recorded by the engine; else ``se^2 = sum se_i^2 / sum C_ii^2 (mean C_ii)^2 / rank``, which holds where
        the relative error is the same at every point.
        """
        if "inter_student" in self.average_se:
            return float(self.average_se["inter_student"])
        square = float((self.inter**2).sum())
        relative = float((self.inter_se**2).sum()) / square if square > 0 else 0.0
        return float(self.inter.mean()) * float(np.sqrt(relative / self.rank.value))

    @property
    def intra_se_of_mean(self) -> float:
        """Standard error of the mean of the predicted intra-student variance: recorded, else a bound."""
        return float(self.average_se.get("intra_student", self.intra_se.mean()))

    @cached_property
    def rank(self) -> Rank:
        """Rank of the covariance of the student means under the null."""
        given = self.rank_given
        if given is None:
            return Rank(value=1.0, source="lower bound 1: no effective_rank is stored")
        if given.source != "predicted" or not self.observed.n_replicates:
            return given
        return self._with_within(given)

    def _with_within(self, given: Rank) -> Rank:
        """Add the left-over variance within, independent between points, to the predicted covariance."""
        extra = self.expected_between - self.inter
        if self.covariance is not None and len(self.covariance) == 1:
            eigenvalues = np.linalg.eigvalsh(self.covariance[0] + np.diag(extra[:, 0]))
            return rank_of(eigenvalues, "predicted") or given
        trace = float(self.inter.sum())
        squares = trace**2 / given.value + float((2.0 * self.inter * extra + extra**2).sum())
        return Rank(value=(trace + float(extra.sum())) ** 2 / squares, source="predicted")


def pair(predicted: VarianceComponents, observed: VarianceComponents) -> Pair:
    """Check that the two can be compared, align the observation to the prediction, take the arrays out.

    Raises
    ------
    ComparisonError
        If either is of the wrong kind, the two are swapped, labels or outputs differ, a grid of cells is
        given, or there are fewer than two students.
    """
    _check_kinds(predicted, observed)
    observed = _aligned(predicted, observed)
    covariance = None if predicted.covariance is None else np.asarray(predicted.covariance.values, dtype=float)
    inter, intra = predicted.inter_student.values, predicted.intra_student.values
    for name, array in (("inter_student", inter), ("intra_student", intra)):
        if not np.isfinite(array).all():
            raise ComparisonError(
                f"`predicted.{name}` must be finite; got {int((~np.isfinite(array)).sum())} values that are not"
            )
    arrays = observed_arrays(observed)
    points, outputs = (
        predicted.inter_student["point"].values.tolist(),
        predicted.inter_student["output"].values.tolist(),
    )
    return Pair(
        observed=arrays,
        labels=tuple((point, output) for point in points for output in outputs),
        inter=inter,
        inter_se=predicted.standard_error["inter_student"].values,
        intra=intra,
        intra_se=predicted.standard_error["intra_student"].values,
        covariance=covariance,
        exactness=predicted.exactness,
        notes=_notes(predicted, observed),
        rank_given=_rank(predicted, observed, arrays, covariance),
        average_se=dict(predicted.attrs.get("average_standard_error") or {}),
    )


def observed_arrays(observed: VarianceComponents) -> Observed:
    """Return the sums of squares of one observation."""
    if observed.n_students is not None and observed.n_students < 2:
        raise ComparisonError(f"`observed` must have at least 2 students to be tested; got {observed.n_students}")
    predictions = observed.student_predictions
    values = (
        None if predictions is None else np.asarray(predictions.transpose("student", "point", "output").values, float)
    )
    if values is not None and len(values) < 2:
        raise ComparisonError(f"`observed` must have at least 2 students to be tested; got {len(values)}")
    squares = observed.mean_squares
    if squares is None:
        raise ComparisonError("`observed` must keep its mean_squares to be tested; got None")
    if observed.attrs.get("not_identified"):
        raise ComparisonError(
            "`observed` must identify inter_student and intra_student to be tested; got one output of each student"
        )
    if "replicates" in squares:
        raise ComparisonError("`observed` must be balanced to be tested; got students with unequal numbers of outputs")
    dims = ("point", "output")
    between = np.asarray(squares["between"].transpose(*dims).values, float)
    if not np.isfinite(between).all():
        raise ComparisonError(
            f"`observed` must be finite; got {int((~np.isfinite(between)).sum())} values that are not"
        )
    df = float(squares.attrs["df_between"])
    if df < 1:
        raise ComparisonError(f"`observed` must have at least 2 students to be tested; got {df + 1:g}")
    rank_within = observed.attrs.get("effective_rank_within")
    within = squares["within"].transpose(*dims).values if "within" in squares else np.full(between.shape, np.nan)
    return Observed(
        between=between,
        within=np.asarray(within, float),
        within_se=np.asarray(observed.standard_error["intra_student"].values, float),
        df_between=df,
        n_replicates=int(squares.attrs.get("n_replicates", 0)),
        predictions=values,
        average_se=dict(observed.attrs.get("average_standard_error") or {}),
        df_within=float(squares.attrs.get("df_within", 0)) if squares.attrs.get("n_replicates", 0) else 0.0,
        rank_within=None if rank_within is None else float(rank_within),
    )


def rank_of(eigenvalues: FloatArray, source: str) -> Rank | None:
    """Return the rank (sum)^2 / sum of squares of a spectrum, None for a spectrum of zeros."""
    kept = eigenvalues[eigenvalues > RANK_TOLERANCE * max(float(eigenvalues.max()), 0.0)]
    if not kept.size or kept.sum() <= 0:
        return None
    weights = np.asarray(kept / kept.sum())
    return Rank(value=float(1.0 / (weights**2).sum()), source=source, weights=weights)


def _check_kinds(predicted: Any, observed: Any) -> None:
    for name, value in (("predicted", predicted), ("observed", observed)):
        if not isinstance(value, VarianceComponents):
            raise ComparisonError(f"`{name}` must be VarianceComponents; got a {type(value).__name__}")
    kinds = (predicted.exactness == "observed", observed.exactness == "observed")
    if kinds == (True, False):
        raise ComparisonError(
            f"`predicted` and `observed` must not be swapped; got an observation ({predicted.engine}) as the "
            f"prediction and a prediction ({observed.engine}) as the observation"
        )
    if kinds == (False, False):
        raise ComparisonError(
            f"`observed` must be an observation; got two predictions ({predicted.engine}, {observed.engine})"
        )
    if kinds == (True, True):
        raise ComparisonError(
            f"`predicted` must be a prediction; got two observations ({predicted.engine}, {observed.engine})"
        )
    for name, value in (("predicted", predicted), ("observed", observed)):
        leading = value.inter_student.dims[:-2]
        if leading:
            raise ComparisonError(
                f"`{name}` must be one cell of a grid; got the leading dims {', '.join(map(str, leading))}"
            )


def _aligned(predicted: VarianceComponents, observed: VarianceComponents) -> VarianceComponents:
    """Return the observation with points in the order of the prediction."""
    theirs, ours = (item.inter_student["output"].values.tolist() for item in (predicted, observed))
    if theirs != ours and len(theirs) == len(ours) == 1:  # one output each: its name says nothing
        observed, ours = _renamed(observed, theirs), theirs
    if theirs != ours:
        raise ComparisonError(f"`observed` must have the outputs of the prediction ({theirs}); got {ours}")
    wanted, given = (list(item.inter_student["point"].values.tolist()) for item in (predicted, observed))
    if wanted == given:
        return observed
    place = {label: index for index, label in enumerate(given)}
    if len(wanted) != len(given):
        counts = f"{len(wanted)} predicted and {len(given)} observed"
        extra = next((label for label in wanted if label not in place), None)
        extra = next((label for label in given if label not in set(wanted)), None) if extra is None else extra
        raise ComparisonError(f"points must be the same; got {counts}, with {extra!r} on one side only")
    for index, label in enumerate(wanted):
        if label not in place:
            raise ComparisonError(
                f"point labels must match; the first that differs is predicted {label!r} at position {index}, "
                f"where the observation has {given[index]!r}"
            )
    order = [place[label] for label in wanted]

    def moved(item: Any) -> Any:
        return None if item is None else item.isel(point=order)

    return VarianceComponents(
        estimate=moved(observed.estimate),
        standard_error=moved(observed.standard_error),
        attrs=observed.attrs,
        mean_squares=moved(observed.mean_squares),
        student_predictions=moved(observed.student_predictions),
    )


def _renamed(observed: VarianceComponents, outputs: list[Any]) -> VarianceComponents:
    def moved(item: Any) -> Any:
        return None if item is None else item.assign_coords(output=outputs)

    return replace(
        observed,
        estimate=moved(observed.estimate),
        standard_error=moved(observed.standard_error),
        mean_squares=moved(observed.mean_squares),
        student_predictions=moved(observed.student_predictions),
    )


def _rank(
    predicted: VarianceComponents, observed: VarianceComponents, arrays: Observed, covariance: FloatArray | None
) -> Rank | None:
    if predicted.attrs.get("covariance_eigenvalues") is not None:
        found = rank_of(np.asarray(predicted.attrs["covariance_eigenvalues"], float).ravel(), "predicted")
    elif covariance is not None and len(covariance) == 1:
        found = rank_of(np.linalg.eigvalsh(covariance[0]), "predicted")
    else:
        found = _rank_attribute(predicted, "predicted")
    if found is None:
        found = _rank_attribute(observed, "observed")
    if found is None and arrays.predictions is not None:
        value = estimated_rank(arrays.predictions.reshape(len(arrays.predictions), -1))
        found = None if value is None else Rank(value=value, source="observed")
    return found


def _rank_attribute(result: VarianceComponents, source: str) -> Rank | None:
    value = result.attrs.get("effective_rank")
    if value is None or np.size(value) != 1 or not np.isfinite(float(np.ravel(value)[0])):
        return None
    return Rank(value=max(1.0, float(np.ravel(value)[0])), source=source)


def estimated_rank(predictions: FloatArray) -> float | None:
    """Return (tr C)^2 / tr C^2 from unbiased estimates of both traces (Gaussian; shape (S, mq))."""
    n = len(predictions) - 1
    centered = predictions - predictions.mean(axis=0)
    gram = centered @ centered.T / n
    trace, square = float(np.trace(gram)), float((gram**2).sum())
    if n < 2 or trace <= 0:
        return None
    unbiased = n * n / ((n - 1) * (n + 2)) * (square - trace**2 / n)
    spread = n / ((n - 1) * (n + 2)) * ((n + 1) * trace**2 - 2.0 * square)
    size = float(predictions.shape[1])
    return float(np.clip(spread / unbiased, 1.0, size)) if unbiased > 0 else size


def _notes(predicted: VarianceComponents, observed: VarianceComponents) -> tuple[str, ...]:
    names = [item.attrs.get("problem") for item in (predicted, observed)]
    if all(name is not None for name in names) and names[0] != names[1]:
        shown = " and ".join(str(name)[:8] for name in names)
        return (f"the two answer different problems (fingerprints {shown})",)
    return ()
