"""Multinomial logistic regression of many students: minima, their existence, and a second route to them."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from kdstats.linear.softmax_regression import SoftmaxRegression, curvature, obstacle

RNG = np.random.default_rng(3)
X = RNG.normal(size=(120, 3))
ONES = np.hstack([np.ones((120, 1)), X])
P = softmax(X @ RNG.normal(size=(3, 4)), axis=1)


def regression(penalty, *, intercept=True, labels=P, inputs=None):
    inputs = (ONES if intercept else X) if inputs is None else inputs
    penalties = np.full(inputs.shape[1], float(penalty))
    if intercept:
        penalties[0] = 0.0
    return SoftmaxRegression(inputs=inputs, penalties=penalties, centre_labels=labels)


def classes(count, k=1, rng=0):
    return np.random.default_rng(rng).multinomial(k, P, size=(count, len(P))) / k


def gradient(model, labels, coefficients, weights=1.0):
    pull = np.reshape(weights, (-1, 1)) * (softmax(model.inputs @ coefficients, axis=1) - labels)
    return model.inputs.T @ pull + model.penalties[:, None] * coefficients


@pytest.mark.parametrize(("penalty", "intercept"), [(0.0, True), (0.0, False), (2.5, True), (100.0, False)])
def test_fits_against_scikit_learn(penalty, intercept):
    model, labels = regression(penalty, intercept=intercept), classes(4)
    fitted = model.fit(labels)
    assert fitted.converged.all()
    for own, coefficients in zip(labels, fitted.coefficients, strict=True):
        other = LogisticRegression(
            C=np.inf if penalty == 0.0 else 1.0 / penalty,
            fit_intercept=intercept,
            solver="newton-cholesky",
            tol=1e-12,
            max_iter=1000,
        ).fit(X, own.argmax(axis=1))
        np.testing.assert_allclose(
            softmax(model.inputs @ coefficients, axis=1), other.predict_proba(X), rtol=1e-7, atol=1e-10
        )


def test_frequencies_and_row_weights_end_where_the_gradient_is_zero():
    model, labels = regression(1.0), classes(40, k=3)
    weights = np.random.default_rng(1).multinomial(120, np.full(120, 1 / 120), size=40).astype(float)
    for given in (None, weights):
        fitted = model.fit(labels, given)
        assert fitted.converged.all()
        for student in range(40):
            own = 1.0 if given is None else given[student]
            assert np.abs(gradient(model, labels[student], fitted.coefficients[student], own)).max() < 1e-8
        np.testing.assert_allclose(fitted.coefficients.sum(axis=2), 0.0, atol=1e-9)


def test_the_gradient_notices_other_labels():
    model, labels = regression(1.0), classes(2, k=3)
    assert np.abs(gradient(model, labels[1], model.fit(labels).coefficients[0])).max() > 0.1


def test_students_do_not_depend_on_how_many_there_are():
    model, labels = regression(0.5), classes(70)
    whole = model.fit(labels).coefficients
    np.testing.assert_array_equal(model.fit(labels[:7]).coefficients, whole[:7])
    np.testing.assert_array_equal(model.fit(labels[:66]).coefficients, whole[:66])


def test_where_the_centre_lies_does_not_matter():
    labels = classes(5)
    one, other = (regression(1.0, labels=mean).fit(labels).coefficients for mean in (P, labels[0]))
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_curvature_is_the_derivative_of_the_gradient():
    model = regression(0.7)
    rng = np.random.default_rng(5)
    at, move = rng.normal(size=(2, 4, 3))
    matrix = curvature(model, softmax(model.inputs @ at @ model.contrasts.T, axis=1))
    ends = [gradient(model, P, (at + sign * 1e-5 * move) @ model.contrasts.T) @ model.contrasts for sign in (1.0, -1.0)]
    np.testing.assert_allclose((matrix @ move.ravel()).reshape(4, 3), (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-7)


def test_separated_labels_have_no_fit_and_the_reason_is_said():
    line = np.hstack([np.ones((40, 1)), np.linspace(-1.0, 1.0, 40)[:, None]])
    apart = np.eye(2)[(line[:, 1] > 0.1).astype(int)]
    quasi = apart.copy()
    quasi[:, 0], quasi[:, 1] = line[:, 1] < 0.1, line[:, 1] >= 0.1
    mixed = apart.copy()
    mixed[[0, 39]] = mixed[[39, 0]]
    start = np.full((40, 2), 0.5)
    model = regression(0.0, inputs=line, labels=start)
    assert model.fit(np.stack([apart, mixed])).converged.tolist() == [False, True]
    assert obstacle(model, apart) == "a linear rule separates the classes"
    assert obstacle(model, quasi) == "a linear rule separates the classes"
    assert obstacle(model, mixed) is None
    penalised = regression(1.0, inputs=line, labels=start)
    assert penalised.fit(apart[None]).converged.all()
    assert obstacle(penalised, apart) is None


def test_separation_of_some_classes_is_enough():
    labels = np.zeros((40, 3))
    line = np.hstack([np.ones((40, 1)), np.linspace(-1.0, 1.0, 40)[:, None]])
    right = line[:, 1] > 0.3
    labels[right, 2] = 1.0
    labels[~right] = np.array([0.4, 0.6, 0.0])  # two classes overlap, the third lies apart
    model = regression(0.0, inputs=line, labels=np.full((40, 3), 1 / 3))
    assert not model.fit(labels[None]).converged.any()
    assert obstacle(model, labels) == "a linear rule separates the classes"


def test_a_class_that_is_never_given_has_no_finite_intercept():
    labels = classes(1)[0]
    labels = np.where(labels[:, 3:] > 0, np.eye(4)[0], labels)
    model = regression(1.0)
    assert not model.fit(labels[None]).converged.any()
    assert obstacle(model, labels) == "no label gives class 3"
    without = regression(1.0, intercept=False)
    assert without.fit(labels[None]).converged.all()
    assert obstacle(without, labels) is None
