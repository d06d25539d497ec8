"""Risk that a student's first choice is an unlikely answer: against enumeration, against students, and bad input."""

import itertools

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import ProblemError, UnsupportedProblemError
from kdstats.prediction.closed_form import classes
from kdstats.prediction.closed_form.hallucination import STRATEGIES

P = np.array([[0.45, 0.3, 0.15, 0.06, 0.04], [0.3, 0.3, 0.2, 0.1, 0.1]])
LIMITS = (0.05, 0.12, 0.25)


def problem(p=P, *, correlation=0.0, pseudo=0.0, **design):
    return kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(p, response_correlation=correlation),
        student=kd.TabularStudent(pseudo_count=pseudo),
        design=kd.Design(**design),
    )


def share(values):
    best = values >= values.max() - 1e-12
    return best / best.sum()


def enumerated(p, k, *, unlikely, pseudo, correlation):
    """Events by strategy, over all C^k sequences of answers, each made of one answer after another."""
    n_classes = len(p)
    found = {name: np.zeros(3) for name in STRATEGIES}

    def add(name, weight, labels, *, taught):
        q = (labels + pseudo) / (labels.sum() + pseudo.sum())
        found[name] += weight * np.array([share(q) @ unlikely, q @ unlikely, taught])

    for answers in itertools.product(range(n_classes), repeat=k):
        weight, counts = 1.0, np.zeros(n_classes)
        for j, answer in enumerate(answers):
            r = correlation / (1 - correlation)
            weight *= (p[answer] + r * counts[answer]) / (1 + r * j)
            counts[answer] += 1
        for name in ("multi_response", "averaging"):
            add(name, weight, counts, taught=(counts * unlikely).any())
        for chosen in np.flatnonzero(share(counts)):
            add("medoid", weight * share(counts)[chosen], np.eye(n_classes)[chosen], taught=unlikely[chosen])
    for answer in range(n_classes):
        add("single", p[answer], np.eye(n_classes)[answer], taught=unlikely[answer])
        add("greedy", share(p)[answer], np.eye(n_classes)[answer], taught=unlikely[answer])
    add("soft_labels", 1.0, k * p, taught=(p * unlikely).any())
    return found


@pytest.mark.parametrize("correlation", [0.0, 0.3])
@pytest.mark.parametrize("pseudo", [0.0, 0.7])
def test_against_enumeration(correlation, pseudo):
    counts = (1, 2, 4)
    found = kd.hallucination_risk(problem(correlation=correlation, pseudo=pseudo), threshold=LIMITS, n_responses=counts)
    assert found.attrs["exactness"] == "exact"
    assert (found.standard_error.to_array() == 0).all()
    for (i, p), limit, k in itertools.product(enumerate(P), LIMITS, counts):
        truth = enumerated(p, k, unlikely=p < limit, pseudo=np.full(5, pseudo), correlation=correlation)
        for name, values in truth.items():
            where = {"strategy": name, "threshold": limit, "n_responses": k, "point": i}
            here = found.risk.sel(where)
            got = [float(here[event]) for event in ("first_choice", "mass", "was_taught")]
            np.testing.assert_allclose(got, values, rtol=1e-11, atol=1e-13, err_msg=str(where))


def test_unequal_pseudo_counts_against_enumeration():
    pseudo = np.array([0.0, 0.5, 0.0, 1.5, 1.0])
    found = kd.hallucination_risk(problem(pseudo=pseudo), threshold=LIMITS, n_responses=(1, 4), rng=2)
    assert "simulated" in found.attrs["exactness"]
    errors = found.standard_error["first_choice"]
    assert (errors.sel(strategy=["single", "medoid", "soft_labels", "greedy"]) == 0).all()
    for (i, p), limit, k in itertools.product(enumerate(P), LIMITS, (1, 4)):
        truth = enumerated(p, k, unlikely=p < limit, pseudo=pseudo, correlation=0.0)
        for name, values in truth.items():
            where = {"strategy": name, "threshold": limit, "n_responses": k, "point": i}
            here, error = found.risk.sel(where), float(errors.sel(where))
            assert abs(float(here["first_choice"]) - values[0]) < 4 * error + 1e-12, where
            np.testing.assert_allclose([float(here["mass"]), float(here["was_taught"])], values[1:], atol=1e-12)
    assert float(errors.max()) > 0


@pytest.mark.parametrize("k", [1, 3, 12])
def test_students_hallucinate_as_often_as_predicted(k):
    asked = problem(np.random.default_rng(1).dirichlet(np.full(40, 0.3), size=6), n_responses=k)
    p = asked.teacher.probabilities
    seen = kd.observe(asked, n_students=3000, rng=3).student_predictions.transpose("student", "point", "output").values
    best = seen == seen.max(axis=2, keepdims=True)
    hits = (best / best.sum(axis=2, keepdims=True) * (p < 0.05)).sum(axis=2)
    error = hits.std(axis=0, ddof=1) / np.sqrt(3000)
    assert (error > 0).all()

    def distance(n_responses):
        found = kd.hallucination_risk(asked, threshold=0.05, n_responses=n_responses, strategies=["averaging"])
        return np.abs((hits.mean(axis=0) - found.risk["first_choice"].values.ravel()) / error).max()

    assert distance(k) < 4
    assert distance(k + 4) > 6


