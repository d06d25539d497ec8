r"""The law of a student's labels under each strategy: their mean and covariance over students.

The mean of k responses has covariance
:math:`\Sigma_k = \Sigma\,(1 + (k-1)\rho)/k + \Sigma_T` (results T1 and T15). Variance weighting
mixes it with an estimate of the student's own (result T8); a chain of distillations passes it
through the smoother once per generation (result T12). Weights that students estimate from their own
responses have no law in closed form: that of the known weights stands in as a point of reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kdstats.linear.smoother import Smoother, as_full
from kdstats.problem.design import VarianceWeighting, pilot_split
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent

__all__ = [
    "LabelLaw",
    "OwnError",
    "initialization_variance",
    "label_law",
    "mean_response_covariance",
    "mixing_weight",
    "mixture_without_pilot",
    "own_estimate_error",
    "published_weight_moments",
    "shared_covariance",
]

FloatArray = NDArray[np.float64]
#: By input, the v_S + b^2 of a student's own estimate and its covariance c with the responses.
OwnError = tuple[FloatArray, FloatArray]

#: Gauss-Laguerre nodes for moments of an estimated weight.
N_NODES = 120


@dataclass(frozen=True, eq=False)
class LabelLaw:
    """Mean and covariance of the label vector over students.

    Attributes
    ----------
    mean : (n, q) ndarray
    covariance : (), (n,) or (n, n) ndarray
        A scalar variance, per-input variances or a full covariance; the same for every output.
    is_gaussian : bool
        Whether Gaussian responses give Gaussian labels.
    is_reference : bool
        Whether mean and covariance are those of the known weights, while students estimate theirs.
    within : float
        Expected sum over inputs of the (whitened) squares of the k responses around their mean,
        where all of them are kept as rows; else 0.
    """

    mean: FloatArray
    covariance: FloatArray
    is_gaussian: bool
    within: float
    is_reference: bool = False

    def full_covariance(self) -> FloatArray:
        """The covariance as a matrix, shape (n, n)."""
        return as_full(self.covariance, self.mean.shape[0])


def label_law(problem: DistillationProblem, smoother: Smoother) -> LabelLaw:
    """Return the law of the labels that a problem's (last) student is trained on."""
    teacher, design = problem.gaussian_teacher, problem.design
    k = design.n_responses
    mean = teacher.mean_by_output
    covariance = mean_response_covariance(problem, k)
    within = 0.0
    if design.strategy == "multi_response" and "teacher_output" in design.sources:
        trace = _trace(
            smoother.whiten.covariance(mean_response_covariance(problem, 1, fitting=False)), teacher.n_inputs
        )
        within = (k - 1) * (1.0 - teacher.response_correlation) * trace
    gaussian, reference = True, False
    if design.weighting is not None:
        mean, covariance = _mixture(problem, design.weighting, smoother)
        reference = design.weighting.variance_estimate is not None
        gaussian = not design.weighting.weight_is_estimated and not reference
    for _ in range(design.n_generations - 1):
        mean, covariance = _next_generation(problem, smoother, mean, covariance)
    return LabelLaw(
        mean=mean, covariance=np.asarray(covariance), is_gaussian=gaussian, within=within, is_reference=reference
    )


def mean_response_covariance(problem: DistillationProblem, k: int, *, fitting: bool = True) -> FloatArray:
    """Return the covariance of the mean of k responses: scalar, per input or full."""
    teacher = problem.gaussian_teacher
    if "teacher_output" not in problem.design.sources:
        return np.zeros(())
    share = max(0.0, 1.0 + (k - 1) * teacher.response_correlation) / k  # the lowest correlation may round below 0
    noise = teacher.noise_variance if teacher.is_diagonal else teacher.covariance
    covariance = share * noise
    if fitting and teacher.fitting_covariance is not None:
        full = covariance if covariance.ndim == 2 else np.diag(np.broadcast_to(covariance, (teacher.n_inputs,)))
        covariance = full + teacher.fitting_covariance
    return np.asarray(covariance)


def initialization_variance(problem: DistillationProblem) -> float:
    """Return the variance of each initial coefficient over students (0 where it does not vary)."""
    student = problem.student
    assert isinstance(student, LinearStudent)
    if student.training is None or "student_initialization" not in problem.design.sources:
        return 0.0
    return student.training.initialization_sd**2


