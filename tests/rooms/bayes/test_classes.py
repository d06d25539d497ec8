"""Bayesian students of class labels against quadrature, a lattice and the loss of distillation."""

import numpy as np
import pytest
import scipy.optimize

import kdstats as kd
from kdstats.components.class_moments import entropy
from kdstats.prediction.bayes import NUTS, Laplace, sample_students, simulation_calibration
from kdstats.prediction.bayes.class_models import class_stack
from kdstats.prediction.bayes.densities import LogDensity
from kdstats.prediction.bayes.entropies import entropy_parts
from kdstats.prediction.bayes.libraries import pt
from kdstats.prediction.bayes.posteriors import draws_of
from kdstats.sampling.classes import draw_class_counts
from kdstats.streams import as_seeds

N_STUDENTS, PRIOR = 12, 2.0
QUERY = np.array([[-1.0], [0.5], [2.0]])


def sigmoid(value):
    return 1.0 / (1.0 + np.exp(-value))


def pose(model="logistic", *, n=15, p=1, seed=0, n_classes=2, query=QUERY, **options):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    logits = np.sin(X[:, :1]) @ rng.normal(1.0, 0.5, size=(1, n_classes)) + rng.normal(size=n_classes)
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    design = {"n_responses": 3, "strategy": "multi_response"} | options.pop("design", {})
    return kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(chances / chances.sum(axis=1, keepdims=True), X),
        student=kd.BayesianStudent(model=model, prior_variance=PRIOR, **options),
        design=kd.Design(query, **design),
    )


def counts_of(problem, n_students=N_STUDENTS, seed=1):
    return draw_class_counts(problem, as_seeds(seed), 0)[:n_students]


def by_quadrature(problem, counts, *, prior_variance=PRIOR, width=1.0):
    """Posterior moments of P(second class) on 4001 nodes of the one coefficient, for each student."""
    nodes = np.linspace(-14.0, 14.0, 4001)
    chance = sigmoid(np.outer(nodes, problem.teacher.X[:, 0]))
    logs = width * (counts[..., 1] @ np.log(chance).T + counts[..., 0] @ np.log1p(-chance).T)
    logs = logs - 0.5 * nodes**2 / prior_variance
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    at = sigmoid(np.outer(nodes, problem.X_query[:, 0]))
    mean = weights @ at
    each = entropy(np.stack([at, 1.0 - at], axis=-1))
    noise = weights @ each
    whole = entropy(np.stack([mean, 1.0 - mean], axis=-1))
    return {
        "mean": mean,
        "parameter": weights @ at**2 - mean**2,
        "noise": weights @ (at * (1.0 - at)),
        "entropy_noise": noise,
        "entropy_parameter": whole - noise,
    }


@pytest.fixture(scope="module")
def logistic():
    problem = pose(fit_intercept=False)
    found = sample_students(problem, n_students=N_STUDENTS, rng=1, method=NUTS(draws=500, tune=300, chains=2))
    return problem, found


def test_logistic_students_against_quadrature(logistic):
    """Every component and both parts of the entropy within 4 MCSE of quadrature on the same labels."""
    problem, found = logistic
    exact = by_quadrature(problem, counts_of(problem))
    truth = {
        "inter_student": exact["mean"].var(axis=0, ddof=1).mean(),
        "intra_student": (exact["mean"] * (1.0 - exact["mean"])).mean(),
    }
    truth["total"] = truth["inter_student"] + truth["intra_student"]
    components = found.components
    for name, error in components.attrs["mcse"].items():
        assert abs(float(components.estimate[name].mean()) - truth[name]) < 4.0 * error, name
        assert error < 0.05 * truth[name]  # the errors are not merely huge
    parts = components.intra_parts
    assert abs(float(parts.noise.mean()) - exact["noise"].mean()) < 4.0 * components.attrs["mcse"]["intra_student"]
    for name, error in found.entropy_parts.mcse.items():
        truth = exact[f"entropy_{name}"].mean()
        assert abs(float(getattr(found.entropy_parts, name).mean()) - truth) < 4.0 * error, name
        assert error < 0.1 * truth
    wrong = by_quadrature(problem, counts_of(problem), prior_variance=0.5 * PRIOR)["mean"].var(axis=0, ddof=1).mean()
    assert abs(float(components.inter_student.mean()) - wrong) > 4.0 * components.attrs["mcse"]["inter_student"]


