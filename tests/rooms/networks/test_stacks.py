"""Students of every kind, trained as stacks, are the students that a plain PyTorch loop trains one by one."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import kdstats as kd
from kdstats.errors import DivergedStudentError, ObservationError, ProblemError
from kdstats.networks.architecture import architecture_of, initial_parameters, perturbed_parameters, predict
from kdstats.networks.stacks import BatchOrder, stack_size
from kdstats.networks.training import train_networks
from kdstats.observation.networks import observe
from kdstats.sampling import Gaussian
from kdstats.sampling.training_sets import draw_responses, draw_training_block
from kdstats.streams import as_seeds

#: Students compared, and how far the median error may lie above that of PyTorch's own float32.
N_STUDENTS, FACTOR = 5, 4.0
SEEDS = as_seeds(17)
POINTS = np.random.default_rng(9).normal(size=(25, 4))
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "erf": torch.erf, "gelu": torch.nn.functional.gelu}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Plain(torch.nn.Module):
    """One student as a user would write it; the scales of the NTK parameterization are in its forward pass."""

    def __init__(self, student, layers, dtype):
        super().__init__()
        self.student = student
        self.weights = torch.nn.ParameterList([torch.tensor(layer[:-1], dtype=dtype) for layer in layers])
        self.biases = torch.nn.ParameterList([torch.tensor(layer[-1], dtype=dtype) for layer in layers])

    def forward(self, signal):
        student = self.student
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if depth:
                signal = ACTIVATIONS[student.activation](signal)
            if student.parameterization == "ntk":
                slope = math.sqrt(student.weight_variance) / math.sqrt(weight.shape[0])
                signal = slope * (signal @ weight) + math.sqrt(student.bias_variance) * bias
            else:
                signal = signal @ weight + bias
        return signal


def plain_loss(student, outputs, targets):
    if student.head == "mean":
        return torch.nn.functional.mse_loss(outputs, targets)
    mean, log_variance = outputs.chunk(2, dim=1)
    return torch.nn.functional.gaussian_nll_loss(mean, targets, torch.exp(log_variance), eps=1e-30)


def one_by_one(X, labels, student, initial, dtype, held=None):
    outputs = []
    for s, y in enumerate(labels):
        network = Plain(student, [layer[s] for layer in initial], dtype)
        options = {"lr": student.learning_rate, "weight_decay": student.weight_decay}
        if student.optimizer == "sgd":
            options["momentum"] = student.momentum
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[student.optimizer]
        optimizer = kind(network.parameters(), **options)
        rows = X[s] if isinstance(X, list) else X
        inputs, targets = torch.tensor(rows, dtype=dtype), torch.tensor(y, dtype=dtype)
        if student.early_stopping is not None:
            validation = inputs[held], targets[held]
            inputs, targets = inputs[~held], targets[~held]
        shuffle = SEEDS.generator("data_order", s)
        best, waited = np.inf, 0
        for _ in range(student.epochs):
            order = shuffle.permutation(len(inputs)) if student.batch_size else np.arange(len(inputs))
            for first in range(0, len(inputs), student.batch_size or len(inputs)):
                batch = order[first : first + (student.batch_size or len(inputs))]
                optimizer.zero_grad()
                plain_loss(student, network(inputs[batch]), targets[batch]).backward()
                optimizer.step()
            if student.early_stopping is not None:
                with torch.no_grad():
                    loss = plain_loss(student, network(validation[0]), validation[1]).item()
                if loss < best - student.early_stopping.min_improvement:
                    best, waited, kept = loss, 0, copy.deepcopy(network.state_dict())
                else:
                    waited += 1
                if waited >= student.early_stopping.patience:
                    break
        if student.early_stopping is not None:
            network.load_state_dict(kept)
        with torch.no_grad():
            outputs.append(network(torch.tensor(POINTS, dtype=dtype)).double().numpy())
    return np.array(outputs)


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


def of_pytorch(X, labels, student, initial, held=None):
    """What a plain loop gives in float64 and in float32."""
    return tuple(one_by_one(X, labels, student, initial, dtype, held) for dtype in (torch.float64, torch.float32))


def assert_as_accurate_as_pytorch(ours, *trained, held=None):
    """Train with the plain loop, and compare."""
    assert_as_accurate_as(of_pytorch(*trained, held=held), ours)


def assert_as_accurate_as(loop, ours):
    """The error against a float64 run is that of PyTorch's float32, in the median: kinks magnify single students'."""
    exact, single = loop
    errors, allowed = (np.median(np.abs(other - exact).max(axis=(1, 2))) for other in (ours, single))
    assert errors <= FACTOR * allowed
    assert allowed < 1e-4 * exact.std()


NTK = {"parameterization": "ntk", "optimizer": "sgd", "learning_rate": 0.2, "epochs": 25}
STUDENTS = [
    kd.NetworkStudent(hidden=(64,), activation="relu", **NTK),
    kd.NetworkStudent(hidden=(64,), activation="erf", bias_variance=0.05, **NTK),
    kd.NetworkStudent(hidden=(32, 24), activation="erf", weight_variance=1.5, bias_variance=0.1, **NTK),
    kd.NetworkStudent(hidden=(12, 9), activation="tanh", **NTK | {"optimizer": "adam", "learning_rate": 0.02}),
    kd.NetworkStudent(hidden=(16,), activation="erf", epochs=40),
    kd.NetworkStudent(hidden=(9, 7), activation="gelu", epochs=40),
    kd.NetworkStudent(
        hidden=(9,), activation="gelu", optimizer="sgd", learning_rate=0.1, weight_variance=2.0, epochs=50
    ),
    kd.NetworkStudent(hidden=(40, 40), activation="tanh", epochs=40),
    kd.NetworkStudent(hidden=(9,), activation="tanh", optimizer="sgd", learning_rate=0.05, momentum=0.9, epochs=30),
    kd.NetworkStudent(hidden=(9,), activation="tanh", optimizer="sgd", learning_rate=0.1, weight_decay=0.1, epochs=30),
    kd.NetworkStudent(hidden=(9,), activation="tanh", weight_decay=0.05, epochs=30),
    kd.NetworkStudent(hidden=(9, 8), activation="tanh", optimizer="adamw", weight_decay=0.5, epochs=30),
]


@pytest.mark.parametrize(
    "student",
    STUDENTS,
    ids=lambda s: f"{s.parameterization}-{s.hidden}-{s.activation}-{s.optimizer}-{s.momentum}-{s.weight_decay}",
)
def test_students_of_every_kind_against_one_by_one(student):
    X, labels = training_set()
    _, initial = starts(student)
    assert_as_accurate_as_pytorch(together(X, labels, student, initial), X, labels, student, initial)


DECAYED = {"hidden": (9,), "activation": "tanh", "weight_decay": 0.05, "epochs": 60}


@pytest.fixture(scope="module")
def loop_of_decayed_students():
    student = kd.NetworkStudent(**DECAYED)
    return of_pytorch(*training_set(), student, starts(student)[1])


@pytest.mark.parametrize(
    "change",
    [{"weight_decay": 0.0501}, {"optimizer": "adamw"}, {"activation": "erf"}, {"parameterization": "ntk"}],
    ids=lambda change: next(iter(change)),
)
def test_the_comparison_notices_what_is_slightly_off(change, loop_of_decayed_students):
    X, labels = training_set()
    _, initial = starts(kd.NetworkStudent(**DECAYED))
    off = kd.NetworkStudent(**DECAYED | change)
    with pytest.raises(AssertionError):
        assert_as_accurate_as(loop_of_decayed_students, together(X, labels, off, initial))


def test_several_outputs_and_row_weights_against_repeated_rows():
    student = kd.NetworkStudent(hidden=(8,), activation="erf", epochs=40)
    X, labels = training_set(q=3)
    _, initial = starts(student, q=3)
    rows = np.random.default_rng(3).integers(len(X), size=(N_STUDENTS, 45))
    counts = np.stack([np.bincount(drawn, minlength=len(X)) for drawn in rows])
    ours = together(X, labels, student, initial, row_weights=counts)
    resampled = np.stack([y[drawn] for y, drawn in zip(labels, rows, strict=True)])
    assert_as_accurate_as_pytorch(ours, [X[drawn] for drawn in rows], resampled, student, initial)


@pytest.mark.parametrize(
    "student",
    [
        kd.NetworkStudent(hidden=(8,), head="gaussian", activation="tanh", epochs=30),
        kd.NetworkStudent(hidden=(6, 5), head="gaussian", activation="tanh", epochs=12, batch_size=16),
        kd.NetworkStudent(
            hidden=(8,), head="gaussian", activation="tanh", epochs=30, early_stopping=kd.EarlyStopping()
        ),
    ],
    ids=["full", "batched", "stopping"],
)
def test_gaussian_heads_against_one_by_one(student):
    X, labels = training_set(q=2)
    _, initial = starts(student, q=2)
    assert initial[-1].shape[2] == 4
    ours = together(X, labels, student, initial, order=BatchOrder(seeds=SEEDS))
    held = None if student.early_stopping is None else student.early_stopping.held_out_inputs(len(X))
    assert_as_accurate_as_pytorch(ours, X, labels, student, initial, held=held)


@pytest.mark.parametrize("batch_size", [None, 10_000])
def test_gaussian_heads_on_mean_labels_against_all_responses_as_rows(batch_size):
    """One batch of all kn rows, in any order, and the means of the responses with their spread: the same students."""
    student = kd.NetworkStudent(hidden=(8,), head="gaussian", activation="tanh", epochs=40, batch_size=batch_size)
    X = training_set()[0][:20]
    teacher = kd.GaussianTeacher(X, X[:, 0], noise_variance=np.linspace(0.1, 2.0, 20))
    design = kd.Design(POINTS, n_responses=3, strategy="multi_response")
    problem = kd.DistillationProblem(teacher=teacher, student=student, design=design)
    seen = observe(problem, n_students=N_STUDENTS, rng=SEEDS)
    responses = draw_responses(problem, SEEDS, 0, Gaussian())[:N_STUDENTS]
    architecture = architecture_of(student, n_features=4, n_outputs=1)
    initial = initial_parameters(architecture, SEEDS.generator("student_initialization", 0), n_students=256)
    first = tuple(layer[:N_STUDENTS] for layer in initial)
    plain = replace(student, batch_size=None)
    labels = responses.reshape(N_STUDENTS, -1, 1)
    outputs = one_by_one(np.tile(X, (3, 1)), labels, plain, first, torch.float64)
    np.testing.assert_allclose(seen.student_predictions, outputs[..., :1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(seen.intra_student, np.exp(outputs[..., 1:]).mean(axis=0), rtol=1e-3)
    averaged = one_by_one(X, responses.mean(axis=1), plain, first, torch.float64)
    assert np.abs(averaged[..., 1:] - outputs[..., 1:]).min(axis=(1, 2)).max() > 0.05


def test_students_with_gaussian_heads_know_where_the_noise_is():
    """Drawn outputs against the known variances, and the variance of the teacher's noise found at noisy inputs."""
    generator = np.random.default_rng(8)
    X = np.sort(generator.uniform(-1, 1, size=(150, 1)), axis=0)
    noise = np.where(X[:, 0] > 0, 1.0, 0.04)
    student = kd.NetworkStudent(hidden=(16,), head="gaussian", activation="tanh", learning_rate=0.02, epochs=300)
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=noise),
        student=student,
        design=kd.Design([[-0.7], [0.7]]),
    )
    known = observe(problem, n_students=30, rng=2)
    quiet, loud = known.intra_student.values.ravel()
    assert loud > 10.0 * quiet  # the teacher's own variances are 25 apart
    even = observe(problem.with_student(head="mean", epochs=5), n_students=10, rng=2).intra_student.values.ravel()
    assert even[0] == even[1]
    assert "logarithm" in known.attrs["student_variance"]
    drawn = observe(problem, n_students=30, rng=2, n_replicates=20)
    for name in ("inter_student", "intra_student"):
        error = np.abs(known.estimate[name] - drawn.estimate[name]).values
        assert (error < 4.5 * drawn.standard_error[name].values).all()
    silent = observe(problem.with_design(sources=["teacher_output"]).with_student(epochs=5), n_students=10, rng=2)
    assert (silent.intra_student.values == 0.0).all()


