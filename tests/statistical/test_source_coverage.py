"""Coverage of the 95% intervals of variance by source over 2,000 simulated tables, judged by binomtest at 1%.

Intervals of sums of mean squares and of shares are conservative: they must not cover too rarely, and their excess
is held below what the theory page states. Intervals of single components are held to 95% from both sides.
"""

import numpy as np
import pytest
from scipy.stats import binomtest, f

from kdstats.components.combinations import combination_interval
from kdstats.components.crossed import estimate_sources
from kdstats.components.sources import combination_error

pytestmark = pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")

N_TABLES = 2000
NAMES = "abc"
#: Highest true coverage that the theory page admits for sums and shares.
MOST = 0.98
#: Highest mean of an interaction's squared standard errors over the true variance that it admits for Gaussian effects.
MOST_ERROR = 1.125
TWO = {(0,): 1.0, (1,): 0.5, (0, 1): 0.25, (): 1.0}
WEAK = {(0,): 0.1, (1,): 0.0, (0, 1): 0.1, (): 1.0}
THREE = {(0,): 1.0, (1,): 0.5, (2,): 0.25, (0, 1): 0.2, (0, 2): 0.1, (1, 2): 0.1, (): 0.5}
UNEQUAL = np.random.default_rng(5).integers(1, 5, 48)


def simulate(shape, counts, variances, *, seed, n=N_TABLES, missing=(), exponential=False, **options):
    """All tables as the outputs of one, so that a single call decomposes them."""
    rng = np.random.default_rng([77, seed])

    def draw(size):
        return rng.exponential(size=size) - 1 if exponential else rng.standard_normal(size)

    levels = np.indices(shape).reshape(len(shape), -1).T
    student = np.repeat(np.arange(len(levels)), counts)
    student = student[~np.isin(student, missing)]
    values = np.sqrt(variances[()]) * draw((len(student), n))
    for term, variance in variances.items():
        if term:
            level = np.ravel_multi_index(tuple(levels[:, i] for i in term), [shape[i] for i in term])
            values += np.sqrt(variance) * draw((level.max() + 1, n))[level[student]]
    used, student = np.unique(student, return_inverse=True)
    return estimate_sources(
        values,
        student=student.ravel().astype(np.int64),
        point=np.zeros(len(student), dtype=np.int64),
        levels=levels[used].astype(np.int64),
        sources=list(NAMES[: len(shape)]),
        level_labels=[list(range(size)) for size in shape],
        points=[0],
        outputs=range(n),
        **options,
    )


def truths(variances):
    truth = {":".join(NAMES[i] for i in term): variance for term, variance in variances.items() if term}
    total = sum(variances.values())
    return truth | {"residual": variances[()], "inter_student": total - variances[()], "total": total}


def hits(answer, truth, kind):
    """How many intervals hold the truth, of each component that the answer has."""
    bounds = answer.interval()[kind]
    divisor = truth["total"] if kind == "share" else 1.0
    found = {}
    for name in set(answer.components) & set(truth):
        low, high = bounds.sel(component=name).values.reshape(-1, 2).T
        found[name] = int(((low <= truth[name] / divisor) & (truth[name] / divisor <= high)).sum())
    return found


def is_single(name):
    return name not in ("inter_student", "total")


def judge(answer, truth, n):
    for name, count in hits(answer, truth, "variance").items():
        if is_single(name):
            assert binomtest(count, n, 0.95).pvalue > 0.01 / 4, (name, count / n)
        assert binomtest(count, n, 0.95, alternative="less").pvalue > 0.01, (name, count / n)
        assert binomtest(count, n, MOST, alternative="greater").pvalue > 0.01, (name, count / n)
    for name, count in hits(answer, truth, "share").items():
        if name != "total":  # its share is 1
            assert binomtest(count, n, 0.95, alternative="less").pvalue > 0.01, (name, count / n)
            assert binomtest(count, n, MOST, alternative="greater").pvalue > 0.01, (name, count / n)


@pytest.mark.parametrize(
    ("shape", "counts", "variances"),
    [
        pytest.param((6, 8), 2, TWO, id="crossed with replicates"),
        pytest.param((6, 8), 2, WEAK, id="weak sources"),
        pytest.param((5, 5), 1, {(0,): 2.0, (1,): 0.3, (): 1.0}, id="five levels without replicates"),
        pytest.param((6, 8), UNEQUAL, TWO, id="unequal replicates"),
        pytest.param((5, 6, 4), 1, THREE, id="three sources"),
    ],
)
def test_mean_square_intervals_cover_and_estimates_are_unbiased(shape, counts, variances):
    answer, truth = simulate(shape, counts, variances, seed=1), truths(variances)
    for name in set(answer.components) & set(truth):
        estimate = answer.estimate.sel(component=name).values.ravel()
        assert abs(estimate.mean() - truth[name]) < 4 * estimate.std(ddof=1) / np.sqrt(N_TABLES), name
    judge(answer, truth, N_TABLES)


