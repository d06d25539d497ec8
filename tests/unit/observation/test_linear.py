"""Linear students are what a textbook solver gives for the rows they were shown."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

import kdstats as kd
from kdstats.errors import (
    ApproximationWarning,
    DivergedStudentError,
    DuplicateStudentsError,
    ObservationError,
    ProblemError,
    RankDeficientError,
    UnsupportedProblemError,
)
from kdstats.observation import linear
from kdstats.observation.linear import observe
from kdstats.sampling import Gaussian, draw_training_block
from kdstats.sampling.training_sets import draw_responses
from kdstats.streams import Seeds, as_seeds

N, M, S = 30, 5, 6
rng = np.random.default_rng(2)
X = rng.standard_normal((N, 3)) * [1.0, 20.0, 0.05] + [0.0, 300.0, 1.0]
QUERY = X[:M] + 0.1
MEAN = X @ [1.0, 0.1, 4.0] + np.sin(X[:, 0])
WEIGHTS = np.linspace(1.0, 6.0, N)
ROOT = rng.standard_normal((N, N))
FULL = ROOT @ ROOT.T / N + 0.2 * np.eye(N)


def problem(student=None, *, mean=MEAN, noise=0.5, inputs=X, **design):
    teacher = kd.GaussianTeacher(inputs, mean, noise_variance=noise)
    query = QUERY[:, : inputs.shape[1]]
    return kd.DistillationProblem(
        teacher=teacher, student=student or kd.LinearStudent(), design=kd.Design(query, **design)
    )


def predictions(asked, **options):
    options = {"n_students": S, "rng": 7, **options}
    return observe(asked, **options).student_predictions.values


def block(asked):
    from kdstats.linear.smoother import smoother

    return draw_training_block(asked, as_seeds(7), 0, Gaussian(), smoother(asked))


def with_intercept(inputs):
    return np.column_stack([np.ones(len(inputs)), inputs])


@pytest.mark.parametrize("intercept", [True, False])
def test_least_squares_is_sklearns(intercept):
    two = np.column_stack([MEAN, -MEAN])
    asked = problem(kd.LinearStudent(fit_intercept=intercept), mean=two)
    reference = [
        LinearRegression(fit_intercept=intercept).fit(X, labels).predict(QUERY) for labels in block(asked).labels[:S]
    ]
    np.testing.assert_allclose(predictions(asked), reference, rtol=1e-9)


def test_ridge_is_sklearns():
    asked = problem(kd.LinearStudent(penalty=3.0))
    reference = [Ridge(alpha=3.0, solver="svd").fit(X, y).predict(QUERY) for y in block(asked).labels[:S, :, 0]]
    np.testing.assert_allclose(predictions(asked)[..., 0], reference, rtol=1e-9)


def test_weighted_ridge_is_sklearns():
    asked = problem(kd.LinearStudent(weights=WEIGHTS, penalty=3.0))
    reference = [
        Ridge(alpha=3.0, solver="cholesky").fit(X, y, sample_weight=WEIGHTS).predict(QUERY)
        for y in block(asked).labels[:S, :, 0]
    ]
    np.testing.assert_allclose(predictions(asked)[..., 0], reference, rtol=1e-8)


@pytest.mark.parametrize("wish", ["teacher", FULL])
def test_generalised_least_squares_is_the_textbook_formula(wish):
    asked = problem(kd.LinearStudent(covariance=wish), noise=FULL)
    A, inverse = with_intercept(X), np.linalg.inv(FULL)
    F = np.linalg.solve(A.T @ inverse @ A, A.T @ inverse)
    reference = block(asked).labels[:S, :, 0] @ F.T @ with_intercept(QUERY).T
    np.testing.assert_allclose(predictions(asked)[..., 0], reference, rtol=1e-7)


@pytest.mark.parametrize("n_generations", [1, 3])
def test_multi_response_sees_every_row(n_generations):
    """Fit and residual variance are sklearn's on the kn stacked rows, with the penalty as it is."""
    asked = problem(
        kd.LinearStudent(penalty=3.0, residual_variance="mle"),
        n_responses=4,
        strategy="multi_response",
        n_generations=n_generations,
    )
    noise = draw_responses(asked, as_seeds(7), 0, Gaussian(), generation=n_generations - 1)
    rows = block(asked).labels[:, None] + noise - noise.mean(axis=1, keepdims=True)
    stacked = np.tile(X, (4, 1))
    fits = [Ridge(alpha=3.0, solver="svd").fit(stacked, y.reshape(-1)) for y in rows[:S, :, :, 0]]
    np.testing.assert_allclose(predictions(asked)[..., 0], [fit.predict(QUERY) for fit in fits], rtol=1e-9)
    squares = [np.mean((y.reshape(-1) - fit.predict(stacked)) ** 2) for y, fit in zip(rows[:S], fits, strict=True)]
    assert float(observe(asked, n_students=S, rng=7).intra_student[0, 0]) == pytest.approx(np.mean(squares), rel=1e-9)


