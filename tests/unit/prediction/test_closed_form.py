"""Closed form against arithmetic that shares nothing with it.

The reference keeps all kn responses as one vector, writes labels and students as explicit matrices, inverts with
``np.linalg.inv`` and takes gradient steps one by one. It is slow and loses digits; on these designs it keeps twelve.
"""

import itertools
import warnings

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

import kdstats as kd
from kdstats.prediction.closed_form import fixed_budget_variance, high_dimensional_variance, optimal_responses
from kdstats.prediction.closed_form.engine import closed_form

RTOL = 1e-10
N, P, M = 9, 3, 4
RNG = np.random.default_rng(20)
X = RNG.normal(size=(N, P)) + 0.3
X_QUERY = RNG.normal(size=(M, P))
MEAN = np.sin(X).sum(axis=1) + 2.0
MEANS = np.column_stack([MEAN, X[:, 0] ** 2])
VARIANCES = RNG.uniform(0.5, 2.0, N)


def random_covariance(seed, size=N):
    root = np.random.default_rng(seed).normal(size=(size, size))
    return root @ root.T / size + 0.3 * np.eye(size)


FULL, OWN, FITTING = random_covariance(1), random_covariance(2), 0.4 * random_covariance(3)


# --- the reference --------------------------------------------------------------------------------


def with_intercept(points, student):
    return np.column_stack([np.ones(len(points)), points]) if student.fit_intercept else points


def teacher_noise(teacher):
    noise = np.asarray(teacher.noise_variance)
    if noise.ndim == 2:
        return noise
    sd = np.sqrt(np.broadcast_to(noise, len(teacher.X)))
    r = teacher.input_correlation
    return np.outer(sd, sd) * ((1 - r) * np.eye(len(sd)) + r)


def working_covariance(problem):
    student = problem.student
    if student.weights is not None:
        return np.diag(1.0 / student.weights)
    if isinstance(student.covariance, str):
        return teacher_noise(problem.teacher)
    return np.eye(len(problem.teacher.X)) if student.covariance is None else student.covariance


def student_maps(design, working, student):
    """Coefficients = F labels + G initial, for a design with one row per label."""
    width = design.shape[1]
    penalised = np.eye(width)
    if student.fit_intercept:
        penalised[0, 0] = 0.0
    precision = np.linalg.inv(working)
    if student.minimum_norm:
        centre = np.eye(len(design)) - np.full((len(design), len(design)), 1.0 / len(design))
        slopes = np.linalg.pinv(centre @ design[:, 1:]) @ centre
        level = np.full(len(design), 1.0 / len(design)) @ (np.eye(len(design)) - design[:, 1:] @ slopes)
        return np.vstack([level, slopes]), np.zeros((width, width))
    normal = design.T @ precision @ design + student.penalty * penalised
    if student.training is None:
        return np.linalg.inv(normal) @ design.T @ precision, np.zeros((width, width))
    F, G = np.zeros((width, len(design))), np.eye(width)
    rate = 2.0 * student.training.learning_rate / len(design)
    for _ in range(student.training.n_steps):
        F, G = F - rate * (normal @ F - design.T @ precision), G - rate * normal @ G
    return F, G


def reference(problem):
    """Return inter (m, q) and intra (q,)."""
    teacher, student, design = problem.teacher, problem.student, problem.design
    n, k = len(teacher.X), design.n_responses
    on = design.sources
    noise = teacher_noise(teacher) * ("teacher_output" in on)
    between = np.zeros((n, n)) if teacher.fitting_covariance is None else teacher.fitting_covariance
    between = between * ("teacher_output" in on)
    initial = 0.0
    if student.training is not None and "student_initialization" in on:
        initial = student.training.initialization_sd**2
    rho = teacher.response_correlation
    among = (1 - rho) * np.eye(k) + rho * np.ones((k, k))
    average = np.kron(np.ones((1, k)) / k, np.eye(n))
    inputs, working = with_intercept(teacher.X, student), working_covariance(problem)
    rows = k if design.strategy == "multi_response" else 1
    D, V = np.tile(inputs, (rows, 1)), np.kron(np.eye(rows), working)
    F, G = student_maps(D, V, student)
    centre = teacher.mean.reshape(n, -1)
    for generation in range(design.n_generations):
        responses = np.kron(among, noise) + np.kron(np.ones((k, k)), between)
        centre_responses = np.tile(centre, (k, 1))
        to_labels, constant = label_map(problem, average, inputs, working)
        labels = to_labels @ responses @ to_labels.T + np.kron(np.ones((rows, rows)), own_covariance(problem))
        centre_labels = to_labels @ centre_responses + constant[:, None]
        if generation + 1 < design.n_generations:
            between = inputs @ (F @ labels @ F.T + initial * G @ G.T) @ inputs.T
            centre = inputs @ F @ centre_labels
    query = with_intercept(problem.X_query, student)
    spread = F @ labels @ F.T + initial * G @ G.T
    inter = np.repeat(np.diag(query @ spread @ query.T)[:, None], centre.shape[1], axis=1)
    if "student_output" not in on:
        return inter, np.zeros(centre.shape[1])
    precision = np.linalg.inv(V)
    keep = np.eye(len(D)) - D @ F
    squares = np.trace(precision @ keep @ labels @ keep.T) + initial * np.trace(precision @ D @ G @ G.T @ D.T)
    bias = keep @ centre_labels
    squares = squares + np.einsum("iq,ij,jq->q", bias, precision, bias)
    hat = D @ F
    freedom = len(D) - np.trace(2 * hat) + np.trace(precision @ hat @ V @ hat.T)
    divisor = freedom if student.residual_variance == "unbiased" else len(D)
    return inter, squares / divisor * np.mean(np.diag(working))


