"""What must hold for every linear student, on problems that hypothesis makes up."""

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

import kdstats as kd

EXAMPLES = settings(max_examples=40, deadline=None)


def rng_of(seed):
    return np.random.default_rng(seed)


@st.composite
def problems(draw, intercept=None, students=("ols", "ridge", "wls", "gls", "steps")):
    """A well-conditioned problem with any noise, strategy and student."""
    rng = rng_of(draw(st.integers(0, 2**32 - 1)))
    n, p = draw(st.integers(8, 20)), draw(st.integers(1, 4))
    X = rng.normal(size=(n, p))
    assume(np.linalg.cond(np.column_stack([np.ones(n), X])) < 30)
    root = rng.normal(size=(n, n))
    noise = draw(st.sampled_from(["scalar", "inputs", "full"]))
    teacher = kd.GaussianTeacher(
        X,
        rng.normal(size=n),
        noise_variance={"scalar": 0.8, "inputs": rng.uniform(0.3, 2, n), "full": root @ root.T / n}[noise],
        response_correlation=draw(st.sampled_from([0.0, 0.4])),
    )
    kind = draw(st.sampled_from(students))
    options = {
        "ols": {},
        "ridge": {"penalty": draw(st.floats(0.1, 10))},
        "wls": {"weights": rng.uniform(0.5, 2, n)},
        "gls": {"covariance": root @ root.T / n + np.eye(n)},
        "steps": {
            "training": kd.GradientDescent(n_steps=draw(st.integers(1, 40)), learning_rate=0.02, initialization_sd=0.3)
        },
    }[kind]
    fit_intercept = draw(st.booleans()) if intercept is None else intercept
    k = draw(st.sampled_from([1, 2, 5]))
    strategy = draw(st.sampled_from(["averaging", "multi_response"]))
    return kd.DistillationProblem(
        teacher=teacher,
        student=kd.LinearStudent(fit_intercept=fit_intercept, **options),
        design=kd.Design(rng.normal(size=(3, p)), n_responses=k, strategy=strategy),
    )


def same(one, other, rtol=1e-9):
    for component in ("inter_student", "intra_student", "total"):
        np.testing.assert_allclose(one.estimate[component].values, other.estimate[component].values, rtol=rtol)


def with_inputs(problem, X, query):
    return problem.with_teacher(X=X).with_design(X_query=query)


@given(problems(students=("ols", "wls", "gls")), st.integers(0, 2**32 - 1))
@EXAMPLES
def test_students_without_penalty_ignore_the_basis(problem, seed):
    p = problem.teacher.n_features
    A = rng_of(seed).normal(size=(p, p))
    assume(np.linalg.cond(A) < 50)
    same(kd.predict(problem), kd.predict(with_inputs(problem, problem.teacher.X @ A, problem.X_query @ A)))


@given(problems(), st.integers(0, 2**32 - 1))
@EXAMPLES
def test_every_student_ignores_rotations(problem, seed):
    p = problem.teacher.n_features
    Q, _ = np.linalg.qr(rng_of(seed).normal(size=(p, p)))
    same(kd.predict(problem), kd.predict(with_inputs(problem, problem.teacher.X @ Q, problem.X_query @ Q)))


@given(problems(intercept=True, students=("ols", "ridge", "wls", "gls")), st.floats(-20, 20))
@EXAMPLES
def test_an_intercept_takes_up_translations(problem, shift):
    same(kd.predict(problem), kd.predict(with_inputs(problem, problem.teacher.X + shift, problem.X_query + shift)))


def test_without_an_intercept_translations_matter():
    problem = kd.catalog.shared_noise().with_student(fit_intercept=False)
    moved = with_inputs(problem, problem.teacher.X + 1, problem.X_query + 1)
    with pytest.raises(AssertionError):  # negative control
        same(kd.predict(problem), kd.predict(moved))


