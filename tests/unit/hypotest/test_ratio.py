import warnings

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest

import kdstats as kd
from kdstats.errors import ApproximationWarning, ComparisonError, DependentStudentsWarning, ProblemError
from kdstats.hypotest.paired_ratio import paired_ratio
from kdstats.hypotest.resampled_ratio import far_students
from kdstats.hypotest.unpaired_ratio import independent_ratio


@pytest.fixture
def pair_of(make_observed):
    """Two observations (S, m) whose students are correlated by ``rho`` at one position."""

    def make(n=40, m=1, *, ratio=2.0, rho=0.0, seed=0, n_other=None):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(n, m)), rng.normal(size=(n_other or n, m))
        b = b if rho == 0.0 else rho * a + np.sqrt(1 - rho**2) * b
        return make_observed(np.sqrt(ratio) * a), make_observed(b)

    return make


def values(observed):
    return observed.student_predictions.values[:, 0, 0]


def test_one_point_against_the_f_test(pair_of):
    a, b = pair_of(n=20, n_other=30)
    result = kd.ratio_test(a, b)
    f = values(a).var(ddof=1) / values(b).var(ddof=1)
    assert result.statistic == pytest.approx(f)
    assert result.pvalue == pytest.approx(2 * stats.f.sf(f, 19, 29))
    low, high = result.confidence_interval(0.9)
    assert (low, high) == pytest.approx((f / stats.f.ppf(0.95, 19, 29), f / stats.f.ppf(0.05, 19, 29)))
    assert kd.ratio_test(a, b, null_ratio=low, alternative="greater").pvalue == pytest.approx(0.05)


def test_paired_point_against_the_correlation_of_sums_and_differences(pair_of):
    a, b = pair_of(rho=0.8)
    result = kd.ratio_test(a, b, paired=True)
    x, y = values(a), values(b)
    assert result.pvalue == pytest.approx(stats.pearsonr(x + y, x - y).pvalue)
    assert result.correlation == pytest.approx(np.corrcoef(x, y)[0, 1])
    for end in result.confidence_interval(0.9):
        assert stats.pearsonr(x / np.sqrt(end) + y, x / np.sqrt(end) - y).pvalue == pytest.approx(0.1)
    greater = kd.ratio_test(a, b, paired=True, alternative="greater").pvalue
    assert greater == pytest.approx(stats.pearsonr(x + y, x - y, alternative="greater").pvalue)


def test_pairing_gains_precision(pair_of):
    a, b = pair_of(n=60, m=3, rho=0.9, ratio=1.3)
    (low, high), (wide_low, wide_high) = (
        kd.ratio_test(a, b, paired=paired).confidence_interval() for paired in (True, False)
    )
    assert np.log(high / low) < 0.6 * np.log(wide_high / wide_low)


def test_degrees_of_freedom_follow_the_effective_rank(make_observed):
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(400, 2)) @ rng.normal(size=(2, 30)) for _ in range(2))
    same = np.repeat(rng.normal(size=(400, 1)), 30, axis=1)
    other = np.repeat(rng.normal(size=(400, 1)), 30, axis=1)
    assert kd.ratio_test(make_observed(same), make_observed(other)).effective_rank == pytest.approx(1.0, abs=1e-4)
    assert kd.ratio_test(make_observed(a), make_observed(b)).effective_rank <= 30
    known = kd.ratio_test(make_observed(a), make_observed(b), effective_rank=1.7)
    assert (known.df, known.df_other) == pytest.approx((399 * 1.7, 399 * 1.7))


@pytest.mark.parametrize("method", ["kurtosis", "bootstrap", "permutation"])
@pytest.mark.parametrize("paired", [False, True])
def test_methods_agree_on_gaussian_students(pair_of, method, paired):
    a, b = pair_of(n=150, rho=0.6 if paired else 0.0, ratio=1.3)
    exact = kd.ratio_test(a, b, paired=paired)
    other = kd.ratio_test(a, b, paired=paired, method=method, n_resamples=499, rng=1)
    assert other.statistic == pytest.approx(exact.statistic)
    ends, wanted = (np.log(result.confidence_interval()) for result in (other, exact))
    width = wanted[1] - wanted[0]
    assert (np.abs(ends - wanted) < 0.25 * width).all()  # kurtosis of 150 students: relative error of the SE near 1/8
    assert other.pvalue == pytest.approx(
        kd.ratio_test(a, b, paired=paired, method=method, n_resamples=499, rng=1).pvalue
    )
    sides = [
        kd.ratio_test(a, b, paired=paired, method=method, n_resamples=499, rng=1, alternative=side).pvalue
        for side in ("less", "greater")
    ]
    assert sides[1] < 0.5 < sides[0]


