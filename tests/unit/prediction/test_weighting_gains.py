"""Gains and losses of weighting: against the engines, against simulation from the definitions, and plain refusals."""

import json

import numpy as np
import pytest
from scipy import stats

import kdstats as kd
from kdstats.errors import ApproximationWarning, PredictionError, ProblemError, UnsupportedProblemError
from kdstats.prediction.closed_form import optimal_weight, published_oracle_gain

Z = 4.0
LEVEL = 1e-4
ALL = (
    "averaging",
    "oracle",
    "split_known",
    "split_pooled",
    "split_per_input",
    "split_shrunken",
    "same_ignoring_covariance",
    "same_known",
    "same_estimated",
    "inputs_known",
    "inputs_pooled",
    "inputs_per_input",
    "inputs_shrunken",
)


def problem(k, *, n=40, p=3, seed=1, student=None, curved=0.0, rho=0.0, even=False):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    variances = 1.0 if even else np.exp(rng.uniform(-1.5, 1.5, n))
    mean = X @ np.arange(1.0, p + 1.0) + curved * X[:, 0] ** 2
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, noise_variance=variances, response_correlation=rho),
        student=student or kd.LinearStudent(),
        design=kd.Design(rng.standard_normal((12, p)), n_responses=k),
    )


def average(components):
    return float(components.inter_student.mean())


def weighted(base, **weighting):
    return base.with_design(strategy="variance_weighting", weighting=kd.VarianceWeighting(**weighting))


@pytest.mark.parametrize("student", [kd.LinearStudent(), kd.LinearStudent(penalty=4.0)])
def test_exact_rows_are_the_closed_form(student):
    base = problem(6, student=student, curved=0.5, rho=0.1)
    gains = kd.weighting_gains(base, n_students=8, rng=1)
    plain = average(kd.predict(base))
    variances = base.teacher.variances
    weights = (1 / variances) / (1 / variances).mean()
    expected = {
        "averaging": base,
        "oracle": weighted(base, student_estimate="teacher_mean", weight="estimated"),
        "split_known": weighted(base),
        "inputs_known": base.with_student(weights=weights),
        "inputs_pooled": base,
    }
    assert gains.averaging_variance == pytest.approx(plain, rel=1e-12)
    for name, other in expected.items():
        assert gains[name].variance == pytest.approx(average(kd.predict(other)) / plain, rel=1e-9), name
        assert gains[name].exactness == "exact"
        assert gains[name].variance_se == 0.0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("split_pooled", {"weight": "pooled"}),
        ("split_per_input", {"weight": "per_input"}),
        ("split_shrunken", {"weight": "shrunken"}),
        ("inputs_per_input", None),
    ],
)
def test_simulated_rows_are_those_of_the_monte_carlo_engine(name, change):
    base = problem(8)
    row = kd.weighting_gains(base, n_students=6000, rng=2)[name]
    other = base.with_student(weights="estimated") if change is None else weighted(base, **change)
    seen = kd.predict(other, engine="monte_carlo", n_students=20_000, rng=3)
    plain = average(kd.predict(base))
    ratio, error = average(seen) / plain, seen.attrs["average_standard_error"]["inter_student"] / plain
    spread = Z * np.hypot(error, row.variance_se)
    assert row.exactness == "simulated"
    assert abs(row.variance - ratio) < spread
    known = kd.weighting_gains(base, n_students=8, rng=2)
    for wrong in ("same_known", "inputs_known", "averaging"):
        assert abs(known[wrong].variance - ratio) > spread


