r"""Network students, trained full batch on the mean squared error, many at once.

All students share their inputs, so the first layer of a group of students is one matrix product
:math:`X\,[W_1 \cdots W_S]`, and so is its gradient. Around these two products a network with one
hidden layer and one output needs a single sweep over memory
(:func:`kdstats.networks.kernels.output_layer`); deeper networks use one batched product per layer.
Groups have a fixed size and each is trained by one thread, so the numbers depend neither on how
many students are trained nor on how many threads do it.

Training is in float32, as PyTorch's default. Rows that repeat an input (``multi_response``) need not
be repeated: the mean over kn rows of the squared error and the mean over the n inputs of the squared
error to the mean label differ by a constant, and their gradients are equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kdstats.errors import DivergedStudentError
from kdstats.networks.architecture import Architecture, Parameters, architecture_of, forward
from kdstats.networks.groups import for_groups
from kdstats.networks.kernels import LANES, adam_step, output_layer
from kdstats.problem.student import NetworkStudent

__all__ = ["TrainedNetworks", "train_networks"]

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

#: Adam's usual constants.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
#: Rows whose activations are held at once; bounds memory and keeps it in cache.
TILE = 512


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
    row_weights: NDArray[np.float64] | NDArray[np.int64] | None = None,
    n_workers: int | None = None,
    first_student: int = 0,
) -> TrainedNetworks:
    """Train S students on labels of their own at inputs they share.

    Parameters
    ----------
    X : (n, p) array
        Training inputs.
    labels : (S, n, q) array
        Labels of each student.
    student : NetworkStudent
        Architecture and optimiser.
    initial : tuple of (S, fan_in + 1, fan_out) arrays
        First weights, biases in the last row.
    row_weights : (S, n) array, optional
        How often each student sees each row. The loss is the mean over the rows seen and the
        outputs.
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
    inputs = torch.from_numpy(np.asarray(X, dtype=np.float32))
    weights = np.ones((n_students, n_rows)) if row_weights is None else np.asarray(row_weights, dtype=np.float64)
    weights = 2.0 * weights / (n_outputs * weights.sum(axis=1, keepdims=True))
    final = tuple(np.empty(layer.shape, dtype=np.float32) for layer in initial)
    last_finite = np.empty(n_students, dtype=np.int64)

    build = FusedGradient if len(architecture.widths) == 3 and n_outputs == 1 else LayeredGradient

    def train(group: slice) -> None:
        size = group.stop - group.start
        network = build(architecture, inputs, labels[group], weights[group], [layer[group] for layer in initial])
        last_finite[group] = _descend(network, student)[:size]
        for layer, trained in zip(final, network.layers(), strict=True):
            layer[group] = trained[:size]

    for_groups(train, n_students, n_workers=n_workers)
    _check_finite(final, last_finite, student, first_student)
    return TrainedNetworks(architecture=architecture, parameters=final)


class Gradient(Protocol):
    """Parameters of a group of students, flat, and the gradient of their losses."""

    parameters: torch.Tensor
    gradient: torch.Tensor

    def evaluate(self) -> Float32Array:
        """Fill ``gradient`` and return the loss of each student, shape (LANES,)."""
        ...

    def layers(self) -> list[Float32Array]:
        """Return the parameters by layer, shape (LANES, fan_in + 1, fan_out)."""
        ...


class FusedGradient:
    """One hidden layer, one output: two matrix products and one sweep, students innermost."""

    def __init__(
        self,
        architecture: Architecture,
        inputs: torch.Tensor,
        labels: FloatArray,
        row_weights: FloatArray,
        initial: list[Float32Array],
    ) -> None:
        self.smooth = architecture.activation == "tanh"
        rows, width = architecture.layer_shapes[0]
        self.shapes = ((rows, width, LANES), (width + 1, 1, LANES))
        self.parameters = torch.cat([torch.from_numpy(_lanes_last(layer)).reshape(-1) for layer in initial])
        self.gradient = torch.zeros_like(self.parameters)
        self.loss = np.zeros(LANES, dtype=np.float32)
        split = rows * width * LANES
        self.first, self.first_gradient = (
            flat[:split].view(rows, width * LANES) for flat in (self.parameters, self.gradient)
        )
        second, gradient = (flat[split:].numpy().reshape(width + 1, LANES) for flat in (self.parameters, self.gradient))
        self.output = second[:-1], second[-1], gradient[:-1], gradient[-1], self.loss, self.smooth
        self.tiles = _tiles(inputs, _lanes_last(labels[:, :, 0]), _lanes_last(row_weights), width)

    def evaluate(self) -> Float32Array:
        """Fill ``gradient`` and return the loss of each student."""
        self.gradient.zero_()
        self.loss.fill(0.0)
        for tile in self.tiles:
            torch.mm(tile.inputs, self.first, out=tile.hidden)
            if self.smooth:
                tile.hidden.tanh_()
            output_layer(tile.hidden_by_student, tile.labels, tile.row_weights, *self.output)
            self.first_gradient.addmm_(tile.inputs.t(), tile.hidden)
        return self.loss

    def layers(self) -> list[Float32Array]:
        """Return the parameters by layer."""
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = torch.split(self.parameters, sizes)
        return [np.moveaxis(part.numpy().reshape(shape), -1, 0) for part, shape in zip(parts, self.shapes, strict=True)]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Tile:
    """Some rows of a group's training set and the memory for their hidden units, shared by all tiles."""

    inputs: torch.Tensor
    hidden: torch.Tensor
    hidden_by_student: Float32Array
    labels: Float32Array
    row_weights: Float32Array


