"""Two strategies compared while their students are still being trained, with a right to stop at any time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.errors import ComparisonError
from kdstats.hypotest.evalues import log_evalue_of_groups, ratios_of_margin
from kdstats.hypotest.sequential import Evidence, SequentialResult, one_step_deviations
from kdstats.hypotest.student_space import refuse_sampled_means, student_rows
from kdstats.problem.validation import as_array, as_count, as_number, as_probability

__all__ = ["SequentialRatioTest", "sequential_ratio_test"]

FloatArray = NDArray[np.float64]

#: Share of the pilot students' variance that the chosen directions hold.
PILOT_SHARE = 0.95
#: Default number of pilot students of each strategy.
N_PILOT = 20


class SequentialRatioTest:
    """Test of the ratio of two strategies' inter-student variances that takes students as they come.

    Parameters
    ----------
    directions, n_directions, n_pilot, margin, confidence_level
        As in :func:`sequential_ratio_test`.

    Attributes
    ----------
    result : SequentialResult
        What the students so far decide.
    """

    def __init__(
        self,
        *,
        directions: Any = None,
        n_directions: int | None = None,
        n_pilot: int = N_PILOT,
        margin: float = 1.5,
        confidence_level: float = 0.95,
    ) -> None:
        self.margin = as_number("margin", margin, minimum=1.0, exclusive=True)
        level = as_probability("confidence_level", confidence_level)
        self.n_pilot = as_count("n_pilot", n_pilot, minimum=4)
        self.n_directions = None if n_directions is None else as_count("n_directions", n_directions)
        self._directions: FloatArray | None = None
        if directions is not None:
            given = as_array("directions", directions, ndim=(2, 3))
            self._directions = given.reshape(-1, given.shape[-1])
            if n_directions is not None and n_directions != given.shape[-1]:
                raise ComparisonError(
                    f"`n_directions` must be left out beside `directions`, which are {given.shape[-1]}; "
                    f"got {n_directions}"
                )
        self._log_ratios = ratios_of_margin(self.margin)
        self._evidence = Evidence(margin=self.margin, confidence_level=level)
        self._labels: tuple[list[Any], list[Any]] | None = None
        self._pilot: FloatArray | None = None
        self._n = self._n_pilot_used = 0
        self._mean = self._scatter = np.empty(0)
        self.result = self._result(decided=False)

    def update(self, students_a: Any, students_b: Any) -> SequentialResult:
        """Use further students of both strategies, as many of one as of the other, and return the result so far.

        Parameters
        ----------
        students_a, students_b : VarianceComponents, DataArray or array_like
            Batches as :meth:`SequentialTest.update` takes them, with the same points and outputs.
        """
        _refuse_shared_seeds(students_a, students_b)
        batch = np.stack(self._rows(students_a, students_b), axis=1)
        if self.result.stopped_at is not None:
            return self.result
        batch = self._without_pilot(batch)
        if self._directions is None or not len(batch):
            self.result = self._result(decided=False)
            return self.result
        if len(self._directions) != batch.shape[-1]:
            raise ComparisonError(
                f"`directions` must have a row for each of the {batch.shape[-1]} points and outputs; got "
                f"{len(self._directions)} rows"
            )
        scores = batch @ self._directions
        if not self._n:
            self._mean = np.zeros(scores.shape[1:])
            self._scatter = np.zeros((2, scores.shape[-1], scores.shape[-1]))
        scatter = self._advance(scores)
        logs = log_evalues_of_groups(
            scatter,
            (self._n + np.arange(len(scores))).astype(float),
            log_ratios=self._log_ratios,
            margin=self.margin,
        )
        first = self._evidence.first_decision(logs)
        used = len(scores) if first is None else first + 1
        self._mean = (self._n * self._mean + scores[:used].sum(axis=0)) / (self._n + used)
        self._n += used
        self._scatter = scatter[used - 1]
        self._evidence.keep(logs, used)
        self.result = self._result(decided=first is not None)
        return self.result

    def _rows(self, students_a: Any, students_b: Any) -> tuple[FloatArray, FloatArray]:
        if self._labels is None:
            self._labels = _labels_of(students_a)
        points, outputs = self._labels
        a = student_rows("students_a", students_a, points=points, outputs=outputs)
        b = student_rows("students_b", students_b, points=points, outputs=outputs)
        if len(a) != len(b):
            raise ComparisonError(f"`students_b` must be as many as `students_a`, {len(a)}; got {len(b)}")
        return a, b

    def _without_pilot(self, batch: FloatArray) -> FloatArray:
        """Set the first students aside until they fix the directions; return the others."""
        if self._directions is not None:
            return batch
        if batch.shape[-1] == 1:
            self._directions = np.ones((1, 1))
            return batch
        pilot = batch if self._pilot is None else np.concatenate([self._pilot, batch])
        self._pilot, rest = pilot[: self.n_pilot], pilot[self.n_pilot :]
        self._n_pilot_used = len(self._pilot)
        if len(self._pilot) == self.n_pilot:
            self._directions = _leading_directions(self._pilot, self.n_directions)
        return rest

    def _advance(self, scores: FloatArray) -> FloatArray:
        """Return both scatter matrices after each student, shape (S, 2, r, r)."""
        deviations = np.stack(
            [one_step_deviations(scores[:, g], n_before=self._n, mean_before=self._mean[g]) for g in (0, 1)], axis=1
        )
        return np.asarray(self._scatter + np.cumsum(deviations[..., :, None] * deviations[..., None, :], axis=0))

    def _result(self, *, decided: bool) -> SequentialResult:
        df = np.asarray(float(max(self._n - 1, 0)))
        shares = shares_of(self._scatter) if self._n else np.zeros(1)

        def log_evalue_at(null: float) -> float:
            return float(log_evalue_of_groups(shares, df, df, log_ratios=self._log_ratios, null=null))

        verdict = self._evidence.verdict if decided else "undecided"
        used = self._n + self._n_pilot_used
        return SequentialResult(
            verdict=verdict,
            reason={
                "agree": f"The two strategies have variances within the margin {self.margin:g} of each other.",
                "disagree": "The two strategies have different variances.",
                "undecided": "More students are needed.",
            }[verdict],
            stopped_at=used if decided else None,
            n_students=used,
            ratio=_pooled_ratio(self._scatter) if self._n > 1 else np.nan,
            n_directions=0 if self._directions is None else self._directions.shape[1],
            question="variance of the first over the second strategy",
            exactness="observed",
            _log_evalue_at=log_evalue_at,
            **self._evidence.values(),
        )


def sequential_ratio_test(
    observed_a: Any,
    observed_b: Any,
    *,
    directions: Any = None,
    n_directions: int | None = None,
    n_pilot: int = N_PILOT,
    margin: float = 1.5,
    confidence_level: float = 0.95,
) -> SequentialResult:
    """Test whether two strategies leave the same inter-student variance, stopping when the question is decided.

    No predicted variance is needed: the scale, and the correlation between points, may be anything common to both.

    Parameters
    ----------
    observed_a, observed_b : VarianceComponents or array_like, shape (S, m) or (S, m, q)
        Students of the two strategies, independent of each other, in the order they were trained; of the longer
        list, the students that have no partner are not used.
    directions : array_like, shape (m, r) or (m, q, r), optional
        Fixed combinations of the points that are tested, chosen without looking at these students.
    n_directions : int, optional
        How many directions a pilot chooses. Default: as many as hold 95% of its variance, at most n_pilot/2.
    n_pilot : int, default 20
        First students of each strategy, at least 4, that only choose directions (principal components of their
        pooled covariance) and are not tested. Not used with ``directions``, or with one point.
    margin : float, default 1.5
        Ratios in (1/margin, margin) are close enough; also sets the spread of the prior bet on.
    confidence_level : float, default 0.95
        One minus alpha.

    Returns
    -------
    SequentialResult
        ``ratio`` is the first strategy's variance over the second's.

    Raises
    ------
    ComparisonError
        If points or outputs differ, predictions are missing, or the two share a seed.

    Notes
    -----
    Assumes Gaussian students. Given the pilot, the directions are fixed and later students independent of them; the
    e-value is the likelihood ratio of the eigenvalues of ``(W_a + W_b)^-1 W_a``, whose law does not depend on the
    common covariance (see :mod:`kdstats.hypotest.evalues`), averaged over a prior of the ratio. So the probability of
    ever calling two strategies with the same covariance different is at most alpha exactly, whatever their scale
    and correlation between points, and so is that of calling ratios outside the margin equivalent, provided that
    the two covariances are proportional, as they are when a linear student averages more responses. With
    ``n_directions=1`` nothing is assumed of the shape.

    Examples
    --------
    >>> import numpy as np, kdstats as kd
    >>> rng = np.random.default_rng(1)
    >>> result = kd.sequential_ratio_test(rng.normal(size=(300, 1)), 3.0 * rng.normal(size=(300, 1)))
    >>> result.verdict, result.stopped_at < 50
    ('disagree', True)
    """
    test = SequentialRatioTest(
        directions=directions,
        n_directions=n_directions,
        n_pilot=n_pilot,
        margin=margin,
        confidence_level=confidence_level,
    )
    for name, item in (("observed_a", observed_a), ("observed_b", observed_b)):
        if isinstance(item, VarianceComponents):
            refuse_sampled_means(name, item)
    _refuse_shared_seeds(observed_a, observed_b)
    observed_a, observed_b = (_with_outputs(item) for item in (observed_a, observed_b))
    points, outputs = _labels_of(observed_a)
    a = student_rows("observed_a", observed_a, points=points, outputs=outputs)
    b = student_rows("observed_b", observed_b, points=points, outputs=outputs)
    size, shape = min(len(a), len(b)), (-1, len(points), len(outputs))
    return test.update(a[:size].reshape(shape), b[:size].reshape(shape))


def log_evalues_of_groups(
    scatter: FloatArray, df: FloatArray, *, log_ratios: tuple[float, ...], margin: float
) -> dict[str, FloatArray]:
    """Return the log e-values of scatter matrices (..., 2, r, r) with ``df`` (...) degrees of freedom each."""
    rank = scatter.shape[-1]
    known = np.broadcast_to(2.0 * df > rank, scatter.shape[:-3])
    shares, n = shares_of(scatter[known]), np.broadcast_to(df, known.shape)[known]

    def log_evalue(null: float, alternative: str) -> FloatArray:
        found = np.zeros(known.shape)
        found[known] = log_evalue_of_groups(shares, n, n, log_ratios=log_ratios, null=null, alternative=alternative)
        return found

    return {
        "equality": log_evalue(1.0, "two-sided"),
        "equivalence": np.minimum(log_evalue(margin, "less"), log_evalue(1.0 / margin, "greater")),
        "beyond": np.logaddexp(log_evalue(margin, "greater"), log_evalue(1.0 / margin, "less")) - np.log(2.0),
    }


def shares_of(scatter: FloatArray) -> FloatArray:
    """Return the eigenvalues of ``(W_a + W_b)^-1 W_a``, shape (..., r), of scatter matrices (..., 2, r, r)."""
    one, both = scatter[..., 0, :, :], scatter.sum(axis=-3)
    if scatter.shape[-1] == 1:
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nan_to_num((one / both)[..., 0]), dtype=float)
    found = np.linalg.eigvals(np.linalg.pinv(both, hermitian=True) @ one)
    return np.asarray(np.clip(found.real, 0.0, 1.0))


def _leading_directions(pilot: FloatArray, n_directions: int | None) -> FloatArray:
    """Return principal components of the pilot's pooled covariance, (m q, r); pilot has shape (S, 2, m q)."""
    centered = (pilot - pilot.mean(axis=0)).reshape(-1, pilot.shape[-1])
    _, values, right = np.linalg.svd(centered, full_matrices=False)
    power = np.cumsum(values**2)
    if power[-1] <= 0.0:
        raise ComparisonError("`n_pilot` must reach students that vary; got pilot students that are all equal")
    rank = int((values > 1e-10 * values[0]).sum())
    if n_directions is not None:
        if n_directions > rank:
            raise ComparisonError(f"`n_directions` must be at most the pilot's rank {rank}; got {n_directions}")
        return np.asarray(right[:n_directions].T)
    wanted = int(np.searchsorted(power, PILOT_SHARE * power[-1]) + 1)
    return np.asarray(right[: min(wanted, rank, len(pilot) // 2)].T)


def _pooled_ratio(scatter: FloatArray) -> float:
    """Return the ratio of generalised variances per direction, (|W_a| / |W_b|)^(1/r); NaN where one is singular."""
    (sign_a, log_a), (sign_b, log_b) = (np.linalg.slogdet(matrix) for matrix in scatter)
    if sign_a <= 0 or sign_b <= 0:
        return float("nan")
    return float(np.exp((log_a - log_b) / scatter.shape[-1]))


def _labels_of(students: Any) -> tuple[list[Any], list[Any]]:
    """Return labels of points and outputs, counted from 0 where there are none."""
    if isinstance(students, VarianceComponents):
        labels = students.inter_student
        return labels["point"].values.tolist(), labels["output"].values.tolist()
    shape = np.shape(students)
    if not 1 <= len(shape) <= 3:
        raise ComparisonError(f"`observed_a` must have shape (S, m) or (S, m, q); got {shape}")
    return list(range(shape[1] if len(shape) > 1 else 1)), list(range(shape[2] if len(shape) == 3 else 1))


def _with_outputs(students: Any) -> Any:
    """Return plain arrays of shape (S, m) as (S, m, 1)."""
    if isinstance(students, VarianceComponents) or hasattr(students, "dims") or np.ndim(students) != 2:
        return students
    return np.asarray(students)[:, :, None]


def _refuse_shared_seeds(a: Any, b: Any) -> None:
    if isinstance(a, VarianceComponents) and isinstance(b, VarianceComponents):
        seeds = [item.attrs.get("seed") for item in (a, b)]
        if seeds[0] is not None and seeds[0] == seeds[1]:
            raise ComparisonError(
                "`observed_b` must have students independent of `observed_a`; got the same seed twice (give each its "
                "own `rng`)"
            )