@given(problems(students=("ols", "ridge", "wls", "gls")), st.floats(0.01, 100))
@EXAMPLES
def test_variances_scale_with_squared_labels(problem, factor):
    teacher = problem.teacher
    scaled = problem.with_teacher(mean=teacher.mean * factor, noise_variance=teacher.noise_variance * factor**2)
    before, after = kd.predict(problem), kd.predict(scaled)
    for component in ("inter_student", "intra_student", "total"):
        np.testing.assert_allclose(after.estimate[component], before.estimate[component] * factor**2, rtol=1e-9)


@given(problems(students=("ols", "ridge", "steps")), st.integers(0, 2**32 - 1))
@EXAMPLES
def test_order_of_inputs_and_points_is_nothing(problem, seed):
    teacher, rng = problem.teacher, rng_of(seed)
    order, points = rng.permutation(teacher.n_inputs), rng.permutation(3)
    noise = teacher.noise_variance
    noise = noise if noise.ndim == 0 else noise[order] if noise.ndim == 1 else noise[np.ix_(order, order)]
    shuffled = problem.with_teacher(X=teacher.X[order], mean=teacher.mean[order], noise_variance=noise)
    before, after = kd.predict(problem), kd.predict(shuffled.with_design(X_query=problem.X_query[points]))
    np.testing.assert_allclose(after.total.values, before.total.values[points], rtol=1e-9)
    np.testing.assert_allclose(after.inter_student.values, before.inter_student.values[points], rtol=1e-9)


@given(problems())
@EXAMPLES
def test_components_are_variances(problem):
    result = kd.predict(problem, covariance=True)
    assert (result.inter_student.values >= 0).all()
    assert (result.intra_student.values >= 0).all()
    np.testing.assert_array_equal(result.total.values, result.inter_student.values + result.intra_student.values)
    C = result.covariance.values[0]
    np.testing.assert_allclose(C, C.T, rtol=1e-12, atol=1e-15)
    assert np.linalg.eigvalsh(C)[0] >= -1e-12 * np.trace(C)
    np.testing.assert_allclose(np.diag(C), result.inter_student.values[:, 0], rtol=1e-12)
    assert 1 - 1e-9 <= result.attrs["effective_rank"] <= 3 + 1e-9


@given(problems(students=("ols", "ridge", "wls", "gls")))
@EXAMPLES
def test_averaging_is_monotone_and_meets_its_rate(problem):
    counts = [1, 2, 3, 8, 50]
    free = problem.with_teacher(response_correlation=0.0)
    averaged = [kd.predict(free.with_design(n_responses=k, strategy="averaging")) for k in counts]
    for k, fewer, more in zip(counts[1:], averaged[:-1], averaged[1:], strict=True):
        assert (more.inter_student.values < fewer.inter_student.values).all()
        np.testing.assert_allclose(more.inter_student.values * k, averaged[0].inter_student.values, rtol=1e-10)
    shared = problem.with_teacher(response_correlation=0.4).with_design(n_responses=1000, strategy="averaging")
    floor = 0.4 * averaged[0].inter_student.values
    assert (kd.predict(shared).inter_student.values > floor * (1 - 1e-9)).all()


@given(problems(), st.floats(1.01, 10))
@EXAMPLES
def test_more_noise_is_more_variance(problem, factor):
    louder = problem.with_teacher(noise_variance=problem.teacher.noise_variance * factor)
    assert (kd.predict(louder).inter_student.values > kd.predict(problem).inter_student.values).all()


@given(problems(students=("ols",)))
@EXAMPLES
def test_rows_and_averages_give_one_student(problem):
    rows, averaged = (
        kd.predict(problem.with_design(n_responses=4, strategy=strategy))
        for strategy in ("multi_response", "averaging")
    )
    np.testing.assert_allclose(rows.inter_student.values, averaged.inter_student.values, rtol=1e-11)


@given(problems())
@EXAMPLES
def test_sources_add_up(problem):
    def inter(*sources):
        return kd.predict(problem.with_design(sources=sources)).inter_student.values

    both = inter("teacher_output", "student_initialization")
    np.testing.assert_allclose(both, inter("teacher_output") + inter("student_initialization"), rtol=1e-9)
    assert not inter().any()
