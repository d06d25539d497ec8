"""What a user can get wrong in a teacher, a student or a design: the message names parameter, rule and value."""

import re

import numpy as np
import pandas as pd
import pytest

import kdstats as kd

N = 6
X = np.random.default_rng(0).normal(size=(N, 2))
MEAN = np.arange(N, dtype=float)
ASYMMETRIC = np.eye(N) + np.triu(np.full((N, N), 0.1), 1)
INDEFINITE = np.full((N, N), 2.0) - np.eye(N)


def holed(array, value=np.nan, index=(1, 1)):
    array = np.array(array, dtype=type(value) if isinstance(value, complex) else float)
    array[index[: array.ndim]] = value
    return array


def teacher(X=X, mean=MEAN, **options):
    return lambda: kd.GaussianTeacher(X, mean, **options)


def student(**options):
    return lambda: kd.LinearStudent(**options)


def network(**options):
    return lambda: kd.NetworkStudent(**options)


def steps(**options):
    return lambda: kd.GradientDescent(**{"n_steps": 3, "learning_rate": 0.1} | options)


def design(X_query=None, **options):
    return lambda: kd.Design(X_query, **options)


def weighting(**options):
    return lambda: kd.VarianceWeighting(**options)


def problem(teacher=None, student=None, design=None, **parts):
    defaults = {
        "teacher": kd.GaussianTeacher(X, MEAN, **teacher or {}),
        "student": kd.LinearStudent(**student or {}),
        "design": kd.Design(**design or {}),
    }
    return lambda: kd.DistillationProblem(**defaults | parts)


