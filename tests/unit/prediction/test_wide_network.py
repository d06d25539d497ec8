"""Kernels against random networks and literature, training in function space against explicit steps, refusals."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import ApproximationWarning, PredictionError, ProblemError, UnsupportedProblemError
from kdstats.prediction.networks.kernels import DUALS, Layer, erf_dual, infinite_width_kernels, relu_dual
from kdstats.prediction.networks.narrow import draw_parameters, train_and_predict
from kdstats.prediction.networks.wide import predict, wide_network

GENERATOR = np.random.default_rng(0)
N, P = 20, 3
X, QUERY = GENERATOR.normal(size=(N, P)), GENERATOR.normal(size=(6, P))
MEAN = np.sin(X[:, 0]) + X[:, 1]
WIDE = {"hidden": (512,), "activation": "erf", "optimizer": "sgd", "parameterization": "ntk", "bias_variance": 0.2}


def make(*, noise=0.5, mean=MEAN, design=None, teacher=None, **student):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, noise_variance=noise, **(teacher or {})),
        student=kd.NetworkStudent(**(WIDE | {"learning_rate": 0.5, "epochs": 20} | student)),
        design=kd.Design(QUERY, **(design or {})),
    )


def quiet(problem, **options):
    return predict(problem, n_check=0, **options)


@pytest.mark.parametrize(("dual", "function"), [(relu_dual, lambda u: np.maximum(u, 0)), (erf_dual, None)])
def test_duals_against_sampled_expectations(dual, function):
    from scipy.special import erf

    function = function or erf
    slopes = {relu_dual: lambda u: (u > 0).astype(float), erf_dual: lambda u: 2 / np.sqrt(np.pi) * np.exp(-(u**2))}
    covariance = np.array([[1.0, 0.6, -0.9], [0.6, 2.0, -0.3], [-0.9, -0.3, 1.5]])
    draws = np.random.default_rng(1).multivariate_normal(np.zeros(3), covariance, size=400_000)
    for exact, values in zip(dual(covariance), (function(draws), slopes[dual](draws)), strict=True):
        products = np.einsum("si,sj->sij", values, values)
        error = products.std(axis=0) / np.sqrt(len(draws))
        assert (np.abs(products.mean(axis=0) - exact) < 4.5 * error).all()
        assert (np.abs(products.mean(axis=0) - 1.02 * exact) > 4.5 * error).any()


def test_relu_dual_at_known_angles():
    product, slope = relu_dual(np.array([[4.0, 0.0], [0.0, 9.0]]))
    np.testing.assert_allclose(product, [[2.0, 6 / (2 * np.pi)], [6 / (2 * np.pi), 4.5]])
    np.testing.assert_allclose(slope, [[0.5, 0.25], [0.25, 0.5]])


@pytest.mark.parametrize("activation", sorted(DUALS))
@pytest.mark.parametrize("depth", [1, 3])
def test_kernels_against_wide_random_networks(activation, depth):
    """Averages over networks are off by 4.5 standard errors at most, and by a multiple of depth over width."""
    width, n_networks = 200, 100
    student = kd.NetworkStudent(**(WIDE | {"hidden": (width,) * depth, "activation": activation}))
    layer = Layer(weight_variance=2.0, bias_variance=0.2, weight_gain=2.0, bias_gain=0.2)
    exact = infinite_width_kernels(X[:4], layers=[layer] * (depth + 1), activation=activation)
    parameters = draw_parameters(student, (P, *(width,) * depth, 1), np.random.default_rng(2), n_students=n_networks)
    start, tangent = empirical_kernels(student, parameters, X[:4])
    for seen, kernel in ((start, exact.start), (tangent, exact.tangent)):
        error = seen.std(axis=0) / np.sqrt(n_networks)
        gap = np.abs(seen.mean(axis=0) - kernel)
        bias = 2.0 * (depth + 1) / width * np.abs(np.sqrt(np.outer(np.diag(kernel), np.diag(kernel))))
        assert (gap < 4.5 * error + bias).all()
        assert (np.abs(seen.mean(axis=0) - 1.15 * kernel) > 4.5 * error + bias).any()


def empirical_kernels(student, parameters, inputs):
    """Products of outputs, and of gradients, of every network; by hand, layer by layer."""
    from scipy.special import erf

    value = {"relu": lambda z: np.maximum(z, 0), "erf": erf}[student.activation]
    slope = {"relu": lambda z: (z > 0) * 1.0, "erf": lambda z: 2 / np.sqrt(np.pi) * np.exp(-(z**2))}[student.activation]
    signals, before = [np.broadcast_to(inputs, (len(parameters[0][0]), *inputs.shape))], []
    for weights, biases in parameters:
        scale = np.sqrt(student.weight_variance / weights.shape[1])
        before.append(signals[-1] @ (scale * weights) + np.sqrt(student.bias_variance) * biases)
        signals.append(value(before[-1]))
    pull, tangent = np.ones_like(before[-1]), 0.0
    for depth in range(len(parameters) - 1, -1, -1):
        weights = parameters[depth][0]
        fan_in = weights.shape[1]
        products = np.einsum("sik,sjk->sij", pull, pull)
        below = np.einsum("sik,sjk->sij", signals[depth], signals[depth])
        tangent = tangent + products * (student.weight_variance / fan_in * below + student.bias_variance)
        if depth:
            scale = np.sqrt(student.weight_variance / fan_in)
            pull = (pull @ np.swapaxes(scale * weights, 1, 2)) * slope(before[depth - 1])
    last = parameters[-1][0].shape[1]
    below = np.einsum("sik,sjk->sij", signals[-2], signals[-2])  # given them, outputs are Gaussian
    return student.weight_variance / last * below + student.bias_variance, tangent


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("q", [1, 2])
def test_finite_time_against_steps_in_function_space(momentum, q):
    mean = np.column_stack([MEAN, -MEAN])[:, :q]
    problem = make(mean=mean, momentum=momentum, epochs=37)
    law = wide_network(problem)
    layer = Layer(weight_variance=2.0, bias_variance=0.2, weight_gain=2.0, bias_gain=0.2)
    kernels = infinite_width_kernels(np.vstack([X, QUERY]), layers=[layer] * 2, activation="erf")
    everything = np.eye(N + len(QUERY))  # columns: start at every point; label noise is minus the start's pull
    outputs, labels = everything.copy(), np.zeros((N, N + len(QUERY)))
    labelled, noise = np.zeros((N + len(QUERY), N)), np.eye(N)
    speeds = [np.zeros((N, N + len(QUERY))), np.zeros((N, N))]
    for _ in range(37):
        for values, target, i in ((outputs, labels, 0), (labelled, noise, 1)):
            speeds[i] = momentum * speeds[i] + 2.0 / (N * q) * (values[:N] - target)
            values -= 0.5 * kernels.tangent[:, :N] @ speeds[i]
    np.testing.assert_allclose(law.map, labelled[N:], atol=1e-12)
    np.testing.assert_allclose(law.start, outputs[N:] @ kernels.start @ outputs[N:].T, atol=1e-10)
    np.testing.assert_allclose(law.noise, 0.5 * labelled[N:] @ labelled[N:].T, atol=1e-10)
    left = np.eye(N) - labelled[:N]
    residual = (left @ mean) ** 2
    square = residual.mean(axis=0) + np.trace(left @ (0.5 * np.eye(N) + kernels.start[:N, :N]) @ left.T) / N
    np.testing.assert_allclose(law.residual, square, rtol=1e-9)


def test_sources_add_and_vanish():
    both, noise, start, none = (
        quiet(make(design={"sources": sources})).inter_student.values
        for sources in (
            ["teacher_output", "student_initialization"],
            ["teacher_output"],
            ["student_initialization"],
            ["data_resampling"][:0],
        )
    )
    np.testing.assert_allclose(both, noise + start, rtol=1e-12)
    assert (none == 0.0).all()
    assert min(noise.min(), start.min()) > 0.0
    parts = quiet(make()).attrs["source_variances"]
    assert parts["teacher_output"] == pytest.approx(noise.mean())
    assert parts["student_initialization"] == pytest.approx(start.mean())


def test_responses_correlations_and_strategies():
    def noise_part(**options):
        return quiet(make(**options)).attrs["source_variances"]["teacher_output"]

    one = noise_part()
    assert noise_part(design={"n_responses": 5}) == pytest.approx(one / 5)
    assert noise_part(design={"n_responses": 5, "strategy": "multi_response"}) == pytest.approx(one / 5)
    correlated = noise_part(design={"n_responses": 5}, teacher={"response_correlation": 0.4})
    assert correlated == pytest.approx(one * (1 + 4 * 0.4) / 5)
    full = np.diag(np.linspace(0.1, 0.9, N)) + 0.1
    law = wide_network(make(noise=full))
    np.testing.assert_allclose(law.noise, law.map @ full @ law.map.T)
    averaged, rows = (
        quiet(make(design={"n_responses": 5, "strategy": s})).intra_student.values
        for s in ("averaging", "multi_response")
    )
    np.testing.assert_allclose(rows - averaged, 0.5 * 4 / 5)


def test_covariance_and_effective_rank():
    answer = quiet(make(mean=np.column_stack([MEAN, MEAN])), covariance=True)
    np.testing.assert_allclose(np.diagonal(answer.covariance[0].values), answer.inter_student.values[:, 0])
    flat = np.kron(np.eye(2), answer.covariance[0].values)
    assert answer.attrs["effective_rank"] == pytest.approx(np.trace(flat) ** 2 / (flat**2).sum())
    own = kd.DistillationProblem(teacher=make().teacher, student=make().student, design=kd.Design())
    again = kd.DistillationProblem(teacher=make().teacher, student=make().student, design=kd.Design(X))
    np.testing.assert_allclose(quiet(own).inter_student, quiet(again).inter_student, rtol=1e-8)


def test_infinite_time_on_labels_interpolates():
    """With a kernel of full rank and many steps the outputs at the inputs are the labels."""
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X[:5], MEAN[:5], noise_variance=0.5),
        student=kd.NetworkStudent(**(WIDE | {"epochs": 20_000, "learning_rate": 0.5})),
        design=kd.Design(),
    )
    answer = quiet(problem)
    np.testing.assert_allclose(answer.inter_student, 0.5, rtol=1e-6)
    np.testing.assert_allclose(answer.intra_student, 0.0, atol=1e-9)


def test_standard_parameterization_is_the_scaled_one_for_two_layers():
    """With rate 1/h and equal laws of the start, the output layers' kernels agree; here only they are trained."""
    h = 512
    ntk = Layer(weight_variance=2.0, bias_variance=0.0, weight_gain=2.0, bias_gain=0.0)
    plain = Layer(weight_variance=2.0, bias_variance=0.0, weight_gain=float(h), bias_gain=0.0)
    still = Layer(weight_variance=2.0, bias_variance=0.0, weight_gain=0.0, bias_gain=0.0)
    one, other = (infinite_width_kernels(X, layers=[still, layer], activation="relu").tangent for layer in (ntk, plain))
    np.testing.assert_allclose(other, one * h / 2.0)


