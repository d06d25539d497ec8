"""A user's own predictions: read exactly, or refused with the place."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import kdstats as kd
from kdstats.errors import (
    ApproximationWarning,
    DataError,
    DuplicateStudentsError,
    EstimationError,
    IgnoredColumnsWarning,
    ProblemError,
)

S, R, M, Q = 12, 4, 3, 2


def cube(seed=0):
    rng = np.random.default_rng(seed)
    return 3.0 * rng.standard_normal((S, 1, M, Q)) + rng.standard_normal((S, R, M, Q))


def long_form(values=None):
    values = cube() if values is None else values
    s, r, m = np.indices(values.shape[:3]).reshape(3, -1)
    return pd.DataFrame(
        {
            "student": [f"s{i}" for i in s],
            "replicate": r,
            "point": [("low", "mid", "high")[i] for i in m],
            "price": values[..., 0].ravel(),
            "rent": values[..., 1].ravel(),
        }
    )


BOTH = ["price", "rent"]


def anova(values):
    """Textbook one-way analysis of variance, one point and output at a time."""
    means = values.mean(axis=1)
    within = ((values - means[:, None]) ** 2).sum(axis=(0, 1)) / (S * (R - 1))
    between = R * ((means - means.mean(axis=0)) ** 2).sum(axis=0) / (S - 1)
    return (between - within) / R, within


def test_shuffled_long_form_gives_the_textbook_anova_with_labels():
    answer = kd.decompose(long_form().sample(frac=1.0, random_state=1), value=BOTH)
    inter, intra = anova(cube())
    order = {"point": ["low", "mid", "high"], "output": ["price", "rent"]}
    np.testing.assert_allclose(answer.inter_student.sel(order), inter, rtol=1e-12)
    np.testing.assert_allclose(answer.intra_student.sel(order), intra, rtol=1e-12)
    assert (answer.engine, answer.exactness, answer.n_students) == ("table", "observed", S)


def test_one_value_column_of_several_can_be_chosen():
    answer = kd.decompose(long_form(), value="rent")
    np.testing.assert_allclose(answer.inter_student.values[:, 0], anova(cube())[0][:, 1], rtol=1e-12)


def test_key_columns_may_have_other_names_and_be_index_levels():
    frame = long_form().rename(columns={"student": "run", "replicate": "sample", "point": "house"})
    expected = kd.decompose(long_form(), value=BOTH).inter_student.values
    names = {"student": "run", "replicate": "sample", "point": "house"}
    np.testing.assert_array_equal(kd.decompose(frame, value=BOTH, **names).inter_student, expected)
    np.testing.assert_array_equal(
        kd.decompose(frame.set_index(["run", "house"]), value=BOTH, **names).inter_student, expected
    )


def test_replicates_numbered_through_all_students_are_the_same_replicates():
    frame = long_form()
    frame["replicate"] = frame["student"].str.cat(frame["replicate"].astype(str))
    np.testing.assert_array_equal(
        kd.decompose(frame, value=BOTH).intra_student, kd.decompose(long_form(), value=BOTH).intra_student
    )


def test_data_array_in_any_order_of_dims_is_the_same_data():
    names = ("student", "replicate", "point", "output")
    array = xr.DataArray(cube(), dims=names).transpose("output", "replicate", "student", "point")
    np.testing.assert_allclose(kd.decompose(array).inter_student, anova(cube())[0], rtol=1e-12)
    renamed = array.rename(student="run", point="house")
    np.testing.assert_array_equal(
        kd.decompose(renamed, student="run", point="house").inter_student, kd.decompose(array).inter_student
    )


def test_numbers_written_as_text_are_read_as_numbers():
    frame = long_form().astype({"price": str})
    np.testing.assert_allclose(
        kd.decompose(frame, value=BOTH).inter_student, kd.decompose(long_form(), value=BOTH).inter_student, rtol=1e-12
    )


def with_cell(column, row, entry):
    frame = long_form().astype({column: object})
    frame.loc[row, column] = entry
    return frame


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (long_form().drop(columns="student"), {}, "must have a column 'student'; got replicate, point, price, rent"),
        (long_form().drop(columns="point"), {}, "must have a column 'point'.*point=None"),
        (long_form()[["student", "replicate", "point"]], {"value": None}, "must have a column of outputs"),
        (long_form(), {"value": "wage"}, "`value` must be one of the columns .*price, rent.*got wage"),
        (long_form(), {"value": None}, "`value` must name the columns of outputs.*; got price, rent .*pandas.melt"),
        (long_form(), {"value": "wage_*"}, r"`value` must fit some of the columns .*price, rent.*got wage_\*"),
        (long_form(), {"variances": 1.0}, "`n_replicates` must be 1 where `variances` are given"),
        (long_form(), {"value": "point"}, "`value` must not be a key column"),
        (long_form(), {"value": []}, "`value` must name at least one column"),
        (long_form(), {"value": ["rent", "rent"]}, "`value` must name each column once"),
        (long_form(), {"student": "point"}, "must be different columns"),
        (long_form(), {"student": 3}, "`student` must be the name of a column"),
        (long_form().iloc[:0], {}, "`table` must not be empty"),
        (long_form().to_numpy(), {}, "must be a pandas DataFrame or an xarray DataArray; got a ndarray"),
        (with_cell("price", 7, "cheap"), {}, r"hold real numbers; got 'cheap' in row 7 \(1 of 144 rows\)"),
        (
            with_cell("price", 7, np.nan),
            {},
            "be finite everywhere .*; got 1 NaN or infinite values, the first in row 7",
        ),
        (with_cell("rent", 9, np.inf), {}, "be finite everywhere .*; got 1 .* row 9"),
        (with_cell("student", 5, None), {}, r"\['student'\]` must name every row; got 1 missing, the first in row 5"),
        (with_cell("student", 5, 0), {}, r"\['student'\]` must not mix text .*; got 's0' in row 0 and 0 in row 5"),
        (long_form().assign(price=1j), {}, "hold real numbers; got dtype complex128"),
        (long_form().assign(price=True), {}, "hold real numbers; got dtype bool"),
        (
            long_form().drop(index=[4, 5]),
            {},
            "balanced; got 2 of 144 cells missing, first student 's0', replicate 1, point 'mid'",
        ),
        (long_form().drop(index=[9, 10, 11]), {}, "got 4 replicates of student 's1' and 3 of student 's0'"),
        (
            pd.concat([long_form(), long_form().iloc[[4]]]),
            {},
            "got 1 repeated rows, first of student 's0', replicate 1, point 'mid'",
        ),
        (long_form(), {"point": None, "value": "rent"}, "got 96 repeated rows"),
        (xr.DataArray(cube()[:, :, 0, 0], dims=("student", "replicate")), {}, "without 'point'"),
        (xr.DataArray(cube(), dims=("student", "replicate", "point", "x")), {}, "got 'x' too"),
        (xr.DataArray(cube(), dims=("student", "replicate", "point", "output")), {"value": "rent"}, "be left out"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_the_place(table, options, message):
    with pytest.raises((DataError, EstimationError), match=message):
        kd.decompose(table, **({"value": BOTH} if isinstance(table, pd.DataFrame) else {}) | options)


def test_nan_in_an_array_is_refused_with_its_place():
    array = xr.DataArray(cube(), dims=("student", "replicate", "point", "output"), coords={"point": ["a", "b", "c"]})
    array[3, 2, 1, 0] = np.nan
    with pytest.raises(DataError, match="1 NaN or infinite, the first at student 3, replicate 2, point 'b', output 0"):
        kd.decompose(array)


def test_one_student_is_refused():
    with pytest.raises(EstimationError, match=r"n_students.* at least 2"):
        kd.decompose(long_form()[lambda frame: frame["student"] == "s0"], value=BOTH)


def test_copies_are_refused_unless_allowed():
    values = cube()
    values[7] = values[2]
    with pytest.raises(DuplicateStudentsError, match=r"1 of 12 .*students s2, s7\."):
        kd.decompose(long_form(values), value=BOTH)
    assert kd.decompose(long_form(values), value=BOTH, allow_duplicates=True).n_students == S
    with pytest.raises(ProblemError, match="allow_duplicates"):
        kd.decompose(long_form(), value=BOTH, allow_duplicates="no")


def one_point(values):
    s, r = np.indices(values.shape).reshape(2, -1)
    return pd.DataFrame({"student": s, "replicate": r, "value": values.ravel()})


@pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "law",
    [
        lambda rng: np.round(0.8 + 0.02 * rng.normal(size=(40, 1)), 3),
        lambda rng: np.round(rng.normal(size=(60, 2)), 1),
        lambda rng: np.round(rng.exponential(size=(100, 1)), 2) - 1 / 3,
        lambda rng: rng.binomial(300, 0.9, size=(50, 3)) / 300,
        lambda rng: (1e6 + rng.normal(size=(60, 1))).astype(np.float32).astype(float),
        lambda rng: np.round(rng.normal(size=(30, 1)) + 0.3 * rng.normal(size=(30, 8)), 2),
    ],
    ids=["accuracies", "one decimal", "shifted", "counts over 300", "float32 far from 0", "replicates"],
)
def test_ties_of_rounded_numbers_are_not_copies(law, seed):
    values = law(np.random.default_rng([11, seed]))
    assert sum(np.unique(values, return_counts=True)[1] > 1) > 0
    options = {} if values.shape[1] > 1 else {"variances": 0.0}
    assert kd.decompose(one_point(values), point=None, **options).n_students == len(values)


@pytest.mark.parametrize("decimals", [2, 12])
def test_copies_of_rounded_numbers_are_found_where_the_grid_does_not_explain_them(decimals):
    values = np.round(np.random.default_rng(12).normal(size=(60, 8)), decimals)
    values[7] = values[2]
    with pytest.raises(DuplicateStudentsError, match=r"1 of 60 .*students 2, 7\."):
        kd.decompose(one_point(values), point=None)
    alone = np.random.default_rng(13).normal(size=(60, 1))
    alone[7] = alone[2]
    with pytest.raises(DuplicateStudentsError, match=r"1 of 60 .*students 2, 7\."):
        kd.decompose(one_point(alone), point=None, variances=0.0)


@pytest.mark.parametrize("decimals", [2, 12])
def test_copied_replicates_are_refused_unless_allowed(decimals):
    rng = np.random.default_rng(14)
    values = np.round(rng.normal(size=(30, 1)) + np.repeat(rng.normal(size=(30, 2)), 4, axis=1), decimals)
    with pytest.raises(DuplicateStudentsError, match=r"replicates must be independent; got 180 of 240 that copy"):
        kd.decompose(one_point(values), point=None)
    with pytest.warns(ApproximationWarning, match="own variances spread"):
        assert kd.decompose(one_point(values), point=None, allow_duplicates=True).n_students == 30


@pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning")
def test_outputs_that_recur_from_student_to_student_and_students_that_repeat_one_output_are_no_copies():
    rng = np.random.default_rng(15)
    atoms = rng.normal(size=12)
    assert kd.decompose(one_point(atoms[rng.integers(12, size=(20, 6))]), point=None).n_students == 20
    values = rng.normal(size=(20, 6))
    values[3:9] = values[3:9, :1]
    assert kd.decompose(one_point(values), point=None).n_students == 20


def test_students_that_differ_in_their_own_variance_are_named_with_the_interval_that_allows_for_it():
    rng = np.random.default_rng(16)
    sd = np.exp(0.5 * rng.normal(size=(30, 1)))
    mean = rng.normal(size=(30, 1))
    with pytest.warns(ApproximationWarning, match=r'own variances spread.*students="any"'):
        answer = kd.decompose(one_point(mean + sd * rng.normal(size=(30, 10))), point=None)
    assert "Own variances of students spread" in " ".join(answer.summary().split())
    narrow, wide = answer.interval()["intra_student"], answer.interval(students="any")["intra_student"]
    assert np.ptp(wide.values) > 2 * np.ptp(narrow.values)
    equal = kd.decompose(one_point(mean + rng.normal(size=(30, 10))), point=None)  # no warning: those are errors here
    assert "Own variances" not in equal.summary()


def test_codes_and_constants_may_repeat():
    coded = np.rint(cube())
    coded[7] = coded[2]
    assert kd.decompose(long_form(coded), value=BOTH).n_students == S
    constant = kd.decompose(long_form(np.full((S, R, M, Q), 0.5)), value=BOTH)
    assert not constant.total.values.any()


def test_value_is_the_column_of_outputs_and_others_are_named_in_a_warning():
    frame = long_form().rename(columns={"price": "value"})
    with pytest.warns(IgnoredColumnsWarning, match="neither keys nor 'value' are left out: rent"):
        answer = kd.decompose(frame)
    np.testing.assert_array_equal(answer.total, kd.decompose(long_form(), value="price").total)
    assert list(answer.total.coords["output"].values) == ["value"]
    alone = kd.decompose(long_form().drop(columns="rent"))
    np.testing.assert_array_equal(alone.total, answer.total)


def test_a_pattern_and_a_column_of_lists_name_the_coordinates_of_vectors():
    frame = long_form()
    expected = kd.decompose(frame, value=BOTH).total.values
    starred = frame.rename(columns={"price": "embedding_0", "rent": "embedding_1"}).assign(text="said")
    np.testing.assert_array_equal(kd.decompose(starred, value="embedding_*").total, expected)
    lists = frame[["student", "replicate", "point"]].assign(vector=frame[BOTH].to_numpy().tolist())
    answer = kd.decompose(lists, value="vector")
    np.testing.assert_array_equal(answer.total, expected)
    assert list(answer.total.coords["output"].values) == ["vector[0]", "vector[1]"]
    lists.at[5, "vector"] = [1.0]
    with pytest.raises(DataError, match=r"hold lists of one length \(2 in row 0, at least 1\); got \[1.0\] in row 5"):
        kd.decompose(lists)
    lists.at[5, "vector"] = [1.0, "a"]
    with pytest.raises(DataError, match="hold lists of numbers"):
        kd.decompose(lists)
