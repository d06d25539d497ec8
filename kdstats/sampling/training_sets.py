r"""Training sets as students meet them: responses drawn, labels made, rows resampled.

Students come in blocks of fixed size with one generator per block and source, so a student's
training set depends on the seeds and its number alone: not on how many students are asked for, nor
on how the work is cut or spread. The first S students of a larger run are the students of a run of
S.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kdstats.linear.label_law import OwnError, mixing_weight, own_estimate_error
from kdstats.linear.smoother import Smoother
from kdstats.problem.design import pilot_split
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.sampling.laws import NoiseLaw
from kdstats.sampling.response_variances import response_variances
from kdstats.streams import Seeds

__all__ = [
    "BLOCK",
    "TrainingBlock",
    "correlate",
    "covariance_root",
    "draw_counts",
    "draw_responses",
    "draw_training_block",
    "estimated_weight",
    "initial_coefficients",
    "mixed_labels",
    "oracle_labels",
    "pilot_error",
]

FloatArray = NDArray[np.float64]

#: Students per block.
BLOCK = 256


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingBlock:
    """What one block of students is trained on.

    Attributes
    ----------
    labels : (BLOCK, n, q) ndarray
        One label per student and input: for ``multi_response`` the mean of its k rows, to which
        their within-input sums of squares belong.
    within : (BLOCK, n, q) ndarray
        Sum of squares of the k responses around their mean.
    counts : (BLOCK, n) ndarray of int or None
        How often each student sees each input; None without resampling.
    """

    labels: FloatArray
    within: FloatArray
    counts: NDArray[np.int64] | None


def draw_training_block(
    problem: DistillationProblem, seeds: Seeds, block: int, law: NoiseLaw, smoother: Smoother | None = None
) -> TrainingBlock:
    """Draw the training sets of one block of students.

    Parameters
    ----------
    problem : DistillationProblem
    seeds : Seeds
    block : int
        Number of the block.
    law : NoiseLaw
        Shape of the teacher's noise.
    smoother : Smoother, optional
        Coefficient map of the student; needed for pilot students and chains of distillations.
    """
    responses = draw_responses(problem, seeds, block, law)
    labels = responses.mean(axis=1)
    within = ((responses - labels[:, None]) ** 2).sum(axis=1)
    if problem.design.weighting is not None:
        labels = _mix(problem, seeds, block, responses, smoother)
    for generation in range(1, problem.design.n_generations):
        assert smoother is not None
        fitted = _fitted(
            problem, smoother, labels, initial_coefficients(problem, seeds, block, f"generation {generation}")
        )
        responses = draw_responses(problem, seeds, block, law, mean=fitted, generation=generation)
        labels = responses.mean(axis=1)
        within = ((responses - labels[:, None]) ** 2).sum(axis=1)
    return TrainingBlock(labels=labels, within=within, counts=draw_counts(problem, seeds, block))


def draw_responses(
    problem: DistillationProblem,
    seeds: Seeds,
    block: int,
    law: NoiseLaw,
    *,
    mean: FloatArray | None = None,
    generation: int = 0,
) -> FloatArray:
    """Draw the teacher's k responses for one block of students, shape (BLOCK, k, n, q).

    The teacher's fitting error is drawn once per student, in the first generation only: later
    teachers are students, whose predictions come in as ``mean``, shape (BLOCK, n, q).
    """
    teacher, k = problem.gaussian_teacher, problem.design.n_responses
    shape = (BLOCK, k, teacher.n_inputs, teacher.n_outputs)
    centre = teacher.mean_by_output[None] if mean is None else mean
    if "teacher_output" not in problem.design.sources:
        return np.array(np.broadcast_to(centre[:, None], shape))
    path = (block,) if generation == 0 else (block, "generation", generation)
    noise = correlate(law.sample(seeds.generator("teacher_output", *path), shape), teacher.response_correlation)
    noise = _scale(noise, covariance_root(teacher.noise_variance if teacher.is_diagonal else teacher.covariance))
    if teacher.fitting_covariance is not None and generation == 0:
        fitting = seeds.generator("teacher_output", "fitting", block).standard_normal((BLOCK, 1, *shape[2:]))
        noise += _scale(fitting, covariance_root(teacher.fitting_covariance))
    return np.asarray(noise + centre[:, None])


def correlate(noise: FloatArray, correlation: float) -> FloatArray:
    """Give independent noise of variance 1 a common correlation along axis 1, keeping its variance.

    Each response keeps its own innovation and takes a multiple of their mean, which reaches every
    correlation from -1/(k-1) on.
    """
    if correlation == 0.0 or noise.shape[1] == 1:
        return noise
    if correlation == 1.0:
        return np.repeat(noise[:, :1], noise.shape[1], axis=1)
    k = noise.shape[1]
    share = 1.0 - np.sqrt(max(0.0, 1.0 + k * correlation / (1.0 - correlation)))
    return np.asarray(np.sqrt(1.0 - correlation) * (noise - share * noise.mean(axis=1, keepdims=True)))


def covariance_root(covariance: FloatArray) -> FloatArray:
    """Return standard deviations (of a scalar or vector) or the symmetric root of a covariance."""
    if covariance.ndim < 2:
        return np.asarray(np.sqrt(covariance))
    values, vectors = scipy.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def initial_coefficients(
    problem: DistillationProblem, seeds: Seeds, block: int, role: str = "student"
) -> FloatArray | None:
    """Draw the initial coefficients of one block of gradient-trained linear students.

    Returns
    -------
    (BLOCK, P, q) ndarray, or None if the students start from 0 or are fitted exactly.
    """
    student = problem.student
    assert isinstance(student, LinearStudent)
    if student.training is None or "student_initialization" not in problem.design.sources:
        return None
    width = problem.gaussian_teacher.n_features + int(student.fit_intercept)
    generator = seeds.generator("student_initialization", role, block)
    draws = generator.standard_normal((BLOCK, width, problem.gaussian_teacher.n_outputs))
    return np.asarray(student.training.initialization_sd * draws)


def oracle_labels(problem: DistillationProblem, responses: FloatArray) -> FloatArray:
    """Mix mean responses (BLOCK, n, 1) with the noiseless teacher mean by the published weight."""
    true = problem.gaussian_teacher.variances[:, None]
    empirical = responses.var(axis=1)
    alpha = np.divide(true, empirical + true, out=np.ones_like(empirical), where=true > 0)
    return np.asarray(alpha * responses.mean(axis=1) + (1.0 - alpha) * problem.gaussian_teacher.mean_by_output)


def estimated_weight(
    problem: DistillationProblem,
    responses: FloatArray,
    mean: FloatArray,
    own: FloatArray,
    smoother: Smoother | None,
    *,
    own_error: OwnError | None = None,
) -> FloatArray:
    """Weights (B, n, 1) of mean responses (B, n, 1), from variances that the students estimate."""
    weighting, k = problem.design.weighting, problem.design.n_responses
    assert weighting is not None
    assert weighting.variance_estimate is not None
    first = pilot_split(k)[0] if weighting.uses_pilot else 0
    parts = (responses[:, :first], responses[:, first:]) if first else (responses,)
    squares = sum((((part - part.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) for part in parts), np.zeros(1))
    variances = response_variances(
        squares[..., 0], weighting.variance_degrees_of_freedom(k), estimate=weighting.variance_estimate
    )[..., None] / (k - first)
    covariance: FloatArray = np.zeros(1)
    if weighting.student_error == "known":
        known = own_estimate_error(problem, weighting, smoother) if own_error is None else own_error
        error, covariance = (part[:, None] for part in known)
    else:
        error = np.maximum(((own - mean) ** 2 - variances).mean(axis=1, keepdims=True), 0.0)
    gain, whole = error - covariance, variances + error - 2.0 * covariance
    return np.clip(np.divide(gain, whole, out=np.ones_like(variances), where=whole > 0), 0.0, 1.0)


def _scale(noise: FloatArray, root: FloatArray) -> FloatArray:
    """Multiply noise of shape (..., n, q) by standard deviations or a root over the inputs."""
    if root.ndim == 2:
        return np.asarray(np.einsum("ij,bkjq->bkiq", root, noise, optimize=True))
    return np.asarray(noise * (root[:, None] if root.ndim == 1 else root))


def _fitted(
    problem: DistillationProblem, smoother: Smoother, labels: FloatArray, initial: FloatArray | None
) -> FloatArray:
    """Predictions at the inputs of students trained on each label vector, shape (BLOCK, n, q)."""
    fitted = np.einsum("ij,bjq->biq", smoother.raw_hat, labels, optimize=True)
    if initial is not None and smoother.initial_map is not None:
        fitted += np.einsum("ij,bjq->biq", smoother.raw_inputs @ smoother.initial_map, initial, optimize=True)
    return np.asarray(fitted)


def _mix(
    problem: DistillationProblem, seeds: Seeds, block: int, responses: FloatArray, smoother: Smoother | None
) -> FloatArray:
    weighting = problem.design.weighting
    assert weighting is not None
    own = None
    if weighting.uses_pilot:
        assert smoother is not None
        first, _ = pilot_split(problem.design.n_responses)
        initial = initial_coefficients(problem, seeds, block, "pilot")
        own = _fitted(problem, smoother, responses[:, :first].mean(axis=1), initial)
    return mixed_labels(problem, seeds, block, responses, own=own, smoother=smoother)


def mixed_labels(
    problem: DistillationProblem,
    seeds: Seeds,
    block: int,
    responses: FloatArray,
    *,
    own: FloatArray | None = None,
    smoother: Smoother | None = None,
    own_error: OwnError | None = None,
) -> FloatArray:
    """Mix mean responses with the estimates that students have of their own, by the weights of the problem.

    Parameters
    ----------
    problem : DistillationProblem
        With the strategy ``variance_weighting``.
    seeds : Seeds
    block : int
        Number of the block of students.
    responses : (B, k, n, 1) ndarray
        Of its first B students.
    own : (B, n, 1) ndarray, optional
        Predictions of pilot students, trained on the first responses.
    smoother : Smoother, optional
        Coefficient map of a linear pilot.
    own_error : OwnError, optional
        Error and covariance of another pilot, for weights that take the true ones.

    Returns
    -------
    (B, n, 1) ndarray
    """
    weighting = problem.design.weighting
    assert weighting is not None
    if weighting.weight_is_estimated:
        return oracle_labels(problem, responses)
    averaged = responses
    if own is None:
        own = _own_estimate(problem, seeds, block)
        own = own[: len(responses)] if len(own) > 1 else own
    else:
        averaged = responses[:, pilot_split(problem.design.n_responses)[0] :]
    mean = averaged.mean(axis=1)
    if weighting.variance_estimate is None:
        alpha = mixing_weight(problem, weighting, smoother, own_error=own_error)[:, None]
    else:
        alpha = estimated_weight(problem, responses, mean, own, smoother, own_error=own_error)
    return np.asarray(alpha * mean + (1.0 - alpha) * own)


def pilot_error(problem: DistillationProblem, responses: FloatArray, own: FloatArray) -> OwnError:
    """Return the true error of pilots and its covariance with the mean of the other responses, from many of them.

    Parameters
    ----------
    problem : DistillationProblem
    responses : (B, k, n, 1) ndarray
    own : (B, n, 1) ndarray
        Predictions of pilots trained on the first responses.

    Returns
    -------
    two (n,) ndarrays
        The mean of (own - teacher's mean)^2, which is v_S + b^2, and the covariance, exactly 0 where responses
        are independent.
    """
    teacher = problem.gaussian_teacher
    truth = teacher.mean_by_output[:, 0]
    error = ((own[..., 0] - truth) ** 2).mean(axis=0)
    if teacher.response_correlation == 0.0 and teacher.fitting_covariance is None:
        return error, np.zeros_like(error)
    others = responses[:, pilot_split(responses.shape[1])[0] :].mean(axis=1)[..., 0] - truth
    deviations = own[..., 0] - own[..., 0].mean(axis=0)
    return error, np.asarray((deviations * others).mean(axis=0))


def _own_estimate(problem: DistillationProblem, seeds: Seeds, block: int) -> FloatArray:
    """The student's own estimate before distillation: the oracle mean, or given numbers with their spread."""
    weighting = problem.design.weighting
    assert weighting is not None
    if weighting.is_oracle:
        return problem.gaussian_teacher.mean_by_output[None]
    assert weighting.student_variance is not None
    estimate = np.asarray(weighting.student_estimate, dtype=np.float64)[None, None, :, None]
    draws = seeds.generator("student_initialization", "own estimate", block).standard_normal(
        (BLOCK, 1, problem.gaussian_teacher.n_inputs, 1)
    )
    return np.asarray(estimate + _scale(draws, covariance_root(weighting.student_variance)))[:, 0]


def draw_counts(problem: DistillationProblem, seeds: Seeds, block: int) -> NDArray[np.int64] | None:
    """Draw how often each student of one block sees each input, shape (BLOCK, n); None without resampling."""
    size, n = problem.resample_size, problem.teacher.n_inputs
    if size is None:
        return None
    rows = seeds.generator("data_resampling", block).integers(n, size=(BLOCK, size))
    cells = (rows + n * np.arange(BLOCK)[:, None]).ravel()
    return np.bincount(cells, minlength=BLOCK * n).reshape(BLOCK, n)
