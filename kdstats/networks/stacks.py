r"""Networks of every kind, a few at a time: products of stacks of matrices, gradients by torch's autograd.

The parameters of a stack of students lie along the first axis and their losses are added up, so that
each student's gradient is its own and every optimiser that works element by element trains all of
them at once. How many students are in a stack follows from the network and the number of rows alone,
stacks are filled up with copies of their last student, and each is trained by one thread: numbers depend
neither on threads nor on how many students are trained. Students that share labels, rows, order and start are
one student: it is trained once, which makes them equal to the last bit whatever place in a stack a matrix has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from kdstats.networks.descent import Optimizer
from kdstats.networks.dropout import Dropout
from kdstats.networks.groups import for_groups
from kdstats.networks.kernels import LANES
from kdstats.networks.modules import ModuleStack
from kdstats.problem.student import EarlyStopping, NetworkStudent
from kdstats.streams import Seeds

if TYPE_CHECKING:
    from kdstats.networks.architecture import Architecture, Parameters

__all__ = ["ALWAYS", "BatchOrder", "predict_stacks", "stack_size", "train_stacks"]

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

#: Bytes that parameters, moments and activations of one stack may take.
MEMORY = 32 * 2**20
#: Copies of the parameters, and of the hidden units, that training holds.
PARAMETER_COPIES, UNIT_COPIES = 4, 4
#: Stands for the last finite step of a student whose losses were all finite.
ALWAYS = -1
#: Rows that are predicted at once.
PREDICTION_ROWS = 4096

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "gelu": torch.nn.functional.gelu,
}


class Stack:
    """Stacked parameters of some students and the pass from inputs to outputs.

    Attributes
    ----------
    parameters : list of tensors
        Weights (C, fan_in, fan_out) and biases (C, 1, fan_out), in turns from the first layer on.
    """

    def __init__(self, architecture: Architecture, parameters: Sequence[Float32Array]) -> None:
        self.architecture = architecture
        self.parameters = [torch.tensor(part) for layer in parameters for part in (layer[:, :-1], layer[:, -1:])]

    def __call__(self, inputs: torch.Tensor, factors: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Return outputs (C, rows, q) at inputs that all students share (rows, p), or of their own (C, rows, p).

        ``factors``, shapes (C or 1, rows, width), multiply the units of each hidden layer. Default: 1.
        """
        signal = inputs.expand(self.parameters[0].shape[0], *inputs.shape[-2:])
        activation = ACTIVATIONS[self.architecture.activation]
        layers = zip(self.parameters[::2], self.parameters[1::2], self.architecture.scales, strict=True)
        for depth, (weights, biases, (weight_scale, bias_scale)) in enumerate(layers):
            if depth:
                signal = activation(signal)
                signal = signal * factors[depth - 1] if factors else signal
            signal = torch.baddbmm(biases, signal, weights, beta=bias_scale, alpha=weight_scale)
        return signal

    def arrays(self) -> Parameters:
        """Return the parameters by layer, biases in the last row."""
        pairs = zip(self.parameters[::2], self.parameters[1::2], strict=True)
        return tuple(torch.cat(pair, dim=1).detach().numpy() for pair in pairs)


def stack_of(architecture: Architecture, parameters: Sequence[Float32Array]) -> Stack | ModuleStack:
    """Return the networks with some parameters."""
    if architecture.module is not None:
        return ModuleStack(architecture.module, list(parameters))
    return Stack(architecture, parameters)


