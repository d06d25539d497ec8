"""Measures of text answers against their truth, and their intervals against their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from kdstats.components.crossed_means import crossed_mean, mean_interval, pair_contributions, rate_interval

LEVEL = 1e-4
N = 500


def _too_low(hits: int, n: int = N) -> bool:
    return stats.binomtest(hits, n, 0.95, alternative="less").pvalue < LEVEL


@pytest.mark.parametrize(("student", "prompt", "rest"), [(0.1, 0.5, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0)])
def test_intervals_cover_over_students_and_prompts(student, prompt, rest):
    rng = np.random.default_rng(11)
    hits = plain = 0
    for _ in range(N):
        table = (
            np.sqrt(student) * rng.normal(size=(5, 1))
            + np.sqrt(prompt) * rng.normal(size=(1, 40))
            + np.sqrt(rest) * rng.normal(size=(5, 40))
        )
        lower, upper = mean_interval(crossed_mean(table), 0.95)
        hits += lower <= 0 <= upper
        half = stats.t.ppf(0.975, 199) * table.std(ddof=1) / np.sqrt(200)
        plain += abs(table.mean()) <= half
    assert not _too_low(hits)
    assert _too_low(plain)  # cells are no independent answers


def test_rate_intervals_cover():
    rng = np.random.default_rng(12)
    hits = plain = 0
    for _ in range(N):
        logits = -2.0 + 0.4 * rng.normal(size=(6, 1)) + 1.5 * rng.normal(size=(1, 50))
        table = rng.random((6, 50)) < 1 / (1 + np.exp(-logits))
        lower, upper = rate_interval(crossed_mean(table.astype(float)), 0.95, n_inputs=50)
        hits += lower <= RATE <= upper
        bounds = stats.binomtest(int(table.sum()), 300).proportion_ci(0.95, method="exact")
        plain += bounds.low <= RATE <= bounds.high
    assert not _too_low(hits)
    assert _too_low(plain)


#: Mean of 1/(1+exp(-x)) for x normal with mean -2 and variance .16 + 2.25, by quadrature.
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
RATE = float((_WEIGHTS / (1 + np.exp(2.0 - np.sqrt(2.41) * _NODES))).sum() / _WEIGHTS.sum())


def _embedded(rng, *, students=5, prompts=30, responses=4, dimension=6):
    """Errors of answers with known parts: shared by all students, of one student, of one answer."""
    scale = rng.gamma(2.0, 0.5, size=(1, prompts, 1))  # prompts differ in how hard they are
    shared = np.sqrt(0.5 / dimension) * np.sqrt(scale) * rng.normal(size=(1, prompts, dimension))
    own = np.sqrt(0.3 / dimension) * (
        np.sqrt(0.7) * np.sqrt(scale) * rng.normal(size=(students, prompts, dimension))
        + np.sqrt(0.3) * rng.normal(size=(students, 1, dimension))
    )
    noise = rng.normal(size=(students, prompts, responses, dimension)) / np.sqrt(dimension)
    return (shared + own)[:, :, None] + noise


def test_systematic_and_idiosyncratic_error_are_unbiased_and_covered():
    rng = np.random.default_rng(13)
    found, naive, hits = [], [], np.zeros(2, dtype=int)
    for _ in range(N):
        errors = _embedded(rng)
        means = errors.mean(axis=2)
        intra = errors.var(axis=2, ddof=1).sum(axis=-1)
        systematic = pair_contributions(means)
        inter = (errors**2).sum(axis=-1).mean(axis=2) - intra - systematic
        for i, (table, truth) in enumerate(((systematic, 0.5), (inter, 0.3))):
            lower, upper = mean_interval(crossed_mean(table), 0.95)
            hits[i] += lower <= truth <= upper
        found.append((systematic.mean(), inter.mean(), intra.mean()))
        naive.append((means.mean(axis=0) ** 2).sum(axis=-1).mean())
    z = (np.mean(found, axis=0) - (0.5, 0.3, 1.0)) / (np.std(found, axis=0, ddof=1) / np.sqrt(N))
    assert np.abs(z).max() < 4
    biased = (np.mean(naive) - 0.5) / (np.std(naive, ddof=1) / np.sqrt(N))
    assert biased > 4  # the plain square of the mean error holds 1/S of what students differ by
    assert not _too_low(hits[0])
    assert not _too_low(hits[1])
