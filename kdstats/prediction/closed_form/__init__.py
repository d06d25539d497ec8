"""Closed forms for linear students: components, grids, the law of the test error, limits."""

from kdstats.prediction.closed_form.budget import BudgetPlan, fixed_budget_variance, optimal_responses
from kdstats.prediction.closed_form.common_mean import (
    GraybillDealWorst,
    MeierError,
    graybill_deal_beats_both,
    graybill_deal_variance,
    meier_standard_error,
)
from kdstats.prediction.closed_form.engine import predict
from kdstats.prediction.closed_form.grid import predict_grid
from kdstats.prediction.closed_form.high_dimensional import high_dimensional_variance
from kdstats.prediction.closed_form.mse import MSEDistribution, mse_distribution
from kdstats.prediction.closed_form.quadratic_form import QuadraticForm
from kdstats.prediction.closed_form.weighting import (
    OptimalWeight,
    estimated_gls_inflation,
    optimal_weight,
    published_oracle_gain,
)

__all__ = [
    "BudgetPlan",
    "GraybillDealWorst",
    "MSEDistribution",
    "MeierError",
    "OptimalWeight",
    "QuadraticForm",
    "estimated_gls_inflation",
    "fixed_budget_variance",
    "graybill_deal_beats_both",
    "graybill_deal_variance",
    "high_dimensional_variance",
    "meier_standard_error",
    "mse_distribution",
    "optimal_responses",
    "optimal_weight",
    "predict",
    "predict_grid",
    "published_oracle_gain",
]
