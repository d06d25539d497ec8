"""Networks that users wrote: trained as a plain PyTorch loop trains them, or refused with the reason."""

import numpy as np
import pytest
import torch

import kdstats as kd
from kdstats.errors import ProblemError
from kdstats.networks.architecture import architecture_of, initial_parameters, predict
from kdstats.networks.training import train_networks
from kdstats.observation.networks import observe

N_STUDENTS = 5
X = np.random.default_rng(0).normal(size=(40, 3))
LABELS = X[:, :1] ** 2 + 0.3 * np.random.default_rng(1).normal(size=(N_STUDENTS, 40, 1))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def normalized(p, q):
    return torch.nn.Sequential(
        torch.nn.Linear(p, 8), torch.nn.LayerNorm(8), torch.nn.SiLU(), torch.nn.Linear(8, q, bias=False)
    )


class Residual(torch.nn.Module):
    """A block that torch cannot run for several students at once: it looks at a number of its own."""

    def __init__(self, p, q):
        super().__init__()
        self.first, self.last = torch.nn.Linear(p, p), torch.nn.Linear(p, q)
        self.gain = torch.nn.Parameter(torch.ones(()))

    def forward(self, rows):
        share = 1.0 if self.gain.item() > -1e6 else 0.0
        return self.last(rows + share * self.gain * torch.tanh(self.first(rows)))


class Averaging(torch.nn.Linear):
    def forward(self, rows):
        return super().forward(rows - rows.mean(dim=0))


def one_by_one(student, initial, dtype):
    outputs = []
    for s, y in enumerate(LABELS):
        network = student.module(3, 1).to(dtype)
        with torch.no_grad():
            for parameter, first in zip(network.parameters(), initial, strict=True):
                parameter.copy_(torch.tensor(first[s]))
        optimizer = torch.optim.Adam(network.parameters(), lr=student.learning_rate)
        inputs, targets = torch.tensor(X, dtype=dtype), torch.tensor(y, dtype=dtype)
        for _ in range(student.epochs):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(network(inputs), targets).backward()
            optimizer.step()
        outputs.append(network(inputs).detach().double().numpy())
    return np.array(outputs)


@pytest.mark.parametrize(("module", "is_stacked"), [(normalized, True), (Residual, False)])
def test_students_against_one_by_one(module, is_stacked):
    student = kd.NetworkStudent(module=module, learning_rate=0.02, epochs=40)
    architecture = architecture_of(student, n_features=3, n_outputs=1)
    assert (architecture.module.obstacle == "") == is_stacked
    initial = initial_parameters(architecture, np.random.default_rng(2), n_students=N_STUDENTS)
    assert len(np.unique(initial[-1].reshape(N_STUDENTS, -1)[:, 0])) == N_STUDENTS
    trained = train_networks(X, LABELS, student=student, initial=initial)
    ours = predict(architecture, trained.parameters, X)
    exact, single = (one_by_one(student, initial, dtype) for dtype in (torch.float64, torch.float32))
    errors, allowed = (np.median(np.abs(other - exact).max(axis=(1, 2))) for other in (ours, single))
    assert errors <= 4.0 * allowed
    assert allowed < 1e-4 * exact.std()
    before = predict(architecture, initial, X)
    assert np.abs(before - exact).max() > 100.0 * errors


def problem(module, *, noise=0.3, **options):
    design = options.pop("design", {})
    student = kd.NetworkStudent(module=module, epochs=10, **options)
    teacher = kd.GaussianTeacher(X, X[:, 0] ** 2, noise_variance=noise)
    return kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(X[:5], **design))


