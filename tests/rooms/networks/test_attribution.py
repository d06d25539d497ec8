"""Attribution of trained students: shared draws to the bit, exact laws of linear students, sources that are off."""

import numpy as np
import pytest

import kdstats as kd
from kdstats import plots
from kdstats.errors import ProblemError, UnsupportedProblemError

FEW_LEVELS = pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")
RNG = np.random.default_rng(0)
X, X_QUERY = RNG.normal(size=(24, 3)), RNG.normal(size=(5, 3))
MEAN = X @ [1.0, -2.0, 0.5]
STEPS = kd.GradientDescent(n_steps=15, learning_rate=0.03, initialization_sd=0.5)
TWO = ("teacher_output", "student_initialization")


def problem(student, *, noise=1.0, **design):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, MEAN, noise_variance=noise), student=student, design=kd.Design(X_QUERY, **design)
    )


def classes(**design):
    odds = np.exp(np.stack([MEAN, -MEAN], axis=1))
    return kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(odds / odds.sum(axis=1, keepdims=True), X),
        student=kd.NetworkStudent(hidden=(4,), head="softmax", epochs=5, batch_size=10),
        design=kd.Design(X_QUERY, **design),
    )


@FEW_LEVELS
@pytest.mark.parametrize(
    "asked",
    [
        problem(kd.NetworkStudent(hidden=(4,), epochs=10)),
        problem(kd.NetworkStudent(hidden=(4,), epochs=4, batch_size=7), resample_size=20),
        problem(
            kd.NetworkStudent(hidden=(4,), epochs=4, batch_size=7, perturbation_sd=0.2),
            n_responses=3,
            strategy="multi_response",
        ),
        problem(kd.NetworkStudent(hidden=(4,), epochs=4, head="gaussian")),
        problem(kd.LinearStudent(training=STEPS), resample_size=20),
        problem(
            kd.LinearStudent(training=STEPS, covariance=np.eye(24) + 0.1), n_responses=2, strategy="multi_response"
        ),
        classes(),
        classes(n_responses=3, strategy="multi_response"),
    ],
)
def test_students_on_the_diagonal_are_those_of_observe(asked):
    answer = kd.attribute_variance(asked, n_levels=3, rng=4)
    seen = kd.observe(asked, engine="networks", n_students=3, rng=4).student_predictions.values
    crossed = answer.predictions.values
    k = crossed.ndim - 2
    diagonal = np.stack([crossed[(i,) * k] for i in range(3)])
    np.testing.assert_allclose(diagonal, seen, rtol=1e-6, atol=1e-7)
    assert not np.allclose(crossed[(0,) * k], crossed[(0,) * (k - 1) + (1,)], rtol=1e-6)


def test_initialization_and_noise_of_linear_students_add_exactly():
    asked = problem(kd.LinearStudent(training=STEPS), sources=TWO)
    answer = kd.attribute_variance(asked, n_levels=40, rng=5).average().components
    interaction = answer.estimate.sel(component="teacher_output:student_initialization").item()
    total = answer.estimate.sel(component="total").item()
    assert abs(interaction) < 1e-24 * total
    for source in TWO:
        alone = float(kd.predict(asked.with_design(sources=[source])).inter_student.mean())
        low, high = answer.interval(0.9999)["variance"].sel(component=source).values.ravel()
        assert low < alone < high
    wrong = float(kd.predict(asked.with_design(sources=["student_initialization"])).inter_student.mean())
    low, high = answer.interval(0.9999)["variance"].sel(component="teacher_output").values.ravel()
    assert not low < wrong < high


def test_a_known_interaction():
    r"""A resampled mean: noise :math:`\sigma^2/n`, rows :math:`S^2/m`, interaction :math:`\sigma^2(1-1/n)/m`."""
    n, m, noise = 20, 10, 2.0
    mean = np.linspace(-1.0, 1.0, n)
    asked = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(np.ones((n, 1)), mean, noise_variance=noise),
        student=kd.LinearStudent(fit_intercept=False),
        design=kd.Design(np.ones((1, 1)), resample_size=m, sources=["teacher_output", "data_resampling"]),
    )
    answer = kd.attribute_variance(asked, n_levels=100, rng=6).components
    truth = {
        "teacher_output": noise / n,
        "data_resampling": mean.var() / m,
        "teacher_output:data_resampling": noise * (1 - 1 / n) / m,
    }
    bounds = answer.interval(0.9999)["variance"]
    for name, value in truth.items():
        low, high = bounds.sel(component=name).values.ravel()
        assert low < value < high
    low, _ = bounds.sel(component="teacher_output:data_resampling").values.ravel()
    assert low > 0.7 * truth["teacher_output:data_resampling"]


