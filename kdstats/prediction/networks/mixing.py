r"""Labels of variance weighting for networks: responses mixed with what pilot networks make of the other responses.

A student sees :math:`\alpha\bar y_2 + (1-\alpha) P(\bar y_1)`, P being the whole training of a pilot as seen at the
inputs. To first order, for weights that do not depend on the responses, such labels have the mean
:math:`\alpha\mu + (1-\alpha) E P(\mu)` and the covariance

.. math:: A\Sigma_2A + B\left(E[J\Sigma_1J'] + \operatorname{Var}P(\mu)\right)B + ASJ'B + BJSA,

with A and B the diagonal matrices of the weights and of what they leave, J the derivative of P at the teacher's mean,
:math:`\Sigma_1, \Sigma_2` the covariances of the two mean responses and S what they share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import UnsupportedProblemError
from kdstats.linear.label_law import (
    OwnError,
    mean_response_covariance,
    mixing_weight,
    mixture_without_pilot,
    shared_covariance,
)
from kdstats.linear.smoother import as_full
from kdstats.networks.architecture import Parameters
from kdstats.prediction.networks.spread import Spread, centred, paired_spread, plain_spread
from kdstats.prediction.networks.students import draw_starts, run_pilot, train_students
from kdstats.problem.design import VarianceWeighting, pilot_split
from kdstats.problem.specification import DistillationProblem
from kdstats.sampling import BLOCK, Gaussian
from kdstats.sampling.training_sets import draw_responses, mixed_labels, pilot_error
from kdstats.streams import Seeds

__all__ = ["LabelMixing", "MixtureLaw"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class MixtureLaw:
    """Mean (n,) and covariance (n, n) of mixed labels, to first order."""

    mean: FloatArray
    covariance: FloatArray

    def as_problem(self, problem: DistillationProblem) -> DistillationProblem:
        """Return the same students on single labels of this law."""
        plain = problem.with_design(n_responses=1, strategy="single", weighting=None)
        sources = plain.design.sources | {"teacher_output"}
        return plain.with_design(sources=sources).with_teacher(
            mean=self.mean, noise_variance=self.covariance, response_correlation=0.0, fitting_covariance=None
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelMixing:
    """Draws mixed labels of a problem, trains students on them, and knows their law to first order.

    Attributes
    ----------
    problem : DistillationProblem
        With a network student and the strategy ``variance_weighting``.
    seeds : Seeds
        Pilots that have a common start, as it is or perturbed, have that of the pilots of ``kdstats.observe`` with the
        same seed.
    n_students : int
    """

    problem: DistillationProblem
    seeds: Seeds
    n_students: int
    n_workers: int | None = None

    @property
    def weighting(self) -> VarianceWeighting:
        """How responses are mixed."""
        assert self.problem.design.weighting is not None
        return self.problem.design.weighting

    @property
    def _pilot_seeds(self) -> Seeds:
        return self.seeds.branch("pilot")

    def spread(self, starts: Parameters) -> Spread:
        """Train students on mixed labels: from one start, or in pairs from starts of their own."""
        mean = self.problem.gaussian_teacher.mean_by_output
        paired = "student_initialization" in self.problem.design.sources
        labels = self.labels((1 + paired) * self.n_students)
        if paired:
            starts = tuple(np.concatenate([layer, layer]) for layer in starts)
        trained = train_students(self.problem, labels - mean, starts, n_workers=self.n_workers)
        return paired_spread(trained) if paired else plain_spread(trained)

    def labels(self, count: int) -> FloatArray:
        """Draw mixed labels, shape (count, n, 1)."""
        seeds = self.seeds.branch("response")
        own = self._pilots(seeds, count) if self.weighting.uses_pilot else None
        mixed = [
            mixed_labels(
                self.problem,
                seeds,
                block,
                responses,
                own=None if own is None else own[block * BLOCK : block * BLOCK + len(responses)],
                own_error=self._own_error,
            )
            for block, responses in enumerate(self._responses(seeds, count))
        ]
        return np.concatenate(mixed)

    def first_order(self, *, n_pilots: int) -> MixtureLaw:
        """Return the law of mixed labels to first order, from the differentiated training runs of some pilots.

        Raises
        ------
        UnsupportedProblemError
            For weights that students estimate from their responses.
        """
        problem, weighting = self.problem, self.weighting
        if weighting.variance_estimate is not None:
            raise UnsupportedProblemError(
                "first order covers weights that do not depend on the responses: `weight` must be 'known' or numbers; "
                f"got {weighting.variance_estimate!r} (response='finite' covers it)"
            )
        n, truth = problem.gaussian_teacher.n_inputs, problem.gaussian_teacher.mean_by_output[:, 0]
        if not weighting.uses_pilot:
            mean, covariance = mixture_without_pilot(problem, weighting)
            return MixtureLaw(mean=mean, covariance=as_full(covariance, n))
        alpha = mixing_weight(problem, weighting, None, own_error=self._own_error)
        beta, pilot, seeds = 1.0 - alpha, problem.pilot_problem(), self._pilot_seeds
        starts = draw_starts(pilot, seeds, self.n_students)
        runs = [run_pilot(pilot, tuple(layer[i : i + 1] for layer in starts)) for i in range(n_pilots)]
        jacobians = np.stack([run.at_points[:, 0, :, 0] for run in runs])
        answers = train_students(pilot, None, starts, n_workers=self.n_workers).predictions[..., 0]
        first, second = (as_full(mean_response_covariance(problem, part), n) for part in pilot_split(self._k))
        own = np.einsum("pij,jk,plk->il", jacobians, first, jacobians, optimize=True) / n_pilots
        if len(answers) > 1:
            own += centred(answers).T @ centred(answers) / (len(answers) - 1)
        cross = np.outer(alpha, beta) * (shared_covariance(problem) @ jacobians.mean(axis=0).T)
        covariance = np.outer(alpha, alpha) * second + np.outer(beta, beta) * own + cross + cross.T
        return MixtureLaw(
            mean=alpha * truth + beta * answers.mean(axis=0), covariance=0.5 * (covariance + covariance.T)
        )

    @property
    def _k(self) -> int:
        return self.problem.design.n_responses

    def _responses(self, seeds: Seeds, count: int) -> list[FloatArray]:
        blocks = range(-(-count // BLOCK))
        return [draw_responses(self.problem, seeds, block, Gaussian())[: count - block * BLOCK] for block in blocks]

    def _pilots(self, seeds: Seeds, count: int) -> FloatArray:
        """Predictions of pilots at the inputs for the responses of these seeds, shape (count, n, 1)."""
        pilot, (first, _) = self.problem.pilot_problem(), pilot_split(self._k)
        labels = np.concatenate([part[:, :first].mean(axis=1) for part in self._responses(seeds, count)])
        starts = draw_starts(pilot, self._pilot_seeds, count, own=seeds.branch("pilot").branch("response"))
        noise = labels - pilot.gaussian_teacher.mean_by_output
        return train_students(pilot, noise, starts, n_workers=self.n_workers).predictions

    @cached_property
    def _own_error(self) -> OwnError | None:
        if not (self.weighting.takes_own_error and self.weighting.uses_pilot):
            return None
        seeds = self._pilot_seeds.branch("error")
        (responses,) = self._responses(seeds, BLOCK)
        return pilot_error(self.problem, responses, self._pilots(seeds, BLOCK))