def test_many_responses_are_simulated(monkeypatch):
    exact = kd.hallucination_risk(problem(), threshold=0.25, n_responses=(3, 6))
    monkeypatch.setattr(classes, "MOST_RESPONSES", 4)
    only = kd.hallucination_risk(problem(), threshold=0.25, n_responses=6, strategies=["medoid"], rng=1)
    assert "simulated" in only.attrs["exactness"]
    found = kd.hallucination_risk(problem(), threshold=0.25, n_responses=(3, 6), rng=1)
    errors = found.standard_error["first_choice"].sel(strategy=["multi_response", "medoid"])
    assert (errors.sel(n_responses=3) == 0).all()
    assert (errors.sel(n_responses=6) > 0).all()
    gap = np.abs(found.risk - exact.risk)
    assert (gap <= 4 * found.standard_error + 1e-12).to_array().all()


def test_more_responses_and_cut_tails_protect():
    p = np.random.default_rng(5).dirichlet(np.full(2000, 0.01), size=2)
    teacher = kd.CategoricalTeacher(p)
    whole = kd.hallucination_risk(problem(p), threshold=1e-3, n_responses=(2, 10, 50))
    first = whole.risk["first_choice"].mean("point").sel(threshold=1e-3)
    assert (np.diff(first.sel(strategy="medoid")) < 0).all()
    assert np.ptp(first.sel(strategy="single").values) == 0
    assert (first.sel(strategy=["soft_labels", "greedy"]) == 0).all()
    mass = whole.risk["mass"].mean("point").sel(threshold=1e-3)
    np.testing.assert_allclose(mass.sel(strategy="multi_response"), mass.sel(strategy="single"))  # never less
    cut = problem(teacher.truncated(top_p=0.9).probabilities)
    found = kd.hallucination_risk(cut, threshold=1e-3, n_responses=10, reference=teacher)
    assert (found.risk["mass"].sel(strategy="single") < 0.2 * whole.risk["mass"].sel(strategy="single")).all()


def test_a_mode_below_the_threshold_is_no_refuge():
    flat = problem(np.full((1, 4), 0.25))
    found = kd.hallucination_risk(flat, threshold=0.3, n_responses=3)
    np.testing.assert_allclose(found.risk["first_choice"], 1.0, rtol=1e-12)
    assert (kd.hallucination_risk(flat, threshold=0.25, n_responses=3).risk["first_choice"] == 0).all()  # not below


def test_the_answer_reads_like_one():
    found = kd.hallucination_risk(problem(n_responses=4), threshold=0.1, strategies="medoid")
    assert found.risk.sizes == {"strategy": 1, "threshold": 1, "n_responses": 1, "point": 2}
    assert found.risk["n_responses"].item() == 4
    frame = found.to_dataframe()
    assert len(frame) == 2
    assert {"first_choice", "mass", "was_taught", "first_choice_se", "point"} <= set(frame.columns)
    assert "medoid" in found.summary()
    assert "probability below 0.1" in found.summary()
    assert "strategy: 1" in repr(found)


BAD = [
    ({"threshold": 0.0}, "`threshold` must be greater than 0; got 0.0"),
    ({"threshold": [0.1, 0.1]}, "`threshold` must be unique"),
    ({"threshold": []}, "`threshold` must name at least one; got none"),
    ({"threshold": 0.1, "n_responses": 0}, "`n_responses` must be at least 1; got 0"),
    ({"threshold": 0.1, "n_responses": [2, 2.5]}, "`n_responses` must be an integer"),
    ({"threshold": 0.1, "strategies": ["best"]}, "`strategies` must be one of single, multi_response"),
    ({"threshold": 0.1, "reference": P}, "`reference` must be a CategoricalTeacher"),
    ({"threshold": 0.1, "n_students": 2}, "`n_students` must be at least 3"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input(options, message):
    with pytest.raises(ProblemError, match=message):
        kd.hallucination_risk(problem(), **options)


def test_what_it_does_not_cover():
    with pytest.raises(ProblemError, match="`sources` must have 'teacher_output'"):
        kd.hallucination_risk(problem(sources=["student_output"]), threshold=0.1)
    with pytest.raises(UnsupportedProblemError, match="got a LinearStudent"):
        kd.hallucination_risk(kd.catalog.intercept_only(), threshold=0.1)


@pytest.mark.parametrize("p", [[0.05] * 20, [0.1, 0.2, 0.3, 0.4], [1 / 3] * 3])
def test_an_answer_at_the_threshold_is_not_below_it(p):
    asked, limit = problem([p], n_responses=5), min(p)
    found = kd.hallucination_risk(asked, threshold=[limit, limit * (1 + 1e-6)]).risk
    for name in ("mass", "first_choice", "was_taught"):
        assert not found[name].values[:, 0].any()
    assert (found["mass"].sel(strategy="single").values[1] > 0).all()
