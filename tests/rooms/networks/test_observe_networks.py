"""The engine that trains with torch: against the exact engine, against theory, and its seeds."""

import tracemalloc

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import DivergedStudentError, ProblemError
from kdstats.observation.networks import observe
from kdstats.sampling import Gaussian
from kdstats.sampling.training_sets import BLOCK, draw_responses, draw_training_block
from kdstats.streams import as_seeds

N, P = 30, 3
GENERATOR = np.random.default_rng(0)
X, X_QUERY = GENERATOR.normal(size=(N, P)), GENERATOR.normal(size=(6, P))
MEAN = X @ [1.0, -2.0, 0.5] + 3.0
VARIANCES = np.linspace(0.5, 1.5, N)
NETWORK = kd.NetworkStudent(hidden=(6,), epochs=40)
STEPS = kd.GradientDescent(n_steps=30, learning_rate=0.05, initialization_sd=0.4)


def problem(student=NETWORK, *, noise=VARIANCES, mean=MEAN, **design):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, noise_variance=noise), student=student, design=kd.Design(X_QUERY, **design)
    )


def predictions(answer):
    return answer.student_predictions.values


@pytest.mark.parametrize(
    ("student", "design"),
    [
        (kd.LinearStudent(), {}),
        (kd.LinearStudent(fit_intercept=False), {"n_responses": 3}),
        (kd.LinearStudent(penalty=3.0), {"n_responses": 3, "strategy": "multi_response"}),
        (kd.LinearStudent(penalty=3.0, residual_variance="mle"), {"resample_size": 25}),
        (kd.LinearStudent(weights=1 / VARIANCES), {"n_responses": 2, "strategy": "multi_response"}),
        (kd.LinearStudent(weights=1 / VARIANCES), {"resample_size": 25}),
        (kd.LinearStudent(covariance=np.diag(VARIANCES) + 0.2), {"n_responses": 2, "strategy": "multi_response"}),
        (kd.LinearStudent(weights="estimated"), {"n_responses": 9}),
        (kd.LinearStudent(training=STEPS, penalty=2.0), {"n_responses": 2, "strategy": "multi_response"}),
        (kd.LinearStudent(training=STEPS), {"resample_size": 25}),
        (kd.LinearStudent(training=STEPS), {"n_generations": 3}),
        (kd.LinearStudent(), {"n_responses": 4, "strategy": "variance_weighting"}),
    ],
)
def test_linear_students_against_the_exact_engine(student, design):
    one_output = student.weights_are_estimated or design.get("strategy") == "variance_weighting"
    asked = problem(student, mean=MEAN if one_output else np.stack([MEAN, -MEAN], axis=1), **design)
    ours, exact = observe(asked, n_students=40, rng=1), kd.observe(asked, engine="linear", n_students=40, rng=1)
    np.testing.assert_allclose(predictions(ours), predictions(exact), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.intra_student, exact.intra_student, rtol=1e-8)


def test_gradient_trained_students_against_theory():
    asked = problem(kd.LinearStudent(training=STEPS), n_responses=3)
    seen, predicted = observe(asked, n_students=2000, rng=2).average(), kd.predict(asked).average()
    for name in ("inter_student", "intra_student"):
        error = float(seen.estimate[name].squeeze() - predicted.estimate[name].squeeze())
        assert abs(error) < 4.5 * float(seen.standard_error[name].squeeze())
    fewer_steps = kd.GradientDescent(n_steps=10, learning_rate=0.05, initialization_sd=0.4)
    wrong = kd.predict(problem(kd.LinearStudent(training=fewer_steps), n_responses=3)).average()
    gap = float(seen.inter_student.squeeze() - wrong.inter_student.squeeze())
    assert abs(gap) > 10.0 * float(seen.standard_error["inter_student"].squeeze())


def test_networks_are_the_default_engine_of_network_students():
    answer = kd.observe(problem(), n_students=40, rng=3)
    assert (answer.engine, answer.exactness, answer.n_students) == ("networks", "observed", 40)
    assert "hidden=(6,)" in answer.attrs["training"]
    assert answer.attrs["noise_law"] == "gaussian"
    assert answer.attrs["seed"] == as_seeds(3).as_dict()
    assert answer.attrs["wall_time"] > 0
    assert "number of its training rows" in answer.attrs["student_variance"]
    assert float(answer.inter_student.min()) > 0


@pytest.mark.parametrize("student", [NETWORK, kd.LinearStudent(training=STEPS), kd.LinearStudent()])
def test_students_depend_neither_on_threads_nor_on_how_many_are_asked_for(student):
    asked = problem(student, resample_size=25)
    many = predictions(observe(asked, n_students=BLOCK + 40, rng=4, n_workers=2))
    assert np.array_equal(predictions(observe(asked, n_students=BLOCK + 40, rng=4, n_workers=1)), many)
    assert np.array_equal(predictions(observe(asked, n_students=BLOCK + 3, rng=4)), many[:-37])
    assert np.array_equal(predictions(observe(asked, n_students=5, rng=4)), many[:5])


