r"""Network students, trained full batch on the mean squared error, many at once.

All students share their inputs, so the first layer of a group of students is one matrix product
:math:`X\,[W_1 \cdots W_S]`, and so is its gradient. The layers above, in which students share
nothing, are sweeps over memory with one student per SIMD lane (:mod:`kdstats.networks.kernels`).
Groups have a fixed size and each is trained by one thread, so the numbers depend neither on how
many students are trained nor on how many threads do it. What these loops do not know (other activations
and optimisers, wide layers that students share nothing of, scaled parameters) is trained by
:mod:`kdstats.networks.stacks`.

Training is in float32, as PyTorch's default. Rows that repeat an input (``multi_response``) need not
be repeated: the mean over kn rows of the squared error and the mean over the n inputs of the squared
error to the mean label differ by a constant, and their gradients are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kdstats.errors import DivergedStudentError
from kdstats.networks.architecture import (
    Architecture,
    Group,
    Parameters,
    architecture_of,
    extended,
    lanes_last,
    tiles,
)
from kdstats.networks.descent import BETA1, BETA2, EPSILON
from kdstats.networks.groups import for_groups
from kdstats.networks.kernels import LANES, adam_step, dense, dense_backward, residuals, scalar_output
from kdstats.networks.stacks import ALWAYS, BatchOrder, train_stacks
from kdstats.problem.student import NetworkStudent

__all__ = ["BETA1", "BETA2", "EPSILON", "TrainedNetworks", "train_networks"]

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedNetworks:
    """Students after training.

    Attributes
    ----------
    architecture : Architecture
    parameters : tuple of (S, fan_in + 1, fan_out) float32 arrays
        Final weights, biases in the last row.
    """

    architecture: Architecture
    parameters: Parameters


def train_networks(
    X: FloatArray,
    labels: FloatArray,
    *,
    student: NetworkStudent,
    initial: Parameters,
    rows: NDArray[np.int64] | None = None,
    spread: FloatArray | None = None,
    row_weights: FloatArray | NDArray[np.int64] | None = None,
    order: BatchOrder | None = None,
    n_workers: int | None = None,
    first_student: int = 0,
) -> TrainedNetworks:
    """Train S students on labels of their own at inputs they share.

    Parameters
    ----------
    X : (n, p) array
        Training inputs.
    labels : (S, n, q) or (S, N, q) array
        Labels of each student.
    student : NetworkStudent
        Architecture and optimiser.
    initial : tuple of (S, fan_in + 1, fan_out) arrays
        First weights, biases in the last row.
    rows : (N,) or (S, N) array of int, optional
        Input that each of N labels belongs to. Default: label i to input i. For mini-batches and dropout only: another
        full batch takes mean labels and ``row_weights``.
    spread : (S, N, q) array, optional
        For labels that are means of responses: the mean square of the responses around them, which the head
        ``gaussian`` has to explain. Default: 0.
    row_weights : (S, n) array, optional
        How often each student sees each row. The loss is the mean over the rows seen and the
        outputs.
    order : BatchOrder, optional
        For mini-batches and dropout: where their random orders and masks come from.
    n_workers : int, optional
        Threads. Default: as many as torch uses. The numbers do not depend on it.
    first_student : int, default 0
        Number of the first student, for messages.

    Returns
    -------
    TrainedNetworks

    Raises
    ------
    DivergedStudentError
        If a student's loss or parameters left the finite numbers.
    """
    n_students, n_rows, n_outputs = labels.shape
    architecture = architecture_of(student, n_features=X.shape[1], n_outputs=n_outputs)
    if not _in_lanes(student, architecture):
        final, last_finite = train_stacks(
            X,
            labels,
            architecture=architecture,
            student=student,
            initial=initial,
            rows=rows,
            spread=spread if student.head == "gaussian" else None,
            row_weights=row_weights,
            order=order,
            n_workers=n_workers,
        )
        n_steps = _n_steps(student, X.shape[0], np.arange(n_rows) if rows is None else rows)
        _check_finite(final, last_finite, student, n_steps=n_steps, first_student=first_student)
        return TrainedNetworks(architecture=architecture, parameters=final)
    inputs = extended(X)
    final = tuple(np.empty(layer.shape, dtype=np.float32) for layer in initial)
    last_finite = np.empty(n_students, dtype=np.int64)

    def train_group(students: slice) -> None:
        size = students.stop - students.start
        weights = np.ones((size, n_rows)) if row_weights is None else np.asarray(row_weights[students], dtype=float)
        weights = 2.0 * weights / (n_outputs * weights.sum(axis=1, keepdims=True))
        group = _Trainee(architecture, inputs, labels[students], weights, [layer[students] for layer in initial])
        last_finite[students] = _descend(group, student)[:size]
        for layer, trained in zip(final, group.layers, strict=True):
            layer[students] = np.moveaxis(trained, -1, 0)[:size]

    for_groups(train_group, n_students, n_workers=n_workers)
    last_finite[last_finite == student.epochs] = ALWAYS
    _check_finite(final, last_finite, student, n_steps=student.epochs, first_student=first_student)
    return TrainedNetworks(architecture=architecture, parameters=final)


def _in_lanes(student: NetworkStudent, architecture: Architecture) -> bool:
    """Whether the fused loops of this module train such a student; :mod:`kdstats.networks.stacks` trains them all."""
    plain = student.momentum == 0.0 and student.weight_decay == 0.0 and student.dropout == 0.0
    plain &= student.head == "mean" and student.batch_size is None and student.early_stopping is None
    return architecture.has_lanes and plain and student.optimizer in ("adam", "sgd")


class _Trainee(Group):
    """A group with its training set and the gradient of its losses."""

    def __init__(
        self,
        architecture: Architecture,
        inputs: torch.Tensor,
        labels: FloatArray,
        row_weights: FloatArray,
        initial: list[Float32Array],
    ) -> None:
        super().__init__(architecture, initial)
        self.gradient = torch.zeros_like(self.parameters)
        self.layer_gradients = self.by_layer(self.gradient)
        self.first_gradient = self.by_student_and_unit(self.gradient)
        self.loss = np.zeros(LANES, dtype=np.float32)
        targets, weights = lanes_last(labels), lanes_last(row_weights)
        self.tiles = [(inputs[rows], targets[rows], weights[rows]) for rows in tiles(inputs.shape[0])]

    def evaluate(self) -> Float32Array:
        """Fill ``gradient``; return the loss of each student, shape (LANES,)."""
        self.gradient.zero_()
        self.loss.fill(0.0)
        for inputs, labels, row_weights in self.tiles:
            self._backward(self.forward(inputs), labels, row_weights)
            self.first_gradient.addmm_(inputs.t(), self.hidden[0][: inputs.shape[0]])
        return self.loss

    def _backward(self, signals: list[Float32Array], labels: Float32Array, row_weights: Float32Array) -> None:
        """Turn hidden units into gradients with respect to their pre-activations, from the last layer down."""
        layers, gradients = self.layers, self.layer_gradients
        floor, curve = self.architecture.floor, self.architecture.curve
        if self.architecture.widths[-1] == 1:
            scalar_output(signals[-1], layers[-1], labels, row_weights, gradients[-1], self.loss, floor, curve)
        else:
            delta = np.empty_like(labels)
            dense(signals[-1], layers[-1], delta, floor)
            residuals(delta, labels, row_weights, self.loss)
            dense_backward(signals[-1], layers[-1], delta, gradients[-1], floor, curve)
        for depth in range(len(signals) - 1, 0, -1):
            dense_backward(signals[depth - 1], layers[depth], signals[depth], gradients[depth], floor, curve)


def _descend(group: _Trainee, student: NetworkStudent) -> NDArray[np.int64]:
    """Take every step; return the last step at which each student's loss was finite."""
    last_finite = np.zeros(LANES, dtype=np.int64)
    flat = group.parameters.numpy(), group.gradient.numpy()
    moments = np.zeros_like(flat[0]), np.zeros_like(flat[0])
    f32 = np.float32
    decays = f32(1.0 - BETA1), f32(BETA2), f32(1.0 - BETA2)
    for step in range(1, student.epochs + 1):
        last_finite[np.isfinite(group.evaluate())] = step
        if student.optimizer == "adam":
            size = f32(student.learning_rate / (1.0 - BETA1**step))
            correction = f32(math.sqrt(1.0 - BETA2**step))
            adam_step(*flat, *moments, size, correction, *decays, f32(EPSILON))
        else:
            group.parameters.sub_(group.gradient, alpha=student.learning_rate)
    return last_finite


