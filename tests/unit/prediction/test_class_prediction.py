"""Students of sampled answers: everything predicted, against the enumeration of all counts."""

import math

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import PredictionError, ProblemError, UnsupportedProblemError
from kdstats.prediction.closed_form.count_law import CountLaw
from kdstats.prediction.closed_form.modes import _checked, expected_of_mode, mode_law

P = np.array([[0.5, 0.3, 0.2, 0.0], [0.4, 0.4, 0.1, 0.1]])


def count_vectors(k, n_classes):
    if n_classes == 1:
        yield (k,)
        return
    for first in range(k + 1):
        for rest in count_vectors(k - first, n_classes - 1):
            yield (first, *rest)


def probability(counts, p, correlation):
    """Of a vector of counts, multinomial or Dirichlet-multinomial, factor by factor."""
    found = float(math.factorial(sum(counts)))
    for count, share in zip(counts, p, strict=True):
        for j in range(count):
            found *= (share + correlation / (1 - correlation) * j) / (j + 1)
    for j in range(sum(counts)):
        found /= 1 + correlation / (1 - correlation) * j
    return found


def enumerated(p, k, *, correlation=0.0, pseudo=0.0, target=None):
    """Expected values of everything, over all count vectors."""
    target = p if target is None else target
    pseudo = np.broadcast_to(pseudo, p.shape)
    counts = np.array(list(count_vectors(k, len(p))))
    weights = np.array([probability(row, p, correlation) for row in counts])
    counts, weights = counts[weights > 0], weights[weights > 0]
    assert weights.sum() == pytest.approx(1.0, abs=1e-13)
    q = (counts + pseudo) / (k + pseudo.sum())
    mean = weights @ q
    best = q >= q.max(axis=1, keepdims=True) - 1e-12
    mode = best / best.sum(axis=1, keepdims=True)
    chosen = weights @ mode
    with np.errstate(divide="ignore", invalid="ignore"):
        log_q, log_p, log_mean = (np.log(x) for x in (q, target, mean))
        information = np.where(q > 0, q * (log_q - log_mean), 0.0).sum(axis=1)
        to_teacher = np.where(q > 0, q * (log_q - log_p), 0.0).sum(axis=1)
        from_teacher = np.where(target > 0, target * (log_p - log_q), 0.0).sum(axis=1)
        entropy = np.where(q > 0, -q * log_q, 0.0).sum(axis=1)
        total_entropy = np.where(mean > 0, -mean * log_mean, 0.0).sum()
    infinite = np.isinf(from_teacher)
    favourite = target == target.max()
    return {
        "inter_student": weights @ ((q - mean) ** 2).sum(axis=1),
        "intra_student": weights @ (1 - (q**2).sum(axis=1)),
        "total": 1 - (mean**2).sum(),
        "mutual_information": weights @ information,
        "expected_entropy": weights @ entropy,
        "total_entropy": total_entropy,
        "kl_to_teacher": np.inf if np.isinf(to_teacher).any() else weights @ to_teacher,
        "kl_from_teacher": np.inf if infinite.any() else weights @ from_teacher,
        "kl_from_teacher_infinite": weights @ infinite,
        "missing_mass": weights @ ((q == 0) * target).sum(axis=1),
        "distinct_answers": weights @ (counts > 0).sum(axis=1),
        "answers_agree": (mean**2).sum(),
        "modes_agree": (chosen**2).sum(),
        "mode_is_teachers": chosen[favourite].sum(),
        "mode_probability": chosen @ target,
        "mode": chosen,
    }


def problem(p, k, *, correlation=0.0, student=None, **design):
    return kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(p, response_correlation=correlation),
        student=student or kd.TabularStudent(),
        design=kd.Design(n_responses=k, **design),
    )


CASES = [
    (k, correlation, pseudo) for k in (1, 2, 5, 8) for correlation in (0.0, 1e-3, 0.4, 0.95) for pseudo in (0.0, 0.5)
]


@pytest.mark.parametrize(("k", "correlation", "pseudo"), CASES)
def test_everything_against_enumeration(k, correlation, pseudo):
    student = kd.TabularStudent(pseudo_count=pseudo)
    predicted = kd.predict_classes(problem(P, k, correlation=correlation, student=student))
    for i, p in enumerate(P):
        truth = enumerated(p, k, correlation=correlation, pseudo=pseudo)
        truth.pop("mode")
        for name, value in truth.items():
            source = predicted.measures[name] if name in predicted.measures else predicted._of(name)
            assert float(source[i]) == pytest.approx(value, rel=1e-11, abs=1e-13), name
    assert (predicted.measure_errors.to_array() == 0).all()
    assert predicted.attrs["exactness"] == "exact"


