import json

import numpy as np
import pytest
import scipy.stats

import kdstats as kd
from kdstats.errors import ProblemError


def test_exact_agreement_with_many_students(make_predicted, make_observed, with_variance):
    verdict = kd.compare(make_predicted([1.0, 1.0]), make_observed(with_variance([1.0, 1.0], 500)))
    assert verdict.verdict == "agree"
    assert verdict.ratio == pytest.approx(1.0)
    assert verdict.n_students_needed is None
    assert set(verdict.tests) == {"equality", "equivalence", "pointwise", "intra_student", "total"}


def test_few_students_are_undecided_with_the_number_that_decides(make_predicted, make_observed, with_variance):
    verdict = kd.compare(make_predicted([1.0]), make_observed(with_variance([1.1], 12)))
    assert verdict.verdict == "undecided"
    needed = verdict.n_students_needed
    assert needed > 12
    for ratio in np.geomspace(0.6, 1.7, 13):
        later = kd.compare(make_predicted([1.0]), make_observed(with_variance([ratio], needed), keep=False))
        assert later.verdict in {"agree", "disagree"}


def test_wrong_by_a_factor(make_predicted, make_observed, with_variance):
    assert kd.compare(make_predicted([1.0]), make_observed(with_variance([1.5], 200))).verdict == "disagree"
    far = kd.compare(make_predicted([1.0]), make_observed(with_variance([4.0], 200)))
    assert "beyond the margin" in far.reason


def test_real_but_small_difference_agrees_and_says_so(make_predicted, make_observed, with_variance):
    verdict = kd.compare(make_predicted([1.0]), make_observed(with_variance([1.1], 20_000)))
    assert verdict.verdict == "agree"
    assert verdict.tests["equality"].pvalue < 1e-6
    assert "a difference, if real, is smaller" in verdict.reason


def test_one_wrong_point_is_not_hidden_by_the_average(make_predicted, make_observed, with_variance):
    variances = np.ones(40)
    variances[7] = 3.0
    verdict = kd.compare(make_predicted(np.ones(40), effective_rank=20.0), make_observed(with_variance(variances, 300)))
    assert verdict.tests["equivalence"].pvalue < 0.05
    assert verdict.verdict == "disagree"
    assert "at point 7" in verdict.reason


@pytest.mark.parametrize("exactness", ["approximate", "asymptotic"])
def test_inexact_predictions_are_judged_by_equivalence_alone(make_predicted, make_observed, with_variance, exactness):
    predicted = make_predicted([1.0], exactness=exactness)
    verdict = kd.compare(predicted, make_observed(with_variance([1.4], 200)))
    assert verdict.tests["equality"].pvalue < 0.05
    assert verdict.verdict == "undecided"
    assert any("judged by equivalence alone" in note for note in verdict.notes)
    assert verdict.n_students_needed > 200
    assert kd.compare(predicted, make_observed(with_variance([1.1], 400))).verdict == "agree"
    assert kd.compare(predicted, make_observed(with_variance([2.0], 400))).verdict == "disagree"
    outside = kd.compare(predicted, make_observed(with_variance([1.6], 100)))
    assert outside.verdict == "undecided"
    assert outside.n_students_needed > 100


def test_coarse_monte_carlo_prediction_is_not_decided_by_students(make_predicted, make_observed, with_variance):
    predicted = make_predicted([1.0], se=0.4, exactness="simulated")
    verdict = kd.compare(predicted, make_observed(with_variance([1.0], 100)))
    assert verdict.verdict == "undecided"
    assert verdict.n_students_needed is None
    assert "More students alone would not decide it" in verdict.summary()


def test_degenerate_observations(make_predicted, make_observed, with_variance):
    same = make_observed(np.full((20, 2), 1.3))
    verdict = kd.compare(make_predicted([1.0, 1.0]), same)
    assert verdict.verdict == "undecided"
    assert "degenerate" in verdict.reason
    assert kd.compare(make_predicted([0.0, 0.0]), same).verdict == "agree"
    assert kd.compare(make_predicted([0.0, 0.0]), make_observed(with_variance([1.0, 1.0]))).verdict == "disagree"


def test_heavy_tails_are_noted(make_predicted, make_observed):
    values = np.random.default_rng(2).standard_t(3, size=(500, 1))
    verdict = kd.compare(make_predicted([3.0]), make_observed(values))
    assert any("not Gaussian" in note for note in verdict.notes)


def test_one_output_per_student_gives_a_verdict_on_the_total(make_predicted, make_observed, with_variance):
    observed = make_observed(with_variance([3.0], 400), within=np.nan, n_replicates=1)
    verdict = kd.compare(make_predicted([1.0], intra=2.0), observed, component="total")
    assert verdict.verdict == "agree"
    assert any("only the total" in note for note in verdict.notes)


