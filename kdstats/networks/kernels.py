"""Fused inner loops of batched training, in float32.

Students are the innermost axis, in groups of exactly :data:`LANES`: one student per SIMD lane. The
loops over lanes have a constant length, which lets the compiler keep them free of branches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["LANES", "adam_step", "output_layer"]

#: Students trained side by side.
LANES = 32

#: Reassociation and fused multiply-add, but NaN and infinity keep their meaning: divergence is looked for.
_COMPILE: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
}

Float32Array = NDArray[np.float32]


@njit(**_COMPILE)  # type: ignore[untyped-decorator]
def output_layer(
    hidden: Float32Array,
    labels: Float32Array,
    row_weights: Float32Array,
    weights: Float32Array,
    bias: Float32Array,
    weights_gradient: Float32Array,
    bias_gradient: Float32Array,
    loss: Float32Array,
    smooth: bool,  # noqa: FBT001
) -> None:
    """Pass some rows through activation, output layer, loss and back, in one sweep over memory.

    Parameters
    ----------
    hidden : (rows, h, LANES) array
        Pre-activations of a ReLU, or activations of tanh; replaced by the gradient of the loss with
        respect to the pre-activations.
    labels, row_weights : (rows, LANES) array
        The loss is the sum over rows of weight times squared error, halved.
    weights, bias : (h, LANES) and (LANES,) array
        Output layer.
    weights_gradient, bias_gradient, loss : array
        Are added to. ``loss`` gets the sum without the half.
    smooth : bool
        True for tanh.
    """
    zero, one = np.float32(0.0), np.float32(1.0)
    residual = np.empty(LANES, np.float32)
    for i in range(hidden.shape[0]):
        for c in range(LANES):
            residual[c] = bias[c]
        if smooth:
            for j in range(hidden.shape[1]):
                for c in range(LANES):
                    residual[c] += hidden[i, j, c] * weights[j, c]
        else:
            for j in range(hidden.shape[1]):
                for c in range(LANES):
                    residual[c] += max(hidden[i, j, c], zero) * weights[j, c]
        for c in range(LANES):
            error = residual[c] - labels[i, c]
            residual[c] = row_weights[i, c] * error
            bias_gradient[c] += residual[c]
            loss[c] += residual[c] * error
        if smooth:
            for j in range(hidden.shape[1]):
                for c in range(LANES):
                    active = hidden[i, j, c]
                    weights_gradient[j, c] += residual[c] * active
                    hidden[i, j, c] = residual[c] * weights[j, c] * (one - active * active)
        else:
            for j in range(hidden.shape[1]):
                for c in range(LANES):
                    active = hidden[i, j, c]
                    weights_gradient[j, c] += residual[c] * max(active, zero)
                    hidden[i, j, c] = residual[c] * weights[j, c] if active > zero else zero


@njit(**_COMPILE)  # type: ignore[untyped-decorator]
def adam_step(
    parameters: Float32Array,
    gradient: Float32Array,
    mean: Float32Array,
    square: Float32Array,
    step_size: np.float32,
    square_correction: np.float32,
    mean_share: np.float32,
    square_decay: np.float32,
    square_share: np.float32,
    epsilon: np.float32,
) -> None:
    """Move flat parameters by one step of Adam (Kingma & Ba 2015), in PyTorch's order of operations.

    ``step_size`` is the learning rate over ``1 - beta1**t``; ``square_correction`` is the root of
    ``1 - beta2**t``. The shares ``1 - beta1`` and ``1 - beta2`` come in rounded once: taken from rounded
    betas they would be off by 5e-5, and networks with kinks would end up elsewhere.
    """
    for i in range(parameters.size):
        g = gradient[i]
        mean[i] += mean_share * (g - mean[i])
        square[i] = square_decay * square[i] + square_share * g * g
        parameters[i] -= step_size * mean[i] / (np.float32(math.sqrt(square[i])) / square_correction + epsilon)
