"""Unequal replicates and missing cells: used on request, by the estimator of the textbook."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import binomtest

import kdstats as kd
from kdstats.components.equal_noise import own_noise
from kdstats.errors import (
    ApproximationWarning,
    ComparisonError,
    DataError,
    EstimationError,
    NegativeComponentWarning,
    ProblemError,
)

S, R, M = 9, 4, 3


def long_form(seed=3):
    rng = np.random.default_rng(seed)
    values = 2.0 * rng.standard_normal((S, 1, M)) + rng.standard_normal((S, R, M))
    s, r, m = np.indices(values.shape).reshape(3, -1)
    return pd.DataFrame({"student": s, "replicate": r, "point": m, "value": values.ravel()})


def thinned(seed=4):
    frame = long_form()
    return frame[np.random.default_rng(seed).random(len(frame)) < 0.8]


def textbook(frame):
    """Searle's analysis of variance of one point, group by group."""
    groups = [group["value"].to_numpy() for _, group in frame.groupby("student")]
    n, total = len(groups), sum(map(len, groups))
    grand = np.concatenate(groups).mean()
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (total - n)
    between = sum(len(g) * (g.mean() - grand) ** 2 for g in groups) / (n - 1)
    n0 = (total - sum(len(g) ** 2 for g in groups) / total) / (n - 1)
    return (between - within) / n0, within


def test_unequal_replicates_give_the_textbook_estimator_point_by_point():
    answer = kd.decompose(thinned().sample(frac=1.0, random_state=1), nan_policy="omit")
    for point, frame in thinned().groupby("point"):
        inter, intra = textbook(frame)
        assert answer.inter_student.sel(point=point).item() == pytest.approx(inter, rel=1e-12)
        assert answer.intra_student.sel(point=point).item() == pytest.approx(intra, rel=1e-12)


def test_a_complete_table_is_decomposed_as_ever():
    expected, answer = kd.decompose(long_form()), kd.decompose(long_form(), nan_policy="omit")
    xr.testing.assert_identical(answer.estimate, expected.estimate)
    xr.testing.assert_identical(answer.interval(), expected.interval())


def test_unbalanced_formulas_agree_with_balanced_ones_where_only_a_whole_student_point_is_missing():
    frame = long_form()
    answer = kd.decompose(frame[(frame["student"] > 0) | (frame["point"] != 1)], nan_policy="omit")
    balanced = kd.decompose(frame[frame["point"] != 1])
    np.testing.assert_allclose(answer.inter_student.sel(point=[0, 2]), balanced.inter_student, rtol=1e-12)
    np.testing.assert_allclose(
        answer.interval()["inter_student"].sel(point=[0, 2]), balanced.interval()["inter_student"], rtol=1e-9
    )
    assert np.isnan(answer.student_predictions.sel(student=0, point=1)).all()
    assert answer.attrs["n_missing"] == 1


def test_nan_rows_and_absent_rows_are_the_same():
    frame = long_form()
    gone = frame.assign(value=frame["value"].where(frame.index.isin(thinned().index)))
    array = xr.DataArray(gone["value"].to_numpy().reshape(S, R, M), dims=("student", "replicate", "point"))
    expected = kd.decompose(thinned(), nan_policy="omit").inter_student.sortby("point").values
    np.testing.assert_allclose(
        kd.decompose(gone, nan_policy="omit").inter_student.sortby("point").values, expected, rtol=1e-12
    )
    np.testing.assert_allclose(
        kd.decompose(array, nan_policy="omit").inter_student.sortby("point").values, expected, rtol=1e-12
    )


def test_standard_errors_are_the_jackknife_over_students():
    frame = thinned()[lambda f: f["point"] == 0]
    left_out = [textbook(frame[frame["student"] != s])[0] for s in range(S)]
    expected = np.sqrt((S - 1) / S * ((left_out - np.mean(left_out)) ** 2).sum())
    answer = kd.decompose(frame, nan_policy="omit")
    assert answer.standard_error["inter_student"].item() == pytest.approx(expected, rel=1e-10)


def test_summary_average_and_file_survive(tmp_path):
    answer = kd.decompose(thinned(), nan_policy="omit")
    assert "unbalanced" in answer.summary()
    assert answer.average().inter_student.item() == pytest.approx(answer.inter_student.mean().item())
    answer.to_netcdf(tmp_path / "a.nc")
    again = kd.VarianceComponents.from_netcdf(tmp_path / "a.nc")
    xr.testing.assert_identical(again.interval(), answer.interval())


def test_a_negative_component_keeps_its_sign_and_warns():
    frame = thinned().assign(value=lambda f: f["value"] - f.groupby(["student", "point"])["value"].transform("mean"))
    with pytest.warns(NegativeComponentWarning, match="keeps its sign"):
        answer = kd.decompose(frame, nan_policy="omit")
    assert (answer.inter_student < 0).all()
    assert answer.attrs["boundary"]


def noise_of(counts, sd, n_tables, seed):
    """Sufficient statistics of tables of one point with inter 1, each tested alone."""
    rng, counts, sd = np.random.default_rng(seed), np.array(counts), np.broadcast_to(sd, len(counts))
    for _ in range(n_tables):
        means = rng.normal(size=counts.size) + sd / np.sqrt(counts) * rng.normal(size=counts.size)
        squares = sd**2 * rng.chisquare(np.maximum(counts - 1, 1)) * (counts > 1)
        yield own_noise(counts[:, None].astype(float), means[:, None], squares[:, None])


