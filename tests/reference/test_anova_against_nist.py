"""The mean squares behind the components against certified analyses of variance (NIST StRD) and the Dyestuff data."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from kdstats.components.estimation import estimate_components

DATA = Path(__file__).parent / "data"


def read_strd(name):
    """Return responses as (treatment, replicate) and the certified F."""
    lines = (DATA / f"{name}.dat").read_text().splitlines()
    certified = next(float(line.split()[-1]) for line in lines if line.startswith("Between"))
    first, last = map(int, re.search(r"Data\s+\(lines (\d+) to (\d+)\)", "\n".join(lines)).groups())
    treatment, response = np.array([line.split() for line in lines[first - 1 : last]], dtype=float).T
    return np.array([response[treatment == t] for t in np.unique(treatment)]), certified


def digits(value, certified):
    return np.inf if value == certified else -np.log10(abs(value - certified) / abs(certified))


@pytest.mark.parametrize(("name", "expected"), [("SiRstv", 12), ("SmLs01", 14), ("SmLs04", 10)])
def test_f_statistic_against_nist(name, expected):
    table, certified = read_strd(name)
    squares = estimate_components(table).mean_squares
    statistic = squares["between"].item() * table.shape[1] / squares["within"].item()
    assert digits(statistic, certified) >= expected
    textbook_sums = naive_f(table)
    if name == "SmLs04":  # negative control: sums of squares without a shift keep fewer than two digits
        assert digits(textbook_sums, certified) < 2


def test_dyestuff_against_published_components():
    with (DATA / "Dyestuff.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    batches = sorted({row["Batch"] for row in rows})
    table = [[float(row["Yield"]) for row in rows if row["Batch"] == batch] for batch in batches]
    components = estimate_components(table)
    assert components.inter_student.item() == pytest.approx(1764.05, rel=1e-12)
    assert components.intra_student.item() == pytest.approx(2451.25, rel=1e-12)


def naive_f(table):
    n, r = table.shape
    total = (table**2).sum() - table.sum() ** 2 / table.size
    between = (table.sum(axis=1) ** 2).sum() / r - table.sum() ** 2 / table.size
    return (between / (n - 1)) / ((total - between) / (n * (r - 1)))
