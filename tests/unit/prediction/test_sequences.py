"""Students of sampled sequences: against the enumeration of all training sets, chain rules, and one token."""

import itertools
import math

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import ProblemError, UnsupportedProblemError

INITIAL = np.array([0.6, 0.4])
STEPS = np.array([[[0.8, 0.2], [0.3, 0.7]], [[0.5, 0.5], [0.9, 0.1]]])
#: Three tokens, the last ends the sequence.
ENDING = kd.SequenceTeacher([0.5, 0.4, 0.1], [[0.3, 0.5, 0.2], [0.6, 0.1, 0.3], [0.0, 0.0, 1.0]], length=4)


def sequences(teacher):
    return np.array(list(itertools.product(range(teacher.n_tokens), repeat=teacher.length)))


def student(rows, n_tokens):
    """Conditionals of a student of some sequences: a list of tables, the first with one row; zeros where unvisited."""
    tables = []
    for position in range(rows.shape[1]):
        before = rows[:, position - 1] if position else np.zeros(len(rows), dtype=int)
        table = np.zeros((n_tokens if position else 1, n_tokens))
        np.add.at(table, (before, rows[:, position]), 1.0)
        tables.append(table / np.maximum(table.sum(axis=1, keepdims=True), 1.0))
    return tables


def product(tables, everything):
    found = tables[0][0, everything[:, 0]]
    for position in range(1, everything.shape[1]):
        found = found * tables[position][everything[:, position - 1], everything[:, position]]
    return found


def entropies(p):
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)


def enumerated(teacher, k):
    """Expected values of everything over all multisets of k sequences."""
    everything = sequences(teacher)
    p = np.exp(teacher.log_probability(everything))
    reach, steps = teacher.marginals, [teacher.initial[None]] + [teacher.step(t) for t in range(1, teacher.length)]
    mean, found = np.zeros(len(p)), {}

    def add(name, weight, value):
        found[name] = found.get(name, 0.0) + weight * np.asarray(value)

    for chosen in itertools.combinations_with_replacement(range(len(p)), k):
        counts = np.bincount(chosen, minlength=len(p))
        weight = math.factorial(k) * np.prod(p**counts / [math.factorial(c) for c in counts])
        tables = student(everything[list(chosen)], teacher.n_tokens)
        q = product(tables, everything)
        mean += weight * q
        add("intra_student", weight, 1 - (q**2).sum())
        add("expected_entropy", weight, entropies(q))
        add("missing_mass", weight, p[q == 0].sum())
        for position, (table, step) in enumerate(zip(tables, steps, strict=True)):
            context = reach[position - 1] if position else np.ones(1)
            seen = table.sum(axis=1) > 0
            add((position, "intra_student"), weight, context @ np.where(seen, 1 - (table**2).sum(axis=1), 0.0))
            add((position, "inter_student"), weight, context @ np.where(seen, ((table - step) ** 2).sum(axis=1), 0.0))
            add((position, "expected_entropy"), weight, context @ np.where(seen, entropies(table), 0.0))
            add((position, "missing_context"), weight, context @ ~seen)
    return mean, p, found


@pytest.mark.parametrize("k", [1, 2, 4])
def test_against_enumeration(k):
    teacher = kd.SequenceTeacher(INITIAL, STEPS)
    mean, p, truth = enumerated(teacher, k)
    np.testing.assert_allclose(mean, p, rtol=1e-12)  # a product of frequencies is unbiased
    found = kd.predict_sequences(teacher, n_responses=k, n_students=4000, rng=k)
    assert found.sequence.sel(component="total").item() == pytest.approx(1 - (p**2).sum(), rel=1e-13)
    assert found.sequence.sel(component="total_entropy").item() == pytest.approx(entropies(p), rel=1e-13)
    for name in ("intra_student", "expected_entropy", "missing_mass"):
        gap = abs(found.sequence.sel(component=name).item() - truth[name])
        assert gap <= 4 * found.standard_error.sel(component=name).item() + 1e-12, name
    for key, value in truth.items():
        if isinstance(key, tuple):
            assert float(found.tokens[key[1]][key[0]]) == pytest.approx(value, rel=1e-11, abs=1e-13), key
    if k > 1:
        other = kd.predict_sequences(teacher, n_responses=k + 1, n_students=4000, rng=k)
        for name in ("intra_student", "expected_entropy", "missing_mass"):
            error = other.standard_error.sel(component=name).item()
            assert abs(other.sequence.sel(component=name).item() - truth[name]) > 6 * error, name