def own_covariance(problem):
    weighting = problem.design.weighting
    if weighting is None or weighting.is_oracle:
        return np.zeros((len(problem.teacher.X),) * 2)
    beta = 1.0 - weights(problem)
    if weighting.uses_pilot:  # the pilot starts from coefficients of its own
        training = problem.student.training
        inputs = with_intercept(problem.teacher.X, problem.student)
        _, G = student_maps(inputs, working_covariance(problem), problem.student)
        start = 0.0 if training is None else training.initialization_sd**2
        return np.outer(beta, beta) * (start * inputs @ G @ G.T @ inputs.T)
    variance = np.asarray(weighting.student_variance)
    full = variance if variance.ndim == 2 else np.diag(np.broadcast_to(variance, len(problem.teacher.X)))
    return np.outer(beta, beta) * full


def label_map(problem, average, inputs, working):
    """Return B and b with labels = B responses + b."""
    teacher, design = problem.teacher, problem.design
    n, k = len(teacher.X), design.n_responses
    if design.strategy == "multi_response":
        return np.eye(n * k), np.zeros(n * k)
    if design.weighting is None:
        return average, np.zeros(n)
    alpha = weights(problem)
    if design.weighting.uses_pilot:
        first = k // 2
        early = np.hstack([np.tile(np.eye(n) / first, first), np.zeros((n, n * (k - first)))])
        late = np.hstack([np.zeros((n, n * first)), np.tile(np.eye(n) / (k - first), k - first)])
        F, _ = student_maps(inputs, working, problem.student)
        return alpha[:, None] * late + (1 - alpha)[:, None] * (inputs @ F @ early), np.zeros(n)
    estimate = teacher.mean if design.weighting.is_oracle else design.weighting.student_estimate
    return alpha[:, None] * average, (1 - alpha) * estimate


