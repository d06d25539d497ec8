"""Students sampled with PyMC against their exact posteriors, and the gate in front of the answer."""

import subprocess
import sys
import types
import warnings

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import ApproximationWarning, ConvergenceWarning
from kdstats.linear.bayesian import fit_bayesian_students
from kdstats.prediction.bayes import ADVI, NUTS, Laplace, Pathfinder, Reweighting, sample_students
from kdstats.prediction.bayes.components import Diagnostics, components_of, diagnose
from kdstats.prediction.bayes.libraries import az, pm
from kdstats.prediction.bayes.models import conjugate_stack
from kdstats.prediction.bayes.moments import moments_of
from kdstats.prediction.bayes.posteriors import sample
from kdstats.prediction.bayes.stacks import Predictive, Stack

N_PROBLEMS, N_STUDENTS = 30, 8


def pose(student, *, seed=0, n=25, p=3, **design):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) @ (np.eye(p) + 0.3 * rng.normal(size=(p, p)))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X @ rng.normal(size=p) + np.sin(X[:, 0]), noise_variance=rng.uniform(0.3, 2.0)),
        student=student,
        design=kd.Design(rng.normal(size=(4, p)), **design),
    )


def labels_of(problem, size, seed):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(size, problem.teacher.n_inputs)) * np.sqrt(problem.teacher.variances)
    return (problem.teacher.mean + noise)[..., None]


KNOWN = kd.BayesianLinearStudent(noise_variance=1.0, prior_variance=0.8)
UNKNOWN = kd.BayesianLinearStudent(prior_variance=0.8, noise_shape=3.0, noise_scale=2.0, fit_intercept=True)


@pytest.mark.parametrize(
    ("student", "n_problems"),
    [
        pytest.param(KNOWN, N_PROBLEMS, id="known", marks=pytest.mark.slow),
        pytest.param(UNKNOWN, N_PROBLEMS, id="unknown", marks=pytest.mark.slow),
        pytest.param(UNKNOWN, 6, id="unknown, few"),
    ],
)
def test_random_problems_against_exact_posteriors(student, n_problems):
    """Results T16 and T17: 30 problems of 8 students in one model; every component within 4 MCSE of the exact one.

    Both see the same labels, so that the error of the chains is all that can differ.
    """
    problems = [pose(student, seed=seed) for seed in range(n_problems)]
    labels = [labels_of(problem, N_STUDENTS, 100 + seed) for seed, problem in enumerate(problems)]
    within = np.zeros_like(labels[0])
    stacks = [conjugate_stack(p, labels=y, within=within) for p, y in zip(problems, labels, strict=True)]
    joint = Stack(
        arrays={name: np.concatenate([s.arrays[name] for s in stacks]) for name in stacks[0].arrays},
        dims=stacks[0].dims,
        coords=stacks[0].coords,
        build=stacks[0].build,
        predictive=stacks[0].predictive,
    )
    data = sample(joint, NUTS(draws=500, tune=500, chains=4), seed=1)
    assert not diagnose(joint, data).failures
    misses = {name: [] for name in ("inter_student", "intra_student", "total")}
    for number, (problem, y, stack) in enumerate(zip(problems, labels, stacks, strict=True)):
        part = slice(number * N_STUDENTS, (number + 1) * N_STUDENTS)
        moments = moments_of(stack, data.isel(student=part))
        found = components_of(problem, moments, diagnostics=GOOD, engine="pymc", exactness="observed", attrs={})
        exact = fit_bayesian_students(problem, labels=y, within=within)
        inter, intra = exact.mean[..., 0].var(axis=0, ddof=1).mean(), exact.variance.mean()
        for name, truth in (("inter_student", inter), ("intra_student", intra), ("total", inter + intra)):
            misses[name].append((float(found.estimate[name].mean()) - truth) / found.attrs["mcse"][name])
    for name, scores in misses.items():
        assert np.abs(scores).max() < 4.0, name
        assert np.abs(scores).max() > 0.05, name  # the errors are not merely huge