masked = np.ma.masked_array(MEAN, mask=MEAN == 2)
ARRAYS = [
    (teacher(X=holed(X)), "`X` must be finite everywhere; got nan at index (1, 1)"),
    (teacher(X=holed(X, np.inf)), "`X` must be finite everywhere; got inf at index (1, 1)"),
    (teacher(X=X * np.nan), "`X` must be finite everywhere; got 12 NaN or infinite values, the first at index (0, 0)"),
    (teacher(mean=holed(MEAN)), "`mean` must be finite everywhere; got nan at index 1"),
    (teacher(noise_variance=np.nan), "`noise_variance` must be finite everywhere; got nan"),
    (teacher(noise_variance=np.inf), "`noise_variance` must be finite everywhere; got inf"),
    (teacher(X=X[:, 0]), "`X` must have 2 dimensions; got shape (6,)"),
    (teacher(X=X[None]), "`X` must have 2 dimensions; got shape (1, 6, 2)"),
    (teacher(X=3.0), "`X` must have 2 dimensions; got shape ()"),
    (teacher(mean=MEAN[:4]), "`mean` must have one entry per row of X (6); got 4"),
    (teacher(mean=MEAN[None]), "`mean` must have one entry per row of X (6); got 1"),
    (teacher(mean=1.0), "`mean` must have 1 or 2 dimensions; got shape ()"),
    (teacher(noise_variance=MEAN[:, None]), "`noise_variance` must have shape (6, 6); got shape (6, 1)"),
    (teacher(noise_variance=MEAN[None]), "`noise_variance` must have shape (6, 6); got shape (1, 6)"),
    (teacher(noise_variance=MEAN[:4]), "`noise_variance` must be a scalar, (6,) or (6, 6); got shape (4,)"),
    (teacher(noise_variance=[1.0]), "`noise_variance` must be a scalar, (6,) or (6, 6); got shape (1,)"),
    (teacher(noise_variance=-1.0), "`noise_variance` must be at least 0; got -1"),
    (teacher(noise_variance=MEAN - 0.5), "`noise_variance` must be at least 0; got -0.5 at index 0"),
    (teacher(noise_variance=ASYMMETRIC), "`noise_variance` must be symmetric; got entries that differ by up to 0.1"),
    (teacher(noise_variance=INDEFINITE), "`noise_variance` must be positive semi-definite; got smallest eigenvalue -1"),
    (teacher(noise_variance=-np.eye(N)), "`noise_variance` must have variances of at least 0; got -1 at index 0"),
    (
        teacher(fitting_covariance=ASYMMETRIC),
        "`fitting_covariance` must be symmetric; got entries that differ by up to 0.1",
    ),
    (
        teacher(fitting_covariance=INDEFINITE),
        "`fitting_covariance` must be positive semi-definite; got smallest eigenvalue -1",
    ),
    (teacher(fitting_covariance=np.eye(3)), "`fitting_covariance` must have shape (6, 6); got shape (3, 3)"),
    (teacher(fitting_covariance=0.3), "`fitting_covariance` must have 2 dimensions; got shape ()"),
    (teacher(X=[]), "`X` must have 2 dimensions; got shape (0,)"),
    (teacher(X=np.empty((0, 2))), "`X` must not be empty; got shape (0, 2)"),
    (teacher(X=np.empty((6, 0))), "`X` must not be empty; got shape (6, 0)"),
    (teacher(mean=[]), "`mean` must not be empty; got shape (0,)"),
    (teacher(X=[[1, 2], [3]]), "`X` must be a rectangular array of numbers; got rows of lengths 1, 2"),
    (
        teacher(mean=[1.0, [2.0]]),
        "`mean` must be a rectangular array of numbers; got a mixture of scalars and sequences",
    ),
    (
        teacher(X=np.array([[1, 2], [3]], dtype=object)),
        "`X` must be a rectangular array of numbers; got rows of differing lengths",
    ),
    (teacher(mean=["a"] * N), "`mean` must hold real numbers; got dtype <U1"),
    (teacher(mean="six"), "`mean` must hold real numbers; got dtype <U3"),
    (teacher(mean=[None] * N), "`mean` must hold real numbers; got object array with NoneType"),
    (teacher(mean=[1.0, "b", 2, 3, 4, 5]), "`mean` must hold real numbers; got dtype <U32"),
    (teacher(mean={"a": 1}), "`mean` must hold real numbers; got object array with dict"),
    (teacher(mean=MEAN + 1j), "`mean` must hold real numbers; got dtype complex128"),
    (teacher(mean=np.array(MEAN, dtype="M8[D]")), "`mean` must hold real numbers; got dtype datetime64[D]"),
    (teacher(mean=[10**400] * N), "`mean` must hold numbers of double precision; got an integer beyond 1.8e308"),
    (teacher(mean=masked), "`mean` must have no masked entries; got 1 masked"),
    (teacher(X=pd.DataFrame({"a": ["x"] * N})), "`X` must hold real numbers"),
    (teacher(feature_names=("a",)), "`feature_names` must have 2 labels; got 1"),
    (teacher(feature_names=("a", "a")), "`feature_names` must be unique; got 'a' more than once"),
    (teacher(feature_names=3), "`feature_names` must be a sequence of 2 labels; got 3"),
    (teacher(response_correlation=1.1), "`response_correlation` must be at most 1; got 1.1"),
    (teacher(response_correlation=-1.1), "`response_correlation` must be at least -1; got -1.1"),
    (teacher(response_correlation=np.nan), "`response_correlation` must be finite; got nan"),
    (teacher(response_correlation="0.1"), "`response_correlation` must be a number; got '0.1'"),
    (teacher(response_correlation=[0.1]), "`response_correlation` must be a number; got [0.1]"),
    (teacher(response_correlation=True), "`response_correlation` must be a number; got True"),
    (teacher(input_correlation=-0.21), "`input_correlation` must be within [-1/(n-1), 1] = [-0.2, 1]; got -0.21"),
    (teacher(input_correlation=1.01), "`input_correlation` must be within [-1/(n-1), 1]"),
    (
        teacher(noise_variance=np.eye(N), input_correlation=0.1),
        "`input_correlation` must be 0 when noise_variance is a full covariance; got 0.1",
    ),
]
STUDENTS = [
    (student(penalty=-1.0), "`penalty` must be at least 0; got -1.0"),
    (student(penalty=np.nan), "`penalty` must be finite; got nan"),
    (student(penalty=None), "`penalty` must be a number; got None"),
    (student(penalty=10**400), "`penalty` must be a number of double precision; got an integer beyond 1.8e308"),
    (student(fit_intercept=1), "`fit_intercept` must be True or False; got 1"),
    (student(minimum_norm="yes"), "`minimum_norm` must be True or False; got 'yes'"),
    (student(minimum_norm=True, penalty=1.0), "`minimum_norm` must be False with a penalty or gradient steps"),
    (student(residual_variance="biased"), "`residual_variance` must be one of unbiased, mle; got 'biased'"),
    (student(weights=np.zeros(N)), "`weights` must be greater than 0; got 0 at index 0"),
    (student(weights=-MEAN - 1), "`weights` must be greater than 0; got -6 at index 5"),
    (student(weights=MEAN[:, None] + 1), "`weights` must have 1 dimension; got shape (6, 1)"),
    (student(weights="guessed"), "`weights` must be one of estimated; got 'guessed'"),
    (
        student(weights=np.ones(N), covariance=np.eye(N)),
        "`weights` must not be given together with `covariance`; got both",
    ),
    (student(covariance=ASYMMETRIC), "`covariance` must be symmetric"),
    (student(covariance=INDEFINITE), "`covariance` must be positive semi-definite; got smallest eigenvalue -1"),
    (student(covariance=np.diag([1.0, 0.0])), "`covariance` must be positive definite; got smallest eigenvalue 0"),
    (student(covariance=np.ones((2, 3))), "`covariance` must have shape (2, 2); got shape (2, 3)"),
    (student(covariance="student"), "`covariance` must be one of teacher; got 'student'"),
    (student(training="sgd"), "`training` must be a GradientDescent or None; got sgd"),
    (
        student(training=kd.GradientDescent(n_steps=1, learning_rate=0.1), weights="estimated"),
        "`weights` must be given as numbers",
    ),
    (steps(n_steps=0), "`n_steps` must be at least 1; got 0"),
    (steps(n_steps=2.0), "`n_steps` must be an integer of at least 1; got 2.0"),
    (steps(learning_rate=0.0), "`learning_rate` must be greater than 0; got 0.0"),
    (steps(learning_rate=-0.1), "`learning_rate` must be greater than 0; got -0.1"),
    (steps(initialization_sd=-1), "`initialization_sd` must be at least 0; got -1"),
    (network(hidden=()), "`hidden` must have at least one layer"),
    (network(hidden=16), "`hidden` must be a tuple of layer widths; got 16"),
    (network(hidden=(0,)), "`hidden` must be at least 1; got 0"),
    (network(hidden=(1.5,)), "`hidden` must be an integer of at least 1; got 1.5"),
    (network(activation="swish"), "`activation` must be one of relu, tanh, erf, gelu; got 'swish'"),
    (network(optimizer="lbfgs"), "`optimizer` must be one of adam, adamw, sgd; got 'lbfgs'"),
    (network(head="median"), "`head` must be one of mean, gaussian, softmax; got 'median'"),
    (network(perturbation_sd=-0.1), "`perturbation_sd` must be at least 0; got -0.1"),
    (network(batch_size=0), "`batch_size` must be at least 1; got 0"),
    (network(early_stopping=10), "`early_stopping` must be an EarlyStopping or None; got 10"),
    (lambda: kd.EarlyStopping(patience=0), "`patience` must be at least 1; got 0"),
    (lambda: kd.EarlyStopping(held_out=1.0), "`held_out` must be less than 1; got 1.0"),
    (lambda: kd.EarlyStopping(min_improvement=-1.0), "`min_improvement` must be at least 0; got -1.0"),
    (lambda: kd.EarlyStopping(split_seed=-1), "`split_seed` must be at least 0; got -1"),
    (network(momentum=0.9), "`momentum` must be 0 unless optimizer is 'sgd'; got 0.9"),
    (network(optimizer="sgd", momentum=1), "`momentum` must be less than 1; got 1.0"),
    (network(weight_decay=-0.1), "`weight_decay` must be at least 0; got -0.1"),
    (network(parameterization="mup"), "`parameterization` must be one of standard, ntk; got 'mup'"),
    (network(weight_variance=0.0), "`weight_variance` must be greater than 0; got 0.0"),
    (network(parameterization="ntk", bias_variance=-1.0), "`bias_variance` must be at least 0; got -1.0"),
    (network(learning_rate=0), "`learning_rate` must be greater than 0; got 0"),
    (network(epochs=True), "`epochs` must be an integer of at least 1; got True"),
]
DESIGNS = [
    (design(n_responses=0), "`n_responses` must be at least 1; got 0"),
    (design(n_responses=-2), "`n_responses` must be at least 1; got -2"),
    (design(n_responses=2.5), "`n_responses` must be an integer of at least 1; got 2.5"),
    (design(n_responses=2.0), "`n_responses` must be an integer of at least 1; got 2.0"),
    (design(n_responses=True), "`n_responses` must be an integer of at least 1; got True"),
    (design(n_responses="3"), "`n_responses` must be an integer of at least 1; got '3'"),
    (design(n_responses=None), "`n_responses` must be an integer of at least 1; got None"),
    (
        design(n_responses=2, strategy="single"),
        "`n_responses` must be 1 with strategy 'single' (or choose 'averaging'); got 2",
    ),
    (
        design(strategy="mean"),
        "`strategy` must be one of single, averaging, multi_response, variance_weighting, soft_labels; got 'mean'",
    ),
    (
        design(strategy=3),
        "`strategy` must be one of single, averaging, multi_response, variance_weighting, soft_labels; got 3",
    ),
    (design(X[:, 0]), "`X_query` must have 2 dimensions; got shape (6,)"),
    (design(holed(X)), "`X_query` must be finite everywhere; got nan at index (1, 1)"),
    (design(np.empty((0, 2))), "`X_query` must not be empty; got shape (0, 2)"),
    (design(X, point_labels=range(3)), "`point_labels` must have 6 labels; got 3"),
    (design(X, point_labels="abcdef"), "`point_labels` must be a sequence of 6 labels; got abcdef"),
    (design(X, point_labels=[1, 1, 2, 3, 4, 5]), "`point_labels` must be unique; got 1 more than once"),
    (
        design(X, point_labels=[{}, 1, 2, 3, 4, 5]),
        "`point_labels` must have labels such as numbers, names or tuples of them; got {}",
    ),
    (design(pd.DataFrame(X, index=[0, 1, 2, 3, 4, 4])), "`point_labels` must be unique; got 4 more than once"),
    (design(point_labels=["a", "a"]), "`point_labels` must be unique; got 'a' more than once"),
    (design(sources="noise"), "`sources` must be one of teacher_output"),
    (design(sources=["teacher_output", 3]), "`sources` must be one of teacher_output"),
    (design(sources=3), "`sources` must be names out of teacher_output"),
    (design(resample_size=0), "`resample_size` must be at least 1; got 0"),
    (design(resample_size=4.5), "`resample_size` must be an integer of at least 1; got 4.5"),
    (
        design(resample_size=4, sources=["teacher_output"]),
        "`resample_size` must be left out when the source 'data_resampling' is off; got 4",
    ),
    (design(n_generations=0), "`n_generations` must be at least 1; got 0"),
    (design(n_generations=1.0), "`n_generations` must be an integer of at least 1; got 1.0"),
    (
        design(n_generations=2, n_responses=4, strategy="variance_weighting"),
        "`n_generations` must be 1 with strategy 'variance_weighting'; got 2",
    ),
    (
        design(weighting=kd.VarianceWeighting()),
        "`weighting` must be left out unless strategy is 'variance_weighting'; got single",
    ),
    (
        design(n_responses=3, strategy="variance_weighting", weighting="pilot"),
        "`weighting` must be a VarianceWeighting; got pilot",
    ),
    (
        design(strategy="variance_weighting"),
        "`n_responses` must be at least 2 to train a pilot student on responses of its own; got 1",
    ),
    (
        design(
            strategy="variance_weighting",
            weighting=kd.VarianceWeighting(student_estimate="teacher_mean", weight="estimated"),
        ),
        "`n_responses` must be at least 2 to estimate a response variance for the weight (it is 0 with one response); got 1",  # noqa: E501
    ),
    (weighting(student_estimate="truth"), "`student_estimate` must be one of pilot, teacher_mean; got 'truth'"),
    (weighting(student_estimate=X), "`student_estimate` must have 1 dimension; got shape (6, 2)"),
    (
        weighting(student_variance=1.0),
        "`student_variance` must be left out unless `student_estimate` is an array; got both",
    ),
    (weighting(student_estimate=MEAN, student_variance=-1.0), "`student_variance` must be at least 0; got -1.0"),
    (
        weighting(student_estimate=MEAN, student_variance=MEAN[:3]),
        "`student_variance` must have shape (6,); got shape (3,)",
    ),
    (
        weighting(student_estimate=MEAN, student_variance=INDEFINITE),
        "`student_variance` must be positive semi-definite",
    ),
    (weighting(weight=1.5), "`weight` must be within [0, 1]; got 1.5 to 1.5"),
    (weighting(weight="guess"), "`weight` must be one of known, pooled, per_input, shrunken, estimated; got 'guess'"),
    (
        weighting(weight="estimated"),
        "`weight` must be 'known', 'pooled', 'per_input', 'shrunken' or numbers unless `student_estimate` is "
        "'teacher_mean'; got estimated",
    ),
    (
        weighting(student_estimate="teacher_mean", weight="pooled"),
        "`weight` must be 'known', 'estimated' or numbers with the oracle 'teacher_mean'; got pooled",
    ),
    (weighting(weight="pooled", student_error="guess"), "`student_error` must be one of estimated, known; got 'guess'"),
    (
        weighting(student_error="known"),
        "`student_error` must be left out unless weight is one of pooled, per_input, shrunken; got 'known'",
    ),
    (
        design(n_responses=2, strategy="variance_weighting", weighting=kd.VarianceWeighting(weight="shrunken")),
        "`n_responses` must be at least 3 with weight='shrunken' and a pilot (fewer leave no degrees of freedom",
    ),
    (
        design(strategy="variance_weighting", weighting=kd.VarianceWeighting(student_estimate=MEAN, weight="pooled")),
        "`n_responses` must be at least 2 with weight='pooled' (fewer leave no degrees of freedom",
    ),
    (
        design(n_responses=6, strategy="variance_weighting", weighting=kd.VarianceWeighting(weight="per_input")),
        "`n_responses` must be at least 7 with weight='per_input' and a pilot (the inverse of a variance with up to 4 "
        "degrees of freedom has infinite variance; 'pooled' and 'shrunken' take fewer); got 6",
    ),
    (
        design(
            n_responses=5,
            strategy="variance_weighting",
            weighting=kd.VarianceWeighting(student_estimate=MEAN, weight="per_input"),
        ),
        "`n_responses` must be at least 6 with weight='per_input' (the inverse of a variance with up to 4",
    ),
]
VARIANCE_WEIGHTING = {"n_responses": 4, "strategy": "variance_weighting"}
PROBLEMS = [
    (problem(design={"X_query": X[:, :1]}), "`X_query` must have 2 columns, as X has; got 1 columns"),
    (problem(design={"point_labels": ["a", "b"]}), "`point_labels` must have 6 labels; got 2"),
    (
        problem({"response_correlation": -0.5}, design={"n_responses": 4}),
        "`response_correlation` must be within [-1/(k-1), 1] = [-0.3333, 1] for k=4 responses; got -0.5",
    ),
    (problem(student={"weights": np.ones(4)}), "`weights` must have one entry per row of X (6); got shape (4,)"),
    (problem(student={"covariance": np.eye(4)}), "`covariance` must have shape (6, 6); got shape (4, 4)"),
    (
        problem(design=VARIANCE_WEIGHTING | {"weighting": kd.VarianceWeighting(student_estimate=MEAN[:4])}),
        "`student_estimate` must have one entry per row of X (6); got shape (4,)",
    ),
    (
        problem(design=VARIANCE_WEIGHTING | {"weighting": kd.VarianceWeighting(weight=np.ones(3))}),
        "`weight` must have one entry per row of X (6); got shape (3,)",
    ),
    (
        problem(student={"weights": "estimated"}, design={"n_responses": 5}),
        "`n_responses` must be at least 6 with weights='estimated'",
    ),
    (
        problem(student={"weights": "estimated"}, design={"n_responses": 8, "strategy": "multi_response"}),
        "`strategy` must be 'averaging' with weights='estimated'",
    ),
    (
        problem(student={"covariance": np.eye(N)}, design={"resample_size": 5}),
        "`covariance` must be left out with the source 'data_resampling'",
    ),
    (
        problem(design={"resample_size": 5, "n_generations": 2}),
        "`n_generations` must be 1 with the source 'data_resampling'; got 2",
    ),
    (
        lambda: kd.DistillationProblem(teacher=kd.LinearStudent(), student=kd.LinearStudent(), design=kd.Design()),
        "`teacher` must be a GaussianTeacher or CategoricalTeacher; got a LinearStudent",
    ),
    (
        lambda: kd.DistillationProblem(teacher=kd.GaussianTeacher(X, MEAN), student="ols", design=kd.Design()),
        "`student` must be a LinearStudent, NetworkStudent, BayesianLinearStudent or BayesianStudent for a "
        "GaussianTeacher; got a str",
    ),
    (
        lambda: kd.DistillationProblem(teacher=kd.GaussianTeacher(X, MEAN), student=kd.LinearStudent(), design=None),
        "`design` must be a Design; got a NoneType",
    ),
    (
        lambda: kd.DistillationProblem(
            teacher=kd.GaussianTeacher(X, MEAN), student=kd.NetworkStudent(), design=kd.Design(n_generations=2)
        ),
        "`n_generations` must be 1 for a NetworkStudent; got 2",
    ),
    (
        lambda: kd.DistillationProblem(
            teacher=kd.GaussianTeacher(X, X), student=kd.LinearStudent(), design=kd.Design(**VARIANCE_WEIGHTING)
        ),
        "`mean` must have one output with strategy 'variance_weighting'; got 2",
    ),
]


@pytest.mark.parametrize(("build", "message"), ARRAYS + STUDENTS + DESIGNS + PROBLEMS)
def test_bad_input(build, message):
    with pytest.raises(kd.errors.ProblemError, match=f"^{re.escape(message)}") as caught:
        build()
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None  # no library's own traceback above it


BOUNDS = [
    lambda: teacher(input_correlation=-0.2)(),
    lambda: teacher(noise_variance=0.0, response_correlation=-1.0)(),
    lambda: teacher(noise_variance=np.ones((N, N)))(),
    lambda: problem({"response_correlation": -1 / 3}, design={"n_responses": 4})(),
    lambda: problem({"response_correlation": 1.0}, design={"n_responses": 4})(),
    lambda: teacher(mean=MEAN[:, None])(),
    lambda: teacher(mean=np.ma.masked_array(MEAN))(),
    lambda: teacher(mean=pd.Series(MEAN, dtype="object"))(),
    lambda: teacher(X=X.astype(np.float32), mean=MEAN.astype(int))(),
    lambda: design(X, point_labels=[("a", 1), 2, "c", 4.5, None, ("a", 2)])(),
]


@pytest.mark.parametrize("build", BOUNDS)
def test_the_bounds_themselves_are_allowed(build):
    build()
