"""A 15-level noise sweep times k = 1...50 of network students: predicted from one pilot, against training every cell.

Usage: ``python benchmarks/bench_network_predictions.py [--students S] [--per-cell C]``. Boston Housing (404 inputs, 102
query points), 16 ReLU units, Adam, 200 epochs, all students from one start. Predictions: first order with its check at
both ends of the grid, and the finite response at 8 amplitudes; both from scratch, the pilot's run and its derivatives
included. Training: S students are trained side by side with the predictions and the time is scaled to C students in
each of the 750 cells. Ratios of wall and of processor time, in one run.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np

import kdstats as kd
from kdstats.study.data import load_dataset

LEVELS = np.geomspace(0.01, 1.0, 15)
COUNTS = range(1, 51)
N_CELLS = len(LEVELS) * len(COUNTS)


def problem() -> kd.DistillationProblem:
    data = load_dataset("boston_housing")
    X = (data.X - data.X.mean(axis=0)) / data.X.std(axis=0)
    y = (data.target - data.target.mean()) / data.target.std()
    rows = np.random.default_rng(0).permutation(len(X))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X[rows[:404]], y[rows[:404]], noise_variance=0.1),
        student=kd.NetworkStudent(),
        design=kd.Design(X[rows[404:]], sources=["teacher_output", "student_output"]),
    )


def sweep(what: kd.DistillationProblem, response: str) -> kd.VarianceComponents:
    """Predict every cell from scratch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # first order does not hold at the smallest noise, and says so
        found = kd.network_response(what, rng=1)
        return found.grid(noise_variance=LEVELS.tolist(), n_responses=list(COUNTS), response=response)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


class NetworkSweep:
    """Asv layout: how many times faster the sweep is than training 1,000 students a cell."""

    unit = "times faster"
    timeout = 600
    params = ("tangent", "finite")

    def setup(self, response: str) -> None:
        """Compile the kernels."""
        self.problem = problem()
        kd.observe(self.problem, n_students=32, rng=1)

    def track_speed_against_training(self, response: str) -> float:
        """Return the ratio of processor times."""
        predicted = seconds(lambda: sweep(self.problem, response))[1]
        return seconds(lambda: kd.observe(self.problem, n_students=512, rng=1))[1] / 512 * 1000 * N_CELLS / predicted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=512)
    parser.add_argument("--per-cell", type=int, default=1000)
    options = parser.parse_args()
    what = problem()
    kd.observe(what, n_students=32, rng=1)
    before = seconds(lambda: kd.observe(what, n_students=options.students, rng=1))
    times = {response: seconds(lambda response=response: sweep(what, response)) for response in ("tangent", "finite")}
    after = seconds(lambda: kd.observe(what, n_students=options.students, rng=1))
    factor = options.per_cell * N_CELLS / options.students
    wall, processor = (min(pair) * factor for pair in zip(before, after, strict=True))
    print(f"{N_CELLS} cells; training {options.per_cell} students each: {wall:.0f} s wall, {processor:.0f} s processor")
    for response, (own_wall, own_processor) in times.items():
        print(
            f"{response:8} {own_wall:7.2f} s wall, {own_processor:7.2f} s processor: {wall / own_wall:7.0f} and "
            f"{processor / own_processor:.0f} times faster"
        )


if __name__ == "__main__":
    main()