@pytest.mark.parametrize("hidden", [(6,), pytest.param((520, 510), marks=pytest.mark.slow)])
def test_perturbed_starts_are_a_common_draw_times_normal_factors(hidden):
    """Untrained students against the common draw, perturbed here: in law, and as outputs of one hidden unit's sum."""
    n_students = 300 if hidden == (6,) else 4
    X = np.random.default_rng(1).normal(size=(20, 4))
    still = {"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-30}

    def started(sd, *sources):
        student = kd.NetworkStudent(hidden=hidden, perturbation_sd=sd, **still)
        teacher = kd.GaussianTeacher(X, X[:, 0], noise_variance=0.0)
        problem = kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(sources=sources))
        return observe(problem, n_students=n_students, rng=3).student_predictions.values

    common = started(None)
    assert np.array_equal(started(0.3), common)
    assert np.array_equal(started(0.0, "student_initialization"), common)
    perturbed = started(0.3, "student_initialization")
    assert len(np.unique(perturbed[:, 0, 0])) == n_students
    assert np.array_equal(started(0.3, "student_initialization")[:2], perturbed[:2])
    near = started(1e-3, "student_initialization") - common
    # The outputs are smooth in the factors: a perturbation 300 times smaller moves them about 300 times less.
    assert np.abs(near).max() < 0.02 * np.abs(perturbed - common).max()


