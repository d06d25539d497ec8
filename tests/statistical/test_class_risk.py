"""Variance of empirical risks, and the law of students' risks and answers, against simulation."""

import itertools
import warnings

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import log_softmax, softmax

import kdstats as kd
from kdstats.errors import ApproximationWarning, ProblemError, UnsupportedProblemError

Z = 4.0
RNG = np.random.default_rng(0)
X, QUERY = RNG.normal(size=(150, 2)), RNG.normal(size=(25, 2))
P = softmax(np.column_stack([X[:, 0], np.sin(2 * X[:, 1]), np.zeros(150)]), axis=1)
TARGET = RNG.integers(3, size=25)


def problem(student, k=20, **design):
    return kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(P, X),
        student=student,
        design=kd.Design(QUERY, n_responses=k, sources=("teacher_output", "student_output"), **design),
    )


def variance_is(values, said, z=Z):
    """Whether a sample variance agrees with a variance, by the sample's own fourth moment."""
    squares = (values - values.mean()) ** 2
    return abs(squares.mean() - said) < z * squares.std() / np.sqrt(len(values))


@pytest.mark.parametrize(("k", "rho"), [(1, 0.0), (4, 0.0), (4, 0.5)])
def test_variance_of_an_empirical_risk_against_simulation(k, rho):
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), size=4000)
    losses = -np.log(rng.dirichlet(3 * np.ones(3), size=4000))
    said = kd.empirical_risk(losses, p, n_responses=k, response_correlation=rho)
    rows = rng.integers(4000, size=(20_000, 40))
    law = p[rows]
    if rho:
        gammas = rng.standard_gamma(law * (1.0 / rho - 1.0))
        law = gammas / gammas.sum(axis=-1, keepdims=True)
    labels = rng.multinomial(k, law) / k
    risks = (labels * losses[rows]).sum(axis=-1).mean(axis=1)
    assert abs(risks.mean() - said.mean) < Z * risks.std() / np.sqrt(20_000)
    assert variance_is(risks, said.variance * 4000 / 40)
    assert not variance_is(risks, said.from_inputs * 4000 / 40)


def observed(asked, n_students, rng):
    p = kd.observe(asked, n_students=n_students, rng=rng).student_predictions.values
    own = -np.log(p[:, np.arange(25), TARGET]).mean(axis=1)
    answers = p.argmax(axis=2)
    counts = np.stack([(answers == c).sum(axis=0) for c in range(3)], axis=1)
    pairs = 1.0 - (counts * (counts - 1.0)).sum(axis=1) / (n_students * (n_students - 1.0))
    return own, (answers == TARGET).mean(axis=1), pairs, 1.0 - counts / n_students


STUDENTS = {
    "regression": kd.SoftmaxStudent(penalty=1.0),
    "network": kd.NetworkStudent(
        hidden=(8,), head="softmax", activation="tanh", optimizer="sgd", learning_rate=0.5, epochs=60
    ),
}


@pytest.mark.parametrize("name", ["regression", pytest.param("network", marks=pytest.mark.slow)])
def test_law_of_students_risks_against_students(name):
    asked = problem(STUDENTS[name])
    seeds = kd.Seeds(**(dict.fromkeys(kd.Seeds.__dataclass_fields__, 1) | {"teacher_output": 2}))
    entropies, accuracies, pairs, differ = observed(asked, 500, seeds)
    law = kd.risk_distribution(asked, TARGET, rng=1)
    for seen, said in ((entropies, law.cross_entropy), (accuracies, law.accuracy)):
        assert abs(seen.mean() - said.mean()) < Z * np.hypot(seen.std() / 500**0.5, said.std() / 4000**0.5)
        ratio = seen.std() / said.std()
        assert abs(np.log(ratio)) < Z * np.sqrt(stats.kurtosis(seen, fisher=False) / 4 / 500 + 1 / 256)
    assert stats.ks_2samp(entropies, law.cross_entropy).pvalue > 1e-3
    errors = differ[np.arange(25), TARGET]
    spread = np.sqrt(np.maximum(errors * (1 - errors), 0.01) * (1 / 500 + 1 / 256))
    assert (np.abs(errors - law.errors) < 5.0 * spread).all()
    assert abs(pairs.mean() - law.disagreement.mean()) < 0.15 * pairs.mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ApproximationWarning)
        wrong = kd.risk_distribution(asked.with_design(n_responses=5), TARGET, rng=1)
    assert stats.ks_2samp(entropies, wrong.cross_entropy).pvalue < 1e-3
    assert abs(pairs.mean() - wrong.disagreement.mean()) > 0.3 * pairs.mean()


