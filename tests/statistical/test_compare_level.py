"""Family-wise error of a whole comparison: all its tests, one verdict, problems that are really trained.

A true prediction is called "disagree" with probability at most 5%, so that the number of such verdicts may not
exceed the 99.5% quantile of the binomial law with probability 5%.
"""

import numpy as np
import pytest
from scipy import stats

import kdstats as kd


def problem_of(n_outputs, noise_variance=0.5):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(25, 3))
    mean = X @ rng.normal(size=(3, n_outputs))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean if n_outputs > 1 else mean[:, 0], noise_variance=noise_variance),
        student=kd.LinearStudent(),
        design=kd.Design(X[:8] + 0.1, n_responses=2, strategy="averaging"),
    )


def comparisons(n_outputs, n_students, n, *, wrong=1.0, seed=0):
    problem = problem_of(n_outputs)
    predicted = kd.predict(problem_of(n_outputs, 0.5 / wrong), covariance=True)
    return [
        kd.compare(predicted, kd.observe(problem, n_students=n_students, rng=1000 * seed + index)) for index in range(n)
    ]


def most(n, probability=0.05):
    return stats.binom.ppf(0.995, n, probability)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_true_prediction_is_rarely_called_wrong(n_outputs):
    n = 40
    found = comparisons(n_outputs, 20, n, seed=1)
    assert sum(item.verdict == "disagree" for item in found) <= most(n)


@pytest.mark.slow
def test_every_test_of_a_comparison_holds_its_level():
    n = 300
    found = comparisons(2, 30, n, seed=2)
    assert sum(item.verdict == "disagree" for item in found) <= most(n)
    for name in ("equality", "pointwise", "covariance"):
        assert sum(item.tests[name].pvalue <= 0.05 for item in found) <= most(n), name
    any_of_three = sum(
        min(item.tests[name].pvalue for name in ("equality", "pointwise", "covariance")) <= 0.05 for item in found
    )
    assert any_of_three > most(n)  # negative control: the three tests without adjustment between them


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_wrong_prediction_is_refuted(n_outputs):
    """Theory off by a factor of 2.5."""
    assert sum(item.verdict == "disagree" for item in comparisons(n_outputs, 40, 10, wrong=2.5, seed=3)) == 10


@pytest.mark.slow
def test_a_prediction_off_by_the_margin_is_rarely_agreed_with():
    n = 100
    at_margin = comparisons(2, 30, n, wrong=1.5, seed=4)
    assert sum(item.verdict == "agree" for item in at_margin) <= most(n)