def test_perturbation_factors_have_mean_1_and_the_stated_spread():
    architecture, start = starts(kd.NetworkStudent(hidden=(40,)), n_students=1)
    drawn = perturbed_parameters(start, np.random.default_rng(0), n_students=2000, perturbation_sd=0.25)
    assert [layer.shape for layer in drawn] == [(2000, *shape) for shape in architecture.layer_shapes]
    factors = np.concatenate([(layer / first).ravel() for layer, first in zip(drawn, start, strict=True)])
    assert abs(factors.mean() - 1.0) < 5.0 * 0.25 / np.sqrt(factors.size)
    assert abs(factors.var() / 0.25**2 - 1.0) < 5.0 * np.sqrt(2.0 / factors.size)
    assert stats_kurtosis(factors - 1.0) < 5.0 * np.sqrt(24.0 / factors.size)


BATCHED = {"hidden": (8,), "activation": "tanh", "epochs": 12, "batch_size": 16}


@pytest.mark.parametrize(
    "student",
    [
        kd.NetworkStudent(**BATCHED),
        kd.NetworkStudent(**BATCHED | {"hidden": (6, 5), "optimizer": "sgd", "momentum": 0.5, "batch_size": 25}),
    ],
    ids=lambda s: s.optimizer,
)
def test_mini_batches_against_one_by_one(student):
    X, labels = training_set()
    _, initial = starts(student)
    ours = together(X, labels, student, initial, order=BatchOrder(seeds=SEEDS))
    loop = of_pytorch(X, labels, student, initial)
    assert_as_accurate_as(loop, ours)
    other = together(X, labels, student, initial, order=BatchOrder(seeds=as_seeds(18)))
    with pytest.raises(AssertionError):
        assert_as_accurate_as(loop, other)


