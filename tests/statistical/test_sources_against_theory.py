"""Students crossed over teacher seeds and initialization seeds against the closed form of each source (result T13)."""

import numpy as np
import pandas as pd
import pytest

import kdstats as kd

RNG = np.random.default_rng(0)
X, X_QUERY = RNG.normal(size=(30, 3)), RNG.normal(size=(6, 3))


def problem(noise=1.0, sd=0.5):
    steps = kd.GradientDescent(n_steps=15, learning_rate=0.03, initialization_sd=sd)
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X @ [1.0, -2.0, 0.5], noise_variance=noise),
        student=kd.LinearStudent(fit_intercept=False, training=steps),
        design=kd.Design(X_QUERY),
    )


@pytest.fixture(scope="module")
def crossed():
    rows = []
    for teacher in range(14):
        for init in range(12):
            seeds = kd.Seeds(
                teacher_output=teacher, student_initialization=init, data_order=0, data_resampling=0, student_output=0
            )
            run = kd.observe(problem(), engine="linear", n_students=2, rng=seeds).student_predictions
            frame = run.isel(student=0, output=0).to_series().rename("value").reset_index()
            rows.append(frame[["point", "value"]].assign(teacher=teacher, init=init))
    return kd.decompose_sources(pd.concat(rows), ["teacher", "init"], replicate=None)


def test_each_source_adds_what_theory_predicts(crossed):
    """Intervals of coverage 1 - 1e-4 hold the truth of their own source, and not that of the other."""
    noise = kd.predict(problem(sd=0.0)).inter_student.mean().item()
    start = kd.predict(problem()).inter_student.mean().item() - noise
    bounds = crossed.average().interval(1 - 1e-4)["variance"]
    for name, truth, other in (("teacher", noise, start), ("init", start, noise)):
        low, high = bounds.sel(component=name).values.ravel()
        assert low < truth < high, (name, low, truth, high)
        assert not low < other < high, name


def test_linear_students_have_no_interaction(crossed):
    assert (crossed.shares.sel(component="residual") < 1e-20).all()
