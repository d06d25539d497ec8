"""Network students trained together against a PyTorch loop that trains them one by one, side by side in one run.

Usage: ``python benchmarks/bench_networks.py [--students S] [--loop L] [--repeats R] [--hidden H] [--activation A]``, or
with ``--memory``. 404 inputs, 13 features, 102 query points; 16 ReLU units, Adam, learning rate .01, 200 full-batch
epochs. The loop and the batch take turns; times are the smallest of the turns. The loop is timed with one thread and
with torch's default, and the faster one counts. Wall times need an idle machine (a loop on several threads suffers
most from company); processor times, summed over threads, say how much work is saved on a busy machine too. With
``--memory`` 256, then 10,000 students are trained for two epochs, and the peak of the memory is printed after each.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

import kdstats as kd
from kdstats.networks.architecture import architecture_of, initial_parameters
from kdstats.networks.training import train_networks

N, P, M, HIDDEN, EPOCHS, RATE = 404, 13, 102, 16, 200, 0.01
ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}


def flop(hidden: int) -> int:
    """Multiplications and additions of one student: products of both layers, forward and backward, in every epoch."""
    return 2 * N * (2 * P * hidden + 3 * hidden) * EPOCHS


def problem(hidden: int = HIDDEN, activation: str = "relu") -> kd.DistillationProblem:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, P))
    teacher = kd.GaussianTeacher(X, np.sin(X @ rng.standard_normal(P)), noise_variance=0.25)
    student = kd.NetworkStudent(hidden=(hidden,), activation=activation, learning_rate=RATE, epochs=EPOCHS)
    return kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(rng.standard_normal((M, P))))


def loop(what: kd.DistillationProblem, n_students: int) -> torch.Tensor:
    """Train students one by one as a user of PyTorch would write it; return their variance at the query points."""
    generator = torch.Generator().manual_seed(1)
    X = torch.tensor(what.teacher.X, dtype=torch.float32)
    mean = torch.tensor(what.teacher.mean_by_output, dtype=torch.float32)
    query = torch.tensor(what.X_query, dtype=torch.float32)
    (hidden,), activation = what.student.hidden, ACTIVATIONS[what.student.activation]
    predictions = []
    for _ in range(n_students):
        labels = mean + 0.5 * torch.randn(N, 1, generator=generator)
        network = torch.nn.Sequential(torch.nn.Linear(P, hidden), activation(), torch.nn.Linear(hidden, 1))
        optimizer, criterion = torch.optim.Adam(network.parameters(), lr=RATE), torch.nn.MSELoss()
        for _ in range(EPOCHS):
            optimizer.zero_grad()
            criterion(network(X), labels).backward()
            optimizer.step()
        with torch.no_grad():
            predictions.append(network(query))
    return torch.stack(predictions).var(dim=0)


def train_together(what: kd.DistillationProblem, n_students: int) -> None:
    """The training alone, without drawing labels, residual variances and components."""
    architecture = architecture_of(what.student, n_features=P, n_outputs=1)
    rng = np.random.default_rng(2)
    initial = initial_parameters(architecture, rng, n_students=n_students)
    labels = what.teacher.mean_by_output + 0.5 * rng.standard_normal((n_students, N, 1))
    train_networks(what.teacher.X, labels, student=what.student, initial=initial)


def matmul_peak(size: int = 1500) -> float:
    """Single precision operations a second of one large matrix product with every thread."""
    left, out = torch.randn(size, size), torch.empty(size, size)
    torch.mm(left, left, out=out)
    return 2.0 * size**3 / min(seconds(lambda: torch.mm(left, left, out=out)) for _ in range(5))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_thread(work: Callable[[], object]) -> Callable[[], object]:
    def limited() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            work()
        finally:
            torch.set_num_threads(threads)

    return limited


def show_memory(what: kd.DistillationProblem) -> None:
    """Print the peak of the memory after few and after many students, beside what their predictions take."""
    brief = what.with_student(epochs=2)
    for n_students in (256, 10_000):
        kd.observe(brief, n_students=n_students, rng=1)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"{n_students:7,} students: peak {peak:.0f} MiB, predictions {n_students * M * 8 / 2**20:.1f} MiB")


class NetworkStudents:
    """Asv layout: how many times faster the public call is than the loop."""

    unit = "times the loop"
    timeout = 300

    def setup(self) -> None:
        """Compile the kernels."""
        self.problem = problem()
        kd.observe(self.problem, n_students=32, rng=1)

    def track_speed_against_loop(self) -> float:
        """Return the ratio of wall times per student."""
        single = seconds(one_thread(lambda: loop(self.problem, 10))) / 10
        return single / (seconds(lambda: kd.observe(self.problem, n_students=1000, rng=1)) / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=10, help="students of the loop, per turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="units of the hidden layer")
    parser.add_argument("--activation", choices=list(ACTIVATIONS), default="relu")
    parser.add_argument("--memory", action="store_true", help="peak memory of few and of many students")
    options = parser.parse_args()
    what = problem(options.hidden, options.activation)
    if options.memory:
        show_memory(what)
        return
    kd.observe(what, n_students=32, rng=1)
    work = {
        "loop, default threads": (lambda: loop(what, options.loop), options.loop),
        "loop, one thread": (one_thread(lambda: loop(what, options.loop)), options.loop),
        "kd.observe": (lambda: kd.observe(what, n_students=options.students, rng=1), options.students),
        "training alone": (lambda: train_together(what, options.students), options.students),
    }
    times, processor = dict.fromkeys(work, float("inf")), dict.fromkeys(work, float("inf"))
    peak = 0.0
    for _ in range(options.repeats):
        for name, (task, size) in work.items():
            before = time.process_time()
            times[name] = min(times[name], seconds(task) / size)
            processor[name] = min(processor[name], (time.process_time() - before) / size)
        peak = max(peak, matmul_peak())
    fastest_loop = min(times["loop, default threads"], times["loop, one thread"])
    work_of_one = flop(options.hidden)
    floor = work_of_one / peak
    least_work = min(processor["loop, default threads"], processor["loop, one thread"])
    print(f"{'':24}{'ms/student':>12}{'x loop':>10}{'of peak':>10}{'cpu ms':>10}{'x loop':>10}")
    for name, value in times.items():
        wall = f"{1e3 * value:12.3f}{fastest_loop / value:10.1f}{floor / value:10.1%}"
        print(f"{name:24}{wall}{1e3 * processor[name]:10.3f}{least_work / processor[name]:10.1f}")
    print(f"{'floor at matmul peak':24}{1e3 * floor:12.3f}{fastest_loop / floor:10.1f}{1.0:10.1%}")
    print(f"{work_of_one / 1e6:.1f} MFLOP a student")
    print(f"{peak / 1e9:.0f} GFLOP/s matmul peak on {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
