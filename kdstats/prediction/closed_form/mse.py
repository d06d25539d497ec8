r"""The law of one student's test error over students (result T3).

With b the error of the mean student and :math:`ZZ'` the inter-student covariance at the m query
points, a student's test error is :math:`\lVert b - Z\xi \rVert^2/m` for standard normal ξ:

.. math:: E = (\lVert b \rVert^2 + \operatorname{tr} C)/m, \qquad
          \operatorname{Var} = (4 b'Cb + 2\operatorname{tr} C^2)/m^2,

and its distribution is that of a quadratic form. Outputs are independent and averaged over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.prediction.closed_form.engine import closed_form
from kdstats.prediction.closed_form.quadratic_form import QuadraticForm
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_array

__all__ = ["MSEDistribution", "mse_distribution"]

FloatArray = NDArray[np.float64]

#: Singular values below this share of the largest carry no variance.
RANK_TOLERANCE = 1e-12


@dataclass(frozen=True, eq=False, kw_only=True)
class MSEDistribution:
    """Distribution of a student's mean squared test error over students.

    Attributes
    ----------
    mean, variance : float
        Exact whenever the student is a linear map of Gaussian labels.
    bias, noise : float
        Parts of the mean: squared error of the mean student, and mean inter-student variance.
    form : QuadraticForm
        The whole law; its ``cdf``, ``sf``, ``pdf`` and ``quantile`` are here too.
    """

    bias: float
    noise: float
    form: QuadraticForm

    @property
    def mean(self) -> float:
        """Expected test error."""
        return self.form.mean

    @property
    def variance(self) -> float:
        """Variance of the test error over students."""
        return self.form.variance

    @property
    def sd(self) -> float:
        """Standard deviation of the test error over students."""
        return self.form.sd

    def cdf(self, x: Any) -> Any:
        """Probability that a student's test error is at most x."""
        return self.form.cdf(x)

    def sf(self, x: Any) -> Any:
        """Probability that a student's test error is greater than x."""
        return self.form.sf(x)

    def pdf(self, x: Any) -> Any:
        """Density of the test error."""
        return self.form.pdf(x)

    def quantile(self, probability: Any) -> Any:
        """Test error below which a given share of students lies."""
        return self.form.quantile(probability)


def mse_distribution(problem: DistillationProblem, target: Any) -> MSEDistribution:
    """Predict the distribution over students of the mean squared error at the query points.

    Parameters
    ----------
    problem : DistillationProblem
        With a linear student, Gaussian labels and all rows seen.
    target : array_like, shape (m,) or (m, q)
        True values at the query points.

    Returns
    -------
    MSEDistribution

    Raises
    ------
    UnsupportedProblemError
        If predictions are not Gaussian: resampled rows, estimated weights.
    """
    answer = closed_form(problem)
    if not answer.is_gaussian:
        raise UnsupportedProblemError(
            "the law of the test error is known for Gaussian predictions; with resampled rows or estimated weights "
            "observe students and take `kdstats.student_mse`"
        )
    truth = _as_target(target, answer.mean.shape)
    count = truth.size
    weights, shifts, offset, bias = [], [], 0.0, 0.0
    for output, spread in enumerate(answer.spreads):
        gap = truth[:, output] - answer.mean[:, output]
        left, values, _ = scipy.linalg.svd(spread, full_matrices=False)
        keep = values > RANK_TOLERANCE * max(values.max(initial=0.0), np.finfo(float).tiny)
        along = left[:, keep].T @ gap
        outside = gap - left[:, keep] @ along
        weights.append(values[keep] ** 2 / count)
        shifts.append((along / values[keep]) ** 2)
        offset += float(outside @ outside) / count
        bias += float(gap @ gap) / count
    form = QuadraticForm(np.concatenate(weights), np.concatenate(shifts), offset=offset)
    return MSEDistribution(bias=bias, noise=float(answer.inter_student.sum()) / count, form=form)


def _as_target(target: Any, shape: tuple[int, ...]) -> FloatArray:
    truth = as_array("target", target, ndim=(1, 2))
    if truth.ndim == 1:
        truth = truth[:, None]
    if truth.shape != shape:
        raise invalid("target", f"have one value per query point and output, shape {shape}", f"shape {truth.shape}")
    return truth
