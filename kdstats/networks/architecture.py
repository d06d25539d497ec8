"""Feed-forward networks, many of one shape at once: layers, first weights, predictions.

The parameters of S networks are one array per layer, shape ``(S, fan_in + 1, fan_out)``, with the
biases in the last row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kdstats.problem.student import NetworkStudent

__all__ = ["Architecture", "Parameters", "architecture_of", "initial_parameters", "predict"]

Parameters = tuple[NDArray[np.float32], ...]

#: Students whose activations are held in memory together.
GROUP = 32


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of a network.

    Parameters
    ----------
    widths : tuple of int
        Inputs, hidden layers, outputs.
    activation : {"relu", "tanh"}
        Of the hidden layers.
    """

    widths: tuple[int, ...]
    activation: str

    @property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """Shape ``(fan_in + 1, fan_out)`` of each layer's weights with its biases."""
        return tuple((before + 1, after) for before, after in zip(self.widths[:-1], self.widths[1:], strict=True))


def architecture_of(student: NetworkStudent, *, n_features: int, n_outputs: int) -> Architecture:
    """Return the shape of a student between p inputs and q outputs."""
    return Architecture(widths=(n_features, *student.hidden, n_outputs), activation=student.activation)


def initial_parameters(architecture: Architecture, generator: np.random.Generator, *, n_students: int) -> Parameters:
    """Draw first weights and biases as PyTorch's ``Linear`` does: uniform within ``1/sqrt(fan_in)``.

    Returns
    -------
    tuple of float32 arrays, shapes ``(n_students, fan_in + 1, fan_out)``
    """
    drawn = []
    for rows, columns in architecture.layer_shapes:
        uniform = generator.random((n_students, rows, columns), dtype=np.float32)
        drawn.append((2.0 * uniform - 1.0) / np.float32(np.sqrt(rows - 1)))
    return tuple(drawn)


def predict(architecture: Architecture, parameters: Parameters, X: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the outputs of S networks at m points, shape (S, m, q); computed in float32."""
    inputs = torch.from_numpy(np.asarray(X, dtype=np.float32))
    n_students = parameters[0].shape[0]
    outputs = np.empty((n_students, inputs.shape[0], architecture.widths[-1]))
    for first in range(0, n_students, GROUP):
        layers = [torch.from_numpy(np.ascontiguousarray(layer[first : first + GROUP])) for layer in parameters]
        outputs[first : first + GROUP] = forward(architecture, layers, inputs)[-1].numpy()
    return outputs


def forward(architecture: Architecture, layers: list[torch.Tensor], inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return the inputs of every layer and the outputs of the last, each of shape (S, n, width)."""
    signals = [inputs.expand(layers[0].shape[0], *inputs.shape)]
    for depth, layer in enumerate(layers):
        signal = torch.baddbmm(layer[:, -1:], signals[-1], layer[:, :-1])
        if depth < len(layers) - 1:
            signal = torch.relu_(signal) if architecture.activation == "relu" else torch.tanh_(signal)
        signals.append(signal)
    return signals