def test_what_students_of_classes_are_made_of(logistic):
    _, found = logistic
    components = found.components
    assert components.estimate.sizes == {"point": 3, "output": 2}
    np.testing.assert_allclose(components.inter_student[:, 0], components.inter_student[:, 1], rtol=1e-9)
    parts = components.intra_parts
    np.testing.assert_allclose(parts.parameter + parts.noise, components.intra_student, rtol=1e-9)
    chances = components.student_predictions.mean("student")
    # conservation: an output of a random student is a class of the mean probability; the rest is the divisor S - 1
    spread = components.student_predictions.var("student", ddof=0)
    np.testing.assert_allclose(components.total, chances * (1.0 - chances) + spread / (N_STUDENTS - 1), rtol=1e-9)
    posterior = found.inference_data.posterior
    assert posterior["coefficient"].dims == ("chain", "draw", "student", "feature")
    with pytest.warns(kd.errors.ApproximationWarning, match="12 students"):
        split = found.class_components()
    np.testing.assert_allclose(
        split.expected_entropy.values, found.entropy_parts.entropy.values, atol=4 * found.entropy_parts.mcse["noise"]
    )
    assert (split.mutual_information > 0.0).all()


@pytest.mark.parametrize("strategy", ["multi_response", "averaging", "soft_labels"])
@pytest.mark.parametrize("power", [1.0, 3.0])
def test_the_density_of_logistic_students(strategy, power):
    """Up to a constant it is the formula's; the mean of 3 labels with power 3 weighs as 3 rows."""
    problem = pose(fit_intercept=True, p=2, query=np.eye(2), likelihood_power=power, design={"strategy": strategy})
    counts, rng = counts_of(problem, 4), np.random.default_rng(2)
    density = LogDensity(class_stack(problem, counts))
    w, a = rng.normal(size=(2, 4, 2)), rng.normal(size=(2, 4))
    found = [density({"coefficient": w[i], "intercept": a[i]}) for i in range(2)]
    weight = power * (1.0 if strategy == "multi_response" else 1.0 / 3.0)
    truth = []
    for i in range(2):
        chance = sigmoid(w[i] @ problem.teacher.X.T + a[i][:, None])
        fit = (counts[..., 1] * np.log(chance) + counts[..., 0] * np.log1p(-chance)).sum(axis=1)
        truth.append(weight * fit - 0.5 * (w[i] ** 2).sum(axis=1) / PRIOR - 0.5 * a[i] ** 2 / 100.0)
    np.testing.assert_allclose(found[1] - found[0], truth[1] - truth[0], rtol=1e-9)
    assert strategy != "soft_labels" or np.ptp(found[0] - truth[0]) < 1e-9  # every student has the same labels


def test_softmax_of_two_classes_is_logistic_with_twice_the_prior():
    problem, rng = pose("softmax", p=2, query=np.eye(2), fit_intercept=False), np.random.default_rng(2)
    counts = counts_of(problem, 4)
    density = LogDensity(class_stack(problem, counts))
    along = rng.normal(size=(2, 4, 2, 1))
    found = [density({density.model.value_vars[0].name: one}) for one in along]
    slopes = [2.0 * second_class(density, one)[..., 1] for one in along]  # of the logit: second less first class
    truth = []
    for w in slopes:
        chance = sigmoid(w @ problem.teacher.X.T)
        fit = (counts[..., 1] * np.log(chance) + counts[..., 0] * np.log1p(-chance)).sum(axis=1)
        truth.append(fit - 0.5 * (w**2).sum(axis=1) / (2.0 * PRIOR))
    np.testing.assert_allclose(found[1] - found[0], truth[1] - truth[0], rtol=1e-9)