@pytest.mark.parametrize("component", ["inter_student", "intra_student", "total"])
def test_every_component_can_be_judged(make_predicted, make_observed, with_variance, component):
    observed = make_observed(with_variance([1.0], 400), within=2.0, within_se=0.05)
    verdict = kd.compare(make_predicted([1.0], intra=2.0), observed, component=component)
    assert verdict.verdict == "agree"
    assert verdict.component == component


def test_summary_frame_and_dict_tell_the_same(make_predicted, make_observed, with_variance):
    covariance = np.eye(2)[None]
    predicted = make_predicted([1.0, 1.0], covariance=covariance, problem="a" * 64)
    verdict = kd.compare(predicted, make_observed(with_variance([1.0, 1.2], 100), problem="b" * 64))
    text, frame, found = verdict.summary(), verdict.to_frame(), verdict.to_dict()
    assert all(len(line) <= 86 for line in text.splitlines())
    assert f"Verdict: {verdict.verdict.upper()}" in text
    assert "different problems" in text
    assert list(frame.index) == list(found["tests"]) == list(verdict.tests)
    assert json.loads(json.dumps(found, allow_nan=False))["verdict"] == verdict.verdict
    assert found["tests"]["equality"]["pvalue"] == verdict.tests["equality"].pvalue
    assert str(verdict) == text
    assert "ratio=" in repr(verdict)


def test_degenerate_verdict_is_valid_json(make_predicted, make_observed):
    verdict = kd.compare(make_predicted([0.0]), make_observed(np.ones((5, 1))))
    assert json.dumps(verdict.to_dict(), allow_nan=False)
    assert verdict.summary()


def test_confidence_level_and_margin_move_the_verdict(make_predicted, make_observed, with_variance):
    observed = make_observed(with_variance([1.2], 300))
    assert kd.compare(make_predicted([1.0]), observed, equivalence_margin=2.0).verdict == "agree"
    assert (
        kd.compare(make_predicted([1.0]), observed, equivalence_margin=1.05, confidence_level=0.9).verdict == "disagree"
    )
    with pytest.raises(ProblemError, match="`confidence_level` must be less than 1"):
        kd.compare(make_predicted([1.0]), observed, confidence_level=1.0)
    with pytest.raises(ProblemError, match="`multiplicity` must be one of"):
        kd.compare(make_predicted([1.0]), observed, multiplicity="none")


def sampled_students(inter, *, intra, n_students, n_replicates, n_points, rng):
    """Students whose means are known from sampled outputs only."""
    outputs = np.sqrt(inter) * rng.standard_normal((n_students, 1, n_points, 1))
    outputs = outputs + np.sqrt(intra) * rng.standard_normal((n_students, n_replicates, n_points, 1))
    return kd.estimate_components(outputs)


def test_margin_of_sampled_students_is_that_of_inter_not_of_their_means(make_predicted):
    """Inter at the margin, of means that intra/r dominates: agreement may be claimed at most at the level."""
    rng, predicted = np.random.default_rng(8), make_predicted([0.5] * 4, intra=4.0)
    shape = {"intra": 4.0, "n_students": 300, "n_replicates": 4, "n_points": 4, "rng": rng}
    found = [kd.equivalence_test(predicted, sampled_students(0.75, **shape)) for _ in range(300)]
    agreed = sum(test.pvalue <= 0.05 for test in found)
    assert scipy.stats.binomtest(agreed, 300, 0.05, alternative="greater").pvalue > 1e-3
    naive = sum(  # the margin on the variance of the means
        scipy.stats.chi2.cdf(test.df * test.ratio.value / 1.5, test.df) <= 0.05 for test in found
    )
    assert naive > 150
    assert np.mean([test.statistic for test in found]) == pytest.approx(1.5, abs=4 * 1.5 / np.sqrt(300))


def test_sampled_students_are_compared_on_the_scale_of_inter(make_predicted):
    observed = sampled_students(
        0.9, intra=4.0, n_students=600, n_replicates=4, n_points=4, rng=np.random.default_rng(3)
    )
    verdict = kd.compare(make_predicted([0.5] * 4, intra=4.0), observed)
    assert verdict.verdict == "disagree"
    inter = float(observed.inter_student.mean())
    assert verdict.ratio == pytest.approx(inter / 0.5)
    assert verdict.tests["equality"].observed == pytest.approx(inter)
    assert verdict.tests["equality"].predicted == pytest.approx(0.5)
    low, high = verdict.ratio_interval
    assert low < verdict.ratio < high
    assert any("known from 4 outputs each" in note for note in verdict.notes)
