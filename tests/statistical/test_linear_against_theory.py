"""Fitted linear students against L Sigma L', written out here from the textbook and not from the package.

Every mean over points is judged in units of its own standard error, from S independent students; Z
is the two-sided normal quantile at a family-wise 1e-4 over the cases of this file.
"""

import numpy as np
import pytest
from scipy import stats

import kdstats as kd
from kdstats.observation.linear import observe

N, M, S = 36, 6, 3000
rng = np.random.default_rng(8)
X = rng.standard_normal((N, 3)) * [1.0, 5.0, 0.2]
QUERY = rng.standard_normal((M, 3)) * [1.0, 5.0, 0.2]
MEAN = X @ [1.0, 0.5, 4.0] + 0.5 * np.sin(3 * X[:, 0])
A, A_QUERY = np.column_stack([np.ones(N), X]), np.column_stack([np.ones(M), QUERY])
FREE = np.diag([0.0, 1.0, 1.0, 1.0])
ROOT = rng.standard_normal((N, N))
FULL = ROOT @ ROOT.T / N + 0.2 * np.eye(N)
UNEQUAL = np.linspace(0.2, 3.0, N)
WEIGHTS = np.linspace(4.0, 0.5, N)
TRAINING = kd.GradientDescent(n_steps=60, learning_rate=0.01, initialization_sd=0.5)
N_CASES = 14
Z = stats.norm.isf(0.5 * 1e-4 / (3 * N_CASES))


def solver(V=None, penalty=0.0):
    """Coefficients = solver @ labels, for a working covariance V and a penalty with a free intercept."""
    inverse = np.eye(N) if V is None else np.linalg.inv(V)
    return np.linalg.solve(A.T @ inverse @ A + penalty * FREE, A.T @ inverse)


def descent():
    """F and P of T gradient steps on the mean loss."""
    contraction = np.eye(4) - 2 * TRAINING.learning_rate / N * A.T @ A
    power = np.linalg.matrix_power(contraction, TRAINING.n_steps)
    return (np.eye(4) - power) @ solver(), power


def shared(correlation):
    sd = np.sqrt(UNEQUAL)
    return (1 - correlation) * np.diag(UNEQUAL) + correlation * np.outer(sd, sd)


def spread(F, C):
    return np.diag(A_QUERY @ F @ C @ F.T @ A_QUERY.T)


def residual(F, C, *, rows=1, within=0.0, V=None, divisor=None, start=None):
    """Expected residual variance of F with label covariance C: (rows * E r'V^-1 r + within) / divisor * mean V."""
    V = np.eye(N) if V is None else V
    inverse, maker = np.linalg.inv(V), np.eye(N) - A @ F
    squares = np.trace(inverse @ maker @ C @ maker.T) + MEAN @ maker.T @ inverse @ maker @ MEAN
    if start is not None:
        squares += TRAINING.initialization_sd**2 * np.trace(A @ start @ start.T @ A.T)
    hat = np.linalg.cholesky(inverse).T @ A @ F @ np.linalg.inv(np.linalg.cholesky(inverse).T)
    if divisor is None:
        divisor = rows * N - np.trace(2 * hat - hat @ hat.T)
    return (rows * squares + within) / divisor * np.trace(V) / N


def chain(F, C, k, n_generations):
    """Label covariance and mean after a number of generations with fresh noise each."""
    covariance, mean = C / k, MEAN
    for _ in range(n_generations - 1):
        covariance, mean = A @ F @ covariance @ F.T @ A.T + C / k, A @ F @ mean
    return covariance


