"""Where predictions of class students hold: three data sets, two kinds of student, failures included.

Usage: ``python examples/class_regimes.py [--data wine ...] [--out FOLDER]``. A logistic regression fitted to the
classes is the teacher; students learn from k sampled answers to each training input and are asked at the test inputs.
Each prediction is compared with students of another seed by equivalence at margin 1.25. Inputs are standardised.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression

import kdstats as kd
from kdstats.errors import ApproximationWarning

MARGIN = 1.25
DATA = {"wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}
#: Teachers of small data are regularised until they doubt; digits are the hardest work and have the fewest students.
STRENGTH = {"wine": 0.02, "breast_cancer": 0.01, "digits": 0.002}
STUDENTS = {"wine": 600, "breast_cancer": 600, "digits": 200}
ONE_START = ("teacher_output", "student_output")
SOFTMAX = "softmax, penalty 1"
NETWORKS = {
    "64 ReLU, descent": {"optimizer": "sgd", "learning_rate": 0.2},
    "64 ReLU, Adam": {"learning_rate": 0.01},
}
COLUMNS = ("data", "student", "k", "theory", "ratio", "low", "high", "verdict", "warned")


def teacher_of(data: str) -> tuple[kd.CategoricalTeacher, np.ndarray]:
    """Return the fitted teacher at its training inputs, and the test inputs."""
    table = DATA[data]()
    rows = np.random.default_rng(0).permutation(len(table.data))
    train, test = rows[: int(0.8 * len(rows))], rows[int(0.8 * len(rows)) :]
    X = np.asarray(table.data, dtype=float)
    X = X[:, X[train].std(axis=0) > 0.0]
    X = (X - X[train].mean(axis=0)) / X[train].std(axis=0)
    fitted = LogisticRegression(C=STRENGTH[data], max_iter=5000).fit(X[train], table.target[train])
    return kd.CategoricalTeacher(fitted.predict_proba(X[train]), X[train]), X[test]


def cases(
    data: str, kinds: list[str], responses: list[int]
) -> dict[tuple[str, int], tuple[kd.DistillationProblem, dict[str, dict[str, Any]]]]:
    """Return every problem with its theories by name."""
    teacher, query = teacher_of(data)
    found = {}
    epochs = 50 if data == "digits" else 100
    for k in responses:
        design = kd.Design(query, n_responses=k, sources=ONE_START)
        if SOFTMAX in kinds:
            problem = kd.DistillationProblem(teacher=teacher, student=kd.SoftmaxStudent(penalty=1.0), design=design)
            theories: dict[str, dict[str, Any]] = {"delta method": {}, "refits": {"engine": "monte_carlo"}}
            theories["refits"] |= {"n_students": STUDENTS[data], "rng": 1}
            found[SOFTMAX, k] = problem, theories
        for name, options in NETWORKS.items():
            if name not in kinds:
                continue
            student = kd.NetworkStudent(hidden=(64,), head="softmax", epochs=epochs, **options)
            problem = kd.DistillationProblem(teacher=teacher, student=student, design=design)
            shared = {"rng": 1, "n_students": 128 if data == "digits" else 256}
            found[name, k] = (
                problem,
                {"first order": shared | {"response": "tangent"}, "finite": shared | {"response": "finite"}},
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--only", nargs="+", default=[SOFTMAX, *NETWORKS], help="kinds of student")
    parser.add_argument("--responses", nargs="+", type=int, default=[1, 10], help="answers to an input")
    parser.add_argument("--out", type=Path, default=Path("out/class_regimes"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "regimes.csv").open("a", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        for data in options.data:
            for (name, k), (problem, theories) in cases(data, options.only, options.responses).items():
                started = time.perf_counter()
                seeds = kd.Seeds(**(dict.fromkeys(kd.Seeds.__dataclass_fields__, 1) | {"teacher_output": 2}))
                observed = kd.observe(problem, n_students=STUDENTS[data], rng=seeds)
                for theory, how in theories.items():
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        predicted = kd.predict(problem, **how)
                    warned = any(issubclass(w.category, ApproximationWarning) for w in caught)
                    verdict = kd.compare(predicted, observed, equivalence_margin=MARGIN)
                    low, high = verdict.ratio_interval
                    shown = kd.equivalence_test(predicted, observed, margin=MARGIN).pvalue < 0.05
                    values = (
                        data,
                        name,
                        k,
                        theory,
                        verdict.ratio,
                        low,
                        high,
                        "shown" if shown else "not shown",
                        warned,
                    )
                    writer.writerow(dict(zip(COLUMNS, values, strict=True)))
                    handle.flush()
                    took = time.perf_counter() - started
                    ratio = f"{verdict.ratio:.3f} ({low:.3f} to {high:.3f})"
                    print(
                        f"{data:15}{name:20}{k:4d}  {theory:14}{ratio:26}{'shown' if shown else 'not shown':11}"
                        f"{'warned' if warned else '':8}{took:.0f} s",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
