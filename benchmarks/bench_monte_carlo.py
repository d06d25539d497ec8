"""Monte Carlo against a scikit-learn loop that fits the same students one by one, side by side in one run.

Usage: ``python benchmarks/bench_monte_carlo.py [--workers N] [--students S] [--repeats R]``. Times are the smallest of
the repeats, per 1,000 students: 404 inputs, 13 features, 102 query points, ordinary least squares.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits

import kdstats as kd

N, P, M, NOISE = 404, 13, 102, 0.25
LAWS = ("gaussian", "laplace", "student_t:5", "gamma:2")


def problem(n_responses: int = 1) -> kd.DistillationProblem:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, P))
    teacher = kd.GaussianTeacher(X, X @ rng.standard_normal(P), noise_variance=NOISE)
    design = kd.Design(rng.standard_normal((M, P)), n_responses=n_responses)
    return kd.DistillationProblem(teacher=teacher, student=kd.LinearStudent(), design=design)


def loop(what: kd.DistillationProblem, n_students: int) -> float:
    """Mean variance over the query points, as a user would write it."""
    rng = np.random.default_rng(1)
    teacher, k = what.teacher, what.design.n_responses
    predictions = np.empty((n_students, M))
    for student in range(n_students):
        labels = teacher.mean + np.sqrt(NOISE) * rng.standard_normal((k, N)).mean(axis=0)
        predictions[student] = LinearRegression().fit(teacher.X, labels).predict(what.X_query)
    return float(predictions.var(axis=0, ddof=1).mean())


def numpy_batch(what: kd.DistillationProblem, n_students: int) -> float:
    """Every student at once with plain numpy: draw, one product with the smoother matrix, variance."""
    inputs = np.column_stack([np.ones(N), what.teacher.X])
    gain = np.column_stack([np.ones(M), what.X_query]) @ np.linalg.pinv(inputs)
    noise = np.random.default_rng(1).standard_normal((n_students, N))
    return float(((what.teacher.mean + np.sqrt(NOISE) * noise) @ gain.T).var(axis=0, ddof=1).mean())


def per_thousand(work: Callable[[], object], n_students: int, repeats: int) -> tuple[float, float]:
    """Smallest wall time and smallest processor time, in milliseconds per 1,000 students."""
    wall, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return 1e6 * min(wall) / n_students, 1e6 * min(cpu) / n_students


def floors(n_students: int, n_workers: int, repeats: int) -> dict[str, float]:
    """What one step alone takes, on as many threads, one BLAS thread each."""
    generators = [np.random.Generator(np.random.SFC64(seed)) for seed in range(n_workers)]
    out = [np.empty((256, N)) for _ in generators]
    gain = np.random.default_rng(0).standard_normal((N, P + 1))
    blocks = n_students // 256 // n_workers

    def draw(worker: int) -> None:
        for _ in range(blocks):
            generators[worker].standard_normal(out=out[worker])

    def product(worker: int) -> None:
        for _ in range(blocks):
            out[worker] @ gain

    found = {}
    with ThreadPoolExecutor(n_workers) as pool, threadpool_limits(1, user_api="blas"):
        for name, step in (("numpy standard normals (SFC64)", draw), ("coefficients by GEMM", product)):
            work = lambda step=step: list(pool.map(step, range(n_workers)))  # noqa: E731
            found[name] = per_thousand(work, blocks * 256 * n_workers, repeats)[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--students", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    floor = floors(options.students, options.workers, options.repeats)
    for k in (1, 5):
        what = problem(k)
        exact = float(kd.predict(what).inter_student.mean())
        slow, slow_cpu = per_thousand(lambda what=what: loop(what, 1000), 1000, max(2, options.repeats // 2))
        print(f"\nk = {k}: scikit-learn loop {slow:.0f} ms per 1,000 students; mean variance in theory {exact:.6g}")
        if k == 1:
            batch, _ = per_thousand(lambda what=what: numpy_batch(what, 1000), 1000, options.repeats)
            print(f"  plain numpy batch                 {batch:7.2f} ms   {slow / batch:6.0f} x the loop")
        for law in LAWS:

            def simulate(law: str = law, what: kd.DistillationProblem = what) -> kd.VarianceComponents:
                return kd.predict(
                    what,
                    engine="monte_carlo",
                    n_students=options.students,
                    rng=1,
                    noise_law=law,
                    n_workers=options.workers,
                )

            value = float(simulate().inter_student.mean())
            wall, cpu = per_thousand(simulate, options.students, options.repeats)
            print(
                f"  {law:12s} {options.workers} workers           {wall:7.2f} ms   {slow / wall:6.0f} x the loop"
                f"   ({cpu:.2f} ms of processor, {slow_cpu / cpu:.0f} x; simulated / theory {value / exact:.4f})"
            )
    print("\nfloors, per 1,000 students with k = 1:")
    for name, milliseconds in floor.items():
        print(f"  {name:32s}  {milliseconds:7.2f} ms")


if __name__ == "__main__":
    main()
