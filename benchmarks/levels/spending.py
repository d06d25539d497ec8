"""Intervals of what a plan buys, given a pilot, and of what one pilot student tells."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import linalg

import kdstats as kd
from benchmarks.levels.settings import few, share
from kdstats.planning import even_plan
from kdstats.planning.leverage import least_squares_law

PRICES = {"budget": 900.0, "prompt_cost": 6.0, "response_cost": 1.0}


def plans(n):
    """The value of the recommended design, a pilot's variances carried through; frontier and subsets left out."""
    tables = min(n, 1000)
    even_plan.N_SUBSETS, even_plan.N_PLANNED, even_plan.SCALES = 0, 1, np.array([1.0])
    for criterion, misfit in (("inter_student", 0.0), ("mse", 0.6)):
        for law in ("Gaussian", "Laplace"):
            for inputs, responses in ((25, 3), (10, 2)):
                rng = np.random.default_rng([20, inputs])
                X, query, hits = rng.normal(size=(inputs, 3)), rng.normal(size=(10, 3)), []
                for _ in range(tables):
                    noise = (
                        rng.normal(size=(inputs, responses))
                        if law == "Gaussian"
                        else rng.laplace(scale=np.sqrt(0.5), size=(inputs, responses))
                    )
                    answers = (
                        X.sum(axis=1)[:, None] + np.sqrt(misfit) * rng.normal(size=(inputs, 1)) + np.sqrt(2.0) * noise
                    )
                    problem = kd.DistillationProblem(
                        teacher=kd.GaussianTeacher(
                            X, answers.mean(axis=1), noise_variance=answers.var(axis=1, ddof=1).mean()
                        ),
                        student=kd.LinearStudent(),
                        design=kd.Design(query),
                    )
                    found = kd.plan(problem, criterion=criterion, pilot=responses, **PRICES)
                    leverage = least_squares_law(problem, at_new_inputs=criterion == "mse")
                    factor = float(leverage.factors(found.n_inputs, found.n_responses).noise)
                    truth = 2.0 / found.n_responses * factor
                    truth += misfit * (1 + factor) if criterion == "mse" else 0.0
                    hits.append(found.value_interval.low <= truth <= found.value_interval.high)
                setting = f"{criterion}, {law} noise, pilot of {inputs} x {responses}"
                yield "plan, value given the pilot", setting, share(hits), few(n, tables)


def pilots(n):
    """Inter-student variance from one pilot: prompts on a circle that lend to their neighbours."""
    law, size = np.array([0.45, 0.25, 0.15, 0.1, 0.05]), 60
    tables = min(n, 1000)
    step = linalg.circulant([0.5, 0.25, *np.zeros(size - 3), 0.25])
    for own in (1.0, 0.5, 0.0):
        for k in (1, 4):
            smoother = own * np.eye(size) + (1 - own) * np.linalg.matrix_power(step, 4)
            p = np.tile(law, (size, 1))
            truth = float((smoother**2 @ (1 - (p**2).sum(axis=1))).sum()) / k / size
            rng, hits = np.random.default_rng([22, k]), []
            for _ in range(tables):
                seen = rng.multinomial(k, p)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = kd.effective_responses(smoother @ (seen / k), seen, teacher_probabilities=p)
                low, high = found.interval()
                hits.append((low <= truth <= high, found.regime == "unbiased", bool(found.notes)))
            hit, unbiased, noted = np.array(hits).T
            shown = f"{share(hit)}; {share(hit[~noted]) if (~noted).any() else '-'}"
            setting = f"60 prompts, k = {k}, {own:g} of its own response"
            told = (
                f"all; without a note ({share(~noted)} of them); regime unbiased in {share(unbiased)}; {few(n, tables)}"
            )
            yield "effective_responses", setting, shown, told