def mixing_weight(
    problem: DistillationProblem,
    weighting: VarianceWeighting,
    smoother: Smoother | None,
    *,
    own_error: OwnError | None = None,
) -> FloatArray:
    """Return the weight of the responses at each input, shape (n,), from true variances or as it is given.

    ``own_error`` has error and covariance of a pilot without a smoother (see :func:`own_estimate_error`).
    """
    n = problem.gaussian_teacher.n_inputs
    if not isinstance(weighting.weight, str):
        return np.broadcast_to(weighting.weight, (n,)).astype(np.float64)
    if own_error is not None:
        error, shared = own_error
        of_responses = _diagonal(mean_response_covariance(problem, pilot_split(problem.design.n_responses)[1]), n)
        whole = of_responses + error - 2.0 * shared
        return np.clip(np.divide(error - shared, whole, out=np.ones(n), where=whole > 0), 0.0, 1.0)
    teacher_variance, student_variance, covariance, bias = _known_moments(problem, weighting, smoother)
    gain = student_variance + bias**2 - covariance
    whole = teacher_variance + student_variance + bias**2 - 2.0 * covariance
    return np.clip(np.divide(gain, whole, out=np.ones(n), where=whole > 0), 0.0, 1.0)


def own_estimate_error(
    problem: DistillationProblem, weighting: VarianceWeighting, smoother: Smoother | None
) -> OwnError:
    """Return, by input, the true v_S + b^2 of the student's own estimate and its covariance c with the responses."""
    _, student_variance, covariance, bias = _known_moments(problem, weighting, smoother)
    return student_variance + bias**2, covariance


def published_weight_moments(n_responses: int, correlation: float = 0.0) -> FloatArray:
    r"""Return first and second moment of the published weight, :math:`1/(1 + (1-\rho)\chi^2_{k-1}/k)`."""
    nodes, weights = _gamma_quadrature(0.5 * (n_responses - 1))
    alpha = 1.0 / (1.0 + (1.0 - correlation) * 2.0 * nodes / n_responses)
    return np.array([weights @ alpha, weights @ alpha**2])


def _diagonal(covariance: FloatArray, n: int) -> FloatArray:
    return np.diag(covariance) if covariance.ndim == 2 else np.broadcast_to(covariance, (n,))


def _trace(covariance: FloatArray, n: int) -> float:
    return float(_diagonal(covariance, n).sum())


