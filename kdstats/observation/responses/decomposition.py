"""Text answers of students, in; how they vary, err and agree, out, with intervals over students and prompts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.provenance import versions
from kdstats.components.responses import DIMS, MEASURES, ResponseComponents
from kdstats.errors import DataError, DuplicateStudentsError, EstimationError, invalid
from kdstats.observation.responses.answers import (
    Answers,
    Embedder,
    as_embeddings,
    as_references,
    student_answers,
)
from kdstats.observation.responses.matching import FUZZY_THRESHOLD
from kdstats.observation.responses.measures import (
    bulk_measures,
    cluster_measures,
    is_deterministic,
    matches,
    reference_vectors,
    split_wrong,
    text_measures,
    vector_measures,
)
from kdstats.problem.validation import as_flag, as_probability

__all__ = ["BULK", "SIMILARITY", "decompose_responses"]

FloatArray = NDArray[np.float64]

#: Mean cosine within a cluster of one meaning, and share of the teacher's answers from which a cluster is in its bulk.
SIMILARITY, BULK = 0.75, 0.2
#: Chance at which equal texts of two students are no longer put down to coincidence.
FALSE_ALARM = 1e-6
#: Students below which intervals rest on very few of them.
FEW_STUDENTS = 5
#: Answers to a prompt below which an entropy over meanings saturates.
FEW_ANSWERS = 4


def decompose_responses(
    table: Any,
    *,
    embeddings: FloatArray | Embedder | None = None,
    references: Mapping[Any, str | Sequence[str]] | None = None,
    reference_embeddings: Mapping[Any, Any] | None = None,
    similarity: float = SIMILARITY,
    bulk: float = BULK,
    fuzzy_threshold: float = FUZZY_THRESHOLD,
    allow_duplicates: bool = False,
) -> ResponseComponents:
    r"""Measure how the text answers of several students vary, and how far their errors are shared.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per answer. Columns ``prompt_id``, ``response`` and ``student``; rows of the teacher have no student, or
        ``source`` "teacher" (and "student" elsewhere). Used where they are there: ``ended``, ``response_index``,
        ``reference``, ``temperature`` (0: an answer is the only one its student gives). Every student answers every
        prompt; numbers of answers may differ. Answers of a student to a prompt are independent draws.
    embeddings : (N, d) array_like or callable, optional
        A vector for each row, or a function from a list of texts to vectors. Lengths are divided out. Without them, no
        measure of meaning.
    references : mapping of prompt_id to str or list of str, optional
        Right answers, the first of a list being the main one. Default: the column ``reference``.
    reference_embeddings : mapping of prompt_id to array_like, optional
        Vectors (d,) or (r, d), where ``embeddings`` is an array.
    similarity : float, default 0.75
        Average cosine from which answers count as of one meaning. No entailment: "in 1912" and "in 1913" are close.
    bulk : float, default 0.2
        Share of the teacher's answers from which a cluster is in its bulk. The teacher must give at least 1/bulk.
    fuzzy_threshold : float, default 0.85
        See :func:`kdstats.observation.responses.matching.match`.
    allow_duplicates : bool, default False
        Accept students whose texts are equal to another's, in any order and case, beyond coincidence.

    Returns
    -------
    ResponseComponents
        The measures that the data allow, as :data:`kdstats.components.responses.MEASURES` describes them.

    Raises
    ------
    DataError
        Columns or answers missing, values of the wrong kind, too few answers of the teacher for ``bulk``.
    EstimationError
        One student, or one prompt.
    DuplicateStudentsError

    Notes
    -----
    With :math:`\varphi` the vector of an answer, :math:`\mu_s` its mean for student s and r the main reference, the
    squared error of an answer splits at each prompt into

    .. math:: E\|\varphi-r\|^2 = \underbrace{\|E_s\mu_s-r\|^2}_{systematic} +
              \underbrace{E_s\|\mu_s-E_s\mu_s\|^2}_{idiosyncratic} + \underbrace{E\|\varphi-\mu_s\|^2}_{intra},

    each estimated without bias: the systematic part from products of two different students' errors,
    :math:`\sum_{s\ne t}e_s\cdot e_t/(S(S-1))`, which is :math:`\|\bar e\|^2` less 1/S of the variance between students'
    means. The estimates add up exactly. ``shared_wrong`` and ``lone_wrong`` split the rate of wrong answers likewise.

    Examples
    --------
    >>> import pandas as pd
    >>> import kdstats as kd
    >>> table = pd.DataFrame({
    ...     "student": [1, 1, 2, 2],
    ...     "prompt_id": ["France", "Peru"] * 2,
    ...     "response": ["Paris.", "Lima", "It is Paris", "Cusco"],
    ... })
    >>> answer = kd.decompose_responses(table, references={"France": "Paris", "Peru": "Lima"})
    >>> answer.mean("contained_match").estimate
    0.75
    """
    similarity, bulk = as_probability("similarity", similarity), as_probability("bulk", bulk)
    threshold = as_probability("fuzzy_threshold", fuzzy_threshold)
    answers = student_answers(table)
    _refuse_few(answers)
    targets = as_references(references, answers.frame, answers.prompts)
    notes: list[str] = []
    found: dict[str, FloatArray] = text_measures(answers)
    if not as_flag("allow_duplicates", allow_duplicates):
        _refuse_copies(answers)
    wrong: FloatArray | None = None
    if targets is not None:
        hits, teacher_match = matches(answers, targets, threshold)
        for i, name in enumerate(("exact_match", "contained_match", "fuzzy_match")):
            found[name] = answers.cell_means(hits[:, i])
        wrong = 1.0 - hits[:, 2]
        found |= split_wrong(answers.cell_means(wrong))
        if teacher_match is not None:
            found["teacher_match"] = np.broadcast_to(teacher_match, answers.counts.shape)
    if embeddings is not None:
        vectors = as_embeddings(embeddings, list(answers.frame["response"]))
        centres = reference_vectors(embeddings, targets, reference_embeddings, answers, dimension=vectors.shape[1])
        found |= vector_measures(answers, vectors, centres)
        found |= cluster_measures(answers, vectors, similarity)
        if answers.n_teacher:
            found |= bulk_measures(answers, vectors, wrong, similarity=similarity, bulk=bulk)
        notes.append(
            f"Answers are of one meaning if their average cosine is at least {similarity:g}. No entailment is tested."
        )
        if 1 < (most := int(answers.counts.max())) < FEW_ANSWERS:
            notes.append(
                f"semantic_entropy saturates: {most} answers of a student to a prompt show {most} meanings at most, "
                f"log {most} = {np.log(most):.2f} nats before correction. Where most answers differ it says only that."
            )
        if answers.n_teacher and wrong is not None:
            notes.append(
                f"A hallucination has no match (fuzzy_match) and is in no cluster with {100 * bulk:g}% of the "
                f"teacher's {answers.n_teacher} or more answers. A right answer in other words than the "
                "references, which the teacher seldom gives, counts as one."
            )
    elif reference_embeddings is not None:
        raise invalid("reference_embeddings", "go with `embeddings`", "no embeddings", DataError)
    missing = [
        what
        for what, given in (
            ("embeddings", embeddings is not None),
            ("references", wrong is not None),
            ("answers of the teacher", answers.n_teacher > 0),
        )
        if not given
    ]
    if missing and len(missing) < 3:
        notes.append(
            f"No hallucination rate: it needs {' and '.join(missing)} too (a hallucination has no match "
            "and is not usual for the teacher either)."
        )
    notes += _remarks(answers)
    kept = [name for name in MEASURES if name in found]
    contributions = xr.DataArray(
        np.stack([found[name] for name in kept]),
        coords={"measure": kept, "student": answers.students, "prompt": answers.prompts},
        dims=DIMS,
        name="contribution",
    )
    return ResponseComponents(
        contributions=contributions,
        attrs={
            "n_responses": (int(answers.counts.min()), int(answers.counts.max())),
            "n_teacher": answers.n_teacher,
            "similarity": similarity,
            "bulk": bulk,
            "fuzzy_threshold": threshold,
            "notes": tuple(notes),
            "engine": "table",
            "exactness": "observed",
            "versions": versions(),
        },
    )


def _refuse_few(answers: Answers) -> None:
    for name, labels in (("students", answers.students), ("prompts", answers.prompts)):
        if len(labels) < 2:
            rule = "hold at least 2 students" if name == "students" else "hold at least 2 prompts"
            raise invalid("table", f"{rule}, for intervals over them", len(labels), EstimationError)


def _remarks(answers: Answers) -> list[str]:
    notes = ["Intervals are over students and prompts: other ones of the same kinds would be as far off."]
    if len(answers.students) < FEW_STUDENTS:
        notes.append(f"{len(answers.students)} students: what another set of them would change is poorly known.")
    if len(answers.students) == 2:
        notes.append("With two students, intervals of measures over pairs of students are over prompts alone.")
    if is_deterministic(answers):
        notes.append("Temperature 0: a student's only answer is known, and its own variance is 0.")
    elif answers.counts.min() == 1:
        notes.append("Some students gave one answer to a prompt: what lies within students is not identified.")
    empty = sum(not answers.texts[row] for row in answers.rows)
    if empty:
        notes.append(f"{empty} of {len(answers.rows)} answers hold no word; they count as wrong.")
    return notes


def _refuse_copies(answers: Answers) -> None:
    """Refuse two students with the same texts everywhere, unless students agree so often that chance explains it.

    Texts are compared as normalised, and in any order: a copy may be sorted or written in capitals.
    """
    n_students, n_prompts = answers.counts.shape
    cells: dict[tuple[int, int], list[str]] = {}
    for row, student, prompt in zip(answers.rows, answers.student, answers.prompt, strict=True):
        cells.setdefault((int(student), int(prompt)), []).append(answers.texts[row])
    whole = [[cells[s, i] for i in range(n_prompts)] for s in range(n_students)]
    sets = [[sorted(texts) for texts in each] for each in whole]
    for s in range(n_students):
        for t in range(s):
            if sets[s] != sets[t]:
                continue
            others = [u for u in range(n_students) if u not in (s, t)]
            chance = 0.0
            for i in range(n_prompts):
                rest = Counter(text for u in (*others, s) for text in cells[u, i])
                chance += sum(np.log(rest[text] / rest.total()) for text in cells[s, i])
                if whole[s] != whole[t]:
                    chance += _log_orders(cells[s, i])
            if chance < np.log(FALSE_ALARM):
                raise DuplicateStudentsError(
                    f"`table` must hold independent students; got students {answers.students[t]!r} and "
                    f"{answers.students[s]!r} with the same {sum(map(len, whole[s]))} texts, which is no "
                    "coincidence: did one seed train both? (allow_duplicates=True accepts them)"
                )


def _log_orders(texts: Sequence[str]) -> float:
    """Return the logarithm of the number of different orders of these texts."""
    return math.lgamma(len(texts) + 1) - sum(math.lgamma(n + 1) for n in Counter(texts).values())