STOPPING = kd.EarlyStopping(patience=3, held_out=0.3)


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("epochs", [8, 90])
def test_early_stopping_against_one_by_one(batch_size, epochs):
    student = kd.NetworkStudent(
        hidden=(8,),
        activation="tanh",
        learning_rate=0.05,
        epochs=epochs,
        batch_size=batch_size,
        early_stopping=STOPPING,
    )
    X, labels = training_set()
    _, initial = starts(student)
    held = np.zeros(len(X), dtype=bool)
    held[np.random.Generator(np.random.Philox(0)).permutation(len(X))[:18]] = True
    order = BatchOrder(seeds=SEEDS)
    ours = together(X, labels, student, initial, order=order)
    loop = of_pytorch(X, labels, student, initial, held)
    assert_as_accurate_as(loop, ours)
    if epochs == 90:
        for change in ({"early_stopping": kd.EarlyStopping(patience=3, held_out=0.3, split_seed=1)}, {"epochs": 3}):
            other = together(X, labels, replace(student, **change), initial, order=order)
            with pytest.raises(AssertionError):
                assert_as_accurate_as(loop, other)


def test_students_stop_apart_and_what_happens_to_others_later_does_not_move_them():
    student = kd.NetworkStudent(hidden=(8,), activation="tanh", learning_rate=0.05, epochs=60, early_stopping=STOPPING)
    X, labels = training_set(n_students=20)
    _, initial = starts(student, n_students=20)
    ours = together(X, labels, student, initial)
    order = np.random.default_rng(0).permutation(20)
    again = together(X, labels[order], student, tuple(layer[order] for layer in initial))
    np.testing.assert_allclose(again, ours[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resample_size", [None, 15])
@pytest.mark.parametrize("strategy", ["averaging", "multi_response"])
def test_rows_of_observed_mini_batches(strategy, resample_size):
    """What the engine feeds each student, rebuilt from the streams as the documentation states them."""
    student = kd.NetworkStudent(hidden=(8,), activation="tanh", epochs=6, batch_size=7)
    X = np.random.default_rng(1).normal(size=(20, 4))
    teacher = kd.GaussianTeacher(X, X[:, 0] - X[:, 1] ** 2, noise_variance=0.4)
    design = kd.Design(POINTS, n_responses=3, strategy=strategy, resample_size=resample_size)
    problem = kd.DistillationProblem(teacher=teacher, student=student, design=design)
    seen = observe(problem, n_students=N_STUDENTS, rng=SEEDS).student_predictions.values
    responses = draw_responses(problem, SEEDS, 0, Gaussian())[:N_STUDENTS]
    if strategy == "averaging":
        responses = responses.mean(axis=1, keepdims=True)
    counts = draw_training_block(problem, SEEDS, 0, Gaussian()).counts
    inputs, labels = [], []
    for s, own in enumerate(responses):
        rows = np.arange(20) if counts is None else np.repeat(np.arange(20), counts[s])
        inputs.append(np.concatenate([X[rows] for _ in own]))
        labels.append(np.concatenate([response[rows] for response in own]))
    architecture = architecture_of(student, n_features=4, n_outputs=1)
    initial = initial_parameters(architecture, SEEDS.generator("student_initialization", 0), n_students=256)
    first = tuple(layer[:N_STUDENTS] for layer in initial)
    assert_as_accurate_as_pytorch(seen, inputs, labels, student, first)


def test_the_order_of_mini_batches_is_a_source_of_its_own():
    X = np.random.default_rng(1).normal(size=(20, 4))
    teacher = kd.GaussianTeacher(X, X[:, 0], noise_variance=0.0)

    def variance(batch_size, *sources, seeds=SEEDS):
        student = kd.NetworkStudent(hidden=(8,), activation="tanh", epochs=5, batch_size=batch_size)
        problem = kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(sources=sources))
        return observe(problem, n_students=40, rng=seeds)

    ordered = variance(7, "data_order")
    assert (ordered.inter_student.values > 0.0).all()
    assert (variance(7).inter_student.values == 0.0).all()
    assert (variance(None, "data_order").inter_student.values == 0.0).all()
    moved = variance(7, "data_order", seeds=SEEDS.with_seed(data_order=5)).student_predictions.values
    assert (moved != ordered.student_predictions.values).any(axis=(1, 2)).all()
    start = variance(7, "student_initialization").student_predictions.values
    assert len(np.unique(start[:, 0, 0])) == 40


def test_resampled_students_with_early_stopping():
    X, labels = training_set(n_students=1)
    teacher = kd.GaussianTeacher(X, labels[0, :, 0], noise_variance=0.1)
    student = kd.NetworkStudent(hidden=(8,), epochs=30, early_stopping=STOPPING)

    def problem(size, student=student):
        design = kd.Design(POINTS, resample_size=size)
        return kd.DistillationProblem(teacher=teacher, student=student, design=design)

    answer = observe(problem(50), n_students=30, rng=1)
    assert (answer.inter_student.values > 0).all()
    with pytest.raises(ObservationError, match=r"`resample_size` must give every student inputs .*got 3, which gave"):
        observe(problem(3), n_students=30, rng=1)
    with pytest.raises(ProblemError, match="`early_stopping` must be left out where rows are resampled and batched"):
        problem(50, replace(student, batch_size=8))
    with pytest.raises(ProblemError, match="`held_out` must leave inputs to train on out of 60"):
        problem(None, replace(student, early_stopping=kd.EarlyStopping(held_out=0.999)))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (1e15, r"after step [1-9]\d* of 60 \(1 of 40 students"),
        (1e25, "after step 0 of 60, its first loss is not finite"),
    ],
)
def test_a_student_that_diverges_in_mini_batches_is_named(size, message):
    student = kd.NetworkStudent(hidden=(6,), optimizer="sgd", epochs=20, batch_size=16, early_stopping=STOPPING)
    X, labels = training_set(n_students=40)
    labels[37] *= size
    _, initial = starts(student, n_students=40)
    with pytest.raises(DivergedStudentError, match=f"student 293 diverged {message}"):
        together(X, labels, student, initial, order=BatchOrder(seeds=SEEDS), first_student=256)


