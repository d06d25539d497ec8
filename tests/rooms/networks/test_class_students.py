"""Network students of classes: against a plain PyTorch loop, and what soft and hard labels do to their variance."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

import kdstats as kd
from kdstats.errors import ProblemError
from kdstats.networks.architecture import architecture_of, initial_parameters, predict
from kdstats.networks.stacks import BatchOrder
from kdstats.networks.training import train_networks
from kdstats.observation.networks import observe
from kdstats.sampling.classes import draw_class_counts, responses_of
from kdstats.streams import as_seeds

N, C, N_STUDENTS = 40, 3, 5
SEEDS = as_seeds(23)
X = np.random.default_rng(0).normal(size=(N, 4))
PROBABILITIES = softmax(1.5 * X[:, :C], axis=1)
TEACHER = kd.CategoricalTeacher(PROBABILITIES, X, class_labels=("a", "b", "c"))
STUDENT = kd.NetworkStudent(hidden=(8,), head="softmax", activation="tanh", learning_rate=0.03, epochs=40)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def problem(student=STUDENT, teacher=TEACHER, query=None, **design):
    return kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(query, **design))


def starts(student, n_students=N_STUDENTS):
    architecture = architecture_of(student, n_features=4, n_outputs=C)
    generator = SEEDS.generator("student_initialization", 0)
    drawn = initial_parameters(architecture, generator, n_students=256)
    return architecture, tuple(layer[:n_students] for layer in drawn)


def one_by_one(rows, labels, student, initial, dtype):
    """Train with torch's cross-entropy, on labels that are probabilities (or one-hot), one student after the other."""
    outputs = []
    for s, y in enumerate(labels):
        first, last = (torch.nn.Linear(layer.shape[1] - 1, layer.shape[2], dtype=dtype) for layer in initial)
        with torch.no_grad():
            for linear, layer in zip((first, last), initial, strict=True):
                linear.weight.copy_(torch.tensor(layer[s, :-1].T))
                linear.bias.copy_(torch.tensor(layer[s, -1]))
        network = torch.nn.Sequential(first, torch.nn.Tanh(), last)
        optimizer = torch.optim.Adam(network.parameters(), lr=student.learning_rate)
        inputs, targets = torch.tensor(rows, dtype=dtype), torch.tensor(y, dtype=dtype)
        shuffle = SEEDS.generator("data_order", s)
        for _ in range(student.epochs):
            order = shuffle.permutation(len(rows)) if student.batch_size else np.arange(len(rows))
            for begin in range(0, len(rows), student.batch_size or len(rows)):
                batch = order[begin : begin + (student.batch_size or len(rows))]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(inputs[batch]), targets[batch]).backward()
                optimizer.step()
        outputs.append(network(torch.tensor(X, dtype=dtype)).detach().double().numpy())
    return np.array(outputs)


def assert_as_accurate_as_pytorch(ours, rows, labels, student, initial):
    exact, single = (
        softmax(one_by_one(rows, labels, student, initial, dtype), axis=2) for dtype in (torch.float64, torch.float32)
    )
    errors, allowed = (np.median(np.abs(other - exact).max(axis=(1, 2))) for other in (ours, single))
    assert errors <= 4.0 * allowed
    assert allowed < 1e-4 * exact.std()


@pytest.mark.parametrize("batch_size", [None, 16])
def test_soft_and_hard_labels_against_one_by_one(batch_size):
    student = kd.NetworkStudent(
        hidden=(8,), head="softmax", activation="tanh", learning_rate=0.03, epochs=15, batch_size=batch_size
    )
    architecture, initial = starts(student)
    for labels in (
        np.repeat(PROBABILITIES[None], N_STUDENTS, axis=0),
        np.random.default_rng(4).multinomial(1, PROBABILITIES, size=(N_STUDENTS, N)).astype(float),
    ):
        order = BatchOrder(seeds=SEEDS)
        trained = train_networks(X, labels, student=student, initial=initial, order=order)
        ours = softmax(predict(architecture, trained.parameters, X), axis=2)
        assert_as_accurate_as_pytorch(ours, X, labels, student, initial)
        with pytest.raises(AssertionError):
            assert_as_accurate_as_pytorch(ours, X, 0.999 * labels + 0.001 / C, student, initial)


@pytest.mark.parametrize("batch_size", [None, 25])
@pytest.mark.parametrize("strategy", ["averaging", "multi_response"])
def test_what_the_engine_feeds_each_student(strategy, batch_size):
    student = kd.NetworkStudent(
        hidden=(8,), head="softmax", activation="tanh", learning_rate=0.03, epochs=8, batch_size=batch_size
    )
    asked = problem(student, n_responses=3, strategy=strategy)
    answer = observe(asked, n_students=N_STUDENTS, rng=SEEDS)
    counts = draw_class_counts(asked, SEEDS, 0)[:N_STUDENTS]
    labels, rows = counts / 3.0, X
    if strategy == "multi_response":
        labels, rows = responses_of(counts).reshape(N_STUDENTS, -1, C), np.tile(X, (3, 1))
    _, initial = starts(student)
    assert_as_accurate_as_pytorch(answer.student_predictions.values, rows, labels, student, initial)
    assert answer.student_predictions.output.values.tolist() == ["a", "b", "c"]


def test_responses_have_their_counts():
    counts = np.random.default_rng(1).multinomial(5, PROBABILITIES, size=(4, N)).astype(float)
    responses = responses_of(counts)
    assert responses.shape == (4, 5, N, C)
    assert (responses.sum(axis=-1) == 1.0).all()
    assert np.array_equal(responses.sum(axis=1), counts)


