"""Monte Carlo against variances worked out here from explicit matrices over all responses, and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

import kdstats as kd
from kdstats.prediction.monte_carlo import predict
from kdstats.prediction.monte_carlo.quantiles import has_table
from kdstats.sampling import as_noise_law

N, M, SEED = 14, 5, 20
#: Level of the whole file's comparisons at one point each, and the z that it takes for about a thousand of them.
Z = float(-ndtri(1e-3 / (2 * 1000)))

_rng = np.random.default_rng(7)
X = _rng.standard_normal((N, 3)) * [1.0, 2.0, 0.5] + [0.0, 3.0, 0.0]
QUERY = _rng.standard_normal((M, 3)) * 1.5
MEAN = X @ [1.0, -0.5, 2.0] + 0.3 * _rng.standard_normal(N)
TWO_MEANS = np.column_stack([MEAN, np.sin(MEAN)])
PER_INPUT = _rng.uniform(0.2, 2.0, N)
_root = _rng.standard_normal((N, N)) / 4
FULL = _root @ _root.T + 0.3 * np.eye(N)
FITTING = np.outer(X[:, 0], X[:, 0]) * 0.05
STEPS = kd.GradientDescent(n_steps=25, learning_rate=0.02, initialization_sd=0.7)


def make(*, mean=MEAN, student=None, **options):
    teacher = {key: options.pop(key) for key in TEACHER if key in options}
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, **teacher),
        student=student or kd.LinearStudent(),
        design=kd.Design(QUERY, **options),
    )


TEACHER = ("noise_variance", "response_correlation", "input_correlation", "fitting_covariance")


def row_map(rows, weights, penalty, student):
    """Coefficients as a matrix acting on rows, and as one acting on initial coefficients, from normal equations."""
    width = rows.shape[1]
    mask = np.eye(width)
    mask[0, 0] = 0.0 if student.fit_intercept else 1.0
    curvature, pull = rows.T @ weights @ rows + penalty * mask, rows.T @ weights
    if student.training is None:
        return np.linalg.solve(curvature, pull), np.zeros((width, width))
    labels, start = np.zeros((width, len(rows))), np.eye(width)
    step = 2 * student.training.learning_rate / len(rows)
    for _ in range(student.training.n_steps):
        labels = labels - step * (curvature @ labels - pull)
        start = start - step * curvature @ start
    return labels, start


def theory(problem):
    """Inter (m,) and intra of a linear problem, from the covariance of all kn responses."""
    teacher, design, student = problem.teacher, problem.design, problem.student
    n, k = N, design.n_responses
    on = "teacher_output" in design.sources
    between = np.full((k, k), teacher.response_correlation)
    np.fill_diagonal(between, 1.0)
    noise = np.kron(between, teacher.covariance) * on
    fitting = np.zeros((n, n)) if teacher.fitting_covariance is None else teacher.fitting_covariance
    responses = noise + np.kron(np.ones((k, k)), fitting) * on
    s0 = student.training.initialization_sd**2 if student.training is not None else 0.0
    s0 *= "student_initialization" in design.sources
    inputs = np.column_stack([np.ones(n), X]) if student.fit_intercept else X
    query = np.column_stack([np.ones(M), QUERY]) if student.fit_intercept else QUERY
    working = np.eye(n)
    if student.covariance is not None:
        working = teacher.covariance if isinstance(student.covariance, str) else student.covariance
    if student.weights is not None:
        working = np.diag(1 / student.weights)
    copies = k if design.strategy == "multi_response" else 1
    rows, weights = np.tile(inputs, (copies, 1)), np.kron(np.eye(copies), np.linalg.inv(working))
    gather = np.eye(n * k) if copies == k else np.kron(np.full((1, k), 1 / k), np.eye(n))
    labels_map, start_map = row_map(rows, weights, student.penalty, student)
    mean, covariance = np.tile(teacher.mean_by_output[:, 0], copies), gather @ responses @ gather.T
    if design.weighting is not None:
        mean, covariance = mixture(design.weighting, k, responses, labels_map, start_map, inputs, s0, teacher)
    for _ in range(design.n_generations - 1):
        coefficients = labels_map @ covariance @ labels_map.T + s0 * start_map @ start_map.T
        mean = rows @ labels_map @ mean
        covariance = rows @ coefficients @ rows.T + gather @ noise @ gather.T
    coefficients = labels_map @ covariance @ labels_map.T + s0 * start_map @ start_map.T
    inter = np.diag(query @ coefficients @ query.T)
    hat = rows @ labels_map
    maker = np.eye(len(rows)) - hat
    second = np.outer(maker @ mean, maker @ mean) + maker @ covariance @ maker.T
    second += s0 * rows @ start_map @ start_map.T @ rows.T
    root = np.linalg.cholesky(weights)
    symmetric = root.T @ hat @ np.linalg.inv(root.T)
    df = len(rows) - np.trace(2 * symmetric - symmetric @ symmetric.T)
    divisor = df if student.residual_variance == "unbiased" else len(rows)
    intra = np.trace(weights @ second) / divisor * np.diag(working).mean()
    return inter, intra * ("student_output" in design.sources)


def mixture(weighting, k, responses, labels_map, start_map, inputs, s0, teacher):
    alpha = np.broadcast_to(weighting.weight, (N,))
    mean = teacher.mean_by_output[:, 0]
    if weighting.uses_pilot:
        first = k // 2
        hat = inputs @ labels_map
        early = np.hstack([np.eye(N) / first] * first + [np.zeros((N, N))] * (k - first))
        late = np.hstack([np.zeros((N, N))] * first + [np.eye(N) / (k - first)] * (k - first))
        gather = np.diag(alpha) @ late + np.diag(1 - alpha) @ hat @ early
        start = np.diag(1 - alpha) @ inputs @ start_map
        return gather @ np.tile(mean, k), gather @ responses @ gather.T + s0 * start @ start.T
    gather = np.diag(alpha) @ np.kron(np.full((1, k), 1 / k), np.eye(N))
    covariance = gather @ responses @ gather.T
    if weighting.is_oracle:
        return mean, covariance
    own = weighting.student_variance * np.eye(N) if weighting.student_variance.ndim < 2 else weighting.student_variance
    return alpha * mean + (1 - alpha) * weighting.student_estimate, covariance + np.outer(1 - alpha, 1 - alpha) * own


Weighting = kd.VarianceWeighting
LINEAR = {
    "single": make(),
    "per input": make(noise_variance=PER_INPUT),
    "full covariance": make(noise_variance=FULL),
    "shared noise": make(input_correlation=0.4, noise_variance=PER_INPUT),
    "averaging": make(n_responses=4),
    "averaging rho": make(n_responses=4, response_correlation=0.3),
    "averaging negative rho": make(n_responses=4, response_correlation=-0.3),
    "averaging rho 1": make(n_responses=4, response_correlation=1.0),
    "fitting error": make(n_responses=3, fitting_covariance=FITTING),
    "multi response": make(n_responses=3, strategy="multi_response", response_correlation=0.2),
    "multi response, per input": make(n_responses=3, strategy="multi_response", noise_variance=PER_INPUT),
    "multi response, full": make(n_responses=3, strategy="multi_response", noise_variance=FULL),
    "multi response, ridge": make(n_responses=3, strategy="multi_response", student=kd.LinearStudent(penalty=2.0)),
    "multi response, generalised": make(
        n_responses=2, strategy="multi_response", noise_variance=FULL, student=kd.LinearStudent(covariance="teacher")
    ),
    "multi response, steps": make(n_responses=2, strategy="multi_response", student=kd.LinearStudent(training=STEPS)),
    "ridge": make(student=kd.LinearStudent(penalty=3.0)),
    "no intercept, mle": make(student=kd.LinearStudent(fit_intercept=False, residual_variance="mle")),
    "weights": make(noise_variance=PER_INPUT, student=kd.LinearStudent(weights=PER_INPUT**0.3)),
    "generalised": make(noise_variance=FULL, student=kd.LinearStudent(covariance="teacher")),
    "wrong covariance": make(noise_variance=PER_INPUT, student=kd.LinearStudent(covariance=FULL)),
    "steps": make(student=kd.LinearStudent(training=STEPS)),
    "steps, penalty": make(n_responses=2, student=kd.LinearStudent(training=STEPS, penalty=1.5)),
    "initialization only": make(
        sources=["student_initialization", "student_output"], student=kd.LinearStudent(training=STEPS)
    ),
    "teacher only": make(sources=["teacher_output"]),
    "chain": make(n_generations=3, student=kd.LinearStudent(penalty=2.0)),
    "chain, steps": make(n_generations=3, student=kd.LinearStudent(training=STEPS), fitting_covariance=FITTING),
    "chain, generalised": make(n_generations=2, noise_variance=FULL, student=kd.LinearStudent(covariance="teacher")),
    "pilot": make(n_responses=5, strategy="variance_weighting", weighting=Weighting(weight=0.35)),
    "pilot rho steps": make(
        n_responses=4,
        strategy="variance_weighting",
        weighting=Weighting(weight=0.6),
        response_correlation=0.25,
        student=kd.LinearStudent(training=STEPS),
    ),
    "given estimate": make(
        n_responses=2,
        strategy="variance_weighting",
        weighting=Weighting(student_estimate=MEAN + 0.5, student_variance=0.3, weight=0.7),
    ),
    "oracle": make(
        n_responses=2, strategy="variance_weighting", weighting=Weighting(student_estimate="teacher_mean", weight=0.4)
    ),
}
LAWS = ("gaussian", "laplace", "student_t:10", "gamma:2")
FAST = ("single", "multi response", "generalised", "chain, steps", "averaging negative rho")


def largest_z(answer, inter, intra):
    """Largest distance in standard errors over points and components (a component that is known must be equal)."""
    found = []
    for name, truth in (("inter_student", inter), ("intra_student", intra), ("total", inter + intra)):
        gap = np.abs(answer.estimate[name].values[:, 0] - truth)
        error = answer.standard_error[name].values[:, 0]
        known = error <= 1e-9 * np.abs(truth)
        np.testing.assert_allclose(gap[known], 0.0, atol=1e-9 * (1.0 + np.abs(truth).max()))
        found.append((gap[~known] / error[~known]).max(initial=0.0))
    return max(found)


@pytest.mark.parametrize("name", LINEAR)
def test_components_of_linear_students(name):
    problem = LINEAR[name]
    inter, intra = theory(problem)
    for law in LAWS if name in FAST else ("gaussian", "gamma:2"):
        answer = predict(problem, n_students=20_000, rng=SEED, noise_law=law)
        assert largest_z(answer, inter, intra) < Z, law
        assert largest_z(answer, 1.1 * inter, intra) > Z, law  # a theory 10% off is caught


@pytest.mark.parametrize("name", ["single", "averaging rho", "multi response", "steps", "chain", "full covariance"])
def test_general_path_draws_the_same_law(name):
    def standard_normal(generator, size):
        return generator.standard_normal(size)

    answer = predict(LINEAR[name], n_students=20_000, rng=SEED, noise_law=standard_normal)
    assert answer.attrs["path"] == "general"
    assert largest_z(answer, *theory(LINEAR[name])) < Z


def test_outputs_have_the_law_of_one_output_each():
    problem = make(mean=TWO_MEANS, noise_variance=PER_INPUT, student=kd.LinearStudent(penalty=1.0))
    answer = predict(problem, n_students=20_000, rng=SEED, noise_law="laplace")
    for output in range(2):
        one = make(mean=TWO_MEANS[:, output], noise_variance=PER_INPUT, student=kd.LinearStudent(penalty=1.0))
        inter, intra = theory(one)
        z = (answer.inter_student.values[:, output] - inter) / answer.standard_error["inter_student"].values[:, output]
        assert np.abs(z).max() < Z
        z = (answer.intra_student.values[:, output] - intra) / answer.standard_error["intra_student"].values[:, output]
        assert np.abs(z).max() < Z


def test_covariance_between_points_and_effective_rank():
    problem = make(noise_variance=FULL, student=kd.LinearStudent(penalty=1.0))
    answer = predict(problem, n_students=40_000, rng=SEED, covariance=True)
    inputs, query = np.column_stack([np.ones(N), X]), np.column_stack([np.ones(M), QUERY])
    gain = query @ np.linalg.solve(inputs.T @ inputs + np.diag([0.0, 1, 1, 1]), inputs.T)
    truth = gain @ FULL @ gain.T
    error = np.sqrt((truth**2 + np.outer(np.diag(truth), np.diag(truth))) / 40_000)
    assert (np.abs(answer.covariance.values[0] - truth) / error).max() < Z
    np.testing.assert_allclose(np.diag(answer.covariance.values[0]), answer.inter_student.values[:, 0], rtol=1e-10)
    rank = np.trace(truth) ** 2 / np.sum(truth**2)
    assert answer.attrs["effective_rank"] == pytest.approx(rank, rel=0.03)


def brute_force(problem, n_students, seed):
    """Predictions (S, m) and own variances (S,) of students fitted one by one by lstsq."""
    rng = np.random.default_rng(seed)
    teacher, design, student = problem.teacher, problem.design, problem.student
    k, m = design.n_responses, problem.resample_size or N
    inputs, query = np.column_stack([np.ones(N), X]), np.column_stack([np.ones(M), QUERY])
    predictions, variances = np.empty((n_students, M)), np.empty(n_students)
    for s in range(n_students):
        responses = MEAN + rng.standard_normal((k, N)) * np.sqrt(teacher.variances)
        weights, scale = np.ones(N), 1.0
        if student.weights_are_estimated:
            weights, scale = 1 / responses.var(axis=0, ddof=1), responses.var(axis=0, ddof=1).mean()
        rows = np.arange(N) if problem.resample_size is None else rng.integers(N, size=m)
        root = np.sqrt(weights[rows])
        stacked, labels = root[:, None] * inputs[rows], root * responses.mean(axis=0)[rows]
        if student.penalty:
            stacked = np.vstack([stacked, np.sqrt(student.penalty) * np.eye(4)[1:]])
            labels = np.concatenate([labels, np.zeros(3)])
        coefficients = np.linalg.lstsq(stacked, labels, rcond=None)[0]
        predictions[s] = query @ coefficients
        residuals = root * (responses.mean(axis=0)[rows] - inputs[rows] @ coefficients)
        variances[s] = scale * residuals @ residuals / m
    return predictions, variances


OWN = {
    "resampled": make(resample_size=60, noise_variance=0.5, student=kd.LinearStudent(residual_variance="mle")),
    "resampled ridge": make(resample_size=10, student=kd.LinearStudent(penalty=2.0, residual_variance="mle")),
    "estimated weights": make(
        n_responses=9,
        noise_variance=PER_INPUT,
        student=kd.LinearStudent(weights="estimated", residual_variance="mle"),
    ),
    "both": make(
        n_responses=9,
        resample_size=60,
        noise_variance=PER_INPUT,
        student=kd.LinearStudent(weights="estimated", residual_variance="mle"),
    ),
}


@pytest.mark.parametrize("name", OWN)
def test_students_with_rows_or_weights_of_their_own_against_brute_force(name):
    problem, n_brute = OWN[name], 6000
    predictions, variances = brute_force(problem, n_brute, 3)
    square = (predictions - predictions.mean(axis=0)) ** 2
    inter, inter_se = square.sum(axis=0) / (n_brute - 1), square.std(axis=0) / np.sqrt(n_brute)
    for wish in (None, False):
        answer = predict(problem, n_students=20_000, rng=SEED, control_variate=wish)
        both = np.hypot(inter_se, answer.standard_error["inter_student"].values[:, 0])
        assert (np.abs(answer.inter_student.values[:, 0] - inter) / both).max() < Z
        assert (np.abs(answer.inter_student.values[:, 0] - 1.25 * inter) / both).max() > Z
        both = np.hypot(variances.std() / np.sqrt(n_brute), answer.standard_error["intra_student"].values[0, 0])
        assert abs(answer.intra_student.values[0, 0] - variances.mean()) / both < Z
    assert not answer.attrs["control_variate"]["used"]


def test_resampled_gradient_students_against_explicit_steps():
    steps = kd.GradientDescent(n_steps=30, learning_rate=0.01, initialization_sd=0.5)
    problem = make(resample_size=20, student=kd.LinearStudent(training=steps, penalty=0.5, residual_variance="mle"))
    rng, n_brute = np.random.default_rng(5), 4000
    inputs, query = np.column_stack([np.ones(N), X]), np.column_stack([np.ones(M), QUERY])
    predictions = np.empty((n_brute, M))
    for s in range(n_brute):
        rows = rng.integers(N, size=20)
        labels = (MEAN + rng.standard_normal(N))[rows]
        w = 0.5 * rng.standard_normal(4)
        for _ in range(30):
            gradient = inputs[rows].T @ (inputs[rows] @ w - labels) + 0.5 * np.array([0, 1, 1, 1]) * w
            w = w - 2 * 0.01 / 20 * gradient
        predictions[s] = query @ w
    answer = predict(problem, n_students=10_000, rng=SEED)
    square = (predictions - predictions.mean(axis=0)) ** 2
    both = np.hypot(square.std(axis=0) / np.sqrt(n_brute), answer.standard_error["inter_student"].values[:, 0])
    assert (np.abs(answer.inter_student.values[:, 0] - predictions.var(axis=0, ddof=1)) / both).max() < Z


def test_resampling_alone_of_exactly_linear_labels_gives_no_variance():
    exact = kd.GaussianTeacher(X, X @ [1.0, -0.5, 2.0], noise_variance=0.0)
    problem = kd.DistillationProblem(
        teacher=exact, student=kd.LinearStudent(), design=kd.Design(QUERY, resample_size=40)
    )
    answer = predict(problem, n_students=600, rng=1)
    assert answer.inter_student.max() < 1e-24


@pytest.mark.parametrize(
    ("problem", "law"),
    [
        (kd.catalog.intercept_only(n_inputs=3), "gaussian"),
        pytest.param(kd.catalog.intercept_only(n_inputs=3), "laplace", marks=pytest.mark.slow),
        (make(), "gamma:0.5"),
        (OWN["resampled"], "gaussian"),
    ],
    ids=["gaussian", "laplace", "gamma", "control"],
)
def test_standard_errors_match_the_spread_over_replicated_runs(problem, law):
    # The Gaussian formula is off by a third of the variance for the mean of three Laplace draws; the spread over n runs
    # is known to sqrt(2/n), so 800 runs put the control at z = 6.7, well beyond the 4 that it must exceed.
    n_runs, n_students = 800, 1500
    runs = [predict(problem, n_students=n_students, rng=1000 + run, noise_law=law) for run in range(n_runs)]

    def values(select):
        return np.array([select(run) for run in runs])

    pairs = [
        (
            lambda run, name=name: run.estimate[name].values[0, 0],
            lambda run, name=name: run.standard_error[name].values[0, 0],
        )
        for name in ("inter_student", "intra_student", "total")
    ]
    pairs += [
        (
            lambda run, name=name: float(run.estimate[name].mean()),
            lambda run, name=name: run.attrs["average_standard_error"][name],
        )
        for name in ("inter_student", "intra_student", "total")
    ]
    for estimate, error in pairs:
        assert _squared_error_z(values(estimate), values(error) ** 2) < 4.0
    gaussian = 2 * values(pairs[0][0]) ** 2 / (n_students - 1)
    if law != "gaussian":  # the formula for Gaussian students is wrong here, and is caught
        assert _squared_error_z(values(pairs[0][0]), gaussian) > 4.0


def _squared_error_z(estimates, squared_errors):
    """Distance between the variance of estimates and the mean of their claimed variances, in standard errors."""
    square = (estimates - estimates.mean()) ** 2
    spread = np.hypot(square.std(), squared_errors.std()) / np.sqrt(len(estimates))
    return abs(estimates.var(ddof=1) - squared_errors.mean()) / spread


def test_control_reduces_the_error_it_claims_to_reduce():
    problem = OWN["resampled"]
    with_control = predict(problem, n_students=20_000, rng=SEED)
    without = predict(problem, n_students=20_000, rng=SEED, control_variate=False)
    info = with_control.attrs["control_variate"]
    assert info["used"]
    assert info["variance_reduction"] > 1.5
    ratio = (
        without.attrs["average_standard_error"]["inter_student"]
        / with_control.attrs["average_standard_error"]["inter_student"]
    )
    assert ratio**2 == pytest.approx(info["variance_reduction"], rel=1e-6)


CONTROLLED = {
    "pilot": make(resample_size=40, n_responses=4, strategy="variance_weighting"),
    "oracle": make(
        resample_size=40,
        n_responses=4,
        strategy="variance_weighting",
        weighting=Weighting(student_estimate="teacher_mean", weight="estimated"),
    ),
    "multi response, weights": make(
        resample_size=40,
        n_responses=3,
        strategy="multi_response",
        noise_variance=PER_INPUT,
        response_correlation=0.3,
        student=kd.LinearStudent(weights=1 / PER_INPUT),
    ),
    "fitting error": make(resample_size=40, fitting_covariance=FITTING, noise_variance=FULL),
    "ridge": make(resample_size=30, student=kd.LinearStudent(penalty=2.0), mean=MEAN),
    "steps": make(resample_size=40, student=kd.LinearStudent(training=STEPS)),
    "two outputs": make(resample_size=40, mean=TWO_MEANS),
}


@pytest.mark.parametrize("law", ["gaussian", "gamma:1"])
@pytest.mark.parametrize("name", CONTROLLED)
def test_control_changes_the_error_but_not_the_answer(name, law):
    """Runs with and without control, of other students, estimate the same variance."""
    with_control = predict(CONTROLLED[name], n_students=16_000, rng=1, noise_law=law)
    without = predict(CONTROLLED[name], n_students=16_000, rng=2, noise_law=law, control_variate=False)
    assert with_control.attrs["control_variate"]["used"] == (name != "oracle" or law == "gaussian")
    for component in ("inter_student", "intra_student", "total"):
        gap = (with_control.estimate[component] - without.estimate[component]).values
        error = np.hypot(with_control.standard_error[component].values, without.standard_error[component].values)
        assert (np.abs(gap) / error).max() < Z
        assert (np.abs(gap + 0.2 * without.estimate[component].values) / error).max() > Z


def test_every_named_law_has_a_table():
    assert all(has_table(as_noise_law(law)) for law in LAWS)
