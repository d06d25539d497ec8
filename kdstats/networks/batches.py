r"""Networks of every kind, a few at a time: products of stacks of matrices, gradients by torch's autograd.

The parameters of a batch of students are stacked along the first axis and their losses added up, so
that each student's gradient is its own and every optimiser that works element by element trains all of
them at once. How many students are in a batch follows from the network and the number of rows alone,
batches are filled up with copies of their last student, and each is trained by one thread: numbers depend
neither on threads nor on how many students are trained. Students that share labels, rows and start are one
student: it is trained once, which makes them equal to the last bit whatever place of a stack a matrix is in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from kdstats.networks.groups import for_groups
from kdstats.networks.kernels import LANES
from kdstats.problem.student import NetworkStudent

if TYPE_CHECKING:
    from kdstats.networks.architecture import Architecture, Parameters

__all__ = ["batch_size", "predict_batches", "train_batches"]

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

#: Bytes that parameters, moments and activations of one batch may take.
MEMORY = 32 * 2**20
#: Copies of the parameters, and of the hidden units, that training holds.
PARAMETER_COPIES, UNIT_COPIES = 4, 4
#: Rows that are predicted at once.
PREDICTION_ROWS = 4096

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "gelu": torch.nn.functional.gelu,
}


class Batch:
    """Stacked parameters of some students and the pass from inputs to outputs.

    Attributes
    ----------
    parameters : list of tensors
        Weights (C, fan_in, fan_out) and biases (C, 1, fan_out), in turns from the first layer on.
    """

    def __init__(self, architecture: Architecture, parameters: Sequence[Float32Array]) -> None:
        self.architecture = architecture
        self.parameters = [torch.tensor(part) for layer in parameters for part in (layer[:, :-1], layer[:, -1:])]

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs (C, rows, q) at inputs that all students share (rows, p), or of their own (C, rows, p)."""
        signal = inputs.expand(self.parameters[0].shape[0], *inputs.shape[-2:])
        activation = ACTIVATIONS[self.architecture.activation]
        layers = zip(self.parameters[::2], self.parameters[1::2], self.architecture.scales, strict=True)
        for depth, (weights, biases, (weight_scale, bias_scale)) in enumerate(layers):
            signal = torch.baddbmm(
                biases, activation(signal) if depth else signal, weights, beta=bias_scale, alpha=weight_scale
            )
        return signal

    def arrays(self) -> Parameters:
        """Return the parameters by layer, biases in the last row."""
        pairs = zip(self.parameters[::2], self.parameters[1::2], strict=True)
        return tuple(torch.cat(pair, dim=1).detach().numpy() for pair in pairs)


def batch_size(architecture: Architecture, n_rows: int) -> int:
    """Return how many students are trained at once: a power of 2 up to LANES that fits the memory of a batch."""
    units = n_rows * sum(architecture.widths[1:])
    each = 4 * (PARAMETER_COPIES * architecture.n_parameters + UNIT_COPIES * units)
    most = int(min(max(MEMORY // each, 1), LANES))
    return 1 << (most.bit_length() - 1)


def train_batches(
    X: FloatArray,
    labels: FloatArray,
    *,
    architecture: Architecture,
    student: NetworkStudent,
    initial: Parameters,
    row_weights: FloatArray | NDArray[np.int64] | None,
    n_workers: int | None,
) -> tuple[Parameters, NDArray[np.int64]]:
    """Train S students; return their parameters and the last step at which each one's loss was finite.

    Arguments are those of :func:`kdstats.networks.training.train_networks`.
    """
    first, copies = _distinct(labels, *initial, *(() if row_weights is None else (row_weights,)))
    if first.size < labels.shape[0]:
        distinct, steps = train_batches(
            X,
            labels[first],
            architecture=architecture,
            student=student,
            initial=tuple(layer[first] for layer in initial),
            row_weights=None if row_weights is None else row_weights[first],
            n_workers=n_workers,
        )
        return tuple(layer[copies] for layer in distinct), steps[copies]
    n_students, n_rows, _ = labels.shape
    size = batch_size(architecture, n_rows)
    inputs = torch.from_numpy(X.astype(np.float32))
    final = tuple(np.empty(layer.shape, dtype=np.float32) for layer in initial)
    last_finite = np.empty(n_students, dtype=np.int64)

    def train(students: slice) -> None:
        filled = np.minimum(np.arange(students.start, students.start + size), students.stop - 1)
        batch = Batch(architecture, [layer[filled] for layer in initial])
        weights = np.ones((size, n_rows)) if row_weights is None else np.asarray(row_weights[filled], dtype=float)
        weights /= weights.sum(axis=1, keepdims=True)
        steps = _descend(batch, inputs, _single(labels[filled]), _single(weights), student)
        last_finite[students] = steps[: students.stop - students.start]
        for layer, trained in zip(final, batch.arrays(), strict=True):
            layer[students] = trained[: students.stop - students.start]

    for_groups(train, n_students, size=size, n_workers=n_workers)
    return final, last_finite


def predict_batches(
    architecture: Architecture, parameters: Parameters, X: FloatArray, *, n_workers: int | None = None
) -> FloatArray:
    """Return the outputs of S networks at m points, shape (S, m, q); computed in float32."""
    n_students, inputs = parameters[0].shape[0], torch.from_numpy(X.astype(np.float32))
    outputs = np.empty((n_students, inputs.shape[0], architecture.widths[-1]))
    size = batch_size(architecture, min(inputs.shape[0], PREDICTION_ROWS))

    def predict(students: slice) -> None:
        filled = np.minimum(np.arange(students.start, students.start + size), students.stop - 1)
        batch = Batch(architecture, [layer[filled] for layer in parameters])
        with torch.no_grad():
            for first in range(0, inputs.shape[0], PREDICTION_ROWS):
                rows = slice(first, first + PREDICTION_ROWS)
                outputs[students, rows] = batch(inputs[rows])[: students.stop - students.start].numpy()

    for_groups(predict, n_students, size=size, n_workers=n_workers)
    return outputs


def optimizer_of(student: NetworkStudent, parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
    """Return torch's optimiser of stacked parameters."""
    rate, decay = student.learning_rate, student.weight_decay
    if student.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=student.momentum, weight_decay=decay)
    kind = torch.optim.Adam if student.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=rate, weight_decay=decay)


def _descend(
    batch: Batch, inputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, student: NetworkStudent
) -> NDArray[np.int64]:
    """Take every step; return the last step at which each student's loss was finite."""
    for parameter in batch.parameters:
        parameter.requires_grad_()
    optimizer = optimizer_of(student, batch.parameters)
    last_finite = torch.zeros(labels.shape[0], dtype=torch.int64)
    for step in range(1, student.epochs + 1):
        optimizer.zero_grad()
        losses = (weights * (batch(inputs) - labels).square().mean(dim=2)).sum(dim=1)
        last_finite[losses.detach().isfinite()] = step
        losses.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return last_finite.numpy()


def _distinct(*arrays: NDArray[np.generic]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first student of each kind, and the kind of each student; students are the first axis."""
    kinds: dict[bytes, int] = {}
    first: list[int] = []
    copies: list[int] = []
    for student in range(arrays[0].shape[0]):
        digest = hashlib.sha256()
        for array in arrays:
            digest.update(np.ascontiguousarray(array[student]).data)
        kind = kinds.setdefault(digest.digest(), len(kinds))
        copies.append(kind)
        if kind == len(first):
            first.append(student)
    return np.array(first), np.array(copies)


def _single(array: NDArray[np.floating]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
