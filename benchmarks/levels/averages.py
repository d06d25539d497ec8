"""Intervals of averages over students and prompts, and of simulated gains of weighting."""

from __future__ import annotations

import numpy as np

import kdstats as kd
from benchmarks.levels.settings import covered, few, share
from kdstats.components.crossed_means import crossed_contrast, crossed_mean, mean_interval, rate_interval

#: Mean of 1/(1+exp(-x)) for x normal with mean -2 and variance .16 + 2.25, by quadrature.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
ROUNDING = 1e-9
RATE = float((WEIGHTS / (1 + np.exp(2.0 - np.sqrt(2.41) * NODES))).sum() / WEIGHTS.sum())


def text_answers(n):
    """Measures of text answers: means, rates and differences, over students and prompts that are both samples."""
    for n_students, n_prompts in ((3, 20), (5, 40), (20, 100)):
        for law in ("Gaussian", "exponential"):
            rng, found = np.random.default_rng([21, n_students]), []

            def draw(*size, rng=rng, law=law):
                return rng.normal(size=size) if law == "Gaussian" else rng.exponential(size=size) - 1.0

            for _ in range(n):
                prompts = draw(1, n_prompts)
                one, other = (0.5 * draw(n_students, 1) + prompts + draw(n_students, n_prompts) for _ in range(2))
                logits = -2.0 + 0.4 * rng.normal(size=(n_students, 1)) + 1.5 * rng.normal(size=(1, n_prompts))
                right = (rng.random((n_students, n_prompts)) < 1 / (1 + np.exp(-logits))).astype(float)
                found.append(
                    (
                        mean_interval(crossed_mean(one), 0.95),
                        mean_interval(crossed_contrast(one, other), 0.95),
                        rate_interval(crossed_mean(right), 0.95, n_inputs=n_prompts),
                    )
                )
            bounds = np.array(found)
            cells = (share(covered(bounds[:, i], truth)) for i, truth in enumerate((0.0, 0.0, RATE)))
            setting = f"{law}, {n_students} students x {n_prompts} prompts"
            yield "decompose_responses", setting, ", ".join(cells), "mean, difference, rate (logistic-normal)"


def weights(n):
    """Simulated ratios of weighting to plain averaging, against ratios from 1,600,000 students."""
    tables = min(n, 300)
    problem = kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8).with_design(n_responses=8)
    many = [kd.weighting_gains(problem, n_students=400_000, rng=10**6 + i) for i in range(4)]
    names = [row.estimator for row in many[0].table if row.exactness == "simulated"]
    truth = {name: np.mean([gains[name].error for gains in many]) for name in names}
    for students in (64, 512, 4096):
        hits = np.zeros((tables, len(names)), bool)
        for i in range(tables):
            gains = kd.weighting_gains(problem, n_students=students, rng=i)
            for j, name in enumerate(names):
                low, high = gains[name].interval()
                hits[i, j] = low - ROUNDING <= truth[name] <= high + ROUNDING
        shown = ", ".join(map(share, hits.T))
        yield "weighting_gains", f"{students} simulated students", shown, f"{', '.join(names)}; {few(n, tables)}"
