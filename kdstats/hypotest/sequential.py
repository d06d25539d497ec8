"""Tests that may be looked at after every student, and stopped when the question is decided."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.errors import ComparisonError
from kdstats.hypotest.covariance import OUTSIDE_TOLERANCE
from kdstats.hypotest.evalues import (
    Prior,
    log_evalue,
    log_evalue_one_sided,
    log_evalue_unknown_scale,
    log_mean,
    null_bounds,
    prior_of_margin,
)
from kdstats.hypotest.ratio_law import ConfidenceInterval
from kdstats.hypotest.student_space import predicted_space
from kdstats.problem.validation import as_choice, as_count, as_number, as_probability

__all__ = ["Evidence", "SequentialResult", "SequentialTest", "log_evalues", "sequential_test"]

FloatArray = NDArray[np.float64]

SCALES = ("predicted", "unknown")
INEXACT = ("approximate", "asymptotic")
#: The three e-processes of a test, in the order they are printed.
PROCESSES = ("equality", "equivalence", "beyond")
WIDTH = 86
PROMISE = (
    "Level: a wrong decision at any time is at most as probable as one minus the confidence level, for Gaussian "
    "students. Not for heavier tails: of 1,000 Laplace students (excess kurtosis 3), looked at one by one, 35% to 40% "
    "of runs ever rejected a true prediction at 95%, and 13% to 20% showed equivalence at the margin; of exponential "
    "ones up to 70% and 35%."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SequentialResult:
    """What the students seen so far decide.

    Attributes
    ----------
    verdict : {"agree", "disagree", "undecided"}
        Of the first moment at which something was decided; ``reason`` puts it in words.
    evalue : float
        Evidence against equality (``scale="unknown"``: against a covariance of the predicted shape). A bet that
        returns at most 1 on average if the null is true; 1/alpha rejects at alpha.
    evalue_equivalence : float
        The smaller of the two e-values against a ratio beyond either margin; 1/alpha shows equivalence.
    evalue_beyond : float
        Evidence against a ratio within the margin.
    pvalue : float
        One over the largest ``evalue`` so far: a p-value at any stopping time.
    stopped_at : int or None
        Number of students that decided, None while undecided; between two strategies, of each.
    n_students : int
        Students used (of each strategy): later ones are ignored.
    ratio : float
        Observed over predicted variance, or of the first over the second strategy, averaged over directions.
    n_directions : int
        Directions, or points, that are tested.
    question : str
        What is tested, in words.
    history : mapping
        ``equality``, ``equivalence``, ``beyond``: natural log of the e-value after each student.
    """

    verdict: str
    reason: str
    evalue: float
    evalue_equivalence: float
    evalue_beyond: float
    pvalue: float
    stopped_at: int | None
    n_students: int
    ratio: float
    n_directions: int
    margin: float
    confidence_level: float
    question: str
    exactness: str
    history: Mapping[str, FloatArray] = field(repr=False)
    _log_evalue_at: Callable[[float], float] = field(repr=False)

    def confidence_interval(self, confidence_level: float | None = None) -> ConfidenceInterval:
        """Return an interval of the true ratio that holds its coverage at any stopping time."""
        level = self.confidence_level if confidence_level is None else confidence_level
        level = as_probability("confidence_level", level)
        return ConfidenceInterval(*null_bounds(self._log_evalue_at, start=self.ratio, significance=1.0 - level))

    def summary(self) -> str:
        """Return a printable account."""
        low, high = self.confidence_interval()
        rows = [
            ("against equality", self.evalue),
            ("against a ratio beyond the margin", self.evalue_equivalence),
            ("against a ratio within the margin", self.evalue_beyond),
        ]
        stop = "not decided yet" if self.stopped_at is None else f"decided by student {self.stopped_at}"
        head = [
            f"Sequential test: {self.question}".center(WIDTH).rstrip(),
            "=" * WIDTH,
            f"Students used: {self.n_students} ({stop}); directions tested: {self.n_directions}",
            f"Ratio of variances: {self.ratio:.4g}, any-time {self.confidence_level:.0%} interval "
            f"[{low:.4g}, {high:.4g}]; margin {self.margin:g}",
            "-" * WIDTH,
        ]
        table = [f"E-value {name:<40}{value:>14.4g}" for name, value in rows]
        limit = f"(an e-value of {1.0 / (1.0 - self.confidence_level):.4g} or more rejects)"
        verdict = f"Verdict: {self.verdict.upper()}. {self.reason}"
        return "\n".join([*head, *table, limit, "=" * WIDTH, verdict, *textwrap.wrap(PROMISE, WIDTH)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the history as plain numbers and strings (valid JSON: None for infinity)."""
        kept = (item.name for item in fields(self) if item.name != "history" and not item.name.startswith("_"))
        found = {name: _plain(getattr(self, name)) for name in kept}
        return {**found, "ratio_interval": [_plain(end) for end in self.confidence_interval()]}

    def __str__(self) -> str:
        return self.summary()