IID = 0.7 * np.eye(N)
OLS, RIDGE = solver(), solver(penalty=4.0)
FIT, START = descent()
CASES = {
    "ols": ({"noise_variance": 0.7}, {}, {}, spread(OLS, IID), residual(OLS, IID)),
    "ridge": (
        {"noise_variance": FULL},
        {"penalty": 4.0},
        {},
        spread(RIDGE, FULL),
        residual(RIDGE, FULL),
    ),
    "wls": (
        {"noise_variance": UNEQUAL},
        {"weights": WEIGHTS},
        {},
        spread(solver(np.diag(1 / WEIGHTS)), np.diag(UNEQUAL)),
        residual(solver(np.diag(1 / WEIGHTS)), np.diag(UNEQUAL), V=np.diag(1 / WEIGHTS)),
    ),
    "gls": (
        {"noise_variance": FULL},
        {"covariance": "teacher"},
        {},
        spread(solver(FULL), FULL),
        residual(solver(FULL), FULL, V=FULL),
    ),
    "wrong gls": (
        {"noise_variance": 0.7},
        {"covariance": FULL},
        {},
        spread(solver(FULL), IID),
        residual(solver(FULL), IID, V=FULL),
    ),
    "gradient descent": (
        {"noise_variance": UNEQUAL},
        {"training": TRAINING},
        {},
        spread(FIT, np.diag(UNEQUAL)) + TRAINING.initialization_sd**2 * np.diag(A_QUERY @ START @ START.T @ A_QUERY.T),
        residual(FIT, np.diag(UNEQUAL), start=START),
    ),
    "averaging of correlated responses": (
        {"noise_variance": 0.7, "response_correlation": 0.3},
        {"residual_variance": "mle"},
        {"n_responses": 4},
        spread(OLS, IID * (1 + 3 * 0.3) / 4),
        residual(OLS, IID * (1 + 3 * 0.3) / 4, divisor=N),
    ),
    "responses that cancel": (
        {"noise_variance": 0.7, "response_correlation": -0.3},
        {},
        {"n_responses": 4},
        spread(OLS, IID * (1 - 3 * 0.3) / 4),
        residual(OLS, IID * (1 - 3 * 0.3) / 4),
    ),
    "multi-response": (
        {"noise_variance": UNEQUAL, "response_correlation": 0.3},
        {},
        {"n_responses": 4, "strategy": "multi_response"},
        spread(OLS, np.diag(UNEQUAL) * (1 + 3 * 0.3) / 4),
        residual(OLS, np.diag(UNEQUAL) * (1 + 3 * 0.3) / 4, rows=4, within=3 * 0.7 * UNEQUAL.sum(), divisor=4 * N - 4),
    ),
    "multi-response gls": (
        {"noise_variance": FULL},
        {"covariance": shared(0.4)},
        {"n_responses": 3, "strategy": "multi_response"},
        spread(solver(shared(0.4)), FULL / 3),
        residual(
            solver(shared(0.4)),
            FULL / 3,
            rows=3,
            within=2 * np.trace(np.linalg.solve(shared(0.4), FULL)),
            V=shared(0.4),
            divisor=3 * N - 4,
        ),
    ),
    "multi-response ridge": (
        {"noise_variance": 0.7},
        {"penalty": 12.0, "residual_variance": "mle"},
        {"n_responses": 3, "strategy": "multi_response"},
        spread(RIDGE, IID / 3),
        residual(RIDGE, IID / 3, rows=3, within=2 * 0.7 * N, divisor=3 * N),
    ),
    "chain": (
        {"noise_variance": 0.7},
        {"penalty": 4.0},
        {"n_generations": 3, "n_responses": 2, "sources": ["teacher_output"]},
        spread(RIDGE, chain(RIDGE, IID, 2, 3)),
        0.0,
    ),
    "teacher's own fitting error": (
        {"noise_variance": 0.7, "fitting_covariance": FULL},
        {},
        {"n_responses": 5},
        spread(OLS, FULL + IID / 5),
        residual(OLS, FULL + IID / 5),
    ),
    "noise shared by inputs": (
        {"noise_variance": UNEQUAL, "input_correlation": 0.4},
        {},
        {},
        spread(OLS, shared(0.4)),
        residual(OLS, shared(0.4)),
    ),
}
assert len(CASES) == N_CASES


def scores(observed, inter, intra):
    """Distance of the mean over points, in standard errors of that mean, from S independent students."""
    students = observed.student_predictions.values[:, :, 0]
    squares = ((students - students.mean(axis=0)) ** 2).mean(axis=1) * (S / (S - 1))
    z = {"inter": (squares.mean() - inter.mean()) / (squares.std(ddof=1) / np.sqrt(S))}
    assert squares.mean() == pytest.approx(float(observed.inter_student.mean()), rel=1e-10)
    error = float(observed.standard_error["intra_student"].values[0, 0])
    gap = float(observed.intra_student.values[0, 0]) - intra
    z["intra"] = gap / error if error else (0.0 if gap == 0.0 else np.inf)
    return z


def run(name, seed=21, **options):
    teacher, student, design, inter, intra = CASES[name]
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, MEAN, **teacher),
        student=kd.LinearStudent(**student),
        design=kd.Design(QUERY, **design),
    )
    return observe(problem, n_students=S, rng=seed, **options), inter, intra