def second_class(density, value):
    """Coefficients (S, p, C) of the unconstrained value of a softmax student."""
    model = density.model
    variable = model.free_RVs[0]
    transform = model.rvs_to_transforms[variable]
    return transform.backward(pt.as_tensor(value), *variable.owner.inputs).eval()


@pytest.mark.slow
def test_three_classes_against_a_lattice():
    """One coefficient per class of one feature: two free numbers, on a lattice of 161 x 161 nodes."""
    problem = pose("softmax", fit_intercept=False, n_classes=3)
    counts = counts_of(problem, 6)
    found = sample_students(problem, n_students=6, rng=1)
    assert not found.diagnostics.failures
    line = np.linspace(-8.0, 8.0, 161)
    u, v = (array.ravel() for array in np.meshgrid(line, line))
    basis = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) / np.sqrt([[2.0], [6.0]])
    slopes = u[:, None] * basis[0] + v[:, None] * basis[1]  # zero sum over classes

    def chances(x):
        score = x[:, None] * slopes[:, None, :]
        raised = np.exp(score - score.max(axis=-1, keepdims=True))
        return raised / raised.sum(axis=-1, keepdims=True)

    logs = np.einsum("snc,jnc->sj", counts, np.log(chances(problem.teacher.X[:, 0]))) - 0.5 * (u**2 + v**2) / PRIOR
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    at = chances(problem.X_query[:, 0])
    mean = np.einsum("sj,jmc->smc", weights, at)
    inter, intra = mean.var(axis=0, ddof=1).mean(), (mean * (1.0 - mean)).mean()
    for name, truth in (("inter_student", inter), ("intra_student", intra), ("total", inter + intra)):
        assert abs(float(found.components.estimate[name].mean()) - truth) < 4.0 * found.components.attrs["mcse"][name]
    noise = (weights @ entropy(at)).mean()
    assert abs(float(found.entropy_parts.noise.mean()) - noise) < 4.0 * found.entropy_parts.mcse["noise"]
    parameter = entropy(mean).mean() - noise
    assert abs(float(found.entropy_parts.parameter.mean()) - parameter) < 4.0 * found.entropy_parts.mcse["parameter"]


def test_entropy_of_few_draws_is_corrected():
    """Probabilities .5 +- .3: the entropy of a mean of 50 draws is too small by half its variance over .25."""
    rng = np.random.default_rng(0)
    problem = pose(fit_intercept=False, query=np.ones((1, 1)))
    slope = np.log(0.8 / 0.2) * rng.choice([-1.0, 1.0], size=(2, 25, 4000, 1))
    parts = entropy_parts(problem, {"coefficient": slope})
    truth = np.log(2.0) + 0.8 * np.log(0.8) + 0.2 * np.log(0.2)
    step = (
        0.09 / 50 / 0.5
    )  # half the variance of the mean over each of two probabilities of .5, less at most a fiftieth
    se = np.sqrt(2.0) * step / np.sqrt(4000)
    assert abs(float(parts.parameter[0]) - truth) < 4.0 * se + step / 50
    assert step > 2.0 * (4.0 * se + step / 50)  # without the correction it would fail