@dataclass(kw_only=True, eq=False)
class Evidence:
    """The e-processes so far, and what they decide.

    Parameters
    ----------
    margin, confidence_level
        As in :func:`sequential_test`.
    against : {"equality", "beyond"}
        The e-process that refutes.
    shows : bool
        Whether equivalence can be shown.
    """

    margin: float
    confidence_level: float
    against: str = "equality"
    shows: bool = True
    found: dict[str, FloatArray] = field(default_factory=lambda: {name: np.empty(0) for name in PROCESSES})

    def first_decision(self, logs: Mapping[str, FloatArray]) -> int | None:
        """Return the index of the first student after whom something is decided."""
        hits = np.flatnonzero(np.any(list(self._decided(logs).values()), axis=0))
        return int(hits[0]) if hits.size else None

    def keep(self, logs: Mapping[str, FloatArray], n: int) -> None:
        """Append the first ``n`` of further e-values."""
        self.found = {name: np.concatenate([old, logs[name][:n]]) for name, old in self.found.items()}

    @property
    def verdict(self) -> str:
        """What the last student decided."""
        logs = {name: values[-1:] for name, values in self.found.items()}
        decided = self._decided(logs)
        return next((name for name, hit in decided.items() if hit.any()), "undecided")

    def values(self) -> dict[str, Any]:
        """Return the fields of a result that are read off the e-processes."""
        logs = {name: float(values[-1]) if len(values) else 0.0 for name, values in self.found.items()}
        with np.errstate(over="ignore"):
            evalues = {name: float(np.exp(value)) for name, value in logs.items()}
        return {
            "evalue": evalues["equality"],
            "evalue_equivalence": evalues["equivalence"],
            "evalue_beyond": evalues["beyond"],
            "pvalue": float(np.exp(-self.found["equality"].max(initial=0.0))),
            "history": MappingProxyType(self.found),
            "margin": self.margin,
            "confidence_level": self.confidence_level,
        }

    def _decided(self, logs: Mapping[str, FloatArray]) -> dict[str, NDArray[np.bool_]]:
        limit = -float(np.log(1.0 - self.confidence_level))
        agree = {"agree": logs["equivalence"] >= limit} if self.shows else {}
        return agree | {"disagree": logs[self.against] >= limit}


