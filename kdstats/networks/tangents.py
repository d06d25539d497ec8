r"""One training run, differentiated with respect to its labels.

Beside the parameters :math:`\theta_t` of a network travel their derivatives along B directions of the
labels, :math:`\dot\theta_t = \partial\theta_t/\partial y \cdot v`: every step of the optimiser is differentiated
as it is taken (forward mode), the gradient's derivative being a Hessian-vector product and the push of the labels.
All directions share the network, so each layer is a few matrix products for all of them.

The derivative is that of the computed trajectory. Where a hidden ReLU switches sides at some input, the
trajectory jumps by a finite amount that no derivative sees; see :doc:`/theory/network-students`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kdstats.errors import DivergedStudentError
from kdstats.networks.architecture import Parameters, architecture_of
from kdstats.networks.dropout import Dropout
from kdstats.networks.training import BETA1, BETA2, EPSILON
from kdstats.problem.student import NetworkStudent

__all__ = ["LabelResponse", "label_response"]

FloatArray = NDArray[np.float64]
Curve = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]

#: Numbers held at once for the hidden units of one layer: rows of a tile times directions times units.
TILE_SIZE = 300_000


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelResponse:
    """A trained network and how its outputs answer to its labels.

    Attributes
    ----------
    predictions : (m, q) ndarray
        Outputs at the points.
    response : (m, q, B) ndarray
        Their derivatives along the B directions.
    """

    predictions: FloatArray
    response: FloatArray


def label_response(
    X: FloatArray,
    labels: FloatArray,
    *,
    student: NetworkStudent,
    initial: Parameters,
    directions: FloatArray,
    points: FloatArray,
    double: bool = False,
    dropout: Dropout | None = None,
) -> LabelResponse:
    """Train one network and differentiate the run along directions of its labels.

    Parameters
    ----------
    X : (n, p) ndarray
    labels : (n, q) ndarray
    student : NetworkStudent
    initial : tuple of (1, fan_in + 1, fan_out) arrays
        First weights of the one network.
    directions : (n, q, B) ndarray
        Derivatives of the labels.
    points : (m, p) ndarray
    double : bool, default False
        Compute in float64 instead of the float32 of training.
    dropout : Dropout, optional
        For a student with dropout: draws the masks of its steps, which the labels do not move.

    Raises
    ------
    DivergedStudentError
        If the run or its derivatives left the finite numbers.
    """
    dtype = torch.float64 if double else torch.float32
    run = _Run(X, labels, directions, student, initial, dtype)
    run.dropout = dropout
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for step in range(1, student.epochs + 1):
            run.step(step)
        signal, tangent = run.outputs(torch.as_tensor(np.array(points), dtype=dtype))
    finally:
        torch.set_num_threads(threads)
    if not (torch.isfinite(signal).all() and torch.isfinite(tangent).all()):
        raise DivergedStudentError(
            f"the run or its derivatives left the finite numbers within {student.epochs} steps; `learning_rate` must "
            f"be smaller than {student.learning_rate:g}, or X and the labels scaled"
        )
    return LabelResponse(
        predictions=signal.double().numpy(), response=np.moveaxis(tangent.double().numpy(), 1, -1).copy()
    )


class _Run:
    """Parameters with their changes along the directions, (fan_in + 1, fan_out) and (fan_in + 1, B, fan_out)."""

    def __init__(
        self,
        X: FloatArray,
        labels: FloatArray,
        directions: FloatArray,
        student: NetworkStudent,
        initial: Parameters,
        dtype: torch.dtype,
    ) -> None:
        self.student, self.curve = student, CURVES[student.activation]
        self.inputs, self.labels = (torch.as_tensor(np.array(part), dtype=dtype) for part in (X, labels))
        self.pushes = torch.as_tensor(np.moveaxis(directions, -1, 1).copy(), dtype=dtype)
        self.n_directions = directions.shape[-1]
        self.parameters = [torch.as_tensor(np.array(layer[0]), dtype=dtype) for layer in initial]
        self.changes = [layer.new_zeros(len(layer), self.n_directions, layer.shape[1]) for layer in self.parameters]
        scales = architecture_of(student, n_features=X.shape[1], n_outputs=labels.shape[1]).scales
        self.scales = [
            layer.new_tensor([weights] * (len(layer) - 1) + [biases])[:, None]
            for layer, (weights, biases) in zip(self.parameters, scales, strict=True)
        ]
        self._scale()
        self.dropout: Dropout | None = None
        self.factors: list[torch.Tensor] = []
        adaptive = student.optimizer in ("adam", "adamw")
        self.optimizers = [
            (_Adam if adaptive else _Descent)(student, *pair)
            for pair in zip(self.parameters, self.changes, strict=True)
        ]
        widest = max(layer.shape[1] for layer in self.parameters)
        self.tile = max(1, min(len(X), TILE_SIZE // (self.n_directions * widest)))

    def step(self, number: int) -> None:
        """Take one step of the optimiser, and of its derivative."""
        gradients = [torch.zeros_like(layer) for layer in self.layers]
        tangents = [torch.zeros_like(tangent) for tangent in self.tangents]
        if self.dropout is not None:
            self.factors = [factor[0].to(self.inputs.dtype) for factor in self.dropout.factors(len(self.inputs))]
        for first in range(0, len(self.inputs), self.tile):
            self._backward(slice(first, first + self.tile), gradients, tangents)
        for depth, optimizer in enumerate(self.optimizers):
            scale = self.scales[depth]
            optimizer.step(scale * gradients[depth], scale[:, None] * tangents[depth], number)
        self._scale()

    def _scale(self) -> None:
        """Set ``layers`` and ``tangents`` to what the layers multiply with: parameters times their scales."""
        self.layers = [scale * layer for scale, layer in zip(self.scales, self.parameters, strict=True)]
        self.tangents = [scale[:, None] * change for scale, change in zip(self.scales, self.changes, strict=True)]

    def outputs(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return outputs (rows, q) and their tangents (rows, B, q)."""
        parts = [self._forward(inputs[first : first + self.tile])[-1] for first in range(0, len(inputs), self.tile)]
        return torch.cat([part.signal for part in parts]), torch.cat([part.tangent for part in parts])

    def _forward(self, inputs: torch.Tensor, factors: Sequence[torch.Tensor] = ()) -> list[_Units]:
        """Return what every layer holds, from the inputs to the outputs; ``factors`` multiply the hidden units."""
        rows, B = len(inputs), self.n_directions
        units = [_Units(signal=inputs, tangent=inputs.new_zeros(0))]
        for depth, (layer, change) in enumerate(zip(self.layers, self.tangents, strict=True)):
            below, weights = units[-1], layer[:-1]
            signal = torch.addmm(layer[-1], below.signal, weights)
            tangent = (below.signal @ change[:-1].reshape(len(weights), -1)).view(rows, B, -1) + change[-1]
            if depth:
                tangent.view(rows * B, -1).addmm_(below.tangent.view(rows * B, -1), weights)
            if depth == len(self.layers) - 1:
                units.append(_Units(signal=signal, tangent=tangent))
                break
            value, slope, bend = self.curve(signal)
            if factors:
                value, slope = value * factors[depth], slope * factors[depth]
                bend = None if bend is None else bend * factors[depth]
            before = None if bend is None else tangent
            units.append(
                _Units(signal=value, tangent=tangent * slope[:, None], slope=slope, bend=bend, tangent_before=before)
            )
        return units

    def _backward(self, part: slice, gradients: list[torch.Tensor], tangents: list[torch.Tensor]) -> None:
        """Add the gradient of the loss over some rows, and its tangent."""
        units = self._forward(self.inputs[part], [factor[part] for factor in self.factors])
        rows, B = units[0].signal.shape[0], self.n_directions
        pull, tangent = self._pull(units[-1], part)
        for depth in range(len(self.layers) - 1, -1, -1):
            below, weights, change = units[depth], self.layers[depth][:-1], self.tangents[depth][:-1]
            width, above = weights.shape
            gradients[depth][:-1].addmm_(below.signal.T, pull)
            gradients[depth][-1] += pull.sum(dim=0)
            tangents[depth][:-1] += (below.signal.T @ tangent.view(rows, -1)).view(width, B, above)
            tangents[depth][-1] += tangent.sum(dim=0)
            if not depth:
                break
            assert below.slope is not None
            tangents[depth][:-1] += (below.tangent.view(rows, -1).T @ pull).view(B, width, above).transpose(0, 1)
            lower = (tangent.view(rows * B, above) @ weights.T).view(rows, B, width)
            lower += (pull @ change.permute(2, 1, 0).reshape(above, -1)).view(rows, B, width)
            lower *= below.slope[:, None]
            pull = pull @ weights.T
            if below.bend is not None and below.tangent_before is not None:
                lower.addcmul_((pull * below.bend)[:, None], below.tangent_before)
            pull, tangent = pull * below.slope, lower

    def _pull(self, last: _Units, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the derivative of the loss by the outputs at some rows, and its tangent."""
        if self.student.head != "softmax":
            share = 2.0 / self.labels.numel()
            return share * (last.signal - self.labels[part]), share * (last.tangent - self.pushes[part])
        p, share = last.signal.softmax(dim=1), 1.0 / len(self.labels)
        along = (p[:, None] * last.tangent).sum(dim=2, keepdim=True)
        moved = p[:, None] * (last.tangent - along)
        return share * (p - self.labels[part]), share * (moved - self.pushes[part])


@dataclass(frozen=True, eq=False, kw_only=True)
class _Units:
    """Activations of one layer with tangents; slope and bend of the activation, and tangents before it."""

    signal: torch.Tensor
    tangent: torch.Tensor
    slope: torch.Tensor | None = None
    bend: torch.Tensor | None = None
    tangent_before: torch.Tensor | None = None


class _Descent:
    """Gradient descent with momentum and weight decay, and its derivative, for one layer in place."""

    def __init__(self, student: NetworkStudent, layer: torch.Tensor, change: torch.Tensor) -> None:
        self.student, self.layer, self.change = student, layer, change
        self.velocity, self.velocity_change = torch.zeros_like(layer), torch.zeros_like(change)

    def step(self, gradient: torch.Tensor, tangent: torch.Tensor, number: int) -> None:
        student = self.student
        self.velocity.mul_(student.momentum).add_(gradient).add_(self.layer, alpha=student.weight_decay)
        self.velocity_change.mul_(student.momentum).add_(tangent).add_(self.change, alpha=student.weight_decay)
        self.layer.sub_(self.velocity, alpha=student.learning_rate)
        self.change.sub_(self.velocity_change, alpha=student.learning_rate)


class _Adam:
    """Adam (Kingma & Ba 2015) or AdamW, and its derivative, for one layer in place."""

    def __init__(self, student: NetworkStudent, layer: torch.Tensor, change: torch.Tensor) -> None:
        self.student, self.layer, self.change = student, layer, change
        self.mean, self.square = torch.zeros_like(layer), torch.zeros_like(layer)
        self.mean_change, self.square_change = torch.zeros_like(change), torch.zeros_like(change)

    def step(self, gradient: torch.Tensor, tangent: torch.Tensor, number: int) -> None:
        student = self.student
        if student.optimizer == "adamw":
            shrink = 1.0 - student.learning_rate * student.weight_decay
            self.layer.mul_(shrink)
            self.change.mul_(shrink)
        elif student.weight_decay > 0.0:
            gradient = gradient + student.weight_decay * self.layer
            tangent = tangent + student.weight_decay * self.change
        self.mean.lerp_(gradient, 1.0 - BETA1)
        self.mean_change.lerp_(tangent, 1.0 - BETA1)
        self.square.mul_(BETA2).addcmul_(gradient, gradient, value=1.0 - BETA2)
        self.square_change.mul_(BETA2).addcmul_(2.0 * (1.0 - BETA2) * gradient[:, None], tangent)
        square_share = 1.0 - BETA2**number
        root = (self.square / square_share).sqrt()
        size = student.learning_rate / ((1.0 - BETA1**number) * (root + EPSILON))
        # A parameter that never had a gradient (a unit that is off everywhere) has root 0 and does not respond.
        fall = torch.where(root > 0.0, self.mean * size / ((root + EPSILON) * 2.0 * square_share * root), 0.0)
        self.layer.sub_(self.mean * size)
        self.change.sub_(self.mean_change * size[:, None] - fall[:, None] * self.square_change)


def _relu(before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    return before.clamp(min=0.0), (before > 0.0).to(before.dtype), None


def _tanh(before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    value = before.tanh()
    slope = 1.0 - value * value
    return value, slope, -2.0 * value * slope


def _erf(before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    slope = (2.0 / math.sqrt(math.pi)) * torch.exp(-before * before)
    return torch.erf(before), slope, -2.0 * before * slope


def _gelu(before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    density = torch.exp(-0.5 * before * before) / math.sqrt(2.0 * math.pi)
    share = 0.5 * (1.0 + torch.erf(before / math.sqrt(2.0)))
    return before * share, share + before * density, (2.0 - before * before) * density


#: Activation -> its value, slope and second derivative (None: 0 but for the kinks) at the pre-activations.
CURVES: dict[str, Curve] = {"relu": _relu, "tanh": _tanh, "erf": _erf, "gelu": _gelu}
