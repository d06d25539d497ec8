import warnings

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstat

from kdstats.components.estimation import effective_rank, estimate_components
from kdstats.components.result import COMPONENTS
from kdstats.errors import EstimationError, NegativeComponentWarning, ProblemError


def draw(shape=(30, 4, 3, 2), seed=0, spread=0.5):
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=(shape[0], 1, *shape[2:])) + spread * rng.normal(size=shape)


class TestReplicates:
    def test_against_textbook_formulas(self):
        y = draw()
        c = estimate_components(y)
        between, within = y.mean(1).var(0, ddof=1), y.var(1, ddof=1).mean(0)
        assert_allclose(c.mean_squares.between, between, rtol=1e-13)
        assert_allclose(c.mean_squares.within, within, rtol=1e-13)
        assert_allclose(c.inter_student, between - within / 4, rtol=1e-12)
        assert_allclose(c.intra_student, within, rtol=1e-13)
        assert_allclose(c.student_predictions, y.mean(1), rtol=1e-13)
        assert c.mean_squares.attrs == {"df_between": 29, "df_within": 90, "n_replicates": 4}
        assert (c.exactness, c.n_students, c.attrs["ddof"], c.attrs["boundary"]) == ("observed", 30, 1, False)
        assert c.attrs["degenerate"] == ()

    def test_is_unbiased_where_the_plain_variance_of_means_is_not(self):
        """20,000 tables side by side, as points: mean estimate within 4 standard errors of the truth."""
        n_tables, r, inter, intra = 20_000, 2, 0.3, 2.0
        rng = np.random.default_rng(5)
        y = inter**0.5 * rng.normal(size=(6, 1, n_tables)) + intra**0.5 * rng.normal(size=(6, r, n_tables))
        with pytest.warns(NegativeComponentWarning):
            c = estimate_components(y)
        for values, truth in ((c.inter_student, inter), (c.intra_student, intra), (c.total, inter + intra)):
            error = values.values.std() / n_tables**0.5
            assert abs(values.values.mean() - truth) < 4 * error
        plain = c.mean_squares.between.values
        assert plain.mean() - inter > 4 * plain.std() / n_tables**0.5
        clipped = np.maximum(c.inter_student.values, 0)
        assert clipped.mean() - inter > 4 * clipped.std() / n_tables**0.5

    @pytest.mark.parametrize("n_students", [2, 3, 4, 6, 20])
    def test_squared_standard_errors_are_unbiased_for_gaussian_students(self, n_students):
        n_tables = 10_000
        rng = np.random.default_rng(n_students)
        y = rng.normal(size=(n_students, 1, n_tables)) + rng.normal(size=(n_students, 3, n_tables))
        with pytest.warns(NegativeComponentWarning):
            c = estimate_components(y)
        between, within = 1 + 1 / 3, 1.0
        of_between, of_within = 2 * between**2 / (n_students - 1), 2 * within**2 / (2 * n_students)
        truth = (of_between + of_within / 9, of_within, of_between + of_within * 4 / 9)
        for name, expected in zip(COMPONENTS, truth, strict=True):
            squared = c.standard_error[name].values ** 2
            assert abs(squared.mean() - expected) < 4 * squared.std() / n_tables**0.5, name

    def test_standard_errors_follow_skewed_students(self):
        """Exponential students: the variance of their sample variance is mu4/n - sigma^4 (n-3)/(n(n-1)), mu4 = 9."""
        n_students, n_tables = 100, 20_000
        y = np.random.default_rng(8).exponential(size=(n_students, 1, n_tables))
        c = estimate_components(y, variances=0)
        truth = 9 / n_students - (n_students - 3) / (n_students * (n_students - 1))
        realised = c.inter_student.values.var()
        squared = c.standard_error["inter_student"].values ** 2
        assert abs(realised / truth - 1) < 0.1
        bias_bound = 3 * truth / n_students  # of order 1/n: the fourth moment is estimated around the sample mean
        assert abs(squared.mean() - truth) < 4 * squared.std() / n_tables**0.5 + bias_bound
        assert truth > 3 * 2 / (n_students - 1)  # the Gaussian formula would be far off

    def test_squared_error_against_the_unbiased_k_statistic(self):
        y = np.random.default_rng(9).gamma(3.0, size=(2000, 1, 5))
        c = estimate_components(y, variances=0)
        n, k2, k4 = 2000, kstat(y[:, 0], 2, axis=0), kstat(y[:, 0], 4, axis=0)
        unbiased = (2 * n * k2**2 + (n - 1) * k4) / (n * (n + 1))
        assert_allclose(c.standard_error["inter_student"].values[:, 0] ** 2, unbiased, rtol=5 / n)

    def test_average_errors_come_from_student_averages_and_agree_with_the_effective_rank(self):
        rng = np.random.default_rng(10)
        root = np.linalg.cholesky(np.exp(-np.abs(np.subtract.outer(np.arange(8), np.arange(8))) / 3))
        y = rng.normal(size=(20_000, 1, 8)) @ root.T
        c = estimate_components(y, variances=0)
        covariance = root @ root.T
        assert_allclose(c.attrs["effective_rank"], np.trace(covariance) ** 2 / np.square(covariance).sum(), rtol=0.05)
        by_rank = c.standard_error["inter_student"].values.mean() / c.attrs["effective_rank"] ** 0.5
        assert_allclose(c.attrs["average_standard_error"]["inter_student"], by_rank, rtol=0.05)

    def test_negative_component_keeps_its_sign_and_warns(self):
        y = np.array([[1.0, -1.0], [-1.0, 1.0], [2.0, -2.0]])
        with pytest.warns(NegativeComponentWarning, match="negative at 1 of 1 points"):
            c = estimate_components(y)
        assert float(c.inter_student.squeeze()) == -2.0  # means 0, within (2 + 2 + 8) / 3 = 4, r = 2
        assert c.attrs["boundary"] is True

    @pytest.mark.parametrize(
        ("y", "degenerate"),
        [
            (np.repeat([[0.1], [0.7], [0.3]], 3, axis=1), ("within",)),
            (np.full((4, 3), 0.1), ("between", "within")),
            (np.tile([0.1, 0.2, 0.4], (4, 1)), ("between",)),
        ],
    )
    def test_degenerate_input_is_flagged(self, y, degenerate):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NegativeComponentWarning)
            c = estimate_components(y)
        assert c.attrs["degenerate"] == degenerate
        for name in COMPONENTS:
            assert np.isfinite(c.interval()[name]).all()
            assert np.isfinite(c.average().interval()[name]).all()

    def test_two_students(self):
        c = estimate_components([[1.0, 3.0], [5.0, 7.0]])
        assert float(c.inter_student.squeeze()) == 7.0
        assert float(c.standard_error["intra_student"].squeeze()) == (2 * 4 / (2 + 2)) ** 0.5
        assert c.attrs["effective_rank"] == 1.0