@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_against_another_reference(correlation):
    sharp = kd.CategoricalTeacher(P).at_temperature(0.6).truncated(top_k=2).probabilities
    asked = problem(sharp, 4, correlation=correlation, student=kd.TabularStudent(pseudo_count=[0.0, 0.0, 1.0, 0.0]))
    predicted = kd.predict_classes(asked, reference=kd.CategoricalTeacher(P), modes=False)
    for i, (p, target) in enumerate(zip(sharp, P, strict=True)):
        truth = enumerated(p, 4, correlation=correlation, pseudo=np.array([0.0, 0.0, 1.0, 0.0]), target=target)
        for name, value in truth.items():
            if name in predicted.measures:
                assert float(predicted.measures[name][i]) == pytest.approx(value, rel=1e-11, abs=1e-13), name
    assert "modes_agree" not in predicted.measures


def test_unequal_pseudo_counts_have_simulated_modes():
    pseudo = np.array([0.0, 0.4, 0.0, 1.7])
    predicted = kd.predict_classes(problem(P, 3, student=kd.TabularStudent(pseudo_count=pseudo)), rng=1)
    assert "simulated" in predicted.attrs["exactness"]
    for i, p in enumerate(P):
        truth = enumerated(p, 3, pseudo=pseudo)
        for name in ("modes_agree", "mode_is_teachers", "mode_probability"):
            error = float(predicted.measure_errors[name][i])
            assert error > 0
            assert abs(float(predicted.measures[name][i]) - truth[name]) < 4 * error
        even = enumerated(p, 3)
        assert abs(float(predicted.measures["modes_agree"][i]) - even["modes_agree"]) > 6 * error
        assert float(predicted.expected_entropy[i]) == pytest.approx(truth["expected_entropy"], rel=1e-12)


def test_costly_laws_are_simulated(monkeypatch):
    exact = kd.predict_classes(problem(P, 6))
    monkeypatch.setattr("kdstats.prediction.closed_form.classes.MOST_WORK", 4 * 5**3)
    assert kd.predict_classes(problem(P, 5)).attrs["exactness"] == "exact"
    found = kd.predict_classes(problem(P, 6), rng=3)
    assert "simulated" in found.attrs["exactness"]
    for name in ("modes_agree", "mode_is_teachers", "mode_probability"):
        gap, error = np.abs(found.measures[name] - exact.measures[name]), found.measure_errors[name]
        assert (gap <= 4 * error + 1e-12).all(), name
        assert float(error.max()) > 0


