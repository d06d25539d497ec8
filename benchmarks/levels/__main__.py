"""Measured coverage of every 95% interval and level of every 5% test, by setting, as a Markdown table.

    python -m benchmarks.levels [--tables 2000] [--only components,classes,...]

Each cell is a share of simulated tables, with a Monte Carlo standard error of .005 at .95 and 2,000 tables.
"""

from __future__ import annotations

import argparse
import warnings

from benchmarks.levels.averages import text_answers, weights
from benchmarks.levels.decomposition import classes, components, products, sources
from benchmarks.levels.predictions import covariance, equality, homogeneity, mse, rate, scattered
from benchmarks.levels.sequential import any_time, any_time_ratio
from benchmarks.levels.spending import pilots, plans
from benchmarks.levels.strategies import conservation, ordering, ratio, resampled, totals
from kdstats.errors import KdstatsWarning

PARTS = {
    part.__name__: part
    for part in (
        components,
        classes,
        sources,
        products,
        equality,
        scattered,
        covariance,
        homogeneity,
        mse,
        rate,
        ratio,
        resampled,
        totals,
        ordering,
        conservation,
        any_time,
        any_time_ratio,
        plans,
        weights,
        pilots,
        text_answers,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=2000, help="simulated tables a row")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", KdstatsWarning)
    print("| interval or test | setting | measured | of |\n|---|---|---|---|")
    for part in arguments.only.split(","):
        for row in PARTS[part](arguments.tables):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