def weights(problem):
    """Result T8's weight, or the one that is given."""
    teacher, design = problem.teacher, problem.design
    n, k, weighting = len(teacher.X), design.n_responses, design.weighting
    if not isinstance(weighting.weight, str):
        return np.broadcast_to(weighting.weight, n)
    noise, rho = teacher_noise(teacher), teacher.response_correlation
    fitting = np.zeros((n, n)) if teacher.fitting_covariance is None else teacher.fitting_covariance
    mean_covariance = {j: noise * (1 + (j - 1) * rho) / j + fitting for j in range(1, k + 1)}
    if weighting.uses_pilot:
        inputs = with_intercept(teacher.X, problem.student)
        F, G = student_maps(inputs, working_covariance(problem), problem.student)
        hat = inputs @ F
        initial = 0.0 if problem.student.training is None else problem.student.training.initialization_sd**2
        v_s = np.diag(hat @ mean_covariance[k // 2] @ hat.T + initial * inputs @ G @ G.T @ inputs.T)
        c, b = np.diag(hat @ (rho * noise + fitting)), hat @ teacher.mean - teacher.mean
        v_t = np.diag(mean_covariance[k - k // 2])
    elif weighting.is_oracle:
        v_s, c, b, v_t = np.diag(noise), 0.0, 0.0, np.diag(mean_covariance[k])
    else:
        variance = np.asarray(weighting.student_variance)
        v_s = np.diag(variance) if variance.ndim == 2 else np.broadcast_to(variance, n)
        c, b, v_t = 0.0, weighting.student_estimate - teacher.mean, np.diag(mean_covariance[k])
    return np.clip((v_s + b**2 - c) / (v_t + v_s + b**2 - 2 * c), 0, 1)


def make(teacher=None, student=None, design=None, mean=MEAN):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, **(teacher or {"noise_variance": 0.7})),
        student=kd.LinearStudent(**(student or {})),
        design=kd.Design(X_QUERY, **(design or {})),
    )


def assert_equals_reference(problem, **options):
    result = kd.predict(problem, **options)
    inter, intra = reference(problem)
    np.testing.assert_allclose(result.inter_student.values, inter, rtol=RTOL)
    np.testing.assert_allclose(result.intra_student.values, np.broadcast_to(intra, inter.shape), rtol=RTOL)
    np.testing.assert_allclose(result.total.values, inter + intra, rtol=RTOL)
    assert not result.standard_error.to_array().values.any()
    return result


STEPS = kd.GradientDescent(n_steps=25, learning_rate=0.05, initialization_sd=0.6)
STUDENTS = {
    "ols": {},
    "ols_without_intercept": {"fit_intercept": False},
    "ols_mle": {"residual_variance": "mle"},
    "ridge": {"penalty": 1.7},
    "ridge_without_intercept": {"penalty": 0.4, "fit_intercept": False, "residual_variance": "mle"},
    "wls": {"weights": np.linspace(0.5, 3.0, N)},
    "wls_ridge": {"weights": np.linspace(0.5, 3.0, N), "penalty": 0.8},
    "gls_own": {"covariance": OWN},
    "gls_own_ridge": {"covariance": OWN, "penalty": 0.8},
    "gls_teacher": {"covariance": "teacher"},
    "gradient": {"training": STEPS},
    "gradient_ridge": {"training": STEPS, "penalty": 1.1},
    "gradient_weights": {"training": STEPS, "weights": np.linspace(0.5, 1.5, N), "fit_intercept": False},
}
TEACHERS = {
    "homoscedastic": {"noise_variance": 0.7},
    "per_input": {"noise_variance": VARIANCES},
    "full": {"noise_variance": FULL},
    "across_inputs": {"noise_variance": VARIANCES, "input_correlation": 0.4},
    "negative_across_inputs": {"noise_variance": 1.3, "input_correlation": -0.1},
    "responses": {"noise_variance": VARIANCES, "response_correlation": 0.35},
    "negative_responses": {"noise_variance": 0.7, "response_correlation": -0.2},
    "fitting": {"noise_variance": 0.7, "fitting_covariance": FITTING, "response_correlation": 0.1},
}
DESIGNS = {
    "single": {},
    "averaging": {"n_responses": 4},
    "multi_response": {"n_responses": 4, "strategy": "multi_response"},
    "pilot": {"n_responses": 5, "strategy": "variance_weighting"},
    "chain": {"n_generations": 3},
    "chain_of_rows": {"n_generations": 2, "n_responses": 3, "strategy": "multi_response"},
}


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("student", STUDENTS)
def test_components_against_exact(student, teacher, design):
    assert_equals_reference(make(TEACHERS[teacher], STUDENTS[student], DESIGNS[design]))


WEIGHTINGS = {
    "array_known": {"student_estimate": MEAN + 0.3, "student_variance": 0.2},
    "array_per_input": {"student_estimate": MEAN - 0.1, "student_variance": VARIANCES},
    "array_full": {"student_estimate": MEAN * 0.9, "student_variance": OWN},
    "array_without_variance": {"student_estimate": MEAN + 0.3},
    "oracle_known": {"student_estimate": "teacher_mean"},
    "pilot_fixed": {"weight": 0.7},
    "pilot_weights": {"weight": np.linspace(0, 1, N)},
    "array_fixed": {"student_estimate": MEAN + 0.3, "student_variance": 0.2, "weight": 0.25},
}


@pytest.mark.parametrize("teacher", ["homoscedastic", "full", "responses", "fitting"])
@pytest.mark.parametrize("student", ["ols", "ridge", "gls_own", "gradient"])
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_variance_weighting_against_exact(weighting, student, teacher):
    design = {"n_responses": 4, "strategy": "variance_weighting"}
    design["weighting"] = kd.VarianceWeighting(**WEIGHTINGS[weighting])
    result = assert_equals_reference(make(TEACHERS[teacher], STUDENTS[student], design))
    assert ("bound" in result.attrs) == weighting.startswith("oracle")


SOURCES = ("teacher_output", "student_initialization", "student_output")


@pytest.mark.parametrize(
    "sources",
    [c for size in range(4) for c in itertools.combinations(SOURCES, size)],
    ids=lambda c: "+".join(c) or "none",
)
@pytest.mark.parametrize("student", ["ols", "gradient"])
def test_sources_against_exact(student, sources):
    design = {"n_responses": 3, "strategy": "multi_response", "sources": sources}
    result = assert_equals_reference(make(TEACHERS["fitting"], STUDENTS[student], design))
    if "student_output" not in sources:
        assert not result.intra_student.values.any()
    if "teacher_output" not in sources and (student == "ols" or "student_initialization" not in sources):
        assert not result.inter_student.values.any()


@pytest.mark.parametrize("student", ["ols", "ridge", "gradient"])
def test_multiple_outputs_against_exact(student):
    result = assert_equals_reference(make(TEACHERS["fitting"], STUDENTS[student], {"n_responses": 2}, mean=MEANS))
    assert result.estimate.sizes == {"point": M, "output": 2}
    assert (result.intra_student.values[:, 0] != result.intra_student.values[:, 1]).all()


@pytest.mark.parametrize("teacher", ["homoscedastic", "full", "fitting"])
def test_minimum_norm_against_exact(teacher):
    wide = np.hstack([X, X[:, :2] * 2.0, RNG.normal(size=(N, 1)) * 0.0 + 3.0])  # repeated columns and a constant
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(wide, MEAN, **TEACHERS[teacher]),
        student=kd.LinearStudent(minimum_norm=True),
        design=kd.Design(np.random.default_rng(5).normal(size=(M, 6))),
    )
    with pytest.raises(kd.errors.RankDeficientError, match=r"x\d"):
        kd.predict(problem.with_student(minimum_norm=False))
    inter, _ = reference(problem)
    result = kd.predict(problem)
    np.testing.assert_allclose(result.inter_student.values, inter, rtol=RTOL)
    full_rank = kd.predict(make(TEACHERS[teacher]))  # the fitted values, and so intra, are those of independent columns
    np.testing.assert_allclose(result.intra_student.values, full_rank.intra_student.values, rtol=RTOL)


# --- named results ----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 7])
def test_correlated_responses_have_a_floor(k):  # T1
    plain, shared = (
        kd.predict(make({"noise_variance": 0.7, "response_correlation": rho}, design={"n_responses": k})).inter_student
        for rho in (0.0, 0.3)
    )
    np.testing.assert_allclose(shared.values, plain.values * (1 + (k - 1) * 0.3), rtol=RTOL)


def test_lowest_response_correlation_leaves_nothing():
    for k in range(2, 40):
        problem = make({"noise_variance": 0.7, "response_correlation": -1 / (k - 1)}, design={"n_responses": k})
        inter = kd.predict(problem).inter_student.values
        assert (inter >= 0).all()
        np.testing.assert_allclose(inter, 0.0, atol=1e-15)


def test_noise_shared_across_inputs_has_a_floor():  # T2
    A = with_intercept(X, kd.LinearStudent())
    query = with_intercept(X_QUERY, kd.LinearStudent())
    leverage = np.diag(query @ np.linalg.inv(A.T @ A) @ query.T)
    result = kd.predict(make({"noise_variance": 1.5, "input_correlation": 0.4}))
    np.testing.assert_allclose(result.inter_student.values[:, 0], 1.5 * (0.6 * leverage + 0.4), rtol=RTOL)


def test_gls_beats_every_other_weighting():  # T4: Gauss-Markov, and the sandwich of wrong weights
    best = kd.predict(make({"noise_variance": FULL}, {"covariance": "teacher"}), covariance=True).covariance.values[0]
    A = with_intercept(X_QUERY, kd.LinearStudent())
    D = with_intercept(X, kd.LinearStudent())
    np.testing.assert_allclose(best, A @ np.linalg.inv(D.T @ np.linalg.inv(FULL) @ D) @ A.T, rtol=1e-9)
    for student in ({}, {"covariance": OWN}, {"weights": np.linspace(0.5, 3, N)}):
        other = kd.predict(make({"noise_variance": FULL}, student), covariance=True).covariance.values[0]
        assert np.linalg.eigvalsh(other - best)[0] > -1e-12


@pytest.mark.parametrize("k", [6, 12, 20])
def test_estimated_weights_inflate(k):  # T4
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(60, 2))
    teacher = kd.GaussianTeacher(inputs, inputs @ [1.0, 2.0], noise_variance=rng.uniform(0.5, 2, 60))
    design = kd.Design(np.eye(2), n_responses=k)
    known = kd.predict(
        kd.DistillationProblem(teacher=teacher, student=kd.LinearStudent(covariance="teacher"), design=design)
    )
    guessed = kd.predict(
        kd.DistillationProblem(teacher=teacher, student=kd.LinearStudent(weights="estimated"), design=design)
    )
    np.testing.assert_allclose(guessed.inter_student, known.inter_student * (k - 3) / (k - 5), rtol=RTOL)
    assert (known.exactness, guessed.exactness) == ("exact", "asymptotic")


