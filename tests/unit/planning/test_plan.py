"""The public verb: what it promises, what it refuses, what it says."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import binomtest, chi2

import kdstats as kd
from kdstats.components.estimation import effective_rank
from kdstats.components.uncertainty import average_df
from kdstats.errors import ProblemError, UnsupportedProblemError
from kdstats.planning import request
from kdstats.planning.uneven import input_pool, well_chosen
from kdstats.streams import as_seeds

PRICES = {"prompt_cost": 3.0, "response_cost": 1.0}


def problem(*, n=60, p=3, noise=1.0, seed=0, strategy=None, k=2, misfit=0.5, outputs=1, **options):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    mean = X @ rng.normal(size=(p, outputs)) + np.sqrt(misfit) * rng.normal(size=(n, outputs))
    student = {name: options.pop(name) for name in ("penalty", "fit_intercept") if name in options}
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, noise_variance=noise, **options),
        student=kd.LinearStudent(**student),
        design=kd.Design(rng.normal(size=(15, p)), n_responses=k, strategy=strategy),
    )


PLAIN = problem()
UNEVEN = problem(n=14, p=1, noise=np.exp(np.random.default_rng(3).normal(size=14)))


@settings(max_examples=15, deadline=None)
@given(
    budget=st.floats(30, 3000),
    more=st.floats(1.0, 3.0),
    prompt=st.floats(0, 20),
    rho=st.sampled_from([0.0, 0.1, 0.7]),
    misfit=st.sampled_from([None, 0.0, 0.5]),
)
def test_a_bigger_budget_is_never_worse(budget, more, prompt, rho, misfit):
    asked = PLAIN.with_teacher(response_correlation=rho)
    prices = {"prompt_cost": prompt, "response_cost": 1.0, "misfit_variance": misfit}
    least = 6 * (prompt + 1)
    small = kd.plan(asked, budget=least + budget, **prices)
    large = kd.plan(asked, budget=least + more * budget, **prices)
    assert large.value <= small.value * (1 + 1e-12)
    assert small.cost <= (least + budget) * (1 + 1e-9)


@settings(max_examples=12, deadline=None)
@given(share=st.floats(0.02, 0.9), prompt=st.floats(0, 20), rho=st.sampled_from([0.0, 0.2]))
def test_a_target_is_met_at_the_least_cost(share, prompt, rho):
    asked = PLAIN.with_teacher(response_correlation=rho)
    prices = {"prompt_cost": prompt, "response_cost": 1.0}
    result = kd.plan(asked, target=share, **prices)
    assert result.value <= share
    # the cheaper designs, all of them, miss it
    cheaper = kd.plan(asked, budget=result.cost * (1 - 1e-9), **prices) if result.cost > 6 * (prompt + 1) else None
    assert cheaper is None or cheaper.value > share


@settings(max_examples=4, deadline=None)
@given(budget=st.integers(12, 90), more=st.integers(1, 40))
def test_unequal_noise_spends_within_the_budget_and_gains_by_more(budget, more):
    small = kd.plan(UNEVEN, budget=budget, prompt_cost=2, response_cost=1)
    large = kd.plan(UNEVEN, budget=budget + more, prompt_cost=2, response_cost=1)
    assert small.cost <= budget
    # sets are found by exchange, which need not find the best: within 2%
    assert large.value <= small.value * 1.02


def test_unequal_noise_meets_a_target():
    result = kd.plan(UNEVEN, target=0.05, prompt_cost=2, response_cost=1)
    assert result.value <= 0.05
    fewer = kd.plan(UNEVEN, budget=0.97 * result.cost, prompt_cost=2, response_cost=1)
    assert fewer.value > 0.05 / 1.02


def choosing(result):
    return [note for note in result.notes if "chosen for where they lie" in note]


def test_a_note_says_what_choosing_inputs_would_bring():
    rng = np.random.default_rng(3)
    X = np.exp(1.5 * rng.normal(size=(80, 2)))
    heavy = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X @ [1.0, -2.0], noise_variance=0.25),
        student=kd.LinearStudent(),
        design=kd.Design(X[:40]),
    )
    result = kd.plan(heavy, budget=110, prompt_cost=10, response_cost=1)
    (note,) = choosing(result)
    assert any("random subsets of these inputs give" in other for other in result.notes)
    said = float(re.search(r"variance of (\S+),", note).group(1))
    market = request.market_of(
        heavy,
        as_seeds(0),
        {"prompt_cost": 10, "response_cost": 1, "max_inputs": None, "max_responses": None},
        mse=False,
        misfit=None,
        pilot=None,
    )[0]
    rows = np.flatnonzero(well_chosen(input_pool(heavy, market, np.random.default_rng(0)), result.n_inputs))
    at_rows = heavy.with_teacher(X=X[rows], mean=heavy.teacher.mean[rows]).with_design(n_responses=1)
    exact = kd.predict(at_rows).inter_student.mean().item() / result.n_responses
    assert said == pytest.approx(exact, rel=1e-3)  # four digits are shown
    assert exact < 0.9 * result.subset_mean
    # of nearly all inputs, or all, there is little to choose
    most = kd.plan(problem(n=60), budget=59 * 4, max_responses=1, **PRICES)
    assert (most.n_inputs, choosing(most)) == (59, [])
    assert not choosing(kd.plan(PLAIN, interval_ratio=1.5, **PRICES))


def far_queries(seed):
    rng = np.random.default_rng(500 + seed)
    X = rng.normal(size=(11, 2)) * (np.exp(rng.normal(size=(11, 1))) if seed == 15 else 1.0)
    query, noise = rng.normal(size=(12, 2)) + 3, np.exp(1.2 * rng.normal(size=11))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X @ [1.0, -2.0], noise_variance=noise, response_correlation=0.2),
        student=kd.LinearStudent(penalty=2.0),
        design=kd.Design(query),
    )


@pytest.mark.parametrize(("seed", "budget"), [(15, 20), (7, 22)])
def test_unequal_noise_reaches_what_a_budget_reaches_for_no_more_money(seed, budget):
    prices = {"prompt_cost": 1, "response_cost": 4, "criterion": "mse", "misfit_variance": 0.3}
    bought = kd.plan(far_queries(seed), budget=budget, **prices)
    result = kd.plan(far_queries(seed), target=1.01 * bought.value, **prices)
    assert result.value <= 1.01 * bought.value
    assert result.cost <= bought.cost


def test_of_equal_designs_the_cheapest_is_bought():
    anti = problem(n=30, p=4, k=5).with_teacher(response_correlation=-0.2)  # six responses have no variance in the mean
    result = kd.plan(anti, budget=300, **PRICES)
    assert (result.n_inputs, result.n_responses, result.cost, result.inter_student) == (7, 6, 63, 0)
    assert result.neighbours["loss"].min() == 0
    assert "nan" not in result.summary()
    shared = problem(n=30, p=4).with_teacher(input_correlation=1.0)  # all inputs share all noise: more of them add none
    assert kd.plan(shared, budget=300, **PRICES).n_inputs == 7
    uneven = anti.with_teacher(noise_variance=np.linspace(1, 2, 30))
    few = kd.plan(uneven, budget=300, **PRICES)
    assert (few.n_inputs, few.cost, few.inter_student) == (5, 45, 0)


def test_the_value_is_what_predict_says_of_the_same_design():
    result = kd.plan(UNEVEN, budget=40, prompt_cost=2, response_cost=1)
    rows, counts = result.inputs, result.n_responses
    teacher = UNEVEN.teacher
    means = UNEVEN.with_teacher(  # a mean of k responses is one response of a k times smaller variance
        X=teacher.X[rows], mean=teacher.mean[rows], noise_variance=teacher.noise_variance[rows] / counts
    ).with_design(n_responses=1, strategy="single", sources=["teacher_output"])
    np.testing.assert_allclose(kd.predict(means).inter_student.mean().item(), result.value, rtol=1e-10)
    assert result.exactness == "exact"


def test_even_value_is_exact_at_the_inputs_at_hand():
    result = kd.plan(PLAIN, interval_ratio=1.5, **PRICES)
    np.testing.assert_allclose(result.value, kd.predict(PLAIN).inter_student.mean().item(), rtol=1e-10)
    assert result.exactness == "exact"
    assert result.subset_mean == pytest.approx(result.value)


def test_students_for_an_interval_and_for_power():
    from kdstats.hypotest import df_for_equality

    rank = float(kd.predict(PLAIN).attrs["effective_rank"])
    result = kd.plan(PLAIN, detectable_ratio=1.5, power=0.9, budget=10_000, training_cost=2, **PRICES)
    assert result.n_students == int(np.ceil(df_for_equality(1.5, power=0.9) / rank)) + 1
    k, n, s = result.n_responses, result.n_inputs, result.n_students
    assert result.cost == pytest.approx(n * 3 + s * (n * k + 2))  # responses anew for every student
    assert result.n_responses_total == s * n * k
    wide = kd.plan(PLAIN, interval_ratio=2.0, **PRICES).n_students
    assert kd.plan(PLAIN, interval_ratio=1.2, **PRICES).n_students > wide
    by_rank = [np.divide(*chi2.ppf([0.975, 0.025], rank * (students - 1))) for students in (wide - 1, wide)]
    assert 2.0 >= by_rank[1]  # an interval that knew the rank would be narrower


@pytest.mark.parametrize(("ratio", "scarce"), [(2.0, 2), (3.0, 3)])
def test_the_median_interval_is_as_narrow_as_promised(ratio, scarce):
    """Students' means drawn from their law, averaged and given the interval that observations get."""
    covariance = kd.predict(PLAIN, covariance=True).covariance
    C = np.asarray(covariance).squeeze()
    root = np.linalg.cholesky(C + 1e-12 * np.trace(C) * np.eye(len(C)))
    planned = kd.plan(PLAIN, interval_ratio=ratio, **PRICES).n_students

    def above(students, n_studies=400):
        rng, count = np.random.default_rng(students), 0
        for _ in range(n_studies):
            means = rng.normal(size=(students, len(C))) @ root.T
            rank = effective_rank(means - means.mean(axis=0), df=students - 1)
            bounds = chi2.ppf([0.975, 0.025], float(average_df(students - 1, np.asarray(rank))))
            count += bounds[0] / bounds[1] > ratio
        return count

    assert binomtest(above(planned), 400, 0.5, alternative="greater").pvalue > 0.001
    assert binomtest(above(planned - scarce), 400, 0.5, alternative="greater").pvalue < 0.001  # and not by waste


