"""Training sets against the law of their labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import kdstats as kd
from kdstats.linear.label_law import label_law
from kdstats.linear.smoother import smoother
from kdstats.sampling import BLOCK, Gaussian, Laplace, draw_training_block, initial_coefficients
from kdstats.sampling.training_sets import correlate, covariance_root, draw_counts, draw_responses
from kdstats.streams import as_seeds

N = 6
Z = 4.5
_rng = np.random.default_rng(8)
X = _rng.standard_normal((N, 2))
MEAN = X[:, 0] + 0.5 * _rng.standard_normal(N)
_root = _rng.standard_normal((N, N)) / 3
FULL = _root @ _root.T + 0.2 * np.eye(N)
SEEDS = as_seeds(21)


def make(student=None, mean=MEAN, **design):
    teacher = {
        name: design.pop(name)
        for name in ("noise_variance", "response_correlation", "fitting_covariance", "input_correlation")
        if name in design
    }
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, **teacher),
        student=student or kd.LinearStudent(),
        design=kd.Design(**design),
    )


def labels(problem, n_blocks=80, law=Gaussian()):  # noqa: B008
    fit = smoother(problem)
    drawn = [draw_training_block(problem, SEEDS, block, law, fit) for block in range(n_blocks)]
    return np.concatenate([block.labels for block in drawn]), np.concatenate([block.within for block in drawn])


def covariance_z(sample, covariance):
    """Largest distance of a sample covariance from a covariance, in standard errors of Gaussian theory."""
    n = len(sample)
    error = np.sqrt((covariance**2 + np.outer(np.diag(covariance), np.diag(covariance))) / n)
    return (np.abs(np.cov(sample.T) - covariance) / error).max()


@pytest.mark.parametrize("correlation", [-0.5, -0.2, 0.0, 0.3, 0.9, 1.0])
def test_correlate_reaches_every_correlation(correlation):
    k, n = 3, 200_000
    noise = correlate(np.random.default_rng(4).standard_normal((n, k, 1, 1)), correlation)[..., 0, 0]
    truth = np.full((k, k), correlation) + (1 - correlation) * np.eye(k)
    assert covariance_z(noise, truth) < Z
    assert covariance_z(noise, truth + 0.02 * (1 - np.eye(k))) > Z
    if correlation == -0.5:
        np.testing.assert_allclose(noise.mean(axis=1), 0.0, atol=1e-12)


def test_correlate_keeps_variance_with_skewed_noise():
    noise = np.random.default_rng(4).exponential(size=(200_000, 4, 1, 1)) - 1.0
    for correlation in (-0.3, 0.6):
        square = correlate(noise, correlation)[:, 1, 0, 0] ** 2
        assert abs(square.mean() - 1.0) < Z * square.std() / np.sqrt(square.size)


def test_covariance_root():
    root = covariance_root(FULL)
    np.testing.assert_allclose(root @ root.T, FULL, atol=1e-12)
    singular = np.outer(X[:, 0], X[:, 0])
    np.testing.assert_allclose(covariance_root(singular) @ covariance_root(singular), singular, atol=1e-7)
    np.testing.assert_allclose(covariance_root(np.array([4.0, 0.0, 9.0])), [2.0, 0.0, 3.0])
    assert covariance_root(np.array(2.25)) == 1.5


STEPS = kd.GradientDescent(n_steps=6, learning_rate=0.05, initialization_sd=0.7)
CASES = {
    "single": make(),
    "per input": make(noise_variance=np.arange(1.0, N + 1)),
    "full": make(noise_variance=FULL),
    "shared": make(input_correlation=0.5),
    "averaging": make(n_responses=4, response_correlation=0.3, noise_variance=FULL),
    "negative": make(n_responses=3, response_correlation=-0.4),
    "fitting": make(n_responses=3, fitting_covariance=0.3 * FULL),
    "multi": make(n_responses=3, strategy="multi_response", response_correlation=0.2),
    "chain": make(n_generations=3, student=kd.LinearStudent(penalty=0.5), fitting_covariance=0.3 * FULL),
    "chain of steps": make(n_generations=2, student=kd.LinearStudent(training=STEPS)),
    "pilot": make(n_responses=5, strategy="variance_weighting", response_correlation=0.2),
    "pilot of steps": make(n_responses=4, strategy="variance_weighting", student=kd.LinearStudent(training=STEPS)),
    "given": make(
        n_responses=2,
        strategy="variance_weighting",
        weighting=kd.VarianceWeighting(student_estimate=MEAN + 1.0, student_variance=FULL),
    ),
    "oracle": make(
        n_responses=3,
        strategy="variance_weighting",
        weighting=kd.VarianceWeighting(student_estimate="teacher_mean", weight="estimated"),
    ),
    "teacher off": make(sources=["student_output"], n_responses=2),
}


@pytest.mark.parametrize("name", CASES)
def test_labels_follow_their_law(name):
    problem = CASES[name]
    law = label_law(problem, smoother(problem))
    drawn, within = labels(problem)
    truth = law.full_covariance()
    sample = drawn[..., 0]
    if name == "teacher off":
        np.testing.assert_allclose(sample, np.broadcast_to(MEAN, sample.shape))
        return
    gap = sample.mean(axis=0) - law.mean[:, 0]
    assert (np.abs(gap) / np.sqrt(np.diag(truth) / len(sample))).max() < Z
    products = (sample - sample.mean(axis=0))[:, :, None] * (sample - sample.mean(axis=0))[:, None, :]
    error = products.std(axis=0) / np.sqrt(len(sample))
    assert (np.abs(products.mean(axis=0) - truth) / error).max() < Z
    assert (np.abs(products.mean(axis=0) - 1.1 * truth) / error).max() > Z
    if problem.design.strategy == "multi_response":
        spread = within[..., 0].sum(axis=1)
        assert abs(spread.mean() - law.within) < Z * spread.std() / np.sqrt(len(spread))


def test_outputs_are_independent():
    drawn, _ = labels(make(mean=np.column_stack([MEAN, -MEAN])))
    centred = drawn - drawn.mean(axis=0)
    correlation = (centred[..., 0] * centred[..., 1]).mean(axis=0)
    assert np.abs(correlation).max() < Z / np.sqrt(len(drawn))


def test_labels_carry_the_shape_of_the_noise():
    drawn, _ = labels(make(), law=Laplace())
    assert stats.kstest((drawn[..., 0] - MEAN).ravel(), stats.laplace(scale=np.sqrt(0.5)).cdf).pvalue > 1e-4


def test_counts_are_multinomial():
    problem = make(resample_size=9)
    counts = np.concatenate([draw_counts(problem, SEEDS, block) for block in range(20)])
    assert (counts.sum(axis=1) == 9).all()
    assert covariance_z(counts, 9 * (np.eye(N) / N - 1 / N**2)) < Z
    assert stats.chisquare(counts.sum(axis=0)).pvalue > 1e-4
    assert draw_counts(make(), SEEDS, 0) is None


def test_blocks_depend_on_seed_and_number_alone():
    problem = make(resample_size=5, n_responses=2)
    one = draw_training_block(problem, SEEDS, 3, Gaussian())
    again = draw_training_block(problem, SEEDS, 3, Gaussian())
    np.testing.assert_array_equal(one.labels, again.labels)
    np.testing.assert_array_equal(one.counts, again.counts)
    assert one.labels.shape == (BLOCK, N, 1)
    assert (one.labels != draw_training_block(problem, SEEDS, 4, Gaussian()).labels).all()
    other = draw_training_block(problem, SEEDS.with_seed(data_resampling=1), 3, Gaussian())
    np.testing.assert_array_equal(one.labels, other.labels)
    assert (one.counts != other.counts).any()


def test_generations_draw_fresh_noise():
    problem = make(n_generations=2)
    first = draw_responses(problem, SEEDS, 0, Gaussian())
    second = draw_responses(problem, SEEDS, 0, Gaussian(), generation=1)
    a, b = (first - MEAN[:, None]).ravel(), (second - MEAN[:, None]).ravel()
    assert abs(np.corrcoef(a, b)[0, 1]) < Z / np.sqrt(a.size)


def test_initial_coefficients():
    problem = make(student=kd.LinearStudent(training=STEPS))
    drawn = np.concatenate([initial_coefficients(problem, SEEDS, block) for block in range(20)])
    assert drawn.shape == (20 * BLOCK, 3, 1)
    assert stats.kstest(drawn.ravel(), stats.norm(scale=0.7).cdf).pvalue > 1e-4
    assert initial_coefficients(make(), SEEDS, 0) is None
    assert initial_coefficients(problem.with_design(sources=["teacher_output"]), SEEDS, 0) is None
    assert (initial_coefficients(problem, SEEDS, 0) != initial_coefficients(problem, SEEDS, 0, "pilot")).all()