def test_estimated_weights_need_more_than_five_responses():
    with pytest.raises(
        kd.errors.ProblemError, match=r"`n_responses` must be at least 6 with weights='estimated'.*got 5"
    ):
        make(student={"weights": "estimated"}, design={"n_responses": 5})


@pytest.mark.parametrize("case", ["plain", "misfit", "fitting"])
def test_estimated_weights_against_simulated_students(case):  # T4, where misfit and shared errors meet random weights
    rng = np.random.default_rng(12)
    n, k, size = 150, 9, 4000
    x = rng.normal(size=(n, 1))
    variances = rng.uniform(0.5, 2.0, n)
    mean = 2.0 * x[:, 0] + (2.0 * np.sin(3 * x[:, 0]) if case == "misfit" else 0.0)
    shared = 0.15 if case == "fitting" else 0.0
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(x, mean, noise_variance=variances, fitting_covariance=np.full((n, n), shared)),
        student=kd.LinearStudent(weights="estimated", fit_intercept=False),
        design=kd.Design([[1.0]], n_responses=k),
    )
    labels = mean + np.sqrt(variances / k) * rng.normal(size=(size, n)) + np.sqrt(shared) * rng.normal(size=(size, 1))
    weights = 1.0 / (variances * rng.chisquare(k - 1, size=(size, n)) / (k - 1))
    slopes = (weights * labels) @ x[:, 0] / (weights @ x[:, 0] ** 2)
    ratio = slopes.var(ddof=1) / kd.predict(problem).inter_student.item()
    assert abs(ratio - 1.0) < 4 * np.sqrt(2 / size) + 4 / n
    truth = 1.0 / variances
    naive = (k - 3) / (k - 5) * np.sum((truth * x[:, 0]) ** 2 * variances / k) / np.sum(truth * x[:, 0] ** 2) ** 2
    if case != "plain":  # negative control: the inflated variance of the noise alone
        assert abs(slopes.var(ddof=1) / naive - 1.0) > 0.5