@pytest.mark.parametrize("component", ["intra_student", "total"])
def test_other_components_compare_logarithms(make_observed, with_variance, component):
    a, b = (
        make_observed(with_variance([1.0], 200, seed=seed), within=within, average_standard_error={component: 0.1})
        for seed, within in ((1, 2.0), (2, 3.0))
    )
    result = kd.ratio_test(a, b, component=component, method="kurtosis")
    means = [getattr(item, component).values.mean() for item in (a, b)]
    error = np.hypot(0.1 / means[0], 0.1 / means[1])
    assert result.statistic == pytest.approx(means[0] / means[1])
    assert result.pvalue == pytest.approx(2 * stats.t.sf(abs(np.log(result.statistic)) / error, result.df))


def test_averaging_is_below_single(make_observed):
    rng = np.random.default_rng(2)
    observed = {k: make_observed(rng.normal(size=(150, 2)) / np.sqrt(k)) for k in (1, 2, 5)}
    result = kd.ordering_test(observed)
    assert result.pvalue == result.pvalues.max() < 0.01
    assert result.pvalue_any == result.adjusted_pvalues.min()
    assert [step.alternative for step in result.steps] == ["greater", "greater"]
    assert "1 over 2" in str(result)
    backwards = kd.ordering_test(dict(reversed(observed.items())))
    assert backwards.pvalue_any > 0.9
    equal = kd.ordering_test(
        {"a": observed[1], "b": observed[5], "c": make_observed(rng.normal(size=(150, 2)) / np.sqrt(5))}
    )
    assert equal.pvalue_any < 0.01 < equal.pvalue


def test_refusals(pair_of, make_observed, make_predicted):
    a, b = pair_of(n=10)
    cases = [
        (lambda: kd.ratio_test(a, make_predicted([1.0])), ComparisonError, "must be an observation; got a prediction"),
        (lambda: kd.ratio_test(a, 3), ComparisonError, "must be VarianceComponents"),
        (lambda: kd.ratio_test(a, pair_of(m=2)[0]), ComparisonError, "must have the points"),
        (lambda: kd.ratio_test(a, pair_of(n=12)[0], paired=True), ComparisonError, "to be paired; got 12"),
        (lambda: kd.ratio_test(a, make_observed(np.ones((10, 1)))), ComparisonError, "must vary between students"),
        (lambda: kd.ratio_test(a, b, component="total", method="bootstrap"), ComparisonError, "`component` must be"),
        (lambda: kd.ratio_test(a, b, component="intra_student"), ComparisonError, "must have positive variance"),
        (lambda: kd.ratio_test(a, b, method="exact"), ProblemError, "`method` must be one of"),
        (lambda: kd.ratio_test(a, b, null_ratio=0), ProblemError, "`null_ratio` must be"),
        (lambda: kd.ratio_test(a, pair_of(n=2)[1]), None, None),
        (lambda: kd.ratio_test(a, b, method="kurtosis"), ComparisonError, "at least 30 students.*got 10"),
        (lambda: kd.ratio_test(a, b, method="permutation"), ComparisonError, "at least 40 students.*got 10"),
        (lambda: kd.ordering_test({1: a}), ComparisonError, "at least 2 labels"),
        (lambda: kd.ratio_test(a, make_observed(values(b)[:, None], n_replicates=3)), ComparisonError, "replicates"),
    ]
    for call, error, message in cases:
        if error is None:
            assert 0 < call().pvalue <= 1
            continue
        with pytest.raises(error, match=message):
            call()


def test_students_of_one_seed_are_not_taken_for_independent(make_observed):
    rng = np.random.default_rng(3)
    a, b = (make_observed(rng.normal(size=(19, 1)), seed={"teacher_output": 1}) for _ in range(2))
    with pytest.warns(DependentStudentsWarning, match="paired=True"):
        kd.ratio_test(a, b)
    assert kd.ratio_test(a, b, paired=True).paired


