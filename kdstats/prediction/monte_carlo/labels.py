r"""The labels of one block of students, by a fused kernel or by the general sampler.

Labels come as deviations from a fixed centre (their mean under Gaussian noise), in the coordinates
in which students are fitted: whitened by the working covariance, or raw where each student
estimates its own weights. Layout is (student, output, input).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdstats.linear.label_law import label_law
from kdstats.linear.smoother import Smoother, Whitening
from kdstats.prediction.monte_carlo.kernels import draw_noise
from kdstats.prediction.monte_carlo.quantiles import has_table, quantile_table
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.sampling import BLOCK, Gaussian, NoiseLaw, draw_training_block, initial_coefficients
from kdstats.sampling.training_sets import covariance_root, draw_counts, draw_responses
from kdstats.streams import Seeds

__all__ = ["LabelSource", "Labels", "label_source"]

FloatArray = NDArray[np.float64]

#: Roles of the fused kernel's streams: responses and initial coefficients use the number of the generation.
_FITTING_ROLE = 1 << 30


@dataclass(frozen=True, eq=False, kw_only=True)
class Labels:
    """What B students are trained on.

    Attributes
    ----------
    noise : (B, q, n) ndarray
        Labels less their centre.
    within : (B, q, n) ndarray or None
        Sum of squares of the k responses around their mean, where a student needs it.
    initial : (B, q, P) ndarray or None
        Initial coefficients.
    counts : (B, n) ndarray or None
        How often each student sees each input.
    """

    noise: FloatArray
    within: FloatArray | None
    initial: FloatArray | None
    counts: NDArray[np.int64] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelSource:
    """Draws the labels of any block.

    Attributes
    ----------
    whiten : Whitening
        To the coordinates of the labels.
    raw_centre : (n, q) ndarray
        What the noise of the labels is counted from, in raw coordinates.
    mixing : (n, n) ndarray or None
        Root of the noise covariance in the coordinates of the labels, where it is not diagonal.
    scale, within_scale : (q * n,) ndarray
        Factors of the mean and of the sum of squares of a student's k standardised responses.
    fitting : (n, n) ndarray or None
        Root of the teacher's fitting covariance, in the coordinates of the labels.
    keys : dict
        Key of the counter-based generator for each source.
    """

    problem: DistillationProblem
    smoother: Smoother
    law: NoiseLaw
    seeds: Seeds
    whiten: Whitening
    raw_centre: FloatArray
    needs_within: bool
    is_fused: bool
    mixing: FloatArray | None
    scale: FloatArray
    within_scale: FloatArray
    fitting: FloatArray | None
    keys: dict[str, NDArray[np.uint64]]

    def draw(self, block: int, count: int) -> Labels:
        """Draw the first ``count`` students of a block."""
        return self._draw_fused(block, count) if self.is_fused else self._draw_general(block, count)

    def _draw_fused(self, block: int, count: int) -> Labels:
        teacher, design = self.problem.gaussian_teacher, self.problem.design
        n, q, last = teacher.n_inputs, teacher.n_outputs, design.n_generations - 1
        k = 1 if teacher.response_correlation == 1.0 else design.n_responses
        key = self.keys["teacher_output"]
        noise = np.zeros((count, q, n))
        within = np.zeros((count, q, n)) if self.needs_within else None
        initial: FloatArray | None = None
        for generation in range(last + 1):
            passed = None if generation == 0 else self._fitted(noise, initial)
            if "teacher_output" in design.sources:
                spread = within if within is not None and generation == last else np.empty((0, 0, 0))
                noise = np.empty((count, q, n))
                draw_noise(
                    quantile_table(self.law),
                    key,
                    generation,
                    block * BLOCK,
                    k,
                    self.scale,
                    self.within_scale,
                    noise.reshape(count, -1),
                    spread.reshape(len(spread), q * n if len(spread) else 0),
                )
                if self.mixing is not None:
                    noise = noise @ self.mixing.T
                if self.fitting is not None and generation == 0:
                    noise = noise + self._gaussian(key, _FITTING_ROLE, block, (count, q, n)) @ self.fitting.T
            else:
                noise = np.zeros((count, q, n))
            if passed is not None:
                noise = noise + passed
            initial = self._draw_initial(block, count, generation)
        counts = draw_counts(self.problem, self.seeds, block)
        return Labels(noise=noise, within=within, initial=initial, counts=None if counts is None else counts[:count])

    def _fitted(self, noise: FloatArray, initial: FloatArray | None) -> FloatArray:
        """Predictions at the inputs, less those of the noise-free student, in the coordinates of the labels."""
        coefficients = noise @ self.smoother.coefficient_map.T
        if initial is not None and self.smoother.initial_map is not None:
            coefficients = coefficients + initial @ self.smoother.initial_map.T
        return np.asarray(coefficients @ self.smoother.inputs.T)

    def _draw_initial(self, block: int, count: int, generation: int) -> FloatArray | None:
        student = self.problem.student
        assert isinstance(student, LinearStudent)
        if student.training is None or "student_initialization" not in self.problem.design.sources:
            return None
        shape = (count, self.problem.gaussian_teacher.n_outputs, self.smoother.inputs.shape[1])
        key = self.keys["student_initialization"]
        return student.training.initialization_sd * self._gaussian(key, generation, block, shape)

    @staticmethod
    def _gaussian(key: NDArray[np.uint64], role: int, block: int, shape: tuple[int, int, int]) -> FloatArray:
        draws = np.empty(shape)
        flat, ones = draws.reshape(shape[0], -1), np.ones(shape[1] * shape[2])
        draw_noise(quantile_table(Gaussian()), key, role, block * BLOCK, 1, ones, ones, flat, np.empty((0, 0)))
        return draws

    def _draw_general(self, block: int, count: int) -> Labels:
        problem, seeds = self.problem, self.seeds
        drawn = draw_training_block(problem, seeds, block, self.law, self.smoother)
        noise = self._own(drawn.labels[:count] - self.raw_centre)
        within: FloatArray | None = None
        if self.needs_within and self.whiten.lower is None:
            variances = (
                np.ones(problem.gaussian_teacher.n_inputs) if self.whiten.is_identity else self.whiten.inverse_sd
            )
            assert variances is not None
            within = drawn.within[:count].transpose(0, 2, 1) * variances**2
        elif self.needs_within:
            responses = draw_responses(problem, seeds, block, self.law, generation=problem.design.n_generations - 1)
            deviations = (responses - responses.mean(axis=1, keepdims=True))[:count]
            within = np.sum([self._own(deviations[:, j]) ** 2 for j in range(deviations.shape[1])], axis=0)
        initial = initial_coefficients(problem, seeds, block)
        return Labels(
            noise=noise,
            within=within,
            initial=None if initial is None else np.ascontiguousarray(initial[:count].transpose(0, 2, 1)),
            counts=None if drawn.counts is None else drawn.counts[:count],
        )

    def _own(self, raw: FloatArray) -> FloatArray:
        """Bring (B, n, q) to the coordinates and the layout of the labels."""
        whitened = self.whiten(np.ascontiguousarray(raw.transpose(1, 0, 2)))
        return np.ascontiguousarray(whitened.transpose(1, 2, 0))


def label_source(problem: DistillationProblem, smoother: Smoother, law: NoiseLaw, seeds: Seeds) -> LabelSource:
    """Choose how the labels of a problem are drawn."""
    teacher, design, student = problem.gaussian_teacher, problem.design, problem.student
    assert isinstance(student, LinearStudent)
    n, q = teacher.n_inputs, teacher.n_outputs
    whiten = Whitening() if student.weights_are_estimated else smoother.whiten
    intra = "student_output" in design.sources
    needs_within = student.weights_are_estimated or (intra and design.strategy == "multi_response")
    is_diagonal = teacher.is_diagonal and whiten.lower is None
    share = 1.0 + (design.n_responses - 1) * teacher.response_correlation
    scale = within_scale = np.ones(q * n)
    mixing = None
    if is_diagonal:
        variances = teacher.variances if whiten.inverse_sd is None else teacher.variances * whiten.inverse_sd**2
        scale = np.tile(np.sqrt(_mean_share(problem, share) * variances), q)
        within_scale = np.tile((1.0 - teacher.response_correlation) * variances, q)
    else:
        mixing = np.sqrt(_mean_share(problem, share)) * whiten(covariance_root(teacher.covariance))
    fitting = teacher.fitting_covariance
    return LabelSource(
        problem=problem,
        smoother=smoother,
        law=law,
        seeds=seeds,
        whiten=whiten,
        raw_centre=label_law(problem, smoother).mean,
        needs_within=needs_within,
        is_fused=has_table(law) and design.weighting is None and (is_diagonal or not needs_within),
        mixing=mixing,
        scale=scale,
        within_scale=within_scale,
        fitting=None if fitting is None else whiten(covariance_root(fitting)),
        keys={source: _key(seeds, source) for source in ("teacher_output", "student_initialization")},
    )


def _mean_share(problem: DistillationProblem, share: float) -> float:
    """Variance of the mean of k correlated responses over that of the mean of as many innovations as are drawn."""
    return 1.0 if problem.gaussian_teacher.response_correlation == 1.0 else max(share, 0.0)


def _key(seeds: Seeds, source: str) -> NDArray[np.uint64]:
    return seeds.sequence(source).generate_state(2, np.uint32).astype(np.uint64)