def test_the_rate_from_which_on_training_diverges_is_said():
    limit = quiet(make()).attrs["rate_limit"]
    assert quiet(make(learning_rate=0.999 * limit)).exactness == "approximate"
    with pytest.raises(PredictionError, match=rf"`learning_rate` must be less than {limit:.4g}"):
        quiet(make(learning_rate=1.001 * limit))
    assert quiet(make(momentum=0.5)).attrs["rate_limit"] == pytest.approx(1.5 * limit)


def test_memory_is_said_before_it_is_taken():
    rows = 40_000
    big = np.zeros((rows, 1))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(big, big[:, 0]), student=make().student, design=kd.Design()
    )
    with pytest.raises(PredictionError, match=r"`max_memory` must be at least 95.4 GiB for kernels over 40000 inputs"):
        predict(problem)
    assert quiet(make()).attrs["kernel_bytes"] == 64 * (N + len(QUERY)) ** 2


@pytest.mark.parametrize(
    ("student", "design", "message"),
    [
        ({"optimizer": "adam"}, {}, "gradient descent"),
        ({"activation": "tanh"}, {}, "activations relu and erf"),
        ({"weight_decay": 0.1}, {}, "without weight decay"),
        ({"perturbation_sd": 0.1}, {}, "starts drawn anew"),
        ({"head": "gaussian"}, {}, "predict a number"),
        ({"batch_size": 5}, {}, "full-batch steps"),
        ({"early_stopping": kd.EarlyStopping()}, {}, "fixed number of steps"),
        ({}, {"resample_size": 10}, "every row"),
    ],
)
def test_what_is_not_covered_is_refused(student, design, message):
    with pytest.raises(UnsupportedProblemError, match=f"{message}.*kdstats.observe"):
        predict(make(design=design, **student))


