"""Chains that really fail come back marked; a Gaussian teacher as prior is the loss of distillation."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import ConvergenceWarning
from kdstats.prediction.bayes import NUTS, sample_students
from kdstats.prediction.bayes.libraries import pm

X = np.random.default_rng(0).normal(size=(20, 2))
TEACHER = kd.GaussianTeacher(X, X.sum(axis=1), noise_variance=1.0)
ALL = ("inter_student", "intra_student", "total")


def pose(student):
    return kd.DistillationProblem(teacher=TEACHER, student=student, design=kd.Design(X[:3]))


def test_one_chain_is_returned_marked():
    with pytest.warns(ConvergenceWarning, match="one chain"):
        found = sample_students(
            pose(kd.BayesianLinearStudent(noise_variance=1.0)),
            n_students=2,
            rng=1,
            method=NUTS(draws=500, tune=200, chains=1),
        )
    assert found.components.attrs["unreliable"] == ALL
    assert np.isnan(found.diagnostics.rhat)
    assert "UNRELIABLE" in found.summary()


def funnel(data):
    """A spread and what it scales, with nothing in the labels to hold them: the density narrows without bound."""
    log_spread = pm.Normal("log_spread", 0.0, 3.0, dims="student")
    w = pm.Normal("w", 0.0, pm.math.exp(log_spread)[:, None], dims=("student", "feature"))
    pm.Normal("y", 0.0 * (w @ data["X"].T), 1.0, observed=data["labels"])
    pm.Deterministic("prediction", w @ data["X_query"].T, dims=("student", "point"))


@pytest.mark.slow
def test_divergences_are_returned_marked():
    with pytest.warns(ConvergenceWarning, match="divergent transitions"):
        found = sample_students(
            pose(kd.BayesianStudent(model=funnel)), n_students=2, rng=1, method=NUTS(draws=400, tune=300, chains=2)
        )
    assert found.components.attrs["n_divergent"] > 0
    assert found.components.attrs["unreliable"] == ALL


def test_fewer_inputs_than_coefficients_need_a_prior():
    wide = kd.GaussianTeacher(np.random.default_rng(1).normal(size=(3, 5)), np.zeros(3), noise_variance=1.0)
    flat = kd.BayesianLinearStudent(prior_variance=np.inf, noise_variance=1.0)
    problem = kd.DistillationProblem(teacher=wide, student=flat, design=kd.Design())
    acts = (kd.predict, lambda p: kd.observe(p, n_students=2), lambda p: sample_students(p, n_students=2, rng=1))
    for act in acts:
        with pytest.raises(kd.errors.RankDeficientError, match="with a flat prior the posterior is improper; got"):
            act(problem)
    assert float(kd.predict(problem.with_student(prior_variance=1.0)).inter_student.min()) > 0.0


@pytest.mark.parametrize("tau", [0.5, 4.0])
def test_a_gaussian_teacher_as_prior_is_the_loss_of_distillation(tau):
    """|y - Xw|^2 + tau |mu - Xw|^2 pulls labels to the mean: their variance falls by (1 + tau)^2."""
    noise = 0.7
    problem = pose(
        kd.BayesianLinearStudent(
            prior_mean="teacher", prior_variance=noise / tau * np.linalg.inv(X.T @ X), noise_variance=noise
        )
    )
    seen = kd.observe(problem, n_students=3, rng=1).student_predictions[..., 0].values
    flat = pose(kd.BayesianLinearStudent(prior_variance=np.inf, noise_variance=noise))
    labels = kd.observe(flat, n_students=3, rng=1).student_predictions[..., 0].values  # the same labels
    mean = X[:3] @ np.linalg.lstsq(X, TEACHER.mean, rcond=None)[0]
    np.testing.assert_allclose(seen, (labels + tau * mean) / (1.0 + tau), rtol=1e-9)
    ratio = kd.predict(problem).inter_student / kd.predict(flat).inter_student
    np.testing.assert_allclose(ratio, (1.0 + tau) ** -2, rtol=1e-9)
    parts = kd.predict(problem).intra_parts.parameter / kd.predict(flat).intra_parts.parameter
    np.testing.assert_allclose(parts, 1.0 / (1.0 + tau), rtol=1e-9)