@pytest.mark.parametrize("name", CASES)
def test_observed_components_are_the_textbook_ones(name):
    z = scores(*run(name))
    assert abs(z["inter"]) < Z, z
    assert abs(z["intra"]) < Z, z


@pytest.mark.parametrize("name", CASES)
def test_each_point_is_right_not_just_their_mean(name):
    """Chi-square of S-1 degrees of freedom at every point, at 1e-4 over points and cases."""
    observed, inter, _ = run(name, seed=22)
    statistic = (S - 1) * observed.inter_student.values[:, 0] / inter
    tail = 2 * np.minimum(stats.chi2.cdf(statistic, S - 1), stats.chi2.sf(statistic, S - 1))
    assert (tail > 1e-4 / (M * N_CASES)).all(), tail


@pytest.mark.parametrize("name", CASES)
def test_a_theory_off_by_a_third_would_be_seen(name):
    """Negative control of the two tests above."""
    observed, inter, intra = run(name)
    z = scores(observed, 1.33 * inter, 1.33 * intra)
    assert abs(z["inter"]) > Z
    assert intra == 0.0 or abs(z["intra"]) > Z


def test_confounding_the_wrong_source_would_be_seen():
    """Ignoring the correlation of responses (variance/k) or of inputs is refuted, not absorbed."""
    correlated, _, intra = run("averaging of correlated responses")
    assert abs(scores(correlated, spread(OLS, IID / 4), intra)["inter"]) > Z
    floor, _, intra = run("noise shared by inputs")
    assert abs(scores(floor, spread(OLS, np.diag(UNEQUAL)), intra)["inter"]) > Z


def test_heavy_tails_leave_the_variance_as_it_is():
    """Only second moments of the noise enter inter; Laplace and skewed noise have the same ones."""
    for law in ("laplace", "gamma:2", "student_t:9"):
        observed, inter, intra = run("ols", noise_law=law)
        z = scores(observed, inter, intra)
        assert max(abs(z["inter"]), abs(z["intra"])) < Z, (law, z)


def test_conservation_of_variance():
    """One response, MLE, at the training inputs: inter and intra add up to the noise variance."""
    truth = A @ [1.0, 0.3, 0.1, 2.0]
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, truth, noise_variance=1.5),
        student=kd.LinearStudent(residual_variance="mle"),
        design=kd.Design(),
    )
    observed = observe(problem, n_students=S, rng=5)
    students = observed.student_predictions.values[:, :, 0]
    inter = ((students - students.mean(axis=0)) ** 2).mean(axis=1) * (S / (S - 1))
    total = inter.mean() + float(observed.intra_student.values[0, 0])
    error = inter.std(ddof=1) / np.sqrt(S) + float(observed.standard_error["intra_student"].values[0, 0])
    assert abs(total - 1.5) < Z * error
    assert abs(inter.mean() - 1.5 * 4 / N) < Z * inter.std(ddof=1) / np.sqrt(S)


def test_resampled_rows_to_first_order():
    """T10: redrawn labels give sigma^2 (1/m + 1/n) Q^-1 up to terms of order P/m, which bound the bias."""
    n, m = 800, 800
    inputs = np.random.default_rng(3).standard_normal((n, 2))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(inputs, inputs @ [1.0, 2.0], noise_variance=1.0),
        student=kd.LinearStudent(),
        design=kd.Design(inputs[:5], resample_size=m),
    )
    seen = observe(problem, n_students=1500, rng=4)
    rows, asked = np.column_stack([np.ones(n), inputs]), np.column_stack([np.ones(5), inputs[:5]])
    first_order = (1 / m + 1 / n) * np.einsum("ij,jk,ik->i", asked, np.linalg.inv(rows.T @ rows / n), asked)
    slack = 4 * 3 / m * first_order
    gap = np.abs(seen.inter_student.values[:, 0] - first_order)
    assert (gap < Z * seen.standard_error["inter_student"].values[:, 0] + slack).all()
    only_labels = first_order / 2
    assert (
        np.abs(seen.inter_student.values[:, 0] - only_labels) > Z * seen.standard_error["inter_student"][:, 0]
    ).all()


def test_resampling_a_noiseless_linear_teacher_gives_no_variance():
    """T10: labels exactly linear in the inputs are fitted exactly whichever rows are seen."""
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, A @ [1.0, 0.3, 0.1, 2.0]),
        student=kd.LinearStudent(),
        design=kd.Design(QUERY, sources=["data_resampling"], resample_size=30),
    )
    assert observe(problem, n_students=200, rng=4).inter_student.values.max() < 1e-24
