"""Variance between inputs that a student cannot fit, from the residuals of the teacher's mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdstats.linear.smoother import smoother
from kdstats.problem.specification import DistillationProblem
from kdstats.streams import Seeds

__all__ = ["estimated_misfit", "misfit_draws", "pilot_share", "residual_square"]

#: Share of the mean square of the teacher's mean below which a misfit is rounding.
ROUNDING = 1e-12


def residual_square(problem: DistillationProblem) -> tuple[float, int]:
    """Return mean square and degrees of freedom, over outputs, of the teacher's mean around the best fit."""
    fit = smoother(problem.with_student(penalty=0.0))
    residuals = fit.residuals(problem.gaussian_teacher.mean_by_output)
    df = int(fit.residual_degrees_of_freedom)
    return float(np.mean(np.sum(residuals**2, axis=0)) / df), df * problem.gaussian_teacher.n_outputs


def pilot_share(problem: DistillationProblem, pilot: int | None) -> float:
    """Return the noise that residuals of a pilot's means keep, as a share of the variance of one response.

    What all inputs share is in the intercept, not in the residuals.
    """
    teacher = problem.gaussian_teacher
    rho, shared = teacher.response_correlation, teacher.input_correlation
    return 0.0 if pilot is None else ((1.0 - rho) / pilot + rho) * (1.0 - shared)


def _residual_weights(problem: DistillationProblem) -> NDArray[np.float64]:
    """Return the share of each input's variance in the expected mean square of the residuals."""
    basis = smoother(problem.with_student(penalty=0.0)).basis
    left = 1.0 - np.einsum("ij,ij->i", basis, basis)
    return np.asarray(left / left.sum())


def estimated_misfit(problem: DistillationProblem, pilot: int | None) -> tuple[float, tuple[str, ...]]:
    """Return the misfit variance that the residuals show, at least 0, and the sentence that says so."""
    square, _ = residual_square(problem)
    noise = float(_residual_weights(problem) @ problem.gaussian_teacher.variances)
    found = square - noise * pilot_share(problem, pilot)
    if abs(found) <= ROUNDING * float((problem.gaussian_teacher.mean_by_output**2).mean()):
        found = 0.0
    where = "the residuals of the teacher's mean" + ("" if pilot is None else ", less the pilot's noise")
    below = "; none is taken, as the estimate is below 0" if found < 0 else ""
    return max(found, 0.0), (f"misfit variance {found:.4g} between inputs, from {where}{below}",)


def misfit_draws(
    problem: DistillationProblem, draws: NDArray[np.float64], *, pilot: int | None, seeds: Seeds
) -> NDArray[np.float64]:
    """Return draws of a misfit that residuals of the pilot's means left, for draws of the inputs' variances.

    The residuals' mean square is a mixture of chi-squares as the inputs' variances differ; for each draw it gets the
    degrees of freedom of the same variance (Satterthwaite).
    """
    share = pilot_share(problem, pilot)
    square, _ = residual_square(problem)
    basis = smoother(problem.with_student(penalty=0.0)).basis
    maker = np.eye(len(basis)) - basis @ basis.T
    noise = draws @ _residual_weights(problem) * share
    spread = np.maximum(square - noise, 0.0)[:, None] + share * draws
    trace = spread @ np.diag(maker)
    df = problem.gaussian_teacher.n_outputs * trace**2 / np.einsum("bi,ij,bj->b", spread, maker**2, spread)
    generator = seeds.generator("teacher_output", "misfit")
    return np.asarray(np.maximum(square * df / generator.chisquare(df) - noise, 0.0))
