"""Responses to inputs of unequal noise: whole numbers against brute force, and the relaxation they are searched by."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.optimize import minimize

from kdstats.planning.allocation import allocate, allocated_share, relaxed_optimum

WEIGHTS = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=5).map(np.array)


def every_allocation(n, total, limit):
    """All vectors of n whole numbers from 1 to limit with a given sum."""
    cuts = np.array(list(combinations(range(1, total), n - 1)), dtype=int)
    edges = np.hstack([np.zeros((len(cuts), 1), int), cuts, np.full((len(cuts), 1), total)])
    counts = np.diff(edges, axis=1)
    return counts[(counts <= limit).all(axis=1)]


@given(weights=WEIGHTS, extra=st.integers(0, 9), limit=st.one_of(st.none(), st.integers(1, 8)))
def test_optimal_among_all_integers(weights, extra, limit):
    total = weights.size + extra
    counts = allocate(weights, total, limit=limit)
    most = total if limit is None else limit
    assert counts.min() >= 1
    assert counts.max() <= most
    assert counts.sum() == min(total, weights.size * most)
    best = (weights / every_allocation(weights.size, int(counts.sum()), most)).sum(axis=1).min()
    assert (weights / counts).sum() <= best * (1 + 1e-12) + 1e-300


def test_rounding_neymans_rule_would_not_be_optimal():
    weights, total = np.array([1.0, 1.0, 30.0, 40.0]), 9
    counts = allocate(weights, total)
    rounded = np.maximum(1, np.round(total * np.sqrt(weights) / np.sqrt(weights).sum())).astype(int)
    assert rounded.sum() != total or (weights / rounded).sum() > (weights / counts).sum()


def test_many_responses_are_given_at_once():
    weights = np.random.default_rng(0).gamma(2.0, size=1000)
    counts = allocate(weights, 10**9)
    assert counts.sum() == 10**9
    ideal = np.sqrt(weights) / np.sqrt(weights).sum() * 1e9
    assert np.abs(counts - ideal).max() < 2


def test_share_of_correlated_responses():
    np.testing.assert_allclose(allocated_share(np.array([1, 4, 10**9]), 0.3), [1.0, 0.475, 0.3], rtol=1e-6)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), spare=st.floats(0.0, 20.0))
def test_relaxation_against_a_numerical_optimum(seed, n, spare):
    rng = np.random.default_rng(seed)
    weights, asked = rng.gamma(0.7, size=(1, 8)) + 1e-3, np.zeros((1, 8), dtype=bool)
    asked[0, rng.permutation(8)[:n]] = True
    value = relaxed_optimum(weights, asked, np.array([n + spare]))[0]
    own = weights[asked]
    found = minimize(
        lambda k: (own / k).sum(),
        np.full(n, 1 + spare / n),
        jac=lambda k: -own / k**2,
        bounds=[(1, None)] * n,
        constraints={"type": "eq", "fun": lambda k: k.sum() - n - spare, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert value <= found.fun * (1 + 1e-7)
    counts = allocate(own, n + int(spare))
    assert value <= (own / counts).sum() * (1 + 1e-9)


def test_relaxation_of_a_set_that_cannot_be_paid_for_is_infinite():
    assert np.isinf(relaxed_optimum(np.ones((1, 3)), np.ones((1, 3), bool), np.array([2.0])))[0]


@pytest.mark.parametrize("total", [3, 4, 7])
def test_inputs_without_noise_share_what_is_left(total):
    counts = allocate(np.zeros(3), total)
    assert counts.sum() == total
    assert np.ptp(counts) <= 1
