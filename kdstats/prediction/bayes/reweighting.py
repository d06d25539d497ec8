r"""One fit, many students: a proposal from a pilot, moved and weighted for each student's own labels.

The pilot is fitted to the data of a typical student. Student s has the log density :math:`\ell_s`, known up to a
constant; the pilot has :math:`\ell_0`, mean :math:`\bar\theta` and covariance :math:`\Sigma`. Labels that differ by
their own noise shift a posterior of p parameters by about :math:`\sqrt p` of its standard deviations, where plain
weights fail, so the proposal is first moved by the known amount,
:math:`\Delta_s = \mathrm{Cov}_0(\theta, \ell_s - \ell_0)`. Where the tail of the weights is still bad, moments are
matched [2]_: the weighted mean, then also the marginal variances, then also the whole covariance, each kept if k-hat
falls, and the weights at the end are those of the mixture of both proposals. A student that a Student t proposal
cannot serve is tried with the pilot's own draws, which have the shape of its posterior. The shape k-hat of the tail
[1]_ decides whether the weights can be trusted.

References
----------
.. [1] Vehtari, A., Simpson, D., Gelman, A., Yao, Y. & Gabry, J. (2024), J. Mach. Learn. Res. 25.
.. [2] Paananen, T., Piironen, J., Bürkner, P.-C. & Vehtari, A. (2021), Statist. Comput. 31.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kdstats.prediction.bayes.components import MIN_ESS, Diagnostics, diagnose
from kdstats.prediction.bayes.densities import StudentDensities
from kdstats.prediction.bayes.libraries import az
from kdstats.prediction.bayes.methods import Reweighting
from kdstats.prediction.bayes.moments import StudentMoments, moments_of
from kdstats.prediction.bayes.posteriors import draws_of, sample
from kdstats.prediction.bayes.proposals import (
    Affine,
    Base,
    PilotDraws,
    StudentT,
    curvature_step,
    match_moments,
    mixture,
    pareto_k_limit,
    smoothed,
)
from kdstats.prediction.bayes.stacks import Stack

__all__ = ["Reweighted", "reweight"]

FloatArray = NDArray[np.float64]
Students = NDArray[np.int64]

#: Points at which log densities are compared, per coefficient that is fitted to them.
POINTS_PER_COEFFICIENT = 2
#: Numbers held at once: about what a processor's cache holds.
CHUNK = 500_000
#: Stretches of the pilot's chains.
STRETCHES = 20


@dataclass(frozen=True, eq=False, kw_only=True)
class Reweighted:
    """Students made of one pilot.

    Attributes
    ----------
    moments : StudentMoments
    pilot : arviz.InferenceData
    diagnostics : Diagnostics
        Of the pilot, or of the refitted students where they are worse, with the students that are refused.
    pareto_k, effective : (S,) ndarray
        k-hat and effective number of draws of each student's weights.
    refused : (S,) ndarray of bool
        Students whose weights cannot be trusted, by k-hat or by the effective number of draws; refitted if that was
        asked for.
    n_moved : int
        Students whose moments had to be matched.
    n_refitted : int
    """

    moments: StudentMoments
    pilot: az.InferenceData
    diagnostics: Diagnostics
    pareto_k: FloatArray
    effective: FloatArray
    refused: NDArray[np.bool_]
    n_moved: int
    n_refitted: int


def reweight(stack: Stack, method: Reweighting, *, seed: int) -> Reweighted:
    """Reweight one fit to every student of a stack; those with bad weights are refused, or refitted if asked."""
    pilot = stack.pilot()
    data = sample(pilot, method.nuts, seed=seed)
    diagnostics = diagnose(pilot, data)
    run = _Run(stack, pilot, data, method, seed)
    run.shift()
    everyone = np.arange(stack.n_students)
    run.weigh(everyone, run.fresh)
    limit = pareto_k_limit(run.fresh.n_draws)
    moved = run.bad(limit).size if method.n_rounds else 0
    for base in (run.fresh, run.old):
        again = run.bad(limit)
        if again.size and method.n_rounds:
            run.match(again, base, limit=limit)
            run.weigh(again, base)
    refused, n_refitted = np.zeros(stack.n_students, dtype=bool), 0
    refused[run.bad(limit)] = True
    moments = run.moments
    if refused.any() and method.refit:
        refitted = stack.take(np.flatnonzero(refused))
        fresh = sample(refitted, method.nuts, seed=seed + 1)
        diagnostics = _worse(diagnostics, diagnose(refitted, fresh))
        moments, n_refitted = moments.replaced(np.flatnonzero(refused), moments_of(refitted, fresh)), int(refused.sum())
    diagnostics = replace(
        diagnostics,
        n_refused=int(refused.sum()) - n_refitted,
        worst_pareto_k=float(run.shape.max()),
        pareto_k_limit=limit,
        least_effective=float(run.effective.min()),
    )
    return Reweighted(
        moments=moments,
        pilot=data,
        diagnostics=diagnostics,
        pareto_k=run.shape,
        effective=run.effective,
        refused=refused,
        n_moved=moved,
        n_refitted=n_refitted,
    )


class _Run:
    """The students' maps, weights and moments while they are found."""

    def __init__(self, stack: Stack, pilot: Stack, data: az.InferenceData, method: Reweighting, seed: int) -> None:
        self.stack, self.method, self.n = stack, method, stack.n_students
        joined = {name: np.concatenate([stack.arrays[name], pilot.arrays[name]]) for name in stack.arrays}
        self.density = StudentDensities(replace(stack, arrays=joined))
        d = self.density.n_parameters
        draws = {name: array.reshape(-1, *array.shape[3:]) for name, array in draws_of(data).items()}
        values = self.density.unconstrained(draws)
        self.mean = values.mean(axis=0)
        self.root = np.linalg.cholesky(np.atleast_2d(np.cov(values, rowvar=False, ddof=0)))
        white = np.linalg.solve(self.root, (values - self.mean).T).T
        self.fresh = StudentT(dimension=d, n_draws=method.draws)
        self.old = PilotDraws(values=white, density=self._pilot, n_blocks=STRETCHES)
        self.generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(1,))))
        self.shape, self.effective = np.full(self.n, np.inf), np.zeros(self.n)
        self.moments: StudentMoments

    def _pilot(self, z: FloatArray) -> FloatArray:
        return self.density(self.mean + z @ self.root.T, np.array(self.n))

    def bad(self, limit: float) -> Students:
        """Return the students whose weights cannot be trusted."""
        return np.flatnonzero(~(self.shape <= limit) | ~(self.effective >= MIN_ESS))

    def shift(self) -> None:
        """Move every student by what its labels are known to differ by.

        The first move is the covariance of the parameters with the difference of log densities; in white coordinates
        it is the slope of that difference, taken by least squares. The second goes to the parabola through the log
        densities around the first, where there are few enough parameters to fit one.
        """
        d = self.density.n_parameters
        root = np.broadcast_to(self.root, (self.n, d, d)).copy()
        still = Affine(centre=np.broadcast_to(self.mean, (self.n, d)).copy(), root=root)
        self.maps = self.shifted = still
        if self.method.n_rounds == 0:
            return
        n = _power_of_two(POINTS_PER_COEFFICIENT * (d + 1))
        z = StudentT(dimension=d, n_draws=n, n_blocks=1).draw(self.generator, 1)[0]
        gain = self._densities(still, z) - self._pilot(z)
        columns = np.column_stack([np.ones(n), z])
        slopes = np.nan_to_num(
            np.linalg.lstsq(columns, np.where(np.isfinite(gain), gain, np.nan).T, rcond=None)[0][1:].T
        )
        self.maps = self.shifted = Affine(centre=self.mean + slopes @ self.root.T, root=root)
        n = _power_of_two(POINTS_PER_COEFFICIENT * (d + 1) * (d + 2) // 2)
        if n <= self.method.draws:
            z = StudentT(dimension=d, n_draws=n, n_blocks=1).draw(self.generator, 1)[0]
            self.maps = curvature_step(maps=self.shifted, z=z, log_density=self._densities(self.shifted, z))

    def _densities(self, maps: Affine, z: FloatArray) -> FloatArray:
        """Return every student's log density (S, n) at its own image of z (n, d)."""
        everyone = np.arange(self.n)
        width = len(z) * self.density.n_parameters
        chunks = np.array_split(everyone, max(1, -(-self.n * width // CHUNK)))
        return np.concatenate([self.density(maps.take(part)(z[None]), part[:, None]) for part in chunks])

    def match(self, students: Students, base: Base, *, limit: float) -> None:
        """Match moments of some students, from the known shift on."""
        for chunk in self._chunks(students, base):
            z = base.draw(self.generator, 1)[0]

            def target(theta: FloatArray, index: Students, chunk: Students = chunk) -> FloatArray:
                return self.density(theta, chunk[index][:, None])

            found = match_moments(
                target,
                maps=self.shifted.take(chunk),
                z=z,
                log_base=base.log_density(z),
                limit=limit,
                n_rounds=self.method.n_rounds,
            )
            self.maps = self.maps.put(chunk, found)

    def weigh(self, students: Students, base: Base) -> None:
        """Draw anew, weigh against the mixture of the first and the matched proposal, keep what improves k-hat."""
        first = not hasattr(self, "moments")
        parts = []
        for chunk in self._chunks(students, base):
            z = base.draw(self.generator, len(chunk))
            here, before = self.maps.take(chunk), self.shifted.take(chunk)
            if first:
                theta, proposal = here(z), base.log_density(z) - here.log_determinant[:, None]
            else:
                theta, proposal = mixture(base, z, here, before)
            weights = smoothed(self.density(theta, chunk[:, None]) - proposal)
            better = np.ones(len(chunk), dtype=bool) if first else weights.shape < self.shape[chunk]
            chosen = chunk[better]
            self.shape[chosen], self.effective[chosen] = weights.shape[better], weights.effective[better]
            found = self._moments(chosen, theta[better], weights.values[better], base)
            if first:
                parts.append(found)
            else:
                self.moments = self.moments.replaced(chosen, found)
        if first:
            self.moments = StudentMoments.joined(parts)

    def _moments(self, students: Students, theta: FloatArray, weights: FloatArray, base: Base) -> StudentMoments:
        """Weighted moments, with errors from the scatter of blocks."""
        found = self.stack.take(students).predictive(self.density.named(theta, students))
        mean = np.ascontiguousarray(found.mean.swapaxes(0, 1))
        variance = np.broadcast_to(found.variance, (*found.mean.shape[:2], found.variance.shape[-1])).swapaxes(0, 1)
        near = mean[:, :1].copy()  # sums of squares are taken around a typical draw
        mean -= near
        n_blocks = base.n_blocks
        size = mean.shape[1] // n_blocks
        kept = weights[:, : size * n_blocks].reshape(len(weights), n_blocks, 1, size)

        def sums(values: FloatArray) -> FloatArray:
            """Weighted sums (S, blocks, m) of values (S, D, m)."""
            blocks = values[:, : size * n_blocks].reshape(len(values), n_blocks, size, values.shape[-1])
            return np.asarray((kept @ blocks)[:, :, 0])

        def total(values: FloatArray) -> FloatArray:
            return np.asarray((weights[:, None] @ values)[:, 0])

        first, noise = total(mean), total(variance)
        mean_blocks, noise_blocks, whole = sums(mean), sums(variance), kept.sum(axis=3)
        np.square(mean, out=mean)
        parameter = total(mean) - first**2
        square_blocks = sums(mean) - 2.0 * first[:, None] * mean_blocks + whole * (first**2)[:, None]

        def error(blocks: FloatArray) -> FloatArray:
            return np.asarray(np.sqrt((blocks**2).sum(axis=1) * n_blocks / (n_blocks - 1)))

        mean_error = error(mean_blocks - whole * first[:, None])
        return StudentMoments(
            mean=first + near[:, 0],
            parameter=parameter + mean_error**2,
            noise=np.broadcast_to(noise, first.shape).copy(),
            mean_error=mean_error,
            intra_error=error(square_blocks + noise_blocks - whole * (parameter + noise)[:, None]),
            shared=np.full(len(students), isinstance(base, PilotDraws)),
        )

    def _chunks(self, students: Students, base: Base) -> list[Students]:
        width = base.n_draws * max(self.density.n_parameters, self.stack_width)
        return np.array_split(students, max(1, -(-len(students) * width // CHUNK)))

    @property
    def stack_width(self) -> int:
        """Points of a student's predictions."""
        if not hasattr(self, "_width"):
            one = self.density.named(self.mean[None, None], np.array([0]))
            self._width = self.stack.take([0]).predictive(one).mean.shape[-1]
        return int(self._width)


def _power_of_two(least: int) -> int:
    return int(2 ** np.ceil(np.log2(least)))


def _worse(one: Diagnostics, other: Diagnostics) -> Diagnostics:
    return other if other.failures else one