def test_mean_squared_error_is_the_default_for_ridge_students():
    ridge = problem(penalty=5.0)
    result = kd.plan(ridge, budget=200, **PRICES)
    assert (result.criterion, result.exactness) == ("mse", "simulated")
    assert 0 < result.standard_error < 0.05 * result.value
    # variance alone is least for students that learn nothing
    assert kd.plan(ridge, budget=200, criterion="inter_student", **PRICES).n_inputs < result.n_inputs


def test_ridge_targets_and_rows():
    for strategy in ("averaging", "multi_response"):
        ridge = problem(penalty=5.0, strategy=strategy)
        bought = kd.plan(ridge, budget=200, **PRICES)
        result = kd.plan(ridge, target=bought.value, **PRICES)
        assert result.value <= bought.value
        assert result.cost <= bought.cost * 1.02  # numbers of inputs are searched on a grid of ratio 1.01
    assert any("with all rows" in note for note in bought.notes)


def test_correlation_makes_responses_useless_and_the_plan_says_so():
    free = kd.plan(PLAIN, budget=2000, prompt_cost=100, response_cost=1)
    bound = kd.plan(PLAIN.with_teacher(response_correlation=0.8), budget=2000, prompt_cost=100, response_cost=1)
    assert bound.n_responses < free.n_responses
    assert bound.floor_share > 0.9
    assert any("more of them are useless" in note for note in bound.notes)
    assert any("new inputs are worth more" in note for note in kd.plan(PLAIN, budget=50, response_cost=1).notes)


