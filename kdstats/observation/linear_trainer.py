"""Trains linear students on the training sets of a block: gradient steps, or conjugate gradients to convergence."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdstats.errors import ObservationError
from kdstats.linear.smoother import Smoother, augment, smoother as smoother_of
from kdstats.networks.groups import for_groups
from kdstats.networks.linear_training import descend, minimise
from kdstats.observation.predictive import residual_variance
from kdstats.observation.trained import Levels, Trained, stream_numbers
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.sampling import BLOCK, NoiseLaw, TrainingBlock, initial_coefficients
from kdstats.sampling.training_sets import draw_responses
from kdstats.streams import Seeds

__all__ = ["LinearTrainer"]

FloatArray = NDArray[np.float64]


class LinearTrainer:
    """Trains linear students; its parameters are those of the trainer of networks."""

    def __init__(
        self, problem: DistillationProblem, seeds: Seeds, law: NoiseLaw, *, levels: Levels | None = None
    ) -> None:
        student = problem.student
        assert isinstance(student, LinearStudent)
        self.problem, self.student, self.seeds, self.law, self.levels = problem, student, seeds, law, levels
        fit = smoother_of(problem)
        self.fit: Smoother | None = fit
        self.whiten = fit.whiten
        self.raw_inputs, self.query = augment(problem.gaussian_teacher.X, student), augment(problem.X_query, student)
        self.inputs = self.raw_inputs if student.weights_are_estimated else self.whiten(self.raw_inputs)
        multi = problem.design.strategy == "multi_response"
        self.penalties = np.full(self.inputs.shape[1], student.penalty / (problem.design.n_responses if multi else 1))
        if student.fit_intercept:
            self.penalties[0] = 0.0
        self.description = "conjugate gradients to convergence, float64"
        if student.training is not None:
            steps = (f"{name}={value}" for name, value in asdict(student.training).items())
            self.description = "full-batch gradient steps, " + ", ".join(steps) + ", float64"

    def train(self, drawn: TrainingBlock, block: int, n_workers: int | None) -> Trained:
        """Train students on the training sets of one block, from its first student on."""
        n_students = drawn.labels.shape[0]
        weights = self._estimated_weights(drawn) if self.student.weights_are_estimated else None
        row_weights: FloatArray | NDArray[np.int64] | None = drawn.counts
        if weights is not None:
            row_weights = weights if drawn.counts is None else weights * drawn.counts
        initial = self._initial(block, n_students)
        labels = drawn.labels if weights is not None else self._whitened(drawn.labels)

        def train_group(group: slice) -> list[FloatArray]:
            coefficients = self._coefficients(
                labels[group],
                None if row_weights is None else row_weights[group],
                None if initial is None else initial[group],
                block * BLOCK + group.start,
            )
            return [_outputs(inputs, coefficients) for inputs in (self.query, self.raw_inputs)]

        groups = for_groups(train_group, n_students, n_workers=n_workers)
        predictions, fitted = (np.concatenate(part) for part in zip(*groups, strict=True))
        variances = np.zeros((n_students, self.problem.teacher.n_outputs))
        if "student_output" in self.problem.design.sources:
            variances = residual_variance(
                self.problem,
                labels=drawn.labels,
                fitted=fitted,
                within=self._within(drawn, block),
                counts=drawn.counts,
                weights=weights,
                fit=self.fit,
            )
        return Trained(predictions=predictions, variances=variances)

    def _initial(self, block: int, n_students: int) -> FloatArray | None:
        chosen = stream_numbers(self.levels, "student_initialization", block * BLOCK, n_students)
        drawn = initial_coefficients(self.problem, self.seeds, 0 if chosen is not None else block)
        return drawn if chosen is None or drawn is None else drawn[chosen]

    def _coefficients(
        self,
        labels: FloatArray,
        row_weights: FloatArray | NDArray[np.int64] | None,
        initial: FloatArray | None,
        first_student: int,
    ) -> FloatArray:
        student = self.student
        shared: dict[str, Any] = {
            "penalties": self.penalties,
            "row_weights": row_weights,
            "first_student": first_student,
        }
        if student.training is not None:
            return descend(self.inputs, labels, training=student.training, initial=initial, **shared).coefficients
        return minimise(
            self.inputs, labels, intercept=student.fit_intercept, minimum_norm=student.minimum_norm, **shared
        ).coefficients

    def _whitened(self, array: FloatArray) -> FloatArray:
        """Whiten an array whose second last dimension runs over the inputs."""
        return np.moveaxis(self.whiten(np.moveaxis(array, -2, 0)), 0, -2)

    def _within(self, drawn: TrainingBlock, block: int) -> FloatArray:
        """Sums of squares of the k responses around their mean; with a full V in its units, summed over inputs."""
        if self.whiten.lower is None or self.problem.design.strategy != "multi_response":
            return drawn.within
        last = self.problem.design.n_generations - 1
        chosen = stream_numbers(self.levels, "teacher_output", block * BLOCK, len(drawn.labels))
        whole = draw_responses(self.problem, self.seeds, 0 if chosen is not None else block, self.law, generation=last)
        responses = whole[: len(drawn.labels)] if chosen is None else whole[chosen]
        deviations = responses - responses.mean(axis=1, keepdims=True)
        return np.asarray((self._whitened(deviations) ** 2).sum(axis=(1, 2)))

    def _estimated_weights(self, drawn: TrainingBlock) -> FloatArray:
        """Return one over the variance of each student's k responses, shape (B, n)."""
        variances = drawn.within[..., 0] / (self.problem.design.n_responses - 1)
        if (variances <= 0.0).any():
            row = int(np.argwhere(variances <= 0.0)[0][1])
            raise ObservationError(
                f"responses must differ at every input with weights='estimated'; got equal responses at input {row}"
            )
        return np.asarray(1.0 / variances)


def _outputs(inputs: FloatArray, coefficients: FloatArray) -> FloatArray:
    """Outputs of B linear students at some inputs, shape (B, rows, q)."""
    n_students, width, n_outputs = coefficients.shape
    columns = torch.from_numpy(np.moveaxis(coefficients, 1, 0).reshape(width, -1))
    outputs = (torch.from_numpy(np.array(inputs)) @ columns).numpy()
    return np.moveaxis(outputs.reshape(-1, n_students, n_outputs), 1, 0)
