"""Classes as students meet them: how often each was among the k responses to each input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdstats.problem.specification import DistillationProblem
from kdstats.sampling.training_sets import BLOCK
from kdstats.streams import Seeds

__all__ = ["draw_class_counts", "responses_of"]

FloatArray = NDArray[np.float64]


def draw_class_counts(problem: DistillationProblem, seeds: Seeds, block: int) -> FloatArray:
    """Draw class counts for one block of students, shape (BLOCK, n, C); rows sum to k.

    With the source ``teacher_output`` off, or soft labels, counts are at their mean, k times the
    teacher's probabilities.
    """
    teacher, design = problem.categorical_teacher, problem.design
    p, k = teacher.probabilities, design.n_responses
    shape = (BLOCK, *p.shape)
    if "teacher_output" not in design.sources or design.strategy == "soft_labels":
        return np.array(np.broadcast_to(k * p, shape))
    generator = seeds.generator("teacher_output", "classes", block)
    law = np.broadcast_to(p, shape)
    if teacher.response_correlation > 0.0:
        law = _shared_laws(law, teacher.response_correlation, generator)
    return generator.multinomial(k, law).astype(np.float64)


def responses_of(counts: FloatArray) -> FloatArray:
    """Return one-hot responses (B, k, n, C) of whole counts (B, n, C), in the order of the classes."""
    edges = counts.cumsum(axis=-1)[:, None]
    k = int(edges[0, 0, 0, -1])
    chosen = (np.arange(k)[:, None, None] >= edges).sum(axis=-1)
    return np.asarray(np.arange(counts.shape[-1]) == chosen[..., None], dtype=np.float64)


def _shared_laws(p: FloatArray, correlation: float, generator: np.random.Generator) -> FloatArray:
    """Draw the answer law that the responses to one input share: Dirichlet with concentration 1/correlation - 1.

    Gamma variables of tiny shape underflow together, so they are drawn on the log scale:
    a Gamma(a) is a Gamma(a + 1) times U^(1/a).
    """
    if correlation == 1.0:
        return generator.multinomial(1, p).astype(np.float64)
    shape = np.where(p > 0.0, p * (1.0 / correlation - 1.0), 1.0)
    logs = np.log(generator.standard_gamma(shape + 1.0)) - generator.standard_exponential(p.shape) / shape
    logs[p == 0.0] = -np.inf
    raised = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