def test_a_thousand_answers_of_two_kinds_are_binomial():
    k, q = 1000, 0.51
    law = mode_law(np.array([q, 1 - q]), n_responses=k)
    counts = np.arange(k + 1)
    logs = [math.lgamma(k + 1) - math.lgamma(j + 1) - math.lgamma(k - j + 1) for j in counts]
    masses = np.exp(logs + counts * np.log(q) + (k - counts) * np.log1p(-q))
    assert law[0] == pytest.approx(masses[counts > k / 2].sum() + masses[k // 2] / 2, abs=1e-11)


@pytest.mark.parametrize("correlation", [0.0, 1e-9, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 2, 7, 40, 300])
def test_conservation(k, correlation):
    rng = np.random.default_rng(k)
    p = rng.dirichlet(np.full(30, 0.3), size=5)
    for student in (kd.TabularStudent(), kd.DirichletStudent(prior_count=0.2)):
        asked = problem(p, k, correlation=correlation, student=student)
        predicted = kd.predict_classes(asked, modes=False)
        gap = predicted.total - predicted.inter_student - predicted.intra_student
        entropy_gap = predicted.total_entropy - predicted.mutual_information - predicted.expected_entropy
        assert float(abs(gap).max()) < 1e-12
        assert float(abs(entropy_gap).max()) < 1e-12
        components = kd.predict(asked)
        for name in ("inter_student", "intra_student", "total"):
            np.testing.assert_allclose(predicted._of(name), components.estimate[name].sum("output"), atol=1e-12)
        if isinstance(student, kd.TabularStudent):
            np.testing.assert_allclose(predicted.total_entropy, asked.teacher.entropy, rtol=1e-12)
            np.testing.assert_allclose(predicted.total, asked.teacher.gini, rtol=1e-12)
            np.testing.assert_allclose(predicted.measures["kl_to_teacher"], predicted.mutual_information, atol=1e-11)


def test_many_answers_have_a_divergence_of_one_half_per_degree_of_freedom():
    predicted = kd.predict_classes(problem([[0.4, 0.3, 0.2, 0.1]], 20_000), modes=False)
    assert 2 * 20_000 * float(predicted.measures["kl_to_teacher"][0]) == pytest.approx(3.0, abs=1e-3)
    assert float(predicted.measures["kl_from_teacher_infinite"][0]) == 0.0
    many = kd.predict_classes(problem(np.full((1, 300), 1 / 300), 2000), modes=False)
    union = 300 * (1 - 1 / 300) ** 2000  # Bonferroni: less the pairs, at most
    found = float(many.measures["kl_from_teacher_infinite"][0])
    assert union - 300 * 299 / 2 * (1 - 2 / 300) ** 2000 < found < union


@pytest.mark.parametrize("source", ["soft_labels", "quiet"])
def test_what_is_not_sampled_is_known(source):
    design = {"strategy": "soft_labels"} if source == "soft_labels" else {"sources": ["student_output"]}
    predicted = kd.predict_classes(problem(P, 3, **design))
    assert (predicted.inter_student == 0).all()
    assert (predicted.mutual_information == 0).all()
    np.testing.assert_allclose(predicted.expected_entropy, kd.CategoricalTeacher(P).entropy)
    np.testing.assert_allclose(predicted.measures["kl_from_teacher"], 0.0, atol=1e-15)
    np.testing.assert_array_equal(predicted.measures["distinct_answers"], [3, 4])
    np.testing.assert_array_equal(predicted.measures["mode_is_teachers"], 1.0)
    np.testing.assert_array_equal(predicted.measures["modes_agree"], [1.0, 0.5])
    assert (predicted.measures["kl_from_teacher_infinite"] == 0).all()


def test_a_dirichlet_student_splits_its_doubt():
    prior = np.array([0.5, 1.0, 2.0, 0.1])
    asked = problem(P, 6, student=kd.DirichletStudent(prior_count=prior))
    predicted = kd.predict_classes(asked, unit="bits", modes=False)
    parts = predicted.parts
    np.testing.assert_allclose(parts["epistemic_gini"] + parts["aleatoric_gini"], predicted.intra_student, rtol=1e-13)
    np.testing.assert_allclose(
        parts["epistemic_entropy"] + parts["aleatoric_entropy"], predicted.expected_entropy, rtol=1e-13
    )
    components = kd.predict(asked)
    np.testing.assert_allclose(components.intra_parts["parameter"].sum("output"), parts["epistemic_gini"], rtol=1e-12)
    np.testing.assert_allclose(components.intra_parts["noise"].sum("output"), parts["aleatoric_gini"], rtol=1e-12)
    same = kd.predict_classes(problem(P, 6, student=kd.TabularStudent(pseudo_count=prior)), unit="bits", modes=False)
    np.testing.assert_array_equal(same.estimate, predicted.estimate)
    assert same.parts is None
    assert "epistemic_entropy" in predicted.summary()
    far = kd.predict_classes(problem(P, 3000, student=kd.DirichletStudent(prior_count=prior)), modes=False)
    assert (far.parts["epistemic_entropy"] < 1e-3).all()


@pytest.mark.parametrize(("k", "correlation"), [(1, 0.0), (6, 0.0), (6, 0.25), (9, 1.0)])
def test_law_of_the_mode(k, correlation):
    rng = np.random.default_rng(2)
    p = np.append(rng.dirichlet(np.ones(4)), 0.0)
    law = mode_law(p, n_responses=k, correlation=correlation)
    truth = p if correlation == 1.0 else enumerated(p, k, correlation=correlation)["mode"]
    np.testing.assert_allclose(law, truth, atol=1e-14)
    values = rng.random((3, 5))
    counts = np.array([1, k])
    grid = expected_of_mode(p, values, n_responses=counts, correlation=correlation)
    np.testing.assert_allclose(grid, [values @ p, values @ truth], rtol=1e-12)


def test_law_of_the_mode_with_many_classes():
    p = np.random.default_rng(3).dirichlet(np.full(3000, 0.2))
    counts = np.array([3, 10, 60])
    values = np.vstack([p, p < 1e-3])
    grid = expected_of_mode(p, values, n_responses=counts)
    for k, row in zip(counts, grid, strict=True):
        law = mode_law(p, n_responses=int(k))
        assert law.sum() == pytest.approx(1.0, abs=1e-12)
        np.testing.assert_allclose(values @ law, row, rtol=1e-11)


def test_a_law_that_does_not_sum_to_one_is_refused():
    with pytest.raises(PredictionError, match="sums to 1 up to"):
        _checked(np.array([0.5, 0.4]), 1.0)


def test_chunks_change_nothing(monkeypatch):
    law = CountLaw(probabilities=P, n_responses=5, correlation=0.1, is_sampled=True)
    whole = law.absent()
    monkeypatch.setattr("kdstats.prediction.closed_form.count_law.CHUNK", 1)
    np.testing.assert_array_equal(law.absent(), whole)


def test_slope_of_the_entropy_in_temperature():
    teacher = kd.CategoricalTeacher(P)
    for temperature in (0.4, 1.0, 3.0):
        step = 1e-5
        up, down = (teacher.at_temperature(temperature + s).entropy for s in (step, -step))
        np.testing.assert_allclose(teacher.entropy_slope(temperature), (up - down) / (2 * step), rtol=1e-6)
        heated = teacher.at_temperature(temperature)
        np.testing.assert_allclose(heated.entropy_slope() / temperature, teacher.entropy_slope(temperature), rtol=1e-12)
    with pytest.raises(ProblemError, match="`temperature` must be greater than 0"):
        teacher.entropy_slope(0.0)


def test_sharper_teachers_leave_less_and_lose_more():
    teacher = kd.CategoricalTeacher([[0.4, 0.3, 0.2, 0.1]])
    totals, missing = [], []
    for asked in (teacher, teacher.truncated(top_p=0.8), teacher.truncated(top_k=1)):
        found = kd.predict_classes(problem(asked.probabilities, 5), reference=teacher)
        totals.append(float(found.total_entropy[0]))
        missing.append(float(found.measures["missing_mass"][0]))
    assert totals == sorted(totals, reverse=True)
    assert missing == sorted(missing)
    assert totals[-1] == 0.0
    assert missing[-1] == pytest.approx(0.6)


def test_the_answer_reads_like_one():
    asked = problem(P, 5, point_labels=("one", ("two", 2)))
    predicted = kd.predict_classes(asked)
    text = predicted.summary()
    for word in ("expected_entropy", "exact", "responses per input: 5", "KL(student || teacher)"):
        assert word in text
    frame = predicted.to_dataframe()
    assert list(frame.index) == ["one", ("two", 2)]
    assert set(frame.columns) >= {"inter_student", "missing_mass"}
    mean = predicted.average()
    assert float(mean.total[0]) == pytest.approx(float(predicted.total.mean()))
    assert "ClassPrediction" in repr(predicted)
    np.testing.assert_allclose(
        kd.predict_classes(asked, unit="bits").mutual_information * np.log(2), predicted.mutual_information
    )


BAD = [
    (lambda: kd.predict_classes(None), "`problem` must be a DistillationProblem; got a NoneType"),
    (lambda: kd.predict_classes(problem(P, 2), unit="bans"), "`unit` must be one of nats, bits; got 'bans'"),
    (lambda: kd.predict_classes(problem(P, 2), modes=1), "`modes` must be True or False"),
    (lambda: kd.predict_classes(problem(P, 2), n_students=2), "`n_students` must be at least 3"),
    (lambda: kd.predict_classes(problem(P, 2), reference=3), "`reference` must be a CategoricalTeacher; got a int"),
    (
        lambda: kd.predict_classes(problem(P, 2), reference=kd.CategoricalTeacher(P[:1])),
        "`reference` must have the teacher's inputs and classes",
    ),
    (lambda: kd.predict_classes(problem(P, 2, sources=["teacher_output"])), "`sources` must have 'student_output'"),
    (lambda: kd.DirichletStudent(prior_count=0.0), "`prior_count` must be greater than 0; got 0"),
    (
        lambda: problem(P, 2, student=kd.DirichletStudent(prior_count=[1.0, 1.0])),
        r"`prior_count` must have one entry per class \(4\)",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input(make, message):
    with pytest.raises(ProblemError, match=message):
        make()


def test_other_students():
    with pytest.raises(UnsupportedProblemError, match="got a LinearStudent"):
        kd.predict_classes(kd.catalog.intercept_only())
