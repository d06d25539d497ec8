"""One fit, many students: the pieces against exact algebra and densities, the whole against exact posteriors."""

import numpy as np
import pytest
import scipy.stats

import kdstats as kd
from kdstats.errors import ConvergenceWarning
from kdstats.prediction.bayes import NUTS, Reweighting, sample_students
from kdstats.prediction.bayes.libraries import pm
from kdstats.prediction.bayes.proposals import (
    FREEDOM,
    Affine,
    PilotDraws,
    StudentT,
    curvature_step,
    match_moments,
    mixture,
    moment_step,
    pareto_k_limit,
    smoothed,
)

RNG = np.random.default_rng(0)
ROOTS = np.tril(RNG.normal(size=(2, 3, 3))) + 2.0 * np.eye(3)
MOVE = np.array([1.0, -2.0, 0.5])
MAPS = Affine(centre=RNG.normal(size=(2, 3)), root=ROOTS)


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", ["mean", "variances", "covariance"])
def test_moved_draws_have_the_weighted_moments(kind):
    """White draws after the step have, unweighted, the moments that the weights gave them before it."""
    z = generator().normal(size=(50, 3))
    z = np.linalg.solve(np.linalg.cholesky(np.cov(z, rowvar=False, ddof=0)), (z - z.mean(axis=0)).T).T
    weights = generator(1).dirichlet(np.ones(50), size=2)
    before, after = MAPS(np.stack([z, z])), moment_step(kind, maps=MAPS, z=z, weights=weights)(np.stack([z, z]))
    for student in range(2):
        wanted = np.cov(before[student], rowvar=False, aweights=weights[student], ddof=0)
        found = np.cov(after[student], rowvar=False, ddof=0)
        np.testing.assert_allclose(after[student].mean(axis=0), weights[student] @ before[student], rtol=1e-11)
        if kind == "covariance":
            np.testing.assert_allclose(found, wanted, rtol=1e-10)
        elif kind == "variances":
            np.testing.assert_allclose(np.diag(found), np.diag(wanted), rtol=1e-10)
        else:
            np.testing.assert_allclose(found, np.cov(before[student], rowvar=False, ddof=0), rtol=1e-10)


def test_the_base_against_scipy():
    base = StudentT(dimension=3, n_draws=512)
    z = base.draw(generator(), 40)
    assert z.shape == (40, 512, 3)
    expected = scipy.stats.multivariate_t(np.zeros(3), np.eye(3), df=FREEDOM)
    np.testing.assert_allclose(base.log_density(z[0]), expected.logpdf(z[0]), rtol=1e-12)
    np.testing.assert_array_equal(z[:, 0::2], -z[:, 1::2])
    # every coordinate has the law of a t, and students have points of their own
    chances = scipy.stats.t(FREEDOM).cdf(z[:, 0::2].reshape(-1, 3))
    for j in range(3):
        assert np.abs(np.sort(chances[:, j]) - (np.arange(len(chances)) + 0.5) / len(chances)).max() < 0.01
    assert len(np.unique(z[:, 0, 0])) == 40


def test_blocks_are_random_enough_to_tell_the_error():
    """The scatter of block means is the error of their mean: the ratio of variances is an F of 7 x 400 and 400."""
    z = StudentT(dimension=3, n_draws=512).draw(generator(), 400)
    values = (z**2).sum(axis=2).reshape(400, 8, 64).mean(axis=2)
    ratio = values.mean(axis=1).var(ddof=1) / (values.var(axis=1, ddof=1).mean() / 8)
    low, high = scipy.stats.f(399, 7 * 400).ppf([0.0005, 0.9995])
    assert low < ratio < high
    assert values.mean(axis=1).var() < 0.5 * (z**2).sum(axis=2).var() / 256  # far below independent pairs


def normal_target(means, roots):
    laws = [scipy.stats.multivariate_normal(mean, root @ root.T) for mean, root in zip(means, roots, strict=True)]

    def target(theta, students):
        return np.stack([laws[s].logpdf(theta[i]) for i, s in enumerate(students)])

    return target


