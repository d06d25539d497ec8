"""Coverage of the 95% intervals over 2,000 simulated tables with correlated points, judged by binomtest at 1%."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest

from kdstats.components.estimation import estimate_components
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.components.uncertainty import interval

pytestmark = pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")

N_TABLES, N_STUDENTS, N_POINTS, N_REPLICATES = 2000, 40, 6, 3
LEVEL = 0.95
DISTANCE = np.abs(np.subtract.outer(np.arange(N_POINTS), np.arange(N_POINTS)))
SD = np.linspace(0.7, 1.3, N_POINTS)
BETWEEN = np.exp(-DISTANCE / 4) * np.outer(SD, SD)
WITHIN = 0.8 * np.exp(-DISTANCE)


@dataclass(frozen=True)
class Simulation:
    """Tables (table, student, replicate, point), variances (table, student, point) or None, true components."""

    tables: np.ndarray
    variances: np.ndarray | None
    truth: dict[str, np.ndarray]


def simulate(mode):
    rng = np.random.default_rng([20, len(mode)])
    means = rng.normal(size=(N_TABLES, N_STUDENTS, 1, N_POINTS)) @ np.linalg.cholesky(BETWEEN).T
    if mode == "sampled":
        errors = rng.normal(size=(N_TABLES, N_STUDENTS, N_REPLICATES, N_POINTS)) @ np.linalg.cholesky(WITHIN).T
        tables, variances, intra = means + errors, None, np.diag(WITHIN)
    else:  # a student's own residual variance, on 8 degrees of freedom, serves all its points
        intra = np.linspace(0.5, 1.5, N_POINTS)
        tables, variances = means, rng.chisquare(8, size=(N_TABLES, N_STUDENTS, 1)) / 8 * intra
    inter = np.diag(BETWEEN)
    truth = dict(zip(COMPONENTS, (inter, intra, inter + intra), strict=True))
    return Simulation(tables=tables, variances=variances, truth=truth)


@pytest.fixture(scope="module", params=["sampled", "known"])
def simulation(request):
    return simulate(request.param)


@pytest.fixture(scope="module")
def averages(simulation):
    variances = simulation.variances if simulation.variances is not None else [None] * N_TABLES
    return [estimate_components(y, variances=v).average() for y, v in zip(simulation.tables, variances, strict=True)]


def hits(bounds, truth):
    lower, upper = np.moveaxis(np.asarray(bounds), -1, 0)
    return (lower <= truth) & (truth <= upper)


def coverage_of_averages(averages, truth):
    bounds = interval(side_by_side(averages), LEVEL)
    return {n: int(hits(bounds[n].values[:, 0, 0], truth[n].mean()).sum()) for n in COMPONENTS}


def side_by_side(averages):
    """One answer with a leading dim over tables, so that their intervals take one call."""
    attrs = {df: np.array([a.mean_squares.attrs[df] for a in averages]) for df in ("df_between", "df_within")}
    squares = xr.Dataset(
        {
            name: (("table", "point", "output"), np.stack([a.mean_squares[name].values for a in averages]))
            for name in averages[0].mean_squares
        },
        attrs={**attrs, "n_replicates": averages[0].mean_squares.attrs["n_replicates"]},
    )
    inter, intra, *errors = (
        np.stack([dataset(a)[name].values for a in averages])
        for dataset, names in ((lambda a: a.estimate, COMPONENTS[:2]), (lambda a: a.standard_error, COMPONENTS))
        for name in names
    )
    return VarianceComponents.from_arrays(
        inter_student=inter,
        intra_student=intra,
        **dict(zip((f"{name}_se" for name in COMPONENTS), errors, strict=True)),
        point_labels=["average"],
        leading={"table": range(len(averages))},
        attrs=averages[0].attrs,
        mean_squares=squares,
    )


def test_side_by_side_intervals_are_those_of_each_table(averages):
    together = interval(side_by_side(averages[:5]), LEVEL)
    for index, average in enumerate(averages[:5]):
        for name in COMPONENTS:
            np.testing.assert_allclose(together[name].values[index], average.interval(LEVEL)[name].values, rtol=1e-12)


@pytest.mark.parametrize("point", [0, N_POINTS - 1])
def test_interval_of_a_point_covers(simulation, point):
    as_points = simulation.tables[..., point].transpose(1, 2, 0)  # the interval of a point uses that point alone
    variances = None if simulation.variances is None else simulation.variances[..., point].T
    bounds = interval(estimate_components(as_points, variances=variances), LEVEL)
    for name in COMPONENTS:
        covered = int(hits(bounds[name].values[:, 0], simulation.truth[name][point]).sum())
        assert binomtest(covered, N_TABLES, LEVEL).pvalue > 0.01, (name, covered / N_TABLES)


def test_interval_of_the_average_covers(simulation, averages):
    for name, covered in coverage_of_averages(averages, simulation.truth).items():
        assert binomtest(covered, N_TABLES, LEVEL).pvalue > 0.01, (name, covered / N_TABLES)


def test_counting_points_as_independent_does_not_cover(simulation, averages):
    """Negative control: m(S-1) degrees of freedom, as if each point had students of its own."""
    wrong = []
    for average in averages[:500]:
        squares = average.mean_squares.assign_attrs(df_between=N_POINTS * (N_STUDENTS - 1))
        wrong.append(replace(average, mean_squares=squares))
    for name in ("inter_student", "total"):
        covered = coverage_of_averages(wrong, simulation.truth)[name]
        assert binomtest(covered, 500, LEVEL, alternative="less").pvalue < 1e-6, (name, covered / 500)


def test_standard_error_of_the_average_is_its_standard_deviation(simulation, averages):
    for name in COMPONENTS:
        estimates = np.array([average.estimate[name].item() for average in averages])
        squared = np.array([average.standard_error[name].item() ** 2 for average in averages])
        spread = estimates.var(ddof=1)
        centred = (estimates - estimates.mean()) ** 2
        error = np.hypot(centred.std(), squared.std()) / N_TABLES**0.5
        assert abs(squared.mean() - spread) < 4 * error, name


def test_skewed_students_need_the_law_any():
    """Gamma(4) students, kurtosis 4.5: the Gaussian interval falls short, the distribution-free one is close at 600."""
    n_students, n_tables = 600, 1000
    draws = np.random.default_rng(7).gamma(4.0, size=(n_students, 1, n_tables))
    components = estimate_components(draws, variances=0)
    covered = {
        law: int(hits(interval(components, LEVEL, students=law)["inter_student"].values[:, 0], 4.0).sum())
        for law in ("gaussian", "any")
    }
    assert binomtest(covered["gaussian"], n_tables, LEVEL).pvalue < 1e-6
    assert binomtest(covered["any"], n_tables, LEVEL).pvalue > 0.01


@pytest.mark.slow
def test_average_over_correlated_points_of_skewed_students_needs_the_law_any():
    rng = np.random.default_rng(8)
    skewed = rng.exponential(size=(N_TABLES, N_STUDENTS, 1, N_POINTS)) @ np.linalg.cholesky(BETWEEN).T
    tables = skewed + rng.normal(size=(N_TABLES, N_STUDENTS, N_REPLICATES, N_POINTS)) @ np.linalg.cholesky(WITHIN).T
    together = side_by_side([estimate_components(table).average() for table in tables])
    truth = np.diag(BETWEEN).mean()
    covered = {
        law: int(hits(interval(together, LEVEL, students=law)["inter_student"].values[:, 0, 0], truth).sum())
        for law in ("gaussian", "any")
    }
    assert binomtest(covered["gaussian"], N_TABLES, LEVEL, alternative="less").pvalue < 1e-6
    assert binomtest(covered["any"], N_TABLES, LEVEL, alternative="less").pvalue > 0.01