def _known_moments(
    problem: DistillationProblem, weighting: VarianceWeighting, smoother: Smoother | None
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return v_T, v_S, c and b of result T8 at each input."""
    n, k = problem.gaussian_teacher.n_inputs, problem.design.n_responses
    mean = problem.gaussian_teacher.mean_by_output[:, 0]
    zero = np.zeros(n)
    if weighting.uses_pilot:
        assert smoother is not None
        first, second = pilot_split(k)
        hat = smoother.raw_hat
        estimate_cov, shared = _pilot_covariances(problem, smoother, first)
        teacher_variance = _diagonal(mean_response_covariance(problem, second), n)
        return teacher_variance, np.diag(estimate_cov), np.einsum("ij,ji->i", hat, shared), hat @ mean - mean
    teacher_variance = _diagonal(mean_response_covariance(problem, k), n)
    if weighting.is_oracle:
        # As published, the noiseless mean is given the variance of a response.
        return teacher_variance, _diagonal(mean_response_covariance(problem, 1, fitting=False), n), zero, zero
    assert weighting.student_variance is not None
    estimate = np.asarray(weighting.student_estimate, dtype=np.float64)
    return teacher_variance, _diagonal(weighting.student_variance, n), zero, estimate - mean


def _pilot_covariances(problem: DistillationProblem, smoother: Smoother, first: int) -> tuple[FloatArray, FloatArray]:
    """Covariance of the pilot's predictions at the inputs, and of its labels with the averaged responses."""
    hat = smoother.raw_hat
    labels = as_full(mean_response_covariance(problem, first), problem.gaussian_teacher.n_inputs)
    covariance = hat @ labels @ hat.T + _initialization_covariance(problem, smoother)
    return covariance, shared_covariance(problem)


def shared_covariance(problem: DistillationProblem) -> FloatArray:
    """Return the covariance (n, n) of the mean of some responses with the mean of others."""
    teacher, n = problem.gaussian_teacher, problem.gaussian_teacher.n_inputs
    shared = np.zeros((n, n))
    if "teacher_output" in problem.design.sources:
        shared = teacher.response_correlation * teacher.covariance
        if teacher.fitting_covariance is not None:
            shared = shared + teacher.fitting_covariance
    return shared


def _initialization_covariance(problem: DistillationProblem, smoother: Smoother) -> FloatArray | float:
    variance = initialization_variance(problem)
    if variance == 0.0 or smoother.initial_map is None:
        return 0.0
    root = smoother.raw_inputs @ smoother.initial_map
    return np.asarray(variance * (root @ root.T))


def _mixture(
    problem: DistillationProblem, weighting: VarianceWeighting, smoother: Smoother | None
) -> tuple[FloatArray, FloatArray]:
    """Mean (n, 1) and covariance of alpha * responses + (1 - alpha) * the student's own estimate."""
    n, k = problem.gaussian_teacher.n_inputs, problem.design.n_responses
    mean = problem.gaussian_teacher.mean_by_output[:, 0]
    if weighting.weight_is_estimated:
        return mean[:, None], _estimated_weight_covariance(problem)
    alpha = mixing_weight(problem, weighting, smoother)
    beta = 1.0 - alpha
    if weighting.uses_pilot:
        assert smoother is not None
        first, second = pilot_split(k)
        hat = smoother.raw_hat
        estimate_cov, shared = _pilot_covariances(problem, smoother, first)
        cross = np.outer(alpha, beta) * (shared @ hat.T)
        responses = as_full(mean_response_covariance(problem, second), n)
        covariance = np.outer(alpha, alpha) * responses + np.outer(beta, beta) * estimate_cov + cross + cross.T
        return (alpha * mean + beta * (hat @ mean))[:, None], covariance
    responses = mean_response_covariance(problem, k)
    if weighting.is_oracle:
        return mean[:, None], _scaled(responses, alpha)
    assert weighting.student_variance is not None
    own = _scaled(weighting.student_variance, beta)
    covariance = _scaled(responses, alpha)
    if covariance.ndim != own.ndim:
        covariance, own = as_full(covariance, n), as_full(own, n)
    estimate = np.asarray(weighting.student_estimate, dtype=np.float64)
    return (alpha * mean + beta * estimate)[:, None], covariance + own


def mixture_without_pilot(problem: DistillationProblem, weighting: VarianceWeighting) -> tuple[FloatArray, FloatArray]:
    """Return mean (n,) and covariance of labels that mix responses with an oracle or with given numbers."""
    mean, covariance = _mixture(problem, weighting, None)
    return mean[:, 0], covariance


def _scaled(covariance: FloatArray, factor: FloatArray) -> FloatArray:
    if covariance.ndim == 2:
        return np.asarray(np.outer(factor, factor) * covariance)
    return np.asarray(factor**2 * covariance)


def _estimated_weight_covariance(problem: DistillationProblem) -> FloatArray:
    r"""Covariance when the weight is :math:`1/(1 + (1-\rho)\chi^2_{k-1}/k)`, independent of the mean.

    The published gain :math:`E[(1+\chi^2_{k-1}/k)^{-2}]` is its second moment at ρ = 0.
    """
    teacher, k = problem.gaussian_teacher, problem.design.n_responses
    first, second = published_weight_moments(k, teacher.response_correlation).tolist()
    covariance = mean_response_covariance(problem, k)
    if covariance.ndim < 2:
        return np.asarray(second * covariance)
    mixed: FloatArray = np.asarray(first**2 * covariance)
    np.fill_diagonal(mixed, second * np.diag(covariance))
    return mixed


def _gamma_quadrature(shape: float) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of the expectation over a gamma variable (Golub & Welsch 1969), for any shape."""
    steps = np.arange(N_NODES)
    off = np.sqrt(steps[1:] * (steps[1:] + shape - 1.0))
    nodes, vectors = scipy.linalg.eigh_tridiagonal(2.0 * steps + shape, off)
    return nodes, np.asarray(vectors[0] ** 2)


def _next_generation(
    problem: DistillationProblem, smoother: Smoother, mean: FloatArray, covariance: FloatArray
) -> tuple[FloatArray, FloatArray]:
    n, hat = problem.gaussian_teacher.n_inputs, smoother.raw_hat
    passed = hat @ as_full(covariance, n) @ hat.T + _initialization_covariance(problem, smoother)
    fresh = as_full(mean_response_covariance(problem, problem.design.n_responses, fitting=False), n)
    return hat @ mean, passed + fresh
