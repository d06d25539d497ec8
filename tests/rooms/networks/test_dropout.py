"""Dropout: masks in training against a plain loop, their variance at inference against formulas and all masks."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import binomtest

import kdstats as kd
from kdstats.errors import ProblemError, UnsupportedProblemError
from kdstats.networks.architecture import architecture_of, initial_parameters, predict
from kdstats.networks.dropout import Dropout
from kdstats.networks.passes import dropped_outputs, own_variance
from kdstats.networks.stacks import ACTIVATIONS, BatchOrder
from kdstats.networks.tangents import label_response
from kdstats.networks.training import TrainedNetworks, train_networks
from kdstats.observation.networks import observe
from kdstats.observation.trained import Trained
from kdstats.sampling import Gaussian
from kdstats.sampling.training_sets import draw_responses
from kdstats.streams import as_seeds
from kdstats.study.file import NetworkTable

N, P, N_STUDENTS = 40, 3, 3
RNG = np.random.default_rng(0)
X, POINTS = RNG.normal(size=(N, P)), RNG.normal(size=(6, P))
MEAN = np.sin(X[:, 0]) + X[:, 1]
LABELS = MEAN[:, None] + 0.3 * RNG.normal(size=(N_STUDENTS, N, 1))
SEEDS = as_seeds(17)
ONE = kd.NetworkStudent(hidden=(8,), epochs=12, learning_rate=0.02, dropout=0.2)


def problem(student=ONE, *, noise=0.3, **design):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, MEAN, noise_variance=noise), student=student, design=kd.Design(POINTS, **design)
    )


def layer_by_layer(student, layers, signal, factors):
    architecture = architecture_of(student, n_features=P, n_outputs=1)
    for depth, (layer, (slope, bias)) in enumerate(zip(layers, architecture.scales, strict=True)):
        if depth:
            signal = ACTIVATIONS[student.activation](signal) * factors[depth - 1]
        signal = slope * (signal @ layer[:-1]) + bias * layer[-1]
    return signal


def one_by_one(student, initial, dtype, *, labels=LABELS, rows=X, common=False, rate=None, held=None):
    """Students as a user would train them, with masks from their streams: kept where a number is at least the rate."""
    rate, outputs = student.dropout if rate is None else rate, []
    ones = [1.0] * len(student.hidden)
    for s, y in enumerate(labels):
        layers = [torch.tensor(layer[s], dtype=dtype, requires_grad=True) for layer in initial]
        optimizer = torch.optim.Adam(layers, lr=student.learning_rate)
        path = "common" if common else s
        shuffle, masks = SEEDS.generator("data_order", path), SEEDS.generator("data_order", path, "dropout")
        inputs, targets = torch.tensor(rows, dtype=dtype), torch.tensor(y, dtype=dtype)
        seen = np.arange(len(rows)) if held is None else np.flatnonzero(~held)
        best = np.inf
        for _ in range(student.epochs):
            order = seen[shuffle.permutation(len(seen))] if student.batch_size else seen
            for first in range(0, len(order), student.batch_size or len(order)):
                batch = order[first : first + (student.batch_size or len(order))]
                kept = masks.random((len(batch), sum(student.hidden)), dtype=np.float32) >= np.float32(rate)
                factors = torch.tensor(kept / (1.0 - rate), dtype=dtype).split(student.hidden, dim=1)
                optimizer.zero_grad()
                outs = layer_by_layer(student, layers, inputs[batch], factors)
                torch.nn.functional.mse_loss(outs, targets[batch]).backward()
                optimizer.step()
            if held is not None:
                with torch.no_grad():
                    outs = layer_by_layer(student, layers, inputs[held], ones)
                    loss = torch.nn.functional.mse_loss(outs, targets[held]).item()
                    if loss < best:
                        best, kept_layers = loss, [layer.clone() for layer in layers]
        with torch.no_grad():
            layers = layers if held is None else kept_layers
            final = layer_by_layer(student, layers, torch.tensor(POINTS, dtype=dtype), ones)
            outputs.append(final.double().numpy())
    return np.array(outputs)


def starts(student, n_students=N_STUDENTS):
    architecture = architecture_of(student, n_features=P, n_outputs=1)
    return initial_parameters(architecture, np.random.default_rng(1), n_students=n_students)


def together(student, initial, **options):
    trained = train_networks(X, LABELS, student=student, initial=initial, **options)
    return predict(trained.architecture, trained.parameters, POINTS)


def assert_trained_alike(ours, student, initial, **loop):
    exact, single = (one_by_one(student, initial, dtype, **loop) for dtype in (torch.float64, torch.float32))
    errors, allowed = (np.median(np.abs(other - exact).max(axis=(1, 2))) for other in (ours, single))
    assert allowed < 1e-4 * exact.std()
    assert errors <= 4.0 * allowed


KINDS = [
    ONE,
    replace(ONE, hidden=(8, 6), activation="tanh", dropout=0.4),
    replace(ONE, batch_size=16, epochs=5),
    replace(ONE, parameterization="ntk", activation="gelu", learning_rate=0.05),
]


@pytest.mark.parametrize(("student", "common"), [*((kind, False) for kind in KINDS), (ONE, True)])
def test_students_against_one_by_one(student, common):
    initial = starts(student)
    ours = together(student, initial, order=BatchOrder(seeds=SEEDS, common=common))
    assert_trained_alike(ours, student, initial, common=common)


def test_the_comparison_notices_other_masks_and_another_rate():
    initial = starts(ONE)
    ours = together(ONE, initial, order=BatchOrder(seeds=SEEDS))
    for wrong in ({"common": True}, {"rate": 0.21}):
        with pytest.raises(AssertionError):
            assert_trained_alike(ours, ONE, initial, **wrong)


def test_held_out_losses_take_all_units():
    student = replace(ONE, early_stopping=kd.EarlyStopping(patience=25))
    initial = starts(student)
    ours = together(student, initial, order=BatchOrder(seeds=SEEDS))
    held = student.early_stopping.held_out_inputs(N)
    assert_trained_alike(ours, student, initial, held=held)


def test_rows_of_several_responses_have_masks_of_their_own():
    asked = problem(n_responses=2, strategy="multi_response", sources=["teacher_output", "data_order"])
    seen = observe(asked, n_students=N_STUDENTS, rng=SEEDS)
    rows = draw_responses(asked, SEEDS, 0, Gaussian())[:N_STUDENTS].reshape(N_STUDENTS, 2 * N, 1)
    architecture = architecture_of(ONE, n_features=P, n_outputs=1)
    common = initial_parameters(architecture, SEEDS.generator("student_initialization", "common"), n_students=1)
    initial = tuple(np.repeat(layer, N_STUDENTS, axis=0) for layer in common)
    loop = {"labels": rows, "rows": np.vstack([X, X])}
    assert_trained_alike(seen.student_predictions.values, ONE, initial, **loop)


def test_masks_have_their_rate_and_are_drawn_anew():
    rate, rows = 0.3, 500
    factors = Dropout(rate, (7, 5), [SEEDS.generator("data_order", s) for s in range(4)])
    first, second = (torch.cat(factors.factors(rows), dim=2) for _ in range(2))
    assert first.shape == (4, rows, 12)
    assert np.isin(first.numpy(), np.float32([0.0, 1.0 / 0.7])).all()
    kept = int((first > 0).sum())
    assert binomtest(kept, first.numel(), 1.0 - rate).pvalue > 1e-4
    assert binomtest(kept, first.numel(), 1.0 - rate - 0.05).pvalue < 1e-4
    both = int(((first > 0) & (second > 0)).sum())
    neighbours = int(((first[:, 1:] > 0) & (first[:, :-1] > 0)).sum())
    assert binomtest(both, first.numel(), 0.49).pvalue > 1e-4
    assert binomtest(neighbours, first[:, 1:].numel(), 0.49).pvalue > 1e-4


@pytest.mark.parametrize("head", ["mean", "gaussian"])
@pytest.mark.parametrize(
    "options", [{}, {"activation": "tanh", "parameterization": "ntk", "bias_variance": 0.3}], ids=["plain", "ntk"]
)
def test_the_closed_form_against_masks(head, options):
    student = replace(ONE, head=head, **options)
    architecture = architecture_of(student, n_features=P, n_outputs=1)
    layers = initial_parameters(architecture, np.random.default_rng(3), n_students=3)
    trained, n_passes = TrainedNetworks(architecture=architecture, parameters=layers), 3000
    generators = [SEEDS.generator("student_output", s) for s in range(3)]
    drawn = dropped_outputs(architecture, layers, POINTS, rate=0.2, generators=generators, n_passes=n_passes)
    mean = drawn[..., :1]
    squares = (mean - predict(architecture, layers, POINTS)[:, None, :, :1]) ** 2
    squares = squares if head == "mean" else squares + np.exp(drawn[..., 1:])
    error = squares.std(axis=1, ddof=1) / np.sqrt(n_passes)
    exact, wrong = (own_variance(trained, POINTS, student=replace(student, dropout=p)) for p in (0.2, 0.25))
    assert (np.abs(squares.mean(axis=1) - exact) <= 4.5 * error + 1e-12).all()  # all units are off at a point
    assert (np.abs(squares.mean(axis=1) - wrong) > 4.5 * error).any()
    centre = mean.mean(axis=1) - predict(architecture, layers, POINTS)[..., :1]
    assert (np.abs(centre) <= 4.5 * mean.std(axis=1) / np.sqrt(n_passes) + 1e-6).all()


def test_further_passes_are_further_draws():
    layers = starts(ONE, 3)
    architecture = architecture_of(ONE, n_features=P, n_outputs=1)

    def drawn(n_passes, students):
        generators = [SEEDS.generator("student_output", s) for s in students]
        own = [layer[students] for layer in layers]
        return dropped_outputs(architecture, own, POINTS, rate=0.2, generators=generators, n_passes=n_passes)

    many = drawn(5, [0, 1, 2])
    assert np.array_equal(many[:, :2], drawn(2, [0, 1, 2]))
    np.testing.assert_allclose(many[1:2], drawn(5, [1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", ["mean", "gaussian"])
def test_known_variances_against_drawn_outputs(head):
    asked = problem(replace(ONE, head=head, epochs=20))
    known, drawn = (observe(asked, n_students=150, rng=9, n_replicates=r) for r in (None, 16))
    assert np.array_equal(known.student_predictions, drawn.student_predictions)
    assert (known.mean_squares.attrs["n_replicates"], drawn.mean_squares.attrs["n_replicates"]) == (0, 16)
    assert "masks of dropout" in known.attrs["student_variance"]
    for name in ("inter_student", "intra_student"):
        error = np.abs(known.estimate[name] - drawn.estimate[name]).values
        assert (error < 4.5 * drawn.standard_error[name].values).all()
    if head == "mean":
        residual = observe(problem(replace(ONE, dropout=0.0, epochs=20)), n_students=40, rng=9).intra_student.values
        assert (
            np.abs(known.intra_student.values - residual) > 10.0 * drawn.standard_error["intra_student"].values
        ).any()


def all_masks(student, parameters):
    """Outputs of each student under every mask, shape (S, masks, m, q), and the probabilities of the masks."""
    points = torch.tensor(POINTS, dtype=torch.float64)
    outputs, weights = [], []
    for mask in itertools.product((0.0, 1.0), repeat=sum(student.hidden)):
        factors = torch.tensor(mask, dtype=torch.float64) / (1.0 - student.dropout)
        parts = factors.split(student.hidden)
        weights.append(np.prod([1.0 - student.dropout if kept else student.dropout for kept in mask]))
        layers = [torch.tensor(layer, dtype=torch.float64) for layer in parameters]
        signal = points.expand(len(layers[0]), -1, -1)
        for depth, layer in enumerate(layers):
            signal = torch.relu(signal) * parts[depth - 1] if depth else signal
            signal = signal @ layer[:, :-1] + layer[:, -1:]
        outputs.append(signal.numpy())
    return np.stack(outputs, axis=1), np.array(weights)


@pytest.mark.parametrize("head", ["mean", "softmax"])
def test_deep_students_and_students_of_classes_against_all_masks(head, monkeypatch):
    """One-way random effects over 16 passes against the mean and the variance over all 16 (or 64) masks."""
    student = kd.NetworkStudent(hidden=(2, 4) if head == "mean" else (4,), head=head, epochs=20, dropout=0.3)
    kept = []
    if head == "mean":
        asked = problem(student)
    else:
        odds = np.exp(np.stack([MEAN, -MEAN, 0.0 * MEAN], axis=1))
        teacher = kd.CategoricalTeacher(odds / odds.sum(axis=1, keepdims=True), X)
        asked = kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(POINTS))
    from kdstats.observation import network_trainer

    def keep(*arguments, **options):
        kept.append(train_networks(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(network_trainer, "train_networks", keep)
    seen = observe(asked, n_students=256, rng=3)
    assert seen.mean_squares.attrs["n_replicates"] == 16

    def exact(rate, *, draws_classes=head == "softmax"):
        outputs, weights = all_masks(replace(student, dropout=rate), kept[0].parameters)
        outputs = softmax(outputs, axis=3) if head == "softmax" else outputs
        means = np.einsum("skmq,k->smq", outputs, weights)
        squares = means if draws_classes else np.einsum("skmq,k->smq", outputs**2, weights)
        return {"inter_student": means.var(axis=0, ddof=1), "intra_student": (squares - means**2).mean(axis=0)}

    def far(name, truth):
        return np.abs(seen.estimate[name].values - truth[name]) > 4.5 * seen.standard_error[name].values

    assert not far("inter_student", exact(0.3)).any()
    assert not far("intra_student", exact(0.3)).any()
    assert far("intra_student", exact(0.6) if head == "mean" else exact(0.3, draws_classes=False)).any()


def test_students_depend_neither_on_threads_nor_on_how_many_are_asked_for():
    for student in (ONE, replace(ONE, hidden=(4, 4), epochs=5)):
        many = observe(problem(student), n_students=40, rng=4, n_workers=2)
        again, few = (observe(problem(student), n_students=n, rng=4, n_workers=1) for n in (40, 5))
        assert np.array_equal(many.student_predictions, again.student_predictions)
        assert np.array_equal(many.intra_student, again.intra_student)
        assert np.array_equal(many.student_predictions[:5], few.student_predictions)


def test_where_masks_come_from():
    still = {"noise": 0.0, "sources": ["teacher_output"]}
    assert (observe(problem(**still), n_students=40, rng=7).total.values == 0.0).all()
    masked = observe(problem(noise=0.0, sources=["data_order"]), n_students=40, rng=7)
    assert (masked.inter_student.values > 0.0).all()
    assert (masked.intra_student.values == 0.0).all()
    only_output = observe(problem(noise=0.0, sources=["student_output"]), n_students=40, rng=7)
    assert (only_output.inter_student.values == 0.0).all()
    assert (only_output.intra_student.values > 0.0).all()

    def reached(source, **options):
        seeds = as_seeds(5)
        one, other = (
            observe(problem(), n_students=8, rng=s, **options) for s in (seeds, seeds.with_seed(**{source: 6}))
        )
        moved = [
            not np.array_equal(one.student_predictions, other.student_predictions),
            not np.array_equal(one.estimate["intra_student"], other.estimate["intra_student"]),
        ]
        return tuple(moved)

    assert reached("data_order") == (True, True)
    assert reached("student_output") == (False, False)
    assert reached("student_output", n_replicates=40) == (False, True)
    assert reached("data_resampling") == (False, False)


def test_resampled_rows_have_masks_of_their_own():
    asked = problem(resample_size=30)
    seen = observe(asked, n_students=40, rng=4)
    assert np.array_equal(observe(asked, n_students=5, rng=4).student_predictions, seen.student_predictions[:5])
    assert (seen.inter_student.values > observe(problem(), n_students=40, rng=4).inter_student.values).mean() > 0.5


@pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")
@pytest.mark.parametrize("student", [replace(ONE, epochs=5), replace(ONE, epochs=5, hidden=(4, 4), batch_size=9)])
def test_masks_are_crossed_with_the_other_sources(student):
    answer = kd.attribute_variance(problem(student), n_levels=3, rng=4)
    assert answer.components.terms[-1] == "student_output"
    assert set(answer.inactive) == {"data_resampling"}
    crossed = answer.predictions.values
    diagonal = np.stack([crossed[i, i, i] for i in range(3)])
    seen = observe(problem(student), n_students=3, rng=4).student_predictions.values
    np.testing.assert_allclose(diagonal, seen, rtol=1e-5, atol=1e-6)
    off = kd.attribute_variance(problem(student, sources=["teacher_output", "data_order"]), n_levels=3, rng=4)
    assert off.components.terms == ("teacher_output", "data_order", "teacher_output:data_order")


def test_all_units_are_the_student_without_dropout():
    """Factors of 1 change no bit, and a student without dropout draws no mask."""
    architecture = architecture_of(ONE, n_features=P, n_outputs=1)
    layers = initial_parameters(architecture, np.random.default_rng(1), n_students=3)
    once = dropped_outputs(
        architecture, layers, POINTS, rate=1e-30, generators=[np.random.default_rng(s) for s in range(3)], n_passes=1
    )
    deep = replace(ONE, activation="gelu", dropout=0.0)
    np.testing.assert_allclose(once[:, 0], predict(architecture, layers, POINTS), rtol=1e-5, atol=1e-6)
    for student in (deep, replace(deep, batch_size=7)):
        one, other = (observe(problem(s), n_students=9, rng=2) for s in (student, replace(student, dropout=0)))
        assert np.array_equal(one.student_predictions, other.student_predictions)
        assert "dropout" not in one.attrs["training"]


def test_parts_of_students_are_joined():
    part = Trained(predictions=np.zeros((2, 3, 1)), variances=np.zeros((2, 1)), outputs=np.ones((2, 4, 3, 1)))
    assert part.first(1).outputs.shape == (1, 4, 3, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "`dropout` must be less than 1 in float32; got 1"),
        ({"dropout": 1 - 1e-9}, "`dropout` must be less than 1 in float32; got 0.99"),
        ({"dropout": -0.1}, "`dropout` must be at least 0; got -0.1"),
        ({"dropout": float("nan")}, "`dropout` must be"),
        ({"dropout": "0.1"}, "`dropout` must be"),
        ({"dropout": 0.1, "module": lambda p, q: torch.nn.Linear(p, q)}, "`dropout` must be left out with a `module`"),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(ProblemError, match=message):
        kd.NetworkStudent(**options)


def test_what_is_not_covered_is_refused():
    stopped = replace(ONE, early_stopping=kd.EarlyStopping())
    with pytest.raises(ProblemError, match="`early_stopping` must be left out where rows are resampled and units"):
        problem(stopped, resample_size=20)
    student = replace(ONE, optimizer="sgd", parameterization="ntk")
    with pytest.raises(UnsupportedProblemError, match=r"`dropout` must be 0; got 0.2.*kdstats.observe"):
        kd.predict(problem(student), engine="wide_network", rng=1)
    rows = {"n_responses": 2, "strategy": "multi_response"}
    mixed = {"n_responses": 2, "strategy": "variance_weighting"}
    for asked in (problem(**rows), problem(**mixed), problem(replace(ONE, hidden=(4, 4)))):
        with pytest.raises(UnsupportedProblemError, match=r"`dropout` = 0.2\) (with|of) .*kdstats.observe"):
            kd.predict(asked, rng=1)
    with pytest.raises(ProblemError, match="`problem` must have no dropout for a grid"):
        kd.network_response(problem(), n_students=8).grid(n_responses=[1, 2])
    with pytest.raises(ProblemError, match="`n_replicates` must be left out"):
        observe(problem(sources=["data_order"]), n_students=4, n_replicates=4)


def response_of(student, labels, directions, masks, *, double=True):
    dropout = Dropout(student.dropout, student.hidden, [SEEDS.generator("data_order", masks, "dropout")])
    points, initial = POINTS, tuple(layer[:1] for layer in starts(student))
    return label_response(
        X,
        labels,
        student=student,
        initial=initial,
        directions=directions,
        points=points,
        double=double,
        dropout=dropout,
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_differentiated_run_with_masks_against_differences_of_runs(optimizer):
    student = replace(ONE, hidden=(5, 4), activation="tanh", optimizer=optimizer)
    directions, step = np.random.default_rng(4).normal(size=(N, 1, 2)), 1e-5
    found = response_of(student, LABELS[0], directions, 3).response
    ends = [response_of(student, LABELS[0] + s * step * directions[..., 1], directions, 3) for s in (1, -1)]
    slope = (ends[0].predictions - ends[1].predictions) / (2.0 * step)
    np.testing.assert_allclose(found[..., 1], slope, rtol=1e-5, atol=1e-7 * np.abs(slope).max())
    other = response_of(student, LABELS[0], directions, 4).response[..., 1]
    assert np.abs(other - slope).max() > 0.01 * np.abs(slope).max()


def test_a_differentiated_run_is_that_of_a_student():
    student = replace(ONE, hidden=(5, 4), activation="tanh")
    run = response_of(student, LABELS[0], np.zeros((N, 1, 1)), 7, double=False)
    order = BatchOrder(seeds=SEEDS, numbers=np.array([7]))
    initial = tuple(layer[:1] for layer in starts(student))
    trained = train_networks(X, LABELS[:1], student=student, initial=initial, order=order)
    ours = predict(trained.architecture, trained.parameters, POINTS)[0]
    np.testing.assert_allclose(run.predictions, ours, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning")
@pytest.mark.parametrize("response", ["finite", "tangent"])
@pytest.mark.parametrize(
    "sources",
    [
        ("teacher_output",),
        ("teacher_output", "data_order"),
        pytest.param(("teacher_output", "student_initialization", "data_order"), marks=pytest.mark.slow),
    ],
    ids=["labels", "labels_masks", "all"],
)
def test_predicted_students_against_trained_ones(sources, response):
    student = kd.NetworkStudent(
        hidden=(6,), activation="tanh", optimizer="sgd", learning_rate=0.1, epochs=40, dropout=0.2
    )
    asked = problem(student, noise=0.5, sources=[*sources, "student_output"])
    predicted = kd.predict(asked, rng=1, n_students=200, response=response)
    seeds = as_seeds(2) if len(sources) == 3 else as_seeds(1).with_seed(teacher_output=2)
    if sources == ("teacher_output", "data_order"):
        seeds = seeds.with_seed(data_order=2)
    seen = observe(asked, n_students=300, rng=seeds)
    assert kd.compare(predicted, seen).verdict == "agree"
    error = np.hypot(predicted.standard_error["intra_student"], seen.standard_error["intra_student"]).values
    assert (np.abs(predicted.intra_student - seen.intra_student).values < 4.5 * error).all()
    half = kd.predict(asked.with_student(dropout=0.1), rng=1, n_students=200, response=response)
    assert (np.abs(half.intra_student - seen.intra_student).values > 4.5 * error).any()
    parts = predicted.attrs["source_variances"]
    apart = parts.pop("student_initialization and data_order", None)
    assert (apart is not None) == ("data_order" in sources)
    if sources == ("teacher_output", "data_order"):
        assert response == "finite" or apart > 0.0  # of pairs that differ in their labels: unbiased, so of either sign
        without = kd.predict(asked.with_design(sources=["data_order"]), rng=1, n_students=200)
        assert float(without.inter_student.mean()) > 0.0
        assert (without.intra_student.values == 0.0).all()


def test_problems_and_study_files_keep_it():
    asked = problem()
    again = kd.DistillationProblem.from_toml(asked.to_toml())
    assert again.student.dropout == 0.2
    assert again.fingerprint() == asked.fingerprint() != problem(replace(ONE, dropout=0.1)).fingerprint()
    assert NetworkTable(dropout=0.2, hidden=[8]).student() == kd.NetworkStudent(hidden=(8,), dropout=0.2)
