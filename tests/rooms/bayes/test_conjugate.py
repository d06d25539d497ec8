"""Bayesian linear students in closed form: against formulas, quadrature without conjugacy, and exact simulation."""

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats
import xarray as xr

import kdstats as kd
from kdstats.errors import MisstatedNoiseWarning
from kdstats.linear.bayesian import fit_bayesian_students
from kdstats.observation.conjugate import observe

COMPONENTS = ("inter_student", "intra_student", "total")


def inputs(n=30, p=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, p))


def pose(student, *, X=None, mean=None, noise=1.5, query=None, **rest):
    X = inputs() if X is None else X
    mean = np.sin(X).sum(axis=1) if mean is None else mean
    teacher = {
        key: rest.pop(key) for key in ("response_correlation", "input_correlation", "fitting_covariance") if key in rest
    }
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, noise_variance=noise, **teacher),
        student=student,
        design=kd.Design(X[:5] + 0.3 if query is None else query, **rest),
    )


def values(result):
    return [result.estimate[name].values[:, 0] for name in COMPONENTS]


@pytest.mark.parametrize(("strategy", "k"), [("single", 1), ("averaging", 4), ("multi_response", 4)])
def test_known_noise_against_theory(strategy, k):
    """Result T16, with the inverse written out: students that know the variance of their labels."""
    told = 1.5 if strategy == "multi_response" else 1.5 / k
    problem = pose(kd.BayesianLinearStudent(prior_variance=0.7, noise_variance=told), strategy=strategy, n_responses=k)
    X, query = problem.teacher.X, problem.X_query
    M = np.linalg.inv(X.T @ X + 1.5 / k / 0.7 * np.eye(3))
    result = kd.predict(problem)
    np.testing.assert_allclose(
        result.inter_student[:, 0], 1.5 / k * np.diag(query @ M @ X.T @ X @ M @ query.T), rtol=1e-12
    )
    np.testing.assert_allclose(result.intra_parts.parameter[:, 0], 1.5 / k * np.diag(query @ M @ query.T), rtol=1e-12)
    np.testing.assert_allclose(result.intra_parts.noise, told, rtol=1e-15)
    assert (result.engine, result.exactness) == ("conjugate", "exact")


@pytest.mark.parametrize(("a0", "b0"), [(0.0, 0.0), (2.0, 3.0)])
def test_unknown_noise_against_theory(a0, b0):
    """Result T17 as it is printed: V = (X'X + lambda I)^-1, M = I - X V X'."""
    problem = pose(kd.BayesianLinearStudent(prior_variance=0.5, noise_shape=a0, noise_scale=b0))
    X, mu = problem.teacher.X, problem.teacher.mean
    V = np.linalg.inv(X.T @ X + 2.0 * np.eye(3))
    M = np.eye(30) - X @ V @ X.T
    b_n = b0 + 0.5 * (1.5 * np.trace(M) + mu @ M @ mu)
    expected = b_n / (a0 + 15 - 1) * (1 + np.diag(problem.X_query @ V @ problem.X_query.T))
    np.testing.assert_allclose(kd.predict(problem).intra_student[:, 0], expected, rtol=1e-12)


@pytest.mark.parametrize("covariance", [False, True])
def test_flat_prior_is_least_squares(covariance):
    noise = np.diag(np.linspace(0.5, 2, 30)) + 0.3 if covariance else 1.5
    bayes = pose(kd.BayesianLinearStudent(prior_variance=np.inf, noise_variance=2.0, fit_intercept=True), noise=noise)
    linear = kd.DistillationProblem(teacher=bayes.teacher, student=kd.LinearStudent(), design=bayes.design)
    predicted = kd.predict(bayes, covariance=True)
    reference = kd.predict(linear, covariance=True)
    np.testing.assert_allclose(predicted.inter_student, reference.inter_student, rtol=1e-10)
    np.testing.assert_allclose(predicted.covariance, reference.covariance, rtol=1e-9, atol=1e-12)


