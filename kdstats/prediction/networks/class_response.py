r"""The response of softmax networks to the classes they are taught, to first order and at the size of real labels.

A label is the mean of k one-hot responses, with covariance
:math:`\frac{1+(k-1)\rho}{k}(\operatorname{diag}p_i - p_ip_i')` at each input. One run is differentiated along label
sets that are drawn from that law (the cross-entropy is linear in the label), its logits move by :math:`J\varepsilon`
and its probabilities by :math:`(\operatorname{diag}\pi - \pi\pi')J\varepsilon`; the mean square over label sets is the
label part of the variance, without bias to first order. The same sets train real students, so that both share their
noise and their ratio is known well. Soft labels leave the starts alone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import invalid
from kdstats.networks.architecture import Parameters, predict
from kdstats.networks.tangents import LabelResponse, label_response
from kdstats.networks.training import train_networks
from kdstats.prediction.closed_form.softmax_law import probability_spread
from kdstats.prediction.networks.response import check_covered, check_first_order, check_memory, check_precision
from kdstats.prediction.networks.spread import (
    Spread,
    centred,
    effective_rank,
    error_of_mean,
    fixed_start,
    sampled_start,
)
from kdstats.prediction.networks.students import draw_starts, network_of
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count
from kdstats.sampling import BLOCK
from kdstats.sampling.classes import draw_class_counts
from kdstats.streams import Seeds, as_seeds

__all__ = ["LogitLaw", "class_components", "logit_law", "trained_logits"]

FloatArray = NDArray[np.float64]


def class_components(
    problem: DistillationProblem,
    *,
    response: str = "finite",
    n_pilots: int | None = None,
    n_students: int = 256,
    rng: Any = None,
    n_workers: int | None = None,
) -> VarianceComponents:
    """Predict the components of a network with the head ``softmax``.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.CategoricalTeacher`, and a network trained full batch on every row for a fixed
        number of steps.
    response : {"finite", "tangent"}, default "finite"
        ``"finite"``: students trained on label sets of their own (pairs that share a start, where starts vary).
        ``"tangent"``: first order along these label sets, checked against those students.
    n_pilots : int, optional
        Runs that are differentiated. Default: 4 where starts vary, else 1.
    n_students : int, default 256
        Label sets, and starts where these vary; at least 8.
    rng, n_workers
        See :func:`kdstats.network_response`.

    Returns
    -------
    VarianceComponents
        ``exactness`` "approximate"; outputs are the classes. Attributes as for other networks
        (:func:`kdstats.prediction.networks.linear_response.predict`). To first order ``intra_student`` is the mean of
        p(1-p) of noise-free students less the label part, which leaves out what label noise does to a mean.

    Raises
    ------
    PredictionError
        With ``response="tangent"``, if the derivatives along the label sets would take too much memory.

    Warns
    -----
    ApproximationWarning
        With ``response="tangent"``, unless the check shows the true variance within a factor 1.1 of it; with
        ``"finite"``, where the students are too few for equivalence at 1.25 with as many others.
    """
    started = time.perf_counter()
    check_covered(problem, classes=True)
    n_students = as_count("n_students", n_students, minimum=8, reason="to check the response")
    vary = "student_initialization" in problem.design.sources
    n_pilots = as_count("n_pilots", (4 if vary else 1) if n_pilots is None else n_pilots)
    if n_pilots > (n_students if vary else 1):
        raise invalid("n_pilots", "be 1 where all start alike, and at most n_students", n_pilots)
    if n_workers is not None:
        as_count("n_workers", n_workers)
    seeds = as_seeds(rng)
    job = _Job(problem=problem, seeds=seeds, n_students=n_students, n_workers=n_workers)
    attrs: dict[str, Any] = {}
    if not job.has_noise:
        chosen = job.no_noise()
    elif response == "finite":
        chosen = job.finite()
        check_precision(chosen.spread, n_students=n_students)
    else:
        chosen, real = job.tangent(n_pilots), job.finite()
        attrs = check_first_order(chosen.spread, real.spread, warn=True) | {"n_pilots": n_pilots}
        if not vary:
            attrs["linear_share"] = _share(chosen.deviations, real.deviations)
    return _assemble(problem, chosen, seeds, attrs | {"response": response, "n_response_students": n_students}, started)


@dataclass(frozen=True, eq=False, kw_only=True)
class LogitLaw:
    """Logits of noise-free students (S, m, C), and for some pilots Z (m, C, B), ZZ' the covariance of their noise."""

    centres: FloatArray
    roots: list[FloatArray]


def logit_law(problem: DistillationProblem, *, n_students: int, seeds: Seeds) -> LogitLaw:
    """Return the law of the logits of a softmax network to first order in the noise of its labels."""
    check_covered(problem, classes=True)
    job = _Job(problem=problem, seeds=seeds, n_students=n_students, n_workers=None)
    centres = job.noise_free_logits()
    if not job.has_noise:
        return LogitLaw(centres=centres, roots=[np.zeros((*centres.shape[1:], 1))])
    roots = [run.response / np.sqrt(n_students) for run in job.pilots(4 if job.vary else 1)]
    return LogitLaw(centres=centres, roots=roots)


def trained_logits(problem: DistillationProblem, *, n_students: int, seeds: Seeds) -> FloatArray:
    """Return the logits (S, m, C) of students trained on label sets of their own."""
    job = _Job(problem=problem, seeds=seeds, n_students=n_students, n_workers=None)
    return job.logits(job.labels(n_students), job.starts())


@dataclass(frozen=True, eq=False, kw_only=True)
class _Answer:
    """Variance between students, their mean p(1-p) with its error (m, C), and deviations of sampled students."""

    spread: Spread
    intra: FloatArray
    intra_se: FloatArray
    deviations: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class _Job:
    """Trains and differentiates students of one problem."""

    problem: DistillationProblem
    seeds: Seeds
    n_students: int
    n_workers: int | None

    @property
    def vary(self) -> bool:
        return "student_initialization" in self.problem.design.sources

    @property
    def has_noise(self) -> bool:
        p, design = self.problem.categorical_teacher.probabilities, self.problem.design
        return "teacher_output" in design.sources and design.strategy != "soft_labels" and bool((p * (1.0 - p)).any())

    def labels(self, count: int) -> FloatArray:
        """Label sets (count, n, C)."""
        seeds = self.seeds.branch("response")
        blocks = [draw_class_counts(self.problem, seeds, block) for block in range(-(-count // BLOCK))]
        return np.asarray(np.concatenate(blocks)[:count] / self.problem.design.n_responses)

    def train(self, labels: FloatArray, starts: Parameters) -> FloatArray:
        """Probabilities (S, m, C) of students with labels (S, n, C) and starts of their own, or one for all."""
        return np.asarray(softmax(self.logits(labels, starts), axis=2))

    def logits(self, labels: FloatArray, starts: Parameters) -> FloatArray:
        """Logits (S, m, C) of students with labels (S, n, C) and starts of their own, or one for all."""
        student, architecture = network_of(self.problem)
        count = len(labels)
        first = starts if len(starts[0]) == count else tuple(np.repeat(layer, count, axis=0) for layer in starts)
        X = self.problem.teacher.X
        assert X is not None
        trained = train_networks(X, labels, student=student, initial=first, n_workers=self.n_workers).parameters
        return predict(architecture, trained, self.problem.X_query, n_workers=self.n_workers)

    def starts(self) -> Parameters:
        return draw_starts(self.problem, self.seeds, self.n_students)

    def noise_free(self) -> FloatArray:
        return np.asarray(softmax(self.noise_free_logits(), axis=2))

    def noise_free_logits(self) -> FloatArray:
        starts, p = self.starts(), self.problem.categorical_teacher.probabilities
        return self.logits(np.broadcast_to(p, (len(starts[0]), *p.shape)), starts)

    def no_noise(self) -> _Answer:
        p = self.noise_free()
        start = sampled_start(p) if self.vary else fixed_start(p[0])
        rank = effective_rank([start.root], count=self.n_students - 1 if self.vary else None)
        spread = _spread(start.inter, start.inter_se, np.zeros_like(p[0]), start.each, rank)
        own = p * (1.0 - p)
        return _Answer(spread=spread, intra=own.mean(axis=0), intra_se=error_of_mean(own), deviations=centred(p))

    def finite(self) -> _Answer:
        S, starts = self.n_students, self.starts()
        if not self.vary:
            p = self.train(self.labels(S), starts)
            squares = S / (S - 1) * centred(p) ** 2
            noise = squares.mean(axis=0)
            rank = effective_rank([centred(p).reshape(S, -1).T], count=S - 1)
        else:
            p = self.train(self.labels(2 * S), tuple(np.concatenate([layer, layer]) for layer in starts))
            pairs = p.reshape(2, S, *p.shape[1:])
            within = 0.5 * (pairs[0] - pairs[1]) ** 2
            squares = S / (S - 1) * centred(pairs.mean(axis=0)) ** 2 + 0.5 * within
            noise = within.mean(axis=0)
            rank = effective_rank([centred(p).reshape(2 * S, -1).T], count=2 * S - 2)
        own = p * (1.0 - p)
        own = own if not self.vary else own.reshape(2, S, *p.shape[1:]).mean(axis=0)
        spread = _spread(
            squares.mean(axis=0), error_of_mean(squares), noise, squares.mean(axis=tuple(range(1, squares.ndim))), rank
        )
        return _Answer(spread=spread, intra=own.mean(axis=0), intra_se=error_of_mean(own), deviations=centred(p))

    def pilots(self, n_pilots: int) -> list[LabelResponse]:
        """Differentiate the first runs along the label sets."""
        check_memory(self.problem, n_directions=self.n_students)
        student, _ = network_of(self.problem)
        X, p = self.problem.teacher.X, self.problem.categorical_teacher.probabilities
        assert X is not None
        directions = np.moveaxis(self.labels(self.n_students) - p, 0, -1)
        starts = self.starts()
        return [
            label_response(
                X,
                p,
                student=student,
                initial=tuple(layer[pilot : pilot + 1] for layer in starts),
                directions=directions,
                points=self.problem.X_query,
            )
            for pilot in range(n_pilots)
        ]

    def tangent(self, n_pilots: int) -> _Answer:
        moves = [
            np.moveaxis(probability_spread(softmax(run.predictions, axis=1), run.response), -1, 0)
            for run in self.pilots(n_pilots)
        ]
        squares = np.stack(moves) ** 2  # (pilot, label set, m, C)
        by_set, by_pilot = squares.mean(axis=0), squares.mean(axis=1)
        noise = by_set.mean(axis=0)
        noise_se = np.hypot(error_of_mean(by_set), error_of_mean(by_pilot))
        free = self.noise_free()
        start = sampled_start(free) if self.vary else fixed_start(free[0])
        each, pilot_se = by_set.mean(axis=(1, 2)), 0.0
        if self.vary:
            pilot_se = float(np.hypot(error_of_mean(each), error_of_mean(by_pilot.mean(axis=(1, 2)))))
            each = start.each if start.each is not None else each
        root = moves[0].reshape(self.n_students, -1).T / np.sqrt(self.n_students)
        rank = effective_rank([root, *([start.root] if self.vary else [])], count=self.n_students - 1)
        own = free * (1.0 - free)
        return _Answer(
            spread=_spread(noise + start.inter, np.hypot(noise_se, start.inter_se), noise, each, rank, pilot_se),
            intra=np.maximum(own.mean(axis=0) - noise, 0.0),
            intra_se=np.hypot(error_of_mean(own), noise_se),
            deviations=moves[0],
        )


def _spread(
    inter: FloatArray,
    inter_se: FloatArray,
    noise: FloatArray,
    each: FloatArray | None,
    rank: float,
    pilot_se: float = 0.0,
) -> Spread:
    nothing = np.zeros(inter.shape[1])
    return Spread(
        inter=inter,
        inter_se=inter_se,
        noise=noise,
        each=each,
        residual=nothing,
        residual_se=nothing,
        rank=rank,
        pilot_se=pilot_se,
    )


def _share(first: FloatArray, real: FloatArray) -> float:
    """Squared correlation of the deviations of students with those of first order for the same labels."""
    moved = centred(first)
    both = float((moved**2).sum() * (real**2).sum())
    return float((moved * real).sum() ** 2 / both) if both > 0.0 else 1.0


def _assemble(
    problem: DistillationProblem, answer: _Answer, seeds: Seeds, attrs: dict[str, Any], started: float
) -> VarianceComponents:
    spread, on = answer.spread, float("student_output" in problem.design.sources)
    noise = float(spread.noise.mean())
    intra, intra_se = on * answer.intra, on * answer.intra_se
    error = {"inter_student": spread.average_se, "intra_student": float(intra_se.mean())}
    facts = {
        "engine": "linear_response",
        "exactness": "approximate",
        "estimator": "students at the amplitude of the noise"
        if attrs["response"] == "finite"
        else "J C J' of the differentiated run, plus the variance of noise-free students",
        "seed": seeds.as_dict(),
        "versions": versions(),
        "problem": problem.fingerprint(),
        "effective_rank": spread.rank,
        "source_variances": {
            "teacher_output": noise,
            "student_initialization": float(spread.inter.mean()) - noise,
        },
        "average_standard_error": error | {"total": sum(error.values())},
        "wall_time": time.perf_counter() - started,
    }
    return VarianceComponents.from_arrays(
        inter_student=spread.inter,
        intra_student=intra,
        inter_student_se=spread.inter_se,
        intra_student_se=intra_se,
        total_se=spread.inter_se + intra_se,
        point_labels=problem.point_labels,
        output_labels=problem.categorical_teacher.output_labels,
        attrs=facts | attrs,
    )
