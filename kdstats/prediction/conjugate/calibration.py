r"""Whether a student's own uncertainty reflects the teacher's.

At a training input the teacher's responses are :math:`N(\mu_i, \sigma_i^2)`, and a student has a predictive
distribution of its own. Its probability integral transform of the teacher's responses is uniform, and its
intervals cover at their level, if it reflects the teacher. Both are averaged over the teacher's responses exactly;
only students are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.linear.bayesian import fit_bayesian_students
from kdstats.problem.bayesian import BayesianLinearStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count, as_probability
from kdstats.sampling import BLOCK, as_noise_law, draw_training_block
from kdstats.streams import as_seeds

__all__ = ["PredictiveCalibration", "predictive_calibration"]

FloatArray = NDArray[np.float64]

#: Points at which the law of the transform is evaluated.
GRID = np.linspace(0.05, 0.95, 19)


@dataclass(frozen=True, eq=False, kw_only=True)
class PredictiveCalibration:
    """How students' predictive distributions compare with the teacher's.

    Attributes
    ----------
    levels : (L,) ndarray
        Nominal coverage of central predictive intervals.
    coverage, coverage_se : (L,) ndarray
        Share of the teacher's responses inside, averaged over inputs and students, and its standard error.
    grid, pit, pit_se : (G,) ndarray
        P(transform <= grid); equal to ``grid`` for a student that reflects the teacher.
    sharpness : float
        Mean predictive standard deviation over the teacher's: 1 for a student as uncertain as the teacher.
    n_students : int
    strategy : str
    """

    levels: FloatArray
    coverage: FloatArray
    coverage_se: FloatArray
    grid: FloatArray
    pit: FloatArray
    pit_se: FloatArray
    sharpness: float
    n_students: int
    strategy: str

    @property
    def pit_distance(self) -> float:
        """Largest distance of the law of the transform from uniform (Kolmogorov)."""
        return float(np.abs(self.pit - self.grid).max())

    def summary(self) -> str:
        """Return a small table."""
        rows = [
            f"{level:>8.0%} {cover:>10.1%} +- {error:.1%}"
            for level, cover, error in zip(self.levels, self.coverage, self.coverage_se, strict=True)
        ]
        return "\n".join(
            [
                f"Calibration of {self.n_students} students ({self.strategy}) against the teacher's responses",
                f"{'level':>8} {'coverage':>10}",
                *rows,
                f"predictive sd / teacher's sd {self.sharpness:.3f}; largest distance of the transform from uniform "
                f"{self.pit_distance:.3f}",
            ]
        )

    __str__ = summary


def predictive_calibration(
    problem: DistillationProblem,
    *,
    levels: Sequence[float] = (0.5, 0.8, 0.95),
    n_students: int = 500,
    rng: Any = None,
) -> PredictiveCalibration:
    """Compare Bayesian students' predictive distributions with the teacher's at the training inputs.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.BayesianLinearStudent`; its query points are not used. The teacher is Gaussian with a
        positive variance at every input.
    levels : sequence of float
        Nominal coverages.
    n_students : int, default 500
        At least 2.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`.

    Returns
    -------
    PredictiveCalibration

    Examples
    --------
    Averaged labels make a student four times too sure of the noise; rows kept apart do not.

    >>> import numpy as np, kdstats as kd
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> def pose(strategy):
    ...     return kd.DistillationProblem(
    ...         teacher=kd.GaussianTeacher(X, X.sum(axis=1)),
    ...         student=kd.BayesianLinearStudent(),
    ...         design=kd.Design(n_responses=16, strategy=strategy),
    ...     )
    >>> [round(kd.predictive_calibration(pose(s), rng=1).sharpness, 1) for s in ("averaging", "multi_response")]
    [0.3, 1.0]
    """
    student, teacher = problem.student, problem.gaussian_teacher
    if not isinstance(student, BayesianLinearStudent):
        raise UnsupportedProblemError(f"calibration covers a BayesianLinearStudent; got a {type(student).__name__}")
    chosen = np.array([as_probability("levels", level) for level in levels])
    n_students = as_count("n_students", n_students, minimum=2, reason="to have a standard error")
    if (teacher.variances <= 0.0).any():
        raise invalid("noise_variance", "be greater than 0 at every input", f"{teacher.variances.min():g}")
    seeds, law = as_seeds(rng), as_noise_law("gaussian")
    teacher_sd, coverage, pit, widths = np.sqrt(teacher.variances)[:, None], [], [], []
    for block in range(-(-n_students // BLOCK)):
        size = min(BLOCK, n_students - block * BLOCK)
        drawn = draw_training_block(problem, seeds, block, law)
        fit = fit_bayesian_students(
            problem,
            labels=drawn.labels[:size],
            within=drawn.within[:size],
            counts=None if drawn.counts is None else drawn.counts[:size],
            query=teacher.X,
        )
        sd, freedom = np.sqrt(fit.variance), float(fit.degrees_of_freedom[0])

        def below(chance: float, mean: Any = fit.mean, sd: Any = sd, freedom: float = freedom) -> FloatArray:
            """Chance that a response lies below the students' quantile, per student."""
            quantile = ndtri(chance)
            if np.isfinite(freedom):
                quantile = stdtrit(freedom, chance) * np.sqrt((freedom - 2.0) / freedom)
            inside = ndtr((mean + quantile * sd - teacher.mean_by_output) / teacher_sd)
            return np.asarray(inside.mean(axis=(1, 2)))

        coverage.append(np.stack([below(0.5 + 0.5 * c) - below(0.5 - 0.5 * c) for c in chosen], axis=1))
        pit.append(np.stack([below(u) for u in GRID], axis=1))
        widths.append((sd / teacher_sd).mean(axis=(1, 2)))
    covered, transformed = np.concatenate(coverage), np.concatenate(pit)
    root = np.sqrt(n_students)
    return PredictiveCalibration(
        levels=chosen,
        coverage=covered.mean(axis=0),
        coverage_se=covered.std(axis=0, ddof=1) / root,
        grid=GRID,
        pit=transformed.mean(axis=0),
        pit_se=transformed.std(axis=0, ddof=1) / root,
        sharpness=float(np.concatenate(widths).mean()),
        n_students=n_students,
        strategy=str(problem.design.strategy),
    )