@pytest.mark.parametrize("component", ["intra_student", "total"])
def test_means_over_students_of_one_seed_are_not_taken_for_independent(make_observed, component):
    rng = np.random.default_rng(3)
    known = {"within": 1.0, "average_standard_error": {"intra_student": 0.1, "total": 0.1}}
    gaussian = stats.norm.ppf((np.arange(60) + 0.5) / 60)[:, None]
    a, b, other = (make_observed(rng.permutation(gaussian), seed=seed, **known) for seed in (1, 1, 2))
    with pytest.warns(DependentStudentsWarning, match="give each its own `rng`"):
        kd.ratio_test(a, b, component=component)
    with pytest.warns(DependentStudentsWarning, match="each strategy its own"):
        kd.conservation_test({"a": a, "b": b})
    with warnings.catch_warnings():
        warnings.simplefilter("error", DependentStudentsWarning)
        kd.ratio_test(a, other, component=component)
        kd.conservation_test({"a": a, "b": other})
        kd.conservation_test({"a": a, "b": b}, total=2.0)  # each against the given total: no independence is needed


def test_sequential_comparison_refuses_sampled_means(make_observed):
    sampled = make_observed(np.random.default_rng(1).standard_normal((40, 3, 1, 1)).mean(axis=1), n_replicates=3)
    with pytest.raises(ComparisonError, match=r"`observed_a` must know each student's own mean.*variances=0"):
        kd.sequential_ratio_test(sampled, sampled)


def non_proportional(seed, n=20, *, paired=False, n_data=600):
    """Rejections at 5% of a true ratio: ten independent points against ten that are nearly one."""
    rng = np.random.default_rng(seed)
    scale = np.r_[1.0, np.full(9, 0.1)]
    truth = 10.0 / (scale**2).sum()
    rejected = 0
    for _ in range(n_data):
        a, b = rng.normal(size=(2, n, 10))
        a, b = (x - x.mean(axis=0) for x in (a, scale * (0.7 * a + np.sqrt(0.51) * b if paired else b)))
        rejected += (paired_ratio if paired else independent_ratio)(a, b, truth, "two-sided").pvalue < 0.05
    return rejected


@pytest.mark.parametrize("paired", [False, True])
def test_covariances_need_not_be_proportional(paired):
    """A true null with a size of at most 7%, where one rank for both strategies rejects 36% (paired 16%)."""
    most = stats.binom.ppf(0.9999, 600, 0.07)
    assert stats.binom.cdf(most, 600, 0.16) < 0.01  # the limit tells them apart
    assert non_proportional(5, paired=paired) <= most


def test_rank_of_three_students_is_not_taken_from_the_others(make_observed):
    rng = np.random.default_rng(6)
    few, many = (make_observed(rng.normal(size=(n, 10)) * 0.5 ** np.arange(10)) for n in (3, 60))
    assert kd.ratio_test(few, many).effective_rank <= 2.0  # two degrees of freedom show no more


@pytest.mark.parametrize("shape", [(8, 30), (30, 4)])
def test_paired_interval_inverts_the_test_whatever_the_null(make_observed, shape):
    rng = np.random.default_rng(7)
    common = rng.normal(size=shape)
    a, b = (make_observed(common + scale * rng.normal(size=shape)) for scale in (1.2, 0.5))
    interval = kd.ratio_test(a, b, paired=True).confidence_interval(0.9)
    assert kd.ratio_test(a, b, paired=True, null_ratio=7.0).confidence_interval(0.9) == pytest.approx(interval)
    for end, side in zip(interval, ("greater", "less"), strict=True):
        result = kd.ratio_test(a, b, paired=True, null_ratio=end, alternative=side)
        assert result.pvalue == pytest.approx(0.05, rel=1e-6)
    first, second = (x.student_predictions.values[:, :, 0] for x in (a, b))
    u, d = (first + sign * second - (first + sign * second).mean(axis=0) for sign in (1, -1))
    rank = np.clip((u**2).sum() * (d**2).sum() / ((u @ d.T) ** 2).sum(), 1, shape[1])
    assert kd.ratio_test(a, b, paired=True).df == pytest.approx((shape[0] - 1) * rank - 1)


def sampled(rng, n_students, *, n_replicates=3, inter=1.0, law="standard_normal"):
    values = np.sqrt(inter) * rng.normal(size=(n_students, 1, 1)) + getattr(rng, law)(
        size=(n_students, n_replicates, 1)
    )
    return kd.estimate_components(values)


