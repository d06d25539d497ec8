"""Labels of network students under variance weighting: responses mixed with what pilot networks make of the others."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kdstats.linear.label_law import OwnError
from kdstats.observation.network_trainer import NetworkTrainer
from kdstats.problem.design import pilot_split
from kdstats.problem.specification import DistillationProblem
from kdstats.sampling import NoiseLaw, TrainingBlock
from kdstats.sampling.training_sets import draw_counts, draw_responses, mixed_labels, pilot_error
from kdstats.streams import Seeds

__all__ = ["LabelMixer"]

FloatArray = NDArray[np.float64]

#: Block of the pilots from whose errors the known weights come, beyond the blocks of students.
ERROR_BLOCK = 2**30


class LabelMixer:
    """Draws the training sets of network students that mix responses with an estimate of their own.

    A pilot is the same network, trained on the mean of the first ``k // 2`` responses at every input: from a start,
    in batches and with masks of its own, where those vary, and else with those that all pilots share.

    Parameters
    ----------
    problem : DistillationProblem
        With a network student and the strategy ``variance_weighting``.
    seeds, law
        Of the students. Pilots have seeds that branch off.
    """

    def __init__(self, problem: DistillationProblem, seeds: Seeds, law: NoiseLaw) -> None:
        weighting = problem.design.weighting
        assert weighting is not None
        self.problem, self.seeds, self.law, self.weighting = problem, seeds, law, weighting
        self.pilots = None
        if weighting.uses_pilot:
            self.pilots = NetworkTrainer(problem.pilot_problem(), seeds.branch("pilot"), law)

    @property
    def facts(self) -> dict[str, str]:
        """What the labels took, for the record."""
        facts = {} if self.weighting.bound is None else {"bound": self.weighting.bound}
        if self.pilots is None:
            return facts
        first, second = pilot_split(self.problem.design.n_responses)
        budget = f"a pilot trained like each student on {first} of its responses, mixed with the mean of {second}"
        return facts | {"labels": budget}

    def draw(self, block: int, count: int, n_workers: int | None) -> TrainingBlock:
        """Draw the training sets of the first students of a block, ``count`` of them."""
        responses = draw_responses(self.problem, self.seeds, block, self.law)[:count]
        own = None if self.pilots is None else self._predict(responses, block, n_workers)
        labels = mixed_labels(
            self.problem, self.seeds, block, responses, own=own, own_error=self._own_error if own is not None else None
        )
        within = ((responses - responses.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
        counts = draw_counts(self.problem, self.seeds, block)
        return TrainingBlock(labels=labels, within=within, counts=None if counts is None else counts[:count])

    def _predict(self, responses: FloatArray, block: int, n_workers: int | None) -> FloatArray:
        """Predictions of pilots at the inputs, shape (B, n, 1)."""
        assert self.pilots is not None
        labels = responses[:, : pilot_split(responses.shape[1])[0]].mean(axis=1)
        drawn = TrainingBlock(labels=labels, within=np.zeros_like(labels), counts=None)
        return self.pilots.train(drawn, block, n_workers).predictions

    @cached_property
    def _own_error(self) -> OwnError | None:
        """Error of pilots and its covariance with the other responses, of a block of pilots of their own."""
        if not self.weighting.takes_own_error:
            return None
        seeds = self.seeds.branch("pilot")
        responses = draw_responses(self.problem, seeds, ERROR_BLOCK, self.law)
        return pilot_error(self.problem, responses, self._predict(responses, ERROR_BLOCK, None))
