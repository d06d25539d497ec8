from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from kdstats.components.estimation import estimate_components
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.components.uncertainty import average, interval
from kdstats.errors import EstimationError, ProblemError


def sampled(seed=0, n=40, r=3, m=4):
    rng = np.random.default_rng(seed)
    return estimate_components(
        rng.normal(size=(n, 1, m)).cumsum(-1) + 0.5 * rng.normal(size=(n, r, m)), point_labels=list("abcdefgh")[:m]
    )


def known(seed=0, n=40, m=4):
    rng = np.random.default_rng(seed)
    return estimate_components(rng.normal(size=(n, 1, m)).cumsum(-1), variances=rng.gamma(5, size=(n, m)))


def plain(**options):
    fields = {"inter_student": [[1.0], [3.0]], "intra_student": [[2.0], [2.0]], "point_labels": ["a", "b"]}
    return VarianceComponents.from_arrays(**{**fields, **options})


EXACT = {"engine": "closed_form", "exactness": "exact"}
SIMULATED = {"engine": "monte_carlo", "exactness": "simulated"}


class TestInterval:
    def test_exact_has_no_width(self):
        bounds = interval(plain(attrs=EXACT))
        for name in COMPONENTS:
            assert bounds[name].dims == ("point", "output", "ci_bound")
            assert_array_equal(bounds[name].sel(ci_bound="lower"), bounds[name].sel(ci_bound="upper"))
        assert list(bounds.point.values) == ["a", "b"]

    def test_simulated_is_gaussian(self):
        bounds = interval(plain(attrs=SIMULATED, inter_student_se=0.1, total_se=0.2), 0.9)
        assert_allclose(
            bounds["inter_student"][:, 0, 1], [1 + 0.1 * stats.norm.ppf(0.95), 3 + 0.1 * stats.norm.ppf(0.95)]
        )
        assert_allclose(bounds["intra_student"].diff("ci_bound"), 0)

    def test_draws_give_quantiles(self):
        rng = np.random.default_rng(0)
        inter, intra = rng.gamma(3, size=(2, 4, 500, 2, 1))
        dims = ("chain", "draw", "point", "output")
        draws = xr.Dataset({n: (dims, v) for n, v in zip(COMPONENTS, (inter, intra, inter + intra), strict=True)})
        c = plain(attrs={"engine": "bayes", "exactness": "simulated"}, draws=draws)
        assert_allclose(interval(c, 0.8)["total"][1, 0], np.quantile((inter + intra)[:, :, 1], [0.1, 0.9]))
        mean = average(c)
        assert_allclose(mean.standard_error["total"], (inter + intra).mean(axis=(2, 3)).std())
        assert_allclose(interval(mean, 0.8)["total"][0, 0], np.quantile((inter + intra).mean(axis=(2, 3)), [0.1, 0.9]))

    def test_within_and_known_between_are_chi_square(self):
        c = sampled()
        w, df = c.intra_student.values, 80
        expected = np.stack([df * w / stats.chi2.ppf(0.975, df), df * w / stats.chi2.ppf(0.025, df)], axis=-1)
        assert_allclose(interval(c)["intra_student"], expected, rtol=1e-12)
        k = known()
        b, df = k.inter_student.values, 39
        expected = np.stack([df * b / stats.chi2.ppf(0.975, df), df * b / stats.chi2.ppf(0.025, df)], axis=-1)
        assert_allclose(interval(k)["inter_student"], expected, rtol=1e-12)
        width = stats.t.ppf(0.975, 39) * k.standard_error["intra_student"].values
        assert_allclose(interval(k)["intra_student"].values[..., 1] - k.intra_student.values, width)

    def test_inter_lower_bound_is_zero_exactly_where_the_f_test_is_at_its_level(self):
        """The modified large-sample bound is built to agree with the F test: 0 where MSB/MSW is the F quantile."""
        c = sampled(m=1)
        ratio = stats.f.ppf(0.975, 39, 80)
        squares = c.mean_squares.copy()
        squares["within"] = squares["between"] * 3 / ratio
        within = squares["within"].values
        inter = squares["between"].values - within / 3
        moved = VarianceComponents.from_arrays(
            inter_student=inter, intra_student=within, point_labels=[0], attrs=c.attrs, mean_squares=squares
        )
        assert_allclose(interval(moved)["inter_student"][..., 0] / inter, 0, atol=1e-12)

    def test_known_total_of_deterministic_students_is_the_shifted_inter(self):
        rng = np.random.default_rng(0)
        c = estimate_components(rng.normal(size=(20, 1, 3)), variances=2.0)
        bounds = interval(c)
        assert_allclose(bounds["total"], bounds["inter_student"] + 2.0, rtol=1e-12)
        assert_array_equal(bounds["intra_student"], 2.0)

    def test_any_law_widens_for_heavy_tails_and_agrees_for_gaussian(self):
        rng = np.random.default_rng(1)
        heavy = estimate_components(rng.laplace(size=(2000, 1, 5)), variances=0)
        gaussian = estimate_components(rng.normal(size=(2000, 1, 5)), variances=0)

        def ratio(c):
            width = [
                c.interval(students=law)["inter_student"].diff("ci_bound").mean().item() for law in ("any", "gaussian")
            ]
            return width[0] / width[1]

        assert ratio(gaussian) == pytest.approx(1, abs=0.06)
        assert ratio(heavy) == pytest.approx(
            (5 / 2) ** 0.5, rel=0.15
        )  # kurtosis 6: variance of s^2 is 5/2 times the Gaussian

    def test_refusals(self):
        c = sampled()
        bare = replace(c, mean_squares=c.mean_squares.drop_vars(["between_se", "within_se"]))
        with pytest.raises(EstimationError, match="`students` must be 'gaussian'"):
            interval(bare, students="any")
        with pytest.raises(ProblemError, match="`students` must be one of"):
            interval(c, students="cauchy")
        with pytest.raises(ProblemError, match="`prob` must be less than 1"):
            c.interval(1.0)


