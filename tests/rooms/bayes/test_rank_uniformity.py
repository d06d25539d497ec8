"""The exact law of the uniformity statistic against enumeration and simulation; calibration with exact posteriors.

Draws of a conjugate posterior stand for the sampler here, so that a second shows what the calibration can find out;
the sampler itself, on every model, is in ``test_simulation_calibration``.
"""

import itertools

import arviz as az
import numpy as np
import pytensor
import pytest
import scipy.stats

import kdstats as kd
from kdstats.prediction.bayes import simulation, simulation_calibration
from kdstats.prediction.bayes.rank_uniformity import running_counts, uniform_band, uniform_pvalue


def smallest_tail(ranks, n_ranks):
    share = np.arange(1, n_ranks) / n_ranks
    below = running_counts(np.asarray(ranks), n_ranks=n_ranks)
    law = scipy.stats.binom(len(ranks), share)
    return np.minimum(law.cdf(below), law.sf(below - 1)).min()


@pytest.mark.parametrize(("size", "n_ranks"), [(4, 3), (3, 5), (6, 2)])
def test_the_pvalue_against_all_outcomes(size, n_ranks):
    every = list(itertools.product(range(n_ranks), repeat=size))
    smallest = np.array([smallest_tail(ranks, n_ranks) for ranks in every])
    for ranks, tail in zip(every, smallest, strict=True):
        expected = (smallest <= tail + 1e-12).mean()
        assert uniform_pvalue(np.array(ranks), n_ranks=n_ranks) == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize(("size", "n_ranks"), [(100, 100), (200, 20)])
def test_the_band_holds_its_level_and_is_the_test(size, n_ranks):
    """Simulated uniform ranks leave the band no more often than stated, and no band a step narrower would do."""
    rng, n = np.random.default_rng(0), 20_000
    low, high = uniform_band(size, n_ranks=n_ranks, level=0.05)
    ranks = rng.integers(n_ranks, size=(n, size))
    below = np.stack([(ranks < i).sum(axis=1) for i in range(1, n_ranks)], axis=1) / size
    outside = ((below < low - 1e-9) | (below > high + 1e-9)).any(axis=1)
    assert scipy.stats.binomtest(int(outside.sum()), n, 0.05, alternative="greater").pvalue > 1e-3
    narrower = ((below < low + 1.5 / size) | (below > high - 1.5 / size)).any(axis=1)
    assert scipy.stats.binomtest(int(narrower.sum()), n, 0.05, alternative="greater").pvalue < 1e-6
    for index in range(40):
        assert (uniform_pvalue(ranks[index], n_ranks=n_ranks) <= 0.05) == outside[index]


N, P, A0, B0 = 15, 2, 4.0, 3.0


def pose(prior_variance=1.0):
    X = np.random.default_rng(1).normal(size=(N, P))
    student = kd.BayesianLinearStudent(prior_variance=prior_variance, noise_shape=A0, noise_scale=B0)
    return kd.DistillationProblem(teacher=kd.GaussianTeacher(X, np.zeros(N)), student=student, design=kd.Design(X[:2]))


def exact_draws(stack, prior_variance, kind, rng):
    """Draw from the normal-inverse-gamma posterior of every simulation, or from what a broken sampler would."""
    score, length, squares = (stack.arrays[name] for name in ("score", "length", "squares"))
    shape = (2, 300, len(score))
    precision = 1.0 / prior_variance + length**2
    a, b = A0 + 0.5 * N, B0 + 0.5 * (squares + (score**2 / (1.0 + prior_variance * length**2)).sum(axis=1))
    if kind == "prior":
        score, precision, a, b = 0.0 * score, np.full_like(length, 1.0 / prior_variance), A0, B0
    noise = b / rng.gamma(a, size=shape)
    unit = rng.normal(size=(*shape, P))
    if kind == "sticky":  # each draw half as good as new
        for step in range(1, shape[1]):
            unit[:, step] = 0.8 * unit[:, step - 1] + 0.6 * unit[:, step]
    spread = np.sqrt(noise[..., None] / precision) * (0.6 if kind == "narrow" else 1.0)
    return az.from_dict(
        posterior={"axis_coefficient": length * score / precision + spread * unit, "noise_variance": noise},
        sample_stats={"diverging": np.zeros(shape[:2], dtype=bool)},
    )


@pytest.fixture
def calibrated(monkeypatch):
    def run(kind, told=1.0):
        rng = np.random.default_rng(5)
        monkeypatch.setattr(simulation, "sample", lambda stack, method, *, seed: exact_draws(stack, told, kind, rng))
        with pytensor.config.change_flags(mode="FAST_COMPILE"):
            return simulation_calibration(pose(told), truth=pose(), n_simulations=200, rng=2)

    return run


def test_exact_posteriors_have_uniform_ranks(calibrated):
    found = calibrated("exact")
    assert found.uniform, found.summary()
    assert found.n_quantities == P + 2
    assert (found.n_kept == 99).all()
    assert "ranks uniform" in found.summary()
    for name, ranks in found.ranks.items():
        for column in ranks.reshape(200, -1).T:
            share = running_counts(column, n_ranks=100) / 200
            assert ((share >= found.band[0]) & (share <= found.band[1])).all(), name


@pytest.mark.parametrize(("kind", "told"), [("exact", 0.1), pytest.param("narrow", 1.0, marks=pytest.mark.slow)])
def test_a_wrong_prior_and_a_narrow_sampler_are_found_out(calibrated, kind, told):
    found = calibrated(kind, told)
    assert not found.uniform, found.summary()
    assert "NOT uniform" in found.summary()


def test_a_sampler_that_ignores_the_labels_shows_in_the_likelihood_alone(calibrated):
    found = calibrated("prior")
    assert min(found.pvalues[name].min() for name in ("axis_coefficient", "noise_variance")) > 0.01 / 4
    assert not found.uniform
    assert found.worst == "log_likelihood"


def test_chains_that_stick_keep_fewer_draws(calibrated):
    """As few as are independent, which leaves the ranks uniform."""
    found = calibrated("sticky")
    assert found.uniform, found.summary()
    assert set(found.n_kept) <= {4, 9, 19, 49, 99}
    assert (found.n_kept < 99).sum() > 100