GOOD = Diagnostics(n_chains=4, n_draws=500, rhat=1.0, ess_bulk=2000.0, ess_tail=2000.0, n_divergent=0)


def toy(n_students=3):
    """Students whose prediction is their one parameter and whose noise variance is 1."""

    def predictive(draws):
        return Predictive(mean=draws["w"][..., None], variance=np.ones((1, 1)))

    return Stack(
        arrays={"labels": np.zeros((n_students, 1))},
        dims={"labels": ("row",)},
        coords={"row": [0]},
        build=lambda data: None,
        predictive=predictive,
    )


def chains(draws, *, divergent=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stats = np.zeros(draws.shape[:2], dtype=bool)
        stats.ravel()[:divergent] = True
        return az.from_dict(posterior={"w": draws}, sample_stats={"diverging": stats}, dims={"w": ["student"]})


def independent(shape=(4, 500, 3), seed=0):
    return np.random.default_rng(seed).normal(size=shape) + np.arange(shape[2])


def test_good_chains_pass():
    for seed in range(20):
        found = diagnose(toy(), chains(independent(seed=seed)))
        assert found.failures == ()
        assert "R-hat" in found.summary()


def bad_chains(kind):
    draws = independent()
    if kind == "shifted":
        draws[0] += 1.0
    elif kind == "one student":
        draws[0, :, 1] += 1.0
    elif kind == "sticky":
        rng = np.random.default_rng(1)
        for t in range(1, 500):
            draws[:, t] = np.arange(3) + 0.98 * (draws[:, t - 1] - np.arange(3)) + 0.2 * rng.normal(size=(4, 3))
    elif kind == "one chain":
        draws = draws[:1]
    return chains(draws, divergent=3 if kind == "divergent" else 0)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("shifted", "R-hat"),
        ("one student", "R-hat .* of a student's parameter|R-hat"),
        ("sticky", "effective sample size|R-hat"),
        ("one chain", "one chain, which cannot show"),
        ("divergent", "3 divergent transitions"),
    ],
)
def test_the_gate_marks_bad_chains(kind, words):
    data, stack = bad_chains(kind), toy()
    found = diagnose(stack, data)
    assert found.failures
    problem = pose(kd.BayesianLinearStudent(), p=3)
    problem = problem.with_design(X_query=problem.X_query[:1])
    with pytest.warns(ConvergenceWarning, match=words):
        answer = components_of(
            problem, moments_of(stack, data), diagnostics=found, engine="pymc", exactness="observed", attrs={}
        )
    assert answer.attrs["unreliable"] == ("inter_student", "intra_student", "total")
    assert "UNRELIABLE" in answer.summary()


