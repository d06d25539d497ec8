"""Feed-forward networks of one shape, in groups: layers, first weights, the pass from inputs to outputs.

The parameters of S networks are one array per layer, shape ``(S, fan_in + 1, fan_out)``, with the
biases in the last row. Inside a group the students are the last axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from kdstats.networks.groups import for_groups
from kdstats.networks.kernels import LANES, dense, hyperbolic_tangent
from kdstats.networks.modules import UserModule, inspect_module
from kdstats.networks.stacks import predict_stacks
from kdstats.problem.student import NetworkStudent

__all__ = [
    "Architecture",
    "Group",
    "Parameters",
    "architecture_of",
    "initial_parameters",
    "perturbed_parameters",
    "predict",
    "tiles",
]

Float32Array = NDArray[np.float32]
Parameters = tuple[Float32Array, ...]

#: Rows whose hidden units are held at once; bounds memory and keeps it in cache.
TILE = 512
#: Weights of a layer above the first up to which lanes of students beat products of matrices.
MOST_LANE_WEIGHTS = 1024


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of a network, and how it starts.

    Parameters
    ----------
    widths : tuple of int
        Inputs, hidden layers, outputs.
    activation : {"relu", "tanh", "erf", "gelu"}
        Of the hidden layers.
    parameterization : {"standard", "ntk"}, default "standard"
        Whether layers scale their parameters (see :class:`~kdstats.problem.student.NetworkStudent`).
    weight_variance, bias_variance : float, optional
        Of the first weights, times the fan-in, and of the first biases. Default: as PyTorch's ``Linear``.
    module : UserModule, optional
        A network that a user wrote; ``widths`` then has its hidden numbers in one entry.
    """

    widths: tuple[int, ...]
    activation: str
    parameterization: str = "standard"
    weight_variance: float | None = None
    bias_variance: float | None = None
    module: UserModule | None = None

    @property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """Shape ``(fan_in + 1, fan_out)`` of each layer's weights with its biases."""
        return tuple((before + 1, after) for before, after in zip(self.widths[:-1], self.widths[1:], strict=True))

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases of one network."""
        if self.module is not None:
            return self.module.n_parameters
        return sum(rows * columns for rows, columns in self.layer_shapes)

    @property
    def scales(self) -> tuple[tuple[float, float], ...]:
        """What each layer multiplies its weights and its biases by."""
        if self.parameterization == "standard":
            return tuple((1.0, 1.0) for _ in self.layer_shapes)
        assert self.weight_variance is not None
        assert self.bias_variance is not None
        bias = math.sqrt(self.bias_variance)
        return tuple((math.sqrt(self.weight_variance / (rows - 1)), bias) for rows, _ in self.layer_shapes)

    @property
    def has_lanes(self) -> bool:
        """Whether :class:`Group` computes it; :mod:`kdstats.networks.stacks` computes every network."""
        if self.module is not None:
            return False
        narrow = all(before * after <= MOST_LANE_WEIGHTS for before, after in zip(*self._inner, strict=True))
        return self.activation in ("relu", "tanh") and self.parameterization == "standard" and narrow

    @property
    def _inner(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Fan-in and fan-out of the layers above the first."""
        return self.widths[1:-1], self.widths[2:]

    @cached_property
    def floor(self) -> np.float32:
        """Value below which a hidden unit does not fall (see :mod:`kdstats.networks.kernels`)."""
        return np.float32(0.0 if self.activation == "relu" else -np.inf)

    @cached_property
    def curve(self) -> np.float32:
        """Share of its square that a hidden unit's slope loses."""
        return np.float32(0.0 if self.activation == "relu" else 1.0)


def architecture_of(student: NetworkStudent, *, n_features: int, n_outputs: int) -> Architecture:
    """Return the shape of a student between p inputs and q outputs of the teacher.

    With the head ``gaussian`` the network's own outputs are q means, then q logarithms of variances.
    """
    n_outputs = 2 * n_outputs if student.head == "gaussian" else n_outputs
    if student.module is not None:
        module = inspect_module(student.module, n_features=n_features, n_outputs=n_outputs)
        return Architecture(widths=(n_features, module.units, n_outputs), activation="", module=module)
    return Architecture(
        widths=(n_features, *student.hidden, n_outputs),
        activation=student.activation,
        parameterization=student.parameterization,
        weight_variance=student.weight_variance,
        bias_variance=student.bias_variance,
    )


def initial_parameters(architecture: Architecture, generator: np.random.Generator, *, n_students: int) -> Parameters:
    """Draw first weights and biases.

    As PyTorch's ``Linear`` does, uniform within ``1/sqrt(fan_in)``, or normal where the architecture gives variances.

    Returns
    -------
    tuple of float32 arrays, shapes ``(n_students, fan_in + 1, fan_out)``, or of a user's module ``(n_students, ...)``
    """
    if architecture.module is not None:
        return architecture.module.draw(generator, n_students=n_students)
    drawn = []
    for rows, columns in architecture.layer_shapes:
        shape = (n_students, rows, columns)
        if architecture.weight_variance is None:
            uniform = generator.random(shape, dtype=np.float32)
            drawn.append((2.0 * uniform - 1.0) / np.float32(np.sqrt(rows - 1)))
            continue
        layer = generator.standard_normal(shape, dtype=np.float32)
        if architecture.parameterization == "standard":
            assert architecture.bias_variance is not None
            layer[:, :-1] *= np.float32(math.sqrt(architecture.weight_variance / (rows - 1)))
            layer[:, -1] *= np.float32(math.sqrt(architecture.bias_variance))
        drawn.append(layer)
    return tuple(drawn)


