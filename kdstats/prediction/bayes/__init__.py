"""Bayesian students sampled with PyMC. The only room with PyMC and ArviZ in it."""

from kdstats.prediction.bayes.components import Diagnostics
from kdstats.prediction.bayes.engine import SampledStudents, observe, predict, sample_students
from kdstats.prediction.bayes.entropies import EntropyParts
from kdstats.prediction.bayes.methods import ADVI, NUTS, Laplace, Pathfinder, Reweighting
from kdstats.prediction.bayes.simulation import SimulationCalibration, simulation_calibration

__all__ = [
    "ADVI",
    "NUTS",
    "Diagnostics",
    "EntropyParts",
    "Laplace",
    "Pathfinder",
    "Reweighting",
    "SampledStudents",
    "SimulationCalibration",
    "observe",
    "predict",
    "sample_students",
    "simulation_calibration",
]
