"""Closed form against a loop over scikit-learn students: ratios measured side by side in one run.

The loop trains 1,000 ordinary least-squares students on 404 x 13 inputs and predicts at 102 points.
Floors: the LAPACK factorisation alone for the kernel; writing the answer's arrays for the grid.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy.linalg import lapack

import kdstats as kd
from kdstats.linear.least_squares import factorize
from kdstats.linear.threads import one_blas_thread

N_STUDENTS, N, P, M = 1_000, 404, 13, 102
NOISE_LEVELS, RESPONSES = np.linspace(0.1, 2.0, 15), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 40, 50]


def make_problem() -> kd.DistillationProblem:
    rng = np.random.default_rng(0)
    X, X_query = rng.standard_normal((N, P)), rng.standard_normal((M, P))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X @ rng.standard_normal(P), noise_variance=0.25),
        student=kd.LinearStudent(),
        design=kd.Design(X_query),
    )


def loop_over_students(problem: kd.DistillationProblem, n_students: int = N_STUDENTS) -> np.ndarray:
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(1)
    X, X_query, mean = problem.teacher.X, problem.X_query, problem.teacher.mean
    predictions = np.empty((n_students, M))
    for student in range(n_students):
        labels = mean + 0.5 * rng.standard_normal(N)
        predictions[student] = LinearRegression().fit(X, labels).predict(X_query)
    return predictions.var(axis=0, ddof=1)


def kernel(inputs: np.ndarray, query: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Array in, array out: factorise, and the variance at every query point."""
    spread = query @ factorize(inputs, names=names).root
    return 0.25 * np.einsum("ij,ij->i", spread, spread)


def grid(problem: kd.DistillationProblem) -> kd.VarianceComponents:
    return kd.predict_grid(problem, noise_variance=NOISE_LEVELS, n_responses=RESPONSES)


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Median over repeats, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def seconds_alone(function: Callable[[], object], repeats: int) -> float:
    with one_blas_thread():
        return seconds(function, repeats)


class ClosedForm:
    """asv layout."""

    def setup(self) -> None:
        self.problem = make_problem()

    def time_predict(self) -> None:
        kd.predict(self.problem)

    def time_grid(self) -> None:
        grid(self.problem)


def main() -> None:
    problem = make_problem()
    inputs = np.hstack([np.ones((N, 1)), problem.teacher.X])
    query = np.hstack([np.ones((M, 1)), problem.X_query])
    names = tuple(f"c{i}" for i in range(P + 1))
    np.testing.assert_allclose(kernel(inputs, query, names), kd.predict(problem).inter_student.values[:, 0], rtol=1e-12)
    fortran = np.asfortranarray(inputs)
    loop = seconds(lambda: loop_over_students(problem), 3)
    cells = len(NOISE_LEVELS) * len(RESPONSES)
    shape = (len(NOISE_LEVELS), len(RESPONSES), M, 1)
    print(f"loop over {N_STUDENTS} scikit-learn students: {loop:.3f} s")
    rows = (
        ("public call", seconds(lambda: kd.predict(problem), 200), loop, 200),
        ("kernel, one BLAS thread", seconds_alone(lambda: kernel(inputs, query, names), 3000), loop, 8_000),
        ("grid 15 x 16", seconds(lambda: grid(problem), 100), loop * cells, 20_000),
        ("floor of the kernel: LAPACK QR alone", seconds(lambda: lapack.dgeqp3(fortran), 3000), loop, None),
        ("floor of the grid: its array alone", seconds(lambda: np.full(shape, 1.0) * 2.0, 1000), loop * cells, None),
    )
    for name, spent, against, goal in rows:
        wanted = "" if goal is None else f"   (wanted: {goal:,}x)"
        print(f"{name:<40}{1e6 * spent:>10.1f} us{against / spent:>12,.0f}x{wanted}")


if __name__ == "__main__":
    main()