def test_linear_students_and_bad_arguments_are_refused():
    linear = kd.DistillationProblem(teacher=make().teacher, student=kd.LinearStudent(), design=kd.Design())
    with pytest.raises(UnsupportedProblemError, match="closed_form"):
        kd.predict(linear, engine="wide_network")
    for option, value in {"n_check": 3, "max_memory": 0.0, "covariance": 1}.items():
        with pytest.raises(ProblemError, match=f"`{option}` must"):
            predict(make(), **{option: value})


def test_a_narrow_student_is_warned_of_and_a_wide_one_is_not():
    trained = {"activation": "relu", "epochs": 400, "learning_rate": 0.3}
    wide = predict(make(**trained, hidden=(4096,)), rng=1)
    assert abs(wide.attrs["relative_error"]) < 0.1
    with pytest.warns(ApproximationWarning, match="students of width 3 are expected to vary .* too narrow"):
        narrow = predict(make(**trained, hidden=(3,)), rng=1)
    assert max(abs(off) for off in narrow.attrs["relative_error_by_source"].values()) > 0.1
    assert narrow.attrs["check_width"] == 3
    assert wide.attrs["check_width"] == 64


def test_the_narrow_networks_follow_gradient_descent():
    """One step of the trainer is the step of a loss computed by differences."""
    student = kd.NetworkStudent(**(WIDE | {"hidden": (4, 3), "epochs": 1}))
    start = draw_parameters(student, (P, 4, 3, 1), np.random.default_rng(3), n_students=2)
    labels = np.stack([MEAN, -MEAN])[..., None]
    rates = (1e-3, 2e-3)
    steps = [
        train_and_predict(X, labels, student=student, start=start, learning_rate=rate)(X)[..., 0]
        for rate in (0.0, *rates)
    ]
    _, tangent = empirical_kernels(student, [(w.astype(float), b.astype(float)) for w, b in start], X)
    expected = -2.0 / N * np.einsum("sij,sj->si", tangent, steps[0] - labels[..., 0])
    moved = [(step - steps[0]) / rate for step, rate in zip(steps[1:], rates, strict=True)]
    np.testing.assert_allclose(2.0 * moved[0] - moved[1], expected, atol=2e-3 * np.abs(expected).max())
