"""Real networks of modest width, trained with numpy, to see how far a theory of infinite width is off.

Small and plain on purpose: full-batch gradient descent (with momentum) on the mean squared error, a stack of
students at a time, every student with a start and labels of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special
from numpy.typing import NDArray

from kdstats.problem.student import NetworkStudent

__all__ = ["draw_parameters", "train_and_predict"]

FloatArray = NDArray[np.float64]
Parameters = list[tuple[NDArray[np.float32], NDArray[np.float32]]]

#: Students trained at once: few enough for their hidden units to stay in cache.
STACK = 4


@dataclass(frozen=True, kw_only=True)
class _Scales:
    weights: np.float32
    biases: np.float32


def draw_parameters(
    student: NetworkStudent, widths: Sequence[int], generator: np.random.Generator, *, n_students: int
) -> Parameters:
    """Draw first weights (S, fan_in, fan_out) and biases (S, 1, fan_out) of every layer."""
    drawn = []
    for before, after in itertools.pairwise(widths):
        shapes = (n_students, before, after), (n_students, 1, after)
        if student.weight_variance is None:
            bound = np.float32(1.0 / math.sqrt(before))
            parts = [bound * (2.0 * generator.random(shape, dtype=np.float32) - 1.0) for shape in shapes]
        else:
            assert student.bias_variance is not None
            own = student.parameterization == "standard"
            sizes = (math.sqrt(student.weight_variance / before), math.sqrt(student.bias_variance)) if own else (1, 1)
            parts = [
                np.float32(size) * generator.standard_normal(shape, dtype=np.float32)
                for size, shape in zip(sizes, shapes, strict=True)
            ]
        drawn.append((parts[0].astype(np.float32), parts[1].astype(np.float32)))
    return drawn


def train_and_predict(
    X: FloatArray, labels: FloatArray, *, student: NetworkStudent, start: Parameters, learning_rate: float
) -> Callable[[FloatArray], FloatArray]:
    """Train S students on labels (S, n, q); return the map from points (m, p) to their outputs (S, m, q)."""
    trained: list[Parameters] = []
    for first in range(0, len(labels), STACK):
        part = slice(first, first + STACK)
        network = _Stack(student, [(w[part].copy(), b[part].copy()) for w, b in start])
        network.descend(X.astype(np.float32), labels[part].astype(np.float32), learning_rate)
        trained.append(network.parameters)
    whole = [
        tuple(np.concatenate(pieces) for pieces in zip(*layer, strict=True)) for layer in zip(*trained, strict=True)
    ]
    network = _Stack(student, [(w, b) for w, b in whole])
    return lambda points: network.forward(points.astype(np.float32))[-1].astype(np.float64)


class _Stack:
    """Stacked parameters of some students."""

    def __init__(self, student: NetworkStudent, parameters: Parameters) -> None:
        self.student, self.parameters = student, parameters
        self.value, self.slope = ACTIVATIONS[student.activation]
        self.scales = [self._scale(weights.shape[1]) for weights, _ in parameters]

    def _scale(self, fan_in: int) -> _Scales:
        student = self.student
        if student.parameterization == "standard":
            return _Scales(weights=np.float32(1.0), biases=np.float32(1.0))
        assert student.weight_variance is not None
        assert student.bias_variance is not None
        weights, biases = math.sqrt(student.weight_variance / fan_in), math.sqrt(student.bias_variance)
        return _Scales(weights=np.float32(weights), biases=np.float32(biases))

    def forward(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return pre-activations of every layer."""
        before: list[NDArray[np.float32]] = []
        for (weights, biases), scale in zip(self.parameters, self.scales, strict=True):
            signal = self.value(before[-1]) if before else inputs
            before.append(signal @ (scale.weights * weights) + scale.biases * biases)
        return before

    def descend(self, inputs: NDArray[np.float32], labels: NDArray[np.float32], learning_rate: float) -> None:
        """Take every step."""
        velocity = [(np.zeros_like(w), np.zeros_like(b)) for w, b in self.parameters]
        rate, momentum = np.float32(learning_rate), np.float32(self.student.momentum)
        share = np.float32(2.0 / (labels.shape[1] * labels.shape[2]))
        for _ in range(self.student.epochs):
            before = self.forward(inputs)
            pull = share * (before[-1] - labels)
            for depth in range(len(self.parameters) - 1, -1, -1):
                (weights, biases), scale = self.parameters[depth], self.scales[depth]
                signal = self.value(before[depth - 1]) if depth else inputs
                below = pull @ np.swapaxes(scale.weights * weights, 1, 2) if depth else None
                moves = scale.weights * (np.swapaxes(signal, -1, -2) @ pull), scale.biases * pull.sum(1, keepdims=True)
                for parameter, speed, move in zip((weights, biases), velocity[depth], moves, strict=True):
                    speed *= momentum
                    speed += move
                    parameter -= rate * speed
                if below is not None:
                    pull = below * self.slope(before[depth - 1])


#: Activation -> the function and its derivative.
ACTIVATIONS: dict[str, tuple[Callable[..., NDArray[np.float32]], Callable[..., NDArray[np.float32]]]] = {
    "relu": (lambda z: np.maximum(z, np.float32(0.0)), lambda z: (z > 0.0).astype(np.float32)),
    "erf": (scipy.special.erf, lambda z: np.float32(2.0 / math.sqrt(math.pi)) * np.exp(-z * z)),
}