@pytest.mark.parametrize("pilot", [None, kd.LinearStudent(penalty=15.0)])
def test_pilot_on_the_same_responses_from_the_definition(pilot):
    base = problem(2, n=20, curved=1.0)
    gains = kd.weighting_gains(base, pilot=pilot, n_students=8, rng=1)
    X, mean = base.teacher.X, base.teacher.mean
    inputs = np.column_stack([np.ones(20), X])
    ridge = np.diag([0.0, *[0.0 if pilot is None else pilot.penalty] * 3])
    hat = inputs @ np.linalg.solve(inputs.T @ inputs + ridge, inputs.T)
    variance = base.teacher.variances / 2
    alpha = [
        optimal_weight(
            variance[i],
            hat[i] ** 2 @ variance,
            bias=hat[i] @ mean - mean[i],
            covariance=hat[i, i] * variance[i],
        ).weight
        for i in range(20)
    ]
    drawn = mean + np.sqrt(variance) * np.random.default_rng(5).standard_normal((200_000, 20))
    labels = alpha * drawn + (1 - np.array(alpha)) * (drawn @ hat.T)
    label_errors = ((labels - mean) ** 2).mean(axis=1) / gains.averaging_label_error
    assert abs(label_errors.mean() - gains["same_known"].label_error) < Z * label_errors.std() / np.sqrt(200_000)
    query = np.column_stack([np.ones(12), base.X_query])
    student = query @ np.linalg.solve(inputs.T @ inputs, inputs.T)
    errors = ((labels @ student.T - student @ mean) ** 2).mean(axis=1) / gains.averaging_variance
    assert abs(errors.mean() - gains["same_known"].error) < Z * errors.std() / np.sqrt(200_000)
    ignoring = gains["same_ignoring_covariance"]
    assert ignoring.label_error > gains["same_known"].label_error
    assert abs(label_errors.mean() - ignoring.label_error) > Z * label_errors.std() / np.sqrt(200_000)


def test_one_estimated_weight_changes_nothing_for_a_projection():  # H(a y + (1 - a) H y) = H y
    gains = kd.weighting_gains(problem(5), n_students=600, rng=1)
    row = gains["same_estimated"]
    assert row.effect == "none"
    assert row.error == pytest.approx(1.0, abs=1e-12)
    assert row.label_error + Z * row.label_error_se < 1.0
    assert kd.weighting_gains(problem(5), pilot=kd.LinearStudent(penalty=9.0), n_students=600, rng=1)[
        "same_estimated"
    ].variance != pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("k", [2, 3, 10])
def test_oracle_gains_what_its_formula_says_whatever_the_problem(k):
    for base in (problem(k), problem(k, n=15, p=2, student=kd.LinearStudent(penalty=3.0), even=True)):
        row = kd.weighting_gains(base, n_students=8, rng=1)["oracle"]
        assert row.is_bound
        assert row.variance == pytest.approx(published_oracle_gain(k), rel=1e-9)


def test_oracle_is_simulated_for_other_noise():
    base = problem(4, even=True, n=12)
    row = kd.weighting_gains(base, n_students=8000, rng=1, noise_law="laplace")["oracle"]
    drawn = np.random.default_rng(3).laplace(scale=np.sqrt(0.5), size=(400_000, 4))
    moment = 4 * (drawn.mean(axis=1) / (1 + drawn.var(axis=1))) ** 2
    spread = Z * np.hypot(row.label_error_se, moment.std() / np.sqrt(len(moment)))
    assert row.exactness == "simulated"
    assert abs(row.label_error - moment.mean()) < spread
    assert abs(published_oracle_gain(4) - row.label_error) > Z * row.label_error_se


def test_standard_errors_are_those_of_repeated_runs():
    base = problem(6, n=20, p=2)
    runs = [kd.weighting_gains(base, n_students=400, rng=seed) for seed in range(60)]
    for name in ("split_shrunken", "inputs_per_input", "inputs_shrunken"):
        for metric in ("variance", "error"):
            values = np.array([getattr(run[name], metric) for run in runs])
            claimed = np.mean([getattr(run[name], f"{metric}_se") ** 2 for run in runs])
            ratio = 59 * values.var(ddof=1) / claimed
            assert 2 * min(stats.chi2.cdf(ratio, 59), stats.chi2.sf(ratio, 59)) > LEVEL, (name, metric)
            for wrong in (1 / 3, 3.0):  # errors off by a factor of the root of three would be seen
                assert min(stats.chi2.cdf(ratio / wrong, 59), stats.chi2.sf(ratio / wrong, 59)) < LEVEL


