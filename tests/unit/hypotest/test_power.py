import math

import numpy as np
import pytest

from kdstats.errors import ProblemError
from kdstats.hypotest import (
    adjust_pvalues,
    df_for_equality,
    df_for_equivalence,
    equality_power,
    equivalence_power,
    students_for_equality,
    students_for_equivalence,
)
from kdstats.hypotest.power import df_to_decide
from kdstats.hypotest.ratio_law import ScaleLaw


@pytest.mark.parametrize(("margin", "df"), [(1.25, 345), (1.5, 106), (2.0, 37)])
def test_degrees_of_freedom_for_equivalence_against_theory(margin, df):
    assert math.ceil(df_for_equivalence(margin)) == df


def test_power_is_level_at_the_null_and_at_the_margin():
    assert equality_power(1.0, df=33.0) == pytest.approx(0.05)
    assert equivalence_power(1000.0, margin=1.5, ratio=1.5) == pytest.approx(0.05, abs=1e-6)
    assert equivalence_power(5.0, margin=1.1) == 0.0


def test_students_have_at_least_the_degrees_of_freedom():
    n = students_for_equality(1.5, effective_rank=4.0)
    assert equality_power(1.5, df=(n - 1) * 4.0) >= 0.8 > equality_power(1.5, df=(n - 2) * 4.0)
    n = students_for_equivalence(1.5, effective_rank=4.0)
    assert equivalence_power((n - 1) * 4.0) >= 0.8 > equivalence_power((n - 2) * 4.0)


def test_no_number_of_students_decides_the_undecidable():
    assert df_for_equality(1.0) == math.inf
    assert students_for_equality(1.0, effective_rank=3.0) is None
    assert students_for_equivalence(1.5, effective_rank=3.0, ratio=1.6) is None
    assert df_for_equivalence(1.5, df_denominator=20.0) == math.inf


@pytest.mark.parametrize("df_denominator", [math.inf, 2000.0])
def test_beyond_df_to_decide_no_ratio_is_undecided(df_denominator):
    """Equality rejects or equivalence succeeds for every ratio; just below, some ratio is left over."""
    margin, alpha = 1.5, 0.05

    def undecided(df):
        law = ScaleLaw(df=df, df_denominator=df_denominator)
        ratios = np.linspace(0.3, 3.0, 20_001)
        accepted = (ratios > law.quantile(alpha / 6)) & (ratios < law.quantile(1 - alpha / 6))
        equivalent = (ratios * margin >= law.quantile(1 - alpha)) & (ratios / margin <= law.quantile(alpha))
        return int((accepted & ~equivalent).sum())

    df = df_to_decide(margin, significance=alpha, significance_equality=alpha / 3, df_denominator=df_denominator)
    assert undecided(df * 1.001) == 0
    assert undecided(df * 0.9) > 0


def test_adjusted_pvalues_keep_their_shape_and_match_holm_by_hand():
    raw = np.array([[0.01, 0.04], [0.03, 0.005]])
    np.testing.assert_allclose(adjust_pvalues(raw), [[0.03, 0.06], [0.06, 0.02]])
    np.testing.assert_allclose(adjust_pvalues([0.2, 0.01, 0.03], method="fdr_bh"), [0.2, 0.03, 0.045])
    np.testing.assert_allclose(adjust_pvalues([0.2]), [0.2])


def test_unknown_multiplicity_is_named():
    with pytest.raises(ProblemError, match=r"`multiplicity` must be one of holm, .*; got 'none'"):
        adjust_pvalues([0.1, 0.2], method="none")


@pytest.mark.parametrize("call", [lambda: equality_power(-1.0, df=3.0), lambda: equivalence_power(3.0, margin=1.0)])
def test_bad_numbers_are_refused(call):
    with pytest.raises(ProblemError, match="must be greater than"):
        call()