def test_two_classes_flip_with_the_gaussian_probability():
    p = np.column_stack([P[:, 0], 1.0 - P[:, 0]])
    asked = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(p, X), student=kd.SoftmaxStudent(penalty=1.0), design=kd.Design(n_responses=3)
    )
    from kdstats.prediction.closed_form.softmax_law import softmax_law

    here = softmax_law(asked).at(X)
    centre = (here.logits + here.logit_shift)[:, 0] - (here.logits + here.logit_shift)[:, 1]
    sd = np.sqrt(((here.logit_root[:, 0] - here.logit_root[:, 1]) ** 2).sum(axis=1))
    exact = stats.norm.sf(np.abs(centre) / sd)
    flips = kd.risk_distribution(asked, n_draws=4000, rng=3).flips
    assert (np.abs(flips - exact) < 5.0 * np.sqrt(np.maximum(exact * (1 - exact), 1e-3) / 4000)).all()


FEW = np.array([[-1.0], [0.0], [1.0], [2.5]])
FEW_P = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
FEW_QUERY = np.array([[0.0], [1.5], [3.0]])


def law_of_few(k):
    """The risk of students of four inputs, and whether it warned."""
    asked = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(FEW_P, FEW),
        student=kd.SoftmaxStudent(penalty=0.5, fit_intercept=False),
        design=kd.Design(FEW_QUERY, n_responses=k, strategy="averaging"),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        law = kd.risk_distribution(asked, [0, 1, 2], rng=1)
    return law, any("not shown to hold for the law" in str(w.message) for w in caught)


def enumerated_entropies():
    """Cross-entropy after one label to each of the four inputs, for all 81 label sets, and their probabilities."""
    weights, entropies = [], []
    for labels in itertools.product(range(3), repeat=4):
        Y = np.eye(3)[list(labels)]

        def loss(b, Y=Y):
            logits = FEW * b
            pull = FEW.T @ (softmax(logits, axis=1) - Y)
            return -(Y * log_softmax(logits, axis=1)).sum() + 0.25 * (b**2).sum(), pull[0] + 0.5 * b

        b = optimize.minimize(loss, np.zeros(3), jac=True, options={"gtol": 1e-9}).x
        entropies.append(-log_softmax(FEW_QUERY * b, axis=1)[range(3), range(3)].mean())
        weights.append(FEW_P[range(4), list(labels)].prod())
    return np.array(entropies), np.array(weights)


def test_the_check_of_the_law_tells_the_truth():
    law, warned = law_of_few(1)
    entropies, weights = enumerated_entropies()
    mean = weights @ entropies
    sd = np.sqrt(weights @ (entropies - mean) ** 2)
    assert warned
    (off, off_se), (ratio, ratio_se) = law.mean_error, law.spread_ratio
    assert abs(off - (mean - law.cross_entropy.mean())) < Z * off_se
    assert abs(ratio - sd / law.cross_entropy.std()) < Z * ratio_se
    assert ratio - Z * ratio_se > 1.0
    assert "256 fitted students" in law.summary()


@pytest.mark.parametrize(("k", "expected"), [(2, True), (200, False)])
def test_a_law_that_fitted_students_do_not_show_warns(k, expected):
    assert law_of_few(k)[1] == expected