@pytest.mark.parametrize(
    ("k", "refused"),
    [
        (
            1,
            {
                "oracle": "undefined at k=1",
                "split_known": "undefined at k=1",
                "split_pooled": "undefined at k=1",
                "split_per_input": "undefined at k=1",
                "split_shrunken": "undefined at k=1",
                "same_estimated": "undefined at k=1",
                "inputs_pooled": "undefined at k=1",
                "inputs_per_input": "undefined at k=1",
                "inputs_shrunken": "undefined at k=1",
            },
        ),
        (
            2,
            {
                "split_pooled": "undefined at k=2",
                "split_per_input": "undefined at k=2",
                "split_shrunken": "undefined at k=2",
                "inputs_per_input": "infinite variance: per-input with k<=5",
            },
        ),
        (
            5,
            {
                "split_per_input": "infinite variance: per-input with k<=6",
                "inputs_per_input": "infinite variance: per-input with k<=5",
            },
        ),
        (6, {"split_per_input": "infinite variance: per-input with k<=6"}),
        (7, {}),
    ],
)
def test_refusals_are_plain_rows(k, refused):
    gains = kd.weighting_gains(problem(k), n_students=8, rng=1)
    assert tuple(row.estimator for row in gains.table) == ALL
    for row in gains.table:
        if row.estimator in refused:
            assert row.refused.startswith(refused[row.estimator])
            assert row.variance is row.error is row.label_error is row.variance_se is None
            assert (row.exactness, row.effect, row.interval()) == ("refused", "refused", None)
            assert row.refused in gains.summary()
        else:
            assert row.refused is None, row
            assert row.error > 0.0


def test_refusals_of_noise():
    silent = problem(8).with_teacher(noise_variance=np.r_[0.0, np.ones(39)])
    gains = kd.weighting_gains(silent, n_students=8, rng=1)
    assert {row.estimator for row in gains.table if row.refused} == {
        "split_per_input",
        "split_shrunken",
        "inputs_known",
        "inputs_per_input",
        "inputs_shrunken",
    }
    shared = kd.weighting_gains(problem(8, even=True).with_teacher(input_correlation=0.2), n_students=8, rng=1)
    assert shared["oracle"].refused == "undefined for noise correlated across inputs"
    alike = kd.weighting_gains(problem(8, rho=1.0), n_students=8, rng=1)
    assert "all alike" in alike["split_pooled"].refused
    assert alike["same_known"].refused is None


def test_effect_reads_the_interval():
    gains = kd.weighting_gains(problem(8), n_students=2000, rng=4)
    for row in gains.table:
        low, high = row.interval()
        decided = "gain" if high < 1 else "loss" if low > 1 else "undecided"
        special = dict.fromkeys(("averaging", "inputs_pooled", "same_estimated"), "none") | {"oracle": "bound"}
        assert row.effect == special.get(row.estimator, decided)
    assert gains["inputs_known"].effect == "gain"
    assert gains["split_known"].effect == "loss"
    low, high = gains["inputs_shrunken"].interval("variance", 0.6827)
    assert high - low == pytest.approx(2 * gains["inputs_shrunken"].variance_se, rel=1e-4)
    few = kd.weighting_gains(problem(8, even=True), n_students=8, rng=4)
    assert few["inputs_shrunken"].effect == "undecided"


def test_results_repeat_and_travel():
    base = problem(4)
    first, again, other = (kd.weighting_gains(base, n_students=300, rng=seed) for seed in (1, 1, 2))
    assert first.to_dict() == again.to_dict()
    assert first["split_pooled"].error != other["split_pooled"].error
    document = json.loads(json.dumps(first.to_dict(), allow_nan=False))
    assert document["estimators"]["split_per_input"]["error"] is None
    frame = first.to_dataframe()
    assert list(frame.index) == list(ALL)
    assert frame.loc["split_pooled", "error"] == first["split_pooled"].error
    assert np.isnan(frame.loc["split_per_input", "error"])
    assert frame.loc["oracle", "is_bound"]
    with pytest.raises(AttributeError):
        first.table = ()


