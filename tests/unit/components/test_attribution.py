"""Sobol indices from crossed students: against known effects, their intervals' coverage, and known noise."""

import warnings

import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from kdstats.components.attribution import VarianceAttribution, crossed_components
from kdstats.errors import NegativeComponentWarning

SOURCES = ("teacher_output", "student_initialization")
SIZES = (12, 9)
N_POINTS = 2000


def effects(rng, *, a=1.0, b=0.5, ab=0.4):
    """Independent experiments as points: outputs (12, 9, 1, N_POINTS, 1)."""
    first, second = rng.standard_normal((12, 1, N_POINTS)), rng.standard_normal((1, 9, N_POINTS))
    y = a * first + b * second + ab * rng.standard_normal((*SIZES, N_POINTS))
    return y[:, :, None, :, None]


def attribution(outputs, sources=SOURCES, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegativeComponentWarning)
        parts = crossed_components(outputs, sources=sources, points=range(outputs.shape[-2]), labels=[0], **options)
    return VarianceAttribution(components=parts, predictions=None, inactive={})


def covered(answer, kind, source, truth):
    bounds = answer.interval(0.95)[kind].sel(source=source).values[:, 0]
    return int(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).sum())


def test_components_are_unbiased_and_the_highest_interaction_is_identified():
    answer = attribution(effects(np.random.default_rng(1)))
    assert answer.components.terms == (*SOURCES, "teacher_output:student_initialization")
    for name, truth in zip(answer.components.terms, (1.0, 0.25, 0.16), strict=True):
        values = answer.components.estimate.sel(component=name).values.ravel()
        assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(N_POINTS)
    total = answer.components.estimate.sel(component="total").values
    np.testing.assert_allclose(answer.components.estimate.sel(component="inter_student").values, total)


def test_intervals_of_both_indices_cover():
    answer = attribution(effects(np.random.default_rng(2)))
    whole = 1.0 + 0.25 + 0.16
    truths = {
        ("first_order", "teacher_output"): 1.0 / whole,
        ("first_order", "student_initialization"): 0.25 / whole,
        ("total_order", "teacher_output"): 1.16 / whole,
        ("total_order", "student_initialization"): 0.41 / whole,
    }
    for (kind, source), truth in truths.items():
        hits = covered(answer, kind, source, truth)
        assert binomtest(hits, N_POINTS, 0.93, alternative="less").pvalue > 1e-3, (kind, source, hits)
    wrong = covered(answer, "total_order", "student_initialization", 0.25 / whole)  # without the interaction
    assert binomtest(wrong, N_POINTS, 0.93, alternative="less").pvalue < 1e-6


def test_without_interaction_both_indices_agree_and_sum_to_one():
    answer = attribution(effects(np.random.default_rng(3), ab=0.0))
    np.testing.assert_allclose(answer.first_order, answer.total_order, atol=1e-12)
    np.testing.assert_allclose(answer.first_order.sum("source"), 1.0, atol=1e-12)


def test_known_noise_has_the_error_of_its_mean_over_crossed_students():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((12, 1, N_POINTS)), rng.standard_normal((1, 9, N_POINTS))
    variances = 4.0 + 0.5 * a + 0.2 * b
    answer = attribution(effects(rng), variances=variances[..., None])
    estimate = answer.components.estimate.sel(component="student_output").values.ravel()
    error = answer.components.standard_error.sel(component="student_output").values.ravel()
    true = np.hypot(0.5 / np.sqrt(12), 0.2 / np.sqrt(9))
    spread = estimate.std(ddof=1)
    assert abs(spread - true) < 4 * true / np.sqrt(2 * N_POINTS)
    rms = np.sqrt((error**2).mean())
    assert abs(rms / true - 1.0) < 0.05  # clipped components add a little, 2/df takes a little
    assert true > 1.5 * 0.5 / np.sqrt(12 * 9)  # students counted as independent would say so much less
    bounds = answer.components.interval(0.95)["variance"].sel(component="student_output").values[:, 0]
    hits = int(((bounds[:, 0] <= 4.0) & (bounds[:, 1] >= 4.0)).sum())
    assert binomtest(hits, N_POINTS, 0.92, alternative="less").pvalue > 1e-3


def test_constant_known_noise_has_no_error_and_enters_the_total():
    answer = attribution(effects(np.random.default_rng(5)), variances=np.full((*SIZES, N_POINTS, 1), 0.7))
    parts = answer.components
    assert parts.terms[-1] == "student_output"
    np.testing.assert_allclose(parts.estimate.sel(component="intra_student"), 0.7)
    np.testing.assert_allclose(
        parts.estimate.sel(component="total"), parts.estimate.sel(component="inter_student") + 0.7
    )
    assert float(parts.standard_error.sel(component="student_output").max()) < 1e-4
    np.testing.assert_allclose(
        answer.first_order.sel(source="student_output"), answer.total_order.sel(source="student_output")
    )


