"""Real students beside a prediction: their starts, their labels, their outputs at the query points and at the inputs.

Streams branch off the seeds of the problem, so that they are no students of an observation with the same
seed. One thing is shared with it on purpose: where the source ``student_initialization`` is off, or perturbs
a common start, that start is the common draw of that seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdstats.networks.architecture import (
    Architecture,
    Parameters,
    architecture_of,
    initial_parameters,
    perturbed_parameters,
    predict,
)
from kdstats.networks.dropout import Dropout
from kdstats.networks.passes import has_own_variance, own_variance
from kdstats.networks.stacks import BatchOrder
from kdstats.networks.tangents import label_response
from kdstats.networks.training import train_networks
from kdstats.prediction.networks.spread import Outputs
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import NetworkStudent
from kdstats.sampling.training_sets import covariance_root
from kdstats.streams import Seeds

__all__ = [
    "Pilot",
    "draw_noise",
    "draw_starts",
    "mask_order",
    "masks_vary",
    "network_of",
    "run_pilot",
    "train_students",
]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Pilot:
    """A noise-free student and the derivatives of its outputs by its labels.

    Attributes
    ----------
    predictions : (m, q) ndarray
    residuals : (n, q) ndarray
        Labels less fitted outputs.
    at_points : (m, q, n, q) ndarray
        Derivative of each output at the points by each label.
    at_inputs : (n, q, n, q) ndarray
        The same at the training inputs.
    """

    predictions: FloatArray
    residuals: FloatArray
    at_points: FloatArray
    at_inputs: FloatArray


def network_of(problem: DistillationProblem) -> tuple[NetworkStudent, Architecture]:
    """Return the student of a problem and its shape."""
    student, teacher = problem.student, problem.teacher
    assert isinstance(student, NetworkStudent)
    return student, architecture_of(student, n_features=teacher.n_features, n_outputs=teacher.n_outputs)


def draw_starts(problem: DistillationProblem, seeds: Seeds, n_students: int, *, own: Seeds | None = None) -> Parameters:
    """Draw first weights: one set for each student (drawn anew, or the common one perturbed), or one that all share.

    The common one comes from ``seeds``, what students have of their own from ``own``. Default: a branch of ``seeds``.
    """
    student, architecture = network_of(problem)
    common = initial_parameters(architecture, seeds.generator("student_initialization", "common"), n_students=1)
    if "student_initialization" not in problem.design.sources:
        return common
    own = seeds.branch("response") if own is None else own
    generator, sd = own.generator("student_initialization"), student.perturbation_sd
    if sd is None:
        return initial_parameters(architecture, generator, n_students=n_students)
    return perturbed_parameters(common, generator, n_students=n_students, perturbation_sd=sd)


def draw_noise(problem: DistillationProblem, seeds: Seeds, covariance: FloatArray, n_students: int) -> FloatArray:
    """Draw Gaussian label noise of a given covariance (scalar, per input or full), shape (n_students, n, q).

    The standard normals behind it depend on the seeds alone: noise of two amplitudes is the same but for scale.
    """
    teacher = problem.gaussian_teacher
    generator = seeds.branch("response").generator("teacher_output")
    noise = generator.standard_normal((n_students, teacher.n_inputs, teacher.n_outputs))
    root = covariance_root(covariance)
    if root.ndim == 2:
        return np.asarray(np.einsum("ij,sjq->siq", root, noise, optimize=True))
    return np.asarray(noise * (root[:, None] if root.ndim else root))


def masks_vary(problem: DistillationProblem) -> bool:
    """Whether students have masks of dropout of their own in training."""
    student, _ = network_of(problem)
    return student.dropout > 0.0 and "data_order" in problem.design.sources


def mask_order(problem: DistillationProblem, seeds: Seeds, numbers: NDArray[np.int64]) -> BatchOrder | None:
    """Return where the masks of numbered students come from, None without dropout.

    Masks that all students share are those of an observation with the same seed, as their start is.
    """
    if network_of(problem)[0].dropout == 0.0:
        return None
    if masks_vary(problem):
        return BatchOrder(seeds=seeds.branch("response"), numbers=numbers)
    return BatchOrder(seeds=seeds, common=True, numbers=numbers)


def train_students(
    problem: DistillationProblem,
    noise: FloatArray | None,
    starts: Parameters,
    *,
    n_workers: int | None = None,
    order: BatchOrder | None = None,
) -> Outputs:
    """Train one student for each label vector (mean plus noise) or start; a single start serves all."""
    student, architecture = network_of(problem)
    mean = problem.gaussian_teacher.mean_by_output
    n_students = len(starts[0]) if noise is None else len(noise)
    labels = np.broadcast_to(mean, (n_students, *mean.shape)) if noise is None else mean + noise
    first = starts if len(starts[0]) == n_students else tuple(np.repeat(layer, n_students, axis=0) for layer in starts)
    X = problem.gaussian_teacher.X
    networks = train_networks(X, labels, student=student, initial=first, n_workers=n_workers, order=order)
    trained = networks.parameters
    predictions = predict(architecture, trained, problem.X_query, n_workers=n_workers)
    fitted = predictions if problem.design.X_query is None else predict(architecture, trained, X, n_workers=n_workers)
    own = None
    if student.dropout > 0.0 and has_own_variance(student):
        own = own_variance(networks, problem.X_query, student=student, n_workers=n_workers)
    return Outputs(predictions=predictions, residuals=labels - fitted, own=own)


def run_pilot(problem: DistillationProblem, start: Parameters, order: BatchOrder | None = None) -> Pilot:
    """Train one student on the teacher's mean and differentiate its run by every label; ``order`` is its masks'."""
    student, architecture = network_of(problem)
    dropout = None
    if order is not None:
        dropout = Dropout(student.dropout, architecture.widths[1:-1], order.masks(np.zeros(1, dtype=np.int64)))
    teacher, m = problem.gaussian_teacher, problem.n_points
    n, q = teacher.n_inputs, teacher.n_outputs
    own = problem.design.X_query is None
    points = teacher.X if own else np.vstack([problem.X_query, teacher.X])
    mean = teacher.mean_by_output
    run = label_response(
        teacher.X,
        mean,
        student=student,
        initial=start,
        directions=np.eye(n * q).reshape(n, q, n * q),
        points=points,
        dropout=dropout,
    )
    response = run.response.reshape(-1, q, n, q)
    return Pilot(
        predictions=run.predictions[:m],
        residuals=mean - run.predictions[-n:],
        at_points=response[:m],
        at_inputs=response[-n:],
    )
