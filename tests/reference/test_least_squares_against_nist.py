"""Coefficients, residual variance and standard errors against certified regressions (NIST StRD).

A query at a unit vector, without intercept, makes a student's prediction one of its coefficients, so that its
inter-student variance is the squared standard error.
"""

import contextlib
import re
import warnings
from pathlib import Path

import mpmath
import numpy as np
import pytest

import kdstats as kd
from kdstats.linear.least_squares import factorize
from kdstats.prediction.closed_form.engine import closed_form

DATA = Path(__file__).parent / "data"
#: Digits (log relative error) of coefficients, standard errors and residual variance; the floor is what scaled pivoted
#: QR with one refinement step keeps in double precision.
EXPECTED = {
    "Norris": (12, 13, 12),
    "Longley": (10, 12, 12),
    "Wampler1": (9, 9, 15),
    "Wampler5": (6, 13, 13),
    "Filip": (7, 8, 8),
    "Pontius": (12, 13, 12),
}
POWERS = {"Norris": 1, "Wampler1": 5, "Wampler5": 5, "Filip": 10, "Pontius": 2}


class Certified:
    def __init__(self, name):
        lines = (DATA / f"{name}.dat").read_text().splitlines()
        rows = [line.split() for line in lines if re.match(r"\s+B\d+\s", line)]
        self.coefficients, self.standard_errors = np.array([row[1:3] for row in rows], dtype=float).T
        _, freedom, squares, *_ = next(line for line in lines if line.startswith("Residual  ")).split()
        self.residual_variance = float(squares) / int(freedom)
        data = next(i for i, line in enumerate(lines) if line.startswith("Data:") and line.split()[1] == "y")
        table = np.array([line.split() for line in lines[data + 1 :] if line.strip()], dtype=float)
        self.y = table[:, 0]
        predictors = table[:, 1:]
        if name in POWERS:
            # repeated products: the rounding of x**j itself leaves 7.6 digits of Filip in exact arithmetic, this 8.8
            predictors = np.vander(predictors[:, 0], POWERS[name] + 1, increasing=True)[:, 1:]
        self.X = np.column_stack([np.ones(len(self.y)), predictors])


def digits(value, certified):
    """Log relative error, log absolute error where the certified value is 0, at most 15."""
    scale = np.where(certified == 0.0, 1.0, np.abs(certified))
    with np.errstate(divide="ignore"):
        return float(np.min(np.minimum(-np.log10(np.abs(value - certified) / scale), 15.0)))


def expected_warning(name):
    return pytest.warns(kd.errors.PrecisionWarning, match="digits") if name == "Filip" else contextlib.nullcontext()


def problem(certified, noise_variance):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(certified.X, certified.y, noise_variance=noise_variance),
        student=kd.LinearStudent(fit_intercept=False),
        design=kd.Design(np.eye(certified.X.shape[1])),
    )


def measured_digits(name):
    certified = Certified(name)
    with expected_warning(name):
        fitted = closed_form(problem(certified, 0.0))
        residual_variance = kd.predict(problem(certified, 0.0)).intra_student.values[0, 0]
        known = kd.predict(problem(certified, certified.residual_variance)).inter_student.values.ravel()
        own = kd.predict(problem(certified, residual_variance)).inter_student.values.ravel()
    return {
        "coefficients": digits(fitted.mean.ravel(), certified.coefficients),
        "standard_errors": digits(np.sqrt(known), certified.standard_errors),
        "standard_errors_from_data": digits(np.sqrt(own), certified.standard_errors),
        "residual_variance": digits(residual_variance, certified.residual_variance),
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_students_against_nist(name):
    measured = measured_digits(name)
    coefficients, standard_errors, residual_variance = EXPECTED[name]
    assert measured["coefficients"] >= coefficients, measured
    assert measured["standard_errors"] >= standard_errors, measured
    assert measured["residual_variance"] >= residual_variance, measured
    assert measured["standard_errors_from_data"] >= min(standard_errors, residual_variance), measured


@pytest.mark.parametrize("name", ["Longley", "Filip"])
def test_nearly_dependent_columns_against_exact_arithmetic(name):
    X = Certified(name).X
    if name == "Filip":
        X = X[:, 1:2] ** np.arange(11)  # other roundings of the same powers
    with mpmath.workdps(60):
        exact_columns = mpmath.matrix(X.tolist())
        inverse = (exact_columns.T * exact_columns) ** -1
        exact = np.array([float(mpmath.sqrt(inverse[i, i])) for i in range(inverse.rows)])
    with expected_warning(name):
        factors = factorize(X, names=[str(j) for j in range(X.shape[1])])
    assert digits(np.sqrt((factors.root**2).sum(axis=1)), exact) >= 13.5
    np.testing.assert_allclose(factors.basis.T @ factors.basis, np.eye(X.shape[1]), rtol=0, atol=1e-14)


def test_normal_equations_fail_on_filip():
    certified = Certified("Filip")  # negative control: the bar is one that another route misses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        variances = certified.residual_variance * np.abs(np.diag(np.linalg.pinv(certified.X.T @ certified.X)))
    assert digits(np.sqrt(variances), certified.standard_errors) < 1


@pytest.mark.parametrize("name", ["Norris", "Longley", "Pontius"])
def test_free_intercept_gives_the_same_slopes(name):
    certified = Certified(name)
    zero, units = np.zeros((1, certified.X.shape[1] - 1)), np.eye(certified.X.shape[1] - 1)
    asked = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(certified.X[:, 1:], certified.y, noise_variance=certified.residual_variance),
        student=kd.LinearStudent(),
        design=kd.Design(zero),
    )
    at_zero = kd.predict(asked).inter_student.values.ravel()
    assert digits(np.sqrt(at_zero), certified.standard_errors[:1]) >= EXPECTED[name][1]
    slopes = closed_form(asked.with_design(X_query=units)).mean - closed_form(asked).mean
    # a slope is the difference of two predictions: the intercept's share of their rounding is lost
    lost = max(0.0, np.log10(np.abs(certified.coefficients[0]) / np.abs(certified.coefficients[1:]).min()))
    assert digits(slopes.ravel(), certified.coefficients[1:]) >= EXPECTED[name][0] - lost - 1
