r"""Monte Carlo prediction of the variance of linear students.

Students are simulated in blocks: responses are drawn, made into labels, and every student is fitted.
Only sums are kept. A student is a function of the seeds and its number alone, and blocks are
added in their order, so results are the same to the last bit for any number of workers and any size
of chunk, and the first S students of a larger run are the students of a run of S.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import (
    ApproximationWarning,
    PrecisionWarning,
    PredictionError,
    UnsupportedProblemError,
    invalid,
)
from kdstats.linear.label_law import initialization_variance, label_law
from kdstats.linear.smoother import Smoother, as_full, augment, smoother
from kdstats.linear.threads import one_blas_thread
from kdstats.prediction.monte_carlo.labels import LabelSource, label_source
from kdstats.prediction.monte_carlo.moments import (
    Estimates,
    Frame,
    Sums,
    control_coefficients,
    estimates,
    frame_of,
    sums,
)
from kdstats.prediction.monte_carlo.softmax import simulate_softmax
from kdstats.prediction.monte_carlo.students import (
    LinearMap,
    OwnRows,
    Students,
    control_smoother,
    linear_map,
    own_rows,
)
from kdstats.problem.categorical import SoftmaxStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.problem.validation import as_count, as_flag, as_number
from kdstats.progress import Progress, ProgressLike
from kdstats.sampling import BLOCK, Gaussian, NoiseLaw, StudentT, as_noise_law
from kdstats.streams import Seeds, as_seeds

__all__ = ["predict"]

FloatArray = NDArray[np.float64]

#: Students of a chunk, the unit that a worker takes, where the caller does not say.
CHUNK = 4 * BLOCK
#: Blocks from which the reference, or the coefficients of a control, are taken.
REFERENCE_BLOCKS, CONTROL_BLOCKS = 1, 4
#: Students beyond which a counter would repeat.
MOST_STUDENTS = 2**32


@dataclass(frozen=True, eq=False, kw_only=True)
class _Simulation:
    """Everything that turns the number of a block into sums."""

    source: LabelSource
    trainer: LinearMap | OwnRows
    frame: Frame

    def block(self, number: int, count: int) -> Sums:
        with np.errstate(over="ignore", invalid="ignore"):
            return sums(self.students(number, count), self.frame)

    def students(self, number: int, count: int) -> Students:
        return self.trainer.fit(self.source.draw(number, count))


def predict(
    problem: DistillationProblem,
    *,
    n_students: int = 10_000,
    rng: Any = None,
    noise_law: Any = "gaussian",
    relative_error: float | None = None,
    max_students: int = 10_000_000,
    n_workers: int = 1,
    chunk_size: int | None = None,
    control_variate: bool | None = None,
    covariance: bool = False,
    progress: ProgressLike = None,
) -> VarianceComponents:
    r"""Predict variance components by simulating students.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.LinearStudent`; any strategy and any sources. Or with a
        :class:`~kdstats.SoftmaxStudent`, which is refitted to sampled classes; it takes ``n_students``, ``rng``,
        ``covariance`` and ``progress``.
    n_students : int, default 10_000
        Students to simulate, at least 2 (with ``relative_error``: to begin with).
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`.
    noise_law : str, NoiseLaw or callable, default "gaussian"
        Shape of the teacher's noise: ``"gaussian"``, ``"laplace"``, ``"student_t:DF"``,
        ``"gamma:SHAPE"``, or a sampler ``f(generator, size)`` of mean 0 and variance 1. Named laws
        are drawn by a compiled kernel, at about 3 ns a response. A user's sampler goes through numpy, at
        about 60 ns a response with a normal sampler, and so do all laws with ``variance_weighting``.
    relative_error : float, optional
        Double the number of students until the standard error of the average inter-student variance
        is at most this part of it.
    max_students : int, default 10_000_000
        Where doubling ends at the latest.
    n_workers : int, default 1
        Threads. The result does not depend on it.
    chunk_size : int, optional
        Students that a worker takes at a time, rounded up to whole blocks. The result does not
        depend on it.
    control_variate : bool, optional
        Whether to subtract the error of a linear student on the same labels, whose variance is
        known exactly. Default: where students are not themselves linear maps of their labels
        (resampled rows, estimated weights). For linear maps it would return the closed form,
        so it is refused there: the simulation stays an independent check.
    covariance : bool, default False
        Keep the inter-student covariance between query points.
    progress : bool or callable, optional
        See :class:`kdstats.progress.Progress`.

    Returns
    -------
    VarianceComponents
        ``exactness`` "simulated"; ``standard_error`` is the Monte Carlo standard error, with the
        kurtosis of the students. ``attrs`` has ``n_students``, ``seed`` (by source), ``noise_law``,
        ``path`` ("fused" or "general"), ``average_standard_error``, ``effective_rank``,
        ``control_variate`` (``used``, ``variance_reduction``), and with resampled rows
        ``n_rank_deficient``.

    Raises
    ------
    UnsupportedProblemError
        For other students.
    ProblemError
        For arguments out of range.
    PredictionError
        If no residual degrees of freedom are left, responses from which weights are to be
        estimated are equal, gradient steps diverge on a student's rows, or components leave the finite
        numbers.

    Warns
    -----
    ApproximationWarning
        If resampled rows did not determine the coefficients of some students, or the noise law has no
        fourth moment.
    PrecisionWarning
        If ``relative_error`` is not reached with ``max_students``.

    Notes
    -----
    The coefficients of the control are estimated from the first 1,024 students and then held.

    Examples
    --------
    >>> import kdstats as kd
    >>> answer = kd.predict(kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8), engine="monte_carlo", rng=1)
    >>> abs(float(answer.inter_student[0, 0]) - 4.0 / 8) < 4 * float(answer.standard_error["inter_student"][0, 0])
    True
    """
    started = time.perf_counter()
    if isinstance(problem.student, SoftmaxStudent):
        options = {"noise_law": noise_law, "relative_error": relative_error, "control_variate": control_variate}
        for name, value in options.items():
            if value not in (None, "gaussian"):
                raise invalid(name, "be left out for a SoftmaxStudent, which is refitted to sampled classes", value)
        return simulate_softmax(
            problem,
            n_students=as_count("n_students", n_students, minimum=2, reason="to estimate inter-student variance"),
            seeds=as_seeds(rng),
            covariance=as_flag("covariance", covariance),
            progress=Progress(progress),
        )
    if not isinstance(problem.student, LinearStudent):
        raise UnsupportedProblemError(
            "engine 'monte_carlo' simulates a LinearStudent or a SoftmaxStudent; got a "
            f"{type(problem.student).__name__} (`kdstats.observe` trains it: kd.observe(problem))"
        )
    n_students = as_count("n_students", n_students, minimum=2, reason="to estimate inter-student variance")
    limit = as_count("max_students", max_students, minimum=2)
    if max(n_students, limit) > MOST_STUDENTS:
        raise invalid("n_students", f"be at most {MOST_STUDENTS}", max(n_students, limit))
    n_workers = as_count("n_workers", n_workers)
    blocks_per_chunk = -(-as_count("chunk_size", CHUNK if chunk_size is None else chunk_size) // BLOCK)
    target = (
        None if relative_error is None else as_number("relative_error", relative_error, minimum=0.0, exclusive=True)
    )
    as_flag("covariance", covariance)
    wants_control = None if control_variate is None else as_flag("control_variate", control_variate)
    bar = Progress(progress)
    law, seeds = as_noise_law(noise_law), as_seeds(rng)
    with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):
        simulation = _prepare(problem, seeds.branch("monte_carlo"), law, n_students, wants_control)
        with bar, _Crew(simulation, n_workers, blocks_per_chunk) as crew:
            found, reached = _until(crew, n_students, target, limit, bar, covariance)
    _warn(problem, law, crew.total, target, found, reached=reached)
    control = {"used": simulation.frame.weights is not None, "variance_reduction": found.variance_reduction}
    attrs: dict[str, Any] = {
        "engine": "monte_carlo",
        "exactness": "simulated",
        "estimator": "variance over simulated students",
        "ddof": 1,
        "n_students": int(crew.total.n),
        "seed": seeds.as_dict(),
        "noise_law": law.name,
        "path": "fused" if simulation.source.is_fused else "general",
        "control_variate": control,
        "average_standard_error": found.average_se,
        "effective_rank": found.effective_rank,
        "problem": problem.fingerprint(),
        "versions": versions(),
    }
    if target is not None:
        attrs["relative_error"] = _relative_error(found)
    if problem.resample_size is not None:
        attrs["n_rank_deficient"] = int(crew.total.n_deficient)
    labels = problem.point_labels
    matrix = None
    if found.covariance is not None:
        coords = {"output": np.arange(len(found.covariance)), "point": list(labels), "point_other": list(labels)}
        matrix = xr.DataArray(
            found.covariance, dims=("output", "point", "point_other"), coords=coords, name="inter_student_covariance"
        )
    return VarianceComponents.from_arrays(
        inter_student=found.inter,
        intra_student=found.intra,
        inter_student_se=found.inter_se,
        intra_student_se=found.intra_se,
        total_se=found.total_se,
        point_labels=labels,
        attrs={**attrs, "wall_time": time.perf_counter() - started},
        covariance=matrix,
    )


def _prepare(
    problem: DistillationProblem,
    seeds: Seeds,
    law: Any,
    n_students: int,
    wants_control: bool | None,  # noqa: FBT001
) -> _Simulation:
    student = problem.student
    assert isinstance(student, LinearStudent)
    fit = smoother(problem)
    source = label_source(problem, fit, law, seeds)
    is_linear = problem.resample_size is None and not student.weights_are_estimated
    if is_linear and wants_control:
        raise invalid(
            "control_variate",
            "be left out for students that are linear maps of their labels, whose exact variance it would return",
            "True",
        )
    trainer = linear_map(problem, fit, source) if is_linear else own_rows(problem, fit, source)
    query = augment(problem.X_query, student)
    use_control = not is_linear and wants_control is not False and _has_exact_labels(problem, law)
    variance = np.zeros((problem.gaussian_teacher.n_outputs, len(query)))
    if use_control:
        variance = variance + _control_variance(problem, fit, query)
        use_control = bool(variance.any())
    n_pilot = min(n_students, BLOCK * (CONTROL_BLOCKS if use_control else REFERENCE_BLOCKS))
    drawn = [trainer.fit(source.draw(number, size)) for number, size in enumerate(_block_sizes(n_pilot))]
    pilot = Students(
        coefficients=np.concatenate([block.coefficients for block in drawn]),
        variances=np.concatenate([block.variances for block in drawn]),
        control=np.concatenate([block.control for block in drawn if block.control is not None])
        if use_control
        else None,
    )
    frame = frame_of(query, pilot, variance)
    if use_control:
        frame = replace(frame, weights=control_coefficients(frame, pilot))
    return _Simulation(source=source, trainer=trainer, frame=frame)


def _has_exact_labels(problem: DistillationProblem, law: NoiseLaw) -> bool:
    """Whether the covariance of the labels is known for this noise: linear labels, or Gaussian responses."""
    weighting = problem.design.weighting
    if weighting is None:
        return True
    return weighting.variance_estimate is None and (isinstance(law, Gaussian) or not weighting.weight_is_estimated)


def _control_variance(problem: DistillationProblem, fit: Smoother, query: FloatArray) -> FloatArray:
    """Exact variance at the query points of the full-sample linear student, shape (m,)."""
    control = control_smoother(problem, fit)
    covariance = label_law(problem, fit).covariance
    gain = query @ control.coefficient_map @ control.whiten(np.eye(problem.gaussian_teacher.n_inputs))
    if covariance.ndim == 2:
        variance = np.einsum("mi,mi->m", gain @ as_full(covariance, problem.gaussian_teacher.n_inputs), gain)
    else:
        variance = gain**2 @ np.broadcast_to(covariance, (problem.gaussian_teacher.n_inputs,))
    initial = initialization_variance(problem)
    if initial > 0.0 and control.initial_map is not None:
        variance = variance + initial * ((query @ control.initial_map) ** 2).sum(axis=1)
    return np.asarray(variance)


def _until(
    crew: _Crew,
    n_students: int,
    target: float | None,
    limit: int,
    bar: Progress,
    covariance: bool,  # noqa: FBT001
) -> tuple[Estimates, bool]:
    """Simulate n students, and twice as many again until the relative error is reached."""
    n = n_students
    while True:
        crew.extend_to(n, bar)
        found = estimates(crew.total, crew.simulation.frame, covariance=covariance)
        if not (np.isfinite(found.total_se).all() and np.isfinite(found.inter + found.intra).all()):
            raise PredictionError(
                "simulated components are not finite: the noise is too large to square in float64, or the noise law's "
                "sampler returned values that are not finite"
            )
        reached = target is None or _relative_error(found) <= target
        if reached or n >= limit:
            return found, reached
        n = min(2 * n, limit)


def _relative_error(found: Estimates) -> float:
    average = float(found.inter.mean())
    return found.average_se["inter_student"] / average if average > 0.0 else 0.0


class _Crew:
    """Simulates blocks with a number of threads and adds them up in order."""

    def __init__(self, simulation: _Simulation, n_workers: int, blocks_per_chunk: int) -> None:
        self.simulation = simulation
        self.total = _no_students(simulation.frame)
        self._n_workers, self._chunk = n_workers, blocks_per_chunk * BLOCK
        self._whole, self._n_whole = self.total.copy(), 0
        self._abandoned = False
        self._pool = ThreadPoolExecutor(n_workers) if n_workers > 1 else None

    def __enter__(self) -> _Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._abandoned = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def extend_to(self, n_students: int, bar: Progress) -> None:
        """Make ``total`` the sums of the first ``n_students`` students."""
        done, whole = self._n_whole, n_students // BLOCK * BLOCK
        work = [(first // BLOCK, min(self._chunk, whole - first)) for first in range(done, whole, self._chunk)]
        for blocks in self._run(work):
            for block in blocks:
                self._whole.add(block)
            self._n_whole += BLOCK * len(blocks)
            bar.show(self._n_whole, n_students)
        self.total = self._whole.copy()
        if n_students > whole:
            self.total.add(self.simulation.block(whole // BLOCK, n_students - whole))

    def _chunk_of_blocks(self, first: int, count: int) -> list[Sums]:
        blocks = []
        for number, size in enumerate(_block_sizes(count)):
            if self._abandoned:
                break
            blocks.append(self.simulation.block(first + number, size))
        return blocks

    def _run(self, work: list[tuple[int, int]]) -> Iterator[list[Sums]]:
        if self._pool is None:
            for first, count in work:
                yield self._chunk_of_blocks(first, count)
            return
        waiting: deque[Future[list[Sums]]] = deque()
        for first, count in work:
            waiting.append(self._pool.submit(self._chunk_of_blocks, first, count))
            if len(waiting) > 2 * self._n_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _block_sizes(count: int) -> list[int]:
    return [min(BLOCK, count - first) for first in range(0, count, BLOCK)]


def _no_students(frame: Frame) -> Sums:
    (q, _), (m, rank) = frame.coefficients.shape, frame.basis.shape
    return Sums(
        n=0.0,
        points=np.zeros((11, q, m)),
        spread=np.zeros((2, q)),
        vector=np.zeros(q * rank),
        gram=np.zeros((q * rank, q * rank)),
        pooled=np.zeros((3, 4)),
        crossed=np.zeros((3, q * rank)),
        n_deficient=0,
    )


def _warn(
    problem: DistillationProblem, law: NoiseLaw, total: Sums, target: float | None, found: Estimates, *, reached: bool
) -> None:
    student = problem.student
    assert isinstance(student, LinearStudent)
    if total.n_deficient and not student.minimum_norm:
        warnings.warn(
            f"the resampled rows of {total.n_deficient} of {int(total.n)} students do not determine their "
            "coefficients; the solution of smallest norm was taken (raise `resample_size`, or set `penalty`)",
            ApproximationWarning,
            stacklevel=3,
        )
    if isinstance(law, StudentT) and law.df <= 4.0:
        warnings.warn(
            f"noise law {law.name} has no fourth moment: the variance of a simulated variance does not exist, and "
            "standard errors are too small",
            ApproximationWarning,
            stacklevel=3,
        )
    if not reached:
        warnings.warn(
            f"`relative_error` {target:g} is not reached with {int(total.n)} students: it is "
            f"{_relative_error(found):.3g} (raise `max_students`)",
            PrecisionWarning,
            stacklevel=3,
        )
