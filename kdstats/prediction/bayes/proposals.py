r"""Proposals for importance sampling of many students: affine images of one base distribution.

Student s has the proposal :math:`\theta = c_s + R_s z` with z from a base distribution of density b, so that draws
have the weights :math:`p_s(c_s + R_s z)\,|\det R_s|/b(z)`. The base is a Student t distribution, drawn anew for every
student, or the draws of a pilot, in the coordinates in which their mean is 0 and their covariance the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, gammaln, ndtri
from scipy.stats import qmc

from kdstats.prediction.bayes.libraries import az
from kdstats.prediction.bayes.posteriors import quiet

__all__ = [
    "Affine",
    "Base",
    "PilotDraws",
    "StudentT",
    "Weights",
    "curvature_step",
    "moment_step",
    "pareto_k_limit",
    "smoothed",
]

FloatArray = NDArray[np.float64]

#: Degrees of freedom of the Student t base: near a normal, with tails that are heavier.
FREEDOM = 20.0
#: Independent randomisations of a student's points; their scatter is the error.
N_BLOCKS = 8


class Base(Protocol):
    """A distribution of z with its draws."""

    @property
    def n_draws(self) -> int:
        """Number of draws of one student."""

    @property
    def n_blocks(self) -> int:
        """Number of blocks of draws whose means are (nearly) independent."""

    def draw(self, generator: np.random.Generator, n_students: int) -> FloatArray:
        """Return draws (n_students, n_draws, d), block after block."""

    def log_density(self, z: FloatArray) -> FloatArray:
        """Return log densities (...) of z (..., d), up to a constant."""


@dataclass(frozen=True, kw_only=True)
class StudentT:
    """Multivariate t by randomised quasi-Monte Carlo.

    Scrambled Sobol points, shifted at random for every student and block, each with its mirror image.
    """

    dimension: int
    n_draws: int
    n_blocks: int = N_BLOCKS

    def draw(self, generator: np.random.Generator, n_students: int) -> FloatArray:
        """Return draws (n_students, n_draws, d)."""
        n = self.n_draws // (2 * self.n_blocks)
        with quiet():
            points = qmc.Sobol(self.dimension + 1, rng=generator).random(n)
        shifts = generator.random((n_students, self.n_blocks, 1, self.dimension + 1))
        tiny = np.finfo(np.float64).eps
        uniform = np.clip((points + shifts) % 1.0, tiny, 1.0 - tiny)
        scale = np.sqrt(FREEDOM / (2.0 * gammaincinv(0.5 * FREEDOM, uniform[..., -1:])))
        z = ndtri(uniform[..., :-1]) * scale
        return np.stack([z, -z], axis=3).reshape(n_students, self.n_blocks * n * 2, self.dimension)

    def log_density(self, z: FloatArray) -> FloatArray:
        """Return log densities of z."""
        d, half = self.dimension, 0.5 * (FREEDOM + self.dimension)
        constant = gammaln(half) - gammaln(0.5 * FREEDOM) - 0.5 * d * np.log(FREEDOM * np.pi)
        return np.asarray(constant - half * np.log1p(np.einsum("...i,...i->...", z, z) / FREEDOM))


@dataclass(frozen=True, eq=False, kw_only=True)
class PilotDraws:
    """The draws of a pilot themselves, the same for all students.

    Attributes
    ----------
    values : (D, d) ndarray
        Whitened.
    density : callable
        Log density of whitened points.
    n_blocks : int
        Stretches of the chains whose means are nearly independent.
    """

    values: FloatArray
    density: Callable[[FloatArray], FloatArray]
    n_blocks: int

    @property
    def n_draws(self) -> int:
        """Number of draws, D."""
        return len(self.values)

    def draw(self, generator: np.random.Generator, n_students: int) -> FloatArray:
        """Return the draws for each student."""
        return np.broadcast_to(self.values, (n_students, *self.values.shape))

    def log_density(self, z: FloatArray) -> FloatArray:
        """Return log densities of z, up to a constant."""
        return self.density(z)


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine:
    """The maps of S students: theta = centre + root z.

    Attributes
    ----------
    centre : (S, d) ndarray
    root : (S, d, d) ndarray
    """

    centre: FloatArray
    root: FloatArray

    @property
    def log_determinant(self) -> FloatArray:
        """Log of the absolute determinants, shape (S,)."""
        return np.asarray(np.linalg.slogdet(self.root)[1])

    def __call__(self, z: FloatArray) -> FloatArray:
        """Map z (S, D, d)."""
        return np.asarray(self.centre[:, None] + z @ self.root.swapaxes(1, 2))

    def inverse(self, theta: FloatArray) -> FloatArray:
        """Return the z (S, D, d) that are mapped to theta."""
        off = (theta - self.centre[:, None]).swapaxes(1, 2)
        return np.asarray(np.linalg.solve(self.root, off).swapaxes(1, 2))

    def take(self, students: NDArray[np.int64]) -> Affine:
        """Return the maps of some students."""
        return Affine(centre=self.centre[students], root=self.root[students])

    def put(self, students: NDArray[np.int64], other: Affine) -> Affine:
        """Return maps in which some students have others."""
        centre, root = self.centre.copy(), self.root.copy()
        centre[students], root[students] = other.centre, other.root
        return Affine(centre=centre, root=root)


@dataclass(frozen=True, eq=False, kw_only=True)
class Weights:
    """Normalised importance weights and what their tails say.

    Attributes
    ----------
    values : (S, D) ndarray
    shape : (S,) ndarray
        k-hat of the Pareto tails.
    """

    values: FloatArray
    shape: FloatArray

    @property
    def effective(self) -> FloatArray:
        """Effective number of draws (Kish), shape (S,)."""
        return np.asarray(1.0 / (self.values**2).sum(axis=1))


def pareto_k_limit(n_draws: int) -> float:
    """Return the k-hat above which that many draws cannot be trusted: min(1 - 1/log10(n), 0.7)."""
    return float(min(1.0 - 1.0 / np.log10(n_draws), 0.7))


def smoothed(log_weights: FloatArray) -> Weights:
    """Smooth the tails of log weights (S, D) with ArviZ; k-hat is infinite where a weight is not a number.

    Weights that are all equal have no tail: their k-hat is minus infinity.
    """
    values = np.empty_like(log_weights)
    shape = np.empty(len(log_weights))
    clean = np.where(np.isnan(log_weights) | np.isposinf(log_weights), -np.inf, log_weights)
    top = clean.max(axis=1, keepdims=True)
    usable = np.isfinite(top[:, 0]) & ~(clean != log_weights).any(axis=1)
    level = clean.min(axis=1) > np.where(usable, top[:, 0], 0.0) - np.sqrt(np.finfo(np.float64).eps)
    tailed = usable & ~level
    if tailed.any():
        with quiet():
            kept, found = az.psislw(np.maximum(clean[tailed], top[tailed] - 700.0))
        values[tailed], shape[tailed] = np.exp(kept), found
    values[~tailed] = 1.0
    shape[~tailed] = np.where(usable[~tailed], -np.inf, np.inf)
    return Weights(values=values / values.sum(axis=1, keepdims=True), shape=shape)


def moment_step(kind: str, *, maps: Affine, z: FloatArray, weights: FloatArray) -> Affine:
    """Return maps that give the draws z (D, d) the moments that the weights (S, D) give them under the present maps.

    ``kind`` "mean" moves the centre; "variances" also scales each parameter; "covariance" takes the whole covariance.
    """
    mean = weights @ z
    centre = maps.centre + np.einsum("sij,sj->si", maps.root, mean)
    if kind == "mean":
        return Affine(centre=centre, root=maps.root)
    weighted = weights[:, None, :] * z.T
    inner = weighted @ z - mean[:, :, None] * mean[:, None, :]
    if kind == "variances":
        wanted = np.einsum("sij,sjk,sik->si", maps.root, inner, maps.root, optimize=True)
        ratio = np.sqrt(wanted / np.einsum("sij,sij->si", maps.root, maps.root))
        return Affine(centre=centre, root=ratio[:, :, None] * maps.root)
    lengths, axes = np.linalg.eigh(inner)
    floor = np.finfo(np.float64).eps * np.maximum(lengths[:, -1:], np.finfo(np.float64).tiny)
    stretch = (axes * np.sqrt(np.maximum(lengths, floor))[:, None, :]) @ axes.swapaxes(1, 2)
    return Affine(centre=centre, root=maps.root @ stretch)


def match_moments(
    target: Callable[[FloatArray, NDArray[np.int64]], FloatArray],
    *,
    maps: Affine,
    z: FloatArray,
    log_base: FloatArray,
    limit: float,
    n_rounds: int,
) -> Affine:
    """Match moments of S students until k-hat is good or falls no more.

    Each round takes the first of three steps that lowers a student's k-hat: to the weighted mean, then also to the
    marginal variances, then also to the covariance.

    Parameters
    ----------
    target : callable
        ``target(theta, students)``: log densities (s, D) of points (s, D, d) of some of the students.
    maps : Affine
        Where to start.
    z : (D, d) ndarray
        Draws of the base, the same for all students.
    log_base : (D,) ndarray
        Their log densities.
    limit : float
        k-hat that is good enough.
    n_rounds : int
    """

    def weigh(students: NDArray[np.int64], tried: Affine) -> Weights:
        return smoothed(target(tried(z[None]), students) + tried.log_determinant[:, None] - log_base)

    active = np.arange(len(maps.centre))
    start = weigh(active, maps)
    shape, values = start.shape.copy(), start.values.copy()
    for _ in range(n_rounds):
        active = active[~(shape[active] <= limit)]
        waiting = active
        for kind in ("mean", "variances", "covariance"):
            if waiting.size:
                tried = moment_step(kind, maps=maps.take(waiting), z=z, weights=values[waiting])
                found = weigh(waiting, tried)
                better = found.shape < shape[waiting]
                maps = maps.put(waiting[better], tried.take(np.flatnonzero(better)))
                shape[waiting[better]], values[waiting[better]] = found.shape[better], found.values[better]
                waiting = waiting[~better]
        active = np.setdiff1d(active, waiting)
    return maps


def mixture(base: Base, z: FloatArray, here: Affine, before: Affine) -> tuple[FloatArray, FloatArray]:
    """Return points (S, D, d), half of them of each map, and log densities of the mixture.

    Halves are those of every block of points, so that blocks stay alike.
    """
    n_blocks = base.n_blocks
    size = z.shape[1] // n_blocks
    place = np.arange(z.shape[1]) % size < size // 2
    theta = np.where(place[None, :, None], before(z), here(z))
    logs = [base.log_density(one.inverse(theta)) - one.log_determinant[:, None] for one in (before, here)]
    return theta, np.asarray(np.logaddexp(*logs) - np.log(2.0))


def curvature_step(*, maps: Affine, z: FloatArray, log_density: FloatArray) -> Affine:
    """Return maps to the mode and curvature of the parabola through log densities (S, n) at z (n, d).

    Least squares over all points; a student whose parabola has no top keeps its map. For a normal posterior the
    parabola is the log density, and the map exact.
    """
    d = z.shape[1]
    upper = np.triu_indices(d)
    columns = np.column_stack([np.ones(len(z)), z, z[:, upper[0]] * z[:, upper[1]]])
    fitted = np.linalg.lstsq(columns, np.where(np.isfinite(log_density), log_density, np.nan).T, rcond=None)[0].T
    usable = np.isfinite(fitted).all(axis=1)
    slope, second = np.nan_to_num(fitted[:, 1 : d + 1]), np.zeros((len(fitted), d, d))
    second[:, upper[0], upper[1]] = np.nan_to_num(fitted[:, d + 1 :])
    lengths, axes = np.linalg.eigh(-(second + second.swapaxes(1, 2)))
    good = usable & (lengths[:, 0] > 0.0)
    root = (axes[good] / np.sqrt(lengths[good])[:, None, :]) @ axes[good].swapaxes(1, 2)
    move = np.einsum("sij,skj,sk->si", root, root, slope[good])
    found = Affine(
        centre=maps.centre[good] + np.einsum("sij,sj->si", maps.root[good], move), root=maps.root[good] @ root
    )
    return maps.put(np.flatnonzero(good), found)