def test_weights_of_a_mixture_integrate_to_one():
    """The mean weight of a normalised density is 1, by the right Jacobians and the right mixture; without them not."""
    base = StudentT(dimension=3, n_draws=2048)
    other = Affine(centre=MAPS.centre + 0.5, root=0.7 * MAPS.root)
    target = normal_target(MAPS.centre + 0.2, 0.8 * MAPS.root)
    z = base.draw(generator(), 2)
    theta, proposal = mixture(base, z, other, MAPS)
    ratios = np.exp(target(theta, [0, 1]) - proposal)
    blocks = ratios.reshape(2, 8, 256).mean(axis=2)
    error = blocks.std(axis=1, ddof=1) / np.sqrt(8)
    reach = scipy.stats.t(7).ppf(1 - 1e-3 / 4)
    assert (np.abs(blocks.mean(axis=1) - 1.0) < reach * error).all()
    wrong = np.exp(target(theta, [0, 1]) - base.log_density(z) + MAPS.log_determinant[:, None])  # one map for all
    assert (np.abs(wrong.mean(axis=1) - 1.0) > 5 * reach * error).all()


def test_a_parabola_is_found_exactly():
    target = normal_target(MAPS.centre + MOVE, 0.6 * MAPS.root)
    z = StudentT(dimension=3, n_draws=64, n_blocks=1).draw(generator(), 1)[0]
    found = curvature_step(maps=MAPS, z=z, log_density=target(MAPS(z[None]), [0, 1]))
    np.testing.assert_allclose(found.centre, MAPS.centre + MOVE, rtol=1e-9)
    np.testing.assert_allclose(
        found.root @ found.root.swapaxes(1, 2), 0.36 * MAPS.root @ MAPS.root.swapaxes(1, 2), rtol=1e-8
    )
    upside_down = curvature_step(maps=MAPS, z=z, log_density=-target(MAPS(z[None]), [0, 1]))
    np.testing.assert_array_equal(upside_down.centre, MAPS.centre)


@pytest.mark.parametrize("pilot", [False, True])
def test_moment_matching_finds_what_plain_weights_miss(pilot):
    """Targets far away, of other widths and turned: k-hat from bad to good."""
    turned = np.stack([scipy.stats.special_ortho_group(3, seed=s).rvs() @ np.diag([0.3, 1.0, 2.5]) for s in (1, 2)])
    target = normal_target(MAPS.centre + 5.0, turned)
    base = StudentT(dimension=3, n_draws=2048)
    if pilot:
        draws = generator().normal(size=(2000, 3))
        base = PilotDraws(values=draws, density=lambda z: -0.5 * (z**2).sum(axis=-1), n_blocks=20)
    z = base.draw(generator(), 1)[0]

    def shape(maps):
        return smoothed(target(maps(z[None]), [0, 1]) + maps.log_determinant[:, None] - base.log_density(z)).shape

    limit = pareto_k_limit(len(z))
    found = match_moments(target, maps=MAPS, z=z, log_base=base.log_density(z), limit=limit, n_rounds=10)
    assert (shape(MAPS) > limit).all()
    assert (shape(found) <= limit).all()


def test_weights_without_a_tail_and_without_a_number():
    logs = np.zeros((4, 600))
    logs[1] = generator().normal(size=600)
    logs[2, 5] = np.nan
    logs[3] = -np.inf
    found = smoothed(logs)
    assert (found.shape[[0, 2, 3]] == [-np.inf, np.inf, np.inf]).all()
    assert np.isfinite(found.shape[1])
    np.testing.assert_allclose(found.values.sum(axis=1), 1.0)
    assert found.effective[0] == pytest.approx(600.0)


def pose(student, *, n=40, p=6, k=1, noise=1.0, **design):
    X = np.random.default_rng(0).normal(size=(n, p))
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X.sum(axis=1) + np.sin(X[:, 0]), noise_variance=noise),
        student=student,
        design=kd.Design(np.random.default_rng(1).normal(size=(4, p)), n_responses=k, **design),
    )


PROBLEM = pose(kd.BayesianLinearStudent(noise_shape=3.0, noise_scale=2.0, fit_intercept=True))
NAMES = ("inter_student", "intra_student", "total")


def test_against_exact_posteriors():
    """One fit serves every student: every component within 4 of its errors at every point's average."""
    found = sample_students(PROBLEM, n_students=40, rng=3, method=Reweighting())
    exact = kd.observe(PROBLEM, n_students=40, rng=3)  # the same labels
    assert (found.pareto_k <= pareto_k_limit(2048)).all()
    assert not found.refused.any()
    assert "0 students refused" in found.summary()
    assert "unreliable" not in found.components.attrs
    for name in NAMES:
        error = found.components.attrs["mcse"][name]
        assert abs(float((found.components.estimate[name] - exact.estimate[name]).mean())) < 4 * error
        assert error < 0.01 * float(exact.estimate[name].mean())
    parts = found.components.intra_parts
    np.testing.assert_allclose(parts.parameter + parts.noise, found.components.intra_student, rtol=1e-9)


