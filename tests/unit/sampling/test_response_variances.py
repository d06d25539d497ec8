"""Response variances that students estimate, and the labels weighted by them."""

import numpy as np
import pytest
from scipy import special

import kdstats as kd
from kdstats.errors import UnsupportedProblemError
from kdstats.linear.smoother import smoother
from kdstats.sampling import BLOCK, Gaussian, draw_training_block
from kdstats.sampling.response_variances import inverse_trigamma, response_variances, shrunken_variances
from kdstats.sampling.training_sets import draw_responses
from kdstats.streams import as_seeds

N, K, SEEDS = 8, 9, as_seeds(5)
_rng = np.random.default_rng(3)
X = _rng.standard_normal((N, 2))
TEACHER = kd.GaussianTeacher(X, np.sin(X[:, 0]), noise_variance=np.arange(1.0, N + 1))


def test_inverse_trigamma():
    x = np.geomspace(1e-3, 1e6, 40)
    np.testing.assert_allclose(inverse_trigamma(special.polygamma(1, x)), x, rtol=1e-8)


def test_prior_is_recovered_and_shrinkage_helps():
    prior, scale, df, rng = 8.0, 2.0, 3, np.random.default_rng(1)
    true = prior * scale / rng.chisquare(prior, (1, 200_000))
    seen = true * rng.chisquare(df, true.shape) / df
    moderated = shrunken_variances(seen, df)
    slope = np.polyfit(seen[0], moderated[0], 1)[0]
    assert abs(slope - df / (prior + df)) < 0.01
    assert abs(slope - df / (prior / 2 + df)) > 0.01
    error = (np.log(moderated) - np.log(true)).std()
    assert error < min((np.log(seen) - np.log(true)).std(), np.log(true).std())


def test_equal_scatter_is_pooled():
    alike = np.full((2, 5), 3.0)
    assert (np.ptp(shrunken_variances(alike, 4), axis=1) == 0.0).all()
    assert not shrunken_variances(np.zeros((2, 5)), 4).any()
    np.testing.assert_allclose(response_variances(np.array([[2.0, 4.0]]), 2, estimate="pooled"), [[1.5, 1.5]])


@pytest.mark.parametrize("pilot", [True, False])
@pytest.mark.parametrize("weight", ["pooled", "per_input", "shrunken"])
def test_labels_against_their_definition(weight, pilot):
    own = {} if pilot else {"student_estimate": np.zeros(N)}
    problem = kd.DistillationProblem(
        teacher=TEACHER,
        student=kd.LinearStudent(),
        design=kd.Design(
            n_responses=K,
            strategy="variance_weighting",
            weighting=kd.VarianceWeighting(weight=weight, **own),
        ),
    )
    drawn = draw_training_block(problem, SEEDS, 0, Gaussian(), smoother(problem)).labels[7, :, 0]
    y = draw_responses(problem, SEEDS, 0, Gaussian())[..., 0]
    first = K // 2 if pilot else 0
    squares = (K - first - 1) * y[:, first:].var(axis=1, ddof=1)
    if pilot:
        squares = squares + (first - 1) * y[:, :first].var(axis=1, ddof=1)
    assert squares.shape == (BLOCK, N)
    v = response_variances(squares, K - 1 - pilot, estimate=weight)[7] / (K - first)
    inputs = np.column_stack([np.ones(N), X])
    label = y[7, first:].mean(axis=0)
    estimate = inputs @ np.linalg.lstsq(inputs, y[7, :first].mean(axis=0), rcond=None)[0] if pilot else np.zeros(N)
    error = max(((estimate - label) ** 2 - v).mean(), 0.0)
    alpha = error / (error + v)
    np.testing.assert_allclose(drawn, alpha * label + (1 - alpha) * estimate, rtol=1e-10)
    with pytest.raises(UnsupportedProblemError, match="use engine='monte_carlo'"):
        kd.predict(problem)


def test_refused_problems():
    design = kd.Design(n_responses=K, strategy="variance_weighting", weighting=kd.VarianceWeighting(weight="shrunken"))
    for options, message in (
        ({"response_correlation": 1.0}, "`response_correlation` must be less than 1"),
        ({"noise_variance": np.arange(N)}, "`noise_variance` must be greater than 0 at every input"),
    ):
        teacher = kd.GaussianTeacher(X, np.zeros(N), **options)
        with pytest.raises(kd.errors.ProblemError, match=message):
            kd.DistillationProblem(teacher=teacher, student=kd.LinearStudent(), design=design)
