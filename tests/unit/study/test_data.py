import numpy as np
import pytest

from kdstats.errors import DataError
from kdstats.study import load_dataset, read_csv


def write(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_built_in_sets_have_their_published_shapes():
    boston, diabetes = load_dataset("boston_housing"), load_dataset("diabetes")
    assert boston.X.shape == (506, 13)
    assert diabetes.X.shape == (442, 10)
    assert boston.feature_names[5] == "RM"
    assert boston.target.mean() == pytest.approx(22.5328, abs=1e-4)  # published mean of MEDV


def test_columns_go_to_their_roles(tmp_path):
    data = read_csv(
        write(tmp_path, "a,m,v,b,y\n1,2,3,4,5\n6,7,8,9,10\n"), target="y", teacher_mean="m", noise_variance="v"
    )
    assert data.feature_names == ("a", "b")
    np.testing.assert_array_equal(data.X, [[1, 4], [6, 9]])
    np.testing.assert_array_equal(data.teacher_mean, [2, 7])
    np.testing.assert_array_equal(data.noise_variance, [3, 8])
    np.testing.assert_array_equal(data.target, [5, 10])


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", {}, "must have a header and rows; got 'table.csv', which is empty"),
        ("a,b\n", {}, "at least one row"),
        ("a,a\n1,2\n", {}, "different names; got 'a' twice"),
        ("a,b\n1,2,3\n", {}, "must have 2 cells in every line; got 3 in line 2"),
        ("a,b\n1,2\n3,x\n", {}, "got 'x' in line 3, column 'b'"),
        ("a,b\n1,nan\n", {}, "got 'nan' in line 2, column 'b'"),
        ("a,b\n1,inf\n", {}, "got 'inf' in line 2, column 'b'"),
        ("a,b\n1,\n", {}, "got '' in line 2, column 'b'"),
        ("a,b\n1,2\n", {"target": "y"}, r"`target` must name a column of table.csv \(a, b\); got y"),
        ("a,b\n1,2\n", {"features": ["c"]}, r"`features` must name columns of table.csv \(a, b\); got c"),
        ("a,b\n1,2\n", {"target": "a", "teacher_mean": "a"}, "be different columns"),
        ("a\n1\n", {"target": "a"}, "`features` must name at least one column"),
    ],
)
def test_bad_tables_say_where(tmp_path, text, arguments, message):
    with pytest.raises(DataError, match=message):
        read_csv(write(tmp_path, text), **arguments)


def test_missing_and_binary_files_are_one_line(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_csv(tmp_path / "none.csv")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        read_csv(path)


def test_unknown_set_is_refused():
    with pytest.raises(
        DataError, match="`dataset` must be one of boston_housing, diabetes, wine, breast_cancer, digits; got iris"
    ):
        load_dataset("iris")


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    with pytest.raises(DataError, match="line 5, column 'b'"):
        read_csv(write(tmp_path, "a,b\n\n1,2\n\n3,x\n"))
