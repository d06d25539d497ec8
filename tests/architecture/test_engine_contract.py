"""One contract for every engine in the tables: registering an engine tests it."""

import numpy as np
import pytest
import xarray as xr

import kdstats as kd
from kdstats.engine import OBSERVATION_ENGINES, PREDICTION_ENGINES, load_engine

TABLES = {"prediction": PREDICTION_ENGINES, "observation": OBSERVATION_ENGINES}
ENGINES = [(kind, name) for kind, table in TABLES.items() for name in table]
#: What an engine needs to be quick here.
OPTIONS = {
    "monte_carlo": {"n_students": 400},
    "linear": {"n_students": 40},
    "networks": {"n_students": 24},
    "conjugate": {"n_students": 300},
    "linear_response": {"n_students": 256},
}
#: Engines whose answer does not depend on a seed.
SEEDLESS = ("closed_form", "wide_network")
X = np.random.default_rng(0).normal(size=(24, 2))
MEANS = np.column_stack([np.sin(X[:, 0]), X[:, 1]])
LABELS = ("first", ("b", 2), 3)


def labelled(student, **design):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, MEANS, noise_variance=0.5, response_correlation=0.2),
        student=student,
        design=kd.Design(X[:3] + 0.1, n_responses=3, point_labels=LABELS, **design),
    )


STEPS = kd.GradientDescent(n_steps=20, learning_rate=0.05, initialization_sd=0.3)
PROBLEMS = {name: getattr(kd.catalog, name)() for name in kd.catalog.__all__} | {
    "two_outputs": labelled(kd.LinearStudent()),
    "rows": labelled(kd.LinearStudent(), strategy="multi_response"),
    "steps": labelled(kd.LinearStudent(training=STEPS)),
    "network": labelled(kd.NetworkStudent(hidden=(4,), epochs=10)),
    "wide": labelled(
        kd.NetworkStudent(hidden=(512,), activation="erf", optimizer="sgd", parameterization="ntk", epochs=10)
    ),
    "bayes": labelled(kd.BayesianLinearStudent(fit_intercept=True)),
    "bayes_rows": labelled(kd.BayesianLinearStudent(noise_variance=0.5), strategy="multi_response"),
    "bayes_sampled": labelled(kd.BayesianLinearStudent(noise_variance=0.5), strategy="multi_response").with_teacher(
        mean=MEANS[:, 0]
    ),
    "bayes_evidence": labelled(kd.BayesianLinearStudent(prior_variance="evidence")),
    "classes": kd.DistillationProblem(
        teacher=kd.CategoricalTeacher([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], response_correlation=0.2),
        student=kd.TabularStudent(pseudo_count=0.5),
        design=kd.Design(n_responses=3, point_labels=("one", ("two", 2))),
    ),
    "dirichlet": kd.DistillationProblem(
        teacher=kd.CategoricalTeacher([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], response_correlation=0.2),
        student=kd.DirichletStudent(prior_count=[0.5, 1.0, 2.0]),
        design=kd.Design(n_responses=3),
    ),
    "class_regression": kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(np.exp(MEANS) / np.exp(MEANS).sum(axis=1, keepdims=True), X),
        student=kd.SoftmaxStudent(penalty=1.0),
        design=kd.Design(X[:3] + 0.1, n_responses=3, point_labels=LABELS),
    ),
    "class_network": kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(np.exp(MEANS) / np.exp(MEANS).sum(axis=1, keepdims=True), X),
        student=kd.NetworkStudent(hidden=(4,), head="softmax", epochs=10),
        design=kd.Design(X[:3] + 0.1, n_responses=3, point_labels=LABELS),
    ),
}


def supported(name, problem):
    """Whether an engine says that it has an answer to a problem."""
    student = problem.student
    if isinstance(problem.teacher, kd.CategoricalTeacher) or name in ("categorical", "softmax"):
        engines = {
            kd.NetworkStudent: ("networks", "linear_response"),
            kd.SoftmaxStudent: ("closed_form", "monte_carlo", "softmax"),
        }
        own = engines.get(type(student), ("closed_form", "categorical"))
        return isinstance(problem.teacher, kd.CategoricalTeacher) and name in own
    if isinstance(student, kd.NetworkStudent):
        return name in ("networks", "linear_response") or (name == "wide_network" and student.parameterization == "ntk")
    if name == "pymc":
        return problem is PROBLEMS["bayes_sampled"]
    if isinstance(student, kd.BayesianLinearStudent) or name == "conjugate":
        return isinstance(student, kd.BayesianLinearStudent) and name == "conjugate"
    return name not in ("wide_network", "linear_response") and (name != "networks" or student.training is not None)


def slow(name):
    """Mark what compiles a sampler."""
    return [pytest.mark.slow] if name == "pymc" else []


CASES = [
    pytest.param(kind, name, problem, id=f"{name}-{problem}", marks=slow(name))
    for kind, name in ENGINES
    for problem in PROBLEMS
    if supported(name, PROBLEMS[problem])
]


#: A problem of each engine's own in which something is random.
OWN = {
    "categorical": "classes",
    "softmax": "class_regression",
    "networks": "network",
    "conjugate": "bayes_evidence",
    "linear_response": "network",
    "wide_network": "wide",
    "pymc": "bayes_sampled",
}


