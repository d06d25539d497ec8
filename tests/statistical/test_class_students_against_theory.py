"""Students that memorise sampled answers: sixty random cases simulated, against what is predicted exactly."""

import numpy as np
import pytest

import kdstats as kd

N_STUDENTS = 4000
Z = 4.0
#: For single classes, of which there are about 2,500 comparisons: together they exceed it with probability .0015.
Z_CLASSES = 5.0
ROUNDING = 1e-12
KINDS = ("plain", "smoothed", "dirichlet", "truncated", "correlated")


def case(seed):
    """A random problem and its reference; kinds take turns."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    n_classes = int(rng.integers(2, 12))
    law = rng.dirichlet(np.full(n_classes, rng.uniform(0.3, 2.0)), size=2)
    teacher = kd.CategoricalTeacher(0.9 * law + 0.1 / n_classes)  # every class is met
    asked, student = teacher, kd.TabularStudent()
    if kind == "smoothed":
        student = kd.TabularStudent(pseudo_count=rng.uniform(0.05, 1.5))
    elif kind == "dirichlet":
        student = kd.DirichletStudent(prior_count=rng.uniform(0.1, 2.0, n_classes))
    elif kind == "truncated":
        asked = teacher.at_temperature(rng.uniform(0.8, 1.5)).truncated(top_p=rng.uniform(0.6, 0.95))
    elif kind == "correlated":
        asked = kd.CategoricalTeacher(teacher.probabilities, response_correlation=rng.uniform(0.02, 0.8))
    k = int(rng.choice([1, 2, 3, 5, 10, 30]))
    return kd.DistillationProblem(teacher=asked, student=student, design=kd.Design(n_responses=k)), teacher


def simulated(problem, reference, seed):
    """Return (S, n) values whose means are predicted, and the observed components."""
    seen = kd.observe(problem, n_students=N_STUDENTS, rng=seed)
    q = seen.student_predictions.transpose("student", "point", "output").values
    k, target = problem.design.n_responses, reference.probabilities
    pseudo = problem.student.pseudo_counts(q.shape[2])
    mean = (k * problem.teacher.probabilities + pseudo) / (k + pseudo.sum())
    counts = np.rint(q * (k + pseudo.sum()) - pseudo)
    rng = np.random.default_rng(seed + 10_000)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(q > 0, np.log(q), 0.0)
        values = {
            "expected_entropy": -(q * logs).sum(axis=2),
            "mutual_information": (q * (logs - np.where(mean > 0, np.log(mean), 0.0))).sum(axis=2),
            "intra_student": 1.0 - (q**2).sum(axis=2),
            "inter_student": ((q - mean) ** 2).sum(axis=2),
            "kl_to_teacher": (q * (logs - np.where(target > 0, np.log(target), 0.0))).sum(axis=2),
            "kl_from_teacher_infinite": ((q == 0) & (target > 0)).any(axis=2),
            "missing_mass": ((q == 0) * target).sum(axis=2),
            "distinct_answers": (counts > 0).sum(axis=2),
        }
    best = q >= q.max(axis=2, keepdims=True) - 1e-9
    mode = best / best.sum(axis=2, keepdims=True)
    values["mode_probability"] = (mode * target).sum(axis=2)
    values["mode_is_teachers"] = (mode * (target == target.max(axis=1, keepdims=True))).sum(axis=2)
    values["modes_agree"] = (mode[::2] * mode[1::2]).sum(axis=2)
    drawn = (rng.random((*q.shape[:2], 1)) > q.cumsum(axis=2)).sum(axis=2)
    values["answers_agree"] = drawn[::2] == drawn[1::2]
    if isinstance(problem.student, kd.DirichletStudent):
        law = rng.standard_gamma(counts + pseudo)
        law /= law.sum(axis=2, keepdims=True)
        values["aleatoric_entropy"] = -(law * np.log(np.maximum(law, 1e-300))).sum(axis=2)
        values["aleatoric_gini"] = 1.0 - (law**2).sum(axis=2)
        values["epistemic_gini"] = ((law - q) ** 2).sum(axis=2)
    return values, seen


def predicted_value(predicted, name):
    for where in (predicted.measures, predicted.parts):
        if where is not None and name in where:
            return where[name].values
    return predicted._of(name).values


def distances(values, predicted):
    """In standard errors, one per statistic and point; constants must be right to rounding."""
    found = []
    for name, drawn in values.items():
        truth = predicted_value(predicted, name)
        error = drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
        gap = np.abs(drawn.mean(axis=0) - truth)
        if predicted.measure_errors.get(name) is not None:
            error = np.hypot(error, predicted.measure_errors[name].values)
        if not np.isfinite(truth).all():
            continue
        random = error > ROUNDING
        unmet = (~random) & (gap > 9 / N_STUDENTS)  # a rarer event stays unmet with probability e^-9 or more
        found.append(np.where(unmet, np.inf, gap / np.where(random, error, np.inf)).max())
    return np.array(found)


@pytest.mark.parametrize("seed", range(60))
def test_theory_is_simulation(seed):
    problem, reference = case(seed)
    predicted = kd.predict_classes(problem, reference=reference, rng=seed)
    values, seen = simulated(problem, reference, seed)
    assert distances(values, predicted).max() < Z
    components = kd.predict(problem)
    for name in ("inter_student", "intra_student", "total"):
        error = seen.standard_error[name].values
        gap = np.abs(seen.estimate[name] - components.estimate[name]).values
        assert (gap < Z_CLASSES * error + ROUNDING).all(), name
    if isinstance(problem.student, kd.DirichletStudent):
        for name in ("parameter", "noise"):
            share = (seen.intra_parts[name] / seen.intra_student).values
            np.testing.assert_allclose(share, (components.intra_parts[name] / components.intra_student).values)


def test_the_comparison_notices_more_responses():
    """One more up to k = 9, a fifth more above: the mean of inter-student variance then moves by at least a sixth."""
    noticed = 0
    for seed in range(25):
        problem, reference = case(seed)
        values, _ = simulated(problem, reference, seed)
        k = problem.design.n_responses
        wrong = problem.with_design(n_responses=k + max(1, k // 5))
        noticed += distances(values, kd.predict_classes(wrong, reference=reference, rng=seed)).max() > Z
    assert noticed >= 23


def test_a_table_of_students_shows_what_is_predicted():
    law = np.random.default_rng(0).dirichlet(np.ones(8), size=12)
    problem = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(0.8 * law + 0.2 / 8), student=kd.TabularStudent(), design=kd.Design(n_responses=4)
    )
    predicted = kd.predict_classes(problem)
    seen = kd.observe(problem, n_students=400, rng=1)
    frame = seen.student_predictions.to_dataset("output").to_dataframe().reset_index()
    classes = list(problem.teacher.output_labels)
    found = kd.decompose_classes(frame, classes=classes, replicate=None)
    gap = np.abs(found.estimate - predicted.estimate) / found.standard_error
    assert gap.dims == ("component", "point")
    assert float(gap.max()) < Z
    other = kd.predict_classes(problem.with_design(n_responses=6))
    assert float((np.abs(found.estimate - other.estimate) / found.standard_error).max()) > 6