def test_a_law_that_no_fitted_student_can_check_says_so():
    """Four inputs, one label each and no penalty: nearly every set of labels has no finite fit."""
    asked = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(FEW_P, FEW),
        student=kd.SoftmaxStudent(),
        design=kd.Design(FEW_QUERY, n_responses=1),
    )
    with pytest.warns(ApproximationWarning, match="is not checked: .* of 256 sets of labels have a finite fit"):
        law = kd.risk_distribution(asked, [0, 1, 2], rng=1)
    assert np.isnan(law.spread_ratio).all()
    assert "fitted students" not in law.summary()


def test_a_loss_plus_a_constant_varies_as_before():
    losses = -np.log(P)
    plain, moved = (kd.empirical_risk(losses + shift, P, n_responses=3) for shift in (0.0, 1e8))
    assert moved.from_labels == pytest.approx(plain.from_labels, rel=1e-6)
    assert moved.from_inputs == pytest.approx(plain.from_inputs, rel=1e-6)


def test_soft_labels_flip_nothing():
    law = kd.risk_distribution(problem(kd.SoftmaxStudent(penalty=1.0), strategy="soft_labels"), TARGET, rng=1)
    assert np.ptp(law.cross_entropy) < 1e-12
    assert (law.flips == 0.0).all()
    assert (law.disagreement == 0.0).all()
    assert "accuracy" in law.summary()
    assert law.quantile(0.5) == pytest.approx(law.cross_entropy[0])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: kd.empirical_risk([[1.0, 2.0]], [[0.5, 0.5]]), "`n_inputs` must be at least 2"),
        (lambda: kd.empirical_risk(np.ones((2, 3)), np.full((2, 2), 0.5)), "`losses` must have the shape"),
        (lambda: kd.risk_distribution(problem(kd.SoftmaxStudent())), "`target` must be given"),
        (lambda: kd.risk_distribution(problem(kd.SoftmaxStudent()), [0, 1]), "`target` must be 25 whole numbers"),
        (lambda: kd.risk_distribution(problem(kd.SoftmaxStudent()), TARGET + 1), "`target` must be"),
        (lambda: kd.risk_distribution(problem(kd.SoftmaxStudent()), TARGET, n_draws=5), "`n_draws` must be at least"),
    ],
)
def test_bad_input(ask, message):
    with pytest.raises(ProblemError, match=message):
        ask()


def test_other_students_are_refused():
    asked = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(P), student=kd.TabularStudent(), design=kd.Design(n_responses=2)
    )
    with pytest.raises(UnsupportedProblemError, match="need a SoftmaxStudent"):
        kd.risk_distribution(asked)


def test_cross_entropy_is_that_of_the_draws():
    soft = problem(kd.SoftmaxStudent(penalty=1.0), strategy="soft_labels")
    from kdstats.prediction.closed_form.softmax_law import softmax_law

    logits = softmax_law(soft).at(QUERY).logits
    by_hand = -log_softmax(logits, axis=1)[np.arange(25), TARGET].mean()
    assert kd.risk_distribution(soft, TARGET, rng=1).cross_entropy[0] == pytest.approx(by_hand)


@pytest.mark.parametrize("constant", [1e6, 1e8, 1e12])
def test_a_constant_added_to_the_loss_changes_the_mean_alone(constant):
    p, losses = [[0.3, 0.7], [0.5, 0.5], [0.2, 0.8]], np.array([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    plain, moved = (kd.empirical_risk(losses + c, p, n_responses=2) for c in (0.0, constant))
    for name in ("from_inputs", "from_labels", "standard_error"):
        assert getattr(moved, name) == pytest.approx(getattr(plain, name), rel=1e-3 if constant == 1e12 else 1e-6)
    assert moved.mean - constant == pytest.approx(plain.mean, abs=constant * 1e-15)


def test_a_loss_of_an_impossible_class_does_not_matter():
    plain = kd.empirical_risk([[0.0, 1.0, 0.0], [2.0, 1.0, 0.0]], [[0.5, 0.5, 0.0], [0.4, 0.6, 0.0]])
    large = kd.empirical_risk([[0.0, 1.0, 1e300], [2.0, 1.0, 0.0]], [[0.5, 0.5, 0.0], [0.4, 0.6, 0.0]])
    assert (large.mean, large.variance, large.standard_error) == (plain.mean, plain.variance, plain.standard_error)
