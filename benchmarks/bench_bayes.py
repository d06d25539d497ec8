"""Bayesian students: all in one PyMC model against one `pm.sample` call each, and one fit reweighted.

Run ``python benchmarks/bench_bayes.py``: ratios of CPU time, measured side by side in one run.

* Separate calls: ten students, timed one by one, with the spread of their times; each builds its model anew, as a loop
  over students does, with the same chains and draws, and sees every label. Two hundred would take twenty times as long.
* Reweighting against the one model at equal error: the one model is first run with 4 x 500 draws; from its Monte
  Carlo errors follows how many draws bring its inter and intra components to the errors of the reweighted students,
  and it is run again with as many. Both are held against the exact posteriors of the same labels.

Compiled code is on disk before the clock starts, for every side.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

import kdstats as kd
from kdstats.prediction.bayes import NUTS, Reweighting, sample_students
from kdstats.prediction.bayes.libraries import pm
from kdstats.prediction.bayes.posteriors import quiet

N_STUDENTS, N_INPUTS, N_FEATURES, N_SEPARATE = 200, 404, 13, 10
METHOD = NUTS(draws=500, tune=500, chains=4)
PILOT = METHOD
#: Draws of each student by reweighting, and the most draws per chain that the one model is asked for.
WEIGHTED, MOST = 8192, 8000
SEED = 5


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one way, the errors it states, and how far it is from the exact posteriors of the same labels.

    Both are of the components averaged over points.
    """

    seconds: float
    stated: dict[str, float]
    missed: dict[str, float]

    def line(self, name: str) -> str:
        """Return a row of the table."""
        pairs = "  ".join(f"{key} {self.stated[key]:.2e} ({self.missed[key]:+.1e})" for key in self.stated)
        return f"{name:<34}{self.seconds:8.1f} s   {pairs}"


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


def problem() -> kd.DistillationProblem:
    """404 inputs, 13 features, 50 query points."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_INPUTS, N_FEATURES))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X @ rng.normal(size=N_FEATURES)),
        student=kd.BayesianLinearStudent(noise_shape=3.0, noise_scale=2.0),
        design=kd.Design(X[:50]),
    )


def separate_times(posed: kd.DistillationProblem) -> np.ndarray:
    """Time one call after the other."""
    rng = np.random.default_rng(1)
    labels = posed.teacher.mean + rng.normal(size=(N_SEPARATE + 1, N_INPUTS))
    times = []
    for student in range(N_SEPARATE + 1):
        started = time.process_time()
        separate_call(posed.teacher.X, labels[student], student)
        times.append(time.process_time() - started)
    return np.array(times[1:])


def timed(posed: kd.DistillationProblem, method: NUTS | Reweighting, exact: kd.VarianceComponents) -> Timing:
    """Time one way to sample all students."""
    started = time.process_time()
    found = sample_students(posed, n_students=N_STUDENTS, rng=SEED, method=method).components
    seconds = time.process_time() - started
    assert "unreliable" not in found.attrs, found.attrs["unreliable_because"]
    missed = {name: float((found.estimate[name] - exact.estimate[name]).mean()) for name in found.attrs["mcse"]}
    return Timing(seconds=seconds, stated=dict(found.attrs["mcse"]), missed=missed)


def main() -> None:
    """Print the ratios."""
    posed = problem()
    exact = kd.observe(posed, n_students=N_STUDENTS, rng=SEED)
    warm = NUTS(draws=20, tune=20, chains=2)
    with quiet():
        sample_students(posed, n_students=3, rng=0, method=warm)
        sample_students(posed, n_students=3, rng=0, method=Reweighting(nuts=warm, draws=512))
    print(f"{N_STUDENTS} students of {N_INPUTS} x {N_FEATURES}: CPU seconds, stated errors (distance from exact)")
    weighted = timed(posed, Reweighting(nuts=PILOT, draws=WEIGHTED), exact)
    print(weighted.line(f"reweighted, {WEIGHTED} draws"), flush=True)
    short = timed(posed, METHOD, exact)
    print(short.line("one model, 4 x 500 draws"), flush=True)
    needed = {
        name: METHOD.draws * (short.stated[name] / weighted.stated[name]) ** 2
        for name in ("inter_student", "intra_student", "total")
    }
    print("draws per chain at equal error: " + ", ".join(f"{name} {count:.0f}" for name, count in needed.items()))
    draws = int(min(MOST, np.ceil(max(needed[name] for name in ("intra_student", "total")))))
    long = timed(posed, NUTS(draws=draws, tune=METHOD.tune, chains=4), exact)
    print(long.line(f"one model, 4 x {draws} draws"), flush=True)
    separate = separate_times(posed)
    whole = separate.mean() * N_STUDENTS
    error = separate.std(ddof=1) / np.sqrt(len(separate)) * N_STUDENTS
    print(
        f"{N_SEPARATE} separate calls: {separate.mean():.2f} s each (sd {separate.std(ddof=1):.2f}, "
        f"{separate.min():.2f} to {separate.max():.2f}); 200 of them {whole:.0f} +- {error:.0f} s"
    )
    print(f"one model against separate calls: {whole / short.seconds:.0f} +- {error / short.seconds:.0f} times faster")
    print(
        f"reweighted against one model, equal error of components: {long.seconds / weighted.seconds:.1f} times faster"
    )
    print(f"reweighted against one model of 4 x 500 draws: {short.seconds / weighted.seconds:.1f} times faster")


if __name__ == "__main__":
    main()
