r"""Problems with known answers: one for each thing that can go wrong.

Each function returns a :class:`~kdstats.DistillationProblem`; its docstring states the truth, and every
engine that covers the problem is tested against it.
"""

from __future__ import annotations

import numpy as np

from kdstats.problem.design import Design
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import GradientDescent, LinearStudent
from kdstats.problem.teacher import GaussianTeacher

__all__ = [
    "correlated_responses",
    "gradient_descent_line",
    "intercept_only",
    "linear_bootstrap",
    "orthogonal_ridge",
    "shared_noise",
    "two_groups",
]


def intercept_only(*, noise_variance: float = 1.0, n_inputs: int = 10, n_responses: int = 1) -> DistillationProblem:
    r"""The mean of n labels.

    inter = :math:`\sigma^2/(nk)`, intra = :math:`\sigma^2/k`. The one column of X is ones and there is no
    intercept besides it.
    """
    return DistillationProblem(
        teacher=GaussianTeacher(np.ones((n_inputs, 1)), np.zeros(n_inputs), noise_variance=noise_variance),
        student=LinearStudent(fit_intercept=False),
        design=Design(np.ones((1, 1)), n_responses=n_responses),
    )


def two_groups(*, variances: tuple[float, float] = (1.0, 4.0), n_per_group: int = 5) -> DistillationProblem:
    r"""Two groups with variances of their own, each predicted by its mean.

    inter = :math:`\sigma_g^2/n_g` at the point of group g; intra is the pooled variance
    :math:`(\sigma_1^2 + \sigma_2^2)/2`.
    """
    X = np.kron(np.eye(2), np.ones((n_per_group, 1)))
    return DistillationProblem(
        teacher=GaussianTeacher(X, np.zeros(2 * n_per_group), noise_variance=np.repeat(variances, n_per_group)),
        student=LinearStudent(fit_intercept=False),
        design=Design(np.eye(2), point_labels=("first", "second")),
    )


def correlated_responses(
    *, correlation: float = 0.3, n_responses: int = 4, noise_variance: float = 1.0, n_inputs: int = 10
) -> DistillationProblem:
    r"""The mean of n labels, each the mean of k correlated responses.

    inter = :math:`\sigma^2[1+(k-1)\rho]/(nk)`, which averaging cannot bring below :math:`\rho\sigma^2/n`.
    """
    return DistillationProblem(
        teacher=GaussianTeacher(
            np.ones((n_inputs, 1)),
            np.zeros(n_inputs),
            noise_variance=noise_variance,
            response_correlation=correlation,
        ),
        student=LinearStudent(fit_intercept=False),
        design=Design(np.ones((1, 1)), n_responses=n_responses, strategy="averaging"),
    )


def shared_noise(*, correlation: float = 0.5, noise_variance: float = 2.0, n_inputs: int = 12) -> DistillationProblem:
    r"""A line through labels whose noise is correlated across inputs.

    inter = :math:`\sigma^2[(1-r)h + r]` with leverage h: more inputs cannot go below :math:`r\sigma^2`. At the
    mean of the inputs, the first point, h = 1/n.
    """
    x = np.linspace(-1.0, 1.0, n_inputs)[:, None]
    return DistillationProblem(
        teacher=GaussianTeacher(x, np.zeros(n_inputs), noise_variance=noise_variance, input_correlation=correlation),
        student=LinearStudent(),
        design=Design(np.array([[0.0], [1.0]])),
    )


def orthogonal_ridge(*, penalty: float = 2.0, noise_variance: float = 1.0, n_inputs: int = 8) -> DistillationProblem:
    r"""Ridge on one centred column of squared length n, predicting at x = 1.

    inter = :math:`\sigma^2\,[\,1/n + n/(n+\lambda)^2\,]`: the intercept is not penalised.
    """
    x = np.where(np.arange(n_inputs) % 2 == 0, 1.0, -1.0)[:, None]
    return DistillationProblem(
        teacher=GaussianTeacher(x, np.zeros(n_inputs), noise_variance=noise_variance),
        student=LinearStudent(penalty=penalty),
        design=Design(np.ones((1, 1))),
    )


def gradient_descent_line(
    *,
    n_steps: int = 3,
    learning_rate: float = 0.1,
    initialization_sd: float = 0.5,
    noise_variance: float = 1.0,
    n_inputs: int = 8,
) -> DistillationProblem:
    r"""One coefficient trained by gradient steps on a column of mean square 1, predicting at x = 1.

    With :math:`a = (1-2\eta)^T`: inter = :math:`s_0^2a^2 + (1-a)^2\sigma^2/n`.
    """
    x = np.where(np.arange(n_inputs) % 2 == 0, 1.0, -1.0)[:, None]
    training = GradientDescent(n_steps=n_steps, learning_rate=learning_rate, initialization_sd=initialization_sd)
    return DistillationProblem(
        teacher=GaussianTeacher(x, np.zeros(n_inputs), noise_variance=noise_variance),
        student=LinearStudent(fit_intercept=False, training=training),
        design=Design(np.ones((1, 1))),
    )


def linear_bootstrap(*, n_inputs: int = 50, resample_size: int = 40) -> DistillationProblem:
    r"""A linear student on resampled rows of a noiseless linear teacher.

    inter = intra = 0 exactly: whichever rows a student sees, it finds the same line.
    """
    x = np.linspace(-1.0, 1.0, n_inputs)[:, None]
    return DistillationProblem(
        teacher=GaussianTeacher(x, 1.0 + 2.0 * x[:, 0], noise_variance=0.0),
        student=LinearStudent(),
        design=Design(np.array([[0.0], [1.0]]), resample_size=resample_size),
    )
