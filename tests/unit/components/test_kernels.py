import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from kdstats.components.kernels import frobenius_square, student_moments


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("compiled", [True, False])
def test_student_moments_against_numpy(dtype, compiled):
    values = np.random.default_rng(1).normal(5.0, 2.0, size=(7, 4, 3)).astype(dtype)
    offset = values[0, 0].astype(np.float64)
    kernel = student_moments if compiled else getattr(student_moments, "py_func", student_moments)
    means, variances = kernel(values, offset)
    exact = values.astype(np.float64)
    assert_allclose(means + offset, exact.mean(axis=1), rtol=1e-14)
    assert_allclose(variances, exact.var(axis=1, ddof=1), rtol=1e-13)


def test_float32_is_accumulated_in_float64():
    values = np.random.default_rng(2).normal(1000.0, 0.01, size=(2, 5000, 1)).astype(np.float32)
    _, variances = student_moments(values, np.zeros(1))
    assert_allclose(variances, values.astype(np.float64).var(axis=1, ddof=1), rtol=1e-12)
    coarse = np.abs(values.var(axis=1, ddof=1) / variances - 1)
    assert coarse.max() > 1e-7


def test_one_replicate_and_equal_replicates_have_variance_exactly_zero():
    values = np.full((3, 3, 2), 0.1)
    assert_array_equal(student_moments(values, values[0, 0])[1], 0.0)
    assert_array_equal(student_moments(values[:, :1], values[0, 0])[0], 0.0)
    assert_array_equal(student_moments(np.random.default_rng(0).normal(size=(3, 1, 2)), np.zeros(2))[1], 0.0)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1200, 600), (600, 1200)])
def test_frobenius_square_of_either_gram_matrix(shape):
    rows = np.random.default_rng(3).normal(size=shape)
    assert_allclose(frobenius_square(rows), np.square(rows.T @ rows).sum(), rtol=1e-11)
    assert_allclose(frobenius_square(rows), np.square(rows @ rows.T).sum(), rtol=1e-11)
