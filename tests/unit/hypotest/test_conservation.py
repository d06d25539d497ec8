import numpy as np
import pytest
from scipy import stats

import kdstats as kd
from kdstats.errors import ApproximationWarning, ComparisonError, ProblemError


def tabular(k, *, seed, n_students=300, probabilities=(0.5, 0.2, 0.2, 0.1)):
    """Students that estimate class probabilities from k sampled responses; outputs are classes."""
    rng = np.random.default_rng(seed)
    share = rng.multinomial(k, probabilities, size=n_students) / k
    return kd.estimate_components(share[:, None, None, :], variances=(share * (1 - share))[:, None, :])


GINI = 1 - (np.array([0.5, 0.2, 0.2, 0.1]) ** 2).sum()


def test_tabular_students_keep_the_gini_index_for_every_k():
    observed = {k: tabular(k, seed=k) for k in (1, 2, 5, 20)}
    assert observed[1].intra_student.values.max() == 0.0  # one response: all of it is between students
    assert kd.conservation_test(observed).pvalue > 0.01
    known = kd.conservation_test(observed, total=GINI / 4)
    assert known.pvalue > 0.01
    assert known.adjusted_pvalues.shape == (4,)
    other = tabular(5, seed=9, probabilities=(0.7, 0.1, 0.1, 0.1))
    assert kd.conservation_test(observed | {"other": other}).pvalue < 1e-6
    assert kd.conservation_test(observed, total=0.9 * GINI / 4).pvalue < 1e-6


def test_linear_students_move_variance_at_one_response_and_averaging_removes_it():
    X = np.random.default_rng(0).normal(size=(20, 3))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=1.5),
        student=kd.LinearStudent(residual_variance="mle"),
        design=kd.Design(X),
    )
    runs = [kd.observe(problem, n_students=200, rng=seed) for seed in range(25)]
    z = [kd.conservation_test({"single": run}, total=1.5).statistic for run in runs]
    assert abs(np.mean(z)) < 4 / np.sqrt(25)
    single = runs[0]
    assert kd.conservation_test({"single": single}, total=kd.predict(problem)).statistic == pytest.approx(z[0])
    averaged = kd.observe(problem.with_design(n_responses=4, strategy="averaging"), n_students=400, rng=2)
    result = kd.conservation_test({"single": single, "averaging": averaged})
    assert result.pvalue < 1e-6
    assert "single" in str(result)


def test_two_strategies_are_welchs_t_test_of_logarithms():
    observed = {k: tabular(k, seed=k) for k in (2, 5)}
    result = kd.conservation_test(observed)
    logs, errors = np.log(result.totals), result.standard_errors / result.totals
    t = np.diff(logs)[0] / np.hypot(*errors)
    df = (errors**2).sum() ** 2 / (errors**4 / 299).sum()
    assert result.statistic == pytest.approx(t**2)
    assert result.df_denominator == pytest.approx(df)
    assert result.pvalue == pytest.approx(2 * stats.t.sf(abs(t), df))


def test_refusals(make_observed):
    one = tabular(5, seed=1)
    still = kd.estimate_components(np.ones((9, 1, 2)), variances=0.0)
    cases = [
        (lambda: kd.conservation_test({"a": one}), ComparisonError, "at least 2 labels"),
        (lambda: kd.conservation_test([one, one]), ComparisonError, "got a list"),
        (lambda: kd.conservation_test({"a": one, "b": still}), ComparisonError, "positive total"),
        (lambda: kd.conservation_test({"a": one, "b": 3}), ComparisonError, "something else for 'b'"),
        (lambda: kd.conservation_test({"a": one}, total=one), ComparisonError, "prediction without error"),
        (lambda: kd.conservation_test({"a": one}, total=-1.0), ProblemError, "`total` must be"),
        (
            lambda: kd.conservation_test({"a": make_observed(np.eye(5), within=np.nan)}, total=1.0),
            ComparisonError,
            "at least 2 outputs",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_few_students_mark_the_result_unreliable():
    with pytest.warns(ApproximationWarning, match="150 students of classes"):
        assert "UNRELIABLE" in str(kd.conservation_test({1: tabular(1, seed=1, n_students=150)}, total=GINI / 4))
    values = np.random.default_rng(1).normal(size=(59, 2, 1))
    with pytest.warns(ApproximationWarning, match="59 students in"):
        kd.conservation_test({"a": kd.estimate_components(values)}, total=1.0)


def test_skewed_students_mark_the_result_until_there_are_many():
    rng = np.random.default_rng(2)
    values = 3.0 * rng.exponential(size=(200, 1, 1)) + rng.normal(size=(200, 2, 1))
    shape = stats.norm.ppf((np.arange(100) + 0.5) / 100)[:, None, None]
    few, many, gaussian = values[:100], values, 3.0 * shape + 0.1 * rng.normal(size=(100, 2, 1))
    with pytest.warns(ApproximationWarning, match="the test holds its level from 200 of any law on"):
        assert kd.conservation_test({"a": kd.estimate_components(few)}, total=10.0).unreliable
    for held in (many, gaussian):
        assert not kd.conservation_test({"a": kd.estimate_components(held)}, total=10.0).unreliable