def test_moments_are_not_inflated_by_short_chains():
    """The mean of 100 draws scatters by a hundredth of the posterior variance, which is taken off again."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=20_000)
    draws = centres + rng.normal(size=(4, 25, 20_000))
    moments = moments_of(toy(20_000), chains(draws))
    plain = moments.mean[:, 0].var(ddof=1)
    corrected = plain - (moments.mean_error[:, 0] ** 2).mean()
    truth = centres.var(ddof=1)
    se = np.sqrt(4 * truth * 0.01 / 20_000)
    assert abs(corrected - truth) < 4 * se
    assert plain - truth > 4 * se
    assert abs(moments.parameter.mean() - 1.0) < 4 * np.sqrt(2 / 99 / 20_000)


PROBLEM = pose(kd.BayesianLinearStudent(noise_variance=1.0, prior_variance=0.8), p=6, n=40)


@pytest.mark.slow
def test_laplace_is_exact_where_the_posterior_is_normal():
    found = sample_students(PROBLEM, n_students=10, rng=3, method=Laplace(draws=4000)).components
    exact = kd.observe(PROBLEM, n_students=10, rng=3)
    for name, error in found.attrs["mcse"].items():
        assert abs(float((found.estimate[name] - exact.estimate[name]).mean())) < 4 * error
    assert found.exactness == "approximate"
    assert found.attrs["parameter_variance_ratio"] == pytest.approx(1.0, abs=0.02)


def correlated_model(data):
    """Regression on nearly equal columns, in the coefficients themselves."""
    w = pm.Normal("w", 0.0, 1.0, dims=("student", "feature"))
    pm.Normal("y", w @ data["X"].T, 1.0, observed=data["labels"])
    pm.Deterministic("prediction", w @ data["X_query"].T, dims=("student", "point"))


@pytest.mark.slow
def test_mean_field_suppresses_the_parameter_part():
    """Two columns with correlation .95: independent normals lose most of the variance along their difference."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 1))
    X = np.hstack([x, x + 0.3 * rng.normal(size=(30, 1))])
    teacher = kd.GaussianTeacher(X, X.sum(axis=1), noise_variance=1.0)
    problem = kd.DistillationProblem(
        teacher=teacher, student=kd.BayesianStudent(model=correlated_model), design=kd.Design([[1.0, -1.0]])
    )
    exact = kd.predict(
        kd.DistillationProblem(
            teacher=teacher, student=kd.BayesianLinearStudent(noise_variance=1.0), design=problem.design
        )
    )
    found = sample_students(problem, n_students=5, rng=1, method=ADVI(n_steps=10_000)).components
    nuts = sample_students(problem, n_students=5, rng=1).components
    truth = float(exact.intra_parts.parameter[0, 0])
    assert float(nuts.intra_parts.parameter[0, 0]) == pytest.approx(truth, rel=0.15)
    assert float(found.intra_parts.parameter[0, 0]) < 0.6 * truth


@pytest.mark.slow
def test_approximations_say_what_they_suppress():
    problem = pose(kd.BayesianLinearStudent(prior_variance=1.0), n=8, p=3)
    with pytest.warns(ApproximationWarning, match="ADVI gives .* of the exact parameter variance"):
        found = sample_students(problem, n_students=10, rng=3, method=ADVI(n_steps=8000)).components
    assert found.attrs["parameter_variance_ratio"] < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gaussian", "student_t", "hierarchical"])
def test_models_keep_their_names_and_work_with_arviz(model):
    groups = {"groups": np.arange(25) % 5, "query_groups": [0, 1, 2, 3]} if model == "hierarchical" else {}
    problem = pose(kd.BayesianStudent(model=model, **groups), n_responses=2, strategy="multi_response")
    found = sample_students(problem, n_students=3, rng=1, method=NUTS(target_accept=0.95, draws=1000, tune=1000))
    assert not found.diagnostics.failures, found.diagnostics.summary()
    posterior = found.inference_data.posterior
    assert posterior["coefficient"].dims == ("chain", "draw", "student", "feature")
    assert posterior["feature"].values.tolist() == ["x0", "x1", "x2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = az.plot_forest(found.inference_data, var_names=["coefficient"], combined=True)
        table = az.summary(found.inference_data, var_names=["noise_sd"])
    assert len(axes) == 1
    assert len(table) == 3
    parts = found.components.intra_parts
    np.testing.assert_allclose(parts.parameter + parts.noise, found.components.intra_student, rtol=1e-9)


@pytest.mark.slow
def test_a_horseshoe_on_too_few_draws_is_returned_marked():
    """Four coefficients, one of them large: the prior leaves it alone and shrinks the others; 200 draws are too few."""
    X = np.random.default_rng(0).normal(size=(30, 4))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, 3.0 * X[:, 0], noise_variance=0.5),
        student=kd.BayesianStudent(model="horseshoe", prior_variance=10.0),
        design=kd.Design(np.eye(4)),
    )
    with pytest.warns(ConvergenceWarning, match="are unreliable"):
        found = sample_students(
            problem, n_students=3, rng=1, method=NUTS(draws=100, tune=400, chains=2, target_accept=0.95)
        )
    assert found.components.attrs["unreliable"] == ("inter_student", "intra_student", "total")
    slopes = np.abs(found.inference_data.posterior["coefficient"].mean(("chain", "draw", "student")).values)
    assert slopes[0] > 2.0
    assert (slopes[1:] < 0.5).all()