def test_the_best_number_of_responses_tends_to_its_formula():
    result = kd.plan(PLAIN, budget=10**6, prompt_cost=64, response_cost=1, misfit_variance=0.25, criterion="mse")
    assert result.n_responses == 16  # sqrt(1 * 64 / (0.25 * 1))
    assert any("tends to 16" in note for note in result.notes)


def test_free_prompts_and_free_responses():
    assert kd.plan(PLAIN, budget=60, prompt_cost=0, response_cost=1).n_responses == 1
    free = kd.plan(PLAIN, budget=60, prompt_cost=3, response_cost=0, max_responses=7)
    assert (free.n_inputs, free.n_responses) == (20, 7)


def test_limits_hold():
    assert kd.plan(PLAIN, budget=10_000, max_inputs=9, **PRICES).n_inputs == 9
    assert kd.plan(PLAIN, budget=10_000, max_responses=2, **PRICES).n_responses == 2
    anti = PLAIN.with_design(n_responses=1).with_teacher(response_correlation=-0.2)
    assert kd.plan(anti, budget=10_000, prompt_cost=500, response_cost=1).n_responses <= 6


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"budget": 20}, r"`budget` must be at least 24, which pays for 6 inputs"),
        ({"noise": UNEVEN.teacher.variances, "n": 14, "p": 1}, {"budget": 7}, "must be at least 8, which pays for 2"),
        ({"response_correlation": 0.5, "input_correlation": 0.1}, {"target": 0.05}, "greater than the floor 0.05 that"),
        ({}, {"target": 0.4, "misfit_variance": 0.5}, "greater than the floor 0.5 that"),
        ({}, {"target": 0.1, "max_inputs": 6, "max_responses": 2}, "greater than the floor"),
        ({}, {}, "`budget` must be given"),
        ({}, {"budget": 100, "target": 1.0}, "`budget` must be left out with `target`"),
        ({}, {"budget": -1}, "`budget` must be greater than 0"),
        ({}, {"budget": 100, "prompt_cost": 0, "response_cost": 0}, "`response_cost` must be greater than 0"),
        ({}, {"budget": 100, "response_cost": 0}, "`max_responses` must be given"),
        ({}, {"budget": 100, "prompt_cost": -1}, "`prompt_cost` must be at least 0"),
        ({}, {"budget": 100, "max_inputs": 5}, "`max_inputs` must be at least 6"),
        (
            {"response_correlation": 1.0},
            {"budget": 100, "pilot": 3},
            "`response_correlation` must be below 1 with a pilot",
        ),
        ({}, {"budget": 100, "pilot": 1}, "`pilot` must be at least 2 to estimate a variance; got 1"),
        ({}, {"budget": 100, "n_students": 3, "interval_ratio": 2.0}, "`n_students` must be left out"),
        ({}, {"budget": 100, "interval_ratio": 1.0}, "`interval_ratio` must be greater than 1"),
        ({}, {"detectable_ratio": 1.0}, "`detectable_ratio` must differ from 1"),
        ({}, {"budget": 100, "criterion": "variance"}, "`criterion` must be one of"),
        ({}, {"budget": 100, "criterion": "inter_student", "misfit_variance": 1.0}, "`misfit_variance` must be left"),
        ({"n": 5}, {"budget": 100}, "`X` must have at least 6 rows"),
    ],
)
def test_what_cannot_be_is_refused(changes, options, message):
    with pytest.raises(ProblemError, match=message):
        kd.plan(problem(**changes), **(PRICES | options))


