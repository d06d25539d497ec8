"""Rows find their cell, whatever replicates are called and however sparse the table is."""

import numpy as np
import pandas as pd
import pytest

import kdstats as kd
from kdstats.errors import DataError
from kdstats.observation.layout import lay_out


def long_form(n_students=6, n_replicates=3, n_points=4):
    student, replicate, point = np.indices((n_students, n_replicates, n_points)).reshape(3, -1)
    value = np.random.default_rng(3).standard_normal(len(student)) + student
    return pd.DataFrame({"student": student, "replicate": replicate, "point": point, "value": value})


@pytest.mark.parametrize("step", [1, 1_000_003], ids=["dense numbers", "sparse numbers"])
@pytest.mark.parametrize("own", [0, 7], ids=["shared", "own"])
def test_replicate_numbers_may_be_anything(own, step):
    """Dense numbers go through flags, sparse ones through sorting; the answer is the same."""
    frame = long_form()
    expected = kd.decompose(frame)
    frame["replicate"] = step * (frame["replicate"] + own * frame["student"])
    answer = kd.decompose(frame.sample(frac=1.0, random_state=2))
    np.testing.assert_allclose(
        answer.intra_student.sel(point=expected.intra_student.point), expected.intra_student, rtol=1e-13
    )


def test_many_students_with_replicates_of_their_own_are_numbered_by_sorting():
    student, replicate = np.repeat(np.arange(500), 2), np.arange(1000)
    layout = lay_out(
        student,
        replicate,
        np.zeros(1000, dtype=np.int64),
        names=["s", "r"],
        labels=[list(range(500)), list(range(1000))],
    )
    np.testing.assert_array_equal(layout.replicate, replicate % 2)
    assert layout.shape == (500, 2, 1)
    assert layout.is_complete


def sparse():
    """Every student at a point of its own: flags for all cells would be far more than rows."""
    student = np.repeat(np.arange(400), 2)
    return pd.DataFrame({"student": student, "replicate": [0, 1] * 400, "point": student, "value": np.arange(800.0)})


def test_a_sparse_table_names_its_first_gap():
    with pytest.raises(DataError, match=r"319200 of 320000 cells missing, first student 0, replicate 0, point 1;"):
        kd.decompose(sparse())


@pytest.mark.parametrize("make", [long_form, sparse], ids=["by flags", "by sorting"])
@pytest.mark.parametrize("nan_policy", ["raise", "omit"])
def test_a_repeated_row_is_named(make, nan_policy):
    frame = make()
    again = pd.concat([frame, frame.query("student == 5 and replicate == 1").iloc[:1]])
    with pytest.raises(DataError, match="got 1 repeated rows, first of student 5, replicate 1, point"):
        kd.decompose(again, nan_policy=nan_policy)


def test_several_columns_that_begin_with_value_are_the_outputs():
    frame = long_form().rename(columns={"value": "value_0"}).assign(value_1=lambda rows: 2 * rows["value_0"])
    answer = kd.decompose(frame)
    np.testing.assert_allclose(answer.inter_student[:, 1], 4 * answer.inter_student[:, 0], rtol=1e-12)
