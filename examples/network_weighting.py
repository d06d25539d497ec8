"""What honest variance weighting gains or loses for network students against averaging of the same responses.

Usage: ``python examples/network_weighting.py [--students S] [--noise V ...] [--responses K ...] [--out FOLDER]``.
Boston Housing, 16 ReLU units, Adam, from one start or from starts that vary; noise in units of the variance of the
labels. Pilots train on half of the responses. Ratios of inter-student variance are paired, with 95% intervals of the
kurtosis-adjusted law; pooled and known weights are set against their prediction too. Weights that take what no user
has (known, oracle) are bounds.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from network_regimes import problem

import kdstats as kd

STUDENTS = ("16 ReLU, Adam", "16 ReLU, Adam, starts vary")
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "pooled": {"weight": "pooled"},
    "per_input": {"weight": "per_input"},
    "shrunken": {"weight": "shrunken"},
    "known": {"weight": "known"},
    "oracle": {"student_estimate": "teacher_mean", "weight": "estimated"},
}
PREDICTED = ("pooled", "known")
#: Weights of each input want variances on more degrees of freedom.
FEWEST = {"per_input": 7}
COLUMNS = ("students", "noise", "k", "weight", "ratio", "low", "high", "observed over predicted", "verdict")


def rows(noise: float, k: int, name: str, *, n_students: int) -> Iterator[dict[str, Any]]:
    """Compare every weighting with averaging, the same students' seeds on both sides."""
    averaging = problem("boston_housing", name, noise).with_design(n_responses=k)
    seeds = kd.Seeds(**dict.fromkeys(kd.Seeds.__dataclass_fields__, 1))
    # a prediction shares the one start with the students, and no noise
    fresh = kd.Seeds(**(seeds.as_dict() | ({} if "vary" not in name else {"student_initialization": 2})))
    fresh = fresh.with_seed(teacher_output=9)
    averaged = kd.observe(averaging, n_students=n_students, rng=seeds)
    for weight, options in WEIGHTINGS.items():
        if k < FEWEST.get(weight, 2):
            continue
        mixed = averaging.with_design(strategy="variance_weighting", weighting=kd.VarianceWeighting(**options))
        weighted = kd.observe(mixed, n_students=n_students, rng=seeds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the page says where these intervals are rough
            ratio = kd.ratio_test(weighted, averaged, paired=True, method="kurtosis")
            low, high = ratio.confidence_interval()
            row = {"students": name, "noise": noise, "k": k, "weight": weight}
            row |= {"ratio": ratio.statistic, "low": low, "high": high}
            if weight in PREDICTED:
                verdict = kd.compare(kd.predict(mixed, rng=fresh), weighted, equivalence_margin=1.25)
                row |= {"observed over predicted": verdict.ratio, "verdict": verdict.verdict}
        yield row


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", type=int, default=300)
    parser.add_argument("--noise", nargs="+", type=float, default=[0.1, 1.0])
    parser.add_argument("--responses", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--out", type=Path, default=Path("out/network_weighting"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "gains.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        for name in STUDENTS:
            for noise in options.noise:
                for k in options.responses:
                    for row in rows(noise, k, name, n_students=options.students):
                        writer.writerow(row)
                        shown = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
                        check = f"{row['observed over predicted']:.3f} {row['verdict']}" if "verdict" in row else ""
                        print(f"{name:28}{noise:6g}{k:4d}  {row['weight']:11}{shown:23}{check}", flush=True)


if __name__ == "__main__":
    main()
