"""Analysis of variance, REML and ML on the data sets of lme4: its published digits, and eight from other arithmetic.

Dyestuff2.csv and Penicillin.csv are those of the R package lme4 (Davies & Goldsmith 1972), in the copy of the
public repository vincentarelbundock/Rdatasets.
"""

import warnings
from pathlib import Path

import mpmath
import numpy as np
import pandas as pd
import pytest

import kdstats as kd
from kdstats.components import crossed
from kdstats.errors import NegativeComponentWarning

DATA = Path(__file__).parent / "data"
EIGHT = {"rel": 1e-8, "abs": 0.0}


def frame(name):
    return pd.read_csv(DATA / f"{name}.csv")


def one_way(name, method):
    table = frame(name).rename(columns={"rownames": "row"})
    return kd.decompose_sources(
        table, ["Batch"], value="Yield", replicate="row", point=None, interactions=1, method=method
    )


def penicillin(method):
    return kd.decompose_sources(
        frame("Penicillin"), ["plate", "sample"], value="diameter", replicate=None, point=None, method=method
    )


def components(answer, *names):
    return [answer.estimate.sel(component=name).item() for name in names]


def sums_of_squares(name):
    """S, r, SSB, SSW and SST, in exact decimals."""
    with mpmath.workdps(40):
        groups = [[mpmath.mpf(str(v)) for v in g] for _, g in frame(name).groupby("Batch")["Yield"]]
        means = [mpmath.fsum(g) / len(g) for g in groups]
        grand = mpmath.fsum(means) / len(means)
        between = len(groups[0]) * mpmath.fsum((m - grand) ** 2 for m in means)
        within = mpmath.fsum((v - m) ** 2 for g, m in zip(groups, means, strict=True) for v in g)
        return len(groups), len(groups[0]), between, within, between + within


@pytest.mark.parametrize(("method", "lost"), [("anova", 1), ("reml", 1), ("ml", 0)])
def test_dyestuff(method, lost):
    s, r, between, within, _ = sums_of_squares("Dyestuff")
    residual = within / (s * (r - 1))
    batch = (between / (s - lost) - residual) / r
    assert components(one_way("Dyestuff", method), "Batch", "residual") == pytest.approx([batch, residual], **EIGHT)
    if method == "reml":  # lme4
        assert np.round(np.sqrt([float(batch), float(residual)]), 2) == pytest.approx([42.0, 49.51])


@pytest.mark.parametrize(("method", "lost"), [("reml", 1), ("ml", 0)])
def test_dyestuff2_is_on_the_boundary(method, lost):
    s, r, _, _, total = sums_of_squares("Dyestuff2")
    answer = one_way("Dyestuff2", method)
    batch, residual = components(answer, "Batch", "residual")
    assert batch == 0.0
    assert residual == pytest.approx(float(total / (s * r - lost)), **EIGHT)
    if method == "reml":
        assert round(residual, 3) == 13.806  # lme4
    assert answer.attrs["boundary"] == ("Batch",)
    assert "Batch is on the boundary, exactly 0" in answer.summary()


def test_dyestuff2_without_bounds_is_negative():
    s, r, between, within, _ = sums_of_squares("Dyestuff2")
    residual = within / (s * (r - 1))
    with pytest.warns(NegativeComponentWarning, match="Batch at 1 of 1 points"):
        answer = one_way("Dyestuff2", "anova")
    expected = [float((between / (s - 1) - residual) / r), float(residual)]
    assert components(answer, "Batch", "residual") == pytest.approx(expected, **EIGHT)
    assert expected[0] == pytest.approx(-1.3219, abs=5e-5)


def crossed_mean_squares():
    table = frame("Penicillin").pivot_table(index="plate", columns="sample", values="diameter").to_numpy()
    with mpmath.workdps(40):
        y = mpmath.matrix(table.tolist())
        a, b = y.rows, y.cols
        rows = [mpmath.fsum(y[i, j] for j in range(b)) / b for i in range(a)]
        columns = [mpmath.fsum(y[i, j] for i in range(a)) / a for j in range(b)]
        grand = mpmath.fsum(rows) / a
        by_row = b * mpmath.fsum((m - grand) ** 2 for m in rows) / (a - 1)
        by_column = a * mpmath.fsum((m - grand) ** 2 for m in columns) / (b - 1)
        rest = mpmath.fsum((y[i, j] - rows[i] - columns[j] + grand) ** 2 for i in range(a) for j in range(b))
        return a, b, by_row, by_column, rest / ((a - 1) * (b - 1))