@pytest.mark.parametrize("model", ["logistic", "softmax"])
def test_the_teacher_as_prior_gives_the_loss_of_distillation(model):
    """The mode minimises cross-entropy to the labels plus tau times that to the teacher, plus a ridge."""
    tau, problem = 2.5, pose(model, p=2, query=np.eye(2), fit_intercept=False, teacher_weight=2.5)
    counts = counts_of(problem, 3)
    density, p = LogDensity(class_stack(problem, counts)), problem.teacher.probabilities

    def loss(flat, seen):
        score = problem.teacher.X @ flat
        sides = (0.0, score) if model == "logistic" else (-score / np.sqrt(2.0), score / np.sqrt(2.0))
        high = np.logaddexp(*np.broadcast_arrays(*sides))
        logs = np.stack(np.broadcast_arrays(*sides), axis=-1) - high[:, None]
        return -((seen + tau * p) * logs).sum() + 0.5 * flat @ flat / PRIOR

    found = [scipy.optimize.minimize(loss, np.zeros(2), args=(seen,), tol=1e-10).x for seen in counts]
    mode = np.stack(found)
    sign = 1.0 if model == "logistic" else np.sign(second_class(density, np.ones((3, 2, 1)))[0, 0, 1])
    name, shape = density.model.value_vars[0].name, (3, 2) if model == "logistic" else (3, 2, 1)
    top = density({name: sign * mode.reshape(shape)})
    for step in 0.05 * np.concatenate([np.eye(2), -np.eye(2)]):
        below = density({name: sign * (mode + step).reshape(shape)})
        drop = np.array([loss(m + step, s) - loss(m, s) for m, s in zip(mode, counts, strict=True)])
        np.testing.assert_allclose(top - below, drop, rtol=1e-6, atol=1e-9)
        assert (drop > 0.0).all()


@pytest.mark.slow
def test_a_teacher_of_great_weight_leaves_no_difference():
    loose, tight = pose(fit_intercept=False), pose(fit_intercept=False, teacher_weight=200.0)
    answers = [
        sample_students(one, n_students=6, rng=1, method=Laplace(draws=200)).components for one in (loose, tight)
    ]
    inter = [float(answer.inter_student.mean()) for answer in answers]
    # 3 labels an input against 200 of the teacher: means move by about 3/203 of what they did
    assert inter[1] < 0.01 * inter[0]
    assert answers[1].exactness == "approximate"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: pose("logistic", n_classes=3), "`model` must be 'softmax' for more than 2 classes"),
        (lambda: pose("gaussian"), "`model` must be one of logistic, softmax for a CategoricalTeacher; got gaussian"),
        (
            lambda: pose(lambda data: None),
            "`model` must be one of logistic, softmax for a CategoricalTeacher; got a function",
        ),
        (lambda: pose(noise_scale=2.0), "`noise_scale` must be left out for classes"),
        (lambda: pose(likelihood_power=0.0), "`likelihood_power` must be greater than 0"),
        (lambda: pose(teacher_weight=-1.0), "`teacher_weight` must be at least 0"),
        (lambda: pose(design={"sources": ["teacher_output", "data_resampling"]}), "`sources` must leave out"),
        (lambda: kd.BayesianStudent(teacher_weight=1.0), "`teacher_weight` must be 0 but for logistic and softmax"),
        (
            lambda: kd.BayesianStudent(model=len, likelihood_power=2.0),
            "`likelihood_power` must be 1 for a model of your",
        ),
        (
            lambda: kd.DistillationProblem(
                teacher=kd.GaussianTeacher(np.eye(3), np.zeros(3)),
                student=kd.BayesianStudent(model="softmax"),
                design=kd.Design(),
            ),
            "`model` must be one of a mean for a GaussianTeacher",
        ),
        (
            lambda: kd.DistillationProblem(
                teacher=kd.CategoricalTeacher([[0.5, 0.5]]),
                student=kd.BayesianStudent(model="softmax"),
                design=kd.Design(),
            ),
            "`X` must be given to the teacher",
        ),
    ],
)
def test_bad_students_of_classes(build, message):
    with pytest.raises(kd.errors.ProblemError, match=message):
        build()


def test_students_of_numbers_have_no_class_entropies(logistic):
    import dataclasses

    blank = dataclasses.replace(logistic[1], entropy_parts=None)
    with pytest.raises(kd.errors.UnsupportedProblemError, match="entropies are of students of classes"):
        blank.class_components()
    assert set(draws_of(logistic[1].inference_data)) == {"coefficient"}


def test_calibration_needs_labels_that_can_be_drawn():
    for problem in (pose(teacher_weight=1.0), pose(likelihood_power=2.0), pose(design={"strategy": "averaging"})):
        with pytest.raises(kd.errors.UnsupportedProblemError, match="needs a likelihood that labels can be drawn from"):
            simulation_calibration(problem, n_simulations=100)