def test_standard_errors_are_right_in_the_square():
    """Gaussian effects. Cells of an interaction that are uneven by chance may add to its error, and to no other."""
    answer = simulate((6, 8), 2, TWO, seed=2, n=20_000)
    squares, coefficients = (answer.mean_squares[name].values for name in ("mean_square", "coefficient"))
    full = np.broadcast_to(np.array([5.0, 7.0, 35.0, 48.0])[:, None, None], squares.shape)
    plain = combination_error(coefficients, squares, full)
    assert (answer.standard_error.values >= plain * (1 - 1e-12)).all()
    for name, with_all in zip(answer.components, plain, strict=True):
        estimate = answer.estimate.sel(component=name).values.ravel()
        found = answer.standard_error.sel(component=name).values.ravel() ** 2
        kurtosis = ((estimate - estimate.mean()) ** 4).mean() / estimate.var() ** 2
        for square, most in ((with_all.ravel() ** 2, 1.0), (found, MOST_ERROR if name == "a:b" else 1.0)):
            noise = np.hypot(estimate.var() * np.sqrt(kurtosis - 1), square.std()) / np.sqrt(len(estimate))
            assert square.mean() > estimate.var(ddof=1) - 4 * noise, name
            assert square.mean() < most * estimate.var(ddof=1) + 4 * noise, name


def test_plain_normal_intervals_would_be_found_out():
    answer, truth = simulate((5, 5), 1, {(0,): 2.0, (1,): 0.3, (): 1.0}, seed=1), 2.0
    estimate, error = (x.sel(component="a").values.ravel() for x in (answer.estimate, answer.standard_error))
    count = int((np.abs(estimate - truth) < 1.96 * error).sum())
    assert binomtest(count, N_TABLES, 0.95, alternative="less").pvalue < 1e-6


def test_skewed_sources_are_found_out():
    """Gaussian intervals do not hold for exponential effects: the page says so."""
    answer = simulate((30, 30), 1, {(0,): 2.0, (1,): 1.0, (): 1.0}, seed=3, exponential=True)
    count = hits(answer, truths({(0,): 2.0, (1,): 1.0, (): 1.0}), "variance")["a"]
    assert binomtest(count, N_TABLES, 0.95, alternative="less").pvalue < 1e-6


def test_ignoring_that_points_share_levels_would_be_found_out():
    """12 points that are copies of 3: the averaged mean squares have 3 points' worth of degrees of freedom, not 12."""
    rng, n, truth = np.random.default_rng(9), 200, 1.0
    covered, naive = 0, 0
    for _ in range(n):
        own = rng.standard_normal((10, 3))[:, np.arange(12) % 3]
        values = own[:, None] + rng.standard_normal((10, 8, 12))
        levels = np.indices((10, 8)).reshape(2, -1).T.astype(np.int64)
        rows, points = np.indices((80, 12)).reshape(2, -1)
        answer = estimate_sources(
            values.reshape(-1, 1),
            student=rows,
            point=points,
            levels=levels,
            sources=["a", "b"],
            level_labels=[range(10), range(8)],
            points=range(12),
            outputs=[0],
            interactions=1,
        ).average()
        low, high = answer.interval()["variance"].sel(component="a").values.ravel()
        covered += low <= truth <= high
        squares, df = answer.mean_squares["mean_square"].values, answer.mean_squares["df"].values
        row = answer.mean_squares["coefficient"].sel(component="a").values
        full = np.array([9.0, 7.0, 63.0])[:, None, None] * 12
        assert (df < full).all()
        low, high = combination_interval(row, squares, full, prob=0.95).ravel()
        naive += low <= truth <= high
    assert binomtest(covered, n, 0.95, alternative="less").pvalue > 0.01, covered / n
    assert binomtest(naive, n, 0.95, alternative="less").pvalue < 1e-6, naive / n


@pytest.mark.slow
@pytest.mark.parametrize(
    ("counts", "variances", "missing"),
    [
        pytest.param(1, {(0,): 1.0, (1,): 0.5, (): 1.0}, (3, 17, 22, 30, 41, 44), id="no replicates"),
        pytest.param(UNEQUAL, TWO, (3, 17, 22, 30), id="unequal replicates"),
    ],
)
def test_likelihood_intervals_cover_with_missing_combinations(counts, variances, missing):
    answer = simulate((6, 8), counts, variances, seed=4, missing=missing, method="reml")
    truth = truths(variances)
    for kind in ("variance", "share"):
        for name, count in hits(answer, truth, kind).items():
            if (kind, name) != ("share", "total"):
                assert binomtest(count, N_TABLES, 0.95, alternative="less").pvalue > 0.01 / 8, (kind, name, count)


def test_share_of_one_source_has_exact_coverage():
    variances = {(0,): 0.4, (): 1.0}
    answer, truth = simulate((12,), 3, variances, seed=6), truths({(0,): 0.4, (): 1.0})
    count = hits(answer, truth, "share")["a"]
    assert binomtest(count, N_TABLES, 0.95).pvalue > 0.01
    squares = answer.mean_squares["mean_square"].values.reshape(2, -1)
    ratios = squares[0] / squares[1] / f.ppf([[0.975], [0.025]], 11, 24)
    found = answer.interval()["share"].sel(component="a").values.reshape(-1, 2).T
    np.testing.assert_allclose(found, (ratios - 1) / (ratios + 2), rtol=1e-8)
