"""Softmax students on sampled classes: labels drawn, students fitted, their probabilities at the query points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from kdstats.errors import KdstatsError, PredictionError
from kdstats.linear.least_squares import factorize
from kdstats.linear.softmax_regression import SoftmaxRegression, obstacle
from kdstats.problem.categorical import SoftmaxStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.sampling.classes import draw_class_counts
from kdstats.sampling.training_sets import BLOCK, draw_counts
from kdstats.streams import Seeds

__all__ = ["FittedBlock", "SoftmaxFitter", "effective_penalty", "softmax_inputs", "softmax_regression"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedBlock:
    """Some students after their fit.

    Attributes
    ----------
    probabilities : (B, m, C) ndarray
        At the query points.
    labels : (B, n, C) ndarray
    counts : (B, n) ndarray of int or None
        How often each student sees each row.
    converged : (B,) ndarray of bool
        Whether its labels have a finite fit.
    """

    probabilities: FloatArray
    labels: FloatArray
    counts: NDArray[np.int64] | None
    converged: NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftmaxFitter:
    """Draws labels for students of one problem and fits them.

    Attributes
    ----------
    problem : DistillationProblem
    seeds : Seeds
    model : SoftmaxRegression
        With the centre that fits start from; where it lies does not change what they converge to.
    """

    problem: DistillationProblem
    seeds: Seeds
    model: SoftmaxRegression

    @property
    def is_random(self) -> bool:
        """Whether students differ at all."""
        design = self.problem.design
        return ("teacher_output" in design.sources and design.strategy != "soft_labels") or (
            self.problem.resample_size is not None
        )

    def block(self, number: int, count: int) -> FittedBlock:
        """Fit the first students of a block of BLOCK; students that nothing tells apart are one, to the last bit."""
        labels = draw_class_counts(self.problem, self.seeds, number)[:count] / self.problem.design.n_responses
        counts = draw_counts(self.problem, self.seeds, number)
        counts = None if counts is None else counts[:count]
        fitted = self.model.fit(
            labels if self.is_random else labels[:1], None if counts is None else counts.astype(np.float64)
        )
        logits = np.matmul(softmax_inputs(self.problem, self.problem.X_query), fitted.coefficients)
        probabilities = softmax(logits, axis=2)
        return FittedBlock(
            probabilities=np.broadcast_to(probabilities, (count, *probabilities.shape[1:])),
            labels=labels,
            counts=counts,
            converged=np.broadcast_to(fitted.converged, (count,)),
        )

    def students(self, number: int, count: int, *, error: type[KdstatsError]) -> FloatArray:
        """Return the probabilities (count, m, C) of some students of a block; refuse those without a finite fit."""
        fitted = self.block(number, count)
        bad = np.flatnonzero(~fitted.converged)
        if bad.size:
            labels = fitted.labels[bad[0]]
            if fitted.counts is not None:
                labels = labels * (fitted.counts[bad[0]] > 0)[:, None]
            reason = obstacle(self.model, labels) or "its fit does not settle, as where a linear rule separates classes"
            raise error(
                f"the labels of student {number * BLOCK + bad[0]} have no finite fit: {reason} ({bad.size} of {count} "
                "students of its block have none); give SoftmaxStudent a penalty, or more responses"
            )
        return fitted.probabilities


def softmax_inputs(problem: DistillationProblem, X: FloatArray) -> FloatArray:
    """Return inputs; for a student that fits an intercept about the teacher's mean ones, with a column of ones.

    A free intercept takes up any shift of the inputs: no probability depends on it, and no digits are lost to it.
    """
    student, teacher = problem.student, problem.categorical_teacher
    assert isinstance(student, SoftmaxStudent)
    assert teacher.X is not None
    if not student.fit_intercept:
        return np.asarray(X)
    return np.hstack([np.ones((len(X), 1)), X - teacher.X.mean(axis=0)])


def effective_penalty(problem: DistillationProblem) -> float:
    """Return the penalty for labels that are means: kn rows weigh k times as much as n, so theirs is 1/k of it."""
    student, design = problem.student, problem.design
    assert isinstance(student, SoftmaxStudent)
    rows = design.n_responses if design.strategy in ("multi_response", "soft_labels") else 1
    return student.penalty / rows


def softmax_regression(problem: DistillationProblem, labels: FloatArray) -> SoftmaxRegression:
    """Return what the students of a problem share, with the fit to some labels (n, C) as centre.

    Raises
    ------
    RankDeficientError
        If there is no penalty and the inputs do not determine the coefficients.
    PredictionError
        If these labels have no finite fit.
    """
    student, teacher = problem.student, problem.categorical_teacher
    assert isinstance(student, SoftmaxStudent)
    assert teacher.X is not None
    inputs = softmax_inputs(problem, teacher.X)
    if student.penalty == 0.0:
        names = [f"x{j}" for j in range(teacher.n_features)]
        factorize(inputs, names=["intercept", *names] if student.fit_intercept else names)
    penalties = np.full(inputs.shape[1], effective_penalty(problem))
    if student.fit_intercept:
        penalties[0] = 0.0
    size = problem.resample_size
    weight = 1.0 if size is None else size / teacher.n_inputs
    model = SoftmaxRegression(inputs=inputs, penalties=penalties, centre_labels=labels, row_weight=weight)
    if not model.has_centre:
        reason = obstacle(model, labels) or "the fit does not settle, as where a linear rule separates the classes"
        raise PredictionError(f"the mean labels have no finite fit: {reason}; give SoftmaxStudent a penalty")
    return model