def run(kind, name, problem, **options):
    return load_engine(TABLES[kind], name)(problem, **({"rng": 7} | OPTIONS.get(name, {}) | options))


def arrays(problem):
    names = ("X", "mean", "noise_variance", "probabilities")
    found = [*(getattr(problem.teacher, name, None) for name in names), problem.design.X_query]
    return [array.copy() for array in found if array is not None]


@pytest.mark.parametrize(("kind", "name", "problem"), CASES)
def test_contract(kind, name, problem):
    problem = PROBLEMS[problem]
    before, fingerprint = arrays(problem), problem.fingerprint()
    result = run(kind, name, problem)
    assert isinstance(result, kd.VarianceComponents)
    for dataset in (result.estimate, result.standard_error):
        for component in ("inter_student", "intra_student", "total"):
            assert dataset[component].dims == ("point", "output")
            assert dataset[component].dtype == np.float64
            assert np.isfinite(dataset[component].values).all()
    assert result.estimate.sizes == {"point": problem.n_points, "output": problem.teacher.n_outputs}
    assert tuple(result.estimate.point.values.tolist()) == problem.point_labels
    np.testing.assert_allclose(result.total, result.inter_student + result.intra_student, rtol=1e-9, atol=1e-300)
    assert (result.standard_error.to_array() >= 0).all()
    assert result.engine == name
    kinds = {"prediction": ("exact", "asymptotic", "approximate", "simulated"), "observation": ("observed",)}
    assert result.exactness in kinds[kind]
    assert result.attrs["versions"]["kdstats"] == kd.__version__
    assert result.attrs["problem"] == fingerprint
    assert result.attrs["wall_time"] >= 0
    for array, same in zip(arrays(problem), before, strict=True):
        np.testing.assert_array_equal(array, same)
    assert problem.fingerprint() == fingerprint
    again = run(kind, name, problem)
    xr.testing.assert_identical(result.estimate, again.estimate)  # bit for bit
    xr.testing.assert_identical(result.standard_error, again.standard_error)
    assert name.replace("_", " ") in result.summary() or name in result.summary()


@pytest.mark.parametrize(
    ("kind", "name"),
    [pytest.param(*engine, marks=slow(engine[1])) for engine in ENGINES if engine[1] not in SEEDLESS],
)
def test_another_seed_is_another_sample(kind, name):
    problem = PROBLEMS[OWN.get(name, "two_outputs")]
    options = {"control_variate": False} if name == "monte_carlo" else {}
    one, two = (run(kind, name, problem, rng=seed, **options).inter_student.values for seed in (1, 2))
    assert (one != two).all()


@pytest.mark.parametrize(("kind", "name"), ENGINES)
@pytest.mark.parametrize("problem", [None, "problem", {"teacher": 1}])
def test_refuses_what_is_no_problem(kind, name, problem):
    verb = {"prediction": kd.predict, "observation": kd.observe}[kind]
    with pytest.raises(kd.errors.ProblemError, match="`problem` must be a DistillationProblem; got a"):
        verb(problem, engine=name)


@pytest.mark.parametrize(("verb", "table"), [(kd.predict, PREDICTION_ENGINES), (kd.observe, OBSERVATION_ENGINES)])
@pytest.mark.parametrize("engine", ["oracle", "", 3, ["closed_form"]])
def test_unknown_engines(verb, table, engine):
    with pytest.raises(kd.errors.ProblemError, match=f"`engine` must be one of {', '.join(table)}"):
        verb(PROBLEMS["two_outputs"], engine=engine)


@pytest.mark.parametrize(("kind", "name"), [engine for engine in ENGINES if engine[1] not in SEEDLESS])
@pytest.mark.parametrize("count", [1, 0, -3, 2.5, True, "many"])
def test_refuses_too_few_students(kind, name, count):
    problem = PROBLEMS[OWN.get(name, "two_outputs")]
    with pytest.raises(kd.errors.KdstatsError, match="`n_students` must be"):
        run(kind, name, problem, n_students=count)


@pytest.mark.parametrize(("kind", "name"), [engine for engine in ENGINES if engine[1] not in SEEDLESS])
@pytest.mark.parametrize("seed", [-1, 1.5, "seed"])
def test_refuses_bad_seeds(kind, name, seed):
    problem = PROBLEMS[OWN.get(name, "two_outputs")]
    with pytest.raises(kd.errors.ProblemError, match="`rng` must be a non-negative integer seed"):
        run(kind, name, problem, rng=seed)


def test_a_missing_library_is_named(monkeypatch):
    def missing(module):
        raise ModuleNotFoundError(f"No module named {module}", name="torch.nn")

    monkeypatch.setattr("kdstats.engine.importlib.import_module", missing)
    with pytest.raises(kd.errors.MissingDependencyError, match=r'needs torch.*pip install "kdstats\[networks\]"'):
        kd.observe(PROBLEMS["network"])


def test_another_missing_module_is_not_hidden(monkeypatch):
    def missing(module):
        raise ModuleNotFoundError(f"No module named {module}", name="kdstats.gone")

    monkeypatch.setattr("kdstats.engine.importlib.import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="No module named"):
        kd.observe(PROBLEMS["network"])
