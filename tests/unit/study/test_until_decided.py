import numpy as np
import pytest

import kdstats as kd
from kdstats.components.batches import join_batches
from kdstats.errors import EstimationError, KdstatsError, StudyError
from kdstats.study.until_decided import batch_seeds

X = np.random.default_rng(0).normal(size=(30, 3))


@pytest.fixture(scope="module")
def problem():
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=0.5),
        student=kd.LinearStudent(),
        design=kd.Design(X[:6] + 0.1, n_responses=2, strategy="averaging", point_labels=list("abcdef")),
    )


@pytest.fixture(scope="module")
def network():
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X[:, 0], noise_variance=0.5),
        student=kd.NetworkStudent(hidden=(4,), epochs=5),
        design=kd.Design(X[:3], sources=["teacher_output"]),
    )


def test_a_true_prediction_is_decided_before_the_budget(problem):
    done = kd.observe_until_decided(problem, batch=10, rng=1)
    assert done.verdict == "agree"
    assert done.test.stopped_at <= done.n_trained < 1000
    assert done.observed.n_students == done.n_trained
    assert len(np.unique(done.observed.student_predictions.values[:, 0, 0])) == done.n_trained
    assert "AGREE" in str(done)
    assert done.to_dict()["n_trained"] == done.n_trained


def test_a_wrong_prediction_is_refuted_and_a_small_budget_is_spent(problem):
    wrong = kd.predict(problem.with_teacher(noise_variance=1.0), covariance=True)
    assert kd.observe_until_decided(problem, wrong, rng=1).verdict == "disagree"
    spent = kd.observe_until_decided(problem, max_students=5, batch=4, rng=1)
    assert (spent.verdict, spent.n_trained) == ("undecided", 5)
    assert "budget of 5 students is spent" in spent.summary()


def test_an_interrupted_run_goes_on_and_ends_with_the_same_numbers(problem, tmp_path):
    options = {"rng": 3, "batch": 8, "margin": 1.2, "max_students": 60}
    whole = kd.observe_until_decided(problem, **options)

    def interrupt(text, done, total):
        if done >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kd.observe_until_decided(problem, out=tmp_path, say=interrupt, **options)
    resumed = kd.observe_until_decided(problem, out=tmp_path, **options)
    assert len(resumed.reused) == 3
    np.testing.assert_array_equal(resumed.observed.student_predictions, whole.observed.student_predictions)
    assert resumed.test.evalue == whole.test.evalue
    with pytest.raises(StudyError, match="differs in seed"):
        kd.observe_until_decided(problem, out=tmp_path, **(options | {"rng": 4}))


def test_what_students_have_in_common_is_the_same_in_every_batch(network):
    """Initialization off: with hardly any teacher noise every student of every batch is nearly the same network."""
    predicted = kd.VarianceComponents.from_arrays(
        inter_student=np.full((3, 1), 1e-6),
        intra_student=np.zeros((3, 1)),
        point_labels=network.point_labels,
        attrs={"engine": "theory", "exactness": "approximate"},
    )
    quiet = network.with_teacher(noise_variance=1e-6)
    done = kd.observe_until_decided(quiet, predicted, batch=4, max_students=12, rng=2, confidence_level=1 - 1e-12)
    values = done.observed.student_predictions.values[:, :, 0]
    assert done.n_trained == 12
    others = kd.observe(quiet.with_design(sources=["teacher_output", "student_initialization"]), n_students=12, rng=2)
    assert np.ptp(values, axis=0).max() < 0.02 * np.ptp(others.student_predictions.values, axis=0).min()
    drawn = network.with_design(sources=["teacher_output", "student_initialization"])
    loose = [batch_seeds(drawn, kd.Seeds(**dict.fromkeys(SEEDS, 2)), number) for number in (0, 1)]
    assert loose[0].student_initialization != loose[1].student_initialization
    held = [batch_seeds(network, kd.Seeds(**dict.fromkeys(SEEDS, 2)), number) for number in (0, 1)]
    assert held[0].student_initialization == held[1].student_initialization == 2
    assert held[0].teacher_output != held[1].teacher_output


SEEDS = ("teacher_output", "student_initialization", "data_order", "data_resampling", "student_output")


def test_joined_batches_are_one_observation(problem):
    full = problem.with_design(sources=["teacher_output", "student_output"])
    batches = [kd.observe(full, n_students=size, rng=seed) for seed, size in enumerate((20, 35, 45))]
    joined = join_batches(batches)
    values = np.concatenate([batch.student_predictions.values for batch in batches])
    np.testing.assert_allclose(joined.inter_student, values.var(axis=0, ddof=1), rtol=1e-12)
    intra = sum(len(b.student_predictions) * b.intra_student.values for b in batches) / 100
    np.testing.assert_allclose(joined.intra_student, intra, rtol=1e-12)
    one = kd.observe(full, n_students=100, rng=9)
    for name in ("inter_student", "intra_student", "total"):
        ratio = joined.standard_error[name].values / one.standard_error[name].values
        assert (np.abs(np.log(ratio)) < 4 * np.sqrt(2 * 2.5 / 100)).all()
        average = [item.attrs["average_standard_error"][name] for item in (joined, one)]
        assert abs(np.log(average[0] / average[1])) < 4 * np.sqrt(2 * 2.5 / 100)
    assert joined.attrs["n_students"] == 100
    assert joined.estimate["point"].values.tolist() == list("abcdef")


def test_pooled_standard_error_of_the_intra_component_is_exact():
    """Three batches of students whose own variances are given, against one run of all of them."""
    rng = np.random.default_rng(4)
    values, own = rng.normal(size=(60, 1, 2, 1)), rng.chisquare(3, size=(60, 2, 1))
    whole = kd.estimate_components(values, variances=own)
    parts = [kd.estimate_components(values[i : i + 20], variances=own[i : i + 20]) for i in (0, 20, 40)]
    joined = join_batches(parts)
    for name in ("inter_student", "intra_student"):
        np.testing.assert_allclose(joined.standard_error[name], whole.standard_error[name], rtol=1e-10)
        assert joined.attrs["average_standard_error"][name] == pytest.approx(
            whole.attrs["average_standard_error"][name]
        )
    np.testing.assert_allclose(joined.standard_error["total"], whole.standard_error["total"], rtol=0.15)


def test_refusals(problem, network):
    with pytest.raises(EstimationError, match="not be empty"):
        join_batches([])
    with pytest.raises(KdstatsError, match="`batch` must be"):
        kd.observe_until_decided(problem, batch=1)
    with pytest.raises(KdstatsError, match="`n_students` must be left out"):
        kd.observe_until_decided(problem, n_students=10)
    with pytest.raises(KdstatsError, match="as `predicted`"):
        kd.observe_until_decided(network)