@pytest.mark.parametrize("counts", [[20] * 10 + [2] * 10, list(range(1, 17)), [1, 2, 3] + [30] * 12, [2, 3, 3]])
def test_equal_noise_is_rejected_no_more_often_than_its_level(counts):
    rejected = sum(noise.pvalue < 0.05 for noise in noise_of(counts, 1.0, 2000, 5))
    assert binomtest(rejected, 2000, 0.05, alternative="greater").pvalue > 0.01


def test_noise_that_goes_with_the_number_of_outputs_is_found_and_components_that_count_students_once_are_unbiased():
    found = list(noise_of([20] * 10 + [2] * 10, np.repeat([1.0, 3.0], 10), 1000, 6))
    assert sum(noise.pvalue < 0.01 for noise in found) > 900
    for values, truth in (([n.inter.item() for n in found], 1.0), ([n.intra.item() for n in found], 5.0)):
        assert abs(np.mean(values) - truth) < 4 * np.std(values) / np.sqrt(1000)


def test_components_of_unequal_noise_are_marked_unreliable_with_a_warning():
    rng, counts, sd = np.random.default_rng(7), [20] * 10 + [2] * 10, np.repeat([1.0, 3.0], 10)
    student = np.repeat(np.arange(20), counts)
    value = rng.normal(size=20)[student] + sd[student] * rng.normal(size=student.size)
    replicate = np.concatenate([np.arange(n) for n in counts])
    frame = pd.DataFrame({"student": student, "replicate": replicate, "value": value})
    with pytest.warns(ApproximationWarning, match="own variances go with their numbers of outputs"):
        answer = kd.decompose(frame, point=None, nan_policy="omit")
    assert set(answer.attrs["unreliable"]) == {"inter_student", "intra_student", "total"}
    assert "UNRELIABLE" in answer.summary()
    own = np.mean([group.var(ddof=1) for _, group in frame.groupby("student")["value"]])
    assert f"{own:.4g}" in answer.attrs["unreliable_because"]
    assert "unreliable" not in kd.decompose(thinned(), nan_policy="omit").attrs


def test_an_unbalanced_observation_is_not_tested():
    problem = kd.catalog.intercept_only(noise_variance=1.0, n_inputs=4)
    predicted = kd.predict(problem)
    frame = thinned()[lambda f: f["point"] == 0]
    labels = predicted.estimate["point"].values
    observed = kd.decompose(frame.assign(point=labels[0]), nan_policy="omit")
    observed = kd.VarianceComponents(
        estimate=observed.estimate.assign_coords(output=predicted.estimate["output"]),
        standard_error=observed.standard_error.assign_coords(output=predicted.estimate["output"]),
        attrs=observed.attrs,
        mean_squares=observed.mean_squares,
    )
    with pytest.raises(ComparisonError, match="must be balanced"):
        kd.equality_test(predicted, observed)


@pytest.mark.parametrize(
    ("table", "options", "error", "message"),
    [
        (thinned(), {}, DataError, "nan_policy='omit'"),
        (thinned(), {"nan_policy": "ignore"}, ProblemError, "nan_policy"),
        (pd.concat([thinned(), thinned().iloc[[3]]]), {"nan_policy": "omit"}, DataError, "1 repeated rows"),
        (long_form().replace({"value": {long_form()["value"][3]: np.inf}}), {"nan_policy": "omit"}, DataError, "infin"),
        (long_form().assign(value=np.nan), {"nan_policy": "omit"}, DataError, "NaN in all rows"),
        (
            long_form()[lambda f: (f["point"] != 2) | (f["student"] == 1)],
            {"nan_policy": "omit"},
            EstimationError,
            "at least 2 students.*got 1 at point 2",
        ),
        (
            long_form()[lambda f: (f["point"] != 2) | (f["replicate"] == 1)],
            {"nan_policy": "omit"},
            EstimationError,
            "for all at point 2",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(table, options, error, message):
    with pytest.raises(error, match=message):
        kd.decompose(table, **options)


def test_one_missing_cell_hardly_widens_the_average():
    """Replicate errors of independent points count as many points, balanced or not."""
    rng, shape = np.random.default_rng(4), (100, 4, 10)
    student, replicate, point = np.indices(shape).reshape(3, -1)
    value = (2.0 * rng.standard_normal((100, 1, 10)) + rng.standard_normal(shape)).ravel()
    frame = pd.DataFrame({"student": student, "replicate": replicate, "point": point, "value": value})
    whole, missing = kd.decompose(frame), kd.decompose(frame.drop(index=7), nan_policy="omit")
    widths = {}
    for name, table in (("whole", whole), ("missing", missing)):
        widths[name] = table.average().interval()["intra_student"].diff("ci_bound").item()
    # the rank is at least the number of points over 1 + 2 sqrt(2/99) and over the excess of its own error
    assert 1.0 <= widths["missing"] / widths["whole"] < np.sqrt((1 + 2 * np.sqrt(2 / 99)) * (1 + 4 * np.sqrt(2 / 99)))
    assert "Outputs a student: " in missing.summary()
