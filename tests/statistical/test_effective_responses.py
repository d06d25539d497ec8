"""Effective responses from one pilot: smoothers with known variances, pilots that learnt nothing, and bad input."""

import warnings

import numpy as np
import pytest
from scipy import linalg, stats

import kdstats as kd
from kdstats.errors import ApproximationWarning, ProblemError

N, LEVEL, Z = 60, 1e-4, 4.0
LAW = np.array([0.45, 0.25, 0.15, 0.1, 0.05])


def smoother(own):
    """Symmetric and doubly stochastic, with eigenvalues in [0, 1]: prompts on a circle lend to their neighbours."""
    step = linalg.circulant([0.5, 0.25, *np.zeros(N - 3), 0.25])
    return own * np.eye(N) + (1 - own) * np.linalg.matrix_power(step, 4)


def truth(S, p, k):
    """Inter-student variance, leverage and squared bias of students q = S e, exactly."""
    gini = 1 - (p**2).sum(axis=1)
    inter = (S**2 @ gini).sum() / k / N
    return inter, (np.diag(S) * gini).sum() / gini.sum(), ((S @ p - p) ** 2).sum() / N


def pilots(S, p, k, n_pilots, *, fresh=None, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(n_pilots):
        seen = rng.multinomial(k, p)
        known = {"teacher_probabilities": p} if fresh is None else {"fresh": rng.multinomial(fresh, p)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ApproximationWarning)
            yield kd.effective_responses(S @ (seen / k), seen, **known), seen


def z(values, expected):
    return (np.mean(values) - expected) / (np.std(values, ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize("fresh", [None, 8])
@pytest.mark.parametrize("own", [1.0, 0.5, 0.0])
def test_smoothers_are_predicted_without_bias_and_with_their_error(own, fresh):
    S, p, k = smoother(own), np.tile(LAW, (N, 1)), 4
    inter, leverage, bias = truth(S, p, k)
    assert bias < 1e-20
    assert leverage**2 * (1 - LAW @ LAW) / k <= inter + 1e-15  # both bounds, by exact numbers
    assert inter <= leverage * (1 - LAW @ LAW) / k + 1e-15
    found, hits, plain = [], 0, 0
    for one, seen in pilots(S, p, k, 400, fresh=fresh, seed=3):
        found.append((one.distance, one.leverage, one.bounds[0]))
        low, high = one.interval() if one.regime == "unbiased" else (0.0, np.inf)
        hits += low <= inter <= high
        squares = ((S @ (seen / k) - p) ** 2).sum(axis=1)
        plain += abs(squares.mean() - inter) <= 1.96 * squares.std(ddof=1) / np.sqrt(N)
    distance, levers, lower = np.transpose(found)
    assert abs(z(distance, inter)) < Z
    assert abs(z(levers, leverage)) < Z
    assert lower.mean() < inter
    assert abs(z(distance, 1.25 * inter)) > Z  # what a quarter more would show
    assert stats.binomtest(hits, 400, 0.95, alternative="less").pvalue > LEVEL
    if own == 0.0:  # prompts that lend to each other are no independent ones
        assert stats.binomtest(plain, 400, 0.95, alternative="less").pvalue < LEVEL


def test_a_memoriser_is_worth_its_responses_and_a_generaliser_more():
    p = np.tile(LAW, (N, 1))
    worth = {own: np.median([one.estimate for one, _ in pilots(smoother(own), p, 4, 100)]) for own in (1.0, 0.0)}
    assert worth[1.0] == pytest.approx(4, rel=0.1)
    assert worth[0.0] == pytest.approx((1 - LAW @ LAW) / truth(smoother(0.0), p, 4)[0], rel=0.1)
    assert worth[0.0] > 12


def test_a_biased_pilot_is_told_and_bounded():
    p = np.where(np.arange(N)[:, None] % 2 == 0, LAW, LAW[::-1])  # neighbours say something else
    S, k = smoother(0.0), 4
    inter, leverage, bias = truth(S, p, k)
    assert bias > 2 * inter
    found = [one for one, _ in pilots(S, p, k, 100)]
    assert sum(one.regime == "biased" for one in found) >= 95
    assert abs(z([one.distance for one in found], inter + bias)) < Z
    assert abs(z([one.leverage for one in found], leverage)) < Z
    assert np.median([one.inter_student for one in found]) < inter + bias / 2  # closer than the distance is
    assert np.mean([one.bounds[0] for one in found]) < inter < np.mean([one.bounds[1] for one in found])
    seen = np.random.default_rng(1).multinomial(k, p)
    with pytest.warns(ApproximationWarning, match="further from the teacher than its responses explain"):
        kd.effective_responses(S @ (seen / k), seen, teacher_probabilities=p)


def test_responses_of_another_student_show_no_leverage():
    rng, p = np.random.default_rng(5), np.tile(LAW, (N, 1))
    told = 0
    for _ in range(200):
        own, others = rng.multinomial(4, p), rng.multinomial(4, p)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = kd.effective_responses(own / 4, others, teacher_probabilities=p)
        told += found.regime == "no leverage"
        assert bool(caught) == bool(found.notes)
    assert stats.binomtest(told, 200, stats.norm.cdf(2), alternative="less").pvalue > LEVEL
    assert all(one.regime != "no leverage" for one, _ in pilots(smoother(1.0), p, 4, 50))


def test_overshooting_is_told():
    p = np.full((600, 2), 0.5)
    seen = np.random.default_rng(2).multinomial(40, p)
    with pytest.warns(ApproximationWarning, match="Leverage above 1"):
        found = kd.effective_responses(p + 1.6 * (seen / 40 - p), seen, teacher_probabilities=p)
    assert found.leverage == pytest.approx(1.6, rel=0.3)
    assert found.bounds[1] == found.distance
    assert "note: Leverage above 1" in found.summary()


def test_the_answer_reads_like_one():
    p = np.tile(LAW, (N, 1))
    found, _ = next(pilots(smoother(0.5), p, 4, 1))
    assert found.intra_student == pytest.approx(found.gini - found.inter_student)
    low, high = found.interval(0.5)
    assert low < found.inter_student < high
    text = found.summary()
    assert "k = 4 responses" in text
    assert "effective responses" in text
    assert "regime 'unbiased'" in text


def test_a_pilot_at_the_teacher_has_an_interval_from_zero():
    p = np.tile(LAW, (N, 1))
    rng = np.random.default_rng(4)
    with pytest.warns(ApproximationWarning, match="does not visibly follow"):
        found = kd.effective_responses(p, rng.multinomial(4, p), fresh=rng.multinomial(3, p))
    assert found.regime == "no leverage"
    low, high = found.interval()
    assert 0 <= low < high
    assert "effective responses" in found.summary()


P2 = np.full((3, 2), 0.5)
SEEN = np.array([[1, 1], [2, 0], [0, 2]])
BAD = [
    ({}, "`teacher_probabilities` must be given, or `fresh`, but not both; got neither"),
    ({"teacher_probabilities": P2, "fresh": SEEN}, "got both"),
    ({"teacher_probabilities": P2[:2]}, r"`teacher_probabilities` must have the pilot's shape \(3, 2\)"),
    ({"teacher_probabilities": P2 * 0.9}, "`teacher_probabilities` must hold probabilities that sum to 1"),
    ({"teacher_probabilities": np.eye(2)[[0, 1, 0]]}, "a teacher that varies"),
    ({"fresh": SEEN / 2}, "`fresh` must hold counts"),
    ({"fresh": np.eye(2)[[0, 1, 0]]}, "`fresh` must sum to one number of at least 2"),
    ({"seen": SEEN[:2], "fresh": SEEN}, "`seen` must have the pilot's shape"),
    ({"seen": [[1, 1], [1, 0], [0, 2]], "fresh": SEEN}, "`seen` must sum to one number of at least 1 in each row"),
    ({"pilot_probabilities": [[1.0, 0.5]] * 3, "fresh": SEEN}, "`pilot_probabilities` must hold probabilities"),
    ({"pilot_probabilities": [[1.0]] * 3, "fresh": SEEN}, "at least 2 prompts and 2 answers"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input(options, message):
    asked = {"pilot_probabilities": P2, "seen": SEEN} | options
    with pytest.raises(ProblemError, match=message):
        kd.effective_responses(asked.pop("pilot_probabilities"), asked.pop("seen"), **asked)
