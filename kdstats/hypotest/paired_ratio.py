r"""Law of the ratio of average variances of Gaussian students that share teacher draws.

Students that share teacher draws are correlated between strategies. The variance of :math:`\log Q_a/Q_b` is smaller by
the factor 1 - g, :math:`g = 2\kappa/(1/\rho_a + 1/\rho_b)`, :math:`\kappa = \mathrm{tr}(C_{ab}C_{ab}^T)/(\mathrm{tr}\,
C_a\,\mathrm{tr}\,C_b)`, and both degrees of freedom of F are divided by it. Beside, sums and differences
:math:`U = A/\sqrt\theta + B` and :math:`D = A/\sqrt\theta - B` are uncorrelated exactly if the ratio is
:math:`\theta` (Pitman 1939, Morgan 1939): their correlation is tested, with :math:`(S-1)\rho` pairs in the place
of S-1. It is exact at one point and holds its level for few students, but wants proportional covariances, which F does
not: at several points the larger of the two p-values is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdstats.hypotest.ratio_law import ConfidenceInterval
from kdstats.hypotest.ratio_result import RatioResult, gaussian_level, tail
from kdstats.hypotest.unpaired_ratio import f_interval, sample_ranks

__all__ = ["FARTHEST", "paired_interval", "paired_ratio"]

FloatArray = NDArray[np.float64]

#: Log ratios farther than this from the estimate end an interval.
FARTHEST = 20.0


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


def paired_ratio(
    a: FloatArray, b: FloatArray, null: float, alternative: str, *, rank: float | None = None
) -> RatioResult:
    """Test the ratio of the average variances of centred pairs, each of shape (S, P)."""
    pairs = _Pairs.of(a, b, rank)
    several = a.shape[1] > 1
    lower, upper, df = pairs.sums_and_differences(null)
    ranks, method = (
        (1.0, 1.0) if rank is None else (rank, rank),
        "correlation of sums and differences, Student's t",
    )
    scaled: tuple[float, float] | None = None
    if several and rank is None:
        from scipy.special import fdtr, fdtrc

        ranks = sample_ranks(a, b)
        scaled = pairs.scaled_df(ranks)
        x = pairs.ratio / null
        lower, upper = max(lower, float(fdtr(*scaled, x))), max(upper, float(fdtrc(*scaled, x)))
        method += ", and F with each strategy's effective degrees of freedom: the larger p-value"
    else:
        method += ", effective degrees of freedom" if several else ", exact"

    def interval(level: float) -> ConfidenceInterval:
        if scaled is None:
            return paired_interval(pairs.ratio, pairs.correlation, df, level)
        first, second = pairs.interval(level), f_interval(pairs.ratio, scaled, level)
        return ConfidenceInterval(min(first.low, second.low), max(first.high, second.high))

    return RatioResult(
        component="inter_student",
        statistic=pairs.ratio,
        pvalue=tail(lower, upper, alternative),
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
        coverage=gaussian_level(
            ((len(a) - 1) * ranks[0], (len(b) - 1) * ranks[1]),
            (len(a), len(b)),
            several=several,
            correlation=pairs.correlation,
        ),
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