def test_the_smallest_budget_and_the_floor_are_where_the_messages_say():
    assert kd.plan(PLAIN, budget=24, **PRICES).n_inputs == 6
    bound = PLAIN.with_teacher(response_correlation=0.5, input_correlation=0.1)
    assert kd.plan(bound, target=0.051, **PRICES).value <= 0.051
    students = kd.plan(PLAIN, budget=6 * (3 + 4) + 4 * 10, n_students=4, training_cost=10, **PRICES)
    assert (students.n_inputs, students.n_responses) == (6, 1)
    with pytest.raises(ProblemError, match="at least 82"):
        kd.plan(PLAIN, budget=81, n_students=4, training_cost=10, **PRICES)


@pytest.mark.parametrize(
    "other",
    [
        PLAIN.with_design(strategy="variance_weighting"),
        PLAIN.with_student(weights=np.ones(60)),
        PLAIN.with_design(resample_size=50),
        PLAIN.with_teacher(noise_variance=np.eye(60)),
        PLAIN.with_teacher(noise_variance=np.linspace(1, 2, 60), input_correlation=0.1),
        PLAIN.with_teacher(noise_variance=np.linspace(1, 2, 60)).with_design(strategy="multi_response"),
        PLAIN.with_student(fit_intercept=False).with_teacher(input_correlation=0.1),
    ],
)
def test_what_is_not_covered_is_refused(other):
    with pytest.raises(UnsupportedProblemError, match="planning covers"):
        kd.plan(other, budget=1000, **PRICES)


def test_summary_table_and_json():
    result = kd.plan(PLAIN, budget=500, pilot=3, **PRICES)
    text = result.summary()
    assert text.startswith("Plan for a budget of 500")
    assert result.sentence in text
    assert f"Ask the teacher about {result.n_inputs} inputs, {result.n_responses} responses each, for" in repr(result)
    near = result.neighbours
    assert near["loss"].min() == 0.0
    assert near.loc[near["loss"].idxmin(), "n_responses"] == result.n_responses
    assert {result.n_responses - 1, result.n_responses + 1} & set(near["n_responses"])
    assert (result.frontier["cost"].diff().dropna() > 0).all()
    assert (result.frontier["inter_student"].diff().dropna() < 0).all()
    back = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert back["value_interval"]["low"] < back["value"] < back["value_interval"]["high"]
    uneven = kd.plan(UNEVEN, budget=60, prompt_cost=2, response_cost=1)
    assert len(json.loads(json.dumps(uneven.to_dict(), allow_nan=False))["n_responses"]) == uneven.n_inputs
    assert "spread evenly" in uneven.summary()


def test_the_seed_decides():
    noisy = UNEVEN.with_teacher(noise_variance=UNEVEN.teacher.variances)
    one, same = (kd.plan(noisy, budget=60, pilot=4, rng=1, **PRICES) for _ in range(2))
    assert one.value_interval == same.value_interval
    assert one.sentence == same.sentence


def test_a_pilot_with_zero_spread_at_an_input_is_refused():
    zero = UNEVEN.with_teacher(noise_variance=np.append(0.0, UNEVEN.teacher.variances[1:]))
    with pytest.raises(ProblemError, match="`noise_variance` must be greater than 0 at every input with a pilot"):
        kd.plan(zero, budget=60, pilot=3, **PRICES)
