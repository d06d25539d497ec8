"""What weighting by inverse variances gains or loses against plain averaging, for each estimator of the weights."""

from kdstats.prediction.weighting.gains import WeightingGain, WeightingGains, weighting_gains

__all__ = ["WeightingGain", "WeightingGains", "weighting_gains"]