@pytest.mark.slow
def test_the_engine_is_registered_for_both_verbs_and_repeats_itself():
    problem = pose(kd.BayesianLinearStudent(noise_variance=1.0))
    seen = kd.observe(problem, engine="pymc", n_students=6, rng=4)
    again = kd.predict(problem, engine="pymc", n_students=6, rng=4)
    assert (seen.exactness, again.exactness) == ("observed", "simulated")
    np.testing.assert_array_equal(seen.inter_student, again.inter_student)
    assert {"mcse", "rhat", "ess_bulk", "ess_tail", "n_divergent"} <= set(seen.attrs)


def no_prediction(data):
    pm.Normal("w", 0.0, 1.0, dims=("student", "feature"))


def without_students(data):
    w = pm.Normal("w", 0.0, 1.0, dims="feature")
    pm.Deterministic("prediction", pm.math.zeros_like(data["labels"][:, :4]) + w[0], dims=("student", "point"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (no_prediction, r"`model` must define `prediction` with dims \(student, point\)"),
        (without_students, "`model` must give every variable 'student' as its first dim"),
    ],
)
def test_models_of_users_are_checked(model, message):
    with pytest.raises(kd.errors.ProblemError, match=message):
        sample_students(pose(kd.BayesianStudent(model=model)), n_students=2, rng=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "lasso"}, "`model` must be one of gaussian"),
        ({"model": "hierarchical"}, "`groups` must be given with model='hierarchical'"),
        ({"groups": [0, 1]}, "`groups` must be left out"),
        ({"model": "hierarchical", "groups": [0, 0.5], "query_groups": [0]}, "`groups` must be whole numbers"),
        (
            {"model": "hierarchical", "groups": [0, 1], "query_groups": [2]},
            "`query_groups` must be groups of",
        ),
        ({"prior_variance": 0.0}, "`prior_variance` must be greater than 0"),
        ({"noise_scale": -1.0}, "`noise_scale` must be greater than 0"),
    ],
)
def test_bad_students(options, message):
    with pytest.raises(kd.errors.ProblemError, match=message):
        kd.BayesianStudent(**options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NUTS(chains=0), "`chains` must be at least 1"),
        (lambda: NUTS(target_accept=1.0), "`target_accept` must be less than 1"),
        (lambda: NUTS(sampler="stan"), "`sampler` must be one of"),
        (lambda: Reweighting(nuts="nuts"), "`nuts` must be a NUTS"),
        (lambda: Pathfinder(paths=0), "`paths` must be at least 1"),
        (lambda: Pathfinder(resampling="sir"), "`resampling` must be one of psis, none"),
        (
            lambda: sample_students(PROBLEM, method="gibbs"),
            "`method` must be one of nuts, advi, laplace, pathfinder, r",
        ),
        (lambda: sample_students(PROBLEM, n_students=1), "`n_students` must be at least 2"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(kd.errors.ProblemError, match=message):
        build()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (NUTS(sampler="nutpie"), "sampler 'nutpie' needs nutpie, .* pip install nutpie, or pip install .*samplers"),
        (NUTS(sampler="numpyro"), "sampler 'numpyro' needs numpyro, .* pip install numpyro, or pip install .*samplers"),
        ("pathfinder", "method Pathfinder needs pymc-extras, .* pip install pymc-extras, or pip install .*samplers"),
    ],
)
def test_samplers_that_are_not_installed_are_named(monkeypatch, method, message):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(kd.errors.MissingDependencyError, match=message):
        sample_students(PROBLEM, n_students=2, rng=1, method=method)


