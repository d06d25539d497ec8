"""Pictures of results: each function takes results, returns a matplotlib Figure, and touches no global state.

Every Figure carries its alternative text as its label (``figure.get_label()``), so that a report can
say in words what the picture shows.
"""

from kdstats.plots.against_noise import components_against_noise
from kdstats.plots.against_responses import components_against_responses
from kdstats.plots.by_source import variance_by_source
from kdstats.plots.convergence import convergence
from kdstats.plots.frontier import frontier
from kdstats.plots.mse_distribution import mse_distribution
from kdstats.plots.predicted_against_observed import predicted_against_observed

__all__ = [
    "components_against_noise",
    "components_against_responses",
    "convergence",
    "frontier",
    "mse_distribution",
    "predicted_against_observed",
    "variance_by_source",
]
