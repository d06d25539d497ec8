r"""Linear students really fitted, many at once.

Nothing here knows the coefficient map from which predictions are computed: rows are stacked,
weighted and given to a solver, or gradient steps are taken one by one. (Pilot students and the
earlier links of a chain, which are part of the labels, come with the labels from
:mod:`kdstats.sampling`.) Students that share their rows are solved together, one right-hand side
each; students with rows or weights of their own are solved by a batch of QR factorisations.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import VarianceComponents
from kdstats.errors import (
    ApproximationWarning,
    DivergedStudentError,
    ObservationError,
    UnsupportedProblemError,
)
from kdstats.linear.smoother import Smoother, augment, smoother as smoother_of
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.observation.assembly import as_replicates, assemble_components
from kdstats.observation.predictive import residual_divisor, residual_variance
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import GradientDescent, LinearStudent
from kdstats.problem.validation import as_count
from kdstats.progress import Progress, ProgressLike
from kdstats.sampling import BLOCK, NoiseLaw, TrainingBlock, as_noise_law, draw_training_block, initial_coefficients
from kdstats.sampling.training_sets import draw_responses
from kdstats.streams import Seeds, as_seeds

__all__ = ["observe"]

FloatArray = NDArray[np.float64]

EPS = float(np.finfo(np.float64).eps)
#: Numbers in one batch of factorisations.
BATCH_SIZE = 4_000_000


@dataclass(frozen=True, eq=False, kw_only=True)
class _Fit:
    """One block of fitted students: coefficients (B, P, q), residual variances (B, q), resamples without full rank."""

    coefficients: FloatArray
    variances: FloatArray
    n_deficient: int = 0


def observe(
    problem: DistillationProblem,
    *,
    n_students: int = 100,
    rng: Any = None,
    n_replicates: int | None = None,
    noise_law: Any = "gaussian",
    progress: ProgressLike = None,
) -> VarianceComponents:
    """Fit linear students to labels drawn for each of them and estimate their variance components.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.LinearStudent`.
    n_students : int, default 100
        At least 2. The first students of a larger run are the students of a smaller one.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`.
    n_replicates : int, optional
        Outputs drawn from each student's own predictive distribution, at least 2. Default: none;
        each student's predictive variance is known and used as it is.
    noise_law : str, NoiseLaw or callable, default "gaussian"
        As in :func:`kdstats.sampling.as_noise_law`.
    progress : bool or callable, optional
        See :class:`kdstats.progress.Progress`.

    Returns
    -------
    VarianceComponents
        ``exactness`` "observed", with ``student_predictions``. ``attrs["n_rank_deficient"]``
        counts students whose resampled rows did not determine their coefficients.

    Raises
    ------
    UnsupportedProblemError
        For students that are not linear.
    RankDeficientError
        If the inputs do not determine the coefficients.
    ObservationError
        If no residual degrees of freedom are left, or a weight is to be estimated from equal
        responses.
    DivergedStudentError
        If gradient steps do not contract on the rows of a student.
    DuplicateStudentsError
        If students copy each other.

    Warns
    -----
    ApproximationWarning
        If resampled rows do not determine a student's coefficients and the solution of smallest norm is
        taken.

    Notes
    -----
    With resampled rows and ``multi_response`` the k rows of an input are resampled together and
    enter by their mean, with the penalty over k, which has the same minimiser as the stacked rows.

    Examples
    --------
    >>> import kdstats as kd
    >>> seen = observe(kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8), n_students=4000, rng=1)
    >>> abs(float(seen.inter_student[0, 0]) - 4.0 / 8) < 4 * float(seen.standard_error["inter_student"][0, 0])
    True
    """
    started = time.perf_counter()
    student = problem.student
    if not isinstance(student, LinearStudent):
        raise UnsupportedProblemError(
            f"engine 'linear' fits a LinearStudent; got a {type(student).__name__} (use engine='networks')"
        )
    n_students = as_count("n_students", n_students, minimum=2, reason="to estimate inter-student variance")
    n_replicates = as_replicates(problem, n_replicates)
    seeds, law, fit = as_seeds(rng), as_noise_law(noise_law), smoother_of(problem)
    if "student_output" in problem.design.sources:
        residual_divisor(problem, fit)
    query = augment(problem.X_query, student)
    q = problem.gaussian_teacher.n_outputs
    predictions, variances = np.empty((n_students, len(query), q)), np.zeros((n_students, q))
    n_deficient = 0
    with Progress(progress) as bar, one_blas_thread(when=problem.gaussian_teacher.n_inputs <= SMALL):
        for block in range(-(-n_students // BLOCK)):
            part = slice(block * BLOCK, min((block + 1) * BLOCK, n_students))
            fitted = _fit_block(problem, seeds, block, law, fit, part.stop - part.start)
            predictions[part] = query @ fitted.coefficients
            variances[part] = fitted.variances
            n_deficient += fitted.n_deficient
            bar.show(part.stop, n_students)
    attrs: dict[str, Any] = {"training": _description(student)}
    if problem.resample_size is not None:
        attrs["n_rank_deficient"] = n_deficient
    if n_deficient and not student.minimum_norm:
        warnings.warn(
            f"the resampled rows of {n_deficient} of {n_students} students do not determine their coefficients; the "
            "solution of smallest norm was taken (raise `resample_size`, or set `penalty`)",
            ApproximationWarning,
            stacklevel=2,
        )
    return assemble_components(
        predictions,
        problem,
        variances=variances,
        seeds=seeds,
        law=law,
        engine="linear",
        started=started,
        n_replicates=n_replicates,
        smoother=fit,
        attrs=attrs,
    )


def _fit_block(problem: DistillationProblem, seeds: Seeds, block: int, law: NoiseLaw, fit: Smoother, size: int) -> _Fit:
    """Draw, train and judge the first ``size`` students of one block."""
    student = problem.student
    assert isinstance(student, LinearStudent)
    drawn = draw_training_block(problem, seeds, block, law, fit)
    training = TrainingBlock(
        labels=drawn.labels[:size],
        within=drawn.within[:size],
        counts=None if drawn.counts is None else drawn.counts[:size],
    )
    initial = initial_coefficients(problem, seeds, block)
    start = None if initial is None else initial[:size]
    within: FloatArray = training.within
    weights, n_deficient = None, 0
    if student.weights_are_estimated:
        weights = _estimated_weights(training.within[..., 0], problem.design.n_responses)
    if training.counts is not None or weights is not None:
        coefficients, n_deficient = _fit_own_rows(problem, training, weights, start)
    else:
        half = _half_inverse(problem)
        rows = training.labels[:, None]
        if problem.design.strategy == "multi_response":
            deviations = _deviations(problem, seeds, block, law)[:size]
            rows = rows + deviations
            within = (_whitened(half, deviations) ** 2).sum(axis=(1, 2))
        coefficients = _fit_shared_rows(problem, _whitened(half, rows), half, start)
    variances = np.zeros((size, problem.gaussian_teacher.n_outputs))
    if "student_output" in problem.design.sources:
        fitted = augment(problem.gaussian_teacher.X, student) @ coefficients
        variances = residual_variance(
            problem,
            labels=training.labels,
            fitted=fitted,
            within=within,
            counts=training.counts,
            weights=weights,
            fit=fit,
        )
    return _Fit(coefficients=coefficients, variances=variances, n_deficient=n_deficient)


def _deviations(problem: DistillationProblem, seeds: Seeds, block: int, law: NoiseLaw) -> FloatArray:
    """Deviations of the k responses from their mean, shape (BLOCK, k, n, q), as the labels of the block were made."""
    responses = draw_responses(problem, seeds, block, law, generation=problem.design.n_generations - 1)
    return np.asarray(responses - responses.mean(axis=1, keepdims=True))


def _half_inverse(problem: DistillationProblem) -> FloatArray | None:
    """Return V^(-1/2): None for the identity, (n,) for a diagonal, else the symmetric root."""
    student, teacher = problem.student, problem.gaussian_teacher
    assert isinstance(student, LinearStudent)
    if student.weights is not None:
        return np.sqrt(np.asarray(student.weights, dtype=np.float64))
    if student.covariance is None:
        return None
    matrix = teacher.covariance if isinstance(student.covariance, str) else student.covariance
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T)


def _whitened(half: FloatArray | None, array: FloatArray) -> FloatArray:
    """Multiply the second last dimension, which runs over the inputs, by V^(-1/2)."""
    if half is None:
        return array
    return np.asarray(half @ array if half.ndim == 2 else half[:, None] * array)


def _fit_shared_rows(
    problem: DistillationProblem, rows: FloatArray, half: FloatArray | None, start: FloatArray | None
) -> FloatArray:
    """Fit students that see the same inputs to whitened labels (B, k, n, q); return coefficients (B, P, q)."""
    student = problem.student
    assert isinstance(student, LinearStudent)
    size, k, n, q = rows.shape
    inputs = np.tile(_whitened(half, augment(problem.gaussian_teacher.X, student)), (k, 1))
    rhs = rows.reshape(size, k * n, q).transpose(1, 0, 2).reshape(k * n, size * q)
    if student.training is not None:
        first = np.zeros((inputs.shape[1], size * q))
        if start is not None:
            first = start.transpose(1, 0, 2).reshape(inputs.shape[1], size * q)
        penalty = student.penalty * _penalised(student, inputs.shape[1])
        solved = _descend(inputs.T @ inputs + penalty, inputs.T @ rhs, first, k * n, student.training)
    else:
        solved = _least_squares(inputs, rhs, student)
    return np.asarray(solved.reshape(inputs.shape[1], size, q).transpose(1, 0, 2))


def _least_squares(inputs: FloatArray, rhs: FloatArray, student: LinearStudent) -> FloatArray:
    """Least squares by singular values, for all right-hand sides at once."""
    if student.minimum_norm:
        return _smallest_slopes(inputs, rhs) if student.fit_intercept else _solve(inputs, rhs, rank=_rank(inputs))
    if student.penalty > 0.0:
        penalty_rows = np.sqrt(student.penalty) * _penalised(student, inputs.shape[1])
        inputs = np.vstack([inputs, penalty_rows])
        rhs = np.vstack([rhs, np.zeros((len(penalty_rows), rhs.shape[1]))])
    scale = np.linalg.norm(inputs, axis=0)
    return np.asarray(_solve(inputs / scale, rhs, rank=inputs.shape[1]) / scale[:, None])


def _smallest_slopes(inputs: FloatArray, rhs: FloatArray) -> FloatArray:
    """Solution with the smallest slopes: the free intercept (first column) is projected out first."""
    ones, columns = inputs[:, 0], inputs[:, 1:]
    length = ones @ ones
    centred = columns - np.outer(ones, ones @ columns / length)
    slopes = _solve(centred, rhs - np.outer(ones, ones @ rhs / length), rank=_rank(inputs) - 1)
    return np.vstack([ones @ (rhs - columns @ slopes) / length, slopes])


def _solve(inputs: FloatArray, rhs: FloatArray, *, rank: int) -> FloatArray:
    """Solution of smallest norm at a given rank."""
    left, values, right = np.linalg.svd(inputs, full_matrices=False)
    return np.asarray(right[:rank].T @ ((left[:, :rank].T @ rhs) / values[:rank, None]))


def _rank(inputs: FloatArray) -> int:
    """Rank of a matrix whatever the units of its columns; before centring, which leaves rounding behind."""
    norms = np.linalg.norm(inputs, axis=0)
    return int(np.linalg.matrix_rank(inputs / np.where(norms > 0.0, norms, 1.0)))


def _penalised(student: LinearStudent, width: int) -> FloatArray:
    """Return the identity without the entry of a free intercept."""
    mask = np.eye(width)
    mask[0, 0] = 0.0 if student.fit_intercept else 1.0
    return mask


def _descend(
    curvature: FloatArray, pull: FloatArray, start: FloatArray, n_rows: int, training: GradientDescent
) -> FloatArray:
    """Take full-batch gradient steps on the mean loss, from given coefficients; leading dims are batches."""
    step = 2.0 * training.learning_rate / n_rows
    coefficients = start.copy()
    for _ in range(training.n_steps):
        coefficients -= step * (curvature @ coefficients - pull)
    return coefficients


def _fit_own_rows(
    problem: DistillationProblem, block: TrainingBlock, weights: FloatArray | None, start: FloatArray | None
) -> tuple[FloatArray, int]:
    """Fit students that weight the inputs each in their own way; return coefficients and how many lack full rank."""
    student, n = problem.student, problem.gaussian_teacher.n_inputs
    assert isinstance(student, LinearStudent)
    base = student.weights if isinstance(student.weights, np.ndarray) else np.ones(n)
    row_weights = np.broadcast_to(base if weights is None else weights, block.labels.shape[:2])
    if block.counts is not None:
        row_weights = row_weights * block.counts
    penalty = student.penalty / (problem.design.n_responses if problem.design.strategy == "multi_response" else 1)
    if student.training is not None:
        return _descend_own_rows(problem, block.labels, row_weights, penalty, start), 0
    batch = max(1, BATCH_SIZE // (n * (problem.gaussian_teacher.n_features + 1)))
    parts = [slice(first, first + batch) for first in range(0, len(row_weights), batch)]
    solved = [
        _weighted_least_squares(problem.gaussian_teacher.X, block.labels[part], row_weights[part], penalty, student)
        for part in parts
    ]
    return np.concatenate([coefficients for coefficients, _ in solved]), sum(deficient for _, deficient in solved)


def _weighted_least_squares(
    X: FloatArray, labels: FloatArray, weights: FloatArray, penalty: float, student: LinearStudent
) -> tuple[FloatArray, int]:
    """Weighted least squares of every student, by QR of its weighted, centred rows."""
    size, p = len(labels), X.shape[1]
    centre, level = np.zeros((size, p)), np.zeros((size, labels.shape[2]))
    if student.fit_intercept:
        shares = weights / weights.sum(axis=1, keepdims=True)
        centre, level = shares @ X, np.einsum("bn,bnq->bq", shares, labels)
    root = np.sqrt(weights)[..., None]
    inputs, rhs = root * (X - centre[:, None]), root * (labels - level[:, None])
    lacking = np.empty(0, dtype=np.int64)
    if penalty > 0.0:
        rows = np.broadcast_to(np.sqrt(penalty) * np.eye(p), (size, p, p))
        inputs = np.concatenate([inputs, rows], axis=1)
        rhs = np.concatenate([rhs, np.zeros((size, p, labels.shape[2]))], axis=1)
    else:
        lacking = np.flatnonzero(_ranks(X, weights, student) < p + int(student.fit_intercept))
    slopes = np.empty((size, p, labels.shape[2]))
    full = np.delete(np.arange(size), lacking)
    if full.size:
        basis, triangle = np.linalg.qr(inputs[full])
        slopes[full] = np.linalg.solve(triangle, basis.swapaxes(1, 2) @ rhs[full])
    for own in lacking:
        rank = _rank(root[own] * augment(X, student)) - int(student.fit_intercept)
        slopes[own] = _solve(inputs[own], rhs[own], rank=rank)
    if student.fit_intercept:
        slopes = np.concatenate([(level - np.einsum("bp,bpq->bq", centre, slopes))[:, None], slopes], axis=1)
    return slopes, lacking.size


def _ranks(X: FloatArray, weights: FloatArray, student: LinearStudent) -> NDArray[np.int64]:
    """Rank of every student's weighted rows, before centring and whatever the units of the columns."""
    triangle = np.linalg.qr(np.sqrt(weights)[..., None] * augment(X, student), mode="r")
    norms = np.linalg.norm(triangle, axis=1, keepdims=True)
    tolerance = max(len(X), X.shape[1]) * EPS
    values = np.linalg.svd(triangle / np.where(norms > 0.0, norms, 1.0), compute_uv=False)
    return np.asarray((values > tolerance * values[:, :1]).sum(axis=1))


