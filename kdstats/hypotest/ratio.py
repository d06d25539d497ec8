r"""Tests of the ratio of two strategies' variances, for students that share teacher draws and for students that do not.

Averages over points are compared. The average variance :math:`Q` of S students has :math:`(S-1)\rho` degrees of freedom
(Satterthwaite), :math:`\rho = (\mathrm{tr}\,C)^2/\mathrm{tr}\,C^2`, and each strategy has a :math:`\rho` of its own: a
ridge student moves in fewer directions than an ordinary one. :math:`Q_a/Q_b` over the true ratio is then F.

Students that share teacher draws are correlated between strategies. The variance of :math:`\log Q_a/Q_b` is smaller by
the factor 1 - g, :math:`g = 2\kappa/(1/\rho_a + 1/\rho_b)`, :math:`\kappa = \mathrm{tr}(C_{ab}C_{ab}^T)/(\mathrm{tr}\,
C_a\,\mathrm{tr}\,C_b)`, and both degrees of freedom are divided by it. Beside, sums and differences
:math:`U = A/\sqrt\theta + B` and :math:`D = A/\sqrt\theta - B` are uncorrelated exactly if the ratio is
:math:`\theta` (Pitman 1939, Morgan 1939): their correlation is tested, with :math:`(S-1)\rho` pairs in the place
of S-1. It is exact at one point and holds its level for few students, but wants proportional covariances, which F does
not: at several points the larger of the two p-values is given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.estimation import effective_rank as effective_rank_of
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import ComparisonError
from kdstats.hypotest.pairing import observed_arrays
from kdstats.hypotest.ratio_law import ConfidenceInterval
from kdstats.hypotest.student_space import refuse_sampled_means, student_rows, warn_of_shared_seeds
from kdstats.problem.validation import as_choice, as_count, as_flag, as_number, as_probability

__all__ = ["RatioResult", "paired_interval", "ratio_test"]

FloatArray = NDArray[np.float64]

ALTERNATIVES = ("two-sided", "less", "greater")
METHODS = ("normal", "kurtosis", "bootstrap", "permutation")
#: Log ratios farther than this from the estimate end a permutation interval.
FARTHEST = 20.0
#: What is said of observations of one seed.
SHARED = "`observed_b` shares the seed of `observed_a`"
PAIRING = (
    "set `paired=True` if student s of both had the same teacher draws (the same number of responses), else give each "
    "its own `rng`"
)
NO_PAIRING = (
    "give each its own `rng`, for intra-student and total variances are compared as those of independent students"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class RatioResult:
    """Test that two strategies' average variances have a given ratio.

    Attributes
    ----------
    statistic : float
        Average variance of the first strategy over that of the second.
    pvalue : float
        Of ``null_ratio`` against ``alternative``.
    df, df_other : float
        Degrees of freedom of the two averages; of a paired test, of Student's t at ``null_ratio``.
    correlation : float
        Between the strategies' students; NaN where they are not paired.
    effective_rank, effective_rank_other : float
        Independent points that the points amount to for each strategy; NaN where the method needs none.
    method : str
        Law of the statistic, in words.
    """

    component: str
    statistic: float
    pvalue: float
    alternative: str
    null_ratio: float
    df: float
    df_other: float
    correlation: float
    effective_rank: float
    n_students: tuple[int, int]
    paired: bool
    method: str
    _interval: Callable[[float], ConfidenceInterval] = field(repr=False)
    effective_rank_other: float = np.nan

    def confidence_interval(self, confidence_level: float = 0.95) -> ConfidenceInterval:
        """Return the two-sided interval of the true ratio."""
        return self._interval(as_probability("confidence_level", confidence_level))

    def summary(self) -> str:
        """Return a printable account."""
        low, high = self.confidence_interval()
        sizes = " and ".join(str(size) for size in self.n_students)
        pairs = f", paired, correlation {self.correlation:.3f}" if self.paired else ""
        return "\n".join(
            [
                f"ratio of {self.component} variances: {self.statistic:.4g}, 95% interval [{low:.4g}, {high:.4g}]",
                f"p = {self.pvalue:.4g} of a ratio of {self.null_ratio:g} ({self.alternative}); {self.method}",
                f"{sizes} students{pairs}",
            ]
        )

    def __str__(self) -> str:
        return self.summary()


def ratio_test(
    observed_a: VarianceComponents,
    observed_b: VarianceComponents,
    *,
    paired: bool = False,
    component: str = "inter_student",
    null_ratio: float = 1.0,
    alternative: str = "two-sided",
    method: str = "normal",
    effective_rank: float | None = None,
    n_resamples: int = 9999,
    rng: Any = None,
) -> RatioResult:
    """Test the ratio of two strategies' variances, averaged over points and outputs.

    Parameters
    ----------
    observed_a, observed_b : VarianceComponents
        Observations of the two strategies at the same points; with ``student_predictions`` for inter-student variance.
    paired : bool, default False
        Whether student s of one and student s of the other share teacher draws, so that they are correlated.
    component : {"inter_student", "intra_student", "total"}
        What is compared. Only inter-student variance can be paired.
    null_ratio : float, default 1
        First over second variance under the null hypothesis.
    alternative : {"two-sided", "less", "greater"}
        Of the first over the second variance.
    method : {"normal", "kurtosis", "bootstrap", "permutation"}
        Inter-student variance only. ``"normal"``: Gaussian students. ``"kurtosis"``: standard error of the log ratio
        from the spread of the students' squared distances, Student's t. ``"bootstrap"``: the same statistic, its law
        from resampled students (bootstrap-t). ``"permutation"``: students (paired: the two of each pair) exchanged
        between the strategies after centring and scaling by ``null_ratio``.
    effective_rank : float, optional
        Independent points that the query points amount to for either strategy, from a prediction; covariances are then
        taken for proportional. Default: estimated from the students, for each strategy.
    n_resamples : int, default 9999
        Of the bootstrap or permutation.
    rng : int, Generator or None
        Of the bootstrap or permutation.

    Returns
    -------
    RatioResult

    Raises
    ------
    ComparisonError
        Points differ, predictions are missing, replicates were sampled, or pairs of unequal numbers.

    Warns
    -----
    DependentStudentsWarning
        If students of one seed are compared as independent.

    Notes
    -----
    ``"normal"`` is exact at one point, unpaired (F) and paired (t with S-2 degrees of freedom), and uses
    effective degrees of freedom for several (see :mod:`kdstats.hypotest.ratio`), estimated for each strategy, so that
    the covariances between points need not be proportional. With fewer than some ten students the estimates are
    rough: a strategy of three counts as one independent point, which is cautious. Pairs at several points take the
    larger p-value of F and t, and the hull of both intervals. The intra-student and total ratios use standard
    errors of the logarithms and Welch's degrees of freedom: with five students they reject a true null some 10% of
    the time at 5%, with thirty 6% to 9%. The other three methods make no assumption on the law of the students and
    hold their level as S grows.

    Students of kdstats are paired by position where both strategies draw the same number of responses from the same
    seed. With different numbers of responses one seed does not pair them: give each strategy its own.

    References
    ----------
    E. J. G. Pitman, "A note on normal correlation", Biometrika 31, 1939.

    W. A. Morgan, "A test for the significance of the difference between the two variances in a sample from a
    normal bivariate population", Biometrika 31, 1939.

    Examples
    --------
    >>> import kdstats as kd
    >>> problem = kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8)
    >>> one = kd.observe(problem, n_students=200, rng=1)
    >>> five = kd.observe(problem.with_design(n_responses=5, strategy="averaging"), n_students=200, rng=2)
    >>> result = kd.ratio_test(one, five)
    >>> low, high = result.confidence_interval()
    >>> result.pvalue < 1e-10, low < 5 < high
    (True, True)
    """
    as_choice("component", component, COMPONENTS)
    as_choice("alternative", alternative, ALTERNATIVES)
    as_choice("method", method, METHODS)
    null = as_number("null_ratio", null_ratio, minimum=0.0, exclusive=True)
    n_resamples = as_count("n_resamples", n_resamples, minimum=99)
    given = None if effective_rank is None else as_number("effective_rank", effective_rank, minimum=1.0)
    together = as_flag("paired", paired)
    if component != "inter_student":
        if method != "normal" or together:
            raise ComparisonError(
                f"`component` must be 'inter_student' for paired students or another method; got {component!r}"
            )
        _check_points(observed_a, observed_b)
        warn_of_shared_seeds((observed_a, observed_b), f"{SHARED}: {NO_PAIRING}", stacklevel=2)
        return _of_means(observed_a, observed_b, component, null, alternative)
    rows = _rows(observed_a, observed_b)
    if not together:
        warn_of_shared_seeds((observed_a, observed_b), f"{SHARED}: {PAIRING}", stacklevel=2)
    if together and len(rows[0]) != len(rows[1]):
        raise ComparisonError(
            f"`observed_b` must have the students of `observed_a`, {len(rows[0])}, to be paired; got {len(rows[1])}"
        )
    a, b = (item - item.mean(axis=0) for item in rows)
    if min(len(a), len(b)) < MINIMUM[together]:
        raise ComparisonError(
            f"`observed_b` must have at least {MINIMUM[together]} students; got {min(len(a), len(b))}"
        )
    if not (a.any() and b.any()):
        raise ComparisonError(
            "`observed_a` and `observed_b` must vary between students; got students that are all equal"
        )
    if method == "normal":
        return (_paired_normal if together else _normal)(a, b, null, alternative, rank=given)
    resampled = _Resampling(
        a=a, b=b, paired=together, n_resamples=n_resamples, rng=np.random.default_rng(rng), method=method
    )
    return resampled.result(null, alternative)


#: Fewest students of each strategy, unpaired and paired.
MINIMUM = {False: 2, True: 3}


def paired_interval(ratio: float, correlation: float, df: float, confidence_level: float) -> ConfidenceInterval:
    """Return the ratios at which sums and differences are not significantly correlated.

    Parameters
    ----------
    ratio : float
        Observed ratio.
    correlation : float
        Between the two strategies' students.
    df : float
        Degrees of freedom of Student's t.
    confidence_level : float
    """
    from scipy import stats

    t = float(stats.t.ppf(0.5 + confidence_level / 2.0, df))
    share = t**2 / (df + t**2)
    half = (1.0 + share * (1.0 - 2.0 * correlation**2)) / (1.0 - share)
    spread = half + np.sqrt(max(half**2 - 1.0, 0.0))
    return ConfidenceInterval(float(ratio / spread), float(ratio * spread))


def _normal(a: FloatArray, b: FloatArray, null: float, alternative: str, *, rank: float | None = None) -> RatioResult:
    from scipy.special import fdtr, fdtrc

    ranks = own_ranks(a, b) if rank is None else (rank, rank)
    df = ((len(a) - 1) * ranks[0], (len(b) - 1) * ranks[1])
    ratio = float((a**2).sum() / (len(a) - 1) / ((b**2).sum() / (len(b) - 1)))
    return RatioResult(
        component="inter_student",
        statistic=ratio,
        pvalue=_tail(float(fdtr(*df, ratio / null)), float(fdtrc(*df, ratio / null)), alternative),
        alternative=alternative,
        null_ratio=null,
        df=df[0],
        df_other=df[1],
        correlation=np.nan,
        effective_rank=ranks[0],
        effective_rank_other=ranks[1],
        n_students=(len(a), len(b)),
        paired=False,
        method="F, effective degrees of freedom" if a.shape[1] > 1 else "F, exact",
        _interval=lambda level: _f_interval(ratio, df, level),
    )


def _f_interval(ratio: float, df: tuple[float, float], level: float) -> ConfidenceInterval:
    from scipy.special import fdtri

    tail = (1.0 - level) / 2.0
    return ConfidenceInterval(float(ratio / fdtri(*df, 1.0 - tail)), float(ratio / fdtri(*df, tail)))


def _paired_normal(
    a: FloatArray, b: FloatArray, null: float, alternative: str, *, rank: float | None = None
) -> RatioResult:
    pairs = _Pairs.of(a, b, rank)
    several = a.shape[1] > 1
    lower, upper, df = pairs.sums_and_differences(null)
    ranks, method = (1.0, 1.0) if rank is None else (rank, rank), "correlation of sums and differences, Student's t"
    scaled: tuple[float, float] | None = None
    if several and rank is None:
        from scipy.special import fdtr, fdtrc

        ranks = own_ranks(a, b)
        scaled = pairs.scaled_df(ranks)
        x = pairs.ratio / null
        lower, upper = max(lower, float(fdtr(*scaled, x))), max(upper, float(fdtrc(*scaled, x)))
        method += ", and F with each strategy's effective degrees of freedom: the larger p-value"
    else:
        method += ", effective degrees of freedom" if several else ", exact"

    def interval(level: float) -> ConfidenceInterval:
        if scaled is None:
            return paired_interval(pairs.ratio, pairs.correlation, df, level)
        first, second = pairs.interval(level), _f_interval(pairs.ratio, scaled, level)
        return ConfidenceInterval(min(first.low, second.low), max(first.high, second.high))

    return RatioResult(
        component="inter_student",
        statistic=pairs.ratio,
        pvalue=_tail(lower, upper, alternative),
        alternative=alternative,
        null_ratio=null,
        df=df,
        df_other=df,
        correlation=pairs.correlation,
        effective_rank=ranks[0],
        effective_rank_other=ranks[1],
        n_students=(len(a), len(b)),
        paired=True,
        method=method,
        _interval=interval,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """Sums of products of paired students, from which the tests at every ratio follow.

    ``square_a`` is tr S_aa, ``in_a`` tr(S_aa S_aa), ``across`` tr(S_aa S_bb), ``inside`` tr(S_ab S_ba) and ``turned``
    tr(S_ab S_ab), all without division by S-1.
    """

    n: int
    limit: float
    rank: float | None
    square_a: float
    square_b: float
    product: float
    in_a: float
    in_b: float
    across: float
    inside: float
    turned: float

    @classmethod
    def of(cls, a: FloatArray, b: FloatArray, rank: float | None) -> _Pairs:
        """Return them in units in which both strategies vary as much, with the ratio kept in ``square_a``."""
        few = len(a) <= a.shape[1]
        x, y = a / np.sqrt((a**2).sum()), b / np.sqrt((b**2).sum())
        first, second, mixed = (u @ v.T if few else u.T @ v for u, v in ((x, x), (y, y), (x, y)))
        # between students or between points, whichever are fewer: the two kinds of cross product change places
        of_ab, of_aabb = float((mixed**2).sum()), float((first * second).sum())
        return cls(
            n=len(a) - 1,
            limit=float(a.shape[1]),
            rank=rank,
            square_a=float((a**2).sum()),
            square_b=float((b**2).sum()),
            product=float((x * y).sum()),
            in_a=float((first**2).sum()),
            in_b=float((second**2).sum()),
            across=of_ab if few else of_aabb,
            inside=of_aabb if few else of_ab,
            turned=float((mixed * mixed.T).sum()),
        )

    @property
    def ratio(self) -> float:
        """Observed ratio of the averages."""
        return self.square_a / self.square_b

    @property
    def correlation(self) -> float:
        """Between the strategies' students."""
        return self.product

    def sums_and_differences(self, theta: float) -> tuple[float, float, float]:
        """Return lower and upper p-value of a true ratio theta, and the degrees of freedom of t."""
        from scipy.special import stdtr

        x = self.ratio / theta
        df = self.n * (self._rank_of_sums(x) if self.rank is None else self.rank) - 1.0
        across = (x - 1.0) / np.sqrt(max((x + 1.0) ** 2 - 4.0 * self.correlation**2 * x, np.finfo(float).tiny))
        t = across * np.sqrt(df / max(1.0 - across**2, np.finfo(float).tiny))
        return float(stdtr(df, t)), float(stdtr(df, -t)), float(df)

    def _rank_of_sums(self, x: float) -> float:
        """Return ``tr S_UU tr S_DD / tr(S_UU S_DD)``, between 1 and the number of columns.

        It needs no allowance for its error: a correlation that is large by chance comes with a large denominator, for
        both are sums over the same pairs.
        """
        # u_i . d_j is x a_i.a_j - b_i.b_j, symmetric, less sqrt(x) (a_i.b_j - b_i.a_j), antisymmetric
        cross = x**2 * self.in_a + self.in_b - 2.0 * x * self.inside + 2.0 * x * (self.across - self.turned)
        traces = (x + 1.0) ** 2 - 4.0 * x * self.correlation**2
        return self.limit if cross * self.limit <= traces else max(1.0, traces / cross)

    def scaled_df(self, ranks: tuple[float, float]) -> tuple[float, float]:
        """Return degrees of freedom of F that give log F the variance of a log ratio of correlated averages."""
        n = self.n
        # unbiased estimates of tr(C_ab C_ba) and tr C_a tr C_b, as for one strategy
        inside = n**2 / ((n - 1.0) * (n + 2.0)) * (self.inside - 1.0 / n)
        shared = max(0.0, inside / (1.0 - 2.0 * inside / n))
        left = max(1.0 - 2.0 * shared / (1.0 / ranks[0] + 1.0 / ranks[1]), 1e-9)
        return n * ranks[0] / left, n * ranks[1] / left

    def interval(self, level: float) -> ConfidenceInterval:
        """Return the ratios that neither one-sided test of sums and differences rejects."""
        from scipy.optimize import brentq

        tail, centre = (1.0 - level) / 2.0, float(np.log(self.ratio))
        ends = []
        for side, direction in ((1, -1.0), (0, 1.0)):

            def excess(away: float, side: int = side, direction: float = direction) -> float:
                return self.sums_and_differences(float(np.exp(centre + direction * away)))[side] - tail

            far = 1e-3
            while excess(far) > 0.0 and far < FARTHEST:
                far *= 2.0
            ends.append(centre + direction * (far if excess(far) > 0.0 else float(brentq(excess, 0.0, far))))
        return ConfidenceInterval(float(np.exp(ends[0])), float(np.exp(ends[1])))