def descend(A, y, start, penalty, weights, n_steps, rate, n_rows):
    w = start.copy()
    mask = np.ones(len(w))
    mask[0] = 0.0
    for _ in range(n_steps):
        gradient = sum(weights[i] * (A[i] @ w - y[i]) * A[i] for i in range(len(y))) + penalty * mask * w
        w = w - rate * 2.0 / n_rows * gradient
    return w


@pytest.mark.parametrize("resample_size", [None, 12])
def test_gradient_descent_takes_every_step_from_its_own_start(resample_size):
    training = kd.GradientDescent(n_steps=40, learning_rate=0.02, initialization_sd=0.7)
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    asked = problem(
        kd.LinearStudent(training=training, weights=WEIGHTS, penalty=2.0), inputs=scaled, resample_size=resample_size
    )
    drawn = block(asked)
    counts = np.ones((256, N)) if drawn.counts is None else drawn.counts
    start = 0.7 * as_seeds(7).generator("student_initialization", "student", 0).standard_normal((256, 4, 1))
    A, n_rows = with_intercept(scaled), resample_size or N
    reference = [
        with_intercept(QUERY)
        @ descend(A, drawn.labels[s, :, 0], start[s, :, 0], 2.0, WEIGHTS * counts[s], 40, 0.02, n_rows)
        for s in range(S)
    ]
    np.testing.assert_allclose(predictions(asked)[..., 0], reference, rtol=1e-10)


@pytest.mark.parametrize(("penalty", "weights"), [(0.0, None), (2.0, WEIGHTS)])
def test_resampled_students_fit_the_rows_they_drew(penalty, weights):
    asked = problem(kd.LinearStudent(penalty=penalty, weights=weights), resample_size=20)
    drawn = block(asked)
    weight = np.ones(N) if weights is None else weights
    reference = []
    for s in range(S):
        rows = np.repeat(np.arange(N), drawn.counts[s])
        assert rows.size == 20
        model = Ridge(alpha=penalty, solver="cholesky") if penalty else LinearRegression()
        reference.append(model.fit(X[rows], drawn.labels[s, rows, 0], sample_weight=weight[rows]).predict(QUERY))
    np.testing.assert_allclose(predictions(asked)[..., 0], reference, rtol=1e-8)


def test_estimated_weights_come_from_each_students_own_responses():
    asked = problem(kd.LinearStudent(weights="estimated"), n_responses=8)
    responses = draw_responses(asked, as_seeds(7), 0, Gaussian())[:S, ..., 0]
    reference = [
        LinearRegression().fit(X, y.mean(axis=0), sample_weight=1 / y.var(axis=0, ddof=1)).predict(QUERY)
        for y in responses
    ]
    np.testing.assert_allclose(predictions(asked)[..., 0], reference, rtol=1e-9)


@pytest.mark.parametrize("intercept", [True, False])
def test_minimum_norm_leaves_the_intercept_free(intercept):
    few = slice(0, 3)
    asked = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X[few], MEAN[few]),
        student=kd.LinearStudent(minimum_norm=True, fit_intercept=intercept, residual_variance="mle"),
        design=kd.Design(QUERY),
    )
    labels = block(asked).labels[:S, :, 0]
    centre, level = (X[few].mean(axis=0), labels.mean(axis=1)) if intercept else (np.zeros(3), np.zeros(S))
    slopes = np.linalg.pinv(X[few] - centre) @ (labels - level[:, None]).T
    reference = (QUERY - centre) @ slopes + level
    np.testing.assert_allclose(predictions(asked)[..., 0], reference.T, rtol=1e-8)


