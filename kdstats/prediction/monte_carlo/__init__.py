"""Monte Carlo: simulate the students of a problem by the thousand and keep only their moments."""

from kdstats.prediction.monte_carlo.engine import predict

__all__ = ["predict"]
