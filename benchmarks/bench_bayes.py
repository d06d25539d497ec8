"""Bayesian students: all in one PyMC model against one `pm.sample` call each, and one fit reweighted.

Run ``python benchmarks/bench_bayes.py``: ratios of CPU time, measured side by side in one run. The separate calls are
timed on some of the students and scaled to all of them; each builds its model anew, as a loop over students does, with
the same chains and draws, and sees every label. Compiled code is on disk before the clock starts, for every side.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

import kdstats as kd
from kdstats.prediction.bayes import NUTS, Reweighting
from kdstats.prediction.bayes.libraries import pm
from kdstats.prediction.bayes.models import stack_of
from kdstats.prediction.bayes.moments import moments_of
from kdstats.prediction.bayes.posteriors import quiet, sample
from kdstats.prediction.bayes.reweighting import reweight

N_STUDENTS, N_INPUTS, N_FEATURES, N_SEPARATE = 200, 404, 13, 2
METHOD = NUTS(draws=500, tune=500, chains=4)


@dataclass(frozen=True)
class Timing:
    """CPU seconds of each way, and the error each leaves in the posterior means (in posterior standard deviations)."""

    separate: float
    stacked: float
    reweighted: float
    stacked_error: float
    reweighted_error: float
    n_bad: int


def separate_call(X, labels, seed):
    """One student as anybody would write it."""
    with quiet(), pm.Model():
        noise = pm.InverseGamma("noise", 3.0, 2.0)
        w = pm.Normal("w", 0.0, pm.math.sqrt(noise), shape=X.shape[1])
        pm.Normal("y", X @ w, pm.math.sqrt(noise), observed=labels)
        pm.sample(
            METHOD.draws,
            tune=METHOD.tune,
            chains=METHOD.chains,
            cores=1,
            random_seed=seed,
            progressbar=False,
            compute_convergence_checks=False,
        )


def measure() -> Timing:
    """Time the three ways on the same students."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_INPUTS, N_FEATURES))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X @ rng.normal(size=N_FEATURES)),
        student=kd.BayesianLinearStudent(noise_shape=3.0, noise_scale=2.0),
        design=kd.Design(X[:50]),
    )
    responses = problem.teacher.mean[:, None] + rng.normal(size=(N_STUDENTS, 1, N_INPUTS, 1))
    stack = stack_of(problem, responses)
    warm = NUTS(draws=20, tune=20, chains=1)
    sample(stack.take(slice(2)), warm, seed=0)
    sample(stack.pilot(), warm, seed=0)
    separate_call(X, responses[0, 0, :, 0], 0)
    started = time.process_time()
    for student in range(N_SEPARATE):
        separate_call(X, responses[student, 0, :, 0], student)
    separate = (time.process_time() - started) * N_STUDENTS / N_SEPARATE
    started = time.process_time()
    moments = moments_of(stack, sample(stack, METHOD, seed=1))
    stacked = time.process_time() - started
    started = time.process_time()
    found = reweight(stack, Reweighting(nuts=METHOD, refit=True), seed=1)
    reweighted = time.process_time() - started
    scale = np.sqrt(moments.parameter)
    return Timing(
        separate=separate,
        stacked=stacked,
        reweighted=reweighted,
        stacked_error=float((moments.mean_error / scale).mean()),
        reweighted_error=float((found.moments.mean_error / scale).mean()),
        n_bad=found.n_refitted,
    )


def main() -> None:
    """Print the ratios."""
    found = measure()
    print(f"{N_STUDENTS} students of {N_INPUTS} x {N_FEATURES}: {found}")
    print(f"one model against separate calls: {found.separate / found.stacked:.0f} times faster")
    print(f"one fit reweighted against one model: {found.stacked / found.reweighted:.1f} times faster")


if __name__ == "__main__":
    main()
