"""Tables of students that cross several sources: read exactly, taken apart exactly, or refused with the place."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import kdstats as kd
from kdstats.components.likelihood import fit_rows
from kdstats.errors import DataError, EstimationError, KdstatsError, NegativeComponentWarning

pytestmark = pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")

SOURCES = ["teacher", "init"]
A, B, R, M = 5, 4, 3, 2


def cube(seed=0, shape=(A, B), r=R, m=M):
    """Effects of both sources, their interaction and the residual, with variances 9, 4, 1 and 1."""
    rng = np.random.default_rng(seed)
    a, b = shape
    y = 3 * rng.standard_normal((a, 1, 1, m)) + 2 * rng.standard_normal((1, b, 1, m))
    return y + rng.standard_normal((a, b, 1, m)) + rng.standard_normal((a, b, r, m))


def long_form(values=None):
    values = cube() if values is None else values
    a, b, r, m = np.indices(values.shape).reshape(4, -1)
    columns = {"teacher": [f"t{i}" for i in a], "init": b, "replicate": r, "point": m}
    return pd.DataFrame({**columns, "value": values.ravel()})


def textbook(y):
    """Two-way crossed analysis of variance with replicates, one point."""
    a, b, r = y.shape
    cells, rows, columns, grand = y.mean(axis=2), y.mean(axis=(1, 2)), y.mean(axis=(0, 2)), y.mean()
    error = ((y - cells[..., None]) ** 2).sum() / (a * b * (r - 1))
    both = r * ((cells - rows[:, None] - columns + grand) ** 2).sum() / ((a - 1) * (b - 1))
    one = b * r * ((rows - grand) ** 2).sum() / (a - 1)
    other = a * r * ((columns - grand) ** 2).sum() / (b - 1)
    parts = [(one - both) / (b * r), (other - both) / (a * r), (both - error) / r, error]
    return [*parts, sum(parts[:3]), error, sum(parts)]


def of(answer, name):
    return answer.estimate.sel(component=name).values


def test_shuffled_rows_give_the_textbook_analysis_with_labels():
    answer = kd.decompose_sources(long_form().sample(frac=1.0, random_state=1), SOURCES)
    names = ("teacher", "init", "teacher:init", "residual", "inter_student", "intra_student", "total")
    assert answer.components == names
    for m in range(M):
        found = answer.estimate.sel(point=m, output="value").values
        np.testing.assert_allclose(found, textbook(cube()[..., m]), rtol=1e-10)
    np.testing.assert_allclose(answer.shares.sel(component=list(names[:4])).sum("component"), 1.0, rtol=1e-12)
    assert answer.attrs["n_levels"] == {"teacher": A, "init": B}


def test_one_source_is_the_one_way_analysis():
    table = long_form().assign(student=lambda t: t["teacher"] + t["init"].astype(str))
    plain = kd.decompose(table.drop(columns=SOURCES))
    answer = kd.decompose_sources(table.drop(columns=SOURCES), ["student"])
    for name in ("inter_student", "intra_student", "total"):
        np.testing.assert_allclose(of(answer, name), plain.estimate[name], rtol=1e-10)
        bounds = plain.interval()[name]
        if name != "total":  # the sum has its own variant there
            np.testing.assert_allclose(answer.interval()["variance"].sel(component=name), bounds, rtol=1e-9)


def test_inter_and_intra_are_those_of_the_sources():
    answer = kd.decompose_sources(long_form(), SOURCES)
    between = of(answer, "teacher") + of(answer, "init") + of(answer, "teacher:init")
    np.testing.assert_allclose(of(answer, "inter_student"), between, rtol=1e-12)
    np.testing.assert_array_equal(of(answer, "intra_student"), of(answer, "residual"))
    np.testing.assert_allclose(of(answer, "total"), between + of(answer, "residual"), rtol=1e-12)


def test_without_replicates_the_residual_holds_the_highest_interaction():
    table = long_form(cube(r=1)).drop(columns="replicate")
    answer = kd.decompose_sources(table, SOURCES, replicate=None)
    assert answer.components == ("teacher", "init", "residual", "total")
    assert "teacher:init is part of the residual" in answer.summary()


def test_interactions_can_be_left_out():
    answer = kd.decompose_sources(long_form(), SOURCES, interactions=1)
    assert answer.components == ("teacher", "init", "residual", "total")
    assert "taken to be 0" in answer.summary()
    df = A * B * R - 1 - (A - 1) - (B - 1)
    assert (answer.mean_squares["df"].sel(stratum="residual") == df).all()


def test_arrays_with_dims_are_long_tables():
    values = cube()
    dims = ("teacher", "init", "replicate", "point")
    labels = {"teacher": [f"t{i}" for i in range(A)], "init": range(B), "point": range(M)}
    expected = kd.decompose_sources(long_form(), SOURCES).estimate.values
    answer = kd.decompose_sources(xr.DataArray(values, labels, dims), SOURCES)
    np.testing.assert_allclose(answer.estimate.values, expected, rtol=1e-12)
    two = xr.DataArray(np.stack([values, 2 * values], axis=-1), labels, (*dims, "output"))
    answer = kd.decompose_sources(two, SOURCES)
    np.testing.assert_allclose(answer.estimate.isel(output=1).values, 4 * expected[..., 0], rtol=1e-12)


def test_a_nested_source_is_found_and_named():
    rng = np.random.default_rng(3)
    outer, inner, replicate = np.indices((6, 4, 3)).reshape(3, -1)
    value = 2 * rng.standard_normal(6)[outer] + rng.standard_normal((6, 4))[outer, inner] + rng.standard_normal(72)
    table = pd.DataFrame({"a": outer, "b": outer * 4 + inner, "replicate": replicate, "value": value})
    answer = kd.decompose_sources(table, ["b", "a"], point=None)
    assert answer.components[:3] == ("b", "a", "residual")
    assert "b is nested in a" in answer.summary()
    y = value.reshape(6, 4, 3)
    cells, rows = y.mean(axis=2), y.mean(axis=(1, 2))
    error = ((y - cells[..., None]) ** 2).sum() / 48
    within = 3 * ((cells - rows[:, None]) ** 2).sum() / 18
    between = 12 * ((rows - y.mean()) ** 2).sum() / 5
    np.testing.assert_allclose(of(answer, "b").item(), (within - error) / 3, rtol=1e-10)
    np.testing.assert_allclose(of(answer, "a").item(), (between - within) / 12, rtol=1e-10)


def test_unequal_nests_are_told_by_their_numbers():
    outer = np.repeat([0, 0, 1, 1, 1], 2)
    table = pd.DataFrame(
        {"a": outer, "b": np.repeat(range(5), 2), "replicate": [0, 1] * 5, "value": np.arange(10.0) ** 2}
    )
    with pytest.raises(EstimationError, match="got 'anova' with 2 to 3 levels of b within one of a"):
        kd.decompose_sources(table, ["a", "b"], point=None)
    assert (kd.decompose_sources(table, ["a", "b"], point=None, method="reml").estimate >= 0).all()


def test_three_crossed_sources_are_unbiased_splits_of_the_sum_of_squares():
    rng = np.random.default_rng(4)
    index = np.indices((4, 5, 3, 2)).reshape(4, -1)
    table = pd.DataFrame(dict(zip(["a", "b", "c", "replicate"], index, strict=True)))
    table["value"] = rng.standard_normal(len(table))
    answer = kd.decompose_sources(table, ["a", "b", "c"], point=None)
    full = {"a": 3, "b": 4, "c": 2, "a:b": 12, "a:c": 6, "b:c": 8, "a:b:c": 24, "residual": 60}
    squares = answer.mean_squares["mean_square"].values.ravel() @ np.array([full[name] for name in answer.terms])
    assert squares == pytest.approx(((table["value"] - table["value"].mean()) ** 2).sum(), rel=1e-12)
    df = answer.mean_squares["df"].values.ravel()
    assert all(1.0 <= found <= full[name] for name, found in zip(answer.terms, df, strict=True))
    assert df[-1] == 60


def test_unequal_replicates_are_analysed_by_unweighted_means():
    table = long_form().drop(index=[0, 7, 11, 60, 61]).reset_index(drop=True)
    answer = kd.decompose_sources(table, SOURCES)
    one = table[table["point"] == 0]
    cells = one.pivot_table(index="teacher", columns="init", values="value").to_numpy()
    counts = one.pivot_table(index="teacher", columns="init", values="value", aggfunc="count").to_numpy()
    rows, columns, grand = cells.mean(axis=1), cells.mean(axis=0), cells.mean()
    error = one.groupby(SOURCES)["value"].apply(lambda v: ((v - v.mean()) ** 2).sum()).sum() / (len(one) - A * B)
    both = ((cells - rows[:, None] - columns + grand) ** 2).sum() / ((A - 1) * (B - 1))
    teacher = ((rows - grand) ** 2).sum() / (A - 1) - both / B
    found = answer.estimate.sel(point=0, output="value")
    assert found.sel(component="teacher").item() == pytest.approx(teacher, rel=1e-10)
    assert found.sel(component="teacher:init").item() == pytest.approx(both - error * (1 / counts).mean(), rel=1e-10)


def test_rows_that_are_not_numbers_can_be_left_out():
    table = long_form()
    table.loc[[3, 40], "value"] = np.nan
    with pytest.raises(DataError, match="2 NaN or infinite values, the first in row 3"):
        kd.decompose_sources(table, SOURCES)
    answer = kd.decompose_sources(table, SOURCES, nan_policy="omit")
    dropped = kd.decompose_sources(table.drop(index=[3, 40]), SOURCES)
    np.testing.assert_array_equal(answer.estimate, dropped.estimate)
    table.loc[5, "value"] = np.inf
    with pytest.raises(DataError, match="1 NaN or infinite"):
        kd.decompose_sources(table, SOURCES, nan_policy="omit")


def test_missing_combinations_are_named_and_have_a_likelihood():
    table = long_form().query("not (teacher == 't1' and init == 2)")
    with pytest.raises(EstimationError, match=r"1 of 20 combinations of levels missing: teacher 't1', init 2"):
        kd.decompose_sources(table, SOURCES)
    for method in ("reml", "ml"):
        answer = kd.decompose_sources(table, SOURCES, method=method)
        assert (of(answer, "teacher") >= 0).all()
        bounds = answer.interval()["share"]
        assert (bounds.sel(ci_bound="lower") <= answer.shares + 1e-9).all()
        assert (bounds.sel(ci_bound="upper") >= answer.shares - 1e-9).all()


def test_points_with_their_own_missing_combinations_are_their_own_designs():
    table = long_form()
    gone = (table["point"] == 1) & (table["teacher"] == "t2") & (table["init"] == 0)
    answer = kd.decompose_sources(table[~gone], SOURCES, method="reml")
    full = kd.decompose_sources(table, SOURCES, method="reml")
    np.testing.assert_allclose(answer.estimate.sel(point=0), full.estimate.sel(point=0), rtol=1e-12)
    assert (answer.estimate.sel(point=1) != full.estimate.sel(point=1)).any()
    with pytest.raises(EstimationError, match="at point 1"):
        kd.decompose_sources(table[~gone], SOURCES)


def test_a_negative_component_keeps_its_sign_and_is_announced():
    rng = np.random.default_rng(8)
    values = rng.standard_normal((3, 3, 2, 1))
    with pytest.warns(NegativeComponentWarning, match="negative components: "):
        answer = kd.decompose_sources(long_form(values), SOURCES)
    assert answer.attrs["boundary"]
    assert "keeps its sign" in answer.summary()
    bounded = kd.decompose_sources(long_form(values), SOURCES, method="reml")
    assert (bounded.estimate >= 0).all()
    assert "exactly 0" in bounded.summary()
    xr.testing.assert_identical(bounded.interval(), answer.interval())


def test_the_average_counts_correlated_points_as_what_they_are_worth():
    one = cube(m=1)
    copies = kd.decompose_sources(long_form(np.repeat(one, 30, axis=-1)), SOURCES).average()
    single = kd.decompose_sources(long_form(one), SOURCES)
    np.testing.assert_allclose(copies.interval()["variance"].values, single.interval()["variance"].values, rtol=1e-8)
    independent = kd.decompose_sources(long_form(cube(m=30)), SOURCES).average()
    df = independent.mean_squares["average_df"]
    assert (df > 2 * single.mean_squares["average_df"]).all()
    assert (df <= 30 * single.mean_squares["average_df"]).all()


def test_the_frame_has_everything():
    frame = kd.decompose_sources(long_form(), SOURCES).to_dataframe()
    assert len(frame) == 7 * M
    assert list(frame.columns[:3]) == ["component", "point", "output"]
    assert (frame["variance_lower"] < frame["variance"]).all()
    assert (frame["share"] <= frame["share_upper"]).all()


CASES = [
    ({"sources": "teacher"}, DataError, "`sources` must be a sequence of one or more names of columns"),
    ({"sources": []}, DataError, "`sources` must be a sequence"),
    ({"sources": ["teacher", 3]}, DataError, "`sources` must be names of columns; got 3"),
    ({"sources": ["teacher", "teacher"]}, DataError, "name each column once"),
    ({"sources": ["teacher", "total"]}, DataError, "not be called"),
    ({"sources": ["teacher", "a:b"]}, DataError, "colon"),
    ({"sources": ["teacher", "data"]}, DataError, "must have a column 'data'; got teacher, init"),
    ({"replicate": "rep"}, DataError, "'rep'.*replicate=None if each student gave one output"),
    ({"point": "place"}, DataError, "point=None if there is one point"),
    ({"replicate": "init"}, DataError, "be different columns"),
    ({"method": "bayes"}, KdstatsError, "`method` must be one of anova, reml, ml; got 'bayes'"),
    ({"interactions": 3}, DataError, "at most the number of sources, 2; got 3"),
    ({"interactions": 0}, KdstatsError, "at least 1; got 0"),
    ({"interactions": True}, KdstatsError, "`interactions` must be an integer"),
    ({"nan_policy": "fill"}, KdstatsError, "`nan_policy` must be one of raise, omit"),
    ({"value": "price"}, DataError, "`value` must be one of the columns"),
    ({"value": "init"}, DataError, "not be a key column"),
    ({"value": []}, DataError, "name at least one column"),
]


@pytest.mark.parametrize(("options", "error", "message"), CASES)
def test_bad_arguments(options, error, message):
    options = {"sources": SOURCES} | options
    with pytest.raises(error, match=message):
        kd.decompose_sources(long_form(), **options)


@pytest.mark.parametrize("table", [None, [1, 2], "table.csv", {"value": [1]}])
def test_what_is_no_table(table):
    with pytest.raises(DataError, match="be a pandas DataFrame or an xarray DataArray"):
        kd.decompose_sources(table, SOURCES)


def broken(change):
    return change(long_form())


TABLES = [
    (lambda t: t.iloc[:0], DataError, "not be empty"),
    (lambda t: pd.concat([t, t.iloc[[4]]]), DataError, "1 repeated rows, first of teacher 't0', init 0"),
    (lambda t: t.assign(teacher="t0"), DataError, "repeated rows"),
    (lambda t: t[t["teacher"] == "t0"], EstimationError, "`teacher` must have at least 2 levels.*got 1"),
    (lambda t: t.assign(value=t["value"].astype(str).replace(str(t["value"][3]), "x")), DataError, "got 'x' in row 3"),
    (lambda t: t.assign(value=t["value"] > 0), DataError, "hold real numbers; got dtype bool"),
    (lambda t: t.assign(value=t["value"] + 1j), DataError, "dtype complex"),
    (lambda t: t.assign(init=t["init"].where(t["init"] != 1)), DataError, "name every row"),
    (
        lambda t: t.assign(init=t["init"].astype(object).where(t["init"] != 1, "1")),
        DataError,
        "not mix text with other labels",
    ),
    (lambda t: t.assign(value=np.nan), DataError, "NaN"),
]


@pytest.mark.parametrize(("change", "error", "message"), TABLES)
def test_bad_tables(change, error, message):
    with pytest.raises(error, match=message):
        kd.decompose_sources(broken(change), SOURCES)


def test_one_seed_that_drives_two_sources_is_found():
    table = long_form().assign(order=lambda t: "seed " + t["teacher"])
    with pytest.raises(EstimationError, match="'teacher' and 'order', whose levels change together"):
        kd.decompose_sources(table, ["teacher", "init", "order"])


def test_a_source_that_is_the_student_is_not_told_from_the_residual():
    table = long_form(cube(r=1)).assign(data=lambda t: t["teacher"] + t["init"].astype(str))
    with pytest.raises(EstimationError, match="`data` must have a level with 2 outputs to tell its variance"):
        kd.decompose_sources(table.drop(columns=["replicate", "init"]), ["teacher", "data"], replicate=None)


def test_a_saturated_table_is_refused():
    a, b = np.indices((2, 2)).reshape(2, -1)
    table = pd.DataFrame({"a": a, "b": b, "c": a ^ b, "value": [1.0, 2.0, 4.0, 9.0]})
    for method in ("anova", "reml"):
        with pytest.raises(EstimationError, match="got none for the residual beside a, b, c"):
            kd.decompose_sources(table, ["a", "b", "c"], replicate=None, point=None, interactions=1, method=method)


def test_components_that_a_design_determines_only_together_are_refused():
    a, b = np.indices((2, 2)).reshape(2, -1)
    with pytest.raises(EstimationError, match="got a, b, c, residual, of which the table determines only combinations"):
        fit_rows(
            [a, b, a ^ b],
            names=["a", "b", "c"],
            counts=np.ones(4),
            means=np.array([[1.0], [2.0], [4.0], [9.0]]),
            squares=np.zeros((4, 1)),
            restricted=True,
        )


def test_a_constant_residual_has_no_likelihood_but_an_analysis():
    values = np.repeat(cube(r=1), 2, axis=2)
    assert (of(kd.decompose_sources(long_form(values), SOURCES), "intra_student") == 0).all()
    with pytest.raises(EstimationError, match="residual variance of 0"):
        kd.decompose_sources(long_form(values), SOURCES, method="reml")


def test_digits_survive_a_large_offset():
    values = np.round(cube() * 1024) / 1024
    plain = kd.decompose_sources(long_form(values), SOURCES).estimate
    moved = kd.decompose_sources(long_form(values + 2.0**30), SOURCES).estimate
    np.testing.assert_allclose(moved, plain, rtol=1e-8)
