"""One output of each student at a point: the total and its interval, and no invented parts."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import chi2

import kdstats as kd
from kdstats.components.result import VarianceComponents
from kdstats.errors import ComparisonError, DataError, EstimationError, NotIdentifiedWarning

S, M = 9, 3


def outputs(seed=0):
    return np.random.default_rng(seed).normal(size=(S, M)) + 1e6


def long_form(values=None):
    values = outputs() if values is None else values
    student, point = np.indices(values.shape).reshape(2, -1)
    return pd.DataFrame({"student": student, "replicate": 0, "point": point, "value": values.ravel()})


def decomposed(table, **options):
    with pytest.warns(NotIdentifiedWarning, match="inter_student and intra_student are not identified"):
        return kd.decompose(table, **options)


def test_total_is_the_variance_over_students_with_its_chi_square_interval():
    answer = decomposed(long_form())
    expected = (outputs() - 1e6).var(axis=0, ddof=1)
    np.testing.assert_allclose(answer.total.values[:, 0], expected, rtol=1e-9)
    bounds = answer.interval(0.9)["total"].values[:, 0]
    textbook = (S - 1) * expected[:, None] / chi2.ppf([0.95, 0.05], S - 1)
    np.testing.assert_allclose(bounds, textbook, rtol=1e-9)
    assert (answer.standard_error["total"].values > 0).all()


def test_parts_are_nan_and_said_to_be_not_identified():
    answer = decomposed(long_form())
    for name in ("inter_student", "intra_student"):
        assert np.isnan(answer.estimate[name]).all()
        assert np.isnan(answer.interval()[name]).all()
    text = answer.summary()
    assert "not identified" in text.replace("\n    ", " ")
    assert next(line for line in text.splitlines() if line.startswith("inter_student")).split()[1:] == ["-"] * 6
    assert "nan" not in text


def test_missing_cells_leave_each_point_its_own_degrees_of_freedom():
    values = outputs()
    values[:3, 1] = np.nan
    answer = decomposed(long_form(values), nan_policy="omit")
    total = np.nanvar(values - 1e6, axis=0, ddof=1)
    np.testing.assert_allclose(answer.total.values[:, 0], total, rtol=1e-9)
    np.testing.assert_array_equal(answer.mean_squares["df_between"].values[:, 0], [S - 1, S - 4, S - 1])
    average = answer.average()
    assert average.total.item() == pytest.approx(total.mean(), rel=1e-9)
    assert (average.interval()["total"].values > 0).all()


def test_known_variances_divide_the_total():
    answer = kd.decompose(long_form(), variances=0)
    np.testing.assert_allclose(answer.inter_student, decomposed(long_form()).total, rtol=1e-9)
    assert not answer.intra_student.values.any()


def test_an_average_has_the_degrees_of_freedom_of_its_correlated_points():
    same = decomposed(long_form(np.repeat(outputs()[:, :1], M, axis=1))).average()
    alone = decomposed(long_form(outputs()[:, :1]))
    np.testing.assert_allclose(same.interval()["total"].values, alone.interval()["total"].values, rtol=1e-6)
    independent = decomposed(long_form(np.random.default_rng(1).normal(size=(60, 40)))).average()
    lower, upper = independent.interval()["total"].values.ravel()
    one = decomposed(long_form(np.random.default_rng(1).normal(size=(60, 1)))).interval()["total"].values.ravel()
    assert upper / lower < (one[1] / one[0]) ** 0.5


def test_written_and_read_back(tmp_path):
    answer = decomposed(long_form())
    answer.to_netcdf(tmp_path / "a.nc")
    again = kd.VarianceComponents.from_netcdf(tmp_path / "a.nc")
    np.testing.assert_array_equal(again.interval()["total"], answer.interval()["total"])
    assert again.summary() == answer.summary()


def test_one_student_or_a_point_of_one_student_is_refused():
    with pytest.raises(EstimationError, match=r"`n_students` must be at least 2.*got 1"):
        kd.decompose(long_form()[lambda frame: frame["student"] == 0])
    values = outputs()
    values[1:, 2] = np.nan
    with pytest.raises(EstimationError, match="got 1 at point 2"):
        kd.decompose(long_form(values), nan_policy="omit")
    with pytest.raises(DataError, match="`variances` must go with a complete table"):
        kd.decompose(long_form(values), nan_policy="omit", variances=0)


def test_it_is_not_tested_against_a_prediction():
    answer = decomposed(long_form())
    predicted = VarianceComponents.from_arrays(
        inter_student=np.ones((M, 1)),
        intra_student=np.ones((M, 1)),
        point_labels=range(M),
        output_labels=["value"],
        attrs={"engine": "theory", "exactness": "exact"},
    )
    with pytest.raises(ComparisonError, match="must identify inter_student and intra_student"):
        kd.compare(predicted, answer)


def test_interval_of_the_total_covers():
    rng = np.random.default_rng(20)
    runs = 2000
    values = rng.normal(size=(5, runs)) * np.sqrt(2.0) + rng.normal(size=(5, runs))
    bounds = decomposed(long_form(values)).interval()["total"].values[:, 0]
    hits = int(((bounds[:, 0] <= 3.0) & (bounds[:, 1] >= 3.0)).sum())
    standard_error = np.sqrt(0.95 * 0.05 / runs)
    assert abs(hits / runs - 0.95) < 4 * standard_error
    misses = int(((bounds[:, 0] <= 2.0) & (bounds[:, 1] >= 2.0)).sum())
    assert abs(misses / runs - 0.95) > 4 * standard_error  # inter alone is not what is covered


def test_a_table_without_replicates_needs_no_column_of_them():
    frame = pd.DataFrame({"student": [1, 1, 2, 2, 3, 3], "point": [0, 1] * 3, "value": [1.0, 2.0, 4.0, 3.0, 5.0, 9.0]})
    with pytest.warns(NotIdentifiedWarning):
        answer = kd.decompose(frame, replicate=None)
    np.testing.assert_allclose(answer.total.values.ravel(), [13 / 3, 43 / 3])
    array = xr.DataArray(frame["value"].to_numpy().reshape(3, 2), dims=("student", "point"))
    assert float(kd.decompose(array, replicate=None, variances=0).inter_student[0, 0]) == pytest.approx(13 / 3)
    with pytest.raises(DataError, match="replicate=None if each student gave one output"):
        kd.decompose(frame)
    with pytest.raises(DataError, match="1 repeated rows"):
        kd.decompose(pd.concat([frame, frame.iloc[[3]]]), replicate=None)
