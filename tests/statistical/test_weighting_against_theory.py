"""Weighting by inverse variances: results T4 to T8 against simulation, each with a wrong formula that is told apart."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.prediction.closed_form import (
    estimated_gls_inflation,
    graybill_deal_beats_both,
    graybill_deal_variance,
    optimal_weight,
    published_oracle_gain,
)

Z = 4.0


def standard_error(values):
    return values.std(ddof=1) / np.sqrt(len(values))


# -------------------------------------------------------------------------------------- T5, T6: two estimated variances


def estimated_weights(v1, v2, n1, n2, *, size, seed):
    rng = np.random.default_rng(seed)
    first, second = (v * rng.chisquare(n - 1, size) / (n - 1) for v, n in ((v1, n1), (v2, n2)))
    return second / (first + second), rng


@pytest.mark.parametrize(
    ("v1", "v2", "n1", "n2"),
    [(1.0, 1.0, 4, 4), (1.0, 5.0, 3, 12), (0.2, 3.0, 11, 11), (2.0, 1.0, 2, 2), (1.0, 30.0, 6, 25)],
)
def test_graybill_deal_variance_within_half_a_percent(v1, v2, n1, n2):
    share, rng = estimated_weights(v1, v2, n1, n2, size=2_500_000, seed=n1 + n2)
    means = np.sqrt([[v1], [v2]]) * rng.standard_normal((2, share.size))
    square = (share * means[0] + (1 - share) * means[1]) ** 2
    truth = graybill_deal_variance(v1, v2, n1=n1, n2=n2)
    assert abs(square.mean() - truth) < Z * standard_error(square)
    assert Z * standard_error(square) < 0.005 * truth
    known = v1 * v2 / (v1 + v2)
    assert square.mean() - known > Z * standard_error(square)
    swapped = graybill_deal_variance(v1, v2, n1=n1 + 3, n2=n2 + 3)  # three observations too many
    assert abs(square.mean() - swapped) > Z * standard_error(square)


@pytest.mark.parametrize(
    ("n1", "n2", "ratio"), [(4, 4, None), (9, 9, None), (11, 11, 0.3), (10, 19, 0.3), (19, 10, 3.0)]
)
def test_simulated_means_lose_and_beat_where_the_threshold_says(n1, n2, ratio):
    worst = graybill_deal_beats_both(n1, n2)
    assert worst.beats_both is (ratio is not None)
    v1 = worst.variance_ratio if ratio is None else ratio
    share, _ = estimated_weights(v1, 1.0, n1, n2, size=2_000_000, seed=n1)
    variance = (share**2 * v1 + (1 - share) ** 2) / min(
        v1, 1.0
    )  # given the weights, of which the means are independent
    excess = (variance.mean() - 1.0) / standard_error(variance)
    assert excess > Z if ratio is None else excess < -Z


# ----------------------------------------------------------------------------------------- T4: weights from k responses


def inverse_moments(df):
    """E (1/s^2)^r for r = 1, 2, 3, with s^2 = chi^2_df/df."""
    steps = df / (df - 2.0 * np.arange(1, 4))
    return np.cumprod(steps)


def inflation_at(n, df):
    """The ratio E[n sum w^2/(sum w)^2] of an intercept from n inputs: its limit and the term in 1/n (delta method)."""
    a, b, c = inverse_moments(df)
    limit = b / a**2
    return limit, limit + (-2 * (c - a * b) / a**3 + 3 * b * (b - a**2) / a**4) / n


def inflation(k, n, size, seed):
    """The same ratio given the weights, of which the means are independent."""
    drawn = (k - 1) / np.random.default_rng(seed).chisquare(k - 1, (size, n))
    return n * (drawn**2).sum(axis=1) / drawn.sum(axis=1) ** 2


@pytest.mark.parametrize("k", [12, pytest.param(20, marks=pytest.mark.slow)])
def test_weights_from_k_responses_inflate_by_k_minus_3_over_k_minus_5(k):
    n = 500
    limit, here = inflation_at(n, k - 1)
    assert estimated_gls_inflation(k) == pytest.approx(limit, rel=1e-12)
    problem = kd.catalog.intercept_only(noise_variance=2.0, n_inputs=n).with_design(n_responses=k)
    row = kd.weighting_gains(problem, n_students=4096, rng=k)["inputs_per_input"]
    assert abs(row.variance - here) < Z * row.variance_se
    assert row.variance - 1.0 > Z * row.variance_se
    given_weights = inflation(k, n, 2000, k)
    assert abs(given_weights.mean() - here) < Z * standard_error(given_weights)
    for wrong in (estimated_gls_inflation(k + 1), (k - 1) / (k - 3), (k - 2) / (k - 4)):
        assert abs(given_weights.mean() - wrong) > Z * standard_error(given_weights)


def test_inflation_has_no_limit_up_to_five_responses():  # E[1/s^4] is infinite for up to 4 degrees of freedom
    for k in (4, 5):
        few, many = inflation(k, 50, 20_000, 1), inflation(k, 5000, 400, 2)
        assert many.mean() - few.mean() > Z * np.hypot(standard_error(few), standard_error(many))
    few, many = inflation(20, 50, 20_000, 3), inflation(20, 5000, 400, 4)  # where it has one, it is nearly reached
    assert abs(many.mean() - inflation_at(5000, 19)[1]) < Z * standard_error(many)
    assert abs(few.mean() - inflation_at(50, 19)[0]) < 0.1 * inflation(4, 50, 20_000, 1).mean()


# -------------------------------------------------------------------------------------------- the published oracle gain


@pytest.mark.parametrize("k", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_published_oracle_gain_of_simulated_students(k):
    problem = kd.catalog.intercept_only(noise_variance=3.0, n_inputs=12).with_design(n_responses=k)
    oracle = kd.VarianceWeighting(student_estimate="teacher_mean", weight="estimated")
    seen = kd.predict(
        problem.with_design(strategy="variance_weighting", weighting=oracle),
        engine="monte_carlo",
        n_students=400_000,
        rng=k,
    )
    unit = float(kd.predict(problem).inter_student.mean())
    gain = float(seen.inter_student.mean()) / unit
    error = seen.attrs["average_standard_error"]["inter_student"] / unit
    assert abs(gain - published_oracle_gain(k)) < Z * error
    assert round(published_oracle_gain(k), 3) == {3: 0.491, 10: 0.317}[k]
    assert Z * error < 0.005  # enough for the digits that are claimed
    for wrong in (published_oracle_gain(k + 1), 0.25):
        assert abs(gain - wrong) > Z * error


# ------------------------------------------------------------------------------------ T8: bias, covariance, many inputs


@pytest.fixture(scope="module")
def mixture():
    """A ridge pilot on the same k responses: biased, and correlated with their mean."""
    rng = np.random.default_rng(7)
    n, k = 16, 3
    X = rng.standard_normal((n, 2))
    mean = X @ [1.0, -2.0] + 0.6 * X[:, 0] ** 2
    variance = np.exp(rng.uniform(-1.0, 1.0, n)) / k
    inputs = np.column_stack([np.ones(n), X])
    hat = inputs @ np.linalg.solve(inputs.T @ inputs + np.diag([0.0, 6.0, 6.0]), inputs.T)
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, noise_variance=k * variance),
        student=kd.LinearStudent(),
        design=kd.Design(n_responses=k),
    )
    teacher = np.sqrt(variance) * rng.standard_normal((300_000, n))
    student = teacher @ hat.T + hat @ mean - mean
    return {
        "teacher": teacher,
        "student": student,
        "v_t": variance,
        "v_s": hat**2 @ variance,
        "b": hat @ mean - mean,
        "c": np.diag(hat) * variance,
        "hat": hat,
        "problem": problem,
    }


def weights(m, *, bias=True, covariance=True):
    return np.array(
        [
            optimal_weight(v_t, v_s, bias=b if bias else 0.0, covariance=c if covariance else 0.0).weight
            for v_t, v_s, b, c in zip(m["v_t"], m["v_s"], m["b"], m["c"], strict=True)
        ]
    )


def test_weight_is_the_argmin_of_the_simulated_error(mixture):
    teacher, student = mixture["teacher"], mixture["student"]

    def z_of_slope(alpha):
        slope = (teacher - student) * (alpha * teacher + (1 - alpha) * student)
        return np.abs(slope.mean(axis=0)) / (slope.std(axis=0) / np.sqrt(len(slope)))

    assert z_of_slope(weights(mixture)).max() < Z + 0.6  # the largest of 16: Bonferroni
    assert np.median(z_of_slope(weights(mixture, covariance=False))) > 10
    assert np.median(z_of_slope(weights(mixture, bias=False))) > 10


def test_a_wrong_weight_costs_its_squared_distance(mixture):
    m = mixture
    spread = m["v_t"] + m["v_s"] + m["b"] ** 2 - 2 * m["c"]  # E(responses - student)^2
    gains = kd.weighting_gains(m["problem"], pilot=kd.LinearStudent(penalty=6.0), n_students=8, rng=1)
    cost = ((weights(m, covariance=False) - weights(m)) ** 2 * spread).mean() / gains.averaging_label_error
    found = gains["same_ignoring_covariance"].label_error - gains["same_known"].label_error
    assert cost > 0
    assert found == pytest.approx(cost, rel=1e-9)
    assert ((m["teacher"] - m["student"]) ** 2).mean(axis=0) == pytest.approx(
        spread, rel=Z * np.sqrt(3 / len(m["teacher"]))
    )


def test_matrix_weight_and_common_weight_are_minima(mixture):
    m = mixture
    n = len(m["v_t"])
    v_t, passed, b = np.diag(m["v_t"]), m["hat"] * m["v_t"], m["b"]  # passed: Cov(student, responses)
    error = passed @ m["hat"].T + np.outer(b, b)
    whole = v_t + error - passed - passed.T

    def trace(a):  # of the mean squared error of A y + (I - A) s
        c = np.eye(n) - a
        return np.trace(a @ v_t @ a.T + c @ error @ c.T + a @ passed.T @ c.T + c @ passed @ a.T)

    best = (error - passed) @ np.linalg.pinv(whole)
    single = 1.0 - (np.trace(v_t) - np.trace(passed)) / np.trace(whole)
    by_input = np.diag(weights(m))
    assert trace(best) < trace(by_input) < trace(single * np.eye(n)) < trace(np.eye(n))
    rng = np.random.default_rng(3)
    for _ in range(20):
        step = 1e-3 * rng.standard_normal((n, n))
        assert trace(best + step) > trace(best)
        assert trace(by_input + np.diag(np.diag(step))) > trace(by_input)
        assert trace((single + step[0, 0]) * np.eye(n)) > trace(single * np.eye(n))
    simulated = ((m["teacher"] @ best.T + m["student"] @ (np.eye(n) - best).T) ** 2).sum(axis=1)
    assert abs(simulated.mean() - trace(best)) < Z * standard_error(simulated)
    assert abs(simulated.mean() - trace(by_input)) > Z * standard_error(simulated)


def test_one_weight_from_the_responses_tends_to_the_best_one():
    """The moments behind 1 - (v_T - c)/E(responses - student)^2 are unbiased, whatever bias and covariance are."""
    rng = np.random.default_rng(11)
    n, k, size = 30, 4, 40_000
    X = rng.standard_normal((n, 2))
    inputs = np.column_stack([np.ones(n), X])
    hat = inputs @ np.linalg.solve(inputs.T @ inputs + np.diag([0.0, 5.0, 5.0]), inputs.T)
    mean, sd = X @ [1.0, 2.0], np.exp(rng.uniform(-0.5, 0.5, n))
    numerators, denominators = [], []
    for _ in range(20):
        responses = mean + sd * rng.standard_normal((size // 20, k, n))
        averaged = responses.mean(axis=1)
        numerators.append((responses.var(axis=1, ddof=1) / k * (1 - np.diag(hat))).sum(axis=1))
        denominators.append(((averaged - averaged @ hat.T) ** 2).sum(axis=1))
    variance, bias = sd**2 / k, hat @ mean - mean
    for found, truth, wrong in (
        (np.concatenate(numerators), (variance * (1 - np.diag(hat))).sum(), variance.sum()),
        (
            np.concatenate(denominators),
            (variance + hat**2 @ variance + bias**2 - 2 * np.diag(hat) * variance).sum(),
            (variance + hat**2 @ variance + bias**2).sum(),
        ),
    ):
        assert abs(found.mean() - truth) < Z * standard_error(found)
        assert abs(found.mean() - wrong) > Z * standard_error(found)


# ------------------------------------------------------------------------------------------------------------ shrinkage


@pytest.mark.parametrize("k", [6, 8])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_shrunken_variances_beat_each_its_own_at_small_k(k, spread):
    rng = np.random.default_rng(5)
    X = rng.standard_normal((80, 3))
    variances = np.exp(spread * rng.standard_normal(80))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X.sum(axis=1), noise_variance=variances),
        student=kd.LinearStudent(),
        design=kd.Design(n_responses=k),
    )
    gains = kd.weighting_gains(problem, n_students=4096, rng=k)
    shrunken, own = gains["inputs_shrunken"], gains["inputs_per_input"]
    margin = Z * np.hypot(shrunken.error_se, own.error_se)
    assert own.error - shrunken.error > margin
    if spread > 0.0:
        assert shrunken.error - gains["inputs_known"].error > Z * shrunken.error_se
        assert shrunken.effect == "gain"
    plenty = kd.weighting_gains(problem.with_design(n_responses=80), n_students=1024, rng=k)
    difference = abs(plenty["inputs_per_input"].error - plenty["inputs_shrunken"].error)
    assert difference < own.error - shrunken.error  # the advantage is one of small k