@pytest.mark.parametrize("k", [1, 3, 40])
def test_conservation_for_sequences_and_tokens(k):
    found = kd.predict_sequences(ENDING, n_responses=k, n_students=300, rng=0)
    part = found.sequence.to_series()
    assert part["inter_student"] + part["intra_student"] == pytest.approx(ENDING.gini, abs=1e-12)
    assert part["mutual_information"] + part["expected_entropy"] == pytest.approx(ENDING.entropy, abs=1e-12)
    tokens = found.tokens
    gap = tokens["inter_student"] + tokens["intra_student"] + tokens["unvisited"] - tokens["total"]
    assert float(abs(gap).max()) < 1e-12
    gap = tokens["mutual_information"] + tokens["expected_entropy"] + tokens["unvisited_entropy"]
    np.testing.assert_allclose(gap, ENDING.token_entropies, atol=1e-12)
    if k == 1:
        assert part["intra_student"] == pytest.approx(0.0, abs=1e-15)
        assert found.attrs["effective_responses"] == pytest.approx(1.0)
    else:
        assert found.attrs["effective_responses"] > k  # sequences share what follows a context


def test_one_token_is_a_categorical_student():
    p = np.array([0.5, 0.3, 0.15, 0.05])
    found = kd.predict_sequences(kd.SequenceTeacher(p, np.eye(4), length=1), n_responses=6)
    problem = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(p[None]), student=kd.TabularStudent(), design=kd.Design(n_responses=6)
    )
    single = kd.predict_classes(problem)
    assert found.attrs["exactness"] == "exact"
    assert (found.standard_error == 0).all()
    for name in single.estimate["component"].values:
        value = float(single._of(name)[0])
        assert found.sequence.sel(component=name).item() == pytest.approx(value, rel=1e-12)
        assert float(found.tokens[name][0]) == pytest.approx(value, rel=1e-12)
    missing = float(single.measures["missing_mass"][0])
    assert found.sequence.sel(component="missing_mass").item() == pytest.approx(missing, rel=1e-12)


def test_chain_rule_and_law():
    everything = sequences(ENDING)
    logs = ENDING.log_probability(everything)
    p = np.exp(logs)
    assert p.sum() == pytest.approx(1.0, abs=1e-14)
    assert ENDING.entropy == pytest.approx(entropies(p), rel=1e-13)
    assert ENDING.gini == pytest.approx(1 - (p**2).sum(), rel=1e-13)
    for position in range(ENDING.length):
        marginal = np.bincount(everything[:, position], weights=p, minlength=3)
        np.testing.assert_allclose(ENDING.marginals[position], marginal, atol=1e-15)


def test_entropy_rate():
    chain = np.array([[0.9, 0.1], [0.2, 0.8]])
    stationary = np.array([2 / 3, 1 / 3])
    teacher = kd.SequenceTeacher([0.1, 0.9], chain, length=5)
    assert teacher.entropy_rate == pytest.approx(stationary @ entropies(chain), rel=1e-12)
    longer = kd.SequenceTeacher([0.1, 0.9], chain, length=400)
    assert longer.token_entropies[-1] == pytest.approx(teacher.entropy_rate, rel=1e-12)
    assert ENDING.entropy_rate == pytest.approx(0.0, abs=1e-12)  # every sequence ends
    flip = kd.SequenceTeacher([1.0, 0.0, 0.0], [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 1.0, 0.0]], length=2)
    assert flip.entropy_rate == pytest.approx(0.5 * np.log(2), rel=1e-12)  # a chain with a period
    apart = kd.SequenceTeacher([0.25, 0.75], np.eye(2), length=2)
    assert apart.entropy_rate == 0.0
    with pytest.raises(UnsupportedProblemError, match="one transition for all positions"):
        _ = kd.SequenceTeacher(INITIAL, STEPS).entropy_rate