def _descend_own_rows(
    problem: DistillationProblem, labels: FloatArray, weights: FloatArray, penalty: float, start: FloatArray | None
) -> FloatArray:
    """Gradient steps of students that see other rows each; steps that do not contract are refused."""
    student, size = problem.student, problem.resample_size
    assert isinstance(student, LinearStudent)
    assert student.training is not None
    assert size is not None
    inputs = augment(problem.gaussian_teacher.X, student)
    weighted = weights[..., None] * inputs
    curvature = inputs.T @ weighted + penalty * _penalised(student, inputs.shape[1])
    largest = 2.0 * student.training.learning_rate / size * np.linalg.eigvalsh(curvature)[:, -1]
    if (largest >= 2.0).any():
        rate = student.training.learning_rate
        raise DivergedStudentError(
            f"`learning_rate` must be less than {2.0 * rate / largest.max():.4g} for the resampled rows of every "
            f"student, or the steps diverge; got {rate:g}, which diverges for {int((largest >= 2.0).sum())} of "
            f"{len(largest)} students of a block"
        )
    pull = weighted.swapaxes(1, 2) @ labels
    first = np.zeros_like(pull) if start is None else start
    return _descend(curvature, pull, first, size, student.training)


def _estimated_weights(within: FloatArray, k: int) -> FloatArray:
    """Return one over the variance of each student's k responses, shape (B, n)."""
    variances = within / (k - 1)
    if (variances <= 0.0).any():
        student, row = (int(index) for index in np.argwhere(variances <= 0.0)[0])
        raise ObservationError(
            f"responses must differ at every input with weights='estimated'; got {k} equal responses at input {row} "
            f"(student {student} of its block)"
        )
    return np.asarray(1.0 / variances)


def _description(student: LinearStudent) -> str:
    if student.training is not None:
        training = student.training
        return f"{training.n_steps} full-batch gradient steps, learning rate {training.learning_rate:g}"
    return "least squares of smallest norm" if student.minimum_norm else "least squares"