def test_flat_prior_has_equal_parts():
    result = kd.predict(pose(kd.BayesianLinearStudent(prior_variance=np.inf, noise_variance=1.5)))
    np.testing.assert_allclose(result.inter_student, result.intra_parts.parameter, rtol=1e-12)


def quadrature(X, labels, query, *, prior_mean, prior_variance, noise, a0=0.0, b0=0.0, power=1.0):
    """Posterior mean and variance of an output at query, for one coefficient, by the trapezoidal rule alone."""
    z = np.linspace(-14, 14, 161)[:, None]
    centre = X @ labels / (X @ X)
    if noise is not None:
        log_s2, s2 = np.zeros((1, 1)), np.full((1, 1), noise)
    else:
        log_s2 = np.linspace(-9, 16, 241)[None, :]
        s2 = np.exp(log_s2)
    width = np.sqrt(s2 / (power * X @ X))
    w = centre + width * z
    fit = ((labels[:, None, None] - X[:, None, None] * w) ** 2).sum(axis=0)
    prior_s2 = prior_variance if noise is not None else prior_variance * s2
    log_density = -0.5 * power * (fit / s2 + len(X) * np.log(s2)) - 0.5 * (
        (w - prior_mean) ** 2 / prior_s2 + np.log(prior_s2)
    )
    if noise is None:
        log_density = log_density - a0 * log_s2 - b0 / s2  # inverse gamma in s2, times ds2 = s2 dlog(s2)
    density = np.exp(log_density - log_density.max()) * width
    density /= density.sum()
    mean = (density * w).sum()
    parameter = (density * (w - mean) ** 2).sum() * query**2
    return query * mean, parameter, float((density * s2).sum())


CASES = {
    "known": {"noise_variance": 0.8, "prior_variance": 0.6},
    "unknown": {"prior_variance": 0.6, "noise_shape": 3.0, "noise_scale": 1.2},
    "scale-free prior of the noise": {"prior_variance": 2.0},
    "power": {"noise_variance": 0.8, "prior_variance": 0.6, "likelihood_power": 3.0},
    "power, unknown": {"prior_variance": 0.6, "noise_shape": 3.0, "noise_scale": 1.2, "likelihood_power": 2.5},
    "centred elsewhere": {"prior_variance": 0.6, "noise_shape": 3.0, "noise_scale": 1.2, "prior_mean": [1.3]},
}