def stack_size(architecture: Architecture, n_rows: int) -> int:
    """Return how many students are trained at once: a power of 2 up to LANES that fits the memory of a stack."""
    units = n_rows * sum(architecture.widths[1:])
    each = 4 * (PARAMETER_COPIES * architecture.n_parameters + UNIT_COPIES * units)
    most = int(min(max(MEMORY // each, 1), LANES))
    return 1 << (most.bit_length() - 1)


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """Where the random orders of the rows, and the masks of dropout, come from.

    Attributes
    ----------
    seeds : Seeds
    first_student : int
        Number of the first of the students that are trained.
    common : bool
        Whether all students go through their rows in the same orders.
    numbers : (S,) ndarray of int, optional
        Whose order each student has. Default: its own.
    """

    seeds: Seeds
    first_student: int = 0
    common: bool = False
    numbers: NDArray[np.int64] | None = None

    def generator(self, student: int) -> np.random.Generator:
        """Return what one student's rows are shuffled with: one ``permutation`` of them for each epoch."""
        return self.seeds.generator("data_order", self._path(student))

    def masks(self, students: NDArray[np.int64]) -> list[np.random.Generator]:
        """Return what the masks of each student are drawn with, or one generator if they have them in common."""
        paths = ["common"] if self.common else [self._path(student) for student in students]
        return [self.seeds.generator("data_order", path, "dropout") for path in paths]

    def _path(self, student: int) -> int | str:
        if self.common:
            return "common"
        return self.first_student + int(student) if self.numbers is None else int(self.numbers[student])


def train_stacks(
    X: FloatArray,
    labels: FloatArray,
    *,
    architecture: Architecture,
    student: NetworkStudent,
    initial: Parameters,
    rows: NDArray[np.int64] | None,
    spread: FloatArray | None,
    row_weights: FloatArray | NDArray[np.int64] | None,
    order: BatchOrder | None,
    n_workers: int | None,
) -> tuple[Parameters, NDArray[np.int64]]:
    """Train S students; return their parameters and the last step at which each one's loss was finite, or ALWAYS.

    Arguments are those of :func:`kdstats.networks.training.train_networks`.
    """
    own = [array for array in (row_weights, rows, spread) if array is not None and array.ndim > 1]
    first, copies = _distinct(labels, *initial, *own)
    ordered = student.batch_size is not None or student.dropout > 0.0
    if first.size < labels.shape[0] and (not ordered or order is None or order.common):
        distinct, steps = train_stacks(
            X,
            labels[first],
            architecture=architecture,
            student=student,
            initial=tuple(layer[first] for layer in initial),
            rows=rows if rows is None or rows.ndim == 1 else rows[first],
            spread=None if spread is None else spread[first],
            row_weights=None if row_weights is None else row_weights[first],
            order=order,
            n_workers=n_workers,
        )
        return tuple(layer[copies] for layer in distinct), steps[copies]
    n_students, n_rows, _ = labels.shape
    size = stack_size(architecture, min(n_rows, student.batch_size or n_rows))
    inputs = torch.from_numpy(X.astype(np.float32))
    final = tuple(np.empty(layer.shape, dtype=np.float32) for layer in initial)
    last_finite = np.empty(n_students, dtype=np.int64)

    def train(students: slice) -> None:
        filled = np.minimum(np.arange(students.start, students.start + size), students.stop - 1)
        stack = stack_of(architecture, [layer[filled] for layer in initial])
        data = _TrainingRows(
            inputs=inputs,
            labels=_single(labels[filled]),
            rows=None if rows is None else torch.from_numpy(rows if rows.ndim == 1 else rows[filled]),
            spread=None if spread is None else _single(spread[filled]),
            weights=None if row_weights is None else _single(row_weights[filled]),
            head=student.head,
        )
        shuffles = [order.generator(int(number)) for number in filled] if order is not None else []
        dropout = None
        if student.dropout > 0.0:
            assert order is not None
            dropout = Dropout(student.dropout, architecture.widths[1:-1], order.masks(filled))
        steps = _descend(stack, data, student, shuffles, dropout)
        last_finite[students] = steps[: students.stop - students.start]
        for layer, trained in zip(final, stack.arrays(), strict=True):
            layer[students] = trained[: students.stop - students.start]

    for_groups(train, n_students, size=size, n_workers=n_workers)
    return final, last_finite


def predict_stacks(
    architecture: Architecture, parameters: Parameters, X: FloatArray, *, n_workers: int | None = None
) -> FloatArray:
    """Return the outputs of S networks at m points, shape (S, m, q); computed in float32."""
    n_students, inputs = parameters[0].shape[0], torch.from_numpy(X.astype(np.float32))
    outputs = np.empty((n_students, inputs.shape[0], architecture.widths[-1]))
    size = stack_size(architecture, min(inputs.shape[0], PREDICTION_ROWS))

    def predict(students: slice) -> None:
        filled = np.minimum(np.arange(students.start, students.start + size), students.stop - 1)
        stack = stack_of(architecture, [layer[filled] for layer in parameters])
        with torch.no_grad():
            for first in range(0, inputs.shape[0], PREDICTION_ROWS):
                rows = slice(first, first + PREDICTION_ROWS)
                outputs[students, rows] = stack(inputs[rows])[: students.stop - students.start].numpy()

    for_groups(predict, n_students, size=size, n_workers=n_workers)
    return outputs


@dataclass(frozen=True, eq=False, kw_only=True)
class _TrainingRows:
    """What C students are trained on.

    Attributes
    ----------
    inputs : (n, p) tensor
    labels : (C, N, q) tensor
    rows : (N,) or (C, N) tensor of int, optional
        Input that each label belongs to. Default: label i to input i.
    spread : (C, N, q) tensor, optional
        Mean square of the responses around a label that is their mean. Default: 0.
    weights : (C, N) tensor, optional
        How often each row counts. Default: once.
    head : {"mean", "gaussian", "softmax"}
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor | None = None
    spread: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    head: str = "mean"

    def select(self, place: torch.Tensor) -> _TrainingRows:
        """Return some rows: places (M,) of all students, or (C, M) of each."""
        if place.ndim == 1:
            rows = place if self.rows is None else self.rows[..., place]
            weights = None if self.weights is None else self.weights[:, place]
            spread = None if self.spread is None else self.spread[:, place]
            return replace(self, labels=self.labels[:, place], rows=rows, spread=spread, weights=weights)
        own = place if self.rows is None else self.rows.expand(place.shape[0], -1).gather(1, place)
        wide = place[..., None].expand(-1, -1, self.labels.shape[2])
        spread = None if self.spread is None else self.spread.gather(1, wide)
        return replace(self, labels=self.labels.gather(1, wide), rows=own, spread=spread)

    def losses(self, stack: Stack | ModuleStack, dropout: Dropout | None = None) -> torch.Tensor:
        """Mean loss of each student over the rows, shape (C,); with new masks if units are dropped."""
        inputs = self.inputs if self.rows is None else self.inputs[self.rows]
        if dropout is None:
            outputs = stack(inputs)
        else:
            assert isinstance(stack, Stack)
            outputs = stack(inputs, dropout.factors(self.labels.shape[1]))
        by_row = self._losses_by_row(outputs)
        if self.weights is None:
            return by_row.mean(dim=1)
        return (by_row * (self.weights / self.weights.sum(dim=1, keepdim=True))).sum(dim=1)

    def _losses_by_row(self, outputs: torch.Tensor) -> torch.Tensor:
        """Loss of each row, shape (C, N): the mean over outputs, or the cross-entropy of classes."""
        if self.head == "mean":
            return (outputs - self.labels).square().mean(dim=2)
        if self.head == "softmax":
            return -(self.labels * torch.log_softmax(outputs, dim=2)).sum(dim=2)
        mean, log_variance = outputs.chunk(2, dim=2)
        squares = (mean - self.labels).square()
        squares = squares if self.spread is None else squares + self.spread
        return 0.5 * (log_variance + squares * torch.exp(-log_variance)).mean(dim=2)


def _descend(
    stack: Stack | ModuleStack,
    data: _TrainingRows,
    student: NetworkStudent,
    shuffles: list[np.random.Generator],
    dropout: Dropout | None,
) -> NDArray[np.int64]:
    """Train for all epochs, or until all have stopped; return each one's last step of finite loss, or ALWAYS."""
    for parameter in stack.parameters:
        parameter.requires_grad_()
    optimizer = Optimizer(student, stack.parameters)
    watch = None
    if student.early_stopping is not None:
        held = torch.from_numpy(student.early_stopping.held_out_inputs(data.inputs.shape[0]))
        held = held if data.rows is None else held[data.rows]
        watch = _Watch(student.early_stopping, stack, data.select(held.nonzero()[:, 0]))
        data = data.select((~held).nonzero()[:, 0])
    n_students, step = data.labels.shape[0], 0
    last_finite, diverged = torch.zeros(n_students, dtype=torch.int64), torch.zeros(n_students, dtype=torch.bool)
    for _ in range(student.epochs):
        for batch in _batches(data, student, shuffles):
            losses, step = batch.losses(stack, dropout), step + 1
            diverged |= ~losses.detach().isfinite() & (True if watch is None else ~watch.stopped)
            last_finite[~diverged] = step
            optimizer.step(torch.autograd.grad(losses.sum(), stack.parameters))
        if watch is not None and watch.look():
            break
    if watch is not None:
        watch.go_back()
    return torch.where(last_finite == step, ALWAYS, last_finite).numpy()


def _batches(
    data: _TrainingRows, student: NetworkStudent, shuffles: list[np.random.Generator]
) -> Iterator[_TrainingRows]:
    """Cut the rows of one epoch into mini-batches, in a new random order."""
    if student.batch_size is None:
        yield data
        return
    n_rows = data.labels.shape[1]
    order = torch.from_numpy(np.stack([generator.permutation(n_rows) for generator in shuffles]))
    for first in range(0, n_rows, student.batch_size):
        yield data.select(order[:, first : first + student.batch_size])


class _Watch:
    """Held-out losses of some students, and their best parameters so far.

    Attributes
    ----------
    stopped : (C,) tensor of bool
        Whose best parameters are final.
    """

    def __init__(self, rule: EarlyStopping, stack: Stack | ModuleStack, held_out: _TrainingRows) -> None:
        self.rule, self.stack, self.held_out = rule, stack, held_out
        n_students = held_out.labels.shape[0]
        self.best = torch.full((n_students,), torch.inf)
        self.waited = torch.zeros(n_students, dtype=torch.int64)
        self.stopped = torch.zeros(n_students, dtype=torch.bool)
        self.parameters = [parameter.detach().clone() for parameter in stack.parameters]

    def look(self) -> bool:
        """Compute the held-out losses after an epoch; return whether every student has stopped."""
        with torch.no_grad():
            losses = self.held_out.losses(self.stack)
            better = (losses < self.best - self.rule.min_improvement) & ~self.stopped
            self.best = torch.where(better, losses, self.best)
            self.waited = torch.where(better, 0, self.waited + 1)
            self.stopped |= self.waited >= self.rule.patience
            for kept, parameter in zip(self.parameters, self.stack.parameters, strict=True):
                kept[better] = parameter[better]
        return bool(self.stopped.all())

    def go_back(self) -> None:
        """Give every student its best parameters."""
        self.stack.parameters = self.parameters


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
