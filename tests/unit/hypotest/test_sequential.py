import numpy as np
import pytest
import xarray as xr
from scipy import integrate, stats

import kdstats as kd
from kdstats.errors import ComparisonError, ProblemError
from kdstats.hypotest.evalues import Prior, log_evalue, log_evalue_of_groups, log_evalue_one_sided, prior_of_margin


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(40, 4))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=0.5),
        student=kd.LinearStudent(),
        design=kd.Design(X[:12] + 0.1, n_responses=2, strategy="averaging"),
    )


@pytest.fixture(scope="module")
def predicted(problem):
    return kd.predict(problem, covariance=True)


@pytest.fixture(scope="module")
def observed(problem):
    return kd.observe(problem, n_students=200, rng=5)


def likelihood(q, df, theta):
    return theta ** (-df / 2) * np.exp(-q / (2 * theta))


@pytest.mark.parametrize(("q", "df"), [(3.0, 7.0), (12.0, 7.0), (40.0, 30.0)])
def test_evalue_is_the_mean_likelihood_ratio(q, df):
    prior = Prior(a=3.0, b=2.5)
    law = stats.invgamma(prior.a, scale=prior.b)
    for null in (1.0, 1.7):
        found = log_evalue(q, df, prior=prior, null=null)
        mixture = integrate.quad(lambda t: law.pdf(t) * likelihood(q, df, t), 0, np.inf, epsabs=0)[0]
        assert found == pytest.approx(np.log(mixture / likelihood(q, df, null)), rel=1e-7)
    above = integrate.quad(lambda t: law.pdf(t) * likelihood(q, df, t), 1.5, np.inf, epsabs=0)[0] / law.sf(1.5)
    found = log_evalue_one_sided(q, df, prior=prior, boundary=1.5, alternative="greater")
    assert found == pytest.approx(np.log(above / likelihood(q, df, 1.5)), rel=1e-7)


def test_evalue_of_two_groups_is_the_ratio_of_f_densities():
    """One direction: the maximal invariant is the F statistic."""
    q_a, q_b, n_a, n_b = 9.0, 4.0, 6.0, 8.0
    f = (q_a / n_a) / (q_b / n_b)
    for log_theta, null in ((0.4, 1.0), (-0.9, 1.0), (0.7, 1.5)):
        theta = np.exp(log_theta)
        exact = stats.f.logpdf(f / theta, n_a, n_b) - log_theta - stats.f.logpdf(f / null, n_a, n_b) + np.log(null)
        found = log_evalue_of_groups(np.array([q_a / (q_a + q_b)]), n_a, n_b, log_ratios=(log_theta,), null=null)
        assert found == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("margin", [1.05, 1.5, 4.0])
def test_prior_has_the_spread_of_the_margin(margin):
    prior = prior_of_margin(margin)
    draws = np.log(stats.invgamma.rvs(prior.a, scale=prior.b, size=100_000, random_state=1))
    assert abs(draws.mean()) < 4 * draws.std() / np.sqrt(draws.size)
    error = draws.std() * np.sqrt((stats.kurtosis(draws) + 2) / (4 * draws.size))
    assert abs(draws.std() - np.log(margin)) < 4 * error


def test_batches_of_any_size_give_the_same_evidence(predicted, observed):
    values = observed.student_predictions.values
    tests = [kd.SequentialTest(predicted, confidence_level=1 - 1e-12) for _ in range(3)]
    for start in range(0, 28, 7):
        tests[0].update(values[start : start + 7])
    for student in values[:28]:
        tests[1].update(student)
    whole = tests[2].update(values[:28])
    for test in tests[:2]:
        np.testing.assert_allclose(test.result.history["equality"], whole.history["equality"], atol=1e-9)
        assert test.result.n_students == 28


def test_sum_of_squares_is_that_of_the_whitened_sample_covariance(predicted, observed):
    values = observed.student_predictions.values[:28, :, 0]
    test = kd.SequentialTest(predicted, confidence_level=1 - 1e-12)
    result = test.update(values[:, :, None])
    centered = values - values.mean(axis=0)
    inverse = np.linalg.pinv(predicted.covariance.values[0], rcond=1e-9)
    assert result.n_directions == 5
    assert result.ratio == pytest.approx(np.trace(inverse @ centered.T @ centered) / (27 * 5))