def test_estimated_weights_refuse_noise_shared_across_inputs():
    teacher = {"noise_variance": 0.7, "input_correlation": 0.3}
    with pytest.raises(kd.errors.UnsupportedProblemError, match="uncorrelated across inputs; use engine='monte_carlo'"):
        kd.predict(make(teacher, {"weights": "estimated"}, {"n_responses": 8}))


def test_chain_against_eigenvalues():  # T12
    ridge = make(student={"penalty": 2.0, "fit_intercept": False}).with_design(X_query=X)
    hat = X @ np.linalg.inv(X.T @ X + 2.0 * np.eye(P)) @ X.T
    values, vectors = np.linalg.eigh(hat)
    for t in (1, 2, 5):
        shares = 0.7 * values**2 * (1 - values ** (2 * t)) / (1 - values**2)
        result = kd.predict(ridge.with_design(n_generations=t))
        np.testing.assert_allclose(result.inter_student.values[:, 0], vectors**2 @ shares, rtol=RTOL)
        ols = kd.predict(ridge.with_student(penalty=0.0).with_design(n_generations=t))
        np.testing.assert_allclose(ols.inter_student.values.mean(), t * 0.7 * P / N, rtol=RTOL)


@pytest.mark.parametrize("k", [2, 4, 9])
def test_averaging_suppresses_intra_and_rows_do_not(k):
    ones = {"residual_variance": "unbiased"}
    linear_mean = X @ [1.0, -2.0, 0.5]
    rows, averaged, single = (
        kd.predict(make({"noise_variance": 1.5}, ones, design, mean=linear_mean))
        for design in ({"n_responses": k, "strategy": "multi_response"}, {"n_responses": k}, {})
    )
    np.testing.assert_allclose(averaged.intra_student.values, 1.5 / k, rtol=RTOL)
    np.testing.assert_allclose(rows.intra_student.values, 1.5, rtol=RTOL)
    np.testing.assert_allclose(rows.inter_student.values, single.inter_student.values / k, rtol=RTOL)
    np.testing.assert_allclose(averaged.inter_student.values, rows.inter_student.values, rtol=RTOL)


def test_distillation_moves_variance_and_keeps_it():
    problem = make({"noise_variance": 1.5}, {"residual_variance": "mle"}, mean=X @ [1.0, -2.0, 0.5])
    result = kd.predict(problem.with_design(X_query=None))
    np.testing.assert_allclose(result.total.values.mean(), 1.5, rtol=RTOL)
    ridge = kd.predict(problem.with_design(X_query=None).with_student(penalty=3.0))  # negative control: no projection
    assert abs(ridge.total.values.mean() / 1.5 - 1) > 0.05


@pytest.mark.parametrize(("k", "gain"), [(3, 0.491), (10, 0.317), (400, 0.252)])
def test_published_weighting_gain(k, gain):
    density = scipy.stats.chi2(k - 1).pdf
    low, high = max(0.0, k - 1 - 14 * np.sqrt(2 * k)), k - 1 + 40 * np.sqrt(2 * k)
    expected, _ = scipy.integrate.quad(
        lambda v: density(v) / (1 + v / k) ** 2, low, high, epsabs=1e-14, epsrel=1e-13, limit=400
    )
    weighting = kd.VarianceWeighting(student_estimate="teacher_mean", weight="estimated")
    oracle = make(design={"n_responses": k, "strategy": "variance_weighting", "weighting": weighting})
    ratio = kd.predict(oracle).inter_student / kd.predict(make(design={"n_responses": k})).inter_student
    np.testing.assert_allclose(ratio.values, expected, rtol=1e-9)
    assert abs(expected - gain) < 6e-4
    assert "oracle" in kd.predict(oracle).attrs["bound"]


def regression_rows(n, seed, *, misfit, noise):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 2))
    mean = inputs @ [1.0, 2.0] + misfit * inputs[:, 0] ** 2
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(inputs, mean, noise_variance=noise),
        student=kd.LinearStudent(fit_intercept=False),
        design=kd.Design(np.eye(2), resample_size=n),
    )


@pytest.mark.parametrize("size", [60, 100, 400])
def test_resampled_rows_against_theory(size):  # T10
    fixed = regression_rows(100, 1, misfit=0.5, noise=0.0).with_design(resample_size=size)
    inputs, mean = fixed.teacher.X, fixed.teacher.mean
    Q = np.linalg.inv(inputs.T @ inputs / 100)
    residual = mean - inputs @ np.linalg.lstsq(inputs, mean, rcond=None)[0]
    V = (inputs.T * residual**2) @ inputs / 100
    np.testing.assert_allclose(kd.predict(fixed).inter_student.values[:, 0], np.diag(Q @ V @ Q) / size, rtol=RTOL)
    redrawn = regression_rows(100, 1, misfit=0.0, noise=0.8).with_design(resample_size=size)
    first_order = 0.8 * (1 / size + 1 / 100) * np.diag(Q)
    result = kd.predict(redrawn)
    np.testing.assert_allclose(result.inter_student.values[:, 0], first_order, rtol=3 * 2 / 100)  # residuals: order P/n
    assert result.exactness == "asymptotic"
    off = redrawn.with_design(resample_size=None, sources=("teacher_output",))
    np.testing.assert_allclose(kd.predict(off).inter_student.values[:, 0], 0.8 * np.diag(Q) / 100, rtol=RTOL)


