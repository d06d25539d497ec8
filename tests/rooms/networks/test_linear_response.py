"""The response of network students to their labels against students that are really trained."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest, norm

import kdstats as kd
from kdstats.errors import ApproximationWarning, PredictionError, ProblemError, UnsupportedProblemError
from kdstats.prediction.networks import response
from kdstats.prediction.networks.response import network_response

N, P = 40, 3
GENERATOR = np.random.default_rng(0)
X, QUERY = GENERATOR.normal(size=(N, P)), GENERATOR.normal(size=(7, P))
MEAN = np.sin(X[:, 0]) + X[:, 1] * X[:, 2]
SMOOTH = kd.NetworkStudent(hidden=(8,), activation="tanh", epochs=60)
#: ReLU students that Adam takes close to their labels: the run jumps where a unit switches sides.
KINKED = kd.NetworkStudent(hidden=(16,), activation="relu", learning_rate=0.02, epochs=300)
ONE_START = ("teacher_output", "student_output")
#: Noise of which the students' response is first order up to a fraction of about its standard deviation.
SMALL = 1e-6
Z = 4.5


def make(student=SMOOTH, *, noise=SMALL, mean=MEAN, sources=ONE_START, query=QUERY, teacher=None, **design):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, noise_variance=noise, **(teacher or {})),
        student=student,
        design=kd.Design(query, sources=sources, **design),
    )


def averages(answer, component="inter_student"):
    mean = answer.average()
    return float(mean.estimate[component].item()), float(mean.standard_error[component].item())


def agree(predicted, observed, component="inter_student"):
    (one, one_se), (two, two_se) = averages(predicted, component), averages(observed, component)
    return abs(one - two) < Z * np.hypot(one_se, two_se)


@pytest.mark.parametrize(
    "student",
    [
        SMOOTH,
        kd.NetworkStudent(hidden=(6, 5), activation="gelu", optimizer="adamw", weight_decay=0.1, epochs=40),
        kd.NetworkStudent(
            hidden=(30,),
            activation="erf",
            optimizer="sgd",
            momentum=0.5,
            parameterization="ntk",
            learning_rate=0.2,
            epochs=40,
        ),
    ],
    ids=lambda s: f"{s.activation}-{s.optimizer}",
)
def test_first_order_against_trained_students(student):
    asked = make(student, n_responses=2)
    predicted = kd.predict(asked, engine="linear_response", response="tangent", n_students=64, rng=3)
    observed = kd.observe(asked, n_students=256, rng=3)
    assert agree(predicted, observed)
    assert agree(predicted, observed, "intra_student")
    longer = make(replace(student, epochs=3 * student.epochs), n_responses=2)
    assert not agree(network_response(longer, n_students=64, rng=3).predict(response="tangent"), observed)


@pytest.mark.parametrize("k", [1, 4])
def test_any_covariance_from_the_same_run(k):
    found = network_response(make(), n_students=64, rng=5)
    full = SMALL * (0.5 + np.diag(np.linspace(0.1, 2.0, N)))
    asked = make(noise=full, n_responses=k, strategy="averaging", teacher={"response_correlation": 0.3})
    predicted, observed = found.predict(asked, response="tangent"), kd.observe(asked, n_students=400, rng=5)
    assert agree(predicted, observed)
    diagonal = make(noise=np.diag(full).copy(), n_responses=k, strategy="averaging")
    assert not agree(found.predict(diagonal, response="tangent"), observed)


def test_several_outputs_at_the_inputs_themselves():
    asked = make(mean=np.column_stack([MEAN, X[:, 0] ** 2]), query=None, n_responses=3, strategy="multi_response")
    predicted = kd.predict(asked, response="tangent", n_students=64, rng=6)
    observed = kd.observe(asked, n_students=400, rng=6)
    assert predicted.inter_student.shape == (N, 2)
    assert agree(predicted, observed)
    assert agree(predicted, observed, "intra_student")
    jacobian = network_response(asked, rng=6).jacobian
    assert jacobian.sizes == {"pilot": 1, "point": N, "output": 2, "input": N, "label_output": 2}
    own = (SMALL / 3) * (jacobian**2).sum(("input", "label_output")).values[0]
    np.testing.assert_allclose(predicted.inter_student.values, own, rtol=1e-12)


@pytest.mark.parametrize("sources", [ONE_START, ("teacher_output", "student_initialization", "student_output")])
@pytest.mark.parametrize("student", [SMOOTH, KINKED], ids=["smooth", "kinked"])
def test_finite_response_against_trained_students(student, sources):
    asked = make(student, noise=0.01, sources=sources)
    observed = kd.observe(asked, n_students=500, rng=8)
    predicted = kd.predict(asked, rng=8)
    assert predicted.engine == "linear_response"
    assert agree(predicted, observed)
    assert agree(predicted, observed, "intra_student")
    other = kd.predict(make(student, noise=1.0, sources=sources), rng=8)
    assert not agree(other, observed)


def test_first_order_fails_at_kinks_and_says_so():
    asked = make(KINKED, noise=1e-4)
    with pytest.warns(ApproximationWarning, match="first order is not shown to hold.*use response='finite'"):
        tangent = kd.predict(asked, response="tangent", rng=8)
    observed = kd.observe(asked, n_students=500, rng=8)
    low, high = tangent.attrs["linear_ratio_interval"]
    ratio = averages(observed)[0] / averages(tangent)[0]
    assert ratio > response.MARGIN  # the warning is no false alarm
    assert low > 1.0
    assert not tangent.attrs["linear_valid"]
    assert abs(np.log(ratio / tangent.attrs["linear_ratio"])) < Z * 0.5 * np.hypot(np.log(high / low) / 1.96, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finite = kd.predict(asked, rng=8)
    assert agree(finite, observed)
    assert finite.attrs["linear_ratio"] == tangent.attrs["linear_ratio"]


def test_first_order_is_exact_where_students_are_linear():
    """The control variate then leaves no error at all, but for float32."""
    predicted = kd.predict(make(), rng=9, n_students=32)
    assert predicted.attrs["linear_share"] > 0.999
    assert predicted.attrs["linear_valid"]
    value, error = averages(predicted)
    assert error < 0.02 * value
    tangent = averages(kd.predict(make(), rng=9, n_students=32, response="tangent"))[0]
    assert abs(value - tangent) < Z * error
    with pytest.warns(ApproximationWarning, match="32 students know the variance at this noise only within a factor 1"):
        noisy = kd.predict(make(KINKED, noise=0.1), rng=9, n_students=32)
    assert averages(noisy)[1] > 0.02 * averages(noisy)[0]


def test_sources_apart():
    both = ("teacher_output", "student_initialization")
    parts = network_response(make(sources=both), n_students=64, n_pilots=3, rng=10)
    total = parts.predict(response="tangent")
    shares = total.attrs["source_variances"]
    assert sum(shares.values()) == pytest.approx(float(total.inter_student.mean()))
    start = parts.predict(make(sources=("student_initialization",)), response="tangent")
    assert shares["student_initialization"] == pytest.approx(float(start.inter_student.mean()))
    observed = kd.observe(make(sources=("student_initialization",)), n_students=400, rng=11)
    assert agree(start, observed)
    loud = kd.predict(make(KINKED, noise=0.3, sources=both), rng=12)
    pair = loud.attrs["source_variances"]
    alone = kd.observe(make(KINKED, noise=0.3, sources=("student_initialization",)), n_students=300, rng=13)
    assert pair["teacher_output"] > 5 * averages(alone)[1]
    assert sum(pair.values()) == pytest.approx(float(loud.inter_student.mean()))


def test_a_common_start_perturbed():
    sources, student = ("teacher_output", "student_initialization"), replace(SMOOTH, perturbation_sd=0.2)
    predicted = kd.predict(make(student, noise=0.01, sources=sources), rng=16)
    observed = kd.observe(make(student, noise=0.01, sources=sources), n_students=400, rng=16)
    assert agree(predicted, observed)
    assert not agree(kd.predict(make(noise=0.01, sources=sources), rng=16), observed)


@pytest.mark.parametrize("response", ["finite", "tangent"])
def test_no_noise_and_one_start_is_no_variance(response):
    quiet = kd.predict(make(noise=0.0), response=response, n_students=8, rng=14)
    assert (quiet.inter_student == 0.0).all()
    assert averages(quiet, "intra_student")[0] > 0.0
    off = kd.predict(make(noise=1.0, sources=()), response=response, n_students=8, rng=14)
    assert (off.total == 0.0).all()


@pytest.mark.parametrize("response", ["finite", "tangent"])
def test_a_grid_is_its_cells(response):
    found = network_response(make(teacher={"response_correlation": 0.2}), n_students=48, rng=15)
    levels, counts = [0.0, SMALL, 30 * SMALL], [1, 5]
    grid = found.grid(noise_variance=levels, n_responses=counts, response=response, n_amplitudes=3)
    assert grid.estimate.sizes == {"noise_variance": 3, "n_responses": 2, "point": 7, "output": 1}
    for level in levels:
        for k in counts:
            cell = make(noise=level, n_responses=k, strategy="averaging", teacher={"response_correlation": 0.2})
            single, seen = (
                found.predict(cell, response=response),
                grid.estimate.sel(noise_variance=level, n_responses=k),
            )
            # Between the trained amplitudes the response is interpolated; a smooth one, to much better than this.
            np.testing.assert_allclose(
                seen.inter_student, single.inter_student, rtol=1e-9 if response == "tangent" else 0.02
            )
            np.testing.assert_allclose(seen.intra_student, single.intra_student, rtol=1e-3)
    assert "effective_rank" in grid.attrs
    assert grid.average().estimate["inter_student"].shape == (3, 2, 1, 1)


def test_a_grid_warns_where_first_order_fails():
    found = network_response(make(KINKED), n_students=64, rng=8)
    with pytest.warns(ApproximationWarning, match="first order is not shown to hold"):
        grid = found.grid(noise_variance=[1e-5, 1e-4], response="tangent")
    assert [check["linear_valid"] for check in grid.attrs["checks"]] == [False, False]


def spread(each, *, like=None, pilot_se=0.0):
    """A spread at one point whose students add ``each`` to its average."""
    inter = np.full((1, 1), each.mean() if like is None else like)
    nothing = np.zeros(1)
    return response.Spread(
        inter=inter,
        inter_se=np.zeros((1, 1)),
        noise=inter,
        each=None if like is not None else each,
        pilot_se=pilot_se,
        residual=nothing,
        residual_se=nothing,
        rank=1.0,
    )


@pytest.mark.parametrize("ratio", [1.1, 1 / 1.1], ids=["above", "below"])
def test_a_failure_of_a_tenth_is_missed_one_time_in_twenty(ratio):
    """256 students each, variance off by exactly 10%: at most 5% silent, and those of no error mostly are."""
    generator = np.random.default_rng(20)
    silent = {}
    for truth in (ratio, 1.0):
        each = truth * generator.gamma(8.0, 1 / 8.0, size=(2000, 256))
        checks = (response.check_first_order(spread(row, like=1.0), spread(row), warn=False) for row in each)
        silent[truth] = sum(check["linear_valid"] for check in checks)
    assert binomtest(silent[ratio], 2000, 0.05, alternative="greater").pvalue > 1e-3
    assert binomtest(silent[ratio], 2000, 0.02, alternative="less").pvalue > 1e-3
    # The check knows the ratio to se = 1 / sqrt(8 * 256) = .022: silent if |z| < log(1.1) / se - 1.645.
    expected = 1.0 - 2.0 * norm.sf(np.log(1.1) * np.sqrt(8.0 * 256.0) - 1.645)
    assert abs(silent[1.0] / 2000 - expected) < 4.0 * np.sqrt(expected * (1.0 - expected) / 2000) + 0.01


def test_students_who_know_their_variance_badly_say_so():
    generator = np.random.default_rng(21)
    with pytest.warns(ApproximationWarning, match=r"256 students know .* within a factor 1\.\d+ \(95%\), too badly"):
        response.check_precision(spread(generator.lognormal(sigma=2.0, size=256)), n_students=256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        response.check_precision(spread(generator.gamma(8.0, size=256)), n_students=256)
        response.check_precision(spread(np.zeros(256)), n_students=256)
    with pytest.warns(ApproximationWarning, match="give more `n_students`"):
        network_response(make(KINKED), n_students=8, rng=1).grid(noise_variance=[0.1, 0.2], n_amplitudes=2)


@pytest.mark.filterwarnings("ignore:16 students know:kdstats.errors.ApproximationWarning")
def test_seeds_and_threads():
    asked = make(KINKED, noise=0.01, sources=("teacher_output", "student_initialization"))
    one, same, other = (kd.predict(asked, n_students=16, rng=seed, n_workers=w) for seed, w in ((1, 1), (1, 2), (2, 1)))
    assert np.array_equal(one.inter_student, same.inter_student)
    assert not np.isclose(one.inter_student, other.inter_student).any()


def test_the_response_is_saved_and_summarised(tmp_path):
    answer = kd.predict(make(KINKED, noise=0.01), n_students=96, rng=1)
    answer.to_netcdf(tmp_path / "predicted.nc")
    again = kd.VarianceComponents.from_netcdf(tmp_path / "predicted.nc")
    assert again.attrs["linear_ratio"] == answer.attrs["linear_ratio"]
    assert "approximate" in answer.summary()
    assert kd.compare(answer, kd.observe(make(KINKED, noise=0.01), n_students=300, rng=1)).verdict == "agree"


def test_what_is_not_covered_is_refused(monkeypatch):
    linear = kd.DistillationProblem(teacher=make().teacher, student=kd.LinearStudent(), design=kd.Design())
    with pytest.raises(UnsupportedProblemError, match="got a LinearStudent"):
        kd.predict(linear, engine="linear_response")
    with pytest.raises(UnsupportedProblemError, match=r"every row.*kdstats.observe"):
        kd.predict(make(sources=None, resample_size=20))
    others = {"batch_size": 5, "early_stopping": kd.EarlyStopping(), "head": "gaussian"}
    for (option, value), covered in zip(
        others.items(), ("full-batch", "number of steps", "predict a number"), strict=True
    ):
        with pytest.raises(UnsupportedProblemError, match=covered):
            kd.predict(make(replace(SMOOTH, **{option: value})))
    with pytest.raises(ProblemError, match="`n_pilots` must be 1 where the source 'student_initialization' is off"):
        kd.predict(make(), n_pilots=2)
    with pytest.raises(ProblemError, match="`response` must be one of finite, tangent"):
        kd.predict(make(), response="secant")
    found = network_response(make(), n_students=8, rng=1)
    with pytest.raises(ProblemError, match="`problem` must have the inputs, mean"):
        found.predict(make(mean=MEAN + 1.0))
    with pytest.raises(ProblemError, match="`problem` must have a scalar noise_variance"):
        network_response(make(noise=np.ones(N)), n_students=8).grid(n_responses=[1, 2])
    with pytest.raises(ProblemError, match="`noise_variance` must be at least 0; got -1"):
        found.grid(noise_variance=[-1.0])
    monkeypatch.setattr(response, "MEMORY_LIMIT", 1000)
    with pytest.raises(
        PredictionError, match=r"derivatives of 41 parameters along 40 directions of the labels would take .* GiB"
    ):
        network_response(make(), n_students=8).predict(response="tangent")
