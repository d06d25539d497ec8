"""Students trained together are the students that PyTorch trains one by one."""

import numpy as np
import pytest
import torch

from kdstats.errors import DivergedStudentError
from kdstats.networks.architecture import architecture_of, initial_parameters, predict
from kdstats.networks.kernels import hyperbolic_tangent
from kdstats.networks.training import train_networks
from kdstats.problem.student import NetworkStudent

#: Students whose errors are compared, and how far the median error may lie above that of PyTorch's own float32.
N_STUDENTS, FACTOR = 9, 4.0
#: More than one group of students.
MANY = 40


@pytest.fixture(autouse=True)
def one_thread():
    """Leave torch one thread for the loops: small products gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def one_by_one(X, labels, student, initial, dtype):
    """Train with nn.Sequential and torch.optim, one student after the other; return predictions at X[0]."""
    outputs = []
    for s, y in enumerate(labels):
        rows = X[s] if isinstance(X, list) else X
        modules = []
        for depth, layer in enumerate(initial):
            linear = torch.nn.Linear(layer.shape[1] - 1, layer.shape[2], dtype=dtype)
            with torch.no_grad():
                linear.weight.copy_(torch.tensor(layer[s, :-1].T))
                linear.bias.copy_(torch.tensor(layer[s, -1]))
            modules.append(linear)
            if depth < len(initial) - 1:
                modules.append({"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[student.activation]())
        network = torch.nn.Sequential(*modules)
        optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[student.optimizer](
            network.parameters(), lr=student.learning_rate
        )
        inputs, targets = torch.tensor(rows, dtype=dtype), torch.tensor(y, dtype=dtype)
        for _ in range(student.epochs):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(network(inputs), targets).backward()
            optimizer.step()
        with torch.no_grad():
            outputs.append(network(torch.tensor(POINTS[:, : rows.shape[1]], dtype=dtype)).double().numpy())
    return np.array(outputs)


POINTS = np.random.default_rng(9).normal(size=(25, 4))


def training_set(seed=0, n=60, q=1, n_students=N_STUDENTS):
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(n, 4))
    mean = np.stack([X[:, 0] ** 2 + (j + 1) * X[:, 1] for j in range(q)], axis=1)
    return X, mean + 0.3 * generator.normal(size=(n_students, n, q))


def starts(student, q=1, seed=1, n_students=N_STUDENTS):
    architecture = architecture_of(student, n_features=4, n_outputs=q)
    return architecture, initial_parameters(architecture, np.random.default_rng(seed), n_students=n_students)


def together(X, labels, student, initial, **options):
    trained = train_networks(X, labels, student=student, initial=initial, **options)
    return predict(trained.architecture, trained.parameters, POINTS)


def assert_as_accurate_as_pytorch(ours, X, labels, student, initial):
    """The error against a float64 run is that of PyTorch's float32, in the median: kinks magnify single students'."""
    exact = one_by_one(X, labels, student, initial, torch.float64)
    single = one_by_one(X, labels, student, initial, torch.float32)
    errors, allowed = (np.median(np.abs(other - exact).max(axis=(1, 2))) for other in (ours, single))
    assert errors <= FACTOR * allowed
    assert allowed < 1e-4 * exact.std()


@pytest.mark.parametrize(
    "student",
    [
        NetworkStudent(hidden=(16,), activation="relu", optimizer="adam", epochs=60),
        NetworkStudent(hidden=(7,), activation="tanh", optimizer="adam", epochs=60),
        NetworkStudent(hidden=(16,), activation="relu", optimizer="sgd", learning_rate=0.05, epochs=60),
        NetworkStudent(hidden=(7,), activation="tanh", optimizer="sgd", learning_rate=0.05, epochs=60),
        NetworkStudent(hidden=(8, 5), activation="relu", optimizer="adam", epochs=40),
        NetworkStudent(hidden=(8, 5), activation="tanh", optimizer="sgd", learning_rate=0.05, epochs=60),
        NetworkStudent(hidden=(6, 5, 4), activation="tanh", optimizer="adam", epochs=40),
    ],
    ids=lambda s: f"{s.hidden}-{s.activation}-{s.optimizer}",
)
def test_students_trained_together_against_one_by_one(student):
    X, labels = training_set()
    _, initial = starts(student)
    assert_as_accurate_as_pytorch(together(X, labels, student, initial), X, labels, student, initial)


def test_the_comparison_notices_an_optimizer_that_is_slightly_off():
    X, labels = training_set()
    student = NetworkStudent(epochs=60)
    off = NetworkStudent(epochs=60, learning_rate=student.learning_rate * (1 + 5e-5))
    _, initial = starts(student)
    with pytest.raises(AssertionError):
        assert_as_accurate_as_pytorch(together(X, labels, off, initial), X, labels, student, initial)


@pytest.mark.parametrize("hidden", [(8,), (6, 5)])
def test_several_outputs_against_one_by_one(hidden):
    student = NetworkStudent(hidden=hidden, activation="tanh", epochs=40)
    X, labels = training_set(q=3)
    _, initial = starts(student, q=3)
    assert_as_accurate_as_pytorch(together(X, labels, student, initial), X, labels, student, initial)


@pytest.mark.parametrize("hidden", [(8,), (6, 5)])
def test_row_weights_against_repeated_rows(hidden):
    student = NetworkStudent(hidden=hidden, activation="tanh", epochs=40)
    X, labels = training_set()
    _, initial = starts(student)
    rows = np.random.default_rng(3).integers(len(X), size=(N_STUDENTS, 45))
    counts = np.stack([np.bincount(drawn, minlength=len(X)) for drawn in rows])
    ours = together(X, labels, student, initial, row_weights=counts)
    resampled = np.stack([y[drawn] for y, drawn in zip(labels, rows, strict=True)])
    assert_as_accurate_as_pytorch(ours, [X[drawn] for drawn in rows], resampled, student, initial)


def test_mean_labels_against_all_responses_as_rows():
    student = NetworkStudent(hidden=(8,), activation="tanh", epochs=60)
    X, _ = training_set()
    _, initial = starts(student)
    responses = X[:, :1] + np.random.default_rng(4).normal(size=(N_STUDENTS, 3, len(X), 1))
    ours = together(X, responses.mean(axis=1), student, initial)
    stacked = responses.reshape(N_STUDENTS, -1, 1)
    assert_as_accurate_as_pytorch(ours, np.tile(X, (3, 1)), stacked, student, initial)


def test_many_rows_against_one_by_one():
    student = NetworkStudent(hidden=(5,), activation="tanh", epochs=20)
    X, labels = training_set(n=1100)
    labels = labels[:5]
    _, initial = starts(student, n_students=5)
    assert_as_accurate_as_pytorch(together(X, labels, student, initial), X, labels, student, initial)


@pytest.mark.parametrize("hidden", [(8,), (6, 5)])
def test_numbers_depend_neither_on_threads_nor_on_how_many_are_trained(hidden):
    student = NetworkStudent(hidden=hidden, epochs=30)
    X, labels = training_set(n_students=MANY)
    _, initial = starts(student, n_students=MANY)
    reference = together(X, labels, student, initial, n_workers=1)
    assert np.array_equal(together(X, labels, student, initial, n_workers=2), reference)
    fewer = together(X, labels[:35], student, tuple(layer[:35] for layer in initial))
    assert np.array_equal(fewer, reference[:35])
    assert len(np.unique(reference[:, 0, 0])) == MANY


@pytest.mark.parametrize("hidden", [(8,), (6, 5)])
def test_equal_students_end_equal_to_the_bit(hidden):
    student = NetworkStudent(hidden=hidden, epochs=50)
    X, labels = training_set(n_students=MANY)
    _, initial = starts(student, n_students=MANY)
    ours = together(
        X,
        np.repeat(labels[:1], MANY, axis=0),
        student,
        tuple(np.repeat(layer[:1], MANY, axis=0) for layer in initial),
    )
    assert np.ptp(ours, axis=0).max() == 0.0


def test_the_hyperbolic_tangent_has_the_stated_error():
    x = np.concatenate([np.linspace(-12, 12, 200_001), np.logspace(-30, 0, 2001)]).astype(np.float32)
    units, exact = x.copy(), np.tanh(x.astype(np.float64))
    hyperbolic_tangent(units)
    assert (np.abs(units - exact) <= 3e-7 * np.abs(exact)).all()
    ends = np.array([np.nan, np.inf, -np.inf, 0.0], dtype=np.float32)
    hyperbolic_tangent(ends)
    assert np.isnan(ends[0])
    np.testing.assert_allclose(ends[1:], [1.0, -1.0, 0.0], atol=3e-7)


def test_torch_keeps_its_threads():
    torch.set_num_threads(2)
    student = NetworkStudent(epochs=2)
    X, labels = training_set()
    together(X, labels, student, starts(student)[1])
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("hidden", [(8,), (6, 5)])
def test_a_rate_that_diverges_is_an_error_that_says_what_to_change(hidden):
    student = NetworkStudent(hidden=hidden, optimizer="sgd", learning_rate=50.0, epochs=100)
    X, labels = training_set()
    _, initial = starts(student)
    with pytest.raises(DivergedStudentError, match=r"diverged after step \d+ of 100 .*`learning_rate`.*50"):
        together(X, labels, student, initial)


@pytest.mark.parametrize("hidden", [(8,), (6, 5)])
def test_the_diverged_student_is_named(hidden):
    student = NetworkStudent(hidden=hidden, optimizer="sgd", epochs=20)
    X, labels = training_set(n_students=MANY)
    labels[37] *= 1e25
    _, initial = starts(student, n_students=MANY)
    with pytest.raises(DivergedStudentError, match=r"student 293 diverged .*\(1 of 40 students"):
        together(X, labels, student, initial, first_student=256)


def test_first_weights_have_the_law_of_pytorch():
    student = NetworkStudent(hidden=(16,))
    n_students = 2000
    _, layers = starts(student, n_students=n_students)
    for layer, fan_in in zip(layers, (4, 16), strict=True):
        bound = 1.0 / np.sqrt(fan_in)
        assert np.abs(layer).max() <= bound
        variance, size = bound**2 / 3.0, layer.size
        # A uniform variable has fourth central moment 9/5 of its squared variance.
        assert abs(layer.var() - variance) < 5.0 * variance * np.sqrt(0.8 / size)
        assert abs(layer.mean()) < 5.0 * np.sqrt(variance / size)
        torch_layer = torch.nn.Linear(fan_in, 2000, dtype=torch.float64)
        assert np.isclose(torch_layer.weight.abs().max().item(), bound, rtol=1e-2)