class TestAverage:
    @pytest.mark.parametrize("make", [sampled, known])
    def test_means_and_invariants(self, make):
        c = make()
        mean = c.average()
        for name in COMPONENTS:
            assert_allclose(mean.estimate[name].item(), c.estimate[name].values.mean())
            assert mean.standard_error[name].item() == c.attrs["average_standard_error"][name]
        assert list(mean.total.point.values) == ["average"]
        assert_allclose(mean.mean_squares["between"].item(), c.mean_squares["between"].values.mean())
        assert c.estimate.sizes["point"] == 4
        assert c.mean_squares.attrs["df_between"] == 39

    @pytest.mark.parametrize("make", [sampled, known])
    def test_degrees_of_freedom_are_those_of_the_sample_covariance(self, make):
        c = make()
        means = c.student_predictions.values[..., 0]
        covariance = np.cov(means.T)
        rank = np.trace(covariance) ** 2 / np.square(covariance).sum()
        assert_allclose(c.average().mean_squares.attrs["df_between"], 39 * rank, rtol=1e-10)
        assert rank < c.attrs["effective_rank"]

    @pytest.mark.parametrize("make", [sampled, known])
    def test_averaging_twice_changes_nothing(self, make):
        once = make().average()
        twice = once.average()
        xr.testing.assert_allclose(twice.estimate, once.estimate)
        xr.testing.assert_allclose(twice.standard_error, once.standard_error)
        xr.testing.assert_allclose(twice.mean_squares, once.mean_squares)
        assert twice.mean_squares.attrs == pytest.approx(once.mean_squares.attrs)

    def test_one_point_is_its_own_average(self):
        c = sampled(m=1)
        xr.testing.assert_allclose(c.average().interval().drop_vars("point"), c.interval().drop_vars("point"))

    def test_exact_stays_exact(self):
        mean = plain(attrs=EXACT).average()
        assert mean.exactness == "exact"
        assert mean.inter_student.item() == 2.0
        assert mean.standard_error["total"].item() == 0.0

    def test_simulated_uses_the_rank_and_without_it_counts_points_as_one(self):
        errors = {"inter_student_se": 0.4, "intra_student_se": 0.1, "total_se": 0.5}
        one = plain(attrs=SIMULATED, **errors).average().standard_error
        assert one["inter_student"].item() == pytest.approx(0.4)
        assert one["total"].item() == pytest.approx(0.5)
        four = plain(attrs={**SIMULATED, "effective_rank": 4.0}, **errors).average().standard_error
        assert four["inter_student"].item() == pytest.approx(0.2)
        assert four["intra_student"].item() == pytest.approx(0.1)
        assert four["total"].item() == pytest.approx(0.3)

    def test_leading_dims_stay(self):
        values = np.arange(12.0).reshape(3, 2, 2)
        c = VarianceComponents.from_arrays(
            inter_student=values,
            intra_student=1.0,
            inter_student_se=1.0,
            point_labels=["a", "b"],
            leading={"n_responses": [1, 2, 5]},
            attrs={**SIMULATED, "effective_rank": np.array([1.0, 4.0, 9.0])},
        )
        mean = c.average()
        assert mean.total.dims == ("n_responses", "point", "output")
        assert list(mean.total.n_responses.values) == [1, 2, 5]
        assert_allclose(mean.inter_student.squeeze(), values.mean(axis=(1, 2)))
        assert_allclose(mean.standard_error["inter_student"].squeeze(), [1, 1 / 2, 1 / 3])

    def test_record_of_one_cell_is_not_used_for_a_grid(self):
        c = VarianceComponents.from_arrays(
            inter_student=np.ones((2, 2, 1)),
            intra_student=1.0,
            inter_student_se=np.array([0.1, 0.4])[:, None, None],
            point_labels=["a", "b"],
            leading={"k": [1, 2]},
            attrs={**SIMULATED, "average_standard_error": {"inter_student": 9.0, "intra_student": 9.0, "total": 9.0}},
        )
        assert_allclose(c.average().standard_error["inter_student"].squeeze(), [0.1, 0.4])

    def test_mean_squares_of_another_source_use_the_rank(self):
        c = sampled()
        attrs = {name: value for name, value in c.attrs.items() if name != "average_standard_error"}
        other = replace(c, attrs=attrs).average()
        expected = c.mean_squares["between_se"].values.mean() / c.attrs["effective_rank"] ** 0.5
        assert other.mean_squares["between_se"].item() == pytest.approx(expected)
        assert other.mean_squares.attrs == c.average().mean_squares.attrs
        unknown = replace(c, attrs={"engine": "table", "exactness": "observed"}).average()
        assert unknown.mean_squares.attrs["df_between"] == pytest.approx(39)
        assert unknown.mean_squares.attrs["df_within"] == pytest.approx(80)
