"""Which strategy yields students that reflect the teacher's uncertainty."""

import numpy as np
import pytest
import scipy.stats

import kdstats as kd


def pose(strategy, *, k=6, student=None, **teacher):
    X = np.random.default_rng(0).normal(size=(80, 3))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X.sum(axis=1), noise_variance=2.0, **teacher),
        student=kd.BayesianLinearStudent() if student is None else student,
        design=kd.Design(n_responses=1 if strategy == "single" else k, strategy=strategy),
    )


def exact_law(problem, chance):
    """P(transform <= chance) of flat-prior students of a teacher that is linear, at each training input.

    A response less the prediction has variance s2 (1 + h/k), the squared scale of the predictive t is an independent
    chi-square's with mean (s2/r) (1 + h/k): r = k for averages and 1 for rows, h the leverage.
    """
    X, k = problem.teacher.X, problem.design.n_responses
    leverage = np.einsum("ij,ij->i", X @ np.linalg.inv(X.T @ X), X)
    rows = problem.design.strategy == "multi_response"
    freedom = len(X) * (k if rows else 1) - X.shape[1]
    spread = 1.0 + leverage / k
    scale = spread if rows else (1.0 + leverage) / k
    law = scipy.stats.t(freedom)
    return law.cdf(law.ppf(chance) * np.sqrt(scale / spread)).mean(), scale, freedom


@pytest.mark.parametrize("strategy", ["averaging", "multi_response"])
def test_against_the_exact_law(strategy):
    """Coverage, transform and sharpness within 4 standard errors of what they are; rows are calibrated exactly."""
    problem = pose(strategy, student=kd.BayesianLinearStudent(prior_variance=np.inf))
    found = kd.predictive_calibration(problem, rng=1)
    inside = [exact_law(problem, 0.5 + c / 2)[0] - exact_law(problem, 0.5 - c / 2)[0] for c in found.levels]
    assert (np.abs(found.coverage - inside) < 4 * found.coverage_se).all()
    below = np.array([exact_law(problem, u)[0] for u in found.grid])
    assert (np.abs(found.pit - below) < 4 * found.pit_se).all()
    _, scale, freedom = exact_law(problem, 0.5)
    chi = scipy.stats.chi(freedom)
    sharp = np.sqrt(scale / (freedom - 2)).mean() * np.array([chi.mean(), chi.std() / np.sqrt(found.n_students)])
    assert abs(found.sharpness - sharp[0]) < 4 * sharp[1]
    if strategy == "multi_response":
        np.testing.assert_allclose(inside, found.levels, rtol=1e-12)
    else:  # the same bounds would notice averages that were taken for calibrated
        assert (found.coverage < found.levels - 4 * found.coverage_se).all()
        assert abs(found.sharpness - 1.0) > 4 * sharp[1]
    assert "coverage" in found.summary()


def test_coverage_against_drawn_responses():
    """The same share, with new responses of the teacher drawn for every student."""
    from kdstats.linear.bayesian import fit_bayesian_students

    problem = pose("averaging")
    rng = np.random.default_rng(3)
    labels = (problem.teacher.mean + rng.normal(size=(4000, 80)) * np.sqrt(2 / 6))[..., None]
    fit = fit_bayesian_students(problem, labels=labels, within=np.zeros_like(labels), query=problem.teacher.X)
    scale = np.sqrt(fit.variance[..., 0] * (fit.degrees_of_freedom[0] - 2) / fit.degrees_of_freedom[0])
    reach = scipy.stats.t(fit.degrees_of_freedom[0]).ppf(0.9) * scale
    new = problem.teacher.mean + rng.normal(size=(4000, 80)) * np.sqrt(2)
    inside = (np.abs(new - fit.mean[..., 0]) < reach).mean(axis=1)
    found = kd.predictive_calibration(problem, levels=[0.8], n_students=2000, rng=1)
    spread = np.hypot(inside.std(ddof=1) / np.sqrt(4000), found.coverage_se[0])
    assert abs(inside.mean() - found.coverage[0]) < 4 * spread


def test_bad_input():
    with pytest.raises(kd.errors.UnsupportedProblemError, match="covers a BayesianLinearStudent"):
        kd.predictive_calibration(kd.catalog.intercept_only())
    with pytest.raises(kd.errors.ProblemError, match="`levels` must be less than 1"):
        kd.predictive_calibration(pose("single"), levels=[1.0])
    with pytest.raises(kd.errors.ProblemError, match="`n_students` must be at least 2"):
        kd.predictive_calibration(pose("single"), n_students=1)


def small(student):
    X = np.random.default_rng(1).normal(size=(15, 2))
    return kd.DistillationProblem(teacher=kd.GaussianTeacher(X, np.zeros(15)), student=student, design=kd.Design(X[:2]))


def test_improper_priors_have_nothing_to_simulate():
    from kdstats.prediction.bayes import simulation_calibration

    with pytest.raises(kd.errors.ProblemError, match="`student` must have a proper prior"):
        simulation_calibration(small(kd.BayesianLinearStudent()))
