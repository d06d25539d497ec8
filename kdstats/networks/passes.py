r"""Outputs of trained networks with units dropped: drawn pass by pass, and their variance where it has a form.

The units :math:`a_j` of a single hidden layer do not depend on its mask, so that an output is
:math:`b + \sum_j w_j a_j m_j` with independent factors :math:`m_j` of mean 1 and variance p/(1-p): its mean over
masks is the output of all units and its variance :math:`\frac{p}{1-p}\sum_j w_j^2 a_j^2`, whatever the
activation. Under further hidden layers the masks do not act linearly, and both have to be sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kdstats.networks.architecture import Architecture
from kdstats.networks.dropout import Dropout
from kdstats.networks.groups import for_groups
from kdstats.networks.stacks import ACTIVATIONS, PREDICTION_ROWS, Stack, stack_size
from kdstats.networks.training import TrainedNetworks
from kdstats.problem.student import NetworkStudent

__all__ = ["dropped_outputs", "has_own_variance", "own_variance"]

FloatArray = NDArray[np.float64]


def has_own_variance(student: NetworkStudent) -> bool:
    """Whether :func:`own_variance` covers it."""
    return student.module is None and len(student.hidden) == 1 and student.head != "softmax"


def own_variance(
    trained: TrainedNetworks, X: FloatArray, *, student: NetworkStudent, n_workers: int | None = None
) -> FloatArray:
    r"""Return the variance of each student's outputs over masks of dropout, exact up to rounding of float32.

    Parameters
    ----------
    trained : TrainedNetworks
        S networks with one hidden layer.
    X : (m, p) ndarray
        Points.
    student : NetworkStudent
        Says the probability p to drop a unit, and the head.

    Returns
    -------
    (S, m, q) ndarray
        :math:`\frac{p}{1-p}\sum_j w_j^2 a_j^2` in squared output units; for the head ``gaussian``, whose outputs vary
        around a mean under each mask, plus the mean over masks of :math:`e^g`, which is
        :math:`e^b\prod_j\left(p + (1-p)\,e^{w_j a_j/(1-p)}\right)`.
    """
    architecture, p = trained.architecture, student.dropout
    q = architecture.widths[-1] // (2 if student.head == "gaussian" else 1)
    inputs = torch.from_numpy(X.astype(np.float32))
    variances = np.empty((trained.parameters[0].shape[0], len(X), q))
    (in_scale, in_bias), (out_scale, out_bias) = architecture.scales
    size = stack_size(architecture, min(len(X), PREDICTION_ROWS))

    def fill(students: slice) -> None:
        stack = Stack(architecture, [layer[students] for layer in trained.parameters])
        weights, biases, outer, last = stack.parameters
        for first in range(0, len(X), PREDICTION_ROWS):
            rows = inputs[first : first + PREDICTION_ROWS].expand(len(weights), -1, -1)
            before = torch.baddbmm(biases, rows, weights, beta=in_bias, alpha=in_scale)
            units, slopes = ACTIVATIONS[architecture.activation](before).double(), out_scale * outer.double()
            own = (p / (1.0 - p)) * (units.square() @ slopes[..., :q].square())
            for output in range(q, architecture.widths[-1]):
                moved = units * (slopes[..., output] / (1.0 - p))[:, None]
                log_mean = torch.logaddexp(moved + np.log1p(-p), moved.new_tensor(np.log(p))).sum(dim=2)
                own[..., output - q] += torch.exp(log_mean + out_bias * last[..., output].double())
            variances[students, first : first + PREDICTION_ROWS] = own.numpy()

    with torch.no_grad():
        for_groups(fill, len(variances), size=size, n_workers=n_workers)
    return variances


def dropped_outputs(
    architecture: Architecture,
    parameters: Sequence[NDArray[np.float32]],
    X: FloatArray,
    *,
    rate: float,
    generators: Sequence[np.random.Generator],
    n_passes: int,
    n_workers: int | None = None,
) -> FloatArray:
    """Return outputs of S networks at m points from passes with masks of their own, shape (S, n_passes, m, q).

    Every student, pass and point has a mask of its own. ``generators`` has one for each student, from which
    further passes draw further numbers.
    """
    n_students, inputs = parameters[0].shape[0], torch.from_numpy(X.astype(np.float32))
    outputs = np.empty((n_students, n_passes, len(X), architecture.widths[-1]))
    size = stack_size(architecture, min(len(X), PREDICTION_ROWS))

    def fill(students: slice) -> None:
        stack = Stack(architecture, [layer[students] for layer in parameters])
        dropout = Dropout(rate, architecture.widths[1:-1], generators[students])
        with torch.no_grad():
            for number in range(n_passes):
                for first in range(0, len(X), PREDICTION_ROWS):
                    rows = inputs[first : first + PREDICTION_ROWS]
                    passed = stack(rows, dropout.factors(len(rows)))
                    outputs[students, number, first : first + PREDICTION_ROWS] = passed.numpy()

    for_groups(fill, n_students, size=size, n_workers=n_workers)
    return outputs
