r"""The law of a quadratic form in Gaussians, :math:`q = c + \sum_i \omega_i \chi^2_1(\delta_i^2)`, ω > 0.

Tail probabilities are integrals of :math:`e^{K(s) - sx}/s` over a contour through the saddle point of
the exponent, K the cumulant generating function (Lugannani & Rice 1980 expand this integral; here it
is computed). The contour is a hyperbola that opens around the singularities of K, which lie at
:math:`s \ge 1/(2\omega_{\max})`. The integrand falls off doubly exponentially along it and the
trapezoidal rule converges geometrically; the change when the step is halved is the stated error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from kdstats.errors import PredictionError, invalid
from kdstats.problem.validation import as_array

__all__ = ["QuadraticForm"]

FloatArray = NDArray[np.float64]

#: Absolute error asked of a probability, most halvings of the step, and nodes in the first trapezoid.
TOLERANCE, MOST_HALVINGS, FIRST_NODES = 1e-11, 12, 32
#: Exponent below which the integrand is nothing.
NEGLIGIBLE = -45.0


@dataclass(frozen=True, eq=False)
class QuadraticForm:
    """Distribution of a positive combination of noncentral chi-squared variables, plus a constant.

    Parameters
    ----------
    weights : (r,) array_like
        Positive weights; r = 0 is the constant alone.
    noncentrality : (r,) array_like
        Noncentralities of the chi-squared variables.
    offset : float, default 0.0
        The constant.
    """

    weights: FloatArray
    noncentrality: FloatArray
    offset: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        weights = np.atleast_1d(np.asarray(self.weights, dtype=np.float64))
        shifts = np.atleast_1d(np.asarray(self.noncentrality, dtype=np.float64))
        if weights.shape != shifts.shape or weights.ndim != 1:
            raise invalid("noncentrality", f"have shape {weights.shape}", f"shape {shifts.shape}")
        if (weights <= 0.0).any() or (shifts < 0.0).any() or not np.isfinite([*weights, *shifts]).all():
            raise invalid("weights", "be positive, with finite noncentralities of at least 0", weights.tolist())
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "noncentrality", shifts)
        object.__setattr__(self, "offset", float(self.offset))

    @property
    def mean(self) -> float:
        """Expectation."""
        return float(self.offset + self.weights @ (1.0 + self.noncentrality))

    @property
    def variance(self) -> float:
        """Variance."""
        return float(2.0 * self.weights**2 @ (1.0 + 2.0 * self.noncentrality))

    @property
    def sd(self) -> float:
        """Standard deviation."""
        return float(np.sqrt(self.variance))

    def cdf(self, x: Any) -> Any:
        """Probability of a value of at most x."""
        return self._each(x, lambda value: self._tail(value - self.offset)[0])

    def sf(self, x: Any) -> Any:
        """Probability of a value greater than x, with its relative accuracy kept in the upper tail."""
        return self._each(x, lambda value: self._tail(value - self.offset)[1])

    def pdf(self, x: Any) -> Any:
        """Density at x."""
        return self._each(x, self._density)

    def quantile(self, probability: Any) -> Any:
        """Value below which a given probability lies."""
        levels = as_array("probability", probability, ndim=(0, 1))
        if ((levels <= 0.0) | (levels >= 1.0)).any():
            raise invalid("probability", "be between 0 and 1", levels.tolist())
        return self._each(levels, self._quantile)

    def _each(self, x: Any, function: Callable[[float], float]) -> Any:
        values = np.asarray(x, dtype=np.float64)
        results = np.array([function(float(value)) for value in values.ravel()]).reshape(values.shape)
        return float(results) if values.ndim == 0 else results

    def _tail(self, excess: float) -> tuple[float, float]:
        """Return (cdf, sf) at an excess over the offset; the smaller one is computed, the other is its complement."""
        if np.isnan(excess):
            return excess, excess
        if excess <= 0.0 or self.weights.size == 0:
            at_or_above = excess >= 0.0 if self.weights.size == 0 else False
            return (1.0, 0.0) if at_or_above else (0.0, 1.0)
        if not np.isfinite(excess):
            return 1.0, 0.0
        excess = max(excess, self._least_excess)
        origin = self._origin(excess)
        value = min(max(self._integrate(excess, origin, over_s=True), 0.0), 1.0)
        return (1.0 - value, value) if origin > 0.0 else (value, 1.0 - value)

    def _density(self, x: float) -> float:
        excess = x - self.offset
        if np.isnan(excess):
            return excess
        if excess <= 0.0 or self.weights.size == 0 or np.isinf(excess):
            return 0.0
        excess = max(excess, self._least_excess)
        return max(self._integrate(excess, self._saddle(excess), over_s=False), 0.0)

    @property
    def _least_excess(self) -> float:
        """Excess below which probabilities are at most 1e-70 and intermediate results would leave the number range."""
        return 1e-140 * float(self.weights @ (1.0 + self.noncentrality))

    def _quantile(self, level: float) -> float:
        if self.weights.size == 0:
            return self.offset
        # Solved for the excess: near the lower end it can be far smaller than the rounding of the offset.
        high = self.mean - self.offset + 10.0 * self.sd
        while self._tail(high)[0] < level:
            high += 10.0 * self.sd
        excess = scipy.optimize.brentq(lambda e: self._tail(e)[0] - level, 0.0, high, xtol=1e-300, rtol=1e-13)
        return self.offset + float(excess)

    def _cumulant(self, s: Any) -> Any:
        scaled = 1.0 - 2.0 * np.multiply.outer(s, self.weights)
        shift = np.multiply.outer(s, self.weights * self.noncentrality) / scaled
        return -0.5 * np.log(scaled).sum(axis=-1) + shift.sum(axis=-1)

    def _slope(self, s: float) -> float:
        ratio, scaled = self._ratios(s)
        return float((ratio + self.noncentrality * ratio / scaled).sum())

    def _curvature(self, s: float) -> float:
        ratio, scaled = self._ratios(s)
        return float((2.0 * ratio**2 + 4.0 * self.noncentrality * ratio**2 / scaled).sum())

    def _ratios(self, s: float) -> tuple[FloatArray, FloatArray]:
        scaled = 1.0 - 2.0 * s * self.weights
        return self.weights / scaled, scaled

    def _saddle(self, x: float) -> float:
        """Point below the first singularity where the slope of K is x."""
        limit = 0.5 / float(self.weights.max())
        step = limit
        low = -step
        while self._slope(low) > x:
            step *= 2.0
            low = -step
        gap = limit
        while self._slope(limit - gap) < x:
            gap *= 0.5
        return float(scipy.optimize.brentq(lambda s: self._slope(s) - x, low, limit - gap, xtol=1e-12 * gap))

    def _origin(self, x: float) -> float:
        """The saddle point, moved away from the pole at 0 where it is too near."""
        saddle = self._saddle(x)
        width = 1.0 / np.sqrt(self._curvature(saddle))
        return float(saddle if abs(saddle) > width else -width)

    def _integrate(self, x: float, origin: float, *, over_s: bool) -> float:
        """Trapezoid over the upper half of the hyperbola through ``origin``, refined until it settles."""
        width = 1.0 / np.sqrt(self._curvature(origin))
        base = float(self._cumulant(origin) - origin * x)

        def contour(u: Any) -> Any:
            return origin + width * (np.cosh(u) - 1.0) + 1j * width * np.sinh(u)

        def integrand(u: NDArray[Any]) -> FloatArray:
            s = contour(u)
            exponent = self._cumulant(s) - s * x - base
            alive = exponent.real > NEGLIGIBLE
            values = np.exp(np.where(alive, exponent, 0.0)) * (width * np.sinh(u) + 1j * width * np.cosh(u))
            return np.where(alive, (values / s if over_s else values).imag, 0.0)

        end = 1.0
        while (self._cumulant(contour(end)) - contour(end) * x).real - base > NEGLIGIBLE:
            end += 0.5
        rounding = 16.0 * np.finfo(float).eps * x * abs(contour(1.0))
        count = FIRST_NODES
        step = end / count
        nodes = step * np.arange(count + 1)
        total = integrand(nodes)
        total_sum = float(total.sum() - 0.5 * total[0])
        scale = np.exp(base) / np.pi * (np.sign(origin) if over_s else 1.0)
        previous = scale * step * total_sum
        size = 1.0 if over_s else 1.0 / np.sqrt(self.variance)
        for _ in range(MOST_HALVINGS):
            total_sum += float(integrand(step * (np.arange(count) + 0.5)).sum())
            count, step = 2 * count, 0.5 * step
            current = scale * step * total_sum
            if abs(current - previous) <= max(TOLERANCE, rounding) * min(size, np.exp(base) * size):
                return float(current)
            previous = current
        raise PredictionError(f"the tail integral at {x + self.offset:.6g} did not settle to {TOLERANCE:g}")
