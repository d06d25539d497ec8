r"""Students that torch trains by gradients, many at once.

Network students take full-batch steps of Adam or gradient descent in float32. Linear students are
trained in double precision: by the gradient steps of their ``GradientDescent``, or, without one, by
conjugate gradients until the gradient vanishes to rounding. The coefficient map from which
predictions are computed serves only to refuse problems that have no answer, to count residual
degrees of freedom, and to make the labels of pilot students and of the earlier links of a chain.
"""

from __future__ import annotations

import time
from typing import Any

from kdstats.components.result import VarianceComponents
from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.networks.kernels import LANES
from kdstats.observation.assembly import as_replicates, assemble_components
from kdstats.observation.categorical import assemble_classes
from kdstats.observation.dropped import n_passes
from kdstats.observation.label_mixer import LabelMixer
from kdstats.observation.linear_trainer import LinearTrainer
from kdstats.observation.network_trainer import NetworkTrainer, class_block
from kdstats.observation.predictive import residual_divisor
from kdstats.observation.trained import Levels, Trained, joined, select
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent, NetworkStudent
from kdstats.problem.validation import as_count
from kdstats.progress import Progress, ProgressLike
from kdstats.sampling import BLOCK, NoiseLaw, as_noise_law, draw_training_block
from kdstats.streams import Seeds, as_seeds

__all__ = ["observe", "trainer_of", "variance_description"]


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
    student of classes (head ``softmax``) has a variance p(1-p) at a class of probability p.
    A network with ``dropout`` has the variance of its outputs over masks instead: in closed form for one hidden
    layer and the heads ``mean`` and ``gaussian`` (:func:`kdstats.networks.passes.own_variance`), else from
    ``n_replicates`` passes (16 where not given) with masks of their own from the seed ``student_output``, by
    one-way random effects; ``student_predictions`` are those of all units. With
    ``multi_response`` students trained full batch are trained on the mean labels, which give the gradients of the
    kn rows (see :mod:`kdstats.networks.training`); their residuals are those of the kn rows.

    The initial weights of networks come from the seed ``student_initialization``; with that source
    off, all students start from one common draw. A student with a ``batch_size`` goes through its rows (the n
    inputs, or its resampled ones in the order of the inputs; for ``multi_response`` once for each response) in a
    random order of its own from the seed ``data_order``, drawn anew for each epoch; with that source off, all
    students share one sequence of orders. So it is with the masks of dropout in training.
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
    trainer = trainer_of(problem, seeds, law, n_passes=n_passes(problem, n_replicates))
    mixed = problem.design.weighting is not None and isinstance(problem.student, NetworkStudent)
    mixer = LabelMixer(problem, seeds, law) if mixed else None
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
            if mixer is not None:
                whole = mixer.draw(block, whole_groups.stop, n_workers)
            drawn = select(whole or draw_training_block(problem, seeds, block, law, trainer.fit), whole_groups)
            finished = trainer.train(drawn, block, n_workers)
            trained.append(finished.first(size))
            bar.show(part.stop, n_students)
    answers = joined(trained)
    if classes:
        return assemble_classes(
            answers.predictions,
            problem,
            seeds=seeds,
            engine="networks",
            training=trainer.description,
            started=started,
            n_replicates=n_replicates,
            outputs=answers.outputs,
        )
    return assemble_components(
        answers.predictions,
        problem,
        variances=answers.variances,
        outputs=answers.outputs,
        seeds=seeds,
        law=law,
        engine="networks",
        started=started,
        n_replicates=n_replicates,
        smoother=trainer.fit,
        attrs={"training": trainer.description, "student_variance": variance_description(problem)}
        | ({} if mixer is None else mixer.facts),
    )


def trainer_of(
    problem: DistillationProblem,
    seeds: Seeds,
    law: NoiseLaw,
    *,
    levels: Levels | None = None,
    n_passes: int | None = None,
) -> NetworkTrainer | LinearTrainer:
    """Return what trains the students of a problem."""
    if isinstance(problem.student, NetworkStudent):
        return NetworkTrainer(problem, seeds, law, levels=levels, n_passes=n_passes)
    return LinearTrainer(problem, seeds, law, levels=levels)


def variance_description(problem: DistillationProblem) -> str:
    """Say what variance students give their own outputs."""
    if isinstance(problem.student, NetworkStudent) and problem.student.dropout > 0.0:
        mean = problem.student.head == "mean"
        return "its output over masks of dropout" + ("" if mean else ", and what it draws under each")
    if isinstance(problem.student, NetworkStudent) and problem.student.head == "gaussian":
        return "its own output, the exponential of a predicted logarithm"
    unbiased = isinstance(problem.student, LinearStudent) and problem.student.residual_variance == "unbiased"
    divisor = "its residual degrees of freedom" if unbiased else "the number of its training rows"
    return f"residual sum of squares over {divisor}"