def test_wide_students_move_as_their_tangent_kernel_says():
    """One small step moves the outputs by ``-2 rate / (n q)`` times kernel times residual, the stated loss."""
    student = kd.NetworkStudent(
        hidden=(512,), activation="erf", parameterization="ntk", optimizer="sgd", learning_rate=1e-3, epochs=1
    )
    X, labels = training_set(n=25, n_students=1)
    architecture, initial = starts(student, n_students=1)
    network = Plain(student, [layer[0] for layer in initial], torch.float64)
    outputs = network(torch.tensor(X))
    jacobian = torch.stack(
        [
            torch.cat([g.ravel() for g in torch.autograd.grad(f, network.parameters(), retain_graph=True)])
            for f in outputs
        ]
    )
    before = outputs.detach().numpy()
    kernel = (jacobian @ jacobian.T).numpy()
    trained = train_networks(X, labels, student=student, initial=initial)
    moved = predict(architecture, trained.parameters, X)[0] - before
    expected = -2.0 * student.learning_rate / len(X) * kernel @ (before - labels[0])
    # What is left is the curvature of the path, of second order in the step, and float32.
    assert np.abs(moved - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.parametrize(("parameterization", "bias_variance"), [("ntk", 0.3), ("standard", 0.3), ("standard", None)])
def test_first_weights_have_the_stated_variances(parameterization, bias_variance):
    student = kd.NetworkStudent(
        hidden=(30,), parameterization=parameterization, weight_variance=1.7, bias_variance=bias_variance
    )
    architecture, initial = starts(student, n_students=3000)
    bias = 0.0 if bias_variance is None else bias_variance
    for layer, (weight_scale, bias_scale) in zip(initial, architecture.scales, strict=True):
        fan_in = layer.shape[1] - 1
        weights, biases = weight_scale * layer[:, :-1], bias_scale * layer[:, -1:]
        for drawn, variance in ((weights, 1.7 / fan_in), (biases, bias)):
            assert abs(drawn.var() - variance) <= 5.0 * variance * np.sqrt(2.0 / drawn.size)
            assert abs(drawn.mean()) <= 5.0 * np.sqrt(variance / drawn.size)
        if bias > 0:
            assert stats_kurtosis(weights) < 5.0 * np.sqrt(24.0 / weights.size)


def stats_kurtosis(draws):
    """Excess kurtosis, 0 for normal draws and -1.2 for uniform ones."""
    return abs((draws**4).mean() / (draws**2).mean() ** 2 - 3.0)


@pytest.mark.parametrize("hidden", [(7, 5), (300,), (130, 130)])
def test_numbers_depend_neither_on_threads_nor_on_how_many_are_trained(hidden):
    student = kd.NetworkStudent(hidden=hidden, activation="erf", epochs=4)
    X, labels = training_set(n_students=40)
    architecture, initial = starts(student, n_students=40)
    reference = together(X, labels, student, initial, n_workers=1)
    assert np.array_equal(together(X, labels, student, initial, n_workers=2), reference)
    for count in (35, stack_size(architecture, len(X)) - 1 or 1):
        fewer = together(X, labels[:count], student, tuple(layer[:count] for layer in initial))
        assert np.array_equal(fewer, reference[:count])
    assert len(np.unique(reference[:, 0, 0])) == 40


@pytest.mark.parametrize("hidden", [(7, 5), (33,)])
def test_equal_students_end_equal_to_the_bit_in_any_company(hidden):
    student = kd.NetworkStudent(hidden=hidden, activation="gelu", epochs=30)
    X, labels = training_set(n_students=40)
    _, initial = starts(student, n_students=40)
    twins = np.arange(40) // 3
    ours = together(X, labels[twins], student, tuple(layer[twins] for layer in initial))
    same = twins[:, None] == twins
    equal = (ours[:, None] == ours).all(axis=(2, 3))
    assert np.array_equal(equal, same)


def test_batches_shrink_with_the_size_of_a_student():
    sizes = [
        stack_size(architecture_of(kd.NetworkStudent(hidden=(width, width)), n_features=13, n_outputs=1), 404)
        for width in (8, 64, 256, 2048)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1 == sizes[-1]
    assert all(size & (size - 1) == 0 for size in sizes)


def test_the_diverged_student_is_named():
    student = kd.NetworkStudent(hidden=(6,), activation="erf", optimizer="sgd", epochs=20)
    X, labels = training_set(n_students=40)
    labels[37] *= 1e25
    _, initial = starts(student, n_students=40)
    with pytest.raises(DivergedStudentError, match=r"student 293 diverged .*\(1 of 40 students"):
        together(X, labels, student, initial, first_student=256)


@pytest.mark.parametrize(
    "student",
    [
        kd.NetworkStudent(hidden=(6,), activation="gelu", optimizer="adamw", weight_decay=0.1, epochs=10),
        pytest.param(
            kd.NetworkStudent(hidden=(70, 4000), parameterization="ntk", optimizer="sgd", learning_rate=0.1, epochs=1),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["small", "large"],
)
def test_observed_students_do_not_depend_on_company_and_agree_where_nothing_is_random(student):
    generator = np.random.default_rng(5)
    X, query = generator.normal(size=(20, 3)), generator.normal(size=(4, 3))
    mean = np.sin(X[:, 0])
    few = 20 if student.hidden == (70, 4000) else 70

    def observed(noise, n_students, **design):
        teacher = kd.GaussianTeacher(X, mean, noise_variance=noise)
        problem = kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(query, **design))
        return observe(problem, n_students=n_students, rng=3)

    many = observed(0.5, few).student_predictions.values
    assert np.array_equal(observed(0.5, 5).student_predictions.values, many[:5])
    assert len(np.unique(many[:, 0, 0])) == few
    still = observed(0.0, few, sources=["teacher_output"])
    assert (still.total.values == 0.0).all()
    assert (observed(0.0, few, sources=["student_initialization"]).inter_student.values > 0.0).all()
