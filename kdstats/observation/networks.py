r"""Students that torch trains by gradients, many at once.

Network students take full-batch steps of Adam or gradient descent in float32. Linear students are
trained in double precision: by the gradient steps of their ``GradientDescent``, or, without one, by
conjugate gradients until the gradient vanishes to rounding. The coefficient map from which
predictions are computed serves only to refuse problems that have no answer, to count residual
degrees of freedom, and to make the labels of pilot students and of the earlier links of a chain.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from kdstats.components.result import VarianceComponents
from kdstats.errors import ObservationError, UnsupportedProblemError, invalid
from kdstats.linear.smoother import Smoother, augment, smoother as smoother_of
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.networks.architecture import (
    Architecture,
    Parameters,
    architecture_of,
    initial_parameters,
    perturbed_parameters,
    predict,
)
from kdstats.networks.groups import for_groups
from kdstats.networks.kernels import LANES
from kdstats.networks.linear_training import descend, minimise
from kdstats.networks.stacks import BatchOrder
from kdstats.networks.training import train_networks
from kdstats.observation.assembly import as_replicates, assemble_components
from kdstats.observation.categorical import assemble_classes
from kdstats.observation.predictive import residual_divisor, residual_variance
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import REPLACED_BY_MODULE, LinearStudent, NetworkStudent
from kdstats.problem.validation import as_count
from kdstats.progress import Progress, ProgressLike
from kdstats.sampling import BLOCK, NoiseLaw, TrainingBlock, as_noise_law, draw_training_block, initial_coefficients
from kdstats.sampling.classes import draw_class_counts, responses_of
from kdstats.sampling.training_sets import draw_counts, draw_responses
from kdstats.streams import Seeds, as_seeds

__all__ = ["LinearTrainer", "NetworkTrainer", "Trained", "class_block", "observe", "trainer_of", "variance_description"]

FloatArray = NDArray[np.float64]
#: Source to the number of the stream that each student has of it.
Levels = Mapping[str, NDArray[np.int64]]

#: Parameters up to which a network is small, and students of larger ones that are held at once.
SMALL_NETWORK, SOME_LARGE = 2**18, 16


def observe(
    problem: DistillationProblem,
    *,
    n_students: int = 100,
    rng: Any = None,
    n_replicates: int | None = None,
    noise_law: Any = "gaussian",
    n_workers: int | None = None,
    progress: ProgressLike = None,
) -> VarianceComponents:
    r"""Train students with torch and estimate their variance components.

    Parameters
    ----------
    problem : DistillationProblem
        With a network or linear student, or a network student of classes.
    n_students : int, default 100
        At least 2. The first students of a larger run are the students of a smaller one.
    rng : int, Generator, SeedSequence, Seeds or None
        One seed for all sources, or one each, as in :func:`kdstats.streams.as_seeds`.
    n_replicates : int, optional
        Outputs drawn from each student's own predictive distribution, at least 2. Default: none;
        each student's predictive variance is known and used as it is.
    noise_law : str, NoiseLaw or callable, default "gaussian"
        As in :func:`kdstats.sampling.as_noise_law`.
    n_workers : int, optional
        Threads. Default: as many as torch uses. Results do not depend on it.
    progress : bool or callable, optional
        See :class:`kdstats.progress.Progress`.

    Returns
    -------
    VarianceComponents
        ``exactness`` "observed", with ``student_predictions``; ``attrs["training"]`` says how students
        were trained and ``attrs["student_variance"]`` what variance they give their outputs.

    Raises
    ------
    ProblemError
        If an argument is out of range, or the learning rate of a linear student does not contract.
    RankDeficientError
        If the inputs, or the resampled rows of a student, do not determine the coefficients.
    DivergedStudentError
        If training left the finite numbers.
    DuplicateStudentsError
        If students that should be independent copy each other.
    ObservationError
        If a student did not converge, or no residual degrees of freedom are left.

    Notes
    -----
    A student's own predictive distribution at a point is its prediction plus Gaussian noise with
    its residual variance: for a linear student as its ``residual_variance`` says, for a network the
    residual sum of squares over the number of its rows, held-out ones included (maximum likelihood); a
    network with the head ``gaussian`` predicts that variance itself, at each point. A
    student of classes (head ``softmax``) has a variance p(1-p) at a class of probability p. With
    ``multi_response`` students trained full batch are trained on the mean labels, which give the gradients of the
    kn rows (see :mod:`kdstats.networks.training`); their residuals are those of the kn rows.

    The initial weights of networks come from the seed ``student_initialization``; with that source
    off, all students start from one common draw. A student with a ``batch_size`` goes through its rows (the n
    inputs, or its resampled ones in the order of the inputs; for ``multi_response`` once for each response) in a
    random order of its own from the seed ``data_order``, drawn anew for each epoch; with that source off, all
    students share one sequence of orders.
    """
    started = time.perf_counter()
    if not isinstance(problem, DistillationProblem):
        raise invalid("problem", "be a DistillationProblem", f"a {type(problem).__name__}")
    if not isinstance(problem.student, (NetworkStudent, LinearStudent)):
        raise UnsupportedProblemError(
            f"engine 'networks' trains a NetworkStudent or a LinearStudent; got a {type(problem.student).__name__} "
            "(leave `engine` out for the engine of its own)"
        )
    n_students = as_count("n_students", n_students, minimum=2, reason="to estimate inter-student variance")
    n_replicates = as_replicates(problem, n_replicates)
    if n_workers is not None:
        as_count("n_workers", n_workers)
    seeds, law = as_seeds(rng), as_noise_law(noise_law)
    trainer = trainer_of(problem, seeds, law)
    classes = isinstance(problem.teacher, CategoricalTeacher)
    if classes and law.name != "gaussian":
        raise invalid("noise_law", "be left out for a CategoricalTeacher", law.name)
    if "student_output" in problem.design.sources and not classes:
        residual_divisor(problem, trainer.fit)
    trained: list[Trained] = []
    with Progress(progress) as bar, one_blas_thread(when=problem.teacher.n_inputs <= SMALL):
        for block in range(-(-n_students // BLOCK)):
            part = slice(block * BLOCK, min((block + 1) * BLOCK, n_students))
            size = part.stop - part.start
            whole_groups = slice(0, -(-size // LANES) * LANES)
            whole = class_block(problem, seeds, block) if classes else None
            drawn = _select(whole or draw_training_block(problem, seeds, block, law, trainer.fit), whole_groups)
            finished = trainer.train(drawn, block, n_workers)
            trained.append(Trained(predictions=finished.predictions[:size], variances=finished.variances[:size]))
            bar.show(part.stop, n_students)
    answers = _joined(trained)
    if classes:
        return assemble_classes(
            answers.predictions,
            problem,
            seeds=seeds,
            engine="networks",
            training=trainer.description,
            started=started,
            n_replicates=n_replicates,
        )
    return assemble_components(
        answers.predictions,
        problem,
        variances=answers.variances,
        seeds=seeds,
        law=law,
        engine="networks",
        started=started,
        n_replicates=n_replicates,
        smoother=trainer.fit,
        attrs={"training": trainer.description, "student_variance": variance_description(problem)},
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """Predictions (B, m, q) of some students, and variances (B, q) or (B, m, q) of their own outputs."""

    predictions: FloatArray
    variances: FloatArray


def _joined(parts: list[Trained]) -> Trained:
    return Trained(
        predictions=np.concatenate([part.predictions for part in parts]),
        variances=np.concatenate([part.variances for part in parts]),
    )


class Trainer(Protocol):
    """Turns the training sets of some students, who number whole groups, into trained students."""

    fit: Smoother | None
    description: str

    def train(self, drawn: TrainingBlock, block: int, n_workers: int | None) -> Trained:
        """Train students on the training sets of one block, from its first student on."""
        ...


class NetworkTrainer:
    """Trains network students.

    Parameters
    ----------
    problem, seeds, law
        What they are trained on, and their streams.
    levels : mapping, optional
        Source to the number of the stream that each student has of it, shape (S,), below BLOCK: students that cross
        draws. Default: every student has the streams of its own number.
    """

    fit: Smoother | None = None

    def __init__(
        self, problem: DistillationProblem, seeds: Seeds, law: NoiseLaw, *, levels: Levels | None = None
    ) -> None:
        student = problem.student
        assert isinstance(student, NetworkStudent)
        self.problem, self.student, self.seeds, self.law, self.levels = problem, student, seeds, law, levels
        inputs = problem.teacher.X
        assert inputs is not None
        self.X = inputs
        self.architecture = architecture_of(
            student, n_features=problem.teacher.n_features, n_outputs=problem.teacher.n_outputs
        )
        self.description = ", ".join([*_said(student, self.architecture), "float32"])

    def train(self, drawn: TrainingBlock, block: int, n_workers: int | None) -> Trained:
        """Train students on the training sets of one block, from its first student on."""
        size = BLOCK if self.is_small else SOME_LARGE
        parts = [slice(first, first + size) for first in range(0, drawn.labels.shape[0], size)]
        trained = [self._train(_select(drawn, part), block, part.start, n_workers) for part in parts]
        return _joined(trained)

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

        predictions = predict_at(problem.X_query)
        if self.student.head == "softmax":
            return Trained(predictions=softmax(predictions, axis=2), variances=np.zeros((n_students, 1)))
        if self.student.head == "gaussian":
            means, log_variances = np.split(predictions, 2, axis=2)
            return Trained(predictions=means, variances=np.exp(log_variances))
        variances = np.zeros((n_students, problem.teacher.n_outputs))
        if "student_output" in problem.design.sources:
            fitted = predictions if problem.design.X_query is None else predict_at(self.X)
            variances = residual_variance(
                problem, labels=drawn.labels, fitted=fitted, within=drawn.within, counts=drawn.counts
            )
        return Trained(predictions=predictions, variances=variances)

    def _rows(self, drawn: TrainingBlock, block: int, first: int) -> dict[str, Any]:
        """Labels and how they count, as a full batch or as rows that can be batched."""
        problem, n_students = self.problem, drawn.labels.shape[0]
        if self.student.batch_size is None:
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
            numbers=_numbers(self.levels, "data_order", block * BLOCK + first, n_students),
        )
        return {
            "labels": labels.reshape(n_students, -1, labels.shape[-1]),
            "rows": rows[0] if drawn.counts is None else rows,
            "order": order,
        }

    def _responses(self, block: int, first: int, n_students: int) -> FloatArray:
        """Every response of some students of one block, shape (n_students, k, n, q)."""
        chosen = _numbers(self.levels, "teacher_output", block * BLOCK + first, n_students)
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
        chosen = _numbers(self.levels, "student_initialization", block * BLOCK + first, n_students)
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


class LinearTrainer:
    """Trains linear students; its parameters are those of :class:`NetworkTrainer`."""

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
        chosen = _numbers(self.levels, "student_initialization", block * BLOCK, n_students)
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
        chosen = _numbers(self.levels, "teacher_output", block * BLOCK, len(drawn.labels))
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


def trainer_of(
    problem: DistillationProblem, seeds: Seeds, law: NoiseLaw, *, levels: Levels | None = None
) -> NetworkTrainer | LinearTrainer:
    """Return what trains the students of a problem."""
    if isinstance(problem.student, NetworkStudent):
        return NetworkTrainer(problem, seeds, law, levels=levels)
    return LinearTrainer(problem, seeds, law, levels=levels)


def _numbers(levels: Levels | None, source: str, first: int, n_students: int) -> NDArray[np.int64] | None:
    """Return the streams that some students have of a source, or None if each has its own."""
    return None if levels is None else levels[source][first : first + n_students]


def _outputs(inputs: FloatArray, coefficients: FloatArray) -> FloatArray:
    """Outputs of B linear students at some inputs, shape (B, rows, q)."""
    n_students, width, n_outputs = coefficients.shape
    columns = torch.from_numpy(np.moveaxis(coefficients, 1, 0).reshape(width, -1))
    outputs = (torch.from_numpy(np.array(inputs)) @ columns).numpy()
    return np.moveaxis(outputs.reshape(-1, n_students, n_outputs), 1, 0)


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


def _select(drawn: TrainingBlock, students: slice) -> TrainingBlock:
    return TrainingBlock(
        labels=drawn.labels[students],
        within=drawn.within[students],
        counts=None if drawn.counts is None else drawn.counts[students],
    )


def variance_description(problem: DistillationProblem) -> str:
    """Say what variance students give their own outputs."""
    if isinstance(problem.student, NetworkStudent) and problem.student.head == "gaussian":
        return "its own output, the exponential of a predicted logarithm"
    unbiased = isinstance(problem.student, LinearStudent) and problem.student.residual_variance == "unbiased"
    divisor = "its residual degrees of freedom" if unbiased else "the number of its training rows"
    return f"residual sum of squares over {divisor}"