def perturbed_parameters(
    start: Parameters, generator: np.random.Generator, *, n_students: int, perturbation_sd: float
) -> Parameters:
    """Multiply one student's first parameters by normal factors of mean 1, anew for each of some students."""
    drawn = []
    for layer in start:
        factors = generator.standard_normal((n_students, *layer.shape[1:]), dtype=np.float32)
        drawn.append(layer * (np.float32(1.0) + np.float32(perturbation_sd) * factors))
    return tuple(drawn)


def predict(
    architecture: Architecture, parameters: Parameters, X: NDArray[np.float64], *, n_workers: int | None = None
) -> NDArray[np.float64]:
    """Return the outputs of S networks at m points, shape (S, m, q); computed in float32."""
    if not architecture.has_lanes:
        return predict_stacks(architecture, parameters, X, n_workers=n_workers)
    n_students, inputs = parameters[0].shape[0], extended(X)
    outputs = np.empty((n_students, inputs.shape[0], architecture.widths[-1]))

    def predict_group(students: slice) -> None:
        group = Group(architecture, [layer[students] for layer in parameters])
        for rows in tiles(inputs.shape[0]):
            signals = group.forward(inputs[rows])
            last = np.empty((len(signals[-1]), architecture.widths[-1], LANES), dtype=np.float32)
            dense(signals[-1], group.layers[-1], last, architecture.floor)
            outputs[students, rows] = np.moveaxis(last, -1, 0)[: students.stop - students.start]

    for_groups(predict_group, n_students, n_workers=n_workers)
    return outputs


class Group:
    """Networks of up to LANES students, padded with networks of zeros.

    Attributes
    ----------
    parameters : (N,) tensor
        All parameters, flat.
    layers : list of (fan_in + 1, fan_out, LANES) float32 arrays
        The same memory by layer.
    """

    def __init__(self, architecture: Architecture, parameters: Sequence[Float32Array]) -> None:
        self.architecture = architecture
        self.parameters = torch.cat([torch.from_numpy(lanes_last(layer)).reshape(-1) for layer in parameters])
        self.layers = self.by_layer(self.parameters)
        self.first = self.by_student_and_unit(self.parameters)
        self.hidden = [torch.empty(TILE, width * LANES) for width in architecture.widths[1:-1]]
        self.units = [memory.numpy().reshape(TILE, -1, LANES) for memory in self.hidden]

    def by_layer(self, flat: torch.Tensor) -> list[Float32Array]:
        """Return views of flat memory, one per layer, shape (fan_in + 1, fan_out, LANES)."""
        shapes = [(*shape, LANES) for shape in self.architecture.layer_shapes]
        ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(flat.numpy(), ends), shapes, strict=True)]

    def by_student_and_unit(self, flat: torch.Tensor) -> torch.Tensor:
        """Return the first layer of flat memory as the right factor of a matrix product, shape (p + 1, h LANES)."""
        rows, columns = self.architecture.layer_shapes[0]
        return flat[: rows * columns * LANES].view(rows, columns * LANES)

    def forward(self, inputs: torch.Tensor) -> list[Float32Array]:
        """Fill the hidden units for up to TILE rows of inputs (with a column of ones); return views of them."""
        rows = slice(0, inputs.shape[0])
        torch.mm(inputs, self.first, out=self.hidden[0][rows])
        for depth, hidden in enumerate(self.hidden):
            if depth:
                below, floor = self.units[depth - 1][rows], self.architecture.floor
                dense(below, self.layers[depth], self.units[depth][rows], floor)
            if self.architecture.activation == "tanh":
                hyperbolic_tangent(hidden[rows].numpy().reshape(-1))
        return [units[rows] for units in self.units]


def extended(X: NDArray[np.float64]) -> torch.Tensor:
    """Return inputs in float32 with a column of ones for the biases."""
    return torch.from_numpy(np.hstack([X, np.ones((X.shape[0], 1))]).astype(np.float32))


def tiles(n_rows: int) -> list[slice]:
    """Return slices of at most TILE rows."""
    return [slice(first, min(first + TILE, n_rows)) for first in range(0, n_rows, TILE)]


def lanes_last(array: NDArray[np.floating]) -> Float32Array:
    """Move students from the first axis to the last, fill up with zeros to LANES of them."""
    moved = np.zeros((*array.shape[1:], LANES), dtype=np.float32)
    moved[..., : array.shape[0]] = np.moveaxis(array, 0, -1)
    return moved