def test_resamples_without_full_rank_take_the_smallest_norm_and_are_counted():
    asked = problem(kd.LinearStudent(residual_variance="mle"), resample_size=4)
    drawn = block(asked)
    lacking = (drawn.counts > 0).sum(axis=1) < 4
    with pytest.warns(ApproximationWarning, match=f"of {lacking.sum()} of 256 students"):
        seen = observe(asked, n_students=256, rng=7)
    assert seen.attrs["n_rank_deficient"] == lacking.sum() > 0
    student = int(np.flatnonzero(lacking)[0])
    rows = np.repeat(np.arange(N), drawn.counts[student])
    reference = LinearRegression().fit(X[rows], drawn.labels[student, rows, 0]).predict(QUERY)
    np.testing.assert_allclose(seen.student_predictions[student, :, 0], reference, rtol=1e-8)


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_rank_does_not_depend_on_the_mean_of_the_inputs(shift):
    """Minimum norm of centred rows, far from the origin too, where centring leaves rounding."""
    asked = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(np.column_stack([X[:, 0], 2 * X[:, 0], X[:, 1]]) + shift, MEAN),
        student=kd.LinearStudent(minimum_norm=True, residual_variance="mle"),
        design=kd.Design(QUERY + shift, resample_size=3),
    )
    seen = predictions(asked, n_students=50)
    whole = predictions(asked.with_design(resample_size=None, sources=["teacher_output"]), n_students=50)
    assert np.abs(seen).max() < 100 * np.abs(MEAN).max()
    assert np.abs(whole).max() < 100 * np.abs(MEAN).max()


def test_residual_variance_of_a_student_is_its_intra():
    asked = problem()
    labels = block(asked).labels[:S, :, 0]
    squares = [((y - LinearRegression().fit(X, y).predict(X)) ** 2).sum() / (N - 4) for y in labels]
    seen = observe(asked, n_students=S, rng=7)
    np.testing.assert_allclose(seen.intra_student.values, np.mean(squares), rtol=1e-10)
    assert not observe(asked.with_design(sources=["teacher_output"]), n_students=S, rng=7).intra_student.values.any()


SEED = as_seeds(11)


def test_first_students_do_not_depend_on_how_many_are_asked_for():
    asked = problem(resample_size=40)
    np.testing.assert_array_equal(predictions(asked, n_students=300)[:S], predictions(asked))


def test_another_output_seed_changes_outputs_alone():
    asked = problem()
    one = observe(asked, n_students=S, rng=SEED, n_replicates=50)
    two = observe(asked, n_students=S, rng=SEED.with_seed(student_output=12), n_replicates=50)
    np.testing.assert_array_equal(one.student_predictions, two.student_predictions)
    assert (one.intra_student != two.intra_student).all()
    known = observe(asked, n_students=S, rng=SEED)
    np.testing.assert_array_equal(one.student_predictions, known.student_predictions)


@pytest.mark.parametrize("source", [field.name for field in dataclasses.fields(Seeds)])
def test_each_seed_moves_its_own_source_only(source):
    training = kd.GradientDescent(n_steps=40, learning_rate=1e-6, initialization_sd=0.7)
    asked = problem(kd.LinearStudent(training=training))
    matters = {"teacher_output", "student_initialization"}
    base, moved = predictions(asked, rng=SEED), predictions(asked, rng=SEED.with_seed(**{source: 99}))
    assert (base != moved).any() == (source in matters)
    resampled = problem(resample_size=20, sources=["data_resampling"])
    base, moved = predictions(resampled, rng=SEED), predictions(resampled, rng=SEED.with_seed(**{source: 99}))
    assert (base != moved).any() == (source == "data_resampling")


def test_replicates_scatter_around_the_prediction_by_the_residual_variance():
    asked = problem()
    known = observe(asked, n_students=2000, rng=3)
    sampled = observe(asked, n_students=2000, rng=3, n_replicates=4)
    for component in ("inter_student", "intra_student"):
        gap = np.abs(sampled.estimate[component] - known.estimate[component]).values
        assert (gap < 4.5 * sampled.standard_error[component].values).all()
    assert sampled.mean_squares.attrs["n_replicates"] == 4
    assert known.mean_squares.attrs["n_replicates"] == 0


