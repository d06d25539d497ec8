"""Softmax students: refits by the thousand against the sandwich at the misspecified optimum."""

import warnings

import numpy as np
import pytest
from scipy.special import softmax

import kdstats as kd
from kdstats.errors import ApproximationWarning
from kdstats.linear.softmax_regression import curvature
from kdstats.prediction.closed_form.softmax_law import softmax_law

Z = 4.0


def problem(rng, *, n=120, p=2, n_classes=3, penalty=0.0, intercept=True, misfit=1.0, rho=0.0, **design):
    rng = np.random.default_rng(rng)
    X = rng.normal(size=(n, p))
    logits = 0.5 * X @ rng.normal(size=(p, n_classes)) + misfit * np.sin(2.0 * X @ rng.normal(size=(p, n_classes)))
    return kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(softmax(logits, axis=1), X, response_correlation=rho),
        student=kd.SoftmaxStudent(penalty=penalty, fit_intercept=intercept),
        design=kd.Design(rng.normal(size=(10, p)), **design),
    )


def average(components, name):
    mean = components.average()
    return float(mean.estimate[name].squeeze()), float(mean.standard_error[name].squeeze())


def apart(asked, n_students, seed=5):
    """Refits over prediction less one, less the stated error, in standard errors of both."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        predicted = kd.predict(asked)
    refits = kd.predict(asked, engine="monte_carlo", n_students=n_students, rng=seed)
    (said, _), (seen, error) = (average(part, "inter_student") for part in (predicted, refits))
    stated, stated_se = predicted.attrs["relative_error"], predicted.attrs["relative_error_se"]
    return (seen / said - 1.0 - stated) / np.hypot(error / said, stated_se)


CASES = {
    "k=20": {"n_responses": 20},
    "correlated": {"n_responses": 10, "rho": 0.3},
    "penalty": {"n_responses": 5, "penalty": 5.0},
    "rows": {"n_responses": 5, "penalty": 5.0, "strategy": "multi_response"},
    "no intercept": {"n_responses": 5, "intercept": False, "n_classes": 4},
    "two classes": {"n_responses": 5, "n_classes": 2},
    "resampled": {"n_responses": 5, "penalty": 4.0, "resample_size": 100},
    "resampled, soft labels": {"n_responses": 5, "resample_size": 200, "strategy": "soft_labels", "misfit": 1.5},
}


@pytest.mark.parametrize("name", CASES)
def test_components_against_refits(name):
    assert abs(apart(problem(11, **CASES[name]), 600)) < Z


def random_problem(number):
    rng = np.random.default_rng([number, 77])
    strategy = str(rng.choice(["averaging", "multi_response"]))
    resampled = {"resample_size": int(rng.integers(80, 160))} if rng.random() < 0.25 else {}
    penalty = float(rng.choice([0.0, 1.0, 8.0])) if not resampled else float(rng.choice([2.0, 8.0]))
    return problem(
        number,
        n=int(rng.integers(60, 160)),
        p=int(rng.integers(1, 4)),
        n_classes=int(rng.integers(2, 5)),
        penalty=penalty,
        intercept=bool(rng.random() < 0.7),
        misfit=float(rng.uniform(0.0, 1.5)),
        rho=float(rng.choice([0.0, 0.2])),
        n_responses=int(rng.integers(5, 25)),
        strategy=strategy,
        **resampled,
    )


@pytest.mark.slow
def test_sixty_random_problems_against_refits():
    found = np.array([apart(random_problem(number), 1000) for number in range(60)])
    assert np.abs(found).max() < Z
    assert (found**2).sum() < 60 + 4.0 * np.sqrt(120)  # and as spread as standard errors say


def test_first_order_error_falls_as_one_over_responses():
    errors = []
    for k in (4, 64):
        asked = problem(11, n=60, n_responses=k)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ApproximationWarning)
            predicted = kd.predict(asked, n_check_students=256)
        errors.append((predicted.attrs["relative_error"], predicted.attrs["relative_error_se"]))
    (few, few_se), (many, many_se) = errors
    assert few > Z * few_se  # there is an error to fall
    assert abs(many - few / 16) < Z * np.hypot(many_se, few_se / 16)


def test_intra_needs_the_second_order_of_the_mean():
    asked = problem(11, n=60, n_responses=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        predicted = kd.predict(asked)
    refits = kd.predict(asked, engine="monte_carlo", n_students=4000, rng=3)
    (said, _), (seen, error) = (average(part, "intra_student") for part in (predicted, refits))
    assert abs(seen - said) < Z * error + 0.1 * float(predicted.inter_student.mean())
    p = softmax_law(asked).at(asked.X_query).probabilities
    plain = float((p * (1.0 - p)).mean())
    assert abs(seen - plain) > 6.0 * error + 0.1 * float(predicted.inter_student.mean())


def test_the_naive_inverse_curvature_is_refuted_where_the_student_is_misspecified():
    asked = problem(2, n=150, misfit=2.0, n_responses=20)
    law = softmax_law(asked)
    fitted = softmax(law.model.inputs @ law.model.centre @ law.model.contrasts.T, axis=1)
    naive = np.linalg.inv(curvature(law.model, fitted)) / 20
    root = np.linalg.cholesky(naive)
    here = law.at(asked.X_query)
    wrong = (type(law)(problem=asked, model=law.model, root=root, shift=law.shift)).at(asked.X_query)
    ratio = float((wrong.probability_root**2).sum() / (here.probability_root**2).sum())
    assert ratio > 1.14
    refits = kd.predict(asked, engine="monte_carlo", n_students=1500, rng=3)
    seen, error = average(refits, "inter_student")
    right = float((here.probability_root**2).sum(axis=2).mean())
    assert abs(seen - right) < Z * error
    assert abs(seen - ratio * right) > 6.0 * error


def test_another_correlation_is_refuted():
    asked = problem(11, n_responses=10, rho=0.3)
    refits = kd.predict(asked, engine="monte_carlo", n_students=600, rng=3)
    seen, error = average(refits, "inter_student")
    said, _ = average(kd.predict(asked.with_teacher(response_correlation=0.2)), "inter_student")
    assert abs(seen - said) > 6.0 * error


def test_strategies_without_a_penalty_are_one_student_and_soft_labels_none():
    asked = problem(11, n_responses=5)
    one, rows = (kd.predict(asked.with_design(strategy=name)).inter_student for name in ("averaging", "multi_response"))
    np.testing.assert_array_equal(one, rows)
    soft = asked.with_design(strategy="soft_labels")
    assert (kd.predict(soft).inter_student.values == 0.0).all()
    for engine in ("observe", "monte_carlo"):
        seen = (
            kd.observe(soft, n_students=300, rng=1) if engine == "observe" else kd.predict(soft, engine=engine, rng=1)
        )
        assert (seen.inter_student.values == 0.0).all()  # to the last bit
        np.testing.assert_allclose(seen.intra_student, kd.predict(soft).intra_student, rtol=1e-9)


def test_rows_weaken_a_penalty_as_many_times_as_there_are_responses():
    asked = problem(11, n_responses=4, penalty=6.0, strategy="multi_response")
    same = asked.with_design(strategy="averaging").with_student(penalty=1.5)
    np.testing.assert_array_equal(kd.predict(asked).inter_student, kd.predict(same).inter_student)
    one, two = (kd.observe(part, n_students=20, rng=1).student_predictions.values for part in (asked, same))
    np.testing.assert_allclose(one, two, atol=1e-9)


def test_hard_labels_collapse_entropy_and_soft_labels_do_not():
    """Students of argmax labels keep less of the teacher's entropy than those of its probabilities."""
    asked = problem(11, n=200, misfit=0.0, penalty=0.05, strategy="soft_labels")
    p = asked.categorical_teacher.probabilities
    hard = asked.with_teacher(probabilities=np.eye(3)[p.argmax(axis=1)])

    def kept(one):
        seen = kd.observe(one.with_design(X_query=None, resample_size=200), n_students=60, rng=1)
        own = -(seen.student_predictions * np.log(np.maximum(seen.student_predictions, 1e-300))).sum("output")
        share = own.mean("point").values / float(-(p * np.log(p)).sum(axis=1).mean())
        return share.mean(), share.std(ddof=1) / np.sqrt(len(share))

    (soft_share, soft_se), (hard_share, hard_se) = kept(asked), kept(hard)
    assert abs(soft_share - 1.0) < 0.02 + Z * soft_se
    assert hard_share + Z * hard_se < 0.5


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_shift_of_the_inputs_changes_nothing(penalty):
    """The intercept is free: coefficients take the shift up, and probabilities do not see it."""
    here = problem(3, n=60, n_responses=50, penalty=penalty)

    def moved(shift, intercept=True):
        teacher = here.categorical_teacher
        return kd.predict(
            kd.DistillationProblem(
                teacher=kd.CategoricalTeacher(teacher.probabilities, teacher.X + shift),
                student=kd.SoftmaxStudent(penalty=penalty, fit_intercept=intercept),
                design=kd.Design(here.X_query + shift, n_responses=50),
            )
        )

    plain, far = moved(0.0), moved(1e6)
    for name in ("inter_student", "intra_student"):
        np.testing.assert_allclose(getattr(far, name), getattr(plain, name), rtol=1e-6)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(moved(0.0, intercept=False).inter_student, plain.inter_student, rtol=1e-6)


