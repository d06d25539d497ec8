"""Intervals that carry a pilot's uncertainty into a plan: how often they hold the truth."""

import numpy as np
import pytest
from scipy.stats import binomtest

import kdstats as kd
from kdstats.planning import even_plan, uneven_plan
from kdstats.planning.allocation import allocate
from kdstats.planning.leverage import least_squares_law
from kdstats.planning.pilot import input_variances

N, P, PILOT, NOISE, MISFIT = 25, 3, 3, 2.0, 0.6
PRICES = {"budget": 900.0, "prompt_cost": 6.0, "response_cost": 1.0}
LEVEL = 0.001  # of each test


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(even_plan, "N_SUBSETS", 0)
    monkeypatch.setattr(even_plan, "N_PLANNED", 1)
    monkeypatch.setattr(even_plan, "SCALES", np.array([1.0]))


def pilots(n_pilots, *, misfit, rho=0.0):
    """Draw pilots of PILOT responses to each of the same inputs, and describe each as a user would."""
    rng = np.random.default_rng(4)
    X, query = rng.normal(size=(N, P)), rng.normal(size=(10, P))
    for _ in range(n_pilots):
        centre = X.sum(axis=1) + np.sqrt(misfit) * rng.normal(size=N)
        responses = centre[:, None] + np.sqrt((1 - rho) * NOISE) * rng.normal(size=(N, PILOT))
        responses += np.sqrt(rho * NOISE) * rng.normal(size=(N, 1))
        within = responses.var(axis=1, ddof=1).mean()
        yield kd.DistillationProblem(
            teacher=kd.GaussianTeacher(X, responses.mean(axis=1), noise_variance=within, response_correlation=rho),
            student=kd.LinearStudent(),
            design=kd.Design(query),
        )


def covered(n_pilots, *, criterion, misfit, assumed=PILOT, rho=0.0):
    """Count intervals that hold the value that the recommended design really has."""
    hits = 0
    for problem in pilots(n_pilots, misfit=misfit, rho=rho):
        result = kd.plan(problem, criterion=criterion, pilot=assumed, **PRICES)
        law = least_squares_law(problem, at_new_inputs=criterion == "mse")
        leverage = float(law.factors(result.n_inputs, result.n_responses).noise)
        truth = NOISE * ((1 - rho) / result.n_responses + rho) * leverage
        if criterion == "mse":
            truth += misfit * (1 + leverage)
        hits += result.value_interval.low <= truth <= result.value_interval.high
    return hits


