r"""Weights estimated from each student's own k responses (result T4), for many inputs.

With :math:`w_i = 1/s_i^2` independent of the mean response at an input and across inputs,
:math:`E w^2/(E w)^2 = f = (k-3)/(k-5)`. The weighted errors :math:`w_i(b_i + \varepsilon_i)`, b the misfit of the
mean, then vary as labels with covariance

.. math:: C + (f-1)\,\mathrm{diag}(C_{ii} + b_i^2)

do under the true weights: independent errors are inflated by f, errors shared between inputs are not, and
misfit turns into variance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from kdstats.errors import UnsupportedProblemError
from kdstats.linear.label_law import LabelLaw
from kdstats.linear.smoother import Smoother
from kdstats.problem.specification import DistillationProblem

__all__ = ["inflated_labels", "residual_inflation"]


def inflated_labels(problem: DistillationProblem, smoother: Smoother, labels: LabelLaw) -> LabelLaw:
    """Return the labels that, under the true weights, vary as the real ones do under estimated weights.

    Raises
    ------
    UnsupportedProblemError
        If responses to different inputs are correlated, and with them the estimated weights.
    """
    if not problem.gaussian_teacher.is_diagonal:
        raise UnsupportedProblemError(
            "the closed form covers weights='estimated' for responses that are uncorrelated across inputs; "
            "use engine='monte_carlo' for this teacher"
        )
    k, n = problem.design.n_responses, problem.gaussian_teacher.n_inputs
    inverse_sd = smoother.whiten.inverse_sd
    assert inverse_sd is not None
    misfit = smoother.residuals(smoother.whiten(labels.mean))[:, 0] / inverse_sd
    covariance = labels.covariance
    variances = np.diag(covariance) if covariance.ndim == 2 else np.broadcast_to(covariance, (n,))
    extra = ((k - 3) / (k - 5) - 1.0) * (variances + misfit**2)
    return replace(labels, covariance=covariance + (np.diag(extra) if covariance.ndim == 2 else extra))


def residual_inflation(n_responses: int) -> float:
    """Return the expectation of a true variance over its estimate, (k-1)/(k-3)."""
    return (n_responses - 1) / (n_responses - 3)