def test_result_says_where_it_came_from():
    asked = problem()
    done = []
    seen = observe(
        asked, n_students=300, rng=SEED, noise_law="laplace", progress=lambda now, total: done.append((now, total))
    )
    assert seen.engine == "linear"
    assert seen.exactness == "observed"
    assert seen.attrs["seed"] == SEED.as_dict()
    assert seen.attrs["noise_law"] == "laplace"
    assert seen.attrs["problem"] == asked.fingerprint()
    assert seen.attrs["training"] == "least squares"
    assert seen.attrs["n_students"] == 300
    assert seen.attrs["wall_time"] > 0
    assert seen.attrs["versions"]["numpy"] == np.__version__
    assert done == [(256, 300), (300, 300)]
    assert seen.student_predictions.dims == ("student", "point", "output")


def test_fit_does_not_use_the_coefficient_map(monkeypatch):
    """Two routes: an observation with a broken map would still be right where no pilot or chain needs it."""
    from kdstats.linear.smoother import Smoother

    asked = problem()
    expected = predictions(asked)

    def broken(self, labels):
        raise AssertionError

    monkeypatch.setattr(Smoother, "coefficients", broken)
    monkeypatch.setattr(linear, "assemble_components", lambda predictions, *args, **options: predictions)
    np.testing.assert_array_equal(observe(asked, n_students=S, rng=7), expected)


def test_seed_that_repeats_is_caught(monkeypatch):
    """Every block drawn from the stream of the first one."""
    asked = problem()
    monkeypatch.setattr(
        linear, "draw_training_block", lambda asked, seeds, block, *rest: draw_training_block(asked, seeds, 0, *rest)
    )
    with pytest.raises(DuplicateStudentsError, match="256 of 512"):
        observe(asked, n_students=512, rng=1)


@pytest.mark.parametrize(
    ("asked", "options", "error", "message"),
    [
        (problem(kd.NetworkStudent()), {}, UnsupportedProblemError, "engine='networks'"),
        (problem(), {"n_students": 1}, ProblemError, r"`n_students` must be at least 2 .*; got 1"),
        (problem(), {"n_students": 2.5}, ProblemError, "n_students"),
        (problem(), {"n_replicates": 1}, ProblemError, "`n_replicates` must be at least 2 to identify"),
        (problem(sources=["teacher_output"]), {"n_replicates": 2}, ProblemError, "`n_replicates` must be left out"),
        (problem(), {"rng": -1}, ProblemError, "rng"),
        (problem(), {"noise_law": "cauchy"}, ProblemError, "noise_law"),
        (problem(inputs=np.column_stack([X[:, 0], np.ones(N)])), {}, RankDeficientError, "'x1'"),
        (problem(resample_size=3), {}, ObservationError, "0 residual degrees of freedom"),
    ],
)
def test_what_cannot_be_observed_is_refused(asked, options, error, message):
    with pytest.raises(error, match=message):
        observe(asked, **{"n_students": S, "rng": 1, **options})


def test_steps_that_diverge_on_resampled_rows_are_refused():
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    limit = 1.0 / np.linalg.eigvalsh(with_intercept(scaled).T @ with_intercept(scaled) / N)[-1]
    training = kd.GradientDescent(n_steps=5, learning_rate=0.95 * limit)
    with pytest.raises(DivergedStudentError, match="`learning_rate` must be less than"):
        observe(problem(kd.LinearStudent(training=training), inputs=scaled, resample_size=6), n_students=S, rng=1)


def test_equal_responses_have_no_estimated_weight():
    teacher = kd.GaussianTeacher(X, MEAN, response_correlation=1.0)
    asked = kd.DistillationProblem(
        teacher=teacher, student=kd.LinearStudent(weights="estimated"), design=kd.Design(n_responses=8)
    )
    with pytest.raises(ObservationError, match="8 equal responses at input 0"):
        observe(asked, n_students=S, rng=1)