class TestKnownVariances:
    def test_inter_is_the_variance_of_means_and_intra_the_mean_of_variances(self):
        y, v = draw((20, 1, 3, 2)), np.random.default_rng(1).gamma(4, size=(20, 3, 2))
        c = estimate_components(y, variances=v)
        assert_allclose(c.inter_student, y[:, 0].var(0, ddof=1), rtol=1e-13)
        assert_allclose(c.intra_student, v.mean(0), rtol=1e-13)
        assert_allclose(c.standard_error["intra_student"], v.std(0, ddof=1) / 20**0.5, rtol=1e-13)
        assert c.mean_squares.attrs["n_replicates"] == 0
        assert_array_equal(c.student_predictions, y[:, 0])

    def test_total_error_includes_the_correlation_of_mean_and_variance(self):
        rng = np.random.default_rng(2)
        means = rng.normal(size=(4000, 1, 1))
        variances = means[:, 0] ** 2
        c = estimate_components(means, variances=variances)
        se = {name: float(c.standard_error[name].squeeze()) for name in COMPONENTS}
        assert_allclose(se["total"], se["inter_student"] + se["intra_student"], rtol=1e-2)

    def test_number_for_all_students(self):
        zero, two = (estimate_components(draw((20, 1, 3, 2)), variances=v) for v in (0, 2.0))
        assert_array_equal(zero.intra_student, 0.0)
        assert_array_equal(two.intra_student, 2.0)
        assert_array_equal(two.standard_error["intra_student"], 0.0)
        assert zero.attrs["degenerate"] == ("within",)

    def test_missing_trailing_dims(self):
        y, v = np.random.default_rng(0).normal(size=(9, 1, 4)), np.ones((9, 4))
        assert estimate_components(y, variances=v).total.shape == (4, 1)
        assert estimate_components(y[..., 0], variances=v[:, 0]).total.shape == (1, 1)