@pytest.mark.parametrize("method", ["anova", "reml"])
def test_penicillin(method):
    a, b, by_row, by_column, rest = crossed_mean_squares()
    expected = [float(x) for x in ((by_row - rest) / b, (by_column - rest) / a, rest)]
    found = components(penicillin(method), "plate", "sample", "residual")
    assert found == pytest.approx(expected, **EIGHT)
    assert np.round(np.sqrt(found), 4) == pytest.approx([0.8467, 1.9316, 0.5499])  # lme4


def penicillin_ml():
    """Solve the three likelihood equations of the eigenvalues of the covariance, to 30 digits."""
    a, b, by_row, by_column, rest = crossed_mean_squares()
    degrees = (1, a - 1, b - 1, (a - 1) * (b - 1))
    squares = (mpmath.mpf(0), by_row, by_column, rest)
    slopes = ((b, a, 1), (b, 0, 1), (0, a, 1), (0, 0, 1))

    def gradient(*variances):
        total = [mpmath.mpf(0)] * 3
        for d, square, slope in zip(degrees, squares, slopes, strict=True):
            value = mpmath.fsum(c * v for c, v in zip(slope, variances, strict=True))
            for i in range(3):
                total[i] += slope[i] * d * (1 / value - square / value**2)
        return total

    with mpmath.workdps(30):
        start = ((by_row - rest) / b, (by_column * (b - 1) / b - rest) / a, rest)
        return [float(x) for x in mpmath.findroot(gradient, start)]


def test_penicillin_by_maximum_likelihood():
    found = components(penicillin("ml"), "plate", "sample", "residual")
    assert found == pytest.approx(penicillin_ml(), **EIGHT)
    assert found[1] < 0.86 * penicillin("reml").estimate.sel(component="sample").item()  # and it is not REML


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_the_mixed_model_equations_give_the_closed_forms(method, monkeypatch):
    cases = (lambda: one_way("Dyestuff", method), lambda: one_way("Dyestuff2", method), lambda: penicillin(method))
    closed = [case() for case in cases]
    monkeypatch.setattr(crossed, "_is_orthogonal", lambda terms: False)
    for case, one in zip(cases, closed, strict=True):
        other = case()
        np.testing.assert_allclose(other.estimate, one.estimate, rtol=1e-8)
        np.testing.assert_allclose(other.standard_error, one.standard_error, rtol=1e-7)
        np.testing.assert_allclose(other.interval()["variance"], one.interval()["variance"], rtol=1e-6)
        np.testing.assert_allclose(other.interval()["share"], one.interval()["share"], rtol=1e-6, atol=1e-6)


def scoring_step(table, variances, restricted):
    """What one more step of Fisher scoring would add, from dense matrices of all rows."""
    y = table["diameter"].to_numpy(float)
    plate, sample = (pd.get_dummies(table[name]).to_numpy(float) for name in ("plate", "sample"))
    parts = [plate @ plate.T, sample @ sample.T, np.eye(len(y))]
    inverse = np.linalg.inv(sum(v * part for v, part in zip(variances, parts, strict=True)))
    ones = inverse.sum(axis=1)
    projected = inverse - np.outer(ones, ones) / ones.sum()
    used = projected if restricted else inverse
    residual = projected @ y
    score = [residual @ part @ residual - np.trace(used @ part) for part in parts]
    information = [[np.trace(used @ one @ used @ other) for other in parts] for one in parts]
    return np.linalg.solve(information, score)


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_an_incomplete_design_against_its_dense_score(method):
    table = frame("Penicillin").drop(index=[0, 7, 19, 33, 34, 80, 101, 143]).reset_index(drop=True)
    answer = kd.decompose_sources(
        table, ["plate", "sample"], value="diameter", replicate=None, point=None, method=method
    )
    found = np.array(components(answer, "plate", "sample", "residual"))
    assert (np.abs(scoring_step(table, found, method == "reml")) < 1e-8 * found).all()
    assert (np.abs(scoring_step(table, found * 1.001, method == "reml")) > 1e-5 * found).any()


def test_mixedlm_agrees_to_the_digits_that_it_has():
    """Its optimiser stops at a gradient of about 1e-5: four digits of Dyestuff."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    table = frame("Dyestuff")
    for method in ("reml", "ml"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = MixedLM(table["Yield"], np.ones(len(table)), groups=table["Batch"]).fit(reml=method == "reml")
        batch, residual = components(one_way("Dyestuff", method), "Batch", "residual")
        assert float(np.asarray(fit.cov_re).item()) == pytest.approx(batch, rel=1e-3)
        assert fit.scale == pytest.approx(residual, rel=1e-3)
