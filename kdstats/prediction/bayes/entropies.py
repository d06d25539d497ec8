r"""Entropies of students of classes: what is between students, in their parameters, and in the classes themselves.

With :math:`\bar q_s = E[q \mid \text{labels of } s]` the predictive probabilities of student s at a point,

.. math:: H(E_s \bar q_s) = \underbrace{I(\text{class};\text{student})}_{\text{between students}} +
          \underbrace{E_s I(\text{class};\theta \mid s)}_{\text{parameter}} +
          \underbrace{E_s E[H(q)\mid s]}_{\text{noise}},

as ``total`` is ``inter_student`` plus the two parts of ``intra_student``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import xlogy

from kdstats.components.class_moments import Cells, entropy
from kdstats.components.classes import ClassComponents, estimate_classes
from kdstats.prediction.bayes.class_models import class_probabilities
from kdstats.prediction.bayes.moments import CHUNK, batch_errors
from kdstats.prediction.bayes.stacks import Draws
from kdstats.problem.specification import DistillationProblem

__all__ = ["EntropyParts", "class_components", "entropy_parts"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class EntropyParts:
    """Entropy of one student's predictive distribution, in its two parts, in nats, averaged over students.

    Attributes
    ----------
    parameter : (point,) DataArray
        Mutual information of the class and the student's parameters: what more labels would remove.
    noise : (point,) DataArray
        Entropy that is left when the parameters are known.
    mcse : dict of float
        Error of the average over points of each part that more draws would remove.
    """

    parameter: xr.DataArray
    noise: xr.DataArray
    mcse: dict[str, float]

    @property
    def entropy(self) -> xr.DataArray:
        """Return the sum of both, the entropy of one student's output."""
        return self.parameter + self.noise


def entropy_parts(problem: DistillationProblem, draws: Draws) -> EntropyParts:
    """Return the parts of the students' entropies from posterior draws (chain, draw, student, ...).

    The entropy of a mean over draws is too small by half the squared error of the mean over the mean, summed over
    classes, to second order; that is put back.
    """
    n_chains, n_draws, n_students = next(iter(draws.values())).shape[:3]
    width = max(1, CHUNK // (n_chains * n_draws * problem.n_points * problem.categorical_teacher.n_outputs))
    parts = [
        _of_students(class_probabilities({name: a[:, :, first : first + width] for name, a in draws.items()}, problem))
        for first in range(0, n_students, width)
    ]
    parameter, noise, parameter_error, noise_error = (np.concatenate(part) for part in zip(*parts, strict=True))

    def labelled(values: FloatArray) -> xr.DataArray:
        return xr.DataArray(values.mean(axis=0), dims="point", coords={"point": list(problem.point_labels)})

    def error(values: FloatArray) -> float:
        return float((np.sqrt((values**2).sum(axis=0)) / n_students).mean())

    return EntropyParts(
        parameter=labelled(parameter),
        noise=labelled(noise),
        mcse={"parameter": error(parameter_error), "noise": error(noise_error)},
    )


def class_components(probabilities: xr.DataArray, *, unit: str = "nats") -> ClassComponents:
    """Return what students of given probabilities (student, point, output) disagree about."""
    chances = probabilities.transpose("student", "point", "output")
    values = np.asarray(chances.values)
    shape = values.shape[:2]
    return estimate_classes(
        Cells(
            mean=values,
            count=np.ones(shape, dtype=np.int64),
            within=np.zeros(shape),
            entropy=entropy(values),
            last_step=np.zeros(shape),
        ),
        classes=list(chances["output"].values),
        points=list(chances["point"].values),
        kind="probabilities",
        known=True,
        unit=unit,
    )


def _of_students(chances: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return parameter and noise part (S, m) and their errors, from probabilities (chain, draw, S, m, C)."""
    mean = chances.mean(axis=(0, 1))
    each = -xlogy(chances, chances).sum(axis=-1)
    slope = -(chances * np.log(np.where(mean > 0.0, mean, 1.0))).sum(axis=-1)
    lost = 0.5 * (batch_errors(chances) ** 2 / np.where(mean > 0.0, mean, np.inf)).sum(axis=-1)
    noise = each.mean(axis=(0, 1))
    return entropy(mean) + lost - noise, noise, batch_errors(slope - each), batch_errors(each)
