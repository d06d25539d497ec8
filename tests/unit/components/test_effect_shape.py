"""Crossed sources whose effects or outputs are not Gaussian are told apart from those that are."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

import kdstats as kd
from kdstats.components.effect_shape import not_gaussian_effects

TERMS = {"a": (0,), "b": (1,), "a:b": (0, 1)}
pytestmark = pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")


def cells(rng, draw, outputs_draw):
    means = draw((10, 1)) + 0.7 * draw((1, 8)) + 0.5 * draw((10, 8))
    outputs = means[..., None] + outputs_draw((10, 8, 2))
    averages = outputs.mean(axis=-1)
    return averages[..., None], ((outputs - averages[..., None]) ** 2).sum(axis=-1).reshape(-1, 1)


def found(n, skewed_effects, skewed_outputs):
    rng = np.random.default_rng(51)

    def exponential(size):
        return rng.exponential(size=size) - 1.0

    laws = [exponential if skewed else rng.standard_normal for skewed in (skewed_effects, skewed_outputs)]
    return sum(bool(not_gaussian_effects(*_order(cells(rng, *laws)))) for _ in range(n))


def _order(parts):
    table, squares = parts
    return table, TERMS, squares, np.full(len(squares), 2.0)


def test_gaussian_tables_are_marked_in_at_most_a_twentieth():
    assert binomtest(found(500, False, False), 500, 0.05, alternative="greater").pvalue > 1e-3


def test_exponential_tables_are_found():
    assert binomtest(found(150, True, True), 150, 0.5, alternative="less").pvalue > 1e-3
    assert binomtest(found(150, False, True), 150, 0.3, alternative="less").pvalue > 1e-3


def test_the_summary_says_so():
    rng = np.random.default_rng(52)
    index = np.indices((12, 10, 3)).reshape(3, -1)
    table = pd.DataFrame(dict(zip(["a", "b", "replicate"], index, strict=True)))
    table["value"] = rng.normal(size=12)[index[0]] + rng.normal(size=10)[index[1]] + rng.normal(size=len(table)) ** 5
    answer = kd.decompose_sources(table, ["a", "b"], point=None)
    assert any("Outputs of a student have an excess kurtosis" in note for note in answer.attrs["not_gaussian"])
    text = " ".join(answer.summary().split())
    assert "these intervals are too narrow" in text
    assert "Laplace (excess kurtosis 3), 95% intervals of its variance would cover down to 79%" in text
    table["value"] = rng.normal(size=12)[index[0]] + rng.normal(size=len(table))
    assert not kd.decompose_sources(table, ["a", "b"], point=None).attrs["not_gaussian"]