def test_law_of_visits():
    everything = sequences(ENDING)
    p = np.exp(ENDING.log_probability(everything))
    for token in range(3):
        visits = (everything[:, :-1] == token).sum(axis=1)
        one = np.bincount(visits, weights=p, minlength=4)
        np.testing.assert_allclose(ENDING.visit_law(token), one, atol=1e-15)
        three = ENDING.visit_law(token, n_responses=3)
        assert len(three) == 3 * 3 + 1
        np.testing.assert_allclose(three, np.convolve(np.convolve(one, one), one), atol=1e-15)
        assert three @ np.arange(10) == pytest.approx(3 * ENDING.marginals[:-1, token].sum())


def test_colder_sequences_spread_less():
    cold = ENDING.at_temperature(0.5)
    assert cold.entropy < ENDING.entropy
    np.testing.assert_allclose(cold.initial, np.array([25, 16, 1]) / 42)
    np.testing.assert_allclose(cold.step(1)[2], [0, 0, 1])


def test_the_answer_reads_like_one():
    found = kd.predict_sequences(ENDING, n_responses=5, n_students=50, rng=3)
    again = kd.predict_sequences(ENDING, n_responses=5, n_students=50, rng=3)
    np.testing.assert_array_equal(found.sequence, again.sequence)
    assert "whole sequences" in found.summary()
    assert "missing_context" in found.summary()
    assert len(found.to_dataframe()) == 4
    assert "SequencePrediction" in repr(found)
    certain = kd.predict_sequences(kd.SequenceTeacher([1.0, 0.0], np.eye(2), length=2), n_responses=2, n_students=9)
    assert certain.attrs["effective_responses"] is None
    assert "disagree as much" not in certain.summary()


EYE = np.eye(2)
BAD = [
    (lambda: kd.SequenceTeacher([0.5, 0.6], EYE, length=2), "`initial` must sum to 1 in every row; got 1.1"),
    (lambda: kd.SequenceTeacher([0.5, 0.5], EYE * 2, length=2), "`transition` must sum to 1 in every row; got 2"),
    (lambda: kd.SequenceTeacher([0.5, 0.5], np.eye(3), length=2), "`transition` must have 2 rows and columns"),
    (lambda: kd.SequenceTeacher([0.5, 0.5], EYE), "`length` must be given with one transition"),
    (lambda: kd.SequenceTeacher([0.5, 0.5], EYE, length=0), "`length` must be at least 1; got 0"),
    (
        lambda: kd.SequenceTeacher(INITIAL, STEPS, length=2),
        "`length` must be 3, or left out, with 2 transitions; got 2",
    ),
    (lambda: ENDING.log_probability([0, 1]), "`sequences` must be integers of shape"),
    (lambda: ENDING.log_probability([0, 1, 2, 3]), "`sequences` must hold tokens from 0 to 2; got 0 to 3"),
    (lambda: ENDING.visit_law(3), "`token` must be at most 2; got 3"),
    (lambda: kd.predict_sequences(None, n_responses=2), "`teacher` must be a SequenceTeacher; got a NoneType"),
    (lambda: kd.predict_sequences(ENDING, n_responses=0), "`n_responses` must be at least 1; got 0"),
    (lambda: kd.predict_sequences(ENDING, n_responses=2, n_students=2), "`n_students` must be at least 3"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input(make, message):
    with pytest.raises(ProblemError, match=message):
        make()