def _tiles(inputs: torch.Tensor, labels: Float32Array, row_weights: Float32Array, width: int) -> list[_Tile]:
    n = inputs.shape[0]
    extended = torch.cat([inputs, torch.ones(n, 1)], dim=1)
    memory = torch.empty(min(n, TILE), width * LANES)
    tiles = []
    for first in range(0, n, TILE):
        rows = slice(first, min(first + TILE, n))
        hidden = memory[: rows.stop - first]
        tiles.append(
            _Tile(
                inputs=extended[rows],
                hidden=hidden,
                hidden_by_student=hidden.numpy().reshape(-1, width, LANES),
                labels=labels[rows],
                row_weights=row_weights[rows],
            )
        )
    return tiles


class LayeredGradient:
    """Any depth, any number of outputs: one batched matrix product per layer and direction."""

    def __init__(
        self,
        architecture: Architecture,
        inputs: torch.Tensor,
        labels: FloatArray,
        row_weights: FloatArray,
        initial: list[Float32Array],
    ) -> None:
        self.architecture, self.inputs = architecture, inputs
        padded = [_pad(layer) for layer in initial]
        self.parameters = torch.cat([torch.from_numpy(layer).reshape(-1) for layer in padded])
        self.gradient = torch.zeros_like(self.parameters)
        sizes = [layer.size for layer in padded]
        self.weights, self.weights_gradient = (
            [part.view(layer.shape) for part, layer in zip(torch.split(flat, sizes), padded, strict=True)]
            for flat in (self.parameters, self.gradient)
        )
        self.labels = torch.from_numpy(_pad(labels))
        self.row_weights = torch.from_numpy(_pad(row_weights)).unsqueeze(-1)

    def evaluate(self) -> Float32Array:
        """Fill ``gradient`` and return the loss of each student."""
        signals = forward(self.architecture, self.weights, self.inputs)
        error = signals.pop() - self.labels
        delta = self.row_weights * error
        loss = (delta * error).sum(dim=(1, 2)).numpy()
        for depth in reversed(range(len(self.weights))):
            signal = signals[depth]
            torch.bmm(signal.transpose(1, 2), delta, out=self.weights_gradient[depth][:, :-1])
            torch.sum(delta, dim=1, out=self.weights_gradient[depth][:, -1])
            if depth:
                delta = torch.bmm(delta, self.weights[depth][:, :-1].transpose(1, 2))
                delta *= (signal > 0) if self.architecture.activation == "relu" else 1.0 - signal * signal
        return loss

    def layers(self) -> list[Float32Array]:
        """Return the parameters by layer."""
        return [layer.numpy() for layer in self.weights]


def _descend(network: Gradient, student: NetworkStudent) -> NDArray[np.int64]:
    """Take every step; return the last step at which each student's loss was finite."""
    last_finite = np.zeros(LANES, dtype=np.int64)
    flat = network.parameters.numpy(), network.gradient.numpy()
    moments = np.zeros_like(flat[0]), np.zeros_like(flat[0])
    f32 = np.float32
    decays = f32(1.0 - BETA1), f32(BETA2), f32(1.0 - BETA2)
    for step in range(1, student.epochs + 1):
        last_finite[np.isfinite(network.evaluate())] = step
        if student.optimizer == "adam":
            size = f32(student.learning_rate / (1.0 - BETA1**step))
            correction = f32(math.sqrt(1.0 - BETA2**step))
            adam_step(*flat, *moments, size, correction, *decays, f32(EPSILON))
        else:
            network.parameters.sub_(network.gradient, alpha=student.learning_rate)
    return last_finite


def _check_finite(
    final: Parameters, last_finite: NDArray[np.int64], student: NetworkStudent, first_student: int
) -> None:
    finite = np.logical_and.reduce([np.isfinite(layer).all(axis=(1, 2)) for layer in final])
    bad = np.flatnonzero(~finite | (last_finite < student.epochs))
    if bad.size:
        worst = bad[np.argmin(last_finite[bad])]
        raise DivergedStudentError(
            f"student {first_student + worst} diverged after step {last_finite[worst]} of {student.epochs} "
            f"({bad.size} of {finite.size} students of its block did); "
            f"`learning_rate` must be smaller than {student.learning_rate:g}, or X and the labels scaled"
        )


def _pad(array: NDArray[np.floating]) -> Float32Array:
    """Fill up with students of zeros, whose rows weigh nothing."""
    padded = np.zeros((LANES, *array.shape[1:]), dtype=np.float32)
    padded[: array.shape[0]] = array
    return padded


def _lanes_last(array: NDArray[np.floating]) -> Float32Array:
    return np.ascontiguousarray(np.moveaxis(_pad(array), 0, -1))