def test_intra_of_sampled_outputs_is_an_f_test():
    rng = np.random.default_rng(1)
    a, b = sampled(rng, 5), sampled(rng, 8)
    result = kd.ratio_test(a, b, component="intra_student")
    assert result.pvalue == pytest.approx(
        2 * min(stats.f.cdf(result.statistic, 10, 16), stats.f.sf(result.statistic, 10, 16))
    )
    low, _ = result.confidence_interval(0.9)
    greater = kd.ratio_test(a, b, component="intra_student", null_ratio=low, alternative="greater")
    assert greater.pvalue == pytest.approx(0.05)


def test_interval_of_a_ratio_of_totals_inverts_the_test():
    rng = np.random.default_rng(2)
    a, b = sampled(rng, 12, inter=4.0), sampled(rng, 9)
    low, high = kd.ratio_test(a, b, component="total").confidence_interval(0.9)
    for end, side in ((low, "greater"), (high, "less")):
        found = kd.ratio_test(a, b, component="total", null_ratio=end, alternative=side)
        assert found.pvalue == pytest.approx(0.05, rel=1e-6)
    assert kd.ratio_test(a, b, component="total", null_ratio=low * high / low, alternative="greater").pvalue > 0.9


def test_far_students_mark_the_result_unreliable(make_observed):
    rng = np.random.default_rng(3)
    a, b = (make_observed(rng.standard_t(2, size=(60, 1))) for _ in range(2))
    for options in ({}, {"paired": True}, {"method": "kurtosis"}, {"method": "bootstrap", "n_resamples": 99, "rng": 1}):
        with pytest.warns(ApproximationWarning, match="permutation"):
            result = kd.ratio_test(a, b, **options)
        assert "UNRELIABLE" in result.summary()
    assert not kd.ratio_test(a, b, method="permutation", n_resamples=99, rng=1).unreliable
    with pytest.warns(ApproximationWarning, match="own variances of students"):
        noisy = kd.ratio_test(sampled(rng, 40, law="standard_cauchy"), sampled(rng, 40), component="intra_student")
    assert "kurtosis" in noisy.unreliable


def test_own_variances_of_few_and_many_students_are_not_compared(make_observed):
    known = {"within": 1.0, "average_standard_error": {"intra_student": 0.1, "total": 0.1}}
    a, b = (make_observed(np.random.default_rng(n).normal(size=(n, 1)), **known) for n in (5, 30))
    with pytest.raises(ComparisonError, match="about as many students"):
        kd.ratio_test(a, b, component="intra_student")


@pytest.mark.parametrize(
    ("options", "n_students", "n_points", "said"),
    [
        ({}, 30, 1, "5% (interval 95%) for Gaussian students"),
        ({}, 30, 4, "at most 5% (interval at least 95%) for Gaussian students"),
        ({"paired": True}, 30, 4, "at most 5% (interval at least 95%) for Gaussian students"),
        ({"method": "kurtosis"}, 40, 1, ".08 (unpaired) to .10 (paired) were measured with 30"),
        ({"method": "bootstrap", "n_resamples": 99, "rng": 1}, 40, 1, ".096 (lognormal, paired) were measured"),
        ({"method": "permutation", "n_resamples": 99, "rng": 1}, 40, 1, "for students of any law"),
    ],
)
@pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning")
def test_every_summary_says_under_which_law_its_level_holds(make_observed, options, n_students, n_points, said):
    rng = np.random.default_rng(4)
    a, b = (make_observed(rng.normal(size=(n_students, n_points))) for _ in range(2))
    result = kd.ratio_test(a, b, **options)
    assert said in result.coverage
    assert f"level: {result.coverage}" in result.summary()


def test_the_measured_level_goes_with_few_students(make_observed):
    rng = np.random.default_rng(6)
    a, b = (make_observed(rng.normal(size=(200, 1))) for _ in range(2))
    assert "measured" not in kd.ratio_test(a, b, method="kurtosis").coverage


def test_skewed_students_at_correlated_points_mark_the_result():
    """40 points of rank 6, 30 students: 150 pairs of strategies; most were left unmarked by a mean of point scores."""
    rng, factor, marked = np.random.default_rng(5), np.random.default_rng(7).normal(size=(40, 6)), {}
    for law, draw in (("normal", rng.standard_normal), ("exponential", rng.standard_exponential)):
        pairs = [[draw((30, 6)) @ factor.T for _ in range(2)] for _ in range(150)]
        marked[law] = sum(bool(far_students(*pair)) for pair in pairs)
    assert marked["exponential"] > 150 * 0.9
    assert binomtest(marked["normal"], 150, 0.05, alternative="greater").pvalue > 0.01