def test_plain_weights_are_refused_and_the_answer_marked():
    """Nothing is moved: weights of seven parameters fail, and no number comes back without a mark."""
    with pytest.warns(ConvergenceWarning, match=r"students cannot be reweighted \(largest k-hat"):
        found = sample_students(PROBLEM, n_students=40, rng=3, method=Reweighting(n_rounds=0))
    assert (found.pareto_k > pareto_k_limit(2048)).any()
    assert found.refused.sum() == found.components.attrs["n_refused"] > 5
    assert found.components.attrs["unreliable"] == NAMES
    assert "UNRELIABLE" in found.components.summary()


@pytest.mark.slow
def test_labels_that_differ_too_much_are_refused_and_a_refit_is_asked_for():
    """Eight labels with heavy tails leave some posteriors that no proposal of a moved and matched pilot serves."""
    problem = pose(kd.BayesianStudent(model="student_t"), n=8, p=2, noise=9.0)
    options = {"n_students": 20, "rng": 3, "noise_law": "laplace"}
    nuts = NUTS(draws=1000, tune=500, chains=2, target_accept=0.95)
    with pytest.warns(
        ConvergenceWarning, match=r"students cannot be reweighted .*: use Reweighting\(refit=True\) or NUTS"
    ):
        found = sample_students(problem, method=Reweighting(nuts=nuts), **options)
    assert 0 < found.refused.sum() < 20
    assert found.components.attrs["unreliable"] == NAMES
    again = sample_students(problem, method=Reweighting(nuts=nuts, refit=True), **options)
    assert again.components.attrs["n_refitted"] == again.refused.sum() == found.refused.sum()
    assert not any("reweighted" in failure for failure in again.diagnostics.failures)
    every = sample_students(problem, method=nuts, **options).components
    for name, error in again.components.attrs["mcse"].items():
        bound = 4 * np.hypot(error, every.attrs["mcse"][name])
        assert abs(float((again.components.estimate[name] - every.estimate[name]).mean())) < bound


@pytest.mark.slow
def test_bad_weights_are_refitted_where_asked():
    method = Reweighting(nuts=NUTS(draws=1000), n_rounds=0, refit=True)
    found = sample_students(PROBLEM, n_students=20, rng=3, method=method)
    exact = kd.observe(PROBLEM, n_students=20, rng=3)
    assert 0 < found.components.attrs["n_refitted"] == found.refused.sum()
    for name, error in found.components.attrs["mcse"].items():
        assert abs(float((found.components.estimate[name] - exact.estimate[name]).mean())) < 4 * error


def own_model(data):
    """Laplace noise: a posterior with corners, and predictions that the model computes."""
    w = pm.Normal("w", 0.0, 1.0, dims=("student", "feature"))
    b = pm.HalfNormal("b", 1.0, dims="student")
    pm.Laplace("y", w @ data["X"].T, b[:, None], observed=data["labels"])
    pm.Deterministic("prediction", w @ data["X_query"].T, dims=("student", "point"))
    pm.Deterministic("prediction_variance", 2 * b[:, None] ** 2 + 0 * data["X_query"][:, 0], dims=("student", "point"))


@pytest.mark.slow
@pytest.mark.parametrize("student", ["student_t", "own"])
def test_models_without_a_closed_form_against_nuts(student):
    model = own_model if student == "own" else student
    problem = pose(kd.BayesianStudent(model=model), p=3)
    found = sample_students(problem, n_students=15, rng=3, method=Reweighting()).components
    nuts = sample_students(problem, n_students=15, rng=3, method=NUTS(draws=1000)).components
    for name in NAMES:
        error = np.hypot(found.attrs["mcse"][name], nuts.attrs["mcse"][name])
        assert abs(float((found.estimate[name] - nuts.estimate[name]).mean())) < 4 * error
        assert error < 0.1 * float(nuts.estimate[name].mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 1000}, "`draws` must be a power of 2"),
        ({"draws": 256}, "`draws` must be at least 512"),
        ({"n_rounds": -1}, "`n_rounds` must be at least 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(kd.errors.ProblemError, match=message):
        Reweighting(**options)