def test_resampled_rows_warn_outside_the_regime():
    with pytest.warns(kd.errors.ApproximationWarning, match="first order"):
        kd.predict(regression_rows(100, 1, misfit=0.5, noise=0.1).with_design(resample_size=19))


@pytest.mark.parametrize(
    ("gamma", "penalty", "expected"),
    [(0.5, 0, 1.0), (0.2, 0, 0.25), (2.0, 0, 1.0), (3.0, 0, 0.5), (1.0, 1.0, None), (2.0, 0.3, None)],
)
def test_high_dimensional_limits(gamma, penalty, expected):  # T11
    value = high_dimensional_variance(gamma, noise_variance=1.0, penalty=penalty)
    if expected is not None:
        assert value == pytest.approx(expected, rel=1e-14)
    else:  # gamma * integral of s/(s + penalty)^2 over the Marchenko-Pastur law
        low, high = (1 - np.sqrt(gamma)) ** 2, (1 + np.sqrt(gamma)) ** 2
        middle, half = (low + high) / 2, (high - low) / 2

        def integrand(angle):
            s = middle + half * np.cos(angle)
            return s / (s + penalty) ** 2 * (half * np.sin(angle)) ** 2 / (2 * np.pi * gamma * s)

        assert value == pytest.approx(gamma * scipy.integrate.quad(integrand, 0, np.pi, epsrel=1e-12)[0], rel=1e-9)
    assert high_dimensional_variance(gamma, noise_variance=2.0, penalty=penalty, n_responses=4) == pytest.approx(
        value / 2
    )


def test_high_dimensional_ridge_tends_to_ridgeless():
    for gamma in (0.4, 2.5):
        limit = high_dimensional_variance(gamma)
        assert high_dimensional_variance(gamma, penalty=1e-9) == pytest.approx(limit, rel=1e-7)
    with pytest.raises(kd.errors.ProblemError, match="`aspect_ratio` must differ from 1"):
        high_dimensional_variance(1.0)


def test_high_dimensional_limit_against_closed_form():
    rng = np.random.default_rng(4)
    n, p = 400, 200
    inputs = rng.normal(size=(n, p))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(inputs, np.zeros(n)),
        student=kd.LinearStudent(fit_intercept=False, penalty=0.5 * n),
        design=kd.Design(rng.normal(size=(400, p)), sources=("teacher_output",)),
    )
    inter = kd.predict(problem).inter_student.values
    standard_error = inter.std(ddof=1) / np.sqrt(inter.size)
    assert abs(inter.mean() - high_dimensional_variance(p / n, penalty=0.5)) < 4 * standard_error + 2 / n


def test_new_inputs_beat_repeated_responses():  # T9
    variances = [fixed_budget_variance(240, n_features=4, n_responses=k, noise_variance=2.0) for k in (1, 2, 4, 8)]
    np.testing.assert_allclose(variances, [2.0 * 4 / (240 - 5 * k) for k in (1, 2, 4, 8)], rtol=1e-14)
    assert variances == sorted(variances)
    with pytest.raises(kd.errors.ProblemError, match="`n_total` must be a multiple"):
        fixed_budget_variance(241, n_features=4, n_responses=2)
    with pytest.raises(kd.errors.ProblemError, match="`n_total` must be more than"):
        fixed_budget_variance(240, n_features=29, n_responses=8)


def test_optimal_responses_against_enumeration():
    plan = optimal_responses(noise_variance=4.0, misfit_variance=0.5, input_cost=3.0, response_cost=1.0)
    assert plan.continuous == pytest.approx(np.sqrt(4.0 * 3.0 / 0.5))
    cost = {k: (0.5 + 4.0 / k) * (3.0 + k) for k in range(1, 50)}
    assert plan.n_responses == min(cost, key=cost.get)


def test_fixed_budget_variance_against_gaussian_designs():
    rng = np.random.default_rng(6)
    n, p, k = 24, 3, 2
    estimates = []
    for _ in range(4000):
        inputs = rng.normal(size=(n, p))
        estimates.append(np.trace(np.linalg.inv(inputs.T @ inputs)) / k)
    theory = fixed_budget_variance(n * k, n_features=p, n_responses=k)
    assert abs(np.mean(estimates) - theory) < 4 * np.std(estimates) / np.sqrt(len(estimates))


# --- catalog, grids, covariance -----------------------------------------------------------------------


