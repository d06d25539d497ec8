r"""Law of the ratio of average variances of independent Gaussian students: F with the effective ranks of both.

The average variance of S students has :math:`(S-1)\rho` degrees of freedom (Satterthwaite), :math:`\rho =
(\mathrm{tr}\,C)^2/\mathrm{tr}\,C^2`. Where no prediction gives it, :math:`\rho` is the ratio of the traces of the
sample covariance as it stands, at most S-1: what makes the test cautious with few students, and the consistent estimate
reject too often.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdstats.components.kernels import frobenius_square
from kdstats.hypotest.ratio_law import ConfidenceInterval
from kdstats.hypotest.ratio_result import RatioResult, gaussian_level, tail

__all__ = ["f_interval", "independent_ratio", "sample_ranks"]

FloatArray = NDArray[np.float64]


def independent_ratio(
    a: FloatArray, b: FloatArray, null: float, alternative: str, *, rank: float | None = None
) -> RatioResult:
    """Test the ratio of the average variances of centred students, shapes (S_a, P) and (S_b, P), by F."""
    from scipy.special import fdtr, fdtrc

    ranks = sample_ranks(a, b) if rank is None else (rank, rank)
    df = ((len(a) - 1) * ranks[0], (len(b) - 1) * ranks[1])
    ratio = float((a**2).sum() / (len(a) - 1) / ((b**2).sum() / (len(b) - 1)))
    return RatioResult(
        component="inter_student",
        statistic=ratio,
        pvalue=tail(float(fdtr(*df, ratio / null)), float(fdtrc(*df, ratio / null)), alternative),
        alternative=alternative,
        null_ratio=null,
        df=df[0],
        df_other=df[1],
        correlation=np.nan,
        effective_rank=ranks[0],
        effective_rank_other=ranks[1],
        n_students=(len(a), len(b)),
        paired=False,
        method=f"F, {'effective degrees of freedom' if a.shape[1] > 1 else 'exact'}, Gaussian students",
        coverage=gaussian_level(df, (len(a), len(b)), several=a.shape[1] > 1),
        _interval=lambda level: f_interval(ratio, df, level),
    )


def f_interval(ratio: float, df: tuple[float, float], level: float) -> ConfidenceInterval:
    """Return the true ratios that F does not reject at an observed one."""
    from scipy.special import fdtri

    tail = (1.0 - level) / 2.0
    return ConfidenceInterval(float(ratio / fdtri(*df, 1.0 - tail)), float(ratio / fdtri(*df, tail)))


def sample_ranks(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """Return ``(tr C)^2 / tr C^2`` of the sample covariance of each strategy's centred students, as it stands."""
    first, second = (float(np.einsum("ij,ij->", x, x)) ** 2 / frobenius_square(x) for x in _scaled(a, b))
    return max(1.0, first), max(1.0, second)


def _scaled(*students: FloatArray) -> list[FloatArray]:
    """Return students in units in which their squares of squares do not overflow."""
    return [x / np.abs(x).max() for x in students]