def test_interaction_of_networks_falls_with_their_width():
    shares = {}
    for width in (8, 512):
        student = kd.NetworkStudent(
            hidden=(width,), optimizer="sgd", parameterization="ntk", bias_variance=0.1, learning_rate=0.1, epochs=40
        )
        answer = kd.attribute_variance(problem(student, sources=TWO), n_levels=12, rng=7).average().components
        bounds = answer.interval(0.99)["share"].sel(component="teacher_output:student_initialization")
        shares[width] = bounds.values.ravel()
    assert shares[512][1] < shares[8][0]
    assert shares[512][1] < 0.05


def test_sources_that_are_off_add_exactly_nothing():
    asked = problem(kd.NetworkStudent(hidden=(4,), epochs=10), sources=["teacher_output"])
    answer = kd.attribute_variance(asked, n_levels=8, rng=8)
    assert set(answer.inactive) == {"student_initialization", "data_order", "data_resampling", "student_output"}
    bounds = answer.interval()
    for source in answer.inactive:
        assert (answer.first_order.sel(source=source) == 0.0).all()
        assert (answer.total_order.sel(source=source) == 0.0).all()
        assert (bounds.sel(source=source).to_array() == 0.0).all()
    assert (answer.first_order.sel(source="teacher_output") == 1.0).all()


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (problem(kd.NetworkStudent(hidden=(4,)), noise=0.0, sources=["teacher_output"]), "the teacher has no noise"),
        (problem(kd.NetworkStudent(hidden=(4,)), sources=["data_order"]), "every step sees all rows"),
        (problem(kd.LinearStudent(), sources=["student_initialization"]), "a minimiser does not depend on"),
        (classes(strategy="soft_labels", sources=["teacher_output"]), "soft labels are not sampled"),
        (problem(kd.LinearStudent(training=STEPS), n_generations=2), "chains of distillations"),
        (problem(kd.LinearStudent(), n_responses=4, strategy="variance_weighting"), "'variance_weighting'"),
        (problem(kd.BayesianLinearStudent()), "BayesianLinearStudent"),
    ],
)
def test_what_is_not_covered_is_refused_with_the_reason(asked, reason):
    with pytest.raises(UnsupportedProblemError, match=reason):
        kd.attribute_variance(asked)


@pytest.mark.parametrize(
    ("n_levels", "message"),
    [
        (1, "`n_levels` must be at least 2"),
        (257, "at most 256"),
        ({"data_order": 4}, r"name sources that are crossed \(teacher_output, student_initialization\)"),
        ({"teacher_output": 1}, r"n_levels\['teacher_output'\]"),
    ],
)
def test_bad_numbers_of_levels(n_levels, message):
    with pytest.raises(ProblemError, match=message):
        kd.attribute_variance(problem(kd.NetworkStudent(hidden=(4,))), n_levels=n_levels)


@FEW_LEVELS
def test_levels_by_source_points_and_pictures():
    asked = problem(kd.NetworkStudent(hidden=(4,), epochs=10)).with_design(point_labels=list("abcde"))
    answer = kd.attribute_variance(asked, n_levels={"teacher_output": 6}, rng=9)
    assert answer.predictions.sizes["teacher_output"] == 6
    assert answer.predictions.sizes["student_initialization"] == 31
    assert list(answer.predictions["point"].values) == list("abcde")
    table = answer.to_dataframe()
    assert len(table) == 5 * 5
    assert (table.total_order >= table.first_order - 1.0).all()
    text = answer.summary()
    assert "data_order adds exactly 0: every step sees all rows." in text
    assert "student_output" in text
    assert plots.variance_by_source(answer.components).get_axes()
    drawn = kd.attribute_variance(asked, n_levels=6, rng=9, n_replicates=4)
    assert drawn.components.terms[-1] == "student_output"
