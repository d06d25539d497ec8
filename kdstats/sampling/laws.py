"""Noise laws: the standardised shape of the teacher's noise.

A law has mean 0 and variance 1; the teacher's covariance gives it scale and correlation. The
Gaussian law is the one closed forms assume; the others ask what is left of them without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from kdstats.errors import invalid
from kdstats.problem.validation import as_number

__all__ = ["Gamma", "Gaussian", "Laplace", "NoiseLaw", "StudentT", "UserLaw", "as_noise_law"]

FloatArray = NDArray[np.float64]

#: Draws, and standard errors, with which a user's sampler is checked for mean 0 and variance 1.
CHECK_DRAWS, CHECK_Z = 200_000, 6.0


class NoiseLaw:
    """Standardised noise: mean 0, variance 1.

    Attributes
    ----------
    name : str
        As written in ``noise_law=`` and in results.
    """

    name: str

    def sample(self, generator: np.random.Generator, size: int | tuple[int, ...]) -> FloatArray:
        """Draw independent standardised noise."""
        raise NotImplementedError

    def quantile(self, probability: FloatArray, *, upper: bool = False) -> FloatArray:
        """Return the quantile of lower-tail (or, with ``upper``, upper-tail) probabilities in (0, 1/2].

        A law that has this is drawn by inversion, which is several times faster than sampling.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Gaussian(NoiseLaw):
    """Standard normal noise."""

    name: str = "gaussian"

    def sample(self, generator: np.random.Generator, size: int | tuple[int, ...]) -> FloatArray:
        """Draw standard normals."""
        return generator.standard_normal(size)

    def quantile(self, probability: FloatArray, *, upper: bool = False) -> FloatArray:
        """Return normal quantiles."""
        return _signed(scipy.special.ndtri(probability), upper=upper)


@dataclass(frozen=True)
class Laplace(NoiseLaw):
    """Double exponential noise: excess kurtosis 3."""

    name: str = "laplace"

    def sample(self, generator: np.random.Generator, size: int | tuple[int, ...]) -> FloatArray:
        """Draw Laplace noise with variance 1."""
        return generator.laplace(0.0, np.sqrt(0.5), size)

    def quantile(self, probability: FloatArray, *, upper: bool = False) -> FloatArray:
        """Return quantiles of the Laplace law with variance 1."""
        return _signed(np.sqrt(0.5) * np.log(2.0 * probability), upper=upper)


@dataclass(frozen=True)
class StudentT(NoiseLaw):
    """Student's t noise, scaled to variance 1.

    Parameters
    ----------
    df : float
        Degrees of freedom, greater than 2; above 4 for standard errors of a variance to exist.
    """

    df: float

    def __post_init__(self) -> None:
        as_number("df", self.df, minimum=2.0, exclusive=True)

    @property
    def name(self) -> str:  # type: ignore[override]
        """``student_t:df``."""
        return f"student_t:{self.df:g}"

    def sample(self, generator: np.random.Generator, size: int | tuple[int, ...]) -> FloatArray:
        """Draw t noise with variance 1."""
        return np.asarray(generator.standard_t(self.df, size) * np.sqrt((self.df - 2.0) / self.df))

    def quantile(self, probability: FloatArray, *, upper: bool = False) -> FloatArray:
        """Return quantiles of the t law scaled to variance 1."""
        scale = np.sqrt((self.df - 2.0) / self.df)
        return _signed(scale * scipy.special.stdtrit(self.df, probability), upper=upper)


@dataclass(frozen=True)
class Gamma(NoiseLaw):
    """Skewed noise: a centred gamma variable, skewness ``2/sqrt(shape)``, excess kurtosis ``6/shape``.

    Parameters
    ----------
    shape : float
        Shape of the gamma law, greater than 0.
    """

    shape: float

    def __post_init__(self) -> None:
        as_number("shape", self.shape, minimum=0.0, exclusive=True)

    @property
    def name(self) -> str:  # type: ignore[override]
        """``gamma:shape``."""
        return f"gamma:{self.shape:g}"

    def sample(self, generator: np.random.Generator, size: int | tuple[int, ...]) -> FloatArray:
        """Draw centred gamma noise with variance 1."""
        return np.asarray((generator.standard_gamma(self.shape, size) - self.shape) / np.sqrt(self.shape))

    def quantile(self, probability: FloatArray, *, upper: bool = False) -> FloatArray:
        """Return quantiles of the centred gamma law with variance 1."""
        inverse = scipy.special.gammainccinv if upper else scipy.special.gammaincinv
        return np.asarray((inverse(self.shape, probability) - self.shape) / np.sqrt(self.shape))


@dataclass(frozen=True)
class UserLaw(NoiseLaw):
    """A user's own sampler, checked once for mean 0 and variance 1.

    Parameters
    ----------
    sampler : callable
        ``sampler(generator, size)`` returns independent standardised draws of that shape.
    """

    sampler: Callable[[np.random.Generator, Any], Any]

    @property
    def name(self) -> str:  # type: ignore[override]
        """The callable's name."""
        return f"user:{getattr(self.sampler, '__name__', 'sampler')}"

    def __post_init__(self) -> None:
        generator = np.random.Generator(np.random.Philox(0))
        draws = np.asarray(self.sampler(generator, (CHECK_DRAWS // 4, 4)), dtype=float)
        if draws.shape != (CHECK_DRAWS // 4, 4):
            raise invalid("noise_law", "return draws of the size asked for", f"shape {draws.shape}")
        if not np.isfinite(draws).all():
            raise invalid("noise_law", "return finite draws", f"{int((~np.isfinite(draws)).sum())} not finite")
        mean, variance = float(draws.mean()), float(draws.var())
        mean_se = np.sqrt(variance / CHECK_DRAWS)
        variance_se = np.sqrt(max(float((draws - mean).__pow__(4).mean()) - variance**2, 0.0) / CHECK_DRAWS)
        if abs(mean) > CHECK_Z * mean_se + 1e-12 or abs(variance - 1.0) > CHECK_Z * variance_se + 1e-12:
            raise invalid("noise_law", "have mean 0 and variance 1", f"mean {mean:.3g} and variance {variance:.3g}")

    def sample(self, generator: np.random.Generator, size: int | tuple[int, ...]) -> FloatArray:
        """Draw from the user's sampler."""
        return np.asarray(self.sampler(generator, size), dtype=np.float64)


def as_noise_law(value: Any) -> NoiseLaw:
    """Return the law that a name, a law object or a callable stands for.

    Parameters
    ----------
    value : str, NoiseLaw or callable
        ``"gaussian"``, ``"laplace"``, ``"student_t:DF"``, ``"gamma:SHAPE"``, or a sampler.

    Raises
    ------
    ProblemError
        If the name is unknown, its number out of range, or a sampler is not standardised.
    """
    if isinstance(value, NoiseLaw):
        return value
    if isinstance(value, str):
        name, _, number = value.partition(":")
        if name in ("gaussian", "laplace") and not number:
            return Gaussian() if name == "gaussian" else Laplace()
        if name in ("student_t", "gamma"):
            try:
                parameter = float(number)
            except ValueError:
                raise invalid("noise_law", f"be written '{name}:NUMBER'", value) from None
            return StudentT(parameter) if name == "student_t" else Gamma(parameter)
    elif callable(value):
        return UserLaw(value)
    raise invalid("noise_law", "be gaussian, laplace, student_t:DF, gamma:SHAPE, a NoiseLaw or a sampler", value)


def _signed(quantile: FloatArray, *, upper: bool) -> FloatArray:
    return np.asarray(-quantile if upper else quantile)