def test_bad_input():
    base = problem(4)
    network = kd.DistillationProblem(teacher=base.teacher, student=kd.NetworkStudent(), design=base.design)
    steps = kd.GradientDescent(n_steps=3, learning_rate=0.01)
    cases = (
        (lambda: kd.weighting_gains(3), ProblemError, "`problem` must be a DistillationProblem; got"),
        (lambda: kd.weighting_gains(network), UnsupportedProblemError, "cover a LinearStudent; got a NetworkStudent"),
        (lambda: kd.weighting_gains(base.with_student(training=steps)), UnsupportedProblemError, "gradient steps"),
        (lambda: kd.weighting_gains(base.with_student(minimum_norm=True)), UnsupportedProblemError, "minimum norm"),
        (lambda: kd.weighting_gains(base.with_design(resample_size=9)), UnsupportedProblemError, "resampled rows"),
        (lambda: kd.weighting_gains(base.with_design(n_generations=2)), UnsupportedProblemError, "chains"),
        (
            lambda: kd.weighting_gains(base.with_design(sources=())),
            ProblemError,
            "`sources` must have 'teacher_output'",
        ),
        (lambda: kd.weighting_gains(base.with_teacher(noise_variance=0.0)), ProblemError, "`noise_variance` must be"),
        (lambda: kd.weighting_gains(base, n_students=7), ProblemError, "`n_students` must be at least 8"),
        (lambda: kd.weighting_gains(base, pilot="ridge"), ProblemError, "`pilot` must be a LinearStudent or None"),
        (lambda: kd.weighting_gains(base, pilot=kd.LinearStudent(minimum_norm=True)), ProblemError, "fitted exactly"),
        (lambda: kd.weighting_gains(base, n_students=8)["best"], ProblemError, "`estimator` must be one of averaging"),
        (
            lambda: kd.weighting_gains(base, n_students=8)["oracle"].interval("mse"),
            ProblemError,
            "`metric` must be one",
        ),
    )
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()


@pytest.mark.parametrize("n", [4, 30])
def test_ridge_students_with_fewer_inputs_than_coefficients(n):
    base = problem(8, n=n, p=6, student=kd.LinearStudent(penalty=2.0))
    row = kd.weighting_gains(base, n_students=3000, rng=1)["inputs_per_input"]
    rng = np.random.default_rng(2)
    inputs = np.column_stack([np.ones(n), base.teacher.X])
    query = np.column_stack([np.ones(12), base.X_query])
    ridge = np.diag([0.0, *[2.0] * 6])
    noiseless = query @ np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ base.teacher.mean)
    errors = []
    for _ in range(3000):
        drawn = base.teacher.mean + np.sqrt(base.teacher.variances) * rng.standard_normal((8, n))
        weights = 1 / drawn.var(axis=0, ddof=1)
        weights /= weights.mean()
        scaled = inputs.T * weights
        coefficients = np.linalg.solve(scaled @ inputs + ridge, scaled @ drawn.mean(axis=0))
        errors.append(((query @ coefficients - noiseless) ** 2).mean())
    plain = kd.weighting_gains(base, n_students=8, rng=1).averaging_variance
    ratio, error = np.mean(errors) / plain, np.std(errors) / plain / np.sqrt(len(errors))
    assert abs(row.error - ratio) < Z * np.hypot(error, row.error_se)


def test_noise_that_double_precision_does_not_hold():
    base = problem(8, even=True)
    lost = base.with_teacher(mean=1e8 + base.teacher.mean, noise_variance=1e-18)
    with pytest.raises(PredictionError, match="far from its exact variance"):
        kd.weighting_gains(lost, n_students=300, rng=1)
    for noise in (1e-310, 1e300):
        with pytest.raises(PredictionError):
            kd.weighting_gains(base.with_teacher(noise_variance=noise), n_students=300, rng=1)
    small = kd.weighting_gains(base.with_teacher(noise_variance=1e-12), n_students=300, rng=1)
    assert small["split_known"].error == pytest.approx(
        kd.weighting_gains(base, n_students=300, rng=1)["split_known"].error, rel=1e-6
    )


def test_noise_without_a_fourth_moment_is_warned_of():
    with pytest.warns(ApproximationWarning, match="no fourth moment"):
        gains = kd.weighting_gains(problem(8, even=True), n_students=3000, rng=1, noise_law="student_t:3")
    assert gains["inputs_shrunken"].effect == "gain"  # far-out responses raise both the error and its variance
    assert kd.weighting_gains(problem(8, even=True), n_students=3000, rng=1)["inputs_shrunken"].effect != "gain"
