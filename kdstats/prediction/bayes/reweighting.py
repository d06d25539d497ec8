r"""One fit, many students: the draws of a pilot, moved and weighted for each student's own labels.

The pilot is fitted to the data of a typical student. Student s has the posterior density :math:`p_s`; draws
:math:`\theta` of the pilot, :math:`p_0`, have the weights :math:`p_s/p_0`, smoothed by a generalised Pareto tail
[1]_. Labels that differ by their own noise shift a posterior of p parameters by about :math:`\sqrt p` of its
standard deviations, where plain weights fail, so draws are first moved affinely until their moments match
[2]_: :math:`\theta' = T\theta`, with weights :math:`p_s(T\theta)\,|\det T|/p_0(\theta)`. The shape k-hat of the tail
decides whether the weights can be trusted.

References
----------
.. [1] Vehtari, A., Simpson, D., Gelman, A., Yao, Y. & Gabry, J. (2024), J. Mach. Learn. Res. 25.
.. [2] Paananen, T., Piironen, J., Bürkner, P.-C. & Vehtari, A. (2021), Statist. Comput. 31.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import PredictionError, UnsupportedProblemError
from kdstats.prediction.bayes.components import Diagnostics, StudentMoments, diagnose, moments_of
from kdstats.prediction.bayes.libraries import az, pm
from kdstats.prediction.bayes.methods import Reweighting
from kdstats.prediction.bayes.posteriors import LogDensity, draws_of, quiet, sample
from kdstats.prediction.bayes.stacks import Stack

__all__ = ["Reweighted", "pareto_k_limit", "reweight"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Reweighted:
    """Students made of one pilot.

    Attributes
    ----------
    moments : StudentMoments
    pilot : arviz.InferenceData
    diagnostics : Diagnostics
        Of the pilot, or of the refitted students where they are worse.
    pareto_k : (S,) ndarray
    n_refitted : int
    """

    moments: StudentMoments
    pilot: az.InferenceData
    diagnostics: Diagnostics
    pareto_k: FloatArray
    n_refitted: int


def pareto_k_limit(n_draws: int) -> float:
    """Return the k-hat above which that many draws cannot be trusted: min(1 - 1/log10(n), 0.7)."""
    return float(min(1.0 - 1.0 / np.log10(n_draws), 0.7))


def reweight(stack: Stack, method: Reweighting, *, seed: int) -> Reweighted:
    """Reweight one fit to every student of a stack.

    Raises
    ------
    PredictionError
        If some k-hat is above its limit and ``method.refit`` is False.
    """
    pilot = stack.pilot()
    data = sample(pilot, method.nuts, seed=seed)
    diagnostics = diagnose(pilot, data)
    draws = {name: array.reshape(-1, *array.shape[3:]) for name, array in draws_of(data).items()}
    n_draws = len(next(iter(draws.values())))
    many = pilot.take(np.zeros(n_draws, dtype=int))
    density = LogDensity(many)
    space = _Space(density.model, draws)
    base = density(space.split(space.values))
    parts, shapes = [], np.empty(stack.n_students)
    for student in range(stack.n_students):
        with density.model:
            pm.set_data(
                {name: np.repeat(array[student][None], n_draws, axis=0) for name, array in stack.arrays.items()}
            )
        moved = _match(space, density, base, n_rounds=method.n_rounds)
        shapes[student] = moved.shape
        parts.append(_weighted_moments(stack.take([student]), space, moved))
    moments = _joined(parts)
    bad = np.flatnonzero(~(shapes <= pareto_k_limit(n_draws)))
    if bad.size and not method.refit:
        raise PredictionError(
            f"`method` must be able to reweight every student; got k-hat above {pareto_k_limit(n_draws):.2f} for "
            f"{bad.size} of {stack.n_students} (the worst {np.nanmax(shapes):.2f}): use Reweighting(refit=True) or NUTS"
        )
    if bad.size:
        refitted = stack.take(bad)
        fresh = sample(refitted, method.nuts, seed=seed + 1)
        diagnostics = _worse(diagnostics, diagnose(refitted, fresh))
        moments = _replaced(moments, bad, moments_of(refitted, fresh))
    return Reweighted(moments=moments, pilot=data, diagnostics=diagnostics, pareto_k=shapes, n_refitted=int(bad.size))


class _Space:
    """The pilot's draws as rows of unconstrained numbers, and the way back."""

    def __init__(self, model: pm.Model, draws: dict[str, FloatArray]) -> None:
        self.names = [variable.name for variable in model.value_vars]
        free = {model.rvs_to_values[variable].name: variable for variable in model.free_RVs}
        self.kinds = [(free[name].name, model.rvs_to_transforms[free[name]]) for name in self.names]
        log = pm.distributions.transforms.LogTransform
        odd = [name for name, transform in self.kinds if transform is not None and not isinstance(transform, log)]
        if odd:
            raise UnsupportedProblemError(
                f"reweighting moves unbounded or positive parameters; got {odd[0]!r} with others (use method='nuts')"
            )
        columns, self.shapes = [], []
        for kind, transform in self.kinds:
            array = draws[kind] if transform is None else np.log(draws[kind])
            self.shapes.append(array.shape[1:])
            columns.append(array.reshape(len(array), -1))
        self.values = np.hstack(columns)

    def split(self, values: FloatArray) -> dict[str, FloatArray]:
        """Return the value variables of rows."""
        cuts = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        parts = np.split(values, cuts, axis=1)
        return {
            name: part.reshape(len(values), *shape)
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def named(self, values: FloatArray) -> dict[str, FloatArray]:
        """Return the named variables of rows, each as draws of one student: (D, 1, ...)."""
        found = {}
        for (kind, transform), part in zip(self.kinds, self.split(values).values(), strict=True):
            found[kind] = (part if transform is None else np.exp(part))[:, None]
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class _Moved:
    """Draws after an affine map, their normalised weights, and the shape of the tail."""

    values: FloatArray
    weights: FloatArray
    shape: float


def _match(space: _Space, density: LogDensity, base: FloatArray, *, n_rounds: int) -> _Moved:
    """Move draws until k-hat is good: shift, then shift and scale, then shift and rotate, while it falls."""
    best = _smoothed(space.values, density(space.split(space.values)) - base)
    limit = pareto_k_limit(len(base))
    log_jacobian = 0.0
    for _ in range(n_rounds):
        if best.shape <= limit:
            break
        improved = False
        for kind in ("shift", "scale", "rotate"):
            values, gained = _transformed(best, kind)
            weights = density(space.split(values)) - base + log_jacobian + gained
            found = _smoothed(values, weights)
            if found.shape < best.shape:
                best, improved = found, True
                log_jacobian += gained
                break
        if not improved:
            break
    return best


def _transformed(moved: _Moved, kind: str) -> tuple[FloatArray, float]:
    """Return draws whose plain moments are the weighted ones, and the log determinant of the map."""
    values, weights = moved.values, moved.weights
    mean, target = values.mean(axis=0), weights @ values
    off = values - mean
    if kind == "shift":
        return off + target, 0.0
    if kind == "scale":
        ratio = np.sqrt((weights @ (values - target) ** 2) / off.var(axis=0))
        return off * ratio + target, float(np.log(ratio).sum())
    wanted = np.cov(values, rowvar=False, aweights=weights, ddof=0).reshape(values.shape[1], -1)
    have = np.cov(values, rowvar=False, ddof=0).reshape(values.shape[1], -1)
    try:
        new, old = np.linalg.cholesky(wanted), np.linalg.cholesky(have)
    except np.linalg.LinAlgError:
        return values, 0.0
    turned = off @ np.linalg.solve(old.T, new.T)
    return turned + target, float(np.log(np.diag(new)).sum() - np.log(np.diag(old)).sum())


def _smoothed(values: FloatArray, log_weights: FloatArray) -> _Moved:
    if not np.isfinite(log_weights).all() or np.ptp(log_weights) == 0.0:
        level = np.where(np.isfinite(log_weights), 0.0, -np.inf)
        flat = np.exp(level) / np.exp(level).sum()
        return _Moved(values=values, weights=flat, shape=np.inf if np.isinf(level).any() else -np.inf)
    with quiet():
        smooth, shape = az.psislw(log_weights)
    weights = np.exp(np.asarray(smooth))
    return _Moved(values=values, weights=weights / weights.sum(), shape=float(shape))


def _weighted_moments(one: Stack, space: _Space, moved: _Moved) -> StudentMoments:
    """Return weighted moments of one student, with their importance-sampling errors."""
    found = one.predictive(space.named(moved.values))
    mean, variance = found.mean[:, 0], np.broadcast_to(found.variance, found.mean.shape)[:, 0]
    weights = moved.weights
    centre = weights @ mean
    squares = (mean - centre) ** 2
    noise = weights @ variance
    intra = squares + variance
    mean_error = np.sqrt(weights**2 @ squares)
    intra_error = np.sqrt(weights**2 @ (intra - weights @ intra) ** 2)
    return StudentMoments(
        mean=centre[None],
        parameter=(weights @ squares + mean_error**2)[None],
        noise=noise[None],
        mean_error=mean_error[None],
        intra_error=intra_error[None],
    )


def _joined(parts: list[StudentMoments]) -> StudentMoments:
    names = ("mean", "parameter", "noise", "mean_error", "intra_error")
    return StudentMoments(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _replaced(moments: StudentMoments, students: NDArray[np.int64], fresh: StudentMoments) -> StudentMoments:
    arrays = {
        name: getattr(moments, name).copy() for name in ("mean", "parameter", "noise", "mean_error", "intra_error")
    }
    for name, array in arrays.items():
        array[students] = getattr(fresh, name)
    return StudentMoments(**arrays)


def _worse(one: Diagnostics, other: Diagnostics) -> Diagnostics:
    return other if other.failures else one