@pytest.mark.parametrize("module", [normalized, Residual])
def test_observed_students_of_a_module(module):
    state = torch.random.get_rng_state()
    answer = observe(problem(module), n_students=40, rng=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    seen = answer.student_predictions.values
    assert len(np.unique(seen[:, 0, 0])) == 40
    assert np.array_equal(observe(problem(module), n_students=3, rng=1).student_predictions.values, seen[:3])
    assert f"module={__name__}.{module.__name__}" in answer.attrs["training"]
    assert ("one student after the other because" in answer.attrs["training"]) == (module is Residual)
    assert "hidden" not in answer.attrs["training"]
    still = observe(problem(module, noise=0.0, design={"sources": []}), n_students=40, rng=1)
    assert (still.total.values == 0.0).all()


def test_modules_take_mini_batches_gaussian_heads_early_stopping_and_perturbed_starts():
    asked = problem(normalized, head="gaussian", batch_size=8, early_stopping=kd.EarlyStopping(), perturbation_sd=0.1)
    answer = observe(asked, n_students=10, rng=1)
    assert (answer.inter_student.values > 0).all()
    assert len(np.unique(answer.intra_student.values)) == 5


def test_a_module_of_the_built_in_shape_against_the_built_in_student():
    def shallow(p, q):
        return torch.nn.Sequential(torch.nn.Linear(p, 6), torch.nn.Tanh(), torch.nn.Linear(6, q))

    student = kd.NetworkStudent(hidden=(6,), activation="tanh", epochs=40)
    own = kd.NetworkStudent(module=shallow, epochs=40)
    architecture, mine = (architecture_of(s, n_features=3, n_outputs=1) for s in (student, own))
    initial = initial_parameters(architecture, np.random.default_rng(2), n_students=N_STUDENTS)
    split = [part for w in initial for part in (np.moveaxis(w[:, :-1], 1, 2), w[:, -1])]
    built_in = train_networks(X, LABELS, student=student, initial=initial).parameters
    written = train_networks(X, LABELS, student=own, initial=tuple(map(np.ascontiguousarray, split))).parameters
    np.testing.assert_allclose(predict(mine, written, X), predict(architecture, built_in, X), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            lambda p, q: torch.nn.Sequential(torch.nn.Linear(p, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, q)),
            r"`module` must treat every row by itself \(batch normalisation .*got BatchNorm1d at '1'",
        ),
        (
            lambda p, q: torch.nn.Sequential(torch.nn.Linear(p, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, q)),
            "`module` must give the same outputs for the same inputs .*dropout.*; got a Sequential",
        ),
        (Averaging, "`module` must treat every row by itself; got a Averaging whose outputs depend on other rows"),
        (lambda p, q: torch.nn.Linear(p, q + 1), r"into rows of 1 outputs; got shape \(6, 2\) for 6 rows"),
        (lambda p, q: torch.nn.Linear(p + 1, q), "`module` must accept rows of 3 inputs; got an error: mat1"),
        (lambda p, q: torch.nn.LSTM(p, q), "into rows of 1 outputs; got shape a tuple"),
        (lambda p, q: "network", "`module` must return a torch.nn.Module; got a str"),
        (lambda p, q: torch.nn.Identity(), "`module` must have parameters to train; got Identity without any"),
        (lambda p, q: torch.nn.Linear(p, q).double(), "`module` must have float32 parameters; got torch.float64 in"),
    ],
    ids=["batchnorm", "dropout", "rows", "outputs", "inputs", "lstm", "str", "identity", "double"],
)
def test_what_cannot_be_trained_is_refused(module, message):
    with pytest.raises(ProblemError, match=message):
        observe(problem(module), n_students=4, rng=1)


def test_a_module_in_a_problem():
    one, other = problem(normalized), problem(Residual)
    assert one.fingerprint() == problem(normalized).fingerprint() != other.fingerprint()
    with pytest.raises(ProblemError, match="`module` must be left out of a problem that is written to TOML"):
        one.to_toml()
    with pytest.raises(ProblemError, match="`module` must be a function or class"):
        kd.NetworkStudent(module=normalized(3, 1))
    with pytest.raises(ProblemError, match=r"`hidden` must be left out with a `module`, .*got \(4,\)"):
        kd.NetworkStudent(module=normalized, hidden=(4,))
