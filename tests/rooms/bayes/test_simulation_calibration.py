"""Simulation-based calibration of regression models: right models pass, a wrong one of each is found out.

Twelve inputs, two features, one stacked model of all simulations; students of classes have theirs in ``test_classes``.
"""

import numpy as np
import pytest

import kdstats as kd
from kdstats.prediction.bayes import NUTS, simulation_calibration

N = 12
X = np.random.default_rng(1).normal(size=(N, 2))
GROUPS = {"groups": np.arange(N) % 4, "query_groups": [0, 1]}
#: Model to its options and the sampler.
TABLE = {
    "gaussian": ({}, NUTS(draws=250, tune=500, target_accept=0.9)),
}
#: What a wrong student is told: a noise 0.4 times as large.
WRONG = {"noise_scale": 0.4}


def pose(model, **options):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, np.zeros(N)),
        student=kd.BayesianStudent(model=model, **options),
        design=kd.Design(X[:2]),
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", TABLE)
def test_ranks_are_uniform_and_a_wrong_model_is_rejected(model):
    options, method = TABLE[model]
    right = pose(model, **options)
    found = simulation_calibration(right, n_simulations=100, rng=1, method=method)
    assert found.uniform, found.summary()
    wrong = simulation_calibration(pose(model, **options | WRONG), truth=right, n_simulations=100, rng=1, method=method)
    assert not wrong.uniform, wrong.summary()
