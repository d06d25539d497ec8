"""Trains network students on the training sets of a block, from starts and in orders of their own or crossed ones."""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from kdstats.errors import ObservationError
from kdstats.linear.smoother import Smoother
from kdstats.networks.architecture import (
    Architecture,
    Parameters,
    architecture_of,
    initial_parameters,
    perturbed_parameters,
    predict,
)
from kdstats.networks.memory import refuse_too_large
from kdstats.networks.passes import own_variance
from kdstats.networks.stacks import BatchOrder
from kdstats.networks.training import train_networks
from kdstats.observation.dropped import draw_passes
from kdstats.observation.predictive import residual_variance
from kdstats.observation.trained import Levels, Trained, joined, select, stream_numbers
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import REPLACED_BY_MODULE, NetworkStudent
from kdstats.sampling import BLOCK, NoiseLaw, TrainingBlock
from kdstats.sampling.classes import draw_class_counts, responses_of
from kdstats.sampling.training_sets import draw_counts, draw_responses
from kdstats.streams import Seeds

__all__ = ["NetworkTrainer", "class_block"]

FloatArray = NDArray[np.float64]

#: Parameters up to which a network is small, and students of larger ones that are held at once.
SMALL_NETWORK, SOME_LARGE = 2**18, 16


class NetworkTrainer:
    """Trains network students.

    Parameters
    ----------
    problem, seeds, law
        What they are trained on, and their streams.
    levels : mapping, optional
        Source to the number of the stream that each student has of it, shape (S,), below BLOCK: students that cross
        draws. Default: every student has the streams of its own number.
    n_passes : int, optional
        Outputs of each student that are drawn with new masks of dropout (see :mod:`kdstats.observation.dropped`).
    """

    fit: Smoother | None = None

    def __init__(
        self,
        problem: DistillationProblem,
        seeds: Seeds,
        law: NoiseLaw,
        *,
        levels: Levels | None = None,
        n_passes: int | None = None,
    ) -> None:
        student = problem.student
        assert isinstance(student, NetworkStudent)
        self.n_passes = n_passes
        self.problem, self.student, self.seeds, self.law, self.levels = problem, student, seeds, law, levels
        inputs = problem.teacher.X
        assert inputs is not None
        self.X = inputs
        self.architecture = architecture_of(
            student, n_features=problem.teacher.n_features, n_outputs=problem.teacher.n_outputs
        )
        refuse_too_large(self.architecture, n_rows=min(len(inputs), student.batch_size or len(inputs)))
        self.description = ", ".join([*_said(student, self.architecture), "float32"])

    def train(self, drawn: TrainingBlock, block: int, n_workers: int | None) -> Trained:
        """Train students on the training sets of one block, from its first student on."""
        size = BLOCK if self.is_small else SOME_LARGE
        parts = [slice(first, first + size) for first in range(0, drawn.labels.shape[0], size)]
        trained = [self._train(select(drawn, part), block, part.start, n_workers) for part in parts]
        return joined(trained)

    def _train(self, drawn: TrainingBlock, block: int, first: int, n_workers: int | None) -> Trained:
        problem, n_students = self.problem, drawn.labels.shape[0]
        self._refuse_unseen(drawn, block * BLOCK + first)
        trained = train_networks(
            self.X,
            student=self.student,
            initial=self._initial(block, first, n_students),
            n_workers=n_workers,
            first_student=block * BLOCK + first,
            **self._rows(drawn, block, first),
        )

        def predict_at(points: FloatArray) -> FloatArray:
            return predict(self.architecture, trained.parameters, points, n_workers=n_workers)

        predictions, outputs = predict_at(problem.X_query), None
        if self.n_passes is not None:
            numbers = range(block * BLOCK + first, block * BLOCK + first + n_students)
            outputs = draw_passes(
                problem, self.seeds, trained, numbers=numbers, n_passes=self.n_passes, n_workers=n_workers
            )
        if self.student.head == "softmax":
            probabilities = softmax(predictions, axis=2)
            return Trained(predictions=probabilities, variances=np.zeros((n_students, 1)), outputs=outputs)
        is_quiet = "student_output" not in problem.design.sources
        if self.student.dropout > 0.0 and not is_quiet and outputs is None:
            means = predictions[..., : problem.teacher.n_outputs]
            variances = own_variance(trained, problem.X_query, student=self.student, n_workers=n_workers)
            return Trained(predictions=means, variances=variances)
        if self.student.head == "gaussian":
            means, log_variances = np.split(predictions, 2, axis=2)
            return Trained(predictions=means, variances=np.exp(log_variances), outputs=outputs)
        variances = np.zeros((n_students, problem.teacher.n_outputs))
        if not is_quiet and outputs is None:
            fitted = predictions if problem.design.X_query is None else predict_at(self.X)
            variances = residual_variance(
                problem, labels=drawn.labels, fitted=fitted, within=drawn.within, counts=drawn.counts
            )
        return Trained(predictions=predictions, variances=variances, outputs=outputs)

    def _rows(self, drawn: TrainingBlock, block: int, first: int) -> dict[str, Any]:
        """Labels and how they count, as a full batch or as rows that can be batched or have masks of their own."""
        problem, n_students = self.problem, drawn.labels.shape[0]
        if self.student.batch_size is None and self.student.dropout == 0.0:
            several = problem.design.strategy == "multi_response"
            spread = drawn.within / problem.design.n_responses if several and self.student.head == "gaussian" else None
            return {"labels": drawn.labels, "row_weights": drawn.counts, "spread": spread}
        n, k = problem.teacher.n_inputs, 1
        labels = drawn.labels[:, None]
        if problem.design.strategy == "multi_response":
            k = problem.design.n_responses
            labels = self._responses(block, first, n_students)
        inputs = np.arange(n)[None]
        if drawn.counts is not None:
            inputs = np.stack([np.repeat(np.arange(n), counts) for counts in drawn.counts])
            labels = np.take_along_axis(labels, inputs[:, None, :, None], axis=2)
        rows = np.tile(inputs, (1, k))
        order = BatchOrder(
            seeds=self.seeds,
            first_student=block * BLOCK + first,
            common="data_order" not in problem.design.sources,
            numbers=stream_numbers(self.levels, "data_order", block * BLOCK + first, n_students),
        )
        return {
            "labels": labels.reshape(n_students, -1, labels.shape[-1]),
            "rows": rows[0] if drawn.counts is None else rows,
            "order": order,
        }

    def _responses(self, block: int, first: int, n_students: int) -> FloatArray:
        """Every response of some students of one block, shape (n_students, k, n, q)."""
        chosen = stream_numbers(self.levels, "teacher_output", block * BLOCK + first, n_students)
        if chosen is not None:
            return self._all_responses(0)[chosen]
        return self._all_responses(block)[first : first + n_students]

    def _all_responses(self, block: int) -> FloatArray:
        """Every response of one block of students, shape (BLOCK, k, n, q)."""
        problem = self.problem
        if not isinstance(problem.teacher, CategoricalTeacher):
            return draw_responses(problem, self.seeds, block, self.law)
        counts = draw_class_counts(problem, self.seeds, block)
        if "teacher_output" in problem.design.sources:
            return responses_of(counts)
        k = problem.design.n_responses
        return np.repeat(counts[:, None] / k, k, axis=1)

    def _refuse_unseen(self, drawn: TrainingBlock, first_student: int) -> None:
        """Refuse students whose resample has no held-out input, or no other."""
        if self.student.early_stopping is None or drawn.counts is None:
            return
        held = self.student.early_stopping.held_out_inputs(len(self.X))
        for kind, inputs in (("", held), ("not ", ~held)):
            empty = np.flatnonzero(drawn.counts[:, inputs].sum(axis=1) == 0)
            if empty.size:
                raise ObservationError(
                    f"`resample_size` must give every student inputs that are {kind}held out for early stopping; got "
                    f"{self.problem.resample_size}, which gave student {first_student + empty[0]} none"
                )

    @property
    def is_small(self) -> bool:
        """Whether the parameters of a whole block are held at once; students of large networks draw theirs alone."""
        return self.architecture.n_parameters <= SMALL_NETWORK

    def _initial(self, block: int, first: int, n_students: int) -> Parameters:
        chosen = stream_numbers(self.levels, "student_initialization", block * BLOCK + first, n_students)
        if chosen is None:
            return self._drawn(block, first, n_students)
        return tuple(layer[chosen] for layer in self._crossed)

    @cached_property
    def _crossed(self) -> Parameters:
        """First weights of every level."""
        assert self.levels is not None
        return self._drawn(0, 0, int(self.levels["student_initialization"].max()) + 1)

    def _drawn(self, block: int, first: int, n_students: int) -> Parameters:
        generator = self.seeds.generator("student_initialization", "common")
        common = initial_parameters(self.architecture, generator, n_students=1)
        if "student_initialization" not in self.problem.design.sources:
            return tuple(np.repeat(layer, n_students, axis=0) for layer in common)

        def draw(generator: np.random.Generator, count: int) -> Parameters:
            sd = self.student.perturbation_sd
            if sd is None:
                return initial_parameters(self.architecture, generator, n_students=count)
            return perturbed_parameters(common, generator, n_students=count, perturbation_sd=sd)

        if self.is_small:
            drawn = draw(self.seeds.generator("student_initialization", block), BLOCK)
            return tuple(layer[:n_students] for layer in drawn)
        generators = (
            self.seeds.generator("student_initialization", block, "student", first + student)
            for student in range(n_students)
        )
        starts = [draw(generator, 1) for generator in generators]
        return tuple(np.concatenate(layers) for layers in zip(*starts, strict=True))


def class_block(problem: DistillationProblem, seeds: Seeds, block: int) -> TrainingBlock:
    """Training sets of one block of students of classes: labels are frequencies, or the probabilities themselves."""
    labels = draw_class_counts(problem, seeds, block) / problem.design.n_responses
    counts = draw_counts(problem, seeds, block)
    return TrainingBlock(labels=labels, within=np.zeros_like(labels[:, :1]), counts=counts)


def _said(student: NetworkStudent, architecture: Architecture) -> list[str]:
    """Tell every option of a student that is on."""
    options = {item.name: getattr(student, item.name) for item in fields(student)}
    how = []
    if architecture.module is not None:
        options = {"module": student.module_name} | {
            name: value for name, value in options.items() if name not in (*REPLACED_BY_MODULE, "module")
        }
        obstacle = architecture.module.obstacle
        how = [f"one student after the other because torch.func.vmap refuses ({obstacle})"] if obstacle else []
    return [f"{name}={value}" for name, value in options.items() if value not in (None, 0.0)] + how
