"""Coverage of the 95% intervals of one-way tables over 2,000 simulated data sets, judged by binomtest at 1%.

Equal cells: neither more nor less than 95%. Unequal cells, and students of any law: no less.
"""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest

from kdstats.components.estimation import estimate_components
from kdstats.components.unbalanced import estimate_unbalanced
from kdstats.components.uncertainty import FEWEST_ANY
from kdstats.components.unreplicated import estimate_unreplicated
from kdstats.errors import NotIdentifiedWarning

pytestmark = pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")

N_TABLES, INTRA = 2000, 1.0
BALANCED = {"balanced": (3,) * 12, "two replicates": (2,) * 20, "five students": (3,) * 5}
UNEQUAL = {
    "moderate": (2, 8, 3, 5, 7, 2, 4, 6, 8, 3, 2, 5, 4, 6, 7),
    "few replicates": (1, 2, 3, 1, 2, 3, 2, 2, 1, 3, 2, 1),
    "five students": (2, 2, 3, 5, 8),
    "extreme": (1, 30, 2, 25, 1, 18, 3, 30, 1, 12, 2, 7, 1, 20, 5),
    "three of one": (1,) * 3 + (30,) * 12,
}
LAWS = {
    "gaussian": lambda rng, size: rng.standard_normal(size),
    "exponential": lambda rng, size: rng.exponential(size=size) - 1,
    "gamma": lambda rng, size: (rng.gamma(4.0, size=size) - 4) / 2,
}


def simulate(counts, inter, *, students="gaussian", noise="gaussian"):
    """All tables as the points of one, so that a single call decomposes them."""
    rng = np.random.default_rng([31, *counts])
    student = np.repeat(np.arange(len(counts)), counts)
    values = np.sqrt(inter) * LAWS[students](rng, (len(counts), N_TABLES))[student]
    values += LAWS[noise](rng, (len(student), N_TABLES))
    if len(set(counts)) == 1:
        return estimate_components(values.reshape(len(counts), counts[0], N_TABLES))
    point = np.zeros(len(student), dtype=np.int64)
    labels, outputs = range(len(counts)), range(N_TABLES)
    return estimate_unbalanced(values, student=student, point=point, students=labels, points=[0], outputs=outputs)


def truth(inter):
    return {"inter_student": inter, "intra_student": INTRA, "total": inter + INTRA}


def hits(components, values, students="gaussian"):
    bounds = components.interval(students=students)
    return {
        name: int(((bounds[name].values[..., 0] <= value) & (value <= bounds[name].values[..., 1])).sum())
        for name, value in values.items()
    }


def assert_covers(counted, alternative="less"):
    for name, count in counted.items():
        assert binomtest(count, N_TABLES, 0.95, alternative=alternative).pvalue > 0.01, (name, count / N_TABLES)


def assert_falls_short(count):
    assert binomtest(count, N_TABLES, 0.95, alternative="less").pvalue < 1e-6


@pytest.mark.parametrize("inter", [0.05, 0.5, 4.0])
@pytest.mark.parametrize("design", BALANCED)
def test_equal_cells_are_covered(design, inter):
    assert_covers(hits(simulate(BALANCED[design], inter), truth(inter)), "two-sided")


@pytest.mark.parametrize("inter", [INTRA / 20, 0.5, 4.0])
@pytest.mark.parametrize("design", UNEQUAL)
def test_unequal_cells_are_covered_and_unbiased(design, inter):
    components, values = simulate(UNEQUAL[design], inter), truth(inter)
    for name, value in values.items():
        estimate = components.estimate[name].values.ravel()
        assert abs(estimate.mean() - value) < 4 * estimate.std(ddof=1) / np.sqrt(N_TABLES), name
    assert_covers(hits(components, values))


def test_degrees_of_freedom_of_equal_cells_fall_short_for_extreme_ones():
    components = simulate(UNEQUAL["extreme"], INTRA / 20)
    squares = components.mean_squares
    plain = squares.assign(df_between=xr.full_like(squares["df_between"], len(UNEQUAL["extreme"]) - 1.0))
    assert_falls_short(hits(replace(components, mean_squares=plain), truth(INTRA / 20))["inter_student"])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n_students", [20, 60, 200])
def test_students_of_any_law_are_covered(n_students, law):
    components = simulate((3,) * n_students, 1.0, students=law)
    assert_covers(hits(components, truth(1.0), "any"))


@pytest.mark.parametrize("inter", [INTRA / 20, 1.0])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n_students", [20, 60, 200])
def test_replicate_errors_of_any_law_are_covered(n_students, law, inter):
    components = simulate((3,) * n_students, inter, noise=law)
    assert_covers(hits(components, truth(inter), "any"))


def test_gaussian_intervals_fail_for_skewed_students_and_errors():
    skewed = simulate((3,) * 60, 1.0, students="exponential")
    assert_falls_short(hits(skewed, {"inter_student": 1.0})["inter_student"])
    skewed = simulate((3,) * 60, 1.0, noise="exponential")
    assert_falls_short(hits(skewed, {"intra_student": INTRA})["intra_student"])


@pytest.mark.parametrize("n_students", [5, 20, 60])
def test_total_of_one_output_is_covered(n_students):
    def single(law):
        values = LAWS[law](np.random.default_rng([32, n_students]), (n_students, 1, N_TABLES))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotIdentifiedWarning)
            return estimate_unreplicated(values, students=range(n_students), points=[0], outputs=range(N_TABLES))

    assert_covers(hits(single("gaussian"), {"total": 1.0}), "two-sided")
    for law in LAWS if n_students >= FEWEST_ANY else ():
        assert_covers(hits(single(law), {"total": 1.0}, "any"))
    assert_falls_short(hits(single("exponential"), {"total": 1.0})["total"])
