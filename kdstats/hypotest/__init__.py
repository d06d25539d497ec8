"""Tests of a prediction against an observation; knows only VarianceComponents.

``compare`` runs them together and gives a verdict; each is a function of its own here.
"""

from kdstats.hypotest.conservation import ConservationResult, conservation_test
from kdstats.hypotest.covariance import CovarianceResult, covariance_test
from kdstats.hypotest.equality import EqualityResult, PointwiseResult, equality_test, pointwise_test
from kdstats.hypotest.equivalence import EquivalenceResult, equivalence_test
from kdstats.hypotest.homogeneity import HomogeneityResult, homogeneity_test
from kdstats.hypotest.mse import MseResult, mse_test, student_mse
from kdstats.hypotest.multiplicity import adjust_pvalues
from kdstats.hypotest.ordering import OrderingResult, ordering_test
from kdstats.hypotest.power import (
    df_for_equality,
    df_for_equivalence,
    equality_power,
    equivalence_power,
    ratio_power,
    students_for_equality,
    students_for_equivalence,
    students_for_mean,
    students_for_rate,
    students_for_ratio,
    students_until_decided,
)
from kdstats.hypotest.rate import FloorResult, RateResult, rate_test
from kdstats.hypotest.ratio import RatioResult, ratio_test
from kdstats.hypotest.ratio_law import ConfidenceInterval
from kdstats.hypotest.sequential import SequentialResult, SequentialTest, sequential_test
from kdstats.hypotest.sequential_ratio import SequentialRatioTest, sequential_ratio_test
from kdstats.hypotest.verdict import Comparison, compare

__all__ = [
    "Comparison",
    "ConfidenceInterval",
    "ConservationResult",
    "CovarianceResult",
    "EqualityResult",
    "EquivalenceResult",
    "FloorResult",
    "HomogeneityResult",
    "MseResult",
    "OrderingResult",
    "PointwiseResult",
    "RateResult",
    "RatioResult",
    "SequentialRatioTest",
    "SequentialResult",
    "SequentialTest",
    "adjust_pvalues",
    "compare",
    "conservation_test",
    "covariance_test",
    "df_for_equality",
    "df_for_equivalence",
    "equality_power",
    "equality_test",
    "equivalence_power",
    "equivalence_test",
    "homogeneity_test",
    "mse_test",
    "ordering_test",
    "pointwise_test",
    "rate_test",
    "ratio_power",
    "ratio_test",
    "sequential_ratio_test",
    "sequential_test",
    "student_mse",
    "students_for_equality",
    "students_for_equivalence",
    "students_for_mean",
    "students_for_rate",
    "students_for_ratio",
    "students_until_decided",
]
