"""Factorisation of design matrices: names of dependent columns, smallest norm, digits."""

import mpmath
import numpy as np
import pytest

import kdstats as kd
from kdstats.linear.least_squares import factorize
from kdstats.linear.smoother import smoother

RNG = np.random.default_rng(2)
X = RNG.normal(size=(12, 3))
NAMES = ("rooms", "tax", "age")


def problem(X, *, names=None, query=None, **student):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, np.arange(float(len(X))), feature_names=names),
        student=kd.LinearStudent(**student),
        design=kd.Design(query, sources=("teacher_output",)),
    )


def test_factors_against_dense_inverse():
    factors = factorize(X, names=NAMES)
    np.testing.assert_allclose(factors.root @ factors.root.T, np.linalg.inv(X.T @ X), rtol=1e-12)
    np.testing.assert_allclose(factors.root @ factors.basis.T, np.linalg.pinv(X), rtol=0, atol=1e-14)
    np.testing.assert_allclose(factors.basis.T @ factors.basis, np.eye(3), atol=1e-14)
    labels = RNG.normal(size=(12, 2))
    solution, *_ = np.linalg.lstsq(X, labels, rcond=None)
    np.testing.assert_allclose(factors.solve(labels), solution, rtol=1e-12)
    np.testing.assert_allclose(factors.residuals(labels), labels - X @ solution, atol=1e-13)
    assert factors.rank == 3
    assert 1 <= factors.condition <= 3 * np.linalg.cond(X / np.linalg.norm(X, axis=0))


@pytest.mark.parametrize("cause", [1.0, 1e-9, 1e6])
def test_duplicated_column_is_named(cause):
    doubled = np.column_stack([X, cause * X[:, 1]])
    with pytest.raises(kd.errors.RankDeficientError) as caught:
        kd.predict(problem(doubled, names=(*NAMES, "again")))
    message = str(caught.value)
    assert "`X` must have linearly independent columns" in message
    assert "'tax'" in message
    assert "'again'" in message
    assert "'age'" not in message
    assert "'rooms'" not in message


@pytest.mark.parametrize("constant", [1.0, 0.1, -7.0, 1e-12, 1e12])
def test_constant_column_beside_an_intercept_is_named(constant):
    with_constant = np.column_stack([X[:, :2], np.full(12, constant)])
    with pytest.raises(kd.errors.RankDeficientError, match="'age' is constant, as the intercept is"):
        kd.predict(problem(with_constant, names=NAMES))
    kd.predict(problem(with_constant, names=NAMES, fit_intercept=False))


def test_column_of_zeros_is_named():
    with pytest.raises(kd.errors.RankDeficientError, match=r"'tax' \(all zero\)"):
        kd.predict(problem(X * [1.0, 0.0, 1.0], names=NAMES))


def test_sum_of_columns_is_named():
    with pytest.raises(kd.errors.RankDeficientError) as caught:
        kd.predict(problem(np.column_stack([X, X @ [1.0, 2.0, 0.0]]), names=(*NAMES, "sum")))
    assert all(f"'{name}'" in str(caught.value) for name in ("rooms", "tax", "sum"))
    assert "'age'" not in str(caught.value)


def test_a_one_hot_block_is_named():
    groups = np.kron(np.eye(3), np.ones((4, 1)))
    with pytest.raises(kd.errors.RankDeficientError, match="intercept"):
        kd.predict(problem(groups, names=("north", "east", "south")))


def test_nearly_dependent_columns_warn_with_digits():
    close = np.column_stack([X, X[:, 0] + 1e-10 * X[:, 1] * X[:, 2]])
    with pytest.warns(kd.errors.PrecisionWarning, match=r"scaled condition number \d\.\de\+\d\d\): expect about [5-7]"):
        kd.predict(problem(close))


@pytest.mark.parametrize("closeness", [1e-3, 1e-5, 1e-7, 1e-9])
@pytest.mark.filterwarnings("ignore::kdstats.errors.PrecisionWarning")
def test_factors_of_nearly_dependent_columns_against_mpmath(closeness):
    close = np.column_stack([X, X[:, 0] + closeness * X[:, 1] * X[:, 2]]) * [1e8, 1.0, 1e-5, 30.0]
    factors = factorize(close, names=[""] * 4)
    # below the condition from which factors are corrected, QR loses what the condition says
    tolerance = 1e-12 if factors.condition > 1e4 else 10 * np.finfo(float).eps * factors.condition
    with mpmath.workdps(60):
        exact = mpmath.matrix(close.tolist())
        inverse = (exact.T * exact) ** -1
        expected = np.array([[float(inverse[i, j]) for j in range(4)] for i in range(4)])
    np.testing.assert_allclose(factors.root @ factors.root.T, expected, rtol=tolerance)
    np.testing.assert_allclose(factors.basis.T @ factors.basis, np.eye(4), atol=1e-14)


@pytest.mark.parametrize("weights", [None, np.linspace(0.5, 2, 12)])
@pytest.mark.parametrize("shift", [0.0, 5.0, 1e4])
def test_minimum_norm_with_a_free_intercept_against_pinv(weights, shift):
    wide = np.column_stack([X, X @ RNG.normal(size=(3, 2)), np.full(12, 2.5)]) + shift
    found = smoother(problem(wide, minimum_norm=True, weights=weights))
    W = np.diag(np.ones(12) if weights is None else weights)
    centre = np.eye(12) - np.outer(np.ones(12), W.sum(axis=0)) / W.sum()
    slopes = np.linalg.pinv(np.sqrt(W) @ centre @ wide, rcond=1e-9) @ np.sqrt(W) @ centre
    level = W.sum(axis=0) / W.sum() @ (np.eye(12) - wide @ slopes)
    whitened = found.coefficient_map @ np.sqrt(W)
    np.testing.assert_allclose(whitened[1:], slopes, rtol=0, atol=1e-13 * max(1.0, shift))
    np.testing.assert_allclose(whitened[0], level, rtol=0, atol=1e-12 * max(1.0, shift) ** 2)


def test_minimum_norm_without_intercept_against_pinv():
    wide = RNG.normal(size=(5, 9))
    found = smoother(problem(wide, minimum_norm=True, fit_intercept=False))
    np.testing.assert_allclose(found.coefficient_map, np.linalg.pinv(wide), rtol=0, atol=1e-14)


@pytest.mark.parametrize("n", range(3, 24))
@pytest.mark.parametrize("constant", [0.1, 1 / 3, -12.34, 1e5 + 0.1])
def test_minimum_norm_of_a_constant_is_the_mean(n, constant):
    query = np.array([[constant], [constant + 1.0]])
    result = kd.predict(problem(np.full((n, 1), constant), query=query, minimum_norm=True))
    np.testing.assert_allclose(result.inter_student.values, 1 / n, rtol=1e-12)


def test_minimum_norm_is_least_squares_where_it_can_be():
    plain, smallest = (kd.predict(problem(X, minimum_norm=flag)).inter_student for flag in (False, True))
    np.testing.assert_array_equal(plain, smallest)
