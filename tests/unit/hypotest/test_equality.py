import numpy as np
import pytest
from scipy import stats

from kdstats.errors import ComparisonError, ProblemError
from kdstats.hypotest import equality_test, equivalence_test, pointwise_test


def test_one_point_against_the_chi_square_test(make_predicted, make_observed, with_variance):
    result = equality_test(make_predicted([1.0]), make_observed(with_variance([1.4], 31)), kurtosis="gaussian")
    q = 30 * 1.4
    assert result.statistic == pytest.approx(1.4)
    assert result.df == 30
    assert result.pvalue == pytest.approx(2 * stats.chi2.sf(q, 30))
    low, high = result.confidence_interval(0.9)
    assert (low, high) == pytest.approx((q / stats.chi2.ppf(0.95, 30), q / stats.chi2.ppf(0.05, 30)))


@pytest.mark.parametrize(("alternative", "tail"), [("greater", stats.chi2.sf), ("less", stats.chi2.cdf)])
def test_one_sided_alternatives(make_predicted, make_observed, with_variance, alternative, tail):
    observed = make_observed(with_variance([1.4], 31))
    result = equality_test(make_predicted([1.0]), observed, alternative=alternative, kurtosis="gaussian")
    assert result.pvalue == pytest.approx(tail(42, 30))


def test_degrees_of_freedom_come_from_the_rank_not_from_the_number_of_points(
    make_predicted, make_observed, with_variance
):
    observed = make_observed(with_variance(np.ones(20), 11))
    assert equality_test(make_predicted(np.ones(20), effective_rank=2.5), observed, kurtosis="gaussian").df == 25


def test_known_intra_against_students_t(make_predicted, make_observed, with_variance):
    observed = make_observed(with_variance([1.0], 25), within=1.1, within_se=0.05)
    result = equality_test(make_predicted([1.0], intra=1.0), observed, component="intra_student")
    assert result.pvalue == pytest.approx(2 * stats.t.sf(0.1 / 0.05, 24))
    low, high = result.confidence_interval()
    assert (low + high) / 2 == pytest.approx(1.1)


def test_intra_without_spread_is_equal_or_not(make_predicted, make_observed, with_variance):
    values = with_variance([1.0], 25)
    same = equality_test(make_predicted([1.0], intra=1.0), make_observed(values, within=1.0), component="intra_student")
    other = equality_test(
        make_predicted([1.0], intra=1.0), make_observed(values, within=1.1), component="intra_student"
    )
    assert (same.pvalue, other.pvalue) == (1.0, 0.0)
    none = equality_test(make_predicted([1.0]), make_observed(values), component="intra_student")
    assert none.pvalue == 1.0


def test_total_combines_both_parts(make_predicted, make_observed, with_variance):
    observed = make_observed(with_variance([1.0], 25), within=2.6, within_se=0.1)
    result = equality_test(make_predicted([1.0], intra=2.0), observed, component="total", kurtosis="gaussian")
    assert result.statistic == pytest.approx(1.2)
    df = 2 * 3.0**2 / (2 / 24 + 0.01)
    chi_square, t = stats.chi2.sf(1.2 * df, df), stats.t.sf(0.6 / np.sqrt(2 / 24 + 0.01), 24)
    assert result.pvalue == pytest.approx(2 * max(chi_square, t))
    low, high = result.confidence_interval()
    assert low < 1.0 < high


def test_total_uses_the_recorded_standard_error(make_predicted, make_observed, with_variance):
    observed = make_observed(with_variance([1.0], 25), within=2.6, within_se=0.1, average_standard_error={"total": 0.2})
    result = equality_test(make_predicted([1.0], intra=2.0), observed, component="total")
    t, df = stats.t.sf(0.6 / 0.2, 24), 2 * 3.0**2 / (2 / 24 + 0.01)
    assert result.pvalue == pytest.approx(2 * max(t, stats.chi2.sf(1.2 * df, df)))
    uncertain = make_observed(
        with_variance([1.0], 25), within=2.6, within_se=0.1, average_standard_error={"total": 0.9}
    )
    more = equality_test(make_predicted([1.0], intra=2.0), uncertain, component="total")
    assert more.df == pytest.approx(2 * 3.6**2 / 0.9**2)
    assert more.pvalue > result.pvalue


def test_sampled_outputs_use_the_spread_given_each_students_variance(make_predicted, make_observed, with_variance):
    """Variances that differ between students are in the student means too, and cancel."""
    observed = make_observed(
        with_variance([1.5], 40), within=1.5, within_se=0.3, n_replicates=3, df_within=80, effective_rank_within=1.0
    )
    result = equality_test(make_predicted([1.0], intra=1.5), observed, kurtosis="gaussian")
    assert result.df_denominator == pytest.approx(2 * 1.5**2 / (0.5**2 * 2 / 80))
    recorded = make_observed(
        with_variance([1.5], 40),
        within=1.5,
        n_replicates=3,
        df_within=80,
        average_standard_error={"inter_student": 0.4},
    )
    estimated = equality_test(make_predicted([1.0], intra=1.5), recorded, kurtosis="estimated")
    assert estimated.df == pytest.approx(2 * 1.5**2 / 0.4**2)
    assert estimated.df_denominator == np.inf


