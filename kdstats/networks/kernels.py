"""Fused inner loops of batched training, in float32.

Students are the innermost axis, in groups of exactly :data:`LANES`: one student per SIMD lane. The
loops over lanes have a constant length, which lets the compiler keep them free of branches, and do
for each student the same operations in the same order.

Activations are applied where hidden units are read. ``floor`` and ``curve`` say which: a unit that
holds u counts as ``max(u, floor)``, and its slope is ``1 - curve * u**2`` above the floor, 0 below.
ReLU has floor 0 and curve 0; tanh, already applied by the caller, has floor minus infinity and curve 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["LANES", "adam_step", "dense", "dense_backward", "hyperbolic_tangent", "residuals", "scalar_output"]

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


#: Beyond it the tangent is 1 to the precision of the approximation.
_TANH_LIMIT = np.float32(7.90531110763549805)


@njit(**_COMPILE)  # type: ignore[untyped-decorator]
def hyperbolic_tangent(units: Float32Array) -> None:
    """Replace flat numbers by their hyperbolic tangent, with a relative error up to 3e-7; NaN stays NaN.

    The quotient of polynomials of degrees 13 and 6 that the Eigen library uses, several times faster than a library
    function that is correct to the last bit.
    """
    for i in range(units.size):
        x = units[i]
        x = _TANH_LIMIT if x > _TANH_LIMIT else x
        x = -_TANH_LIMIT if x < -_TANH_LIMIT else x
        square = x * x
        top = np.float32(-2.76076847742355e-16)
        top = top * square + np.float32(2.00018790482477e-13)
        top = top * square + np.float32(-8.60467152213735e-11)
        top = top * square + np.float32(5.12229709037114e-08)
        top = top * square + np.float32(1.48572235717979e-05)
        top = top * square + np.float32(6.37261928875436e-04)
        top = top * square + np.float32(4.89352455891786e-03)
        bottom = np.float32(1.19825839466702e-06)
        bottom = bottom * square + np.float32(1.18534705686654e-04)
        bottom = bottom * square + np.float32(2.26843463243900e-03)
        bottom = bottom * square + np.float32(4.89352518554385e-03)
        units[i] = x * top / bottom


@njit(**_COMPILE)  # type: ignore[untyped-decorator]
def dense(signal: Float32Array, weights: Float32Array, outputs: Float32Array, floor: np.float32) -> None:
    """Pass rows of hidden units (rows, g, LANES) through a layer (g + 1, h, LANES), biases last."""
    rows, width, _ = signal.shape
    for i in range(rows):
        for k in range(outputs.shape[1]):
            for c in range(LANES):
                outputs[i, k, c] = weights[width, k, c]
        for j in range(width):
            for k in range(outputs.shape[1]):
                for c in range(LANES):
                    outputs[i, k, c] += max(signal[i, j, c], floor) * weights[j, k, c]


@njit(**_COMPILE)  # type: ignore[untyped-decorator]
def residuals(outputs: Float32Array, labels: Float32Array, row_weights: Float32Array, loss: Float32Array) -> None:
    """Replace outputs (rows, q, LANES) by weighted residuals, the gradient of the loss; add the loss, doubled."""
    for i in range(outputs.shape[0]):
        for k in range(outputs.shape[1]):
            for c in range(LANES):
                error = outputs[i, k, c] - labels[i, k, c]
                outputs[i, k, c] = row_weights[i, c] * error
                loss[c] += outputs[i, k, c] * error


@njit(**_COMPILE)  # type: ignore[untyped-decorator]
def dense_backward(
    signal: Float32Array,
    weights: Float32Array,
    delta: Float32Array,
    gradient: Float32Array,
    floor: np.float32,
    curve: np.float32,
) -> None:
    """Add a layer's gradient; replace its hidden units by the gradient with respect to their pre-activations."""
    rows, width, _ = signal.shape
    zero, one = np.float32(0.0), np.float32(1.0)
    pull = np.empty(LANES, np.float32)
    for i in range(rows):
        for k in range(delta.shape[1]):
            for c in range(LANES):
                gradient[width, k, c] += delta[i, k, c]
        for j in range(width):
            for c in range(LANES):
                pull[c] = zero
            for k in range(delta.shape[1]):
                for c in range(LANES):
                    pull[c] += delta[i, k, c] * weights[j, k, c]
                    gradient[j, k, c] += max(signal[i, j, c], floor) * delta[i, k, c]
            for c in range(LANES):
                unit = signal[i, j, c]
                signal[i, j, c] = pull[c] * (one - curve * unit * unit) if unit > floor else zero


@njit(**_COMPILE)  # type: ignore[untyped-decorator]
def scalar_output(
    signal: Float32Array,
    weights: Float32Array,
    labels: Float32Array,
    row_weights: Float32Array,
    gradient: Float32Array,
    loss: Float32Array,
    floor: np.float32,
    curve: np.float32,
) -> None:
    """Do the work of ``dense``, ``residuals`` and ``dense_backward`` for one output in one sweep over memory."""
    rows, width, _ = signal.shape
    zero, one = np.float32(0.0), np.float32(1.0)
    residual = np.empty(LANES, np.float32)
    for i in range(rows):
        for c in range(LANES):
            residual[c] = weights[width, 0, c]
        for j in range(width):
            for c in range(LANES):
                residual[c] += max(signal[i, j, c], floor) * weights[j, 0, c]
        for c in range(LANES):
            error = residual[c] - labels[i, 0, c]
            residual[c] = row_weights[i, c] * error
            gradient[width, 0, c] += residual[c]
            loss[c] += residual[c] * error
        for j in range(width):
            for c in range(LANES):
                unit = signal[i, j, c]
                gradient[j, 0, c] += residual[c] * max(unit, floor)
                signal[i, j, c] = residual[c] * weights[j, 0, c] * (one - curve * unit * unit) if unit > floor else zero


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
