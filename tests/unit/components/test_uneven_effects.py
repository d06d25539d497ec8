"""Degrees of freedom that effects of crossed sources show, against algebra and against what products leave."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

import kdstats as kd
from kdstats.components.crossed import estimate_sources
from kdstats.components.uneven_effects import NO_ERROR, df_of_mean_variance, uneven_df

N = 600


def test_equal_variances_have_no_error():
    np.testing.assert_allclose(df_of_mean_variance(np.full((4, 5, 2), 3.0)), NO_ERROR - 2.0)


def test_variances_of_levels_alone_have_the_variance_of_a_mean_of_levels():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    table = np.broadcast_to(values[:, None, None], (4, 6, 1)).copy()
    expected = 2.0 * values.mean() ** 2 / (values.var(ddof=1) / 4) - 2.0
    np.testing.assert_allclose(df_of_mean_variance(table), max(expected, 1.0))


def test_additive_effects_keep_their_degrees_of_freedom():
    a, b = np.arange(5.0) ** 2, np.arange(6.0)
    table = (a[:, None] + b)[:, :, None]
    for axes, df in (((0,), 4.0), ((1,), 5.0)):
        found, average = uneven_df(table, axes, df=df, average_df=df)
        np.testing.assert_allclose(found, df)
        assert average == pytest.approx(df)


def decomposed(size, *, products, seed):
    """Main effects of 1 and 1/2 and their interaction of 1/2, with two outputs of each student; tables are outputs."""
    rng = np.random.default_rng([31, seed])
    a, b = rng.standard_normal((2, size, N))
    both = a[:, None] * b if products else rng.standard_normal((size, size, N))
    means = a[:, None] + np.sqrt(0.5) * b + np.sqrt(0.5) * both
    outputs = means[:, :, None] + rng.standard_normal((size, size, 2, N))
    levels = np.indices((size, size)).reshape(2, -1).T
    student = np.repeat(np.arange(len(levels)), 2)
    return estimate_sources(
        outputs.reshape(-1, N),
        student=student,
        point=np.zeros(len(student), dtype=np.int64),
        levels=levels.astype(np.int64),
        sources=["a", "b"],
        level_labels=[range(size)] * 2,
        points=[0],
        outputs=range(N),
    )


def covered(answer, name, truth):
    low, high = answer.interval()["variance"].sel(component=name).values.reshape(-1, 2).T
    return int(((low <= truth) & (truth <= high)).sum())


@pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")
def test_sources_whose_effects_are_products_are_covered_and_were_not():
    answer = decomposed(20, products=True, seed=1)
    for name, truth in (("a", 1.0), ("b", 0.5)):
        assert binomtest(covered(answer, name, truth), N, 0.95, alternative="less").pvalue > 1e-3
    assert binomtest(covered(answer, "a:b", 0.5), N, 0.86, alternative="less").pvalue > 1e-3
    df = np.broadcast_to(np.array([19.0, 19.0, 361.0, 400.0])[:, None, None], answer.mean_squares["df"].shape)
    plain = type(answer)(
        estimate=answer.estimate,
        standard_error=answer.standard_error,
        mean_squares=answer.mean_squares.assign(df=(answer.mean_squares["df"].dims, df)),
        attrs=answer.attrs,
    )
    for name, truth, most in (("a", 1.0, 0.9), ("b", 0.5, 0.85), ("a:b", 0.5, 0.65)):
        assert binomtest(covered(plain, name, truth), N, most, alternative="greater").pvalue > 1e-3


@pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")
def test_gaussian_effects_keep_theirs_nearly_always():
    answer = decomposed(10, products=False, seed=2)
    df = answer.mean_squares["df"].values[:, 0]
    assert (df <= np.array([9.0, 9.0, 81.0, 100.0])[:, None]).all()
    # a source loses some in a tenth of the tables by chance, the interaction in fewer than a fifth
    assert binomtest(int((df[0] < 9.0).sum()), N, 0.15, alternative="greater").pvalue > 1e-3
    assert binomtest(int((df[2] < 81.0).sum()), N, 0.2, alternative="greater").pvalue > 1e-3
    assert "products of the draws" in answer.summary()


@pytest.mark.parametrize("value", [lambda a: a / 3, np.sqrt, lambda a: 1000.0 + a / 3, lambda a: 1e6 * np.sqrt(a)])
def test_rounding_is_no_effect(value):
    """Nothing but a varies: what b and a:b show are the last digits of floating point."""
    index = np.indices((20, 3, 2)).reshape(3, -1)
    table = pd.DataFrame(dict(zip(["a", "b", "replicate"], index, strict=True)))
    table["value"] = value(index[0])
    found = kd.decompose_sources(table, ["a", "b"], point=None)
    np.testing.assert_array_equal(found.mean_squares["df"].values.ravel(), [19, 2, 38, 60])
    assert not any("a:b" in note or "Outputs" in note for note in found.attrs["not_gaussian"])


@pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")
def test_effects_just_above_rounding_are_effects():
    rng = np.random.default_rng(3)
    index = np.indices((20, 6, 2)).reshape(3, -1)
    product = rng.standard_normal(20)[index[0]] * rng.standard_normal(6)[index[1]]
    table = pd.DataFrame(dict(zip(["a", "b", "replicate"], index, strict=True)) | {"value": product})
    plain, shifted = (
        kd.decompose_sources(table.assign(value=table["value"] * scale + 1e6), ["a", "b"], point=None)
        for scale in (1.0, 1e-6)
    )
    df = plain.mean_squares["df"].sel(stratum="a:b").item()
    assert df < 95 / 2
    assert shifted.mean_squares["df"].sel(stratum="a:b").item() == pytest.approx(df, rel=0.01)