def test_sampled_outputs_are_taken_out_of_the_student_means(make_predicted, make_observed, with_variance):
    """Between 1.5 = inter 1 + intra 1.5/3."""
    observed = make_observed(with_variance([1.5], 40), within=1.5, within_se=0.3, n_replicates=3)
    result = equality_test(make_predicted([1.0], intra=9.0), observed, kurtosis="gaussian")
    assert result.statistic == pytest.approx(1.0)
    assert result.df_denominator == pytest.approx(2 * 1.5**2 / 0.1**2)


def test_one_output_per_student_identifies_the_total_only(make_predicted, make_observed, with_variance):
    observed = make_observed(with_variance([3.0], 40), within=np.nan, n_replicates=1)
    result = equality_test(make_predicted([1.0], intra=2.0), observed, component="total", kurtosis="gaussian")
    assert result.statistic == pytest.approx(1.0)
    with pytest.raises(ComparisonError, match="at least 2 outputs per student"):
        equality_test(make_predicted([1.0], intra=2.0), observed)


def test_zero_predicted(make_predicted, make_observed, with_variance):
    none = equality_test(make_predicted([0.0, 0.0]), make_observed(np.full((9, 2), 3.7)))
    some = equality_test(make_predicted([0.0, 0.0]), make_observed(with_variance([1.0, 0.0])))
    assert none.pvalue == 1.0
    assert np.isnan(none.statistic)
    assert some.pvalue == 0.0
    assert some.statistic == np.inf
    assert some.confidence_interval() == (np.inf, np.inf)


def test_rounding_of_equal_predictions_is_zero_variance(make_predicted, make_observed):
    values = np.full((9, 1), 0.1)
    values[::2] += np.spacing(0.1)
    assert values.var() > 0
    assert equality_test(make_predicted([0.0]), make_observed(values)).pvalue == 1.0


def test_points_of_zero_variance_among_others(make_predicted, make_observed, with_variance):
    result = pointwise_test(make_predicted([0.0, 1.0]), make_observed(with_variance([0.0, 1.0])))
    assert result.pvalues[0, 0] == 1.0
    result = pointwise_test(make_predicted([0.0, 1.0]), make_observed(with_variance([1e-3, 1.0])))
    assert result.pvalue == 0.0
    assert result.worst == (0, 0)


def test_pointwise_names_the_worst_point(make_predicted, make_observed, with_variance):
    values = with_variance([1.0, 4.0, 1.1], 60)
    result = pointwise_test(
        make_predicted([1.0] * 3, labels="abc"), make_observed(values, labels="abc"), multiplicity="fdr_bh"
    )
    assert result.worst == ("b", 0)
    assert result.adjusted_pvalues[1, 0] == pytest.approx(3 * result.pvalues[1, 0])
    low, high = result.confidence_interval(0.95)
    assert low.shape == high.shape == (3, 1)
    assert low[1, 0] > 2
    beyond = result.beyond(1.5)
    assert beyond[1, 0] < 1e-3
    assert beyond[0, 0] == 1.0


def test_pointwise_uses_an_f_law_for_a_prediction_with_error(make_predicted, make_observed, with_variance):
    predicted = make_predicted([1.0], se=np.sqrt(2 / 30), exactness="simulated")
    result = pointwise_test(predicted, make_observed(with_variance([1.8], 41)))
    assert result.pvalue == pytest.approx(2 * stats.f.sf(1.8, 40, 30))
    low, high = result.confidence_interval()
    assert low[0, 0] == pytest.approx(1.8 / stats.f.ppf(0.975, 40, 30))
    assert high[0, 0] == pytest.approx(1.8 / stats.f.ppf(0.025, 40, 30))


def test_estimated_kurtosis_from_the_spread_of_squared_distances(make_predicted, make_observed):
    values = np.random.default_rng(1).standard_t(5, size=(300, 1))
    result = equality_test(make_predicted([5 / 3]), make_observed(values), kurtosis="estimated")
    squares = (values[:, 0] - values.mean()) ** 2
    assert result.df == pytest.approx(2 * 299 * squares.mean() ** 2 / squares.var(ddof=1))
    with pytest.raises(ComparisonError, match="student_predictions"):
        equality_test(make_predicted([1.0]), make_observed(values, keep=False), kurtosis="estimated")


def test_bad_choices_are_named(make_predicted, make_observed, with_variance):
    pair = make_predicted([1.0]), make_observed(with_variance([1.0]))
    with pytest.raises(ProblemError, match="`component` must be one of inter_student"):
        equality_test(*pair, component="inter")
    with pytest.raises(ProblemError, match="`alternative` must be one of"):
        equality_test(*pair, alternative="both")
    with pytest.raises(ProblemError, match="`equivalence_margin` must be greater than 1"):
        equivalence_test(*pair, margin=1.0)


def test_equivalence_is_the_interval_inside_the_margin(make_predicted, make_observed, with_variance):
    for variance in (0.6, 0.7, 0.8, 1.0, 1.2, 1.3, 1.4):
        observed = make_observed(with_variance([variance], 150))
        result = equivalence_test(make_predicted([1.0]), observed, margin=1.5, kurtosis="gaussian")
        low, high = result.confidence_interval(0.9)
        assert (result.pvalue <= 0.05) == (1 / 1.5 < low and high < 1.5)
        assert result.pvalue == max(result.pvalue_lower, result.pvalue_upper)
    q = 149 * 1.4
    assert result.pvalue_upper == pytest.approx(stats.chi2.cdf(q / 1.5, 149))
    assert result.pvalue_lower == pytest.approx(stats.chi2.sf(q * 1.5, 149))
