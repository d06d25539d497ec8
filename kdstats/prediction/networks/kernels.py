r"""Kernels of infinitely wide feed-forward networks: covariance at the start and tangent kernel.

A layer :math:`z = W\phi(z_-) + b` of :math:`h_-` inputs whose weights have variance
:math:`\sigma_w^2/h_-` and biases :math:`\sigma_b^2` passes covariances and tangent kernels on as

.. math::

    K &= \sigma_w^2\, S(K_-) + \sigma_b^2, \\
    \Theta &= g_w S(K_-) + g_b + \sigma_w^2\, \dot S(K_-) \circ \Theta_-,

with :math:`S = E[\phi(u)\phi(v)]` and :math:`\dot S = E[\phi'(u)\phi'(v)]` over centred Gaussian (u, v)
of covariance :math:`K_-` (for the first layer :math:`S = xx'/p`, :math:`\Theta_- = 0`). The gains say how far
a step moves the layer: :math:`g_w = \sigma_w^2, g_b = \sigma_b^2` where parameters are N(0, 1) and scaled in the
pass (NTK parameterisation), :math:`g_w = h_-, g_b = 1` where the parameters themselves are small.

References
----------
.. [1] Cho, Y. & Saul, L. (2009), *Kernel Methods for Deep Learning*, NIPS 22 (ReLU).
.. [2] Williams, C. (1997), *Computing with Infinite Networks*, NIPS 9 (erf).
.. [3] Jacot, A., Gabriel, F. & Hongler, C. (2018), *Neural Tangent Kernel*, NeurIPS 31.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DUALS", "Kernels", "Layer", "erf_dual", "infinite_width_kernels", "relu_dual"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What a layer does to a kernel.

    Attributes
    ----------
    weight_variance, bias_variance : float
        Variance of a weight times the fan-in, and of a bias.
    weight_gain, bias_gain : float
        Squared size of the derivative of an output by its weights, per unit of the mean product of the
        inputs, and by its bias.
    """

    weight_variance: float
    bias_variance: float
    weight_gain: float
    bias_gain: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Kernels:
    """Kernels over N inputs.

    Attributes
    ----------
    start : (N, N) ndarray
        Covariance of the untrained output over initialisations (NNGP kernel).
    tangent : (N, N) ndarray
        Tangent kernel (NTK).
    """

    start: FloatArray
    tangent: FloatArray


def infinite_width_kernels(X: FloatArray, *, layers: Sequence[Layer], activation: str) -> Kernels:
    """Return the kernels of a network of infinite width.

    Parameters
    ----------
    X : (N, p) ndarray
    layers : sequence of Layer
        From the first to the output layer.
    activation : {"relu", "erf"}
    """
    dual = DUALS[activation]
    signal = X @ X.T / X.shape[1]
    tangent, slope = np.zeros_like(signal), np.zeros_like(signal)
    covariance = signal
    for depth, layer in enumerate(layers):
        if depth:
            signal, slope = dual(covariance)
        tangent = layer.weight_gain * signal + layer.bias_gain + layer.weight_variance * slope * tangent
        covariance = layer.weight_variance * signal + layer.bias_variance
    return Kernels(start=covariance, tangent=tangent)


def relu_dual(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return E[max(u, 0) max(v, 0)] and E[1(u > 0) 1(v > 0)] for every pair of inputs."""
    sd = np.sqrt(np.diag(covariance))
    scale = np.outer(sd, sd)
    cosine = np.clip(np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0.0), -1.0, 1.0)
    np.fill_diagonal(cosine, 1.0)
    angle = np.arccos(cosine)
    product = scale * (np.sqrt(1.0 - cosine**2) + (np.pi - angle) * cosine) / (2.0 * np.pi)
    return product, (np.pi - angle) / (2.0 * np.pi)


def erf_dual(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return E[erf(u) erf(v)] and E[erf'(u) erf'(v)] for every pair of inputs."""
    own = 1.0 + 2.0 * np.diag(covariance)
    scale = np.outer(own, own)
    product = 2.0 / np.pi * np.arcsin(np.clip(2.0 * covariance / np.sqrt(scale), -1.0, 1.0))
    return product, 4.0 / np.pi / np.sqrt(scale - 4.0 * covariance**2)


#: Activation -> its two Gaussian expectations.
DUALS: dict[str, Callable[[FloatArray], tuple[FloatArray, FloatArray]]] = {"relu": relu_dual, "erf": erf_dual}