def test_each_source_has_a_seed_of_its_own():
    untrained = kd.NetworkStudent(hidden=(6,), epochs=1, optimizer="sgd", learning_rate=1e-30)
    start, seeds = problem(untrained), as_seeds(5)
    resampled, fitted = problem(kd.LinearStudent(), resample_size=25), problem(kd.LinearStudent())

    def changed(asked, **seed):
        before, after = (predictions(observe(asked, n_students=33, rng=s)) for s in (seeds, seeds.with_seed(**seed)))
        same = before == after
        assert same.all() or not same.any()
        return not same.all()

    sources = ("teacher_output", "student_initialization", "data_order", "data_resampling", "student_output")
    reached = {
        name: {source for source in sources if changed(asked, **{source: 6})}
        for name, asked in (("start", start), ("fitted", fitted), ("resampled", resampled), ("trained", problem()))
    }
    assert reached == {
        "start": {"student_initialization"},
        "fitted": {"teacher_output"},
        "resampled": {"teacher_output", "data_resampling"},
        "trained": {"teacher_output", "student_initialization"},
    }


@pytest.mark.parametrize("hidden", [(6,), (6, 5)])
def test_without_noise_and_from_a_common_start_all_students_are_equal_to_the_bit(hidden):
    student = kd.NetworkStudent(hidden=hidden, epochs=40)
    still = observe(problem(student, noise=0.0, sources=["teacher_output"]), n_students=70, rng=7)
    assert (still.total.values == 0.0).all()
    assert np.ptp(predictions(still), axis=0).max() == 0.0
    noisy = observe(problem(student, sources=["teacher_output"]), n_students=70, rng=7)
    assert (noisy.inter_student.values > 0.0).all()
    started = observe(problem(student, noise=0.0, sources=["student_initialization"]), n_students=70, rng=7)
    assert (started.inter_student.values > 0.0).all()


@pytest.mark.parametrize("resample_size", [None, 25])
@pytest.mark.parametrize("strategy", ["averaging", "multi_response"])
def test_intra_of_networks_is_their_residual_variance_over_all_rows(strategy, resample_size):
    k, law, seeds = 3, Gaussian(), as_seeds(8)
    teacher = kd.GaussianTeacher(X, MEAN, noise_variance=VARIANCES)
    design = kd.Design(n_responses=k, strategy=strategy, resample_size=resample_size)
    asked = kd.DistillationProblem(teacher=teacher, student=NETWORK, design=design)
    answer = observe(asked, n_students=20, rng=seeds)
    rows = draw_responses(asked, seeds, 0, law)[:20, ..., 0]
    if strategy == "averaging":
        rows = rows.mean(axis=1, keepdims=True)
    squares = (rows - predictions(answer)[:, None, :, 0]) ** 2
    counts = draw_training_block(asked, seeds, 0, law).counts
    own = [np.average(squares[s].mean(axis=0), weights=None if counts is None else counts[s]) for s in range(20)]
    np.testing.assert_allclose(answer.intra_student, np.mean(own), rtol=1e-10)


def test_drawn_outputs_against_the_known_variance():
    known = observe(problem(), n_students=300, rng=9)
    drawn = observe(problem(), n_students=300, rng=9, n_replicates=8)
    assert np.array_equal(predictions(known), predictions(drawn))
    for name in ("inter_student", "intra_student"):
        error = np.abs(known.estimate[name] - drawn.estimate[name]).values
        assert (error < 4.5 * drawn.standard_error[name].values).all()
    assert drawn.mean_squares.attrs["n_replicates"] == 8


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_memory_does_not_grow_with_the_number_of_students(activation):
    """Beyond their answers: the parameters of one block that were kept would already be more than is allowed."""
    student = kd.NetworkStudent(hidden=(128,), activation=activation, epochs=1)
    asked = problem(student)
    few, many = BLOCK, 5 * BLOCK
    block = 4 * BLOCK * sum(rows * columns for rows, columns in ((P + 1, 128), (129, 1)))

    def peak(n_students):
        tracemalloc.start()
        try:
            observe(asked, n_students=n_students, rng=1, n_workers=1)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(few)
    assert peak(many) - peak(few) < block


def test_progress_is_told_after_each_block():
    told = []
    observe(problem(), n_students=BLOCK + 2, rng=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(BLOCK, BLOCK + 2), (BLOCK + 2, BLOCK + 2)]


def test_rates_that_diverge_are_refused():
    with pytest.raises(DivergedStudentError, match="diverged after step"):
        observe(problem(kd.NetworkStudent(optimizer="sgd", learning_rate=1e3)), n_students=4, rng=1)
    with pytest.raises(ProblemError, match="learning_rate"):
        observe(problem(kd.LinearStudent(training=kd.GradientDescent(n_steps=9, learning_rate=9.0))), n_students=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_students": 1}, "`n_students` must be at least 2 to estimate inter-student variance; got 1"),
        ({"n_students": 2.0}, "`n_students` must be an integer"),
        ({"n_replicates": 1}, "`n_replicates` must be at least 2"),
        ({"n_workers": 0}, "`n_workers` must be at least 1"),
        ({"rng": -1}, "`rng` must be"),
        ({"noise_law": "cauchy"}, "`noise_law` must be"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ProblemError, match=message):
        observe(problem(), **options)


def test_what_is_not_a_problem_is_refused():
    with pytest.raises(ProblemError, match="`problem` must be a DistillationProblem; got a str"):
        observe("problem")
