"""Level and power of every test of kdstats.hypotest, over correlated query points."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from scipy.optimize import brentq

import kdstats as kd
from kdstats.hypotest import (
    equality_power,
    equality_test,
    equivalence_power,
    mse_test,
    pointwise_test,
    rate_test,
    students_for_equality,
    students_for_equivalence,
)
from kdstats.hypotest.covariance import whitened_statistic
from kdstats.hypotest.equality import pointwise_of
from kdstats.hypotest.inversion import likelihood_ratio_cdf
from kdstats.hypotest.pairing import pair
from kdstats.hypotest.rate import slope_of
from kdstats.hypotest.ratio_law import ScaleLaw, WeightedLaw, two_sided
from kdstats.hypotest.verdict import compare

N_NULL = 2_000
ALPHA = 0.05


def band(probability, n=N_NULL, level=0.99):
    """Binomial band that holds the number of rejections with probability ``level``."""
    return stats.binom.interval(level, n, probability)


def inside(n_rejected, probability, n=N_NULL):
    low, high = band(probability, n)
    return low <= n_rejected <= high


class Design:
    """OLS students: C = X* (X'X)^-1 X*' over 40 correlated query points, rank 6."""

    def __init__(self, seed=11, n=60, p=5, m=40):
        rng = np.random.default_rng(seed)
        X, X_query = (np.c_[np.ones(size), rng.normal(size=(size, p))] for size in (n, m))
        self.factor = X_query @ np.linalg.inv(np.linalg.qr(X)[1])
        self.covariance = self.factor @ self.factor.T
        eigenvalues = np.linalg.eigvalsh(self.covariance)[-(p + 1) :]
        self.weights = eigenvalues / eigenvalues.sum()
        self.rank = 1.0 / (self.weights**2).sum()
        self.m = m

    def students(self, rng, n_students, *, ratio=1.0, repeats=()):
        noise = rng.normal(size=(*repeats, n_students, self.factor.shape[1]))
        return np.sqrt(ratio) * noise @ self.factor.T

    def predicted(self, *, keep_covariance=True, relative_error=0.0, exactness="exact", intra=0.0):
        variance = np.diag(self.covariance)[:, None]
        covariance = xr.DataArray(self.covariance[None], dims=("output", "point", "point_other"))
        return kd.VarianceComponents.from_arrays(
            inter_student=variance,
            intra_student=np.full((self.m, 1), intra),
            inter_student_se=relative_error * variance,
            point_labels=range(self.m),
            attrs={"engine": "closed_form", "exactness": exactness, "effective_rank": self.rank},
            covariance=covariance if keep_covariance else None,
        )


def observe(predictions, *, within=0.0, within_se=0.0, n_replicates=0, keep=True):
    """Wrap predictions (S, m) as an observation, from first principles."""
    n_students, m = predictions.shape
    between = predictions.var(axis=0, ddof=1)[:, None]
    within = np.full((m, 1), within)
    share = 1.0 / n_replicates if n_replicates else 0.0
    dims = ("point", "output")
    return kd.VarianceComponents.from_arrays(
        inter_student=between - share * within,
        intra_student=within,
        intra_student_se=within_se,
        point_labels=range(m),
        attrs={"engine": "linear", "exactness": "observed", "n_students": n_students, "effective_rank_within": m},
        mean_squares=xr.Dataset(
            {"between": (dims, between), "within": (dims, within)},
            attrs={
                "df_between": n_students - 1,
                "df_within": n_students * (n_replicates - 1),
                "n_replicates": n_replicates,
            },
        ),
        student_predictions=xr.DataArray(predictions[:, :, None], dims=("student", *dims)) if keep else None,
    )


@pytest.fixture(scope="module")
def design():
    return Design()


def average_ratios(design, rng, n_students, *, ratio=1.0, n=N_NULL):
    """Observed over predicted average variance of ``n`` experiments, from simulated students."""
    found = np.empty(n)
    for index in range(n):
        predictions = design.students(rng, n_students, ratio=ratio)
        found[index] = predictions.var(axis=0, ddof=1).mean() / np.trace(design.covariance) * design.m
    return found


def n_rejected(law, ratios):
    low, high = law.quantile(ALPHA / 2), law.quantile(1 - ALPHA / 2)
    return int(((ratios < low) | (ratios > high)).sum())


@pytest.mark.parametrize("n_students", [30, 200])
def test_equality_of_the_average_holds_its_level(design, n_students):
    ratios = average_ratios(design, np.random.default_rng(1), n_students)
    exact = WeightedLaw(weights=design.weights, df_each=n_students - 1)
    satterthwaite = ScaleLaw(df=(n_students - 1) * design.rank)
    assert inside(n_rejected(exact, ratios), ALPHA)
    assert inside(n_rejected(satterthwaite, ratios), ALPHA)


def test_counting_points_as_independent_rejects_a_true_prediction(design):
    """Negative control: with m (S-1) degrees of freedom about half of the true predictions are rejected."""
    ratios = average_ratios(design, np.random.default_rng(1), 100)
    naive = n_rejected(ScaleLaw(df=design.m * 99), ratios)
    share = naive / N_NULL
    predicted = 2 * stats.norm.sf(stats.norm.ppf(1 - ALPHA / 2) * np.sqrt(design.rank / design.m))
    assert share > 0.4
    assert abs(share - predicted) < 4 * np.sqrt(0.25 / N_NULL)


def test_exact_law_holds_its_level_where_satterthwaite_does_not():
    """Five students, one large and many small eigenvalues."""
    weights = np.r_[1.0, np.full(20, 0.05)] / 2.0
    n, n_null = 4, 20_000
    ratios = np.random.default_rng(2).chisquare(n, (n_null, weights.size)) @ weights / n
    law = WeightedLaw(weights=weights, df_each=n)
    assert inside(n_rejected(law, ratios), ALPHA, n_null)
    assert not inside(n_rejected(ScaleLaw(df=law.df), ratios), ALPHA, n_null)


def test_equality_power_is_as_predicted_for_a_theory_wrong_by_a_factor(design):
    """Theory off by 1.5, with as many students as power.py says give 80%."""
    n_students = students_for_equality(1.5, effective_rank=design.rank)
    df = (n_students - 1) * design.rank
    predicted = equality_power(1.5, df=df)
    assert 0.8 <= predicted < 0.9
    ratios = average_ratios(design, np.random.default_rng(3), n_students, ratio=1.5)
    assert inside(n_rejected(ScaleLaw(df=df), ratios), predicted)
    unmoved = average_ratios(design, np.random.default_rng(3), n_students)
    assert not inside(n_rejected(ScaleLaw(df=df), unmoved), predicted)


@pytest.mark.parametrize("ratio", [1.5, 1 / 1.5])
def test_equivalence_holds_its_level_at_both_ends_of_the_margin(design, ratio):
    n_students = 40
    ratios = average_ratios(design, np.random.default_rng(4), n_students, ratio=ratio)
    law = WeightedLaw(weights=design.weights, df_each=n_students - 1)
    shown = sum(max(law.upper(r, 1 / 1.5), law.lower(r, 1.5)) <= ALPHA for r in ratios)
    assert shown <= band(ALPHA)[1]
    assert shown >= band(ALPHA)[0]  # and is not needlessly conservative at these degrees of freedom


@pytest.mark.parametrize("margin", [1.25, 1.5, 2.0])
def test_equivalence_power_is_as_predicted(design, margin):
    n_students = students_for_equivalence(margin, effective_rank=design.rank)
    df = (n_students - 1) * design.rank
    predicted = equivalence_power(df, margin=margin)
    assert predicted >= 0.8
    ratios = average_ratios(design, np.random.default_rng(5), n_students)
    law = ScaleLaw(df=df)
    low, high = law.quantile(1 - ALPHA) / margin, law.quantile(ALPHA) * margin
    shown = int(((ratios > low) & (ratios < high)).sum())
    # Satterthwaite's law is exact to first order only: compare with the exact weighted one as well
    exact = WeightedLaw(weights=design.weights, df_each=n_students - 1)
    assert inside(shown, exact.lower(high, 1.0) - exact.lower(low, 1.0))
    assert abs(exact.lower(high, 1.0) - exact.lower(low, 1.0) - predicted) < 0.02


def test_pointwise_family_holds_its_level(design):
    """Holm: exact for independent points, never above the level for correlated ones."""
    rng = np.random.default_rng(6)
    n, m = 49, 20
    for name, factor in (("independent", np.eye(m)), ("correlated", design.factor[:m])):
        scale = np.sqrt((factor**2).sum(axis=1))
        rejected = 0
        for _ in range(N_NULL):
            predictions = rng.normal(size=(n + 1, factor.shape[1])) @ factor.T / scale
            q = predictions.var(axis=0, ddof=1) * n
            raw = 2 * np.minimum(stats.chi2.cdf(q, n), stats.chi2.sf(q, n)).min()
            rejected += m * raw <= ALPHA  # Holm rejects anything iff Bonferroni rejects the smallest
        assert rejected <= band(ALPHA)[1], name
        if name == "independent":
            assert inside(rejected, 1 - (1 - ALPHA / m) ** m)


def test_pointwise_result_is_the_family_tested_above(design):
    predictions = design.students(np.random.default_rng(7), 50)
    result = pointwise_of(pair(design.predicted(), observe(predictions)), multiplicity="holm")
    q = predictions.var(axis=0, ddof=1) / np.diag(design.covariance) * 49
    raw = 2 * np.minimum(stats.chi2.cdf(q, 49), stats.chi2.sf(q, 49))
    np.testing.assert_allclose(result.pvalues[:, 0], raw, rtol=1e-10)
    assert result.pvalue == pytest.approx(min(1.0, design.m * raw.min()))


def test_monte_carlo_prediction_with_its_own_error_holds_its_level(design):
    """F law: a prediction from 60 students, an observation of 100."""
    rng = np.random.default_rng(8)
    observed, simulated = average_ratios(design, rng, 100), average_ratios(design, rng, 60)
    ratios = observed / simulated
    assert inside(n_rejected(ScaleLaw(df=99 * design.rank, df_denominator=59 * design.rank), ratios), ALPHA)
    assert not inside(n_rejected(ScaleLaw(df=99 * design.rank), ratios), ALPHA)  # ignoring the error


def test_equality_test_accounts_for_monte_carlo_error_of_the_prediction(design):
    predicted = design.predicted(relative_error=np.sqrt(2 / 59), exactness="simulated")
    result = equality_test(predicted, observe(design.students(np.random.default_rng(9), 100)))
    assert result.df_denominator == pytest.approx(59 * design.rank)
    assert result.df == pytest.approx(99 * design.rank)


def test_replicates_hold_the_level_of_the_inter_student_test(design):
    """Three sampled outputs per student: student means carry intra/3, which is removed with its own error."""
    rng = np.random.default_rng(10)
    n_students, r, intra, n_null = 60, 3, 0.15, 500
    predicted = design.predicted(intra=intra)
    rejected = plug_in = 0
    for _ in range(n_null):
        means = design.students(rng, n_students) + rng.normal(size=(n_students, design.m)) * np.sqrt(intra / r)
        per_student = intra * rng.chisquare((r - 1) * design.m, n_students) / ((r - 1) * design.m)
        observed = observe(
            means, within=per_student.mean(), within_se=per_student.std(ddof=1) / np.sqrt(n_students), n_replicates=r
        )
        result = equality_test(predicted, observed, kurtosis="gaussian")
        rejected += result.pvalue <= ALPHA
        plug_in += equality_test(predicted, observe(means), kurtosis="gaussian").pvalue <= ALPHA
    assert inside(rejected, ALPHA, n_null)
    assert not inside(plug_in, ALPHA, n_null)  # variance of student means taken for inter-student variance


def test_heavy_tailed_students_need_estimated_kurtosis():
    """Laplace students at one point (kurtosis 6): Gaussian degrees of freedom are far too many."""
    rng = np.random.default_rng(12)
    n_students, n_null = 400, 600
    predicted = kd.VarianceComponents.from_arrays(
        inter_student=[[2.0]],
        intra_student=[[0.0]],
        point_labels=[0],
        attrs={"engine": "monte_carlo", "exactness": "exact", "effective_rank": 1.0},
    )
    rejected = dict.fromkeys(("gaussian", "auto", "estimated"), 0)
    for _ in range(n_null):
        observed = observe(rng.laplace(size=(n_students, 1)))
        for kurtosis in rejected:
            rejected[kurtosis] += equality_test(predicted, observed, kurtosis=kurtosis).pvalue <= ALPHA
    # the variance has 1 + 3/2 times its Gaussian sampling variance, for an excess kurtosis of 3
    assert inside(rejected["gaussian"], 2 * stats.norm.sf(stats.norm.ppf(1 - ALPHA / 2) / np.sqrt(2.5)), n_null)
    assert rejected["estimated"] < 2 * ALPHA * n_null
    assert rejected["auto"] < 2 * ALPHA * n_null


def floor_experiment(design, rng, correlation, k, n_students):
    variances = []
    for count in k:
        ratio = correlation + (1 - correlation) / count
        variances.append(design.students(rng, n_students, ratio=ratio).var(axis=0, ddof=1).mean())
    return slope_of(k, np.array(variances), np.full(len(k), (n_students - 1) * design.rank))


def test_rate_slope_and_floor_hold_their_level(design):
    rng, k = np.random.default_rng(13), np.array([1, 2, 4, 8, 16])
    results = [floor_experiment(design, rng, 0.0, k, 50) for _ in range(N_NULL)]
    assert inside(sum(r.pvalue <= ALPHA for r in results), ALPHA)
    assert inside(sum(r.floor.pvalue <= ALPHA for r in results), ALPHA)
    assert inside(sum(r.confidence_interval().low <= -1 <= r.confidence_interval().high for r in results), 1 - ALPHA)
    slopes = np.array([r.slope for r in results])
    assert abs(slopes.mean() + 1) < 4 * slopes.std() / np.sqrt(N_NULL)


def test_correlated_responses_are_detected_as_a_floor(design):
    rng, k, rho = np.random.default_rng(14), np.array([1, 2, 4, 8, 16]), 0.3
    results = [floor_experiment(design, rng, rho, k, 50) for _ in range(N_NULL)]
    assert all(r.floor.pvalue < 1e-3 for r in results)
    covered = sum(r.floor.confidence_interval().low <= rho <= r.floor.confidence_interval().high for r in results)
    assert inside(covered, 1 - ALPHA)
    estimates = np.array([r.floor.correlation for r in results])
    assert abs(np.median(estimates) - rho) < 4 * 1.2533 * estimates.std() / np.sqrt(N_NULL)


def test_weak_floor_is_found_more_often_by_the_floor_test_than_the_level(design):
    rng, k = np.random.default_rng(15), np.array([1, 2, 4, 8, 16])
    found = sum(floor_experiment(design, rng, 0.03, k, 50).floor.pvalue <= ALPHA for _ in range(500))
    assert found > 500 * 0.5


def test_rate_of_few_students_holds_its_level():
    """Eleven students at one point: moments of log chi-square are exact, its law only nearly normal."""
    rng, k = np.random.default_rng(16), np.array([1, 2, 5, 10])
    floors = 0
    for _ in range(N_NULL):
        variance = rng.chisquare(10, 4) / 10 / k
        floors += slope_of(k, variance, np.full(4, 10.0)).floor.pvalue <= ALPHA
    assert inside(floors, ALPHA)


@pytest.mark.parametrize("n_students", [8, 20, 200])
def test_covariance_test_holds_its_level(design, n_students):
    """Rank 6, from the fewest possible students on; the plain chi-square limit fails there."""
    n, r, n_null = n_students - 1, 6, 20_000
    eigenvalues, vectors = np.linalg.eigh(design.covariance)
    whitening = vectors[:, -r:] / np.sqrt(eigenvalues[-r:])
    statistics = []
    for block in range(20):
        rng = np.random.default_rng([17, block])
        scores = design.students(rng, n_students, repeats=(n_null // 20,)) @ whitening
        scores -= scores.mean(axis=1, keepdims=True)
        statistics += [whitened_statistic(w, n) for w in np.swapaxes(scores, 1, 2) @ scores / n]
    critical = brentq(lambda x: likelihood_ratio_cdf(x, n, r) - (1 - ALPHA), 1.0, 1e3)
    assert inside(int((np.array(statistics) > critical).sum()), ALPHA, n_null)
    if n_students <= 20:
        plain = stats.chi2.ppf(1 - ALPHA, r * (r + 1) / 2)
        assert not inside(int((np.array(statistics) > plain).sum()), ALPHA, n_null)


def test_covariance_test_sees_what_the_diagonal_does_not(design):
    """Same variances at every point, correlations of another design."""
    other = Design(seed=99)
    scale = np.sqrt(np.diag(design.covariance) / np.diag(other.covariance))
    rng, seen, pointwise = np.random.default_rng(18), 0, 0
    for _ in range(20):
        predictions = other.students(rng, 80) * scale
        verdict = compare(design.predicted(), observe(predictions))
        seen += verdict.tests["covariance"].pvalue <= ALPHA
        pointwise += verdict.tests["pointwise"].pvalue <= ALPHA
    assert seen == 20
    assert pointwise <= band(ALPHA, 20)[1]


def test_verdict_calls_a_true_prediction_wrong_at_most_at_its_level(design):
    rng, n = np.random.default_rng(19), 40
    verdicts = [compare(design.predicted(), observe(design.students(rng, 30))).verdict for _ in range(n)]
    assert verdicts.count("disagree") <= band(ALPHA, n)[1]
    assert verdicts.count("agree") > 0


def test_verdict_refutes_a_theory_wrong_by_a_factor(design):
    rng, n = np.random.default_rng(20), 25
    wrong = [compare(design.predicted(), observe(design.students(rng, 60, ratio=1.5))).verdict for _ in range(n)]
    predicted = equality_power(1.5, df=59 * design.rank, significance=ALPHA / 3)
    assert wrong.count("disagree") >= band(predicted, n)[0]


def test_public_tests_hold_their_level(design):
    rng, n = np.random.default_rng(21), 400
    predicted = design.predicted(keep_covariance=False)
    rejected = sum(equality_test(predicted, observe(design.students(rng, 40))).pvalue <= ALPHA for _ in range(n))
    assert inside(rejected, ALPHA, n)
    rejected = sum(pointwise_test(predicted, observe(design.students(rng, 40))).pvalue <= ALPHA for _ in range(30))
    assert rejected <= band(ALPHA, 30)[1]


def test_public_rate_test_holds_its_level_with_estimated_effective_rank(design):
    rng, n = np.random.default_rng(22), 400
    rejected = floors = 0
    for _ in range(n):
        result = rate_test({k: observe(design.students(rng, 50, ratio=1 / k)) for k in (1, 3, 9)})
        rejected += result.pvalue <= ALPHA
        floors += result.floor.pvalue <= ALPHA
    assert inside(rejected, ALPHA, n)
    assert inside(floors, ALPHA, n)


class ChiSquareLaw:
    """MSE of an unbiased student whose error is one Gaussian coordinate times ``scale``."""

    def __init__(self, scale):
        self.mean, self.variance = scale, 2 * scale**2
        self.cdf = stats.chi2(1, scale=scale).cdf


@pytest.mark.parametrize("method", ["mean", "kolmogorov"])
def test_mse_tests_hold_their_level_and_refute_a_wrong_law(method):
    rng, n = np.random.default_rng(23), 600
    few = rng.normal(size=(n, 5)) ** 2
    assert inside(sum(mse_test(mse, ChiSquareLaw(1.0), method=method).pvalue <= ALPHA for mse in few), ALPHA, n)
    # Student's t of so skewed a mean would be found out
    assert not inside((stats.ttest_1samp(few, 1.0, axis=1).pvalue <= ALPHA).sum(), ALPHA, n)
    samples = rng.normal(size=(n, 200)) ** 2
    rejected = sum(mse_test(mse, ChiSquareLaw(1.0), method=method).pvalue <= ALPHA for mse in samples)
    assert inside(rejected, ALPHA, n)
    wrong = sum(mse_test(mse, ChiSquareLaw(1.5), method=method).pvalue <= ALPHA for mse in samples[:200])
    assert wrong > 150


def test_two_sided_pvalue_is_uniform_under_the_null(design):
    law = WeightedLaw(weights=design.weights, df_each=19)
    ratios = np.random.default_rng(24).chisquare(19, (500, 6)) @ design.weights / 19
    assert stats.kstest([two_sided(law, r) for r in ratios], "uniform").pvalue > 0.005