def test_units_of_inputs_without_a_penalty_change_nothing():
    """Columns in units 1e5 apart, the intercept left out."""
    here = problem(4, n=80, intercept=False, n_responses=30)
    teacher, units = here.categorical_teacher, np.array([1e-5, 1e5])
    scaled = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(teacher.probabilities, teacher.X * units),
        student=here.student,
        design=kd.Design(here.X_query * units, n_responses=30),
    )
    np.testing.assert_allclose(kd.predict(scaled).inter_student, kd.predict(here).inter_student, rtol=1e-6)


def test_a_teacher_that_never_varies_needs_no_warning():
    X = np.random.default_rng(0).normal(size=(20, 2))
    certain = np.eye(3)[np.arange(20) % 3]
    asked = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(certain, X),
        student=kd.SoftmaxStudent(penalty=1.0),
        design=kd.Design(n_responses=5),
    )
    found = kd.predict(asked)  # a warning would be an error here
    assert found.attrs["relative_error"] == 0.0
    assert float(found.inter_student.max()) < 1e-24


def test_variance_that_probabilities_cannot_have_warns():
    """One label to each input and hardly a penalty: first order leaves [0, 1]."""
    with pytest.warns(ApproximationWarning, match="class probabilities can have no more"):
        kd.predict(problem(5, n=6, p=4, n_responses=1, penalty=0.01, misfit=0.5), n_check_students=0)
