r"""What is expected of students that learn the answers of one input by heart (results T20, T20b, T21, T21b).

With the student's probabilities :math:`\hat p_c = (N_c + a_c)/(k + A)` and their mean :math:`m_c`, everything that is a
sum over classes of a function of one count is a sum over the exact law of that count: the entropy
:math:`E\,H(\hat p)`, the mutual information :math:`\sum_c E\,\hat p_c\ln(\hat p_c/m_c)`, both divergences, the missing
mass. What concerns the most frequent answer comes from its exact law (:mod:`kdstats.prediction.closed_form.modes`).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import digamma, entr, xlogy

from kdstats.components.class_parts import COMPONENTS, DIMS
from kdstats.components.class_prediction import ClassPrediction
from kdstats.components.classes import UNITS
from kdstats.components.provenance import versions
from kdstats.components.result import label_array
from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.prediction.closed_form.count_law import CountLaw, some_unseen
from kdstats.problem.categorical import CategoricalTeacher, DirichletStudent, TabularStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_choice, as_count, as_flag
from kdstats.sampling import BLOCK
from kdstats.sampling.classes import draw_class_counts
from kdstats.streams import Seeds, as_seeds

__all__ = [
    "as_count_problem",
    "as_reference",
    "count_law",
    "draw_modes",
    "has_exact_modes",
    "modes_are_simulated",
    "predict_classes",
]

FloatArray = NDArray[np.float64]

#: Responses k, and classes times k cubed, up to which the law of the most frequent answer is computed exactly.
MOST_RESPONSES, MOST_WORK = 1000, 2e10


def predict_classes(
    problem: DistillationProblem,
    *,
    reference: CategoricalTeacher | None = None,
    unit: str = "nats",
    modes: bool = True,
    n_students: int = 10_000,
    rng: Any = None,
) -> ClassPrediction:
    """Predict entropies, divergences and agreement of students that memorise sampled answers, exactly.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.TabularStudent` or :class:`~kdstats.DirichletStudent`.
    reference : CategoricalTeacher, optional
        Whose probabilities students are held against, for instance the teacher before its temperature was lowered or
        its tail cut off. Default: the teacher that answers.
    unit : {"nats", "bits"}
        Of entropies and divergences.
    modes : bool, default True
        Whether to tell about likeliest answers too, which takes up to C k³ / 4 operations an input.
    n_students : int, default 10000
        Simulated for likeliest answers where pseudo-counts differ between classes, k is beyond 1000 or C k³ beyond
        2e10; the rest is always exact.
    rng : int, Generator, SeedSequence, Seeds or None
        For that simulation, as in :func:`kdstats.streams.as_seeds`.

    Returns
    -------
    ClassPrediction
        ``estimate`` has the same components as :func:`kdstats.decompose_classes` estimates from a table.

    Raises
    ------
    UnsupportedProblemError
        For other students.
    ProblemError
        If the source ``student_output`` is off, the reference has other inputs or classes, or an option is out of
        range.

    Notes
    -----
    Answers of the same probability in a student's mind tie; ties are broken at random. A class that the teacher can say
    and a student gives no probability makes KL(teacher || student) infinite; the probability of that is given.

    Examples
    --------
    >>> import kdstats as kd
    >>> problem = kd.DistillationProblem(
    ...     teacher=kd.CategoricalTeacher([[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]]),
    ...     student=kd.TabularStudent(),
    ...     design=kd.Design(n_responses=5),
    ... )
    >>> predicted = predict_classes(problem)
    >>> round(float(predicted.expected_entropy[0]), 5)
    0.92951
    >>> round(float(predicted.measures["missing_mass"][0]), 5)
    0.27664
    """
    started = time.perf_counter()
    student = as_count_problem(problem)
    as_choice("unit", unit, UNITS)
    as_flag("modes", modes)
    count = as_count("n_students", n_students, minimum=3, reason="for standard errors")
    teacher = problem.categorical_teacher
    target = as_reference(reference, teacher).probabilities
    law = count_law(problem)
    pseudo = student.pseudo_counts(teacher.n_outputs)
    weight = problem.design.n_responses + pseudo.sum()
    mean = (problem.design.n_responses * teacher.probabilities + pseudo) / weight

    expected = _expectations(law, pseudo, weight)
    entropy = expected["entropy"].sum(axis=1)
    information, inter = np.zeros_like(entropy), np.zeros_like(entropy)
    if law.is_sampled:
        logs = np.log(np.where(mean > 0.0, mean, 1.0))
        information = (-expected["entropy"] - expected["probability"] * logs).sum(axis=1)
        inter = (expected["square"] - mean**2).sum(axis=1)
    intra = expected["spread"].sum(axis=1)
    components = [inter, intra, (mean * (1.0 - mean)).sum(axis=1), information, entropy, entr(mean).sum(axis=1)]
    in_unit = np.array([1.0, 1.0, 1.0, *[1.0 / UNITS[unit]] * 3])[:, None]
    measures = _divergences(law, expected, target, pseudo, mean) | {
        "distinct_answers": (1.0 - expected["absent"]).sum(axis=1),
        "answers_agree": (mean**2).sum(axis=1),
    }
    for name in ("kl_to_teacher", "kl_from_teacher"):
        measures[name] = measures[name] / UNITS[unit]
    errors = {name: np.zeros_like(entropy) for name in measures}
    is_simulated = modes and modes_are_simulated(problem)
    if modes:
        found = _mode_measures(problem, target, pseudo, n_students=count, seeds=as_seeds(rng))
        measures |= {name: values for name, (values, _) in found.items()}
        errors |= {name: error for name, (_, error) in found.items()}
    where = {"point": label_array(problem.point_labels)}
    return ClassPrediction(
        estimate=xr.DataArray(np.array(components) * in_unit, {"component": list(COMPONENTS), **where}, DIMS),
        measures=xr.Dataset({name: ("point", values) for name, values in measures.items()}, where),
        measure_errors=xr.Dataset({name: ("point", values) for name, values in errors.items()}, where),
        parts=_parts(student, expected["posterior"], weight, intra, entropy, 1.0 / UNITS[unit], where),
        attrs={
            "engine": "closed_form",
            "exactness": "exact but for modes, which are simulated" if is_simulated else "exact",
            "unit": unit,
            "classes": teacher.output_labels,
            "n_responses": problem.design.n_responses,
            "problem": problem.fingerprint(),
            "versions": versions(),
            "wall_time": time.perf_counter() - started,
        },
    )


def as_count_problem(problem: Any) -> TabularStudent | DirichletStudent:
    """Return the student of a problem whose students depend on counts of classes alone.

    Raises
    ------
    ProblemError
        If it is no problem, or the source ``student_output`` is off.
    UnsupportedProblemError
        For other students.
    """
    if not isinstance(problem, DistillationProblem):
        raise invalid("problem", "be a DistillationProblem", f"a {type(problem).__name__}")
    student = problem.student
    if not isinstance(student, (TabularStudent, DirichletStudent)):
        raise UnsupportedProblemError(
            f"this covers a TabularStudent or DirichletStudent; got a {type(student).__name__}"
        )
    if "student_output" not in problem.design.sources:
        raise invalid("sources", "have 'student_output', which is what probabilities are about", "it off")
    return student


def as_reference(reference: Any, teacher: CategoricalTeacher) -> CategoricalTeacher:
    """Return the teacher that students are held against."""
    if reference is None:
        return teacher
    if not isinstance(reference, CategoricalTeacher):
        raise invalid("reference", "be a CategoricalTeacher", f"a {type(reference).__name__}")
    if reference.probabilities.shape != teacher.probabilities.shape:
        shape = "x".join(map(str, teacher.probabilities.shape))
        given = "x".join(map(str, reference.probabilities.shape))
        raise invalid("reference", f"have the teacher's inputs and classes ({shape})", given)
    return reference


def count_law(problem: DistillationProblem) -> CountLaw:
    """Return the law of the class counts that students learn from."""
    teacher, design = problem.categorical_teacher, problem.design
    return CountLaw(
        probabilities=teacher.probabilities,
        n_responses=design.n_responses,
        correlation=teacher.response_correlation,
        is_sampled="teacher_output" in design.sources and design.strategy != "soft_labels",
    )


def _expectations(law: CountLaw, pseudo: FloatArray, weight: float) -> dict[str, FloatArray]:
    """Expect functions of the student's probability of each class, shapes (n, C)."""
    counts_of = pseudo[:, None]

    def of_probability(function: Any) -> Any:
        return lambda counts: function((counts + counts_of) / weight)

    return law.expectations(
        {
            "entropy": of_probability(entr),
            "probability": of_probability(lambda q: q),
            "square": of_probability(np.square),
            "spread": of_probability(lambda q: q * (1.0 - q)),
            "log": of_probability(lambda q: np.log(np.where(q > 0.0, q, 1.0))),
            "absent": lambda counts: (counts == 0.0).astype(np.float64),
            "posterior": lambda counts: (counts + counts_of) / weight * digamma(counts + counts_of + 1.0),
        }
    )


def _divergences(
    law: CountLaw, expected: dict[str, FloatArray], target: FloatArray, pseudo: FloatArray, mean: FloatArray
) -> dict[str, FloatArray]:
    """Return both expected divergences, the probability of an infinite one, and the missing mass."""
    says, is_bare = target > 0.0, pseudo == 0.0
    logs = np.log(np.where(says, target, 1.0))
    to_teacher = -expected["entropy"].sum(axis=1) - (mean * logs).sum(axis=1)
    to_teacher = np.where(((mean > 0.0) & ~says).any(axis=1), np.inf, np.maximum(to_teacher, 0.0))
    unsaid = expected["absent"] * is_bare
    if law.is_sampled:
        pairs = zip(law.probabilities, says & is_bare, strict=True)
        infinite = np.array(
            [some_unseen(p, wanted, n_responses=law.n_responses, correlation=law.correlation) for p, wanted in pairs]
        )
    else:
        infinite = (unsaid * says > 0.0).any(axis=1).astype(np.float64)
    from_teacher = np.full(len(target), np.inf)
    finite = infinite <= 0.0
    if finite.any():
        values = (xlogy(target, target) - target * expected["log"]).sum(axis=1)
        from_teacher = np.where(finite, np.maximum(values, 0.0), np.inf)
    return {
        "kl_to_teacher": to_teacher,
        "kl_from_teacher": from_teacher,
        "kl_from_teacher_infinite": infinite,
        "missing_mass": (target * unsaid).sum(axis=1),
    }


def _parts(
    student: Any,
    posterior: FloatArray,
    weight: float,
    intra: FloatArray,
    entropy: FloatArray,
    in_unit: float,
    where: dict[str, Any],
) -> xr.Dataset | None:
    """Split what one Bayesian student is unsure of into doubt about its probabilities and the rest."""
    if not isinstance(student, DirichletStudent):
        return None
    aleatoric = digamma(weight + 1.0) - posterior.sum(axis=1)
    parts = {
        "epistemic_gini": intra / (weight + 1.0),
        "aleatoric_gini": intra * (weight / (weight + 1.0)),
        "epistemic_entropy": (entropy - aleatoric) * in_unit,
        "aleatoric_entropy": aleatoric * in_unit,
    }
    return xr.Dataset({name: ("point", values) for name, values in parts.items()}, where)


def _mode_measures(
    problem: DistillationProblem, target: FloatArray, pseudo: FloatArray, *, n_students: int, seeds: Seeds
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return what is told about likeliest answers, each with its standard error."""
    favourites = (target == target.max(axis=1, keepdims=True)).astype(np.float64)
    law = count_law(problem)
    zero = np.zeros(len(target))
    if modes_are_simulated(problem):
        drawn = draw_modes(problem, pseudo, n_students=n_students, seeds=seeds)
        n, root = np.arange(len(target)), np.sqrt(n_students)
        times = np.array([np.bincount(column, minlength=target.shape[1]) for column in drawn.T])
        told = {"mode_is_teachers": favourites, "mode_probability": target, "modes_agree": times / n_students}
        found = {name: values[n, drawn] for name, values in told.items()}  # (S, n)
        answer = {name: (seen.mean(axis=0), seen.std(axis=0, ddof=1) / root) for name, seen in found.items()}
        agree = (times * (times - 1.0)).sum(axis=1) / (n_students * (n_students - 1.0))
        return answer | {"modes_agree": (agree, 2.0 * answer["modes_agree"][1])}
    if law.is_sampled:
        from kdstats.prediction.closed_form.modes import mode_law  # numba

        k, rho = law.n_responses, law.correlation
        chosen = np.array([mode_law(p, n_responses=k, correlation=rho) for p in law.probabilities])
    else:
        values = law.n_responses * law.probabilities + pseudo
        chosen = (values == values.max(axis=1, keepdims=True)).astype(np.float64)
        chosen /= chosen.sum(axis=1, keepdims=True)
    return {
        "modes_agree": ((chosen**2).sum(axis=1), zero),
        "mode_is_teachers": ((chosen * favourites).sum(axis=1), zero),
        "mode_probability": ((chosen * target).sum(axis=1), zero),
    }


def has_exact_modes(n_classes: int, n_responses: int) -> bool:
    """Whether the exact law of the most frequent answer has a bearable cost."""
    return n_responses <= MOST_RESPONSES and n_classes * n_responses**3 <= MOST_WORK


def modes_are_simulated(problem: DistillationProblem) -> bool:
    """Whether likeliest answers are simulated: unequal pseudo-counts, or too many responses or classes."""
    n_classes = problem.teacher.n_outputs
    uneven = bool(np.ptp(as_count_problem(problem).pseudo_counts(n_classes)) > 0.0)
    return count_law(problem).is_sampled and (uneven or not has_exact_modes(n_classes, problem.design.n_responses))


def draw_modes(problem: DistillationProblem, pseudo: FloatArray, *, n_students: int, seeds: Seeds) -> NDArray[np.int64]:
    """Simulate students' likeliest answers, one of those that tie at random, shape (S, n)."""
    found = np.empty((n_students, problem.teacher.n_inputs), dtype=np.int64)
    for block in range(-(-n_students // BLOCK)):
        part = slice(block * BLOCK, min((block + 1) * BLOCK, n_students))
        values = draw_class_counts(problem, seeds, block) + pseudo
        rank = (values == values.max(axis=-1, keepdims=True)).cumsum(axis=-1)
        uniform = seeds.generator("student_output", "ties", block).random(rank.shape[:-1])
        chosen = 1 + np.floor(uniform * rank[..., -1]).astype(np.int64)
        found[part] = (rank >= chosen[..., None]).argmax(axis=-1)[: part.stop - part.start]
    return found