def _n_steps(student: NetworkStudent, n_inputs: int, rows: NDArray[np.int64]) -> int:
    """Steps of a student that does not stop early."""
    n_rows = int(rows.shape[-1])
    if student.early_stopping is not None:
        n_rows -= int(student.early_stopping.held_out_inputs(n_inputs)[rows].sum())
    return student.epochs * math.ceil(n_rows / (student.batch_size or n_rows))


def _check_finite(
    final: Parameters, last_finite: NDArray[np.int64], student: NetworkStudent, *, n_steps: int, first_student: int
) -> None:
    finite = np.logical_and.reduce([np.isfinite(layer).reshape(len(layer), -1).all(axis=1) for layer in final])
    bad = np.flatnonzero(~finite | (last_finite != ALWAYS))
    if bad.size:
        steps = np.where(last_finite == ALWAYS, n_steps, last_finite)
        worst = bad[np.argmin(steps[bad])]
        if steps[worst] == 0:
            raise DivergedStudentError(
                f"student {first_student + worst} diverged after step 0 of {n_steps}, its first loss is not finite "
                f"({bad.size} of {finite.size} students of its block did): X and the labels must be small enough for "
                "float32, and a `module` must give finite outputs at X with its first parameters"
            )
        raise DivergedStudentError(
            f"student {first_student + worst} diverged after step {steps[worst]} of {n_steps} "
            f"({bad.size} of {finite.size} students of its block did); "
            f"`learning_rate` must be smaller than {student.learning_rate:g}, or X and the labels scaled"
        )