def test_a_true_prediction_is_agreed_with_and_stops_early(predicted, observed):
    result = kd.sequential_test(predicted, observed)
    assert result.verdict == "agree"
    assert result.stopped_at == result.n_students < 200
    low, high = result.confidence_interval()
    assert low < 1 < high
    assert "AGREE" in result.summary()
    assert result.to_dict()["verdict"] == "agree"


def test_a_wrong_prediction_is_refuted(problem, observed):
    for wrong in (1.6, 1 / 1.6):
        other = kd.predict(problem.with_teacher(noise_variance=0.5 * wrong), covariance=True)
        result = kd.sequential_test(other, observed)
        assert result.verdict == "disagree"
        assert result.pvalue <= 0.05


def test_points_may_come_in_any_order(predicted, observed):
    shuffled = observed.student_predictions.isel(point=np.random.default_rng(0).permutation(12))
    a = kd.sequential_test(predicted, observed.student_predictions)
    b = kd.sequential_test(predicted, shuffled)
    np.testing.assert_allclose(a.history["equality"], b.history["equality"], atol=1e-9)


def test_a_prediction_without_covariance_bets_on_each_point(problem, observed):
    plain = kd.predict(problem)
    result = kd.sequential_test(plain, observed)
    assert result.verdict == "agree"
    values = observed.student_predictions.values[: result.n_students, :, 0]
    q = ((values - values.mean(axis=0)) ** 2).sum(axis=0) / plain.inter_student.values[:, 0]
    each = np.exp(log_evalue(q, result.n_students - 1.0, prior=prior_of_margin(1.5)))
    assert result.evalue == pytest.approx(each.mean())


def test_variance_outside_the_predicted_range_refutes_at_once(predicted, observed):
    values = observed.student_predictions.values + np.random.default_rng(1).normal(size=(200, 12, 1))
    result = kd.sequential_test(predicted, values)
    assert result.verdict == "disagree"
    assert result.stopped_at == 2
    assert "where none is predicted" in result.reason


def test_shape_alone_is_tested_at_unknown_scale(predicted, observed):
    seen = observed.student_predictions.values
    assert kd.sequential_test(predicted, 9.0 * seen, scale="unknown").verdict == "undecided"
    assert kd.sequential_test(predicted, 9.0 * seen).verdict == "disagree"
    vectors = np.linalg.eigh(predicted.covariance.values[0])[1]
    stretch = np.eye(12) + 2.0 * np.outer(vectors[:, -1], vectors[:, -1])
    assert kd.sequential_test(predicted, (seen[..., 0] @ stretch)[..., None], scale="unknown").verdict == "disagree"


def test_an_approximate_prediction_is_refuted_beyond_the_margin_only(make_predicted, with_variance):
    students = with_variance([1.25], 3000)[:, :, None]
    assert kd.sequential_test(make_predicted([1.0]), students, margin=1.2).verdict == "disagree"
    rough = make_predicted([1.0], exactness="approximate")
    assert kd.sequential_test(rough, students, margin=1.5).verdict == "agree"
    far = with_variance([3.0], 400)[:, :, None]
    result = kd.sequential_test(rough, far)
    assert (result.verdict, "beyond the margin" in result.reason) == ("disagree", True)


def test_interval_holds_exactly_the_nulls_that_are_not_rejected(predicted, observed):
    test = kd.SequentialTest(predicted)
    result = test.update(observed.student_predictions[:30])
    low, high = result.confidence_interval(0.9)
    for end in (low, high):
        assert result._log_evalue_at(end) == pytest.approx(np.log(10))
    assert result._log_evalue_at(np.sqrt(low * high)) < np.log(10)
    assert kd.SequentialTest(predicted).result.confidence_interval() == (0.0, np.inf)


def test_sampled_replicates_are_part_of_the_prediction(make_predicted):
    rng = np.random.default_rng(2)
    means = rng.normal(size=(600, 1, 1)) + rng.normal(size=(600, 1, 1)) * np.sqrt(3.0 / 2)
    predicted = make_predicted([1.0], intra=3.0)
    assert kd.sequential_test(predicted, means, n_replicates=2).verdict == "agree"
    assert kd.sequential_test(predicted, means).verdict == "disagree"