def own_ranks(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """Return the effective rank of each strategy, less an allowance for the error of both estimates.

    The log ratio has a variance of about ``2 / (n_a rank_a) + 2 / (n_b rank_b)``, n_a and n_b degrees of freedom, whose
    estimate has a relative variance v: each inverse rank has one of about ``4 / (n (n - 1))``. A log ratio studentised
    with it is close to Student's t with 2/v degrees of freedom, whose larger variance is allowed for by the factor
    1 - v. At least 1.
    """
    n = (len(a) - 1.0, len(b) - 1.0)
    ranks = [effective_rank_of(x, df=len(x) - 1) for x in (a, b)]
    parts = [1.0 / (df * rank) for df, rank in zip(n, ranks, strict=True)]
    errors = [4.0 / (df * (df - 1.0)) if df > 1.0 else np.inf for df in n]
    spread = sum(part**2 * error for part, error in zip(parts, errors, strict=True)) / sum(parts) ** 2
    kept = max(0.0, 1.0 - spread)
    return max(1.0, ranks[0] * kept), max(1.0, ranks[1] * kept)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Resampling:
    """Log ratio of average variances with a standard error, and its law from the students themselves."""

    a: FloatArray
    b: FloatArray
    paired: bool
    n_resamples: int
    rng: np.random.Generator
    method: str

    def result(self, null: float, alternative: str) -> RatioResult:
        log_ratio, error, df = (float(part[0]) for part in self._estimate(self._weights(None)))
        if self.method == "permutation":
            pvalue, interval = self._permutation(null, alternative, log_ratio)
        else:
            law = self._law(log_ratio, df)
            z = (log_ratio - np.log(null)) / error
            pvalue = _tail(law.lower(z), law.upper(z), alternative)

            def interval(level: float) -> ConfidenceInterval:
                tail = (1.0 - level) / 2.0
                high, low = (log_ratio - law.quantile(q) * error for q in (tail, 1.0 - tail))
                return ConfidenceInterval(float(np.exp(low)), float(np.exp(high)))

        correlation = np.nan
        if self.paired:
            correlation = float((self.a * self.b).sum() / np.sqrt((self.a**2).sum() * (self.b**2).sum()))
        return RatioResult(
            component="inter_student",
            statistic=float(np.exp(log_ratio)),
            pvalue=pvalue,
            alternative=alternative,
            null_ratio=null,
            df=df,
            df_other=df,
            correlation=correlation,
            effective_rank=np.nan,
            n_students=(len(self.a), len(self.b)),
            paired=self.paired,
            method=METHOD_NAMES[self.method],
            _interval=interval,
        )

    def _weights(self, n: int | None) -> tuple[FloatArray, FloatArray]:
        """Return how often each student counts: once, or as ``n`` bootstrap samples have it; shape (n, S)."""
        sizes = (len(self.a), len(self.b))
        if n is None:
            return np.ones((1, sizes[0])), np.ones((1, sizes[1]))
        first = self.rng.multinomial(sizes[0], np.full(sizes[0], 1.0 / sizes[0]), size=n).astype(float)
        if self.paired:
            return first, first
        return first, self.rng.multinomial(sizes[1], np.full(sizes[1], 1.0 / sizes[1]), size=n).astype(float)

    def _estimate(self, weights: tuple[FloatArray, FloatArray]) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return log ratio, standard error and degrees of freedom, one per row of weights."""
        parts = [_distances(x, w) for x, w in zip((self.a, self.b), weights, strict=True)]
        (mean_a, share_a), (mean_b, share_b) = ((d.mean, d.share) for d in parts)
        n_a, n_b = len(self.a), len(self.b)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_ratio = np.log(mean_a / mean_b)
            if self.paired:
                variance = (weights[0] * (share_a - share_b) ** 2).sum(axis=1) / (n_a - 1.0) / n_a
                return log_ratio, np.sqrt(variance), np.full(len(variance), n_a - 1.0)
            of_a, of_b = (
                (w * (share - 1.0) ** 2).sum(axis=1) / (n - 1.0) / n
                for w, share, n in ((weights[0], share_a, n_a), (weights[1], share_b, n_b))
            )
            df = (of_a + of_b) ** 2 / (of_a**2 / (n_a - 1.0) + of_b**2 / (n_b - 1.0))
        return log_ratio, np.sqrt(of_a + of_b), df

    def _law(self, log_ratio: float, df: float) -> _Law:
        from scipy import stats

        if self.method == "kurtosis":
            t = stats.t(df)
            return _Law(
                lower=lambda z: float(t.cdf(z)), upper=lambda z: float(t.sf(z)), quantile=lambda q: float(t.ppf(q))
            )
        values, errors, _ = self._estimate(self._weights(self.n_resamples))
        with np.errstate(invalid="ignore", divide="ignore"):
            z = (values - log_ratio) / errors
        z = np.sort(z[np.isfinite(z)])
        size = z.size + 1.0
        return _Law(
            lower=lambda x: float((np.searchsorted(z, x, side="right") + 1) / size),
            upper=lambda x: float((z.size - np.searchsorted(z, x, side="left") + 1) / size),
            quantile=lambda q: float(np.quantile(z, q)),
        )

    def _permutation(
        self, null: float, alternative: str, log_ratio: float
    ) -> tuple[float, Callable[[float], ConfidenceInterval]]:
        from scipy import stats

        squares = [(x**2).sum(axis=1) * len(x) / (len(x) - 1.0) for x in (self.a, self.b)]
        seed = int(self.rng.integers(2**63))

        def statistic(x: FloatArray, y: FloatArray, axis: int = -1) -> FloatArray:
            return np.asarray(np.log(x.mean(axis=axis) / y.mean(axis=axis)))

        def pvalue(ratio: float, side: str) -> float:
            found = stats.permutation_test(
                (squares[0] / ratio, squares[1]),
                statistic,
                permutation_type="samples" if self.paired else "independent",
                vectorized=True,
                n_resamples=self.n_resamples,
                alternative=side,
                rng=np.random.default_rng(seed),
            )
            return float(found.pvalue)

        def interval(level: float) -> ConfidenceInterval:
            tail = (1.0 - level) / 2.0
            ends = []
            for direction, side in ((-1.0, "greater"), (1.0, "less")):
                inside, outside = 0.0, 0.5
                while outside < FARTHEST and pvalue(float(np.exp(log_ratio + direction * outside)), side) > tail:
                    inside, outside = outside, 2.0 * outside
                for _ in range(12):
                    middle = (inside + outside) / 2.0
                    far = pvalue(float(np.exp(log_ratio + direction * middle)), side) > tail
                    inside, outside = (middle, outside) if far else (inside, middle)
                ends.append(float(np.exp(log_ratio + direction * outside)))
            return ConfidenceInterval(*ends)

        return pvalue(null, alternative), interval


METHOD_NAMES = {
    "kurtosis": "log ratio, standard error from the students' squared distances",
    "bootstrap": "log ratio, bootstrap-t over students",
    "permutation": "log ratio, students exchanged between the strategies",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Law:
    """Law of a studentised statistic."""

    lower: Callable[[float], float]
    upper: Callable[[float], float]
    quantile: Callable[[float], float]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Distances:
    """Average variance, shape (n,), and each student's squared distance over the mean one, shape (n, S)."""

    mean: FloatArray
    share: FloatArray


def _distances(x: FloatArray, weights: FloatArray) -> _Distances:
    size = len(x)
    centres = weights @ x / size
    squares = (x**2).sum(axis=1) - 2.0 * centres @ x.T + (centres**2).sum(axis=1)[:, None]
    mean = (weights * squares).sum(axis=1) / size
    with np.errstate(divide="ignore", invalid="ignore"):
        return _Distances(mean=mean * size / (size - 1.0), share=squares / mean[:, None])


def _of_means(
    observed_a: VarianceComponents, observed_b: VarianceComponents, component: str, null: float, alternative: str
) -> RatioResult:
    """Compare average intra-student or total variances by the standard errors of their logarithms."""
    from scipy import stats

    both = [observed_arrays(item) for item in (observed_a, observed_b)]
    if any(item.single_output for item in both):
        raise ComparisonError(
            f"`component` must be 'inter_student' where each student gave one output; got {component!r}"
        )
    means = [float(getattr(item, component).mean()) for item in (observed_a, observed_b)]
    if min(means) <= 0.0:
        raise ComparisonError(f"`component` must have positive variance in both; got {min(means):.4g}")
    errors = [
        float(item.average_se.get(component, observed.standard_error[component].mean())) / mean
        for item, observed, mean in zip(both, (observed_a, observed_b), means, strict=True)
    ]
    sizes = [item.df_between for item in both]
    variance = sum(error**2 for error in errors)
    if variance == 0.0:
        raise ComparisonError(f"`component` must vary between students to be compared; got {component} without spread")
    df = variance**2 / sum(error**4 / size for error, size in zip(errors, sizes, strict=True))
    ratio, law = means[0] / means[1], stats.t(df)
    z = float(np.log(ratio / null) / np.sqrt(variance))

    def interval(level: float) -> ConfidenceInterval:
        half = float(law.ppf(0.5 + level / 2.0) * np.sqrt(variance))
        return ConfidenceInterval(ratio * float(np.exp(-half)), ratio * float(np.exp(half)))

    return RatioResult(
        component=component,
        statistic=ratio,
        pvalue=_tail(float(law.cdf(z)), float(law.sf(z)), alternative),
        alternative=alternative,
        null_ratio=null,
        df=float(df),
        df_other=float(df),
        correlation=np.nan,
        effective_rank=np.nan,
        n_students=(int(sizes[0]) + 1, int(sizes[1]) + 1),
        paired=False,
        method="log ratio, Welch's t over students",
        _interval=interval,
    )


def _rows(observed_a: Any, observed_b: Any) -> tuple[FloatArray, FloatArray]:
    _check_points(observed_a, observed_b)
    for name, item in (("observed_a", observed_a), ("observed_b", observed_b)):
        refuse_sampled_means(name, item)
    labels = {
        "points": observed_a.inter_student["point"].values.tolist(),
        "outputs": observed_a.inter_student["output"].values.tolist(),
    }
    return student_rows("observed_a", observed_a, **labels), student_rows("observed_b", observed_b, **labels)


def _check_points(observed_a: Any, observed_b: Any) -> None:
    for name, item in (("observed_a", observed_a), ("observed_b", observed_b)):
        if not isinstance(item, VarianceComponents):
            raise ComparisonError(f"`{name}` must be VarianceComponents; got a {type(item).__name__}")
        if item.exactness != "observed":
            raise ComparisonError(f"`{name}` must be an observation; got a prediction ({item.engine})")
    labels = [sorted(map(repr, item.inter_student["point"].values.tolist())) for item in (observed_a, observed_b)]
    if labels[0] != labels[1]:
        raise ComparisonError("`observed_b` must have the points of `observed_a`; got others")


def _tail(lower: float, upper: float, alternative: str) -> float:
    if alternative == "two-sided":
        return min(1.0, 2.0 * min(lower, upper))
    return lower if alternative == "less" else upper
