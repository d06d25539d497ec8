"""Bayesian linear students in closed form, and by exact fits where a student adapts to its labels."""

from kdstats.prediction.conjugate.calibration import PredictiveCalibration, predictive_calibration
from kdstats.prediction.conjugate.engine import predict

__all__ = ["PredictiveCalibration", "predict", "predictive_calibration"]
