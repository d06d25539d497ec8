"""A long table of ten million rows: time and memory of `kd.decompose`, how both grow, and the floor.

Ratios are measured side by side in one run. The floor is one pass of pandas over the same rows: mean and variance of
every (student, point) cell by groupby, which is less than `decompose` has to do (no labels checked, no cell counted,
no standard errors). Each size runs in a process of its own, so that peaks of memory do not mix.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd

import kdstats as kd

N_STUDENTS, N_REPLICATES = 1_000, 20
SIZES = (1_000_000, 3_000_000, 10_000_000)
KINDS = ("integer labels", "text labels", "a tenth of the rows missing")


def make_table(n_rows: int, kind: str) -> pd.DataFrame:
    """Return shuffled rows."""
    rng = np.random.default_rng(0)
    n_points = n_rows // (N_STUDENTS * N_REPLICATES)
    order = rng.permutation(n_rows)
    student, rest = np.divmod(order, N_REPLICATES * n_points)
    replicate, point = np.divmod(rest, n_points)
    value = rng.standard_normal((N_STUDENTS, n_points))[student, point] + rng.standard_normal(n_rows)
    table = pd.DataFrame({"student": student, "replicate": replicate, "point": point, "value": value})
    if kind == "text labels":
        table["student"] = "student " + table["student"].astype(str)
        table["point"] = "prompt " + table["point"].astype(str)
    return table.iloc[: int(0.9 * n_rows)] if kind.startswith("a tenth") else table


def one(n_rows: int, kind: str) -> None:
    """Print seconds of decompose, seconds of the floor, and peak memory in GB."""
    kd.decompose(make_table(20_000 * 2, kind), nan_policy="omit")  # compiles
    table = make_table(n_rows, kind)
    start = time.perf_counter()
    kd.decompose(table, nan_policy="omit")
    spent = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start = time.perf_counter()
    table.groupby(["student", "point"], sort=False)["value"].agg(["mean", "var"])
    print(spent, time.perf_counter() - start, peak)


def main() -> None:
    print(f"{'rows':>12}  {'table':<30}{'seconds':>9}{'per row, to 1M':>16}{'groupby = 1':>13}{'peak GB':>9}")
    for kind in KINDS:
        base = 0.0
        for n_rows in SIZES:
            command = [sys.executable, __file__, str(n_rows), kind]
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            spent, floor, peak = (float(number) for number in found.split())
            base = base or spent / n_rows
            told = f"{spent:>9.2f}{spent / n_rows / base:>16.2f}{spent / floor:>13.2f}{peak:>9.2f}"
            print(f"{n_rows:>12,}  {kind:<30}{told}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        one(int(sys.argv[1]), sys.argv[2])
    else:
        main()