class TestLabels:
    def test_dims_by_name_in_any_order(self):
        y = draw()
        table = xr.DataArray(
            y,
            dims=("student", "replicate", "point", "output"),
            coords={"point": ["a", "b", "c"], "output": ["u", "v"], "student": list("abcdefghijklmnopqrstuvwxyzABCD")},
        )
        c = estimate_components(table.transpose("output", "point", "student", "replicate"))
        assert_array_equal(c.total, estimate_components(y).total)
        assert list(c.total.point.values) == ["a", "b", "c"]
        assert list(c.total.output.values) == ["u", "v"]
        assert c.student_predictions.student.values[3] == "d"
        assert list(c.interval().point.values) == ["a", "b", "c"]

    def test_point_labels(self):
        c = estimate_components(draw(), point_labels=[("x", 1), ("x", 2), ("y", 1)])
        assert c.total.point.values[1] == ("x", 2)
        with pytest.raises(ProblemError, match="`point_labels` must have 3 labels; got 2"):
            estimate_components(draw(), point_labels=["a", "b"])

    def test_provenance(self):
        c = estimate_components(draw(), engine="linear", attrs={"seed": 7})
        assert (c.engine, c.attrs["seed"]) == ("linear", 7)
        assert "numpy" in c.attrs["versions"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("predictions", "options", "message"),
        [
            (np.ones((1, 5, 2)), {}, "`n_students` must be at least 2 .* got 1"),
            (np.ones((5, 1, 2)), {}, "`n_replicates` must be at least 2 to identify intra-student variance; got 1"),
            (
                np.ones((5, 2, 2)),
                {"variances": np.ones((5, 2))},
                "`n_replicates` must be 1 where `variances` are given",
            ),
            (np.ones((5, 1, 2)), {"variances": np.ones((5, 3))}, r"`variances` must have shape \(5, 2, 1\)"),
            (np.ones((5, 1, 2)), {"variances": np.ones((1, 2))}, r"`variances` must have shape .* got shape \(1, 2\)"),
            (np.ones((5, 1, 2)), {"variances": -1.0}, "`variances` must be at least 0"),
            (np.ones((5, 1, 2)), {"variances": np.nan}, "variances` must be finite"),
            (np.ones(5), {}, r"`predictions` must have the dims .* got shape \(5,\)"),
            (np.ones((2, 2, 2, 2, 2)), {}, r"`predictions` must have the dims"),
            (np.ones((0, 2)), {}, "`predictions` must not be empty"),
            ([[1.0, 2.0], [3.0]], {}, "rows of lengths 1, 2"),
            ([["a", "b"], ["c", "d"]], {}, "must hold real numbers"),
            (np.ones((3, 2), dtype=complex), {}, "must hold real numbers; got dtype complex128"),
            (np.ma.masked_array(np.ones((3, 2)), [[1, 0]] * 3), {}, "no masked entries"),
            (np.array([[1e200, -1e200], [0, 1e200]]), {}, "small enough to square"),
            (xr.DataArray(np.ones((3, 2)), dims=("student", "time")), {}, "`predictions` must have the dim student"),
            (xr.DataArray(np.ones((3, 2)), dims=("point", "replicate")), {}, "`predictions` must have the dim student"),
            (xr.Dataset(), {}, "be a DataArray or array; got a Dataset"),
        ],
    )
    def test_one_clear_line(self, predictions, options, message):
        with pytest.raises((EstimationError, ProblemError), match=message) as caught:
            estimate_components(predictions, **options)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_not_finite_names_the_student(self, bad):
        table = xr.DataArray(
            draw((5, 2, 3, 1)), dims=("student", "replicate", "point", "output"), coords={"student": list("abcde")}
        )
        table[3, 1, 2, 0] = bad
        with pytest.raises(EstimationError, match=f"got {bad} for student 'd', replicate 1, point 2, output 0"):
            estimate_components(table)
        table[1] = bad
        with pytest.raises(EstimationError, match=r"student 'b'.*2 of 5 students affected"):
            estimate_components(table)

    def test_variances_with_other_labels(self):
        y = xr.DataArray(np.ones((3, 1, 2)), dims=("student", "replicate", "point"), coords={"point": ["a", "b"]})
        v = xr.DataArray(np.ones((3, 2)), dims=("student", "point"), coords={"point": ["b", "a"]})
        with pytest.raises(EstimationError, match="`variances` must have the point labels of the predictions"):
            estimate_components(y, variances=v)
        with pytest.raises(EstimationError, match="`variances` must have the dims"):
            estimate_components(y, variances=v.rename(point="place"))


class TestEffectiveRank:
    @pytest.mark.parametrize(("n", "m"), [(12, 40), (40, 12)])
    def test_both_traces_are_unbiased_so_the_ratio_of_their_means_is_the_rank(self, n, m):
        rng = np.random.default_rng(4)
        scales = np.linspace(0.2, 2.0, m)
        truth = (scales**2).sum() ** 2 / (scales**4).sum()
        ranks, plain = [], []
        for _ in range(400):
            x = rng.normal(size=(n, m)) * scales
            x -= x.mean(0)
            ranks.append(effective_rank(x, df=n - 1))
            gram = x @ x.T
            plain.append(np.trace(gram) ** 2 / np.square(gram).sum())
        standard_error = np.std(ranks) / 20
        second_order = np.var(ranks) / truth  # a ratio of unbiased traces is biased by about its variance
        assert abs(np.mean(ranks) - truth) < 4 * standard_error + second_order
        assert truth - np.mean(plain) > abs(np.mean(ranks) - truth) + 4 * np.std(plain) / 20

    def test_bounds(self):
        rng = np.random.default_rng(6)
        common = rng.normal(size=(50, 1)) @ np.ones((1, 7))
        assert_allclose(effective_rank(common - common.mean(0), df=49), 1.0)
        independent = rng.normal(size=(50, 7))
        assert 5 < effective_rank(independent - independent.mean(0), df=49) <= 7
        assert effective_rank(np.zeros((5, 3)), df=4) == 1.0
        assert effective_rank(np.ones((2, 3)), df=1) == 1.0
