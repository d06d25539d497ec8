"""The simulation as a program: its generator, its bits, its stopping rule, its refusals."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
from scipy import stats

import kdstats as kd
from kdstats.errors import (
    ApproximationWarning,
    PrecisionWarning,
    PredictionError,
    ProblemError,
    UnsupportedProblemError,
)
from kdstats.prediction.monte_carlo import predict
from kdstats.prediction.monte_carlo.kernels import draw_noise, philox_words, row_squares, solve_systems
from kdstats.prediction.monte_carlo.quantiles import N_CELLS, quantile_table
from kdstats.sampling import BLOCK, as_noise_law

LAWS = ("gaussian", "laplace", "student_t:5", "student_t:2.5", "gamma:2", "gamma:0.3")

_rng = np.random.default_rng(3)
X, QUERY = _rng.standard_normal((20, 2)), _rng.standard_normal((4, 2))
MEAN = X @ [1.0, -1.0] + 0.1 * _rng.standard_normal(20)


def make(student=None, **design):
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, MEAN, noise_variance=0.5),
        student=student or kd.LinearStudent(),
        design=kd.Design(QUERY, **design),
    )


def same_bits(one, other):
    for name in ("inter_student", "intra_student", "total"):
        np.testing.assert_array_equal(one.estimate[name].values, other.estimate[name].values)
        np.testing.assert_array_equal(one.standard_error[name].values, other.standard_error[name].values)
    for key in ("average_standard_error", "effective_rank", "control_variate", "n_students"):
        assert one.attrs[key] == other.attrs[key]


def words(key, counter, groups=1):
    out = np.zeros((4, groups), np.uint32)
    key = np.array([int(part, 16) for part in key.split()], np.uint64)
    first, *rest = (int(part, 16) for part in counter.split())
    philox_words(out, key, np.array(rest, np.uint64), np.uint64(first))
    return out


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ("0 0", "0 0 0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff", "ffffffff ffffffff ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("a4093822 299f31d0", "243f6a88 85a308d3 13198a2e 03707344", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_generator_against_the_published_known_answers(key, counter, expected):
    """Vectors for philox4x32-10 of the Random123 distribution."""
    assert [f"{word:08x}" for word in words(key, counter)[:, 0]] == expected.split()


def test_counters_of_a_group_follow_one_another():
    many = words("1 2", "0 5 6 7", groups=9)
    for group in range(9):
        np.testing.assert_array_equal(many[:, group], words("1 2", f"{group:x} 5 6 7")[:, 0])


def draws(law, *, n_students=500, width=2000, k=1, role=0, key=(11, 12), first=0):
    mean, within = np.empty((n_students, width)), np.empty((n_students, width))
    ones = np.ones(width)
    draw_noise(quantile_table(as_noise_law(law)), np.array(key, np.uint64), role, first, k, ones, ones, mean, within)
    return mean, within


@pytest.mark.parametrize("law", LAWS)
def test_tabulated_quantiles_against_scipy(law):
    name, _, number = law.partition(":")
    parameter = float(number or 1)
    frozen = {
        "gaussian": lambda: stats.norm(),
        "laplace": lambda: stats.laplace(scale=np.sqrt(0.5)),
        "student_t": lambda: stats.t(parameter, scale=np.sqrt((parameter - 2) / parameter)),
        "gamma": lambda: stats.gamma(parameter, loc=-np.sqrt(parameter), scale=1 / np.sqrt(parameter)),
    }[name]()
    u = np.exp(np.random.default_rng(1).uniform(np.log(2.0**-64), np.log(0.5), 4000))
    v = u * 2.0**33
    cell = (v.view(np.int64) >> 46) - ((1023 - 32) << 6)
    for tail, exact in ((0, frozen.ppf(u)), (1, frozen.isf(u))):
        rows = quantile_table(as_noise_law(law))[cell + tail * N_CELLS]
        value = ((rows[:, 3] * v + rows[:, 2]) * v + rows[:, 1]) * v + rows[:, 0]
        np.testing.assert_allclose(value, exact, rtol=3e-7, atol=3e-8)


@pytest.mark.parametrize("law", LAWS)
def test_draws_follow_their_law(law):
    """Kolmogorov-Smirnov, and sample moments of probabilities to the fourth order, at a million draws."""
    sample = draws(law)[0].ravel()
    name, _, number = law.partition(":")
    parameter = float(number or 1)
    probability = {
        "gaussian": lambda z: stats.norm.cdf(z),
        "laplace": lambda z: stats.laplace.cdf(z, scale=np.sqrt(0.5)),
        "student_t": lambda z: stats.t.cdf(z / np.sqrt((parameter - 2) / parameter), parameter),
        "gamma": lambda z: stats.gamma.cdf(z * np.sqrt(parameter) + parameter, parameter),
    }[name](sample)
    assert stats.kstest(probability, "uniform").pvalue > 1e-4
    assert stats.kstest(probability, lambda u: u**1.01).pvalue < 1e-4  # a law slightly off is caught
    for order in range(1, 5):
        power = (2 * probability - 1) ** order
        truth = 0.0 if order % 2 else 1 / (order + 1)
        assert abs(power.mean() - truth) < 4.5 * power.std() / np.sqrt(power.size)


@pytest.mark.parametrize(("law", "third", "fourth"), [("gaussian", 0, 3), ("laplace", 0, 6), ("gamma:2", 2**0.5, 6)])
def test_moments_to_the_fourth_order(law, third, fourth):
    sample = draws(law)[0].ravel()
    for order, truth in ((1, 0.0), (2, 1.0), (3, third), (4, fourth)):
        power = sample**order
        assert abs(power.mean() - truth) < 4.5 * power.std() / np.sqrt(power.size)


@pytest.mark.parametrize("law", ["gaussian", "student_t:5"])
def test_tails_are_reached_with_their_probability(law):
    sample = draws(law, n_students=2000, width=2000)[0].ravel()
    threshold = float(as_noise_law(law).quantile(np.array([2e-6]))[0])
    for count in ((sample < threshold).sum(), (sample > -threshold).sum()):
        assert stats.binomtest(int(count), sample.size, 2e-6).pvalue > 1e-4


def test_rare_words_are_extended():
    """Below 2**-17 in probability draws come from 32 more bits: they are not on the lattice of one word."""
    sample = draws("gaussian", n_students=2000, width=2000)[0].ravel()
    u = stats.norm.cdf(sample[sample < stats.norm.ppf(2.0**-17.5)])
    assert u.size > 10
    position = u * 2.0**32
    assert np.abs(position - np.floor(position) - 0.5).max() > 1e-3
    assert u.min() < 2.0**-18


def test_streams_are_uncorrelated():
    base = draws("gaussian", n_students=200)[0]
    others = {
        "role": draws("gaussian", n_students=200, role=1)[0],
        "key": draws("gaussian", n_students=200, key=(11, 13))[0],
        "student": np.roll(base, 1, axis=0),
        "position": np.roll(base, 1, axis=1),
        "far position": np.roll(base, 500, axis=1),
    }
    bound = 4.5 / np.sqrt(base.size)
    for name, other in others.items():
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < bound, name
        assert abs(np.corrcoef(base.ravel() ** 2, other.ravel() ** 2)[0, 1]) < bound, name
    assert abs(np.corrcoef(base.ravel(), (base + 0.02 * others["role"]).ravel() * -1)[0, 1]) > bound


def test_a_student_does_not_depend_on_its_company():
    whole = draws("laplace", n_students=50, width=37)[0]
    np.testing.assert_array_equal(whole[20:25], draws("laplace", n_students=5, width=37, first=20)[0])


def test_mean_and_spread_of_several_responses():
    mean, within = draws("gaussian", n_students=400, width=501, k=5)
    n = mean.size
    assert abs(mean.var() - 0.2) < 4.5 * 0.2 * np.sqrt(2 / n)
    assert stats.kstest(within.ravel(), stats.chi2(4).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(mean.ravel(), within.ravel())[0, 1]) < 4.5 / np.sqrt(n)


def test_row_squares_and_systems():
    rows = _rng.standard_normal((7, 11))
    np.testing.assert_allclose(row_squares(rows), (rows**2).sum(axis=1), rtol=1e-14)
    factors = _rng.standard_normal((6, 9, 4))
    systems, sides = factors.swapaxes(1, 2) @ factors, _rng.standard_normal((6, 2, 4))
    systems[3] = np.outer(np.arange(1.0, 5), np.arange(1.0, 5))
    solved = sides.copy()
    singular = solve_systems(systems.copy(), solved, 1e-10)
    assert singular.tolist() == [False, False, False, True, False, False]
    for s in np.flatnonzero(~singular):
        np.testing.assert_allclose(solved[s], np.linalg.solve(systems[s], sides[s].T).T, rtol=1e-9)
    np.testing.assert_array_equal(solved[3], sides[3])


def test_resampled_students_with_two_outputs_are_those_of_each_output():
    """Coefficients of every student and output against weighted least squares by lstsq."""
    from kdstats.prediction.monte_carlo.engine import _prepare
    from kdstats.streams import as_seeds

    teacher = kd.GaussianTeacher(X, np.column_stack([MEAN, MEAN**2]), noise_variance=0.5)
    student = kd.LinearStudent(weights=np.linspace(0.5, 2.0, 20), residual_variance="mle")
    problem = kd.DistillationProblem(teacher=teacher, student=student, design=kd.Design(QUERY, resample_size=30))
    simulation = _prepare(problem, as_seeds(1), as_noise_law("laplace"), 100, None)
    labels = simulation.source.draw(0, 25)
    students = simulation.trainer.fit(labels)
    sd = 1 / np.sqrt(student.weights)
    inputs = np.column_stack([np.ones(20), X])
    for s in range(25):
        rows = np.repeat(np.arange(20), labels.counts[s])
        for output in range(2):
            values = teacher.mean[:, output] + sd * labels.noise[s, output]
            root = 1 / sd[rows]
            expected, squares, *_ = np.linalg.lstsq(root[:, None] * inputs[rows], root * values[rows])
            np.testing.assert_allclose(students.coefficients[s, output], expected, rtol=1e-8, atol=1e-10)
            assert students.variances[s, output] == pytest.approx(squares[0] / 30 * np.mean(sd**2), rel=1e-8)


STEPS = kd.GradientDescent(n_steps=5, learning_rate=0.05, initialization_sd=1.0)
BITS = {
    "single": make(),
    "multi response": make(n_responses=3, strategy="multi_response"),
    "steps": make(kd.LinearStudent(training=STEPS), n_generations=2),
    "pilot": make(n_responses=4, strategy="variance_weighting"),
    "resampled": make(resample_size=60),
    "estimated": make(kd.LinearStudent(weights="estimated"), n_responses=8),
}


@pytest.mark.parametrize("name", BITS)
def test_bits_do_not_depend_on_workers_or_chunks(name):
    n_students = 9 * BLOCK + 77
    reference = predict(BITS[name], n_students=n_students, rng=5, noise_law="laplace")
    for options in ({"n_workers": 2}, {"chunk_size": 1}, {"n_workers": 2, "chunk_size": 700}, {"chunk_size": 10**6}):
        same_bits(reference, predict(BITS[name], n_students=n_students, rng=5, noise_law="laplace", **options))
    assert (
        reference.inter_student.values[0, 0]
        != predict(BITS[name], n_students=n_students, rng=6).inter_student.values[0, 0]
    )


def test_bits_of_a_large_problem_with_many_threads_in_blas():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((404, 13))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(inputs, inputs[:, 0], input_correlation=0.2),
        student=kd.LinearStudent(),
        design=kd.Design(rng.standard_normal((102, 13))),
    )
    one = predict(problem, n_students=3000, rng=1)
    same_bits(one, predict(problem, n_students=3000, rng=1, n_workers=2, chunk_size=300))


@pytest.mark.parametrize("name", ["single", "resampled"])
def test_first_students_of_a_larger_run_are_the_same(name):
    from kdstats.prediction.monte_carlo.engine import _prepare
    from kdstats.streams import as_seeds

    for count in (1, 100):
        simulation = _prepare(BITS[name], as_seeds(1), as_noise_law("laplace"), 600, None)
        few, whole = simulation.students(1, count), simulation.students(1, BLOCK)
        np.testing.assert_allclose(few.coefficients, whole.coefficients[:count], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(few.variances, whole.variances[:count], rtol=1e-12)


def test_a_run_that_is_not_whole_blocks_counts_its_students():
    answer = predict(make(), n_students=2 * BLOCK + 3, rng=1)
    assert answer.n_students == 2 * BLOCK + 3
    assert predict(make(), n_students=2, rng=1).n_students == 2
    three = predict(make(), n_students=3, rng=1)
    np.testing.assert_allclose(three.standard_error["inter_student"], three.inter_student * np.sqrt(2 / 4))


def test_stops_at_the_relative_error_asked_for():
    options = {"n_students": 300, "rng": 3}
    answer = predict(make(), relative_error=0.03, **options)
    average = float(answer.inter_student.mean())
    assert answer.attrs["average_standard_error"]["inter_student"] / average <= 0.03
    assert answer.attrs["relative_error"] <= 0.03
    n = answer.n_students
    assert n in {300 * 2**power for power in range(1, 12)}
    half = predict(make(), n_students=n // 2, rng=3)
    assert half.attrs["average_standard_error"]["inter_student"] / float(half.inter_student.mean()) > 0.03
    same_bits(answer, predict(make(), n_students=n, rng=3))
    same_bits(answer, predict(make(), relative_error=0.03, n_workers=2, chunk_size=256, **options))


def test_says_when_the_relative_error_is_out_of_reach():
    with pytest.warns(PrecisionWarning, match=r"`relative_error` 0.001 is not reached with 1000 students"):
        answer = predict(make(), relative_error=0.001, n_students=300, max_students=1000, rng=3)
    assert answer.n_students == 1000


def test_stops_at_once_where_nothing_varies():
    answer = predict(make(sources=["student_output"]), relative_error=0.01, rng=1, n_students=500)
    assert answer.n_students == 500
    assert answer.inter_student.max() == 0.0
    assert answer.total.min() > 0.0


def test_result_says_where_it_comes_from():
    answer = predict(make(), n_students=500, rng=4, noise_law="gamma:2")
    assert answer.exactness == "simulated"
    assert answer.engine == "monte_carlo"
    assert set(answer.attrs["seed"].values()) == {4}
    assert answer.attrs["noise_law"] == "gamma:2"
    assert answer.attrs["path"] == "fused"
    assert answer.attrs["problem"] == make().fingerprint()
    assert answer.attrs["wall_time"] > 0
    assert answer.attrs["control_variate"] == {"used": False, "variance_reduction": None}
    assert {"numpy", "numba"} <= set(answer.attrs["versions"])


def test_average_uses_the_recorded_error():
    answer = predict(make(), n_students=2000, rng=4)
    average = answer.average()
    assert float(average.standard_error["total"].squeeze()) == answer.attrs["average_standard_error"]["total"]


def test_sources_have_seeds_of_their_own():
    problem = BITS["steps"]
    seeds = kd.Seeds(teacher_output=1, student_initialization=2, data_order=3, data_resampling=4, student_output=5)
    base = predict(problem, n_students=300, rng=seeds)
    same_bits(base, predict(problem, n_students=300, rng=seeds.with_seed(data_resampling=9)))
    for source in ("teacher_output", "student_initialization"):
        other = predict(problem, n_students=300, rng=seeds.with_seed(**{source: 9}))
        assert (base.inter_student.values != other.inter_student.values).all()


def test_rank_deficient_resamples_are_solved_counted_and_reported():
    problem = make(kd.LinearStudent(residual_variance="mle"), resample_size=3)
    with pytest.warns(ApproximationWarning, match="do not determine their coefficients"):
        answer = predict(problem, n_students=400, rng=2)
    repeated = answer.attrs["n_rank_deficient"]
    assert 0 < repeated < 400
    quiet = predict(problem.with_student(minimum_norm=True), n_students=400, rng=2)
    same_bits(answer, quiet)
    rng = np.random.default_rng(0)
    chance = np.mean([np.unique(rng.integers(20, size=3)).size < 3 for _ in range(20_000)])
    assert stats.binomtest(repeated, 400, chance).pvalue > 1e-4


def test_smallest_slopes_of_a_rank_deficient_resample():
    from kdstats.prediction.monte_carlo.engine import _prepare
    from kdstats.streams import as_seeds

    problem = make(kd.LinearStudent(minimum_norm=True, residual_variance="mle"), resample_size=2)
    simulation = _prepare(problem, as_seeds(1), as_noise_law("gaussian"), 100, None)
    labels = simulation.source.draw(0, 40)
    students = simulation.trainer.fit(labels)
    values = labels.noise[:, 0] + simulation.source.raw_centre[:, 0]
    for s in range(40):
        rows = np.repeat(np.arange(20), labels.counts[s])
        centred = X[rows] - X[rows].mean(axis=0)
        slopes = np.linalg.pinv(centred) @ (values[s, rows] - values[s, rows].mean())
        intercept = values[s, rows].mean() - X[rows].mean(axis=0) @ slopes
        np.testing.assert_allclose(students.coefficients[s, 0], [intercept, *slopes], atol=1e-8)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_students": 1}, ProblemError, "`n_students` must be at least 2 to estimate inter-student variance; got 1"),
        ({"n_students": 10.0}, ProblemError, "`n_students` must be an integer"),
        ({"n_students": True}, ProblemError, "`n_students` must be an integer"),
        ({"n_students": 2**33}, ProblemError, "`n_students` must be at most"),
        ({"n_workers": 0}, ProblemError, "`n_workers` must be at least 1; got 0"),
        ({"chunk_size": 0}, ProblemError, "`chunk_size` must be at least 1"),
        ({"max_students": 1.5}, ProblemError, "`max_students` must be an integer"),
        ({"relative_error": 0.0}, ProblemError, "`relative_error` must be greater than 0"),
        ({"relative_error": float("nan")}, ProblemError, "`relative_error`"),
        ({"noise_law": "cauchy"}, ProblemError, "`noise_law` must be"),
        ({"rng": -1}, ProblemError, "`rng` must be"),
        ({"progress": "yes"}, ProblemError, "`progress` must be"),
        ({"covariance": 1}, ProblemError, "`covariance` must be"),
        ({"control_variate": True}, ProblemError, "`control_variate` must be left out"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        predict(make(), **{"n_students": 10, **options})


def test_networks_are_sent_to_where_they_are_trained():
    with pytest.raises(UnsupportedProblemError, match=r"kd\.observe"):
        predict(make(kd.NetworkStudent()))


@pytest.mark.parametrize("design", [{"resample_size": 3}, {"resample_size": 2}])
def test_no_residual_degrees_of_freedom(design):
    with pytest.raises(PredictionError, match="got 0 residual degrees of freedom"):
        predict(make(**design), n_students=10)


def test_equal_responses_cannot_be_weighted():
    problem = make(kd.LinearStudent(weights="estimated"), n_responses=6, sources=["student_output"])
    with pytest.raises(PredictionError, match="response variance of 0"):
        predict(problem, n_students=10)


def test_steps_that_diverge_on_a_resample_are_refused():
    training = kd.GradientDescent(n_steps=3, learning_rate=0.5)
    with pytest.raises(PredictionError, match="`learning_rate` must be less than"):
        predict(make(kd.LinearStudent(training=training), resample_size=20), n_students=2000)


def test_a_law_without_a_fourth_moment_is_pointed_out():
    with pytest.warns(ApproximationWarning, match="no fourth moment"):
        predict(make(), n_students=300, noise_law="student_t:3")


def test_values_that_are_not_finite_are_refused():
    calls = []

    def spoiled(generator, size):
        calls.append(size)
        return generator.standard_normal(size) * (1.0 if len(calls) == 1 else np.nan)

    with pytest.raises(PredictionError, match="not finite"):
        predict(make(), n_students=300, noise_law=spoiled)
    huge = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, MEAN, noise_variance=1e290), student=kd.LinearStudent(), design=kd.Design(QUERY)
    )
    with pytest.raises(PredictionError, match="not finite"):
        predict(huge, n_students=300)


def test_progress_is_shown_on_stderr_when_asked_for(capsys):
    predict(make(), n_students=3000, rng=1, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "students" in captured.err
    predict(make(), n_students=3000, rng=1)
    assert capsys.readouterr().err == ""


def test_interrupt_leaves_at_once_and_cleanly(monkeypatch):
    import threading

    from kdstats.prediction.monte_carlo import engine

    def interrupted(self, done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.Progress, "show", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        predict(make(), n_students=10**7, rng=1, n_workers=2)
    assert threading.active_count() == before


MEMORY = """
    import numpy as np, re, kdstats as kd
    rng = np.random.default_rng(0)
    X = rng.standard_normal((404, 13))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, X @ rng.standard_normal(13)),
        student=kd.LinearStudent(),
        design=kd.Design(rng.standard_normal((102, 13))),
    )
    answer = kd.predict(problem, engine="monte_carlo", n_students={n}, rng=1, n_workers=2, noise_law="laplace")
    # Not getrusage: its peak is inherited from the process that started this one.
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
    print(peak / 1024, answer.n_students)
"""


def memory_and_count(n_students):
    code = textwrap.dedent(MEMORY).format(n=n_students)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(part) for part in run.stdout.split()]


def test_memory_does_not_grow_with_students():
    few, many = memory_and_count(4_000), memory_and_count(40_000)
    assert many[0] < few[0] + 30.0


@pytest.mark.slow
def test_a_million_students_in_under_500_megabytes():
    megabytes, count = memory_and_count(1_000_000)
    assert count == 1_000_000
    assert megabytes < 500.0


def test_simulated_and_observed_students_of_one_seed_are_different_students():
    problem = make(n_responses=4, strategy="variance_weighting")  # drawn by the same code in both
    simulated, observed = (predict(problem, n_students=300, rng=1), kd.observe(problem, n_students=300, rng=1))
    ratio = simulated.inter_student.values / observed.inter_student.values
    assert np.abs(ratio - 1.0).max() > 0.02  # two samples of 300 differ by about 8%; one sample by rounding