def test_refusals(predicted, observed, make_predicted):
    cases = [
        (lambda: kd.SequentialTest(observed), ComparisonError, "`predicted` must be one prediction"),
        (lambda: kd.SequentialTest(3), ComparisonError, "`predicted` must be VarianceComponents; got a int"),
        (lambda: kd.SequentialTest(make_predicted([1.0], se=0.1)), ComparisonError, "no Monte Carlo error"),
        (lambda: kd.SequentialTest(make_predicted([0.0])), ComparisonError, "some variance"),
        (lambda: kd.SequentialTest(make_predicted([1.0]), scale="unknown"), ComparisonError, "`scale` must be"),
        (lambda: kd.SequentialTest(make_predicted([1.0, 2.0]), scale="unknown"), ComparisonError, "without a cov"),
        (lambda: kd.SequentialTest(predicted, n_directions=9), ComparisonError, "at most the rank 5; got 9"),
        (lambda: kd.SequentialTest(predicted, margin=1.0), ProblemError, "`margin` must be"),
        (lambda: kd.sequential_test(predicted, np.ones((3, 4, 1))), ComparisonError, "12 points and 1 outputs"),
        (lambda: kd.sequential_test(predicted, 3), ComparisonError, "`students` must be an iterable"),
        (
            lambda: kd.sequential_test(predicted, xr.DataArray(np.ones((3, 12, 1)), dims=("student", "a", "output"))),
            ComparisonError,
            "point labels",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_two_strategies(problem, observed):
    five = kd.observe(problem.with_design(n_responses=10), n_students=200, rng=6)
    result = kd.sequential_ratio_test(observed, five)
    low, high = result.confidence_interval()
    assert result.verdict == "disagree"
    assert low < 5.0 < high
    assert result.stopped_at < 200
    same = kd.sequential_ratio_test(observed, kd.observe(problem, n_students=200, rng=7), margin=2.0)
    assert same.verdict == "agree"
    assert same.n_directions >= 2
    with pytest.raises(ComparisonError, match="same seed twice"):
        kd.sequential_ratio_test(observed, kd.observe(problem, n_students=20, rng=5))


def test_two_strategies_do_not_depend_on_the_coordinates():
    rng = np.random.default_rng(8)
    a, b, mix = rng.normal(size=(60, 3)), rng.normal(size=(60, 3)), rng.normal(size=(3, 3))
    one, other = (
        kd.sequential_ratio_test(x, y, directions=np.eye(3), confidence_level=1 - 1e-9)
        for x, y in ((a, b), (a @ mix + 5.0, b @ mix))
    )
    np.testing.assert_allclose(one.history["equality"], other.history["equality"], atol=1e-8)
    swapped = kd.sequential_ratio_test(b, a, directions=np.eye(3), confidence_level=1 - 1e-9)
    np.testing.assert_allclose(one.history["equality"], swapped.history["equality"], atol=1e-8)
    assert swapped.ratio == pytest.approx(1 / one.ratio)


def test_pilot_students_are_not_tested():
    rng = np.random.default_rng(9)
    test = kd.SequentialRatioTest(n_pilot=10)
    assert test.update(rng.normal(size=(8, 4, 1)), rng.normal(size=(8, 4, 1))).n_directions == 0
    result = test.update(rng.normal(size=(5, 4, 1)), rng.normal(size=(5, 4, 1)))
    assert (len(result.history["equality"]), result.n_students) == (3, 13)
    assert 1 <= result.n_directions <= 4
    with pytest.raises(ComparisonError, match="as many as `students_a`"):
        test.update(rng.normal(size=(2, 4, 1)), rng.normal(size=(3, 4, 1)))
    with pytest.raises(ComparisonError, match="students that vary"):
        kd.sequential_ratio_test(np.ones((30, 4)), np.ones((30, 4)))
    with pytest.raises(ComparisonError, match="a row for each of the 4"):
        kd.sequential_ratio_test(a := rng.normal(size=(9, 4)), a[::-1], directions=np.eye(3))
