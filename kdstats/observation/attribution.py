"""Train students that cross their sources of randomness, and say which source makes them differ."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.attribution import OUTPUT_NOISE, VarianceAttribution, crossed_components
from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.networks.kernels import LANES
from kdstats.observation.assembly import as_replicates, draw_outputs
from kdstats.observation.dropped import n_passes
from kdstats.observation.network_trainer import class_block
from kdstats.observation.networks import trainer_of, variance_description
from kdstats.observation.predictive import residual_divisor
from kdstats.observation.trained import Trained, joined
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.problem.design import SOURCES
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent, NetworkStudent
from kdstats.problem.validation import as_count
from kdstats.progress import Progress, ProgressLike
from kdstats.sampling import BLOCK, NoiseLaw, TrainingBlock, as_noise_law, draw_training_block
from kdstats.streams import Seeds, as_seeds

__all__ = ["attribute_variance"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Students and levels of one source that are trained where nothing else is said.
DEFAULT_STUDENTS, DEFAULT_LEVELS = 1000, 64


def attribute_variance(
    problem: DistillationProblem,
    *,
    n_levels: int | Mapping[str, int] | None = None,
    rng: Any = None,
    n_replicates: int | None = None,
    noise_law: Any = "gaussian",
    n_workers: int | None = None,
    progress: ProgressLike = None,
) -> VarianceAttribution:
    r"""Train students at every combination of a few draws of each source; return the Sobol indices of the sources.

    A student is trained for each combination of a teacher draw, an initialization, an order of mini-batches
    and a resampled data set, as far as these sources are on and act. Level a of a source is the stream of
    student a of ``kdstats.observe`` with the same seeds: students that share a level share that draw to the bit.

    Parameters
    ----------
    problem : DistillationProblem
        With a network student, or a linear one.
    n_levels : int or mapping, optional
        Levels of each crossed source, 2 to 256, or of some by name (others as by default). Default: the same
        for all, with at most 1,000 students together and at most 64 levels. Levels, not students, narrow intervals.
    rng : int, Generator, SeedSequence, Seeds or None
        See :func:`kdstats.streams.as_seeds`.
    n_replicates : int, optional
        Outputs drawn from each student, at least 2. Default: its own predictive variance is used as it is.
    noise_law, n_workers, progress
        As in :func:`kdstats.observe`.

    Returns
    -------
    VarianceAttribution
        First-order and total indices with intervals, by point or averaged; variance components with interactions.

    Raises
    ------
    UnsupportedProblemError
        For another student, chains, variance weighting (whose labels depend on a pilot's start), or if no source acts.
    ProblemError
        If a number of levels is out of range or belongs to a source that is not crossed.

    Warns
    -----
    NegativeComponentWarning
        If a component averaged over points is negative; its sign is kept.

    Examples
    --------
    >>> import kdstats as kd
    >>> problem = kd.DistillationProblem(
    ...     teacher=kd.GaussianTeacher([[1.0]] * 4, [0.0, 1.0, 2.0, 3.0], noise_variance=1.0),
    ...     student=kd.LinearStudent(fit_intercept=False),
    ...     design=kd.Design([[1.0]], resample_size=4, sources=["teacher_output", "data_resampling"]),
    ... )
    >>> answer = kd.attribute_variance(problem, n_levels=30, rng=1)
    >>> answer.components.terms
    ('teacher_output', 'data_resampling', 'teacher_output:data_resampling')
    """
    started = time.perf_counter()
    _check(problem)
    n_replicates = as_replicates(problem, n_replicates)
    if n_workers is not None:
        as_count("n_workers", n_workers)
    inactive = _inactive(problem)
    crossed = tuple(source for source in SOURCES if source not in inactive and source != OUTPUT_NOISE)
    if not crossed:
        reasons = "; ".join(f"{source}: {reason}" for source, reason in inactive.items())
        raise UnsupportedProblemError(f"variance attribution needs a source that makes students differ ({reasons})")
    sizes = _sizes(n_levels, crossed)
    seeds, law = as_seeds(rng), as_noise_law(noise_law)
    grid = dict(zip(crossed, np.indices(sizes).reshape(len(sizes), -1), strict=True))
    passes = n_passes(problem, n_replicates)
    trained, training = _train(
        problem, grid, seeds=seeds, law=law, passes=passes, n_workers=n_workers, progress=progress
    )
    predictions, variances = trained.predictions, trained.variances
    if isinstance(problem.teacher, CategoricalTeacher):
        variances = predictions * (1.0 - predictions)
    variances = variances if variances.ndim == 3 else variances[:, None, :]
    outputs, known = predictions[:, None], None
    if trained.outputs is not None:
        outputs = trained.outputs
    elif OUTPUT_NOISE not in inactive and n_replicates is None:
        known = np.broadcast_to(variances, predictions.shape).reshape(*sizes, *predictions.shape[1:])
    elif OUTPUT_NOISE not in inactive:
        assert n_replicates is not None
        outputs = draw_outputs(predictions, variances, seeds, n_replicates)
    labels = list(range(predictions.shape[2]))
    components = crossed_components(
        outputs.reshape(*sizes, *outputs.shape[1:]),
        sources=crossed,
        points=problem.point_labels,
        labels=labels,
        variances=known,
        attrs={
            "training": training,
            "student_variance": variance_description(problem),
            "seed": seeds.as_dict(),
            "noise_law": law.name,
            "problem": problem.fingerprint(),
            "wall_time": time.perf_counter() - started,
        },
    )
    kept = xr.DataArray(
        predictions.reshape(*sizes, *predictions.shape[1:]),
        {**{name: range(size) for name, size in zip(crossed, sizes, strict=True)}, "output": labels},
        (*crossed, "point", "output"),
        name="prediction",
    ).assign_coords(point=components.estimate["point"])
    return VarianceAttribution(components=components, predictions=kept, inactive=inactive)


def _check(problem: DistillationProblem) -> None:
    if not isinstance(problem, DistillationProblem):
        raise invalid("problem", "be a DistillationProblem", f"a {type(problem).__name__}")
    student, design = problem.student, problem.design
    if not isinstance(student, (NetworkStudent, LinearStudent)):
        raise UnsupportedProblemError(
            f"variance attribution trains a NetworkStudent or a LinearStudent; got a {type(student).__name__} "
            "(`kdstats.decompose_sources` takes a table of your own)"
        )
    if design.n_generations > 1 or design.strategy == "variance_weighting":
        what = "chains of distillations" if design.n_generations > 1 else "strategy 'variance_weighting'"
        raise UnsupportedProblemError(
            f"variance attribution does not cover {what}: labels of a student depend on more than its teacher's draw"
        )


def _inactive(problem: DistillationProblem) -> dict[str, str]:
    """Return why sources add exactly nothing."""
    student, teacher, design = problem.student, problem.teacher, problem.design
    reasons: dict[str, str] = {}
    if isinstance(teacher, CategoricalTeacher):
        if design.strategy == "soft_labels":
            reasons["teacher_output"] = "soft labels are not sampled"
    elif not teacher.noise_variance.any() and (
        teacher.fitting_covariance is None or not teacher.fitting_covariance.any()
    ):
        reasons["teacher_output"] = "the teacher has no noise"
    if isinstance(student, LinearStudent):
        if student.training is None:
            reasons["student_initialization"] = "a minimiser does not depend on where it starts"
        elif student.training.initialization_sd == 0.0:
            reasons["student_initialization"] = "all students start from 0"
        reasons["data_order"] = "every step sees all rows"
    elif isinstance(student, NetworkStudent):
        if student.perturbation_sd == 0.0:
            reasons["student_initialization"] = "the perturbation is 0"
        if student.batch_size is None and student.dropout == 0.0:
            reasons["data_order"] = "every step sees all rows"
    off = {source: "switched off" for source in SOURCES if source not in design.sources}
    return {source: (reasons | off)[source] for source in SOURCES if source in reasons or source in off}


def _sizes(n_levels: int | Mapping[str, int] | None, crossed: tuple[str, ...]) -> tuple[int, ...]:
    default = min(int(DEFAULT_STUDENTS ** (1.0 / len(crossed)) + 1e-9), DEFAULT_LEVELS)
    given: Mapping[str, Any]
    if n_levels is None or isinstance(n_levels, Mapping):
        given = n_levels or {}
        for source in given:
            if source not in crossed:
                raise invalid("n_levels", f"name sources that are crossed ({', '.join(crossed)})", source)
    else:
        given = dict.fromkeys(crossed, n_levels)
    sizes = []
    for source in crossed:
        name = "n_levels" if n_levels is None or not isinstance(n_levels, Mapping) else f"n_levels[{source!r}]"
        size = as_count(name, given.get(source, default), minimum=2, reason="to estimate the variance of a source")
        if size > BLOCK:
            raise invalid(name, f"be at most {BLOCK}", size)
        sizes.append(size)
    return tuple(sizes)


def _train(
    problem: DistillationProblem,
    grid: Mapping[str, IntArray],
    *,
    seeds: Seeds,
    law: NoiseLaw,
    passes: int | None,
    n_workers: int | None,
    progress: ProgressLike,
) -> tuple[Trained, str]:
    """Train every combination, in blocks filled up to whole groups with the last student."""
    n_students = next(iter(grid.values())).size
    filled = np.minimum(np.arange(-(-n_students // LANES) * LANES), n_students - 1)
    zeros = np.zeros(filled.size, dtype=np.int64)
    levels = {source: grid[source][filled] if source in grid else zeros for source in SOURCES}
    trainer = trainer_of(problem, seeds, law, levels=levels, n_passes=passes)
    classes = isinstance(problem.teacher, CategoricalTeacher)
    if classes and law.name != "gaussian":
        raise invalid("noise_law", "be left out for a CategoricalTeacher", law.name)
    if OUTPUT_NOISE in problem.design.sources and not classes:
        residual_divisor(problem, trainer.fit)
    drawn = class_block(problem, seeds, 0) if classes else draw_training_block(problem, seeds, 0, law, trainer.fit)
    parts: list[Trained] = []
    with Progress(progress) as bar, one_blas_thread(when=problem.teacher.n_inputs <= SMALL):
        for block in range(-(-filled.size // BLOCK)):
            part = slice(block * BLOCK, min((block + 1) * BLOCK, filled.size))
            teacher, rows = levels["teacher_output"][part], levels["data_resampling"][part]
            own = TrainingBlock(
                labels=drawn.labels[teacher],
                within=drawn.within[teacher],
                counts=None if drawn.counts is None else drawn.counts[rows],
            )
            parts.append(trainer.train(own, block, n_workers))
            bar.show(min(part.stop, n_students), n_students)
    return joined(parts).first(n_students), trainer.description
