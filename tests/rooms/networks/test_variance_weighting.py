"""Network students of mixed labels: against labels made by hand, exact linear theory, and their own prediction."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import kdstats as kd
from kdstats.errors import ProblemError, UnsupportedProblemError
from kdstats.networks.architecture import architecture_of, initial_parameters, predict
from kdstats.networks.training import train_networks
from kdstats.observation.label_mixer import LabelMixer
from kdstats.observation.networks import observe
from kdstats.prediction.networks.mixing import LabelMixing
from kdstats.sampling import Gaussian
from kdstats.sampling.response_variances import response_variances
from kdstats.sampling.training_sets import draw_responses
from kdstats.streams import as_seeds

N, P, K = 30, 3, 5
RNG = np.random.default_rng(0)
X, POINTS = RNG.normal(size=(N, P)), RNG.normal(size=(6, P))
MEAN = X @ [1.0, -2.0, 0.5] + np.sin(2.0 * X[:, 0])
SEEDS = as_seeds(21)
SMOOTH = kd.NetworkStudent(hidden=(6,), activation="tanh", optimizer="sgd", learning_rate=0.1, epochs=60)
ALL, ONE = ("teacher_output", "student_initialization", "student_output"), ("teacher_output", "student_output")
PILOT = pytest.mark.parametrize("sources", [ALL, ONE], ids=["starts_vary", "one_start"])


class Line(torch.nn.Linear):
    """A linear student as a module."""


LINE = kd.NetworkStudent(module=Line, optimizer="sgd", learning_rate=0.2, epochs=80)


def problem(student=SMOOTH, *, noise=0.5, k=K, mean=MEAN, sources=ALL, correlation=0.0, **weighting):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, noise_variance=noise, response_correlation=correlation),
        student=student,
        design=kd.Design(
            POINTS,
            n_responses=k,
            strategy="variance_weighting",
            sources=sources,
            weighting=kd.VarianceWeighting(**weighting),
        ),
    )


def pilots_by_hand(asked, count):
    """Pilots that the seeds of the branch give, trained without the engine."""
    seeds = SEEDS.branch("pilot")
    labels = draw_responses(asked, SEEDS, 0, Gaussian())[:count, : K // 2].mean(axis=1)
    architecture = architecture_of(SMOOTH, n_features=P, n_outputs=1)
    initial = initial_parameters(architecture, seeds.generator("student_initialization", 0), n_students=256)
    trained = train_networks(X, labels, student=SMOOTH, initial=tuple(layer[:count] for layer in initial))
    return predict(architecture, trained.parameters, X)[..., 0]


def test_perturbed_pilots_have_one_start_in_prediction_and_observation():
    """All weight on pilots, next to no noise and next to no perturbation: labels are what the common start learns."""
    asked = problem(replace(SMOOTH, perturbation_sd=1e-6), noise=1e-12, weight=0.0)
    seen = LabelMixer(asked, SEEDS, Gaussian()).draw(0, 3, None).labels[..., 0]
    told, other = (LabelMixing(problem=asked, seeds=s, n_students=3).labels(3)[..., 0] for s in (SEEDS, as_seeds(22)))
    np.testing.assert_allclose(told, seen, rtol=0, atol=1e-3)
    assert np.abs(other - seen).max() > 0.05


@pytest.mark.parametrize("weight", [0.3, np.linspace(0.0, 1.0, N), "pooled"])
def test_labels_against_labels_made_by_hand(weight):
    asked, count = problem(weight=weight), 32
    ours = LabelMixer(asked, SEEDS, Gaussian()).draw(0, count, None).labels[..., 0]
    responses = draw_responses(asked, SEEDS, 0, Gaussian())[:count, ..., 0]
    own, others = pilots_by_hand(asked, count), responses[:, K // 2 :].mean(axis=1)
    alpha = weight
    if isinstance(weight, str):
        halves = responses[:, : K // 2], responses[:, K // 2 :]
        squares = sum(((half - half.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) for half in halves)
        variance = squares.mean(axis=1, keepdims=True) / (K - 2) / (K - K // 2)
        error = np.maximum(((own - others) ** 2 - variance).mean(axis=1, keepdims=True), 0.0)
        alpha = error / (error + variance)
        assert alpha.min() < 0.8
    np.testing.assert_allclose(ours, alpha * others + (1.0 - alpha) * own, rtol=1e-5, atol=1e-5)
    assert not np.allclose(ours, responses.mean(axis=1), atol=0.01)


def test_weights_by_input_take_the_variances_of_each_input():
    asked = problem(k=8, noise=np.geomspace(0.05, 5.0, N), weight="shrunken")
    mixer = LabelMixer(asked, SEEDS, Gaussian())
    ours = mixer.draw(0, 32, None).labels[..., 0]
    responses = draw_responses(asked, SEEDS, 0, Gaussian())[:32, ..., 0]
    own, others = mixer._predict(responses[..., None], 0, None)[..., 0], responses[:, 4:].mean(axis=1)
    halves = responses[:, :4], responses[:, 4:]
    squares = sum(((half - half.mean(axis=1, keepdims=True)) ** 2).sum(axis=1) for half in halves)
    variance = response_variances(squares, 6, estimate="shrunken") / 4.0
    error = np.maximum(((own - others) ** 2 - variance).mean(axis=1, keepdims=True), 0.0)
    alpha = error / (error + variance)
    np.testing.assert_allclose(ours, alpha * others + (1.0 - alpha) * own, rtol=1e-6, atol=1e-6)
    assert np.corrcoef(alpha.mean(axis=0), np.arange(N))[0, 1] < -0.8


@pytest.mark.parametrize("weighting", [{"weight": 0.4}, {"weight": "pooled"}, {"student_estimate": "teacher_mean"}])
def test_a_network_that_is_a_line_against_the_linear_engine(weighting):
    """Least squares by many steps: the same responses, labels and students, pilots included."""
    network, linear = problem(LINE, **weighting), problem(kd.LinearStudent(), **weighting)
    ours = observe(network, n_students=40, rng=1).student_predictions.values
    exact = kd.observe(linear, engine="linear", n_students=40, rng=1).student_predictions.values
    np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=1e-3)
    plain = kd.observe(linear.with_design(strategy="averaging", weighting=None), n_students=40, rng=1)
    assert np.abs(ours - plain.student_predictions.values).max() > 0.02


@pytest.mark.parametrize("correlation", [0.0, pytest.param(0.3, marks=pytest.mark.slow)])
def test_known_weights_against_the_closed_form_of_a_line(correlation):
    """Known weights come from 256 pilots, with a relative error of 9% an input, which costs the square of that."""
    noise = np.geomspace(0.2, 5.0, N)
    seen = observe(problem(LINE, noise=noise, correlation=correlation, weight="known"), n_students=250, rng=2).average()
    error = seen.standard_error["inter_student"].item()

    def far(weight):
        exact = kd.predict(problem(kd.LinearStudent(), noise=noise, correlation=correlation, weight=weight)).average()
        return abs(seen.inter_student.item() - exact.inter_student.item()) > 4.5 * error

    assert not far("known")
    assert far(1.0 if correlation == 0.0 else 0.0)


def test_the_whole_weight_on_responses_is_averaging_of_the_second_part():
    def averaged(k):
        return observe(
            problem(sources=ONE).with_design(strategy="averaging", weighting=None, n_responses=k), n_students=200, rng=4
        )

    weighted = observe(problem(weight=1.0, k=4, sources=ONE), n_students=200, rng=3)
    assert kd.ratio_test(weighted, averaged(2)).pvalue > 1e-4
    assert kd.ratio_test(weighted, averaged(4)).pvalue < 1e-4


@PILOT
def test_students_depend_neither_on_threads_nor_on_how_many_are_asked_for(sources):
    asked = problem(weight="known", sources=sources)
    many, again, few = (observe(asked, n_students=n, rng=4, n_workers=w) for n, w in ((40, 2), (40, 1), (5, 1)))
    assert np.array_equal(many.student_predictions, again.student_predictions)
    assert np.array_equal(many.student_predictions[:5], few.student_predictions)
    still = observe(problem(noise=0.0, weight=0.5, sources=["teacher_output"]), n_students=40, rng=4)
    assert (still.total.values == 0.0).all()


@pytest.mark.parametrize(
    ("weighting", "noise"),
    [({"weight": "known"}, 0.5), ({"weight": "pooled"}, 0.5), ({"student_estimate": "teacher_mean"}, 2.0)],
)
@PILOT
def test_finite_response_against_trained_students(weighting, noise, sources):
    asked = problem(noise=noise, sources=sources, **weighting)
    predicted = kd.predict(asked, rng=1, n_students=200)
    fresh = replace(as_seeds(1), teacher_output=2, **({} if sources == ONE else {"student_initialization": 2}))
    seen = observe(asked, n_students=300, rng=fresh)
    assert kd.compare(predicted, seen).verdict == "agree"
    assert set(predicted.attrs["source_variances"]) == {"labels", "student_initialization"}
    plain = asked.with_design(strategy="averaging", weighting=None, n_responses=1)
    assert kd.compare(kd.predict(plain, rng=1, n_students=200), seen).verdict == "disagree"


@pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning")
@PILOT
@pytest.mark.parametrize("weight", [0.3, "known"])
def test_first_order_of_pilot_and_student_against_trained_students(sources, weight):
    asked = problem(noise=0.05, sources=sources, weight=weight, correlation=0.4)
    predicted = kd.predict(asked, rng=1, n_students=200, response="tangent")
    assert 0.8 < predicted.attrs["linear_ratio"] < 1.25
    fresh = replace(as_seeds(1), teacher_output=2, **({} if sources == ONE else {"student_initialization": 2}))
    seen = observe(asked, n_students=400, rng=fresh)
    assert kd.compare(predicted, seen).verdict == "agree"
    if weight == 0.3 and sources == ONE:
        fixed = problem(noise=0.05, sources=sources, weight=0.3, correlation=0.4, student_estimate=MEAN)
        without_pilots = kd.predict(fixed, rng=1, n_students=200, response="tangent")
        assert kd.compare(without_pilots, seen).verdict != "agree"


def test_the_law_of_mixed_labels_against_drawn_labels():
    asked = problem(noise=0.02, weight=0.4, correlation=0.3, sources=ONE)
    mixing = LabelMixing(problem=asked, seeds=SEEDS, n_students=64)
    law, drawn = mixing.first_order(n_pilots=1), mixing.labels(1500)[..., 0]
    errors = drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - law.mean) < 4.5 * errors + 0.02 * drawn.std(axis=0)).all()
    direction = np.random.default_rng(5).standard_normal((N, 4))
    along = (drawn - drawn.mean(axis=0)) @ direction
    truth = np.einsum("id,ij,jd->d", direction, law.covariance, direction)
    wrong = np.einsum("id,ij,jd->d", direction, np.diag(np.diag(law.covariance)), direction)
    error = (along**2).std(axis=0) / np.sqrt(len(along))
    assert (np.abs((along**2).mean(axis=0) - truth) < 4.5 * error).all()
    assert (np.abs((along**2).mean(axis=0) - wrong) > 4.5 * error).any()


@pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning")
def test_what_takes_more_than_a_user_has_is_a_bound():
    bounds = {
        "noiseless teacher mean": {"student_estimate": "teacher_mean"},
        "true variances": {"weight": "known"},
        "true error": {"weight": "pooled", "student_error": "known"},
    }
    for words, weighting in bounds.items():
        assert words in observe(problem(**weighting), n_students=8, rng=1).attrs["bound"]
        assert words in kd.predict(problem(**weighting), n_students=8, rng=1).attrs["bound"]
    honest = observe(problem(weight="pooled"), n_students=8, rng=1)
    assert "bound" not in honest.attrs
    assert "a pilot trained like each student on 2 of its responses, mixed with the mean of 3" in honest.attrs["labels"]


def test_pilots_see_the_first_responses_at_every_input():
    asked = problem(weight="pooled").with_design(resample_size=20)
    pilot = asked.pilot_problem()
    assert (pilot.design.n_responses, pilot.design.strategy, pilot.resample_size) == (2, "averaging", None)
    assert pilot.design.X_query is None
    assert observe(asked, n_students=8, rng=1).n_students == 8


def test_what_is_not_covered_is_refused():
    with pytest.raises(UnsupportedProblemError, match=r"`weight` must be 'known' or numbers; got 'pooled' .*finite"):
        kd.predict(problem(weight="pooled"), response="tangent", rng=1, n_students=8)
    with pytest.raises(ProblemError, match="`problem` must have a strategy of mean labels for a grid"):
        kd.network_response(problem(weight="pooled"), n_students=8).grid(n_responses=[2, 4])
    with pytest.raises(UnsupportedProblemError, match="covers mean labels"):
        kd.predict(problem(replace(SMOOTH, activation="relu", parameterization="ntk")), engine="wide_network", rng=1)
    with pytest.raises(UnsupportedProblemError, match="'variance_weighting'"):
        kd.attribute_variance(problem(weight="pooled"))
    with pytest.raises(ProblemError, match="`mean` must have one output with strategy 'variance_weighting'"):
        problem(mean=np.stack([MEAN, MEAN], axis=1))
    with pytest.raises(ProblemError, match="`n_responses` must be at least 2 to train a pilot"):
        problem(k=1)
    with pytest.raises(ProblemError, match="`strategy` must be single, averaging or multi_response for a Bayesian"):
        problem(kd.BayesianLinearStudent())
