"""Simulation-based calibration of every model, sampled: right models pass, a wrong one of each is found out.

Twelve inputs, two features, all simulations in one stacked model. Quantities are the parameters and the log
likelihood; the level of a row is 1% over all of its quantities.
"""

import numpy as np
import pytest

import kdstats as kd
from kdstats.prediction.bayes import NUTS, simulation_calibration
from kdstats.problem.bayesian import BAYESIAN_MODELS, CLASS_MODELS

N = 12
X = np.random.default_rng(1).normal(size=(N, 2))
GROUPS = {"groups": np.arange(N) % 4, "query_groups": [0, 1]}
#: Model to its sampler.
METHODS = {
    "linear": NUTS(draws=250, tune=300, chains=1),
    "gaussian": NUTS(draws=250, tune=300, chains=1),
    "student_t": NUTS(draws=250, tune=300, chains=1, target_accept=0.85),
    "hierarchical": NUTS(draws=250, tune=300, chains=1, target_accept=0.85),
    "horseshoe": NUTS(draws=300, tune=500, chains=1, target_accept=0.95),
    "logistic": NUTS(draws=250, tune=300, chains=1),
    "softmax": NUTS(draws=250, tune=300, chains=1),
}


def pose(model, **options):
    design, teacher = {}, kd.GaussianTeacher(X, np.zeros(N))
    if model in CLASS_MODELS:
        n_classes = 2 if model == "logistic" else 3
        teacher = kd.CategoricalTeacher(np.full((N, n_classes), 1.0 / n_classes), X)
        design = {"n_responses": 3, "strategy": "multi_response"}
    if model == "hierarchical":
        options |= GROUPS | {
            "fit_intercept": False
        }  # beside groups' own levels it makes chains slow, and others have it
    student = (
        kd.BayesianLinearStudent(**{"noise_shape": 4.0, "noise_scale": 3.0} | options)
        if model == "linear"
        else kd.BayesianStudent(model=model, **options)
    )
    return kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(X[:2], **design))


def wrong(model):
    """A student that is told a quarter of the scale of the noise, or a fifth of the variance of the coefficients."""
    return pose(model, **({"prior_variance": 0.2} if model in CLASS_MODELS else {"noise_scale": 0.25}))


def test_every_model_has_its_row():
    assert set(METHODS) == {"linear", *BAYESIAN_MODELS}


@pytest.mark.slow
@pytest.mark.parametrize("model", METHODS)
def test_ranks_are_uniform(model):
    found = simulation_calibration(pose(model), n_simulations=100, rng=1, method=METHODS[model])
    assert "log_likelihood" in found.ranks
    assert np.median(found.n_kept) >= 19
    assert found.uniform, found.summary()


@pytest.mark.slow
@pytest.mark.parametrize("model", METHODS)
def test_a_wrong_model_is_rejected(model):
    found = simulation_calibration(wrong(model), truth=pose(model), n_simulations=30, rng=1, method=METHODS[model])
    assert np.median(found.n_kept) >= 19
    assert not found.uniform, found.summary()