class SequentialTest:
    """Test of a prediction that takes students as they come.

    Parameters
    ----------
    predicted : VarianceComponents
        Without Monte Carlo error. With its ``covariance`` (``kd.predict(problem, covariance=True)``) the test uses
        every direction in which students vary; without, it bets on each point separately.
    margin, confidence_level, scale, n_directions, n_replicates
        As in :func:`sequential_test`.

    Attributes
    ----------
    result : SequentialResult
        What the students so far decide.

    Examples
    --------
    >>> import numpy as np, kdstats as kd
    >>> test = kd.SequentialTest(kd.predict(kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8)))
    >>> rng = np.random.default_rng(1)
    >>> while test.result.verdict == "undecided":
    ...     _ = test.update(rng.normal(scale=2.0, size=1))
    >>> test.result.verdict  # the standard deviation is 2 and not the square root of a half
    'disagree'
    """

    def __init__(
        self,
        predicted: VarianceComponents,
        *,
        margin: float = 1.5,
        confidence_level: float = 0.95,
        scale: str = "predicted",
        n_directions: int | None = None,
        n_replicates: int = 0,
    ) -> None:
        self.margin = as_number("margin", margin, minimum=1.0, exclusive=True)
        level = as_probability("confidence_level", confidence_level)
        self.scale = as_choice("scale", scale, SCALES)
        self.n_replicates = as_count("n_replicates", n_replicates, minimum=0)
        self._prior = prior_of_margin(self.margin)
        self._space = predicted_space(predicted, n_directions, self.n_replicates)
        self.exactness = predicted.exactness
        self._inexact = self.exactness in INEXACT and scale == "predicted"
        if self.scale == "unknown" and (self._space.rank < 2 or not self._space.independent):
            got = "1" if self._space.rank < 2 else f"a prediction of {self._space.rank} points without a covariance"
            raise ComparisonError(
                f"`scale` must be 'predicted' where fewer than 2 independent directions are predicted; got {got}"
            )
        self._evidence = Evidence(
            margin=self.margin,
            confidence_level=level,
            against="beyond" if self._inexact else "equality",
            shows=self.scale == "predicted",
        )
        self._mean = np.zeros(self._space.whitening.shape[0])
        self._squares = np.zeros(self._space.rank)
        self._outside = self._total = 0.0
        self._n = 0
        self.result = self._result(decided=False)

    def update(self, students: Any) -> SequentialResult:
        """Use further students, up to the one that decides, and return the result so far.

        Parameters
        ----------
        students : VarianceComponents, DataArray or array_like
            An observation with ``student_predictions``; an array with dims point, output and optionally student; one
            student's predictions, shape (m,) or (m, q); or a batch, shape (S, m, q).
        """
        batch = self._space.rows(students, self.n_replicates)
        if self.result.stopped_at is not None:
            return self.result
        squares, outside, total = self._advance(batch)
        logs = self._logs(squares, outside, total)
        first = self._evidence.first_decision(logs)
        used = len(batch) if first is None else first + 1
        self._mean = (self._n * self._mean + batch[:used].sum(axis=0)) / (self._n + used)
        self._n += used
        self._squares, self._outside, self._total = squares[used - 1], float(outside[used - 1]), float(total[used - 1])
        self._evidence.keep(logs, used)
        self.result = self._result(decided=first is not None)
        return self.result

    def _advance(self, batch: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return sums of squares after each student: of each direction, outside the range, and of everything."""
        deviations = one_step_deviations(batch, n_before=self._n, mean_before=self._mean)
        scores = deviations @ self._space.whitening
        outside = ((deviations - (deviations @ self._space.range) @ self._space.range.T) ** 2).sum(axis=1)
        return (
            self._squares + np.cumsum(scores**2, axis=0),
            self._outside + np.cumsum(outside),
            self._total + np.cumsum((deviations**2).sum(axis=1)),
        )

    def _logs(self, squares: FloatArray, outside: FloatArray, total: FloatArray) -> dict[str, FloatArray]:
        df = (self._n + np.arange(len(squares))).astype(float)
        independent = self._space.independent
        found = log_evalues(
            squares, df, prior=self._prior, margin=self.margin, scale=self.scale, independent=independent
        )
        found["equality"] = np.where(outside > OUTSIDE_TOLERANCE * total, np.inf, found["equality"])
        return found

    def _result(self, *, decided: bool) -> SequentialResult:
        squares, df, prior = self._squares, max(self._n - 1, 0), self._prior
        independent = self._space.independent

        def log_evalue_at(null: float) -> float:
            return float(_log_equality(squares, np.asarray(float(df)), prior=prior, null=null, independent=independent))

        verdict = self._evidence.verdict if decided else "undecided"
        values = self._evidence.values()
        return SequentialResult(
            verdict=verdict,
            reason=self._reason(verdict, violated=bool(np.isinf(values["evalue"])) and not self._inexact),
            stopped_at=self._n if decided else None,
            n_students=self._n,
            ratio=float(squares.mean() / df) if df else np.nan,
            n_directions=self._space.rank,
            question=QUESTIONS[self.scale],
            exactness=self.exactness,
            _log_evalue_at=log_evalue_at,
            **values,
        )

    def _reason(self, verdict: str, *, violated: bool) -> str:
        if verdict == "agree":
            return f"The ratio lies within the margin {self.margin:g}."
        if verdict == "undecided":
            return "More students are needed."
        if violated and self._outside > OUTSIDE_TOLERANCE * self._total:
            return "There is variance where none is predicted."
        if self.scale == "unknown":
            return "The covariance does not have the predicted shape, whatever its scale."
        return f"The ratio lies beyond the margin {self.margin:g}." if self._inexact else "The ratio is not 1."


QUESTIONS = {
    "predicted": "observed against predicted variance",
    "unknown": "shape of the covariance, at any scale",
}


def sequential_test(
    predicted: VarianceComponents,
    students: Iterable[Any],
    *,
    margin: float = 1.5,
    confidence_level: float = 0.95,
    scale: str = "predicted",
    n_directions: int | None = None,
    n_replicates: int = 0,
) -> SequentialResult:
    """Test a prediction on students one after another, stopping when the question is decided.

    Parameters
    ----------
    predicted : VarianceComponents
        Without Monte Carlo error; best with its ``covariance`` (``kd.predict(problem, covariance=True)``).
    students : iterable
        Students or batches of them, each as :meth:`SequentialTest.update` takes it; read no further than needed. An
        observation that keeps its ``student_predictions`` may be given itself: its students are taken in their order.
    margin : float, default 1.5
        Ratios in (1/margin, margin) are close enough; also sets the spread of the prior bet on.
    confidence_level : float, default 0.95
        One minus alpha.
    scale : {"predicted", "unknown"}
        ``"unknown"`` tests the shape of the covariance alone, known up to a common factor.
    n_directions : int, optional
        Leading eigenvectors of the predicted covariance to use, over all outputs. Default: its whole range.
    n_replicates : int, default 0
        Outputs averaged into each student's prediction; the predicted intra-student variance over it is then part of
        the prediction. 0: each student's own mean is known.

    Returns
    -------
    SequentialResult

    Raises
    ------
    ComparisonError
        If the prediction has Monte Carlo error, or students have other points or outputs.

    Notes
    -----
    Assumes independent Gaussian students at the predicted variance times a common ratio (see
    :mod:`kdstats.hypotest.evalues`); their mean is not assumed. Whatever the stopping rule, an exact prediction that
    is true is called "disagree" with probability at most alpha, and a ratio outside the margin "agree" with
    probability at most alpha (both by Ville's inequality, 1939), for any number of students and any correlation of
    points:

    * With a predicted covariance the r directions of its range are whitened. They are predicted, not estimated, so
      that S students have exactly r(S-1) degrees of freedom. Outputs are independent, as a Gaussian teacher's are.
    * Without one, each point has an e-value of its own and the bet is their average, which is a martingale whatever
      the unknown correlation. It gains nothing from a second point that says the same.

    An estimated effective rank is used in neither: degrees of freedom that depend on the students being tested would
    make the e-value no longer a fair bet. Where directions have differing ratios, "agree" says that not all of them
    are beyond the margin on one side.

    An approximate or asymptotic prediction is not expected to be exactly right: it is refuted only beyond the margin.
    For students that are not Gaussian the guarantee is approximate: heavy tails make it reject too often.

    References
    ----------
    J. Ville, "Étude critique de la notion de collectif", 1939.

    Examples
    --------
    >>> import kdstats as kd
    >>> problem = kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8)
    >>> seen = kd.observe(problem, n_students=400, rng=1)
    >>> result = kd.sequential_test(kd.predict(problem), seen)
    >>> result.verdict, result.stopped_at < 400
    ('agree', True)
    """
    test = SequentialTest(
        predicted,
        margin=margin,
        confidence_level=confidence_level,
        scale=scale,
        n_directions=n_directions,
        n_replicates=n_replicates,
    )
    if isinstance(students, VarianceComponents):
        return test.update(students)
    if not isinstance(students, Iterable):
        raise ComparisonError(f"`students` must be an iterable of predictions; got a {type(students).__name__}")
    for batch in students:
        if test.update(batch).stopped_at is not None:
            break
    return test.result


def one_step_deviations(batch: FloatArray, *, n_before: int, mean_before: FloatArray) -> FloatArray:
    """Return each student's deviation from the mean of those before it, scaled to the variance of one student.

    Times sqrt((s-1)/s) the deviation of student s is independent of all earlier ones (Helmert); the first is 0.
    """
    order = n_before + np.arange(1, len(batch) + 1)
    sums = n_before * mean_before + np.cumsum(batch, axis=0)
    before = np.vstack([n_before * mean_before, sums[:-1]]) / np.maximum(order - 1, 1)[:, None]
    return np.asarray(np.sqrt((order - 1) / order)[:, None] * (batch - before))


def log_evalues(
    squares: FloatArray,
    df: FloatArray,
    *,
    prior: Prior,
    margin: float,
    scale: str = "predicted",
    independent: bool = True,
) -> dict[str, FloatArray]:
    """Return the log e-values of squares (..., r) with ``df`` (...) degrees of freedom in each direction."""
    values = {
        (side, end): _combined(
            lambda q, n, side=side, end=end: log_evalue_one_sided(q, n, prior=prior, boundary=end, alternative=side),
            squares,
            df,
            independent=independent,
        )
        for side, end in (("less", margin), ("greater", 1.0 / margin), ("greater", margin), ("less", 1.0 / margin))
    }
    if scale == "predicted":
        equality = _log_equality(squares, df, prior=prior, null=1.0, independent=independent)
    else:
        seen = squares.sum(axis=-1) > 0.0
        equality = np.zeros(seen.shape)
        equality[seen] = log_evalue_unknown_scale(squares[seen], df[seen], prior=prior)
    return {
        "equality": equality,
        "equivalence": np.minimum(values["less", margin], values["greater", 1.0 / margin]),
        "beyond": np.logaddexp(values["greater", margin], values["less", 1.0 / margin]) - np.log(2.0),
    }


def _log_equality(squares: FloatArray, df: FloatArray, *, prior: Prior, null: float, independent: bool) -> FloatArray:
    return _combined(lambda q, n: log_evalue(q, n, prior=prior, null=null), squares, df, independent=independent)


def _combined(
    log_of: Callable[..., FloatArray], squares: FloatArray, df: FloatArray, *, independent: bool
) -> FloatArray:
    """Pool the sums of squares of independent directions; average the e-values of others."""
    if independent:
        return log_of(squares.sum(axis=-1), df * squares.shape[-1])
    return log_mean(log_of(squares, df[..., None]), axis=-1)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