def test_soft_labels_have_no_sampling_variance_and_hard_ones_have():
    held = ["teacher_output", "student_output"]
    soft = observe(problem(strategy="soft_labels", sources=held), n_students=70, rng=1)
    assert (soft.inter_student.values == 0.0).all()
    assert (soft.intra_student.values > 0.0).all()
    hard = {k: observe(problem(n_responses=k, sources=held), n_students=300, rng=1).average() for k in (1, 16)}
    for k in hard:
        assert float(hard[k].inter_student.sum()) > 10.0 * float(hard[k].standard_error.inter_student.sum())
    assert float(hard[1].inter_student.sum()) > 4.0 * float(hard[16].inter_student.sum())
    started = observe(problem(strategy="soft_labels"), n_students=70, rng=1)
    assert (started.inter_student.values > 0.0).all()


def test_total_is_the_variance_of_a_class_drawn_from_a_random_student():
    answer = observe(problem(), n_students=50, rng=2)
    mean = answer.student_predictions.mean("student")
    expected = mean * (1.0 - mean) + answer.inter_student / 50
    np.testing.assert_allclose(answer.total, expected, rtol=1e-9)
    drawn = observe(problem(), n_students=50, rng=2, n_replicates=30)
    assert np.array_equal(drawn.student_predictions, answer.student_predictions)
    for name in ("inter_student", "intra_student"):
        error = (drawn.average().estimate[name] - answer.average().estimate[name]).values
        assert (np.abs(error) < 4.5 * drawn.average().standard_error[name].values).all()
    silent = observe(problem(sources=["teacher_output"]), n_students=5, rng=2)
    assert (silent.intra_student.values == 0.0).all()


def entropy(probabilities):
    return -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=-1).mean(axis=-1)


def test_hard_labels_collapse_entropy_and_soft_labels_do_not():
    """Mean entropy at the inputs, over students with its interval: near the teacher's from soft labels, far below from
    single hard ones and from the teacher's likeliest class."""
    student = kd.NetworkStudent(hidden=(32,), head="softmax", learning_rate=0.03, epochs=400)
    own = float(entropy(PROBABILITIES[None])[0])
    argmax = kd.CategoricalTeacher(np.eye(C)[PROBABILITIES.argmax(axis=1)], X)
    interval = {}
    for name, asked in {
        "soft": problem(student, strategy="soft_labels"),
        "hard": problem(student),
        "argmax": problem(student, argmax),
    }.items():
        each = entropy(observe(asked, n_students=32, rng=3).student_predictions.values)
        half = 4.0 * each.std(ddof=1) / np.sqrt(len(each))
        interval[name] = (each.mean() - half, each.mean() + half)
    assert abs(interval["soft"][0] / own - 1.0) < 0.05
    assert abs(interval["soft"][1] / own - 1.0) < 0.05
    assert interval["hard"][1] < 0.25 * own
    assert interval["argmax"][1] < 0.25 * own


def test_soft_labels_are_the_limit_of_many_responses():
    """With a common start, mean probabilities over students of k responses are those of soft labels up to order 1/k."""
    held = ["teacher_output"]
    soft = observe(problem(strategy="soft_labels", sources=held), n_students=2, rng=1).student_predictions.values[0]
    gaps = []
    for k in (4, 64):
        seen = observe(problem(n_responses=k, sources=held), n_students=256, rng=1).student_predictions.values
        gaps.append(np.abs(seen - soft).mean())
    assert 2.0 < gaps[0] / gaps[1] < 8.0  # deviations fall as the root of k, by 4


def test_query_points_resampled_rows_and_early_stopping():
    student = kd.NetworkStudent(
        hidden=(8,), head="softmax", epochs=60, early_stopping=kd.EarlyStopping(patience=3, held_out=0.25)
    )
    answer = observe(problem(student, query=X[:6] + 0.1, resample_size=35), n_students=20, rng=1)
    assert answer.estimate.sizes == {"point": 6, "output": C}
    assert (answer.inter_student.values > 0.0).all()
    np.testing.assert_allclose(answer.student_predictions.sum("output"), 1.0, rtol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ProblemError, match="`head` must be 'softmax' for a CategoricalTeacher; got mean"):
        problem(kd.NetworkStudent())
    with pytest.raises(ProblemError, match="`head` must be mean or gaussian for a GaussianTeacher; got softmax"):
        problem(teacher=kd.GaussianTeacher(X, X[:, :C]))
    with pytest.raises(ProblemError, match="`X` must be given to the teacher"):
        problem(teacher=kd.CategoricalTeacher(PROBABILITIES))
    with pytest.raises(ProblemError, match="`noise_law` must be left out for a CategoricalTeacher; got laplace"):
        observe(problem(), n_students=3, rng=1, noise_law="laplace")
    with pytest.raises(ProblemError, match="`held_out` must leave inputs"):
        problem(kd.NetworkStudent(head="softmax", early_stopping=kd.EarlyStopping(held_out=0.99)))


def test_log_probabilities_of_confident_students_stay_finite():
    """Labels and outputs so large that probabilities underflow: the loss is taken from logarithms."""
    student = kd.NetworkStudent(hidden=(8,), head="softmax", activation="relu", epochs=5, weight_variance=1e6)
    architecture, initial = starts(student)
    assert log_softmax(predict(architecture, initial, X), axis=2).min() < -200.0
    answer = observe(problem(student), n_students=8, rng=SEEDS)
    assert np.isfinite(answer.student_predictions.values).all()