@pytest.mark.parametrize("sampler", ["nutpie", "numpyro"])
def test_samplers_are_passed_on(monkeypatch, sampler):
    """What PyMC is asked for; its own sampler answers in the place of one that may not be installed."""
    asked, sample_ = [], pm.sample

    def stand_in(*, nuts_sampler, **options):
        asked.append(nuts_sampler)
        return sample_(nuts_sampler="pymc", **options)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(pm, "sample", stand_in)
    found = sample_data(NUTS(sampler=sampler, draws=20, tune=20, chains=2))
    assert asked == [sampler]
    assert found.posterior.sizes["student"] == 3


def test_pathfinder_fits_students_one_by_one(monkeypatch):
    """Its library is asked once per student, with seeds of their own; draws come back side by side."""
    asked = []

    def fit_pathfinder(**options):
        model = pm.modelcontext(None)
        assert model.dim_lengths["student"].eval() == 1
        asked.append(options)
        level = float(model["score"].get_value()[0, 0])
        shape = (1, options["num_draws"], 1, 6)
        return az.from_dict(posterior={"axis_coefficient": np.full(shape, level)}, dims={"axis_coefficient": DIMS})

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "pymc_extras", types.SimpleNamespace(fit_pathfinder=fit_pathfinder))
    data = sample_data(Pathfinder(draws=30, paths=2))
    assert len({options["random_seed"] for options in asked}) == 3
    assert all((o["num_paths"], o["num_draws"], o["importance_sampling"]) == (2, 30, "psis") for o in asked)
    assert data.posterior["axis_coefficient"].dims == ("chain", "draw", "student", "axis")
    assert data.posterior["student"].values.tolist() == [0, 1, 2]
    assert len(np.unique(data.posterior["axis_coefficient"])) == 3
    assert data.posterior["coefficient"].dims == ("chain", "draw", "student", "feature")


DIMS = ["student", "axis"]


def sample_data(method):
    labels = labels_of(PROBLEM, 3, 1)
    return sample(conjugate_stack(PROBLEM, labels=labels, within=np.zeros_like(labels)), method, seed=1)


WITHOUT_COMPILER = """
import warnings
import numpy as np, kdstats as kd, pytensor
pytensor.config.cxx = ""
from kdstats.prediction.bayes import sample_students
from kdstats.prediction.bayes.libraries import pm
problem = kd.DistillationProblem(
    teacher=kd.GaussianTeacher(np.eye(3), np.zeros(3)), student=kd.BayesianLinearStudent(noise_variance=1.0),
    design=kd.Design(),
)
def stop(**options):
    raise StopIteration
pm.sample = stop  # sampling in Python takes minutes
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(2):
        try:
            sample_students(problem, n_students=2, rng=1)
        except StopIteration:
            print("asked")
mine = [w for w in seen if w.category is kd.errors.MissingCompilerWarning]
print(len(mine), mine[0].message, mine[0].filename)
"""


def test_a_missing_compiler_is_said_once():
    done = subprocess.run([sys.executable, "-c", WITHOUT_COMPILER], capture_output=True, text=True, check=True)
    first, second, said = done.stdout.splitlines()
    assert (first, second) == ("asked", "asked")
    assert said.startswith("1 PyTensor found no C++ compiler")
    assert "install g++" in said
    assert said.endswith("<string>")  # it points at the user's line


WITHOUT_PYMC = """
import sys
sys.modules["pymc"] = None
import numpy as np, kdstats as kd
problem = kd.DistillationProblem(
    teacher=kd.GaussianTeacher(np.eye(3), np.zeros(3)), student=kd.BayesianLinearStudent(), design=kd.Design()
)
kd.predict(problem)
assert not {"pymc", "arviz"} & {name for name, module in sys.modules.items() if module is not None}
for act in (lambda: kd.predict(problem, engine="pymc"), lambda: kd.sample_students):
    try:
        act()
    except kd.errors.MissingDependencyError as error:
        print(error)
"""


def test_without_pymc_the_extra_is_named():
    shown = subprocess.run([sys.executable, "-c", WITHOUT_PYMC], capture_output=True, text=True, check=True).stdout
    assert shown.count('pip install "kdstats[bayes]"') == 2