@pytest.mark.parametrize("case", CASES)
def test_against_quadrature(case):
    """Posterior moments by a two-dimensional sum, their law over students by Gauss-Hermite: no conjugacy anywhere.

    The posterior mean is linear and the noise quadratic in the labels, for which three nodes are exact.
    """
    options = CASES[case]
    n = 6 if case.startswith("scale") else 4
    X = np.array([0.5, -1.0, 1.5, 0.7, 1.1, -0.4])[:n]
    mean, noise = np.cos(2 * X), 0.9
    problem = pose(kd.BayesianLinearStudent(**options), X=X[:, None], mean=mean, noise=noise, query=[[1.7]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    weights = weights / weights.sum()
    moments = []
    for index in itertools.product(range(3), repeat=n):
        found = (
            quadrature(
                X,
                mean + np.sqrt(noise) * nodes[list(index)],
                1.7,
                prior_mean=options.get("prior_mean", [0.0])[0],
                prior_variance=options["prior_variance"],
                noise=options.get("noise_variance"),
                a0=options.get("noise_shape", 0.0),
                b0=options.get("noise_scale", 0.0),
                power=options.get("likelihood_power", 1.0),
            )
            if np.prod(weights[list(index)])
            else None
        )
        moments.append((np.prod(weights[list(index)]), *found))
    chance, centres, parameter, noise_part = np.array(moments).T
    average = chance @ centres
    result = kd.predict(problem)
    assert float(result.inter_student[0, 0]) == pytest.approx(chance @ (centres - average) ** 2, rel=1e-8)
    assert float(result.intra_parts.parameter[0, 0]) == pytest.approx(chance @ parameter, rel=1e-8)
    assert float(result.intra_parts.noise[0, 0]) == pytest.approx(chance @ noise_part, rel=1e-8)


ROOT = np.tril(np.random.default_rng(5).normal(size=(3, 3))) + 2 * np.eye(3)
STUDENTS = {
    "known": kd.BayesianLinearStudent(noise_variance=0.4, prior_variance=0.5),
    "unknown": kd.BayesianLinearStudent(prior_variance=0.5),
    "intercept": kd.BayesianLinearStudent(prior_variance=0.1, fit_intercept=True, noise_shape=2.0, noise_scale=1.0),
    "full prior": kd.BayesianLinearStudent(prior_variance=0.05 * ROOT @ ROOT.T, prior_mean=[1.0, -2.0, 0.0]),
    "teacher": kd.BayesianLinearStudent(prior_variance=0.01, prior_mean="teacher", fit_intercept=True),
    "power": kd.BayesianLinearStudent(noise_variance=1.0, likelihood_power=4.0, prior_variance=0.1),
    "flat": kd.BayesianLinearStudent(prior_variance=np.inf, fit_intercept=True),
}
DESIGNS = {
    "single": {},
    "averaging": {"n_responses": 3, "response_correlation": 0.4},
    "multi_response": {"n_responses": 3, "strategy": "multi_response", "response_correlation": 0.4},
    "shared noise": {"input_correlation": 0.5, "n_responses": 2, "strategy": "multi_response"},
    "uncertain teacher": {"fitting_covariance": 0.3 * np.ones((30, 30)) + 0.2 * np.eye(30), "n_responses": 2},
    "silent": {"sources": ["teacher_output"]},
    "certain teacher": {"sources": ["student_output"]},
}


#: Standard errors that the largest of all comparisons with a simulation (cases x components x points) exceeds once in
#: a thousand runs.
REACH = float(scipy.stats.norm.isf(0.5e-3 / ((len(STUDENTS) * len(DESIGNS) + 4) * len(COMPONENTS) * 5)))


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.filterwarnings("ignore::kdstats.errors.MisstatedNoiseWarning")
def test_against_exact_simulation(student, design):
    """The other route: principal axes of the inputs for 4000 students, no map from labels to coefficients."""
    problem = pose(STUDENTS[student], noise=np.linspace(0.5, 2.0, 30), **DESIGNS[design])
    predicted, seen = kd.predict(problem), kd.observe(problem, n_students=4000, rng=11)
    for name in COMPONENTS:
        gap = np.abs(predicted.estimate[name] - seen.estimate[name]).values
        error = seen.standard_error[name].values
        floor = 1e-10 * predicted.total.values
        assert (gap <= REACH * error + floor).all(), name
    if predicted.intra_parts is not None:
        np.testing.assert_allclose(sum(predicted.intra_parts.values()), predicted.intra_student, rtol=1e-12)


def test_the_simulation_would_notice():
    """A prior a hundred times as tight is further away than chance goes."""
    problem = pose(STUDENTS["unknown"], noise=np.linspace(0.5, 2.0, 30))
    wrong = kd.predict(problem.with_student(prior_variance=0.005))
    seen = kd.observe(problem, n_students=4000, rng=11)
    assert (np.abs(wrong.inter_student - seen.inter_student) > REACH * seen.standard_error.inter_student).any()


def test_outputs_drawn_from_the_students():
    problem = pose(kd.BayesianLinearStudent(prior_variance=0.5, noise_shape=1.0, noise_scale=1.0), X=inputs(12, 2))
    predicted, seen = kd.predict(problem), kd.observe(problem, n_students=6000, n_replicates=4, rng=2)
    for name in COMPONENTS:
        assert (np.abs(predicted.estimate[name] - seen.estimate[name]) < REACH * seen.standard_error[name]).all()
    assert seen.intra_parts is None


def test_the_trap_of_averaged_labels():
    """Told the variance of a response but given means of k: intra is overstated k-fold; rows kept apart are not."""
    k, noise = 8, 2.0
    with pytest.warns(
        MisstatedNoiseWarning, match=r"overstate their noise.*8-fold.*multi_response.*likelihood_power=8"
    ):
        trapped = pose(
            kd.BayesianLinearStudent(prior_variance=np.inf, noise_variance=noise), noise=noise, n_responses=k
        )
    honest = pose(kd.BayesianLinearStudent(prior_variance=np.inf, noise_variance=noise / k), noise=noise, n_responses=k)
    rows = trapped.with_design(strategy="multi_response")
    wrong, right, kept = (kd.predict(problem) for problem in (trapped, honest, rows))
    np.testing.assert_allclose(wrong.intra_student, k * right.intra_student, rtol=1e-12)
    np.testing.assert_allclose(wrong.intra_parts.parameter, k * wrong.inter_student, rtol=1e-12)
    np.testing.assert_allclose(kept.intra_parts.parameter, kept.inter_student, rtol=1e-12)
    np.testing.assert_allclose(kept.inter_student, wrong.inter_student, rtol=1e-12)
    np.testing.assert_allclose(kept.intra_parts.noise, noise)  # that of a response, which it is
    seen = observe(trapped, n_students=2000, rng=3)
    share = (k * seen.inter_student / seen.intra_parts.parameter).values  # chi-square over its degrees of freedom
    low, high = scipy.stats.chi2(1999).ppf([1e-4 / 10, 1 - 1e-4 / 10]) / 1999  # five points
    assert ((low < share) & (share < high)).all()


def test_no_warning_where_nothing_is_misstated(recwarn):
    pose(kd.BayesianLinearStudent(noise_variance=1.5), n_responses=1)
    pose(kd.BayesianLinearStudent(noise_variance=1.5 / 4), n_responses=4)
    pose(kd.BayesianLinearStudent(noise_variance=1.5), n_responses=4, strategy="multi_response")
    pose(kd.BayesianLinearStudent(noise_variance=1.5, likelihood_power=4), n_responses=4)
    pose(kd.BayesianLinearStudent(), n_responses=4)
    pose(kd.BayesianLinearStudent(noise_variance=1.5), n_responses=4, response_correlation=1.0)
    assert not recwarn.list


def test_power_weighs_averaged_labels_as_rows():
    rows = pose(kd.BayesianLinearStudent(noise_variance=1.5), n_responses=5, strategy="multi_response")
    power = pose(kd.BayesianLinearStudent(noise_variance=1.5, likelihood_power=5.0), n_responses=5)
    xr.testing.assert_allclose(kd.predict(rows).estimate, kd.predict(power).estimate, rtol=1e-12)


def test_teacher_as_prior_pulls_students_together_without_bias():
    loose = pose(kd.BayesianLinearStudent(noise_variance=1.5, prior_variance=1e-3))
    tight = loose.with_student(prior_mean="teacher")
    seen = {name: observe(problem, n_students=3000, rng=1) for name, problem in (("0", loose), ("teacher", tight))}
    X, query = loose.teacher.X, loose.X_query
    target = query @ np.linalg.lstsq(X, loose.teacher.mean, rcond=None)[0]
    error = {name: np.abs(run.student_predictions.mean("student")[:, 0] - target) for name, run in seen.items()}
    se = np.sqrt(seen["teacher"].inter_student[:, 0] / 3000)
    assert (error["teacher"] < REACH * se).all()
    assert (error["0"] > 10 * se).any()
    np.testing.assert_allclose(kd.predict(loose).inter_student, kd.predict(tight).inter_student, rtol=1e-12)


def log_evidence(y, X, prior_variance, noise):
    covariance = (noise or 1.0) * np.eye(len(y)) + prior_variance * X @ X.T
    if noise is not None:
        return scipy.stats.multivariate_normal(cov=covariance).logpdf(y)
    _, logdet = np.linalg.slogdet(covariance)  # p(s2) = 1/s2 integrates to this, up to a constant
    return -0.5 * logdet - 0.5 * len(y) * np.log(y @ np.linalg.solve(covariance, y))


@pytest.mark.parametrize("noise", [0.8, None])
def test_evidence_against_a_general_maximiser(noise):
    """The dense marginal density of the labels, handed to scipy."""
    problem = pose(
        kd.BayesianLinearStudent(prior_variance="evidence", noise_variance=noise), X=inputs(20, 4), query=inputs(2, 4)
    )
    X = problem.teacher.X
    labels = problem.teacher.mean + np.random.default_rng(4).normal(size=(6, 20))
    fit = fit_bayesian_students(problem, labels=labels[..., None], within=np.zeros((6, 20, 1)))
    for student in range(6):
        found = scipy.optimize.minimize_scalar(
            lambda t, y=labels[student]: -log_evidence(y, X, np.exp(t), noise),
            bounds=(-8, 8),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert np.log(fit.prior_variance[student, 0]) == pytest.approx(found.x, abs=1e-5)
        prior = np.exp(found.x)
        precision = X.T @ X / (noise or 1.0) + np.eye(4) / prior
        expected = problem.X_query @ np.linalg.solve(precision, X.T @ labels[student]) / (noise or 1.0)
        np.testing.assert_allclose(fit.mean[student, :, 0], expected, rtol=1e-4)


def test_evidence_students_are_simulated_and_shrink():
    problem = pose(kd.BayesianLinearStudent(prior_variance="evidence", noise_variance=1.5), noise=1.5)
    answer = kd.predict(problem, n_students=2000, rng=1)
    seen = kd.observe(problem, n_students=2000, rng=2)
    flat = kd.predict(problem.with_student(prior_variance=np.inf))
    assert answer.exactness == "simulated"
    assert answer.attrs["median_prior_variance"] > 0
    assert float(answer.inter_student.mean()) < float(flat.inter_student.mean())
    for name in ("inter_student", "intra_student"):
        spread = np.hypot(answer.standard_error[name], seen.standard_error[name])
        assert (np.abs(answer.estimate[name] - seen.estimate[name]) < REACH * spread).all()


def test_labels_without_a_slope_collapse_to_the_prior():
    problem = pose(
        kd.BayesianLinearStudent(prior_variance="evidence", noise_variance=100.0), mean=np.zeros(30), noise=0.01
    )
    fit = fit_bayesian_students(
        problem, labels=0.1 * np.random.default_rng(0).normal(size=(3, 30, 1)), within=np.zeros((3, 30, 1))
    )
    assert (fit.prior_variance < 1e-6).all()
    assert np.abs(fit.mean).max() < 1e-6


def test_resampled_students_against_brute_force():
    """Each student's rows written out and solved densely."""
    problem = pose(kd.BayesianLinearStudent(prior_variance=0.5, fit_intercept=True), resample_size=20)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(20, np.full(30, 1 / 30), size=4)
    labels = problem.teacher.mean + rng.normal(size=(4, 30))
    fit = fit_bayesian_students(problem, labels=labels[..., None], within=np.zeros((4, 30, 1)), counts=counts)
    for student in range(4):
        rows = np.repeat(np.arange(30), counts[student])
        X = np.column_stack([np.ones(20), problem.teacher.X[rows]])
        y = labels[student, rows]
        precision = X.T @ X + np.diag([0, 2, 2, 2])
        w = np.linalg.solve(precision, X.T @ y)
        noise = 0.5 * (y @ y - w @ precision @ w) / (0.5 * (20 - 1) - 1)
        query = np.column_stack([np.ones(5), problem.X_query])
        np.testing.assert_allclose(fit.mean[student, :, 0], query @ w, rtol=1e-10)
        np.testing.assert_allclose(fit.noise_variance[student, 0], noise, rtol=1e-10)
        covariance = noise * np.linalg.inv(precision)
        np.testing.assert_allclose(
            fit.parameter_variance[student, :, 0], np.diag(query @ covariance @ query.T), rtol=1e-10
        )
    assert kd.predict(problem, n_students=50, rng=1).exactness == "simulated"


def test_more_coefficients_than_inputs():
    """A proper prior needs no rank: the directions nobody saw keep their prior variance."""
    X = inputs(4, 7)
    problem = pose(kd.BayesianLinearStudent(noise_variance=1.0, prior_variance=2.0), X=X, query=np.eye(7))
    exact = np.linalg.inv(X.T @ X + np.eye(7) / 2.0)
    np.testing.assert_allclose(kd.predict(problem).intra_parts.parameter[:, 0], np.diag(exact), rtol=1e-11)
    fit = fit_bayesian_students(problem, labels=np.zeros((2, 4, 1)), within=np.zeros((2, 4, 1)))
    np.testing.assert_allclose(fit.parameter_variance[0, :, 0], np.diag(exact), rtol=1e-11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_variance": -1.0}, "`prior_variance` must be greater than 0"),
        ({"prior_variance": 0}, "`prior_variance` must be greater than 0"),
        ({"prior_variance": np.nan}, "`prior_variance` must be finite"),
        ({"prior_variance": "empirical"}, "`prior_variance` must be one of evidence"),
        ({"prior_variance": [1.0, 2.0]}, "`prior_variance` must have 2 dimensions"),
        ({"prior_variance": [[1.0, 2.0], [2.0, 1.0]]}, "`prior_variance` must be positive"),
        ({"prior_variance": np.ones((2, 2))}, "`prior_variance` must be positive definite"),
        ({"prior_mean": "student"}, "`prior_mean` must be one of teacher"),
        ({"prior_mean": [0.0], "prior_variance": np.inf}, "`prior_mean` must be left out"),
        ({"noise_variance": 0.0}, "`noise_variance` must be greater than 0"),
        ({"noise_variance": -2.0}, "`noise_variance` must be greater than 0"),
        ({"noise_shape": -1.0}, "`noise_shape` must be at least 0"),
        ({"noise_scale": 1.0, "noise_variance": 1.0}, "`noise_scale` must be left out"),
        ({"likelihood_power": 0.0}, "`likelihood_power` must be greater than 0"),
        ({"fit_intercept": 1}, "`fit_intercept` must be True or False"),
    ],
)
def test_bad_students(options, message):
    with pytest.raises(kd.errors.ProblemError, match=message):
        kd.BayesianLinearStudent(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prior_variance": np.eye(2)}, r"`prior_variance` must be a number or \(3, 3\); got shape \(2, 2\)"),
        ({"prior_mean": [1.0, 2.0]}, r"`prior_mean` must have shape \(3,\) or \(3, 1\)"),
    ],
)
def test_priors_of_the_wrong_shape(options, message):
    with pytest.raises(kd.errors.ProblemError, match=message):
        pose(kd.BayesianLinearStudent(**options))


@pytest.mark.parametrize("change", [{"strategy": "variance_weighting", "n_responses": 4}, {"n_generations": 2}])
def test_designs_without_bayesian_students(change):
    with pytest.raises(kd.errors.ProblemError, match="BayesianLinearStudent"):
        pose(kd.BayesianLinearStudent(), **change)


@pytest.mark.parametrize("act", [kd.predict, lambda problem: kd.observe(problem, n_students=4, rng=1)])
def test_improper_posteriors(act):
    flat = kd.BayesianLinearStudent(prior_variance=np.inf, noise_variance=1.0)
    with pytest.raises(kd.errors.RankDeficientError, match=r"`prior_variance` must be finite.*improper"):
        act(pose(flat, X=inputs(4, 7)))
    X = inputs(20, 2)
    with pytest.raises(kd.errors.RankDeficientError, match=r"`prior_variance` must be finite.*improper"):
        act(pose(flat, X=np.column_stack([X, X[:, 0] - X[:, 1]])))
    with pytest.raises(kd.errors.PredictionError, match=r"more than 2 posterior degrees of freedom.*got 2"):
        act(pose(kd.BayesianLinearStudent(), X=inputs(2, 1), query=[[1.0]]))


def test_other_engines_say_whose_student_it_is():
    problem = pose(kd.BayesianLinearStudent())
    for engine in ("closed_form", "monte_carlo"):
        with pytest.raises(kd.errors.UnsupportedProblemError, match="BayesianLinearStudent"):
            kd.predict(problem, engine=engine)
    with pytest.raises(kd.errors.UnsupportedProblemError, match="'conjugate' predicts a BayesianLinearStudent"):
        kd.predict(kd.catalog.intercept_only(), engine="conjugate")


def test_text_and_files(tmp_path):
    for student in STUDENTS.values():
        problem = pose(student)
        again = kd.DistillationProblem.from_toml(problem.to_toml())
        assert again.fingerprint() == problem.fingerprint()
    result = kd.predict(pose(STUDENTS["unknown"]), covariance=True)
    result.to_netcdf(tmp_path / "predicted.nc")
    read = kd.VarianceComponents.from_netcdf(tmp_path / "predicted.nc")
    xr.testing.assert_identical(read.intra_parts, result.intra_parts)
    assert "of parameter uncertainty and" in result.summary()
    assert set(result.average().intra_parts) == {"parameter", "noise"}


def test_duplicates_are_not_cried_where_no_noise_reaches_students():
    problem = pose(kd.BayesianLinearStudent(), sources=["student_output", "student_initialization"])
    assert float(kd.observe(problem, n_students=5, rng=1).inter_student.max()) == 0.0


def test_prediction_and_observation_agree_by_the_tests_of_the_house():
    problem = pose(kd.BayesianLinearStudent(prior_variance=0.5), n_responses=3, strategy="multi_response")
    verdict = kd.compare(kd.predict(problem, covariance=True), kd.observe(problem, n_students=600, rng=5))
    assert verdict.verdict == "agree"
    wrong = kd.predict(problem.with_design(n_responses=2), covariance=True)
    assert kd.compare(wrong, kd.observe(problem, n_students=600, rng=5)).verdict == "disagree"


STUDY = """
[data]
dataset = "diabetes"
max_points = 6
[teacher]
noise_fraction = 0.2
[student]
kind = "bayesian_linear"
prior_variance = PRIOR
[design]
n_responses = 2
strategy = "multi_response"
[run]
n_students = 100
n_simulated = 500
sweep_responses = [1, 2]
"""


@pytest.mark.parametrize("prior", ["1.0", '"evidence"'])
def test_a_study_of_bayesian_students(tmp_path, prior):
    from kdstats.study import Study, run_study

    path = tmp_path / "study.toml"
    path.write_text(STUDY.replace("PRIOR", prior))
    result = run_study(Study.from_toml(path))
    assert list(result.observed) == ["conjugate"]
    assert result.verdict == "agree"
    assert result.predicted.exactness == ("exact" if prior == "1.0" else "simulated")
    assert list(result.by_responses.observed) == [1, 2]


def test_a_study_refuses_other_engines(tmp_path):
    from kdstats.study import Study, run_study

    path = tmp_path / "study.toml"
    path.write_text(STUDY.replace("PRIOR", "1.0") + 'observe = ["linear"]\n')
    with pytest.raises(
        kd.errors.ProblemError, match=r"`run.observe` must be out of .*conjugate.*BayesianLinearStudent"
    ):
        run_study(Study.from_toml(path))


def test_the_page_on_bayesian_students_runs(capsys):
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "bayesian-students.md").read_text(encoding="utf-8")
    space: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "bayesian-students.md", "exec"), space)
    shown = capsys.readouterr().out
    assert "of parameter uncertainty and" in shown
    assert shown.count("Calibration of 500 students") == 2


def command(*words):
    from typer.testing import CliRunner

    from kdstats.cli.application import application

    return CliRunner().invoke(application, list(words))


def test_the_command_predicts_and_marks_what_is_unreliable(tmp_path, monkeypatch):
    path = tmp_path / "study.toml"
    path.write_text(STUDY.replace("PRIOR", '"evidence"'))
    done = command("predict", str(path), "--n-students", "300")
    assert done.exit_code == 0, done.output
    assert "simulated" in done.output
    marked = kd.predict(pose(kd.BayesianLinearStudent()))
    marked = dataclasses.replace(marked, attrs={**marked.attrs, "unreliable": ("inter_student",)})
    monkeypatch.setattr("kdstats.engine.observe", lambda *args, **options: marked)
    done = command("observe", str(path))
    assert done.exit_code == 4
    assert "UNRELIABLE: inter_student" in done.output
