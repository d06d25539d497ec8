"""Where the predictions of network students hold: two data sets, students and noise levels, failures included.

Usage: ``python examples/network_regimes.py [--students S] [--data boston_housing diabetes] [--out FOLDER]``. Students
of several kinds are predicted by wide-network theory and by linear response (first order, and finite), trained for
real with other seeds where starts vary, and compared by equivalence at margin 1.25. Inputs are standardised; labels are
standardised except in the rows "raw labels". Noise is in units of the variance of the labels.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import kdstats as kd
from kdstats.errors import ApproximationWarning
from kdstats.prediction.networks.response import network_response
from kdstats.study.data import load_dataset

MARGIN = 1.25
NOISE = (0.001, 0.01, 0.1, 0.5, 1.0)
ONE_START = ("teacher_output", "student_output")
ALL_STARTS = ("teacher_output", "student_initialization", "student_output")
WIDE: dict[str, Any] = {"optimizer": "sgd", "parameterization": "ntk", "bias_variance": 0.1}
#: Name -> student, whether starts vary, whether labels are standardised.
STUDENTS: dict[str, tuple[kd.NetworkStudent, tuple[str, ...], bool]] = {
    "16 ReLU, Adam": (kd.NetworkStudent(), ONE_START, True),
    "16 ReLU, Adam, raw labels": (kd.NetworkStudent(), ONE_START, False),
    "16 ReLU, Adam, starts vary": (kd.NetworkStudent(), ALL_STARTS, True),
    "16 tanh, Adam": (kd.NetworkStudent(activation="tanh"), ONE_START, True),
    "16 ReLU, descent": (kd.NetworkStudent(optimizer="sgd", learning_rate=0.05), ONE_START, True),
    "16 ReLU, descent, starts vary": (kd.NetworkStudent(optimizer="sgd", learning_rate=0.05), ALL_STARTS, True),
    "16 tanh, descent": (
        kd.NetworkStudent(activation="tanh", optimizer="sgd", learning_rate=0.05),
        ONE_START,
        True,
    ),
    "8 NTK ReLU, starts vary": (
        kd.NetworkStudent(hidden=(8,), learning_rate=0.2, epochs=100, **WIDE),
        ALL_STARTS,
        True,
    ),
    "256 NTK ReLU, starts vary": (
        kd.NetworkStudent(hidden=(256,), learning_rate=0.2, epochs=100, **WIDE),
        ALL_STARTS,
        True,
    ),
}
COLUMNS = ("data", "student", "noise", "theory", "ratio", "low", "high", "verdict", "warned")


def problem(data: str, name: str, noise: float) -> kd.DistillationProblem:
    student, sources, standardised = STUDENTS[name]
    table = load_dataset(data)
    X = (table.X - table.X.mean(axis=0)) / table.X.std(axis=0)
    y = table.target if not standardised else (table.target - table.target.mean()) / table.target.std()
    rows = np.random.default_rng(0).permutation(len(X))
    train, test = rows[: int(0.8 * len(X))], rows[int(0.8 * len(X)) :]
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X[train], y[train], noise_variance=noise * y.var()),
        student=student,
        design=kd.Design(X[test], sources=sources),
    )


def predictions(data: str, name: str, rng: int) -> dict[tuple[float, str], tuple[kd.VarianceComponents, bool]]:
    """Predict every noise level by every theory that covers the student; say whether a prediction warned."""
    found = {}
    response = network_response(problem(data, name, NOISE[0]), rng=rng)
    covered = STUDENTS[name][0].parameterization == "ntk"
    for noise in NOISE:
        asked = problem(data, name, noise)
        calls = {
            "first order": lambda asked=asked: response.predict(asked, response="tangent"),
            "finite": lambda asked=asked: response.predict(asked),
        }
        if covered:
            calls["wide network"] = lambda asked=asked: kd.predict(asked, engine="wide_network", rng=rng)
        for theory, call in calls.items():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                answer = call()
            found[noise, theory] = answer, any(issubclass(w.category, ApproximationWarning) for w in caught)
    return found


def rows_of(data: str, name: str, *, n_students: int, rng: int) -> list[dict[str, Any]]:
    """Compare every prediction of one kind of student with students trained for real."""
    shared = kd.Seeds(**dict.fromkeys(kd.Seeds.__dataclass_fields__, rng))
    fresh = replace(shared, teacher_output=rng + 1)  # the one start is the prediction's; noise is not
    if "student_initialization" in STUDENTS[name][1]:
        fresh = replace(fresh, student_initialization=rng + 1)
    observed = {noise: kd.observe(problem(data, name, noise), n_students=n_students, rng=fresh) for noise in NOISE}
    table = []
    for (noise, theory), (predicted, warned) in predictions(data, name, rng).items():
        verdict = kd.compare(predicted, observed[noise], equivalence_margin=MARGIN)
        low, high = verdict.ratio_interval
        shown = kd.equivalence_test(predicted, observed[noise], margin=MARGIN)
        values = (data, name, noise, theory, verdict.ratio, low, high)
        table.append(
            dict(zip(COLUMNS, (*values, "shown" if shown.pvalue < 0.05 else "not shown", warned), strict=True))
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=500)
    parser.add_argument("--data", nargs="+", default=["boston_housing", "diabetes"])
    parser.add_argument("--only", nargs="+", default=list(STUDENTS), help="kinds of student")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/network_regimes"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "regimes.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        for data in options.data:
            for name in options.only:
                for row in rows_of(data, name, n_students=options.students, rng=options.seed):
                    writer.writerow(row)
                    handle.flush()
                    ratio = f"{row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
                    flag = "warned" if row["warned"] else ""
                    print(
                        f"{data:15}{name:31}{row['noise']:7g}  {row['theory']:13}{ratio:26}{row['verdict']:10}{flag}",
                        flush=True,
                    )
    print(f"wrote {options.out / 'regimes.csv'}", file=sys.stderr)


if __name__ == "__main__":
    main()