@pytest.mark.parametrize("n_pilots", [300, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("criterion", "misfit", "rho"),
    [
        ("inter_student", 0.0, 0.0),
        ("mse", MISFIT, 0.0),
        ("inter_student", 0.0, 0.5),
        pytest.param("mse", MISFIT, 0.5, marks=pytest.mark.slow),
    ],
)
def test_the_value_of_the_recommended_design(quick, n_pilots, criterion, misfit, rho):
    hits = covered(n_pilots, criterion=criterion, misfit=misfit, rho=rho)
    assert binomtest(hits, n_pilots, 0.95).pvalue > LEVEL, hits / n_pilots


def test_a_pilot_taken_for_a_larger_one_is_too_sure(quick):
    hits = covered(300, criterion="inter_student", misfit=0.0, assumed=2 * PILOT)
    assert binomtest(hits, 300, 0.95, alternative="less").pvalue < LEVEL, hits / 300


@pytest.mark.slow
def test_numbers_to_buy_for_a_target(monkeypatch):
    monkeypatch.setattr(even_plan, "N_SUBSETS", 0)
    monkeypatch.setattr(even_plan, "SCALES", np.array([1.0]))
    prices = {"target": 0.02, "prompt_cost": 6.0, "response_cost": 1.0}
    hits, n_pilots = np.zeros(2, dtype=int), 60
    for problem in pilots(n_pilots, misfit=0.0):
        result = kd.plan(problem, pilot=PILOT, **prices)
        truth = kd.plan(problem.with_teacher(noise_variance=NOISE), **prices)
        for i, (interval, value) in enumerate(
            [(result.n_inputs_interval, truth.n_inputs), (result.cost_interval, truth.cost)]
        ):
            hits[i] += interval.low <= value <= interval.high
    # whole numbers can only widen an interval
    assert all(binomtest(int(hit), n_pilots, 0.95, alternative="less").pvalue > LEVEL for hit in hits), hits


def covered_inputs(n_pilots, *, prior_df, df, estimate):
    """Count intervals of the variance of a design whose inputs and responses the estimates themselves chose."""
    rng, hits, n = np.random.default_rng(7), 0, 40
    influence = rng.gamma(3.0, size=n) / 3.0
    for _ in range(n_pilots):
        truth = np.full(n, 2.0) if np.isinf(prior_df) else 2.0 * prior_df / rng.chisquare(prior_df, size=n)
        found = truth * rng.chisquare(df, size=n) / df
        mean, draws = estimate(found, df, rng)
        chosen = np.argsort(mean)[:12]
        counts = allocate((influence * mean)[chosen], 40)
        low, high = np.quantile(draws[:, chosen] @ (influence[chosen] / counts), (0.025, 0.975))
        hits += low <= (influence * truth)[chosen] @ (1 / counts) <= high
    return hits


def shrunken(found, df, rng):
    variances = input_variances(found, df, n_draws=500, generator=rng)
    return variances.mean, variances.draws


def taken_at_their_word(found, df, rng):
    """The pilot's mean variance is exact enough; each input's estimate is scaled by that error alone."""
    whole = df * found.size
    return found, found * whole / rng.chisquare(whole, size=(500, 1))


@pytest.mark.parametrize("n_pilots", [200, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("prior_df", "df"), [(4.0, 4), (10.0, 2), (np.inf, 3)])
def test_unequal_noise_after_choosing_the_quiet_inputs(prior_df, df, n_pilots):
    hits = covered_inputs(n_pilots, prior_df=prior_df, df=df, estimate=shrunken)
    # at least 95%: the error of the prior itself is added by simulation, which can only widen the interval
    assert binomtest(hits, n_pilots, 0.95, alternative="less").pvalue > LEVEL, hits / n_pilots
    assert binomtest(hits, n_pilots, 0.98, alternative="greater").pvalue > LEVEL, hits / n_pilots  # nor much more


def test_with_estimates_taken_at_their_word_the_choice_spoils_the_interval():
    hits = covered_inputs(300, prior_df=10.0, df=2, estimate=taken_at_their_word)
    assert binomtest(hits, 300, 0.95, alternative="less").pvalue < LEVEL, hits / 300


def covered_errors(n_pilots, *, misfit, spread_of_misfit=True):
    """Count intervals of the squared error of designs that a pilot of inputs of unequal noise chose."""
    rng, hits, n, k0 = np.random.default_rng(9), 0, 20, 4
    X = rng.normal(size=(n, 1))
    query = X[:10] + 0.1
    asked = np.column_stack([np.ones(len(query)), query])
    for _ in range(n_pilots):
        noise = 0.5 * 8 / rng.chisquare(8, size=n)
        centre = X[:, 0] + np.sqrt(misfit) * rng.normal(size=n)
        responses = centre + np.sqrt(noise) * rng.normal(size=(k0, n))
        problem = kd.DistillationProblem(
            teacher=kd.GaussianTeacher(X, responses.mean(axis=0), noise_variance=responses.var(axis=0, ddof=1)),
            student=kd.LinearStudent(),
            design=kd.Design(query),
        )
        given = {} if spread_of_misfit else {"misfit_variance": 0.7 * misfit}
        result = kd.plan(problem, criterion="mse", pilot=k0, budget=60, prompt_cost=2, response_cost=1, **given)
        Z = np.column_stack([np.ones(result.n_inputs), X[result.inputs]])
        weights = np.mean((asked @ np.linalg.inv(Z.T @ Z) @ Z.T) ** 2, axis=0)
        truth = weights @ (noise[result.inputs] / result.n_responses) + misfit * (1 + weights.sum())
        hits += result.value_interval.low <= truth <= result.value_interval.high
    return hits


@pytest.fixture
def uneven_quick(quick, monkeypatch):
    monkeypatch.setattr(uneven_plan, "N_PLANNED", 1)
    monkeypatch.setattr(uneven_plan, "SCALES", np.array([1.0]))


@pytest.mark.parametrize("n_pilots", [25, pytest.param(150, marks=pytest.mark.slow)])
def test_squared_error_with_unequal_noise_carries_the_misfit(uneven_quick, n_pilots):
    hits = covered_errors(n_pilots, misfit=1.0)
    assert binomtest(hits, n_pilots, 0.95, alternative="less").pvalue > LEVEL, hits / n_pilots


def test_a_misfit_taken_as_known_spoils_the_interval(uneven_quick):
    hits = covered_errors(20, misfit=1.0, spread_of_misfit=False)  # known, they say, but 30% off
    assert binomtest(hits, 20, 0.95, alternative="less").pvalue < LEVEL, hits / 20