def test_catalog_truths():
    catalog = kd.catalog
    result = kd.predict(catalog.intercept_only(noise_variance=3.0, n_inputs=7, n_responses=2))
    np.testing.assert_allclose([result.inter_student.item(), result.intra_student.item()], [3 / 14, 3 / 2], rtol=1e-13)
    result = kd.predict(catalog.two_groups(variances=(1.0, 9.0), n_per_group=4))
    np.testing.assert_allclose(
        result.inter_student.sel(point=["first", "second"]).values[:, 0], [1 / 4, 9 / 4], rtol=1e-13
    )
    np.testing.assert_allclose(result.intra_student.values, 5.0, rtol=1e-13)
    result = kd.predict(catalog.correlated_responses(correlation=0.2, n_responses=5, noise_variance=2.0, n_inputs=6))
    np.testing.assert_allclose(result.inter_student.item(), 2.0 * (1 + 4 * 0.2) / 30, rtol=1e-13)
    result = kd.predict(catalog.shared_noise(correlation=0.5, noise_variance=2.0, n_inputs=12))
    np.testing.assert_allclose(result.inter_student[0].item(), 2.0 * (0.5 / 12 + 0.5), rtol=1e-13)
    result = kd.predict(catalog.orthogonal_ridge(penalty=2.0, noise_variance=1.5, n_inputs=8))
    np.testing.assert_allclose(result.inter_student.item(), 1.5 * (1 / 8 + 8 / 100), rtol=1e-13)
    result = kd.predict(catalog.gradient_descent_line(n_steps=3, learning_rate=0.1, initialization_sd=0.5))
    a = (1 - 0.2) ** 3
    np.testing.assert_allclose(result.inter_student.item(), 0.25 * a**2 + (1 - a) ** 2 / 8, rtol=1e-13)
    result = kd.predict(catalog.linear_bootstrap())
    assert result.total.values.max() < 1e-28  # squares of the rounding of labels of order 1
    assert set(catalog.__all__) == {
        "intercept_only",
        "two_groups",
        "correlated_responses",
        "shared_noise",
        "orthogonal_ridge",
        "gradient_descent_line",
        "linear_bootstrap",
    }  # a new problem needs its truth here


GRIDS = {
    "ols": ({}, {}, {}),
    "ridge_misfit": ({}, {"penalty": 1.0}, {}),
    "floor": ({"response_correlation": 0.3, "input_correlation": 0.2, "fitting_covariance": FITTING}, {}, {}),
    "gradient": ({}, {"training": STEPS}, {}),
    "rows": ({}, {"penalty": 1.0}, {"strategy": "multi_response"}),
    "pilot": ({}, {}, {"strategy": "variance_weighting", "n_responses": 2}),
    "teacher_weights": ({"input_correlation": 0.2}, {"covariance": "teacher"}, {}),
    "outputs_off": ({}, {}, {"sources": ("teacher_output",)}),
    "chain": ({}, {"penalty": 1.0}, {"n_generations": 2}),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grid_against_cells(name):
    teacher, student, design = GRIDS[name]
    problem = make({"noise_variance": 1.0} | teacher, student, design)
    levels, counts = [0.01, 0.5, 4.0], [2, 3, 10]
    grid = kd.predict_grid(problem, noise_variance=levels, n_responses=counts)
    assert grid.total.dims == ("noise_variance", "n_responses", "point", "output")
    strategy = design.get("strategy", "averaging")
    for level, k in itertools.product(levels, counts):
        cell = kd.predict(problem.with_design(n_responses=k, strategy=strategy).with_teacher(noise_variance=level))
        for component in ("inter_student", "intra_student", "total"):
            picked = grid.estimate[component].sel(noise_variance=level, n_responses=k)
            np.testing.assert_allclose(picked.values, cell.estimate[component].values, rtol=RTOL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_variance": [-1.0], "n_responses": [1]}, "`noise_variance` must be at least 0; got -1"),
        ({"noise_variance": [], "n_responses": [1]}, "`noise_variance` must not be empty"),
        ({"noise_variance": 1.0, "n_responses": [1]}, "`noise_variance` must have 1 dimension"),
        ({"noise_variance": [1.0], "n_responses": []}, "`n_responses` must not be empty"),
        ({"noise_variance": [1.0], "n_responses": 3}, "`n_responses` must be a sequence of counts; got 3"),
        ({"noise_variance": [1.0], "n_responses": [1.5]}, "`n_responses` must be an integer.*got 1.5"),
        ({"noise_variance": [1.0], "n_responses": [0]}, "`n_responses` must be at least 1; got 0"),
        ({"noise_variance": [np.nan], "n_responses": [1]}, "`noise_variance` must be finite everywhere"),
    ],
)
def test_grid_refuses(arguments, message):
    with pytest.raises(kd.errors.ProblemError, match=message):
        kd.predict_grid(make(), **arguments)


def test_grid_refuses_what_it_cannot_vary():
    with pytest.raises(kd.errors.ProblemError, match="scalar noise_variance"):
        kd.predict_grid(make({"noise_variance": FULL}), noise_variance=[1.0], n_responses=[1])
    with pytest.raises(kd.errors.ProblemError, match="`response_correlation` must be within"):
        kd.predict_grid(make({"response_correlation": -0.3}), noise_variance=[1.0], n_responses=[2, 9])
    network = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, MEAN), student=kd.NetworkStudent(), design=kd.Design()
    )
    with pytest.raises(kd.errors.UnsupportedProblemError, match="NetworkStudent"):
        kd.predict_grid(network, noise_variance=[1.0], n_responses=[1])