def test_replicates_and_known_noise_agree():
    rng = np.random.default_rng(6)
    means = effects(rng)
    drawn = means + 0.8 * rng.standard_normal((*SIZES, 3, N_POINTS, 1))
    known = attribution(means, variances=np.full((*SIZES, N_POINTS, 1), 0.64)).components.estimate
    sampled = attribution(drawn).components.estimate
    assert list(known["component"].values) == list(sampled["component"].values)
    for name in known["component"].values:
        gap = (sampled - known).sel(component=name).values.ravel()
        assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(N_POINTS) + 1e-12, name


def test_one_source_alone_is_the_sample_variance():
    y = np.random.default_rng(7).standard_normal((20, 1, 5, 1))
    answer = attribution(y, ("student_initialization",))
    np.testing.assert_allclose(
        answer.components.estimate.sel(component="total").values[:, 0], y[:, 0, :, 0].var(axis=0, ddof=1)
    )
    assert (answer.first_order.sel(source="student_initialization") == 1.0).all()
    assert (answer.first_order.sel(source="teacher_output") == 0.0).all()


def test_averages_count_shared_points_once():
    rng = np.random.default_rng(8)
    one = effects(rng)[..., :1, :]
    answer = attribution(np.repeat(one, 50, axis=-2))
    for source in SOURCES:
        single = answer.interval()["total_order"].sel(source=source).values[0, 0]
        average = answer.average().interval()["total_order"].sel(source=source).values.ravel()
        np.testing.assert_allclose(average, single, rtol=1e-6)


def test_negative_averages_warn():
    rng = np.random.default_rng(9)
    y = rng.standard_normal((4, 4, 1, 3, 1))
    y = y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean(axis=(0, 1))  # interaction alone
    with pytest.warns(NegativeComponentWarning, match="averaged over points"):
        crossed_components(y, sources=SOURCES, points=range(3), labels=[0])


def products(rng, size, n_tables):
    """Students whose interaction is a sum of two products of a draw of each source; tables are points."""
    u, v = (rng.standard_normal((2, size, n_tables)) for _ in range(2))
    y = rng.standard_normal((size, 1, n_tables)) + rng.standard_normal((1, size, n_tables))
    return (y + np.einsum("rip,rjp->ijp", u, v) / np.sqrt(2.0))[:, :, None, :, None]


def interaction_covered(outputs, truth):
    parts = attribution(outputs).components
    bounds = parts.interval(0.95)["variance"].sel(component=parts.terms[-1]).values[:, 0]
    return int(((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).sum())


def test_interaction_of_products_of_draws_is_covered():
    """(L-1)^2 degrees of freedom would cover about two thirds: the squares vary with levels, not with cells."""
    rng, n = np.random.default_rng(4), 1000
    outputs = products(rng, 15, n)
    hits = interaction_covered(outputs, 1.0)
    assert binomtest(hits, n, 0.86, alternative="less").pvalue > 1e-3, hits
    squares = attribution(outputs).components.estimate.sel(component=":".join(SOURCES)).values.ravel()
    assert abs(squares.mean() - 1.0) < 4 * squares.std() / np.sqrt(n)
    df = 14.0**2
    naive = (df * squares / chi2.ppf(0.975, df) <= 1.0) & (1.0 <= df * squares / chi2.ppf(0.025, df))
    assert binomtest(int(naive.sum()), n, 0.80, alternative="less").pvalue < 1e-3


def test_independent_interactions_keep_their_degrees_of_freedom_nearly():
    rng, n = np.random.default_rng(5), 300
    y = rng.standard_normal((15, 1, n)) + rng.standard_normal((1, 15, n)) + rng.standard_normal((15, 15, n))
    answer = attribution(y[:, :, None, :, None])
    df = answer.components.mean_squares["df"].values[-1].ravel()
    assert (df <= 14.0**2).all()
    assert np.median(df) > 0.5 * 14.0**2


def test_indices_have_no_bounds_beyond_0_and_1():
    answer, clipped = attribution(effects(np.random.default_rng(3), b=0.0)[..., :5, :]), set()
    for prob in (0.5, 0.99, 0.9999):
        bounds = answer.interval(prob)
        for kind in ("first_order", "total_order"):
            assert bounds[kind].min() >= 0.0
            assert bounds[kind].max() <= 1.0
        clipped |= set(bounds.attrs["clipped"])
    assert clipped
    assert "Intervals end at what is possible: " in answer.summary(0.9999)