@pytest.mark.parametrize("student", STUDENTS)
def test_covariance_and_effective_rank(student):
    problem = make(TEACHERS["full"], STUDENTS[student], {"point_labels": list("abcd")}, mean=MEANS)
    result = kd.predict(problem, covariance=True)
    D, V = with_intercept(X, problem.student), working_covariance(problem)
    F, G = student_maps(D, V, problem.student)
    query = with_intercept(X_QUERY, problem.student)
    initial = 0.36 if "gradient" in student else 0.0
    C = query @ (F @ FULL @ F.T + initial * G @ G.T) @ query.T
    assert result.covariance.dims == ("output", "point", "point_other")
    assert list(result.covariance.point.values) == list(result.covariance.point_other.values) == list("abcd")
    for output in range(2):
        np.testing.assert_allclose(result.covariance.values[output], C, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            np.diag(result.covariance.values[output]), result.inter_student.values[:, output], rtol=1e-12
        )
    rank = (2 * np.trace(C)) ** 2 / (2 * np.trace(C @ C))
    assert result.attrs["effective_rank"] == pytest.approx(rank, rel=1e-9)
    assert kd.predict(problem).covariance is None


def test_mean_prediction_against_exact():
    problem = make(student={"penalty": 1.0}, design={"n_generations": 2}, mean=MEANS)
    D = with_intercept(X, problem.student)
    F, _ = student_maps(D, np.eye(N), problem.student)
    expected = with_intercept(X_QUERY, problem.student) @ F @ D @ F @ MEANS
    np.testing.assert_allclose(closed_form(problem).mean, expected, rtol=RTOL)


# --- refusals -----------------------------------------------------------------------------------------


def test_fewer_rows_than_coefficients():
    few = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X[:3], MEAN[:3]), student=kd.LinearStudent(), design=kd.Design(X_QUERY)
    )
    with pytest.raises(kd.errors.RankDeficientError, match=r"at least as many rows.*got 3 rows for 4 coefficients"):
        kd.predict(few)
    assert np.isfinite(kd.predict(few.with_student(penalty=1.0)).total.values).all()
    smallest = few.with_student(minimum_norm=True).with_design(sources=("teacher_output",))
    np.testing.assert_allclose(kd.predict(smallest).inter_student.values, reference(smallest)[0], rtol=RTOL)


def test_no_residual_degrees_of_freedom():
    square = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X[:4], MEAN[:4]), student=kd.LinearStudent(), design=kd.Design(X_QUERY)
    )
    with pytest.raises(kd.errors.PredictionError, match="got 0 residual degrees of freedom from 4 rows"):
        kd.predict(square)
    rows = kd.predict(square.with_design(n_responses=3, strategy="multi_response"))
    np.testing.assert_allclose(rows.intra_student.values, 1.0, rtol=RTOL)  # 2 of 3 rows per input are left
    assert np.isfinite(kd.predict(square.with_design(sources=("teacher_output",))).total.values).all()


def test_diverging_steps_are_refused():
    with pytest.raises(kd.errors.ProblemError, match="`learning_rate` must be less than"):
        kd.predict(make(student={"training": kd.GradientDescent(n_steps=3, learning_rate=5.0)}))


def test_network_students_are_refused():
    network = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, MEAN), student=kd.NetworkStudent(), design=kd.Design()
    )
    for ask in (
        lambda: kd.predict(network, engine="closed_form"),
        lambda: kd.mse_distribution(network, MEAN),
    ):
        with pytest.raises(kd.errors.UnsupportedProblemError, match="NetworkStudent"):
            ask()


def test_no_warning_on_plain_problems():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kd.predict(make({"noise_variance": 0.0}))


def test_extreme_scales_of_inputs():
    base = kd.predict(make()).inter_student.values
    for scale in (1e-200, 1e-30, 1e30, 1e200):
        scaled = kd.DistillationProblem(
            teacher=kd.GaussianTeacher(X * scale, MEAN, noise_variance=0.7),
            student=kd.LinearStudent(),
            design=kd.Design(X_QUERY * scale),
        )
        np.testing.assert_allclose(kd.predict(scaled).inter_student.values, base, rtol=RTOL)


@pytest.mark.parametrize("ratio", [1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("full", [False, True])
def test_small_variances_beside_large_ones(ratio, full):
    groups, variances = np.repeat([0.0, 1.0], 6)[:, None], np.repeat([ratio, 1.0], 6)
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(groups, np.zeros(12), noise_variance=np.diag(variances) if full else variances),
        student=kd.LinearStudent(),
        design=kd.Design([[0.0], [1.0]]),
    )
    inter = kd.predict(problem).inter_student.values[:, 0]
    # the group means, to rounding of the larger standard deviation
    np.testing.assert_allclose(np.sqrt(inter), np.sqrt([ratio / 6, 1 / 6]), rtol=0, atol=4e-16)
