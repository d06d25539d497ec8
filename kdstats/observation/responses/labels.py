"""Which texts a student is trained on: one response, all of them, their medoid, or one weighted with its own."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import DataError, invalid
from kdstats.observation.columns import key_codes
from kdstats.observation.responses.answers import Embedder, as_embeddings, response_frame
from kdstats.problem.validation import as_choice, as_count
from kdstats.streams import Seeds, as_seeds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["STRATEGIES", "LabelChoice", "choose_labels"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

STRATEGIES = ("single", "multi_response", "medoid", "variance_weighting")
ESTIMATES = ("pilot", "untrained")
#: Cosines below which the best candidates differ by rounding.
TIE = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelChoice:
    """Texts that students are trained on.

    Attributes
    ----------
    table : DataFrame
        One row per text: the columns of the responses, ``student`` filled with 0 to S-1, and ``label_source``
        ("teacher", or "student" where the pilot's text was nearest).
    strategy : str
    n_students, n_responses : int
        Teacher's responses that each student's labels of a prompt were made of.
    attrs : mapping
        ``notes``; of a weighting ``teacher_weight``, ``teacher_variance`` (of one response, trace), ``student_error``
        (squared, of the pilot's mean) and ``student_estimate``; ``pilot_labels``, the share of labels that are the
        pilot's.
    """

    table: pd.DataFrame
    strategy: str
    n_students: int
    n_responses: int
    attrs: Mapping[str, Any]

    def summary(self) -> str:
        """Return a few lines."""
        per = len(self.table) / self.n_students / self.table["prompt_id"].nunique()
        lines = [
            f"Labels by {self.strategy}: {self.n_students} students, {self.n_responses} teacher responses to a prompt,",
            f"{per:g} label{'s' if per > 1 else ''} of each for a student",
        ]
        for note in self.attrs["notes"]:
            lines += textwrap.wrap(note, 98)
        return "\n".join(lines)


def choose_labels(
    responses: Any,
    strategy: str,
    *,
    n_students: int,
    n_responses: int,
    embeddings: FloatArray | Embedder | None = None,
    pilot: Any = None,
    pilot_embeddings: FloatArray | None = None,
    student_estimate: str = "pilot",
    rng: Any = None,
) -> LabelChoice:
    r"""Choose what students learn from a teacher's responses, each from responses of its own.

    Parameters
    ----------
    responses : DataFrame
        The teacher's, with ``prompt_id``, ``response`` and ``response_index``: the first k of a prompt are student
        0's, the next k student 1's. The index is a number, or text that is one, and names a response to a prompt once;
        without it rows count in their order. Rows of students are left out. At least ``n_students * n_responses`` to
        every prompt.
    strategy : {"single", "multi_response", "medoid", "variance_weighting"}
        The first response; all; the one with the highest mean cosine to all (of equals one at random, so the medoid of
        two is either); the text nearest to a weighted mean of both sides' embeddings. Soft labels are no choice of
        texts: train with ``LanguageStudent(labels="soft")`` on the responses themselves.
    n_students : int
    n_responses : int
        k, at least 2 for ``variance_weighting``: one response has no variance to weigh by.
    embeddings : (N, d) array_like or callable, optional
        For each row of ``responses``, or a function of texts. Needed by ``medoid`` and ``variance_weighting``.
    pilot : DataFrame, optional
        For ``variance_weighting``: responses of pilot students, ``prompt_id``, ``response`` and ``student``. Student s
        uses pilot number s; with one pilot, or no column ``student``, all share it. Pilots must not have learnt the
        responses that student s is given here.
    pilot_embeddings : (M, d) array_like, optional
        Where ``embeddings`` is an array.
    student_estimate : {"pilot", "untrained"}, default "pilot"
        What the pilot is: a distilled student, or, as published, the model before it is trained. The arithmetic is the
        same; an untrained model's texts are no estimate of the teacher, and the result says what it is.
    rng : int, Generator, SeedSequence, Seeds or None
        For ties; the source is ``teacher_output``.

    Returns
    -------
    LabelChoice
        Its ``table`` is what training takes.

    Raises
    ------
    DataError
        If there are too few responses, an empty one, one that is there twice or has no number, or no pilot.
    ProblemError
        If k is 1 for a weighting, or options do not fit.

    Notes
    -----
    The weighted target is :math:`t=\alpha\bar\varphi+(1-\alpha)\hat s` with :math:`\bar\varphi` the mean embedding of
    the k responses, :math:`\hat s` the pilot's, and

    .. math:: \alpha=\frac{e}{e+s^2/k},\qquad e=\max\Big(0,\ \mathrm{mean}_i\|\hat s_i-\bar\varphi_i\|^2-s^2/k\Big),

    :math:`s^2` the unbiased variance of one response (trace), both pooled over the prompts of a student: the pooled
    weight of :class:`kdstats.VarianceWeighting`, in embedding space. The label is the text with the highest cosine
    to t among the teacher's k and the pilot's. A text cannot be a mean, so the variance that the weight aims at is not
    reached: see :func:`kdstats.medoid_variance`.
    """
    strategy = as_choice("strategy", strategy, STRATEGIES)
    n_students, k = as_count("n_students", n_students), as_count("n_responses", n_responses)
    student_estimate = as_choice("student_estimate", student_estimate, ESTIMATES)
    if strategy == "variance_weighting" and k < 2:
        raise invalid("n_responses", "be at least 2 with 'variance_weighting' (one response has no variance)", k)
    if (pilot is None) == (strategy == "variance_weighting"):
        rule = "be given with 'variance_weighting'" if pilot is None else "be left out without 'variance_weighting'"
        raise invalid("pilot", rule, strategy, DataError)
    needs = strategy in ("medoid", "variance_weighting")
    if needs and embeddings is None:
        raise invalid("embeddings", f"be given with {strategy!r}", None)
    frame = response_frame(responses, keys=["prompt_id", "response"])
    taught = frame["source"] == "teacher" if "source" in frame else frame.get("student", frame["response"] * 0).isna()
    kept = taught.to_numpy() if "source" in frame or "student" in frame else np.ones(len(frame), dtype=bool)
    place = _places(frame, kept, n_students=n_students, k=k)
    seeds = as_seeds(rng)
    attrs: dict[str, Any] = {"notes": ()}
    rows: IntArray
    if strategy in ("single", "multi_response"):
        rows = place[:, :, :1] if strategy == "single" else place
        table = frame.iloc[rows.ravel()].assign(
            student=np.repeat(np.arange(n_students), rows[0].size), label_source="teacher"
        )
    else:
        vectors = as_embeddings(embeddings, list(frame["response"]))
        if strategy == "medoid":
            rows = _medoids(vectors[place], place, seeds)
            table = frame.iloc[rows.ravel()].assign(
                student=np.repeat(np.arange(n_students), rows[0].size), label_source="teacher"
            )
            attrs = {"notes": ("A medoid is one of the responses: its variance is not 1/k of theirs.",)}
        else:
            table, attrs = _weighted(
                frame, vectors, place, pilot, embeddings, pilot_embeddings, student_estimate, seeds
            )
    return LabelChoice(
        table=table.reset_index(drop=True),
        strategy=strategy,
        n_students=n_students,
        n_responses=k,
        attrs=MappingProxyType(attrs),
    )


def _places(frame: pd.DataFrame, kept: NDArray[np.bool_], *, n_students: int, k: int) -> IntArray:
    """Return the rows (S, n, k) of each student's responses to each prompt."""
    rows = np.flatnonzero(kept)
    if not rows.size:
        raise invalid("responses", "hold responses of the teacher", "none", DataError)
    empty = [row for row in rows if not frame["response"].iloc[row].strip()]
    if empty:
        shown = f"{len(empty)} empty, first in row {empty[0]}"
        raise invalid("responses['response']", "hold text that can be learnt", shown, DataError)
    codes, labels = key_codes(frame.iloc[rows], "prompt_id")
    number = _numbers(frame["response_index"].iloc[rows], rows) if "response_index" in frame else np.arange(len(rows))
    order = np.lexsort((number, codes))
    again = (np.diff(codes[order]) == 0) & (np.diff(number[order]) == 0)
    if again.any():
        first = int(again.argmax())
        one, other = sorted(int(row) for row in rows[order[first : first + 2]])
        shown = f"{number[order[first]]:g} to {labels[codes[order[first]]]!r} in rows {one} and {other}"
        raise invalid("responses['response_index']", "number each response to a prompt once", shown, DataError)
    counts = np.bincount(codes, minlength=len(labels))
    if counts.min() < n_students * k:
        few = int(counts.argmin())
        rule = f"hold {n_students * k} responses to every prompt, {k} for each of {n_students} students"
        raise invalid("responses", rule, f"{counts[few]} to {labels[few]!r}", DataError)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    chosen = rows[order[starts[:, None] + np.arange(n_students * k)]]
    return np.asarray(chosen.reshape(len(labels), n_students, k).transpose(1, 0, 2))


def _numbers(index: pd.Series[Any], rows: IntArray) -> FloatArray:
    import pandas as pd

    numbers = pd.to_numeric(index, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    odd = ~np.isfinite(numbers)
    if odd.any():
        first = int(odd.argmax())
        shown = f"{index.tolist()[first]!r} in row {rows[first]} ({int(odd.sum())} rows)"
        raise invalid("responses['response_index']", "be a number in every row", shown, DataError)
    return np.asarray(numbers)


def _medoids(vectors: FloatArray, place: IntArray, seeds: Seeds) -> IntArray:
    """Return the row (S, n, 1) of the response nearest to the mean of its k."""
    score = np.einsum("sikd,sid->sik", vectors, vectors.mean(axis=2))
    chosen = _best(score, seeds)
    return np.take_along_axis(place, chosen[..., None], axis=2)


def _best(score: FloatArray, seeds: Seeds) -> IntArray:
    """Return the place of the highest score along the last axis, of equals one at random."""
    equal = score >= score.max(axis=-1, keepdims=True) - TIE
    draw = seeds.generator("teacher_output", "label ties").random(score.shape)
    return np.asarray(np.where(equal, draw, -1.0).argmax(axis=-1), dtype=np.int64)


def _weighted(
    frame: pd.DataFrame,
    vectors: FloatArray,
    place: IntArray,
    pilot: Any,
    embeddings: Any,
    pilot_embeddings: Any,
    student_estimate: str,
    seeds: Seeds,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    import pandas as pd

    n_students, n_prompts, k = place.shape
    own = response_frame(pilot, keys=["prompt_id", "response"])
    given = embeddings if callable(embeddings) else pilot_embeddings
    if given is None:
        raise invalid("pilot_embeddings", "be given where `embeddings` is an array", None, DataError)
    own_vectors = as_embeddings(given, list(own["response"]), name="pilot_embeddings")
    numbers = own["student"].fillna(-1).to_numpy() if "student" in own else np.full(len(own), -1)
    shared = len(set(numbers)) == 1
    if not shared and not set(range(n_students)) <= set(numbers):
        missing = min(set(range(n_students)) - set(numbers))
        raise invalid(
            "pilot", f"have rows of students 0 to {n_students - 1}, or of one", f"none of {missing}", DataError
        )
    prompts = frame["prompt_id"].iloc[place[0, :, 0]].tolist()
    where = {key: np.asarray(rows) for key, rows in own.groupby([numbers, "prompt_id"]).indices.items()}
    parts, weights, variances, errors, theirs = [], [], [], [], 0
    for s in range(n_students):
        taught = vectors[place[s]]
        mean = taught.mean(axis=1)
        pilots = [where.get((numbers[0] if shared else s, prompt)) for prompt in prompts]
        if any(rows is None for rows in pilots):
            absent = prompts[[rows is None for rows in pilots].index(True)]
            raise invalid("pilot", "answer every prompt", f"none to {absent!r}", DataError)
        rows_of = [np.asarray(rows) for rows in pilots]
        estimate = np.stack([own_vectors[rows].mean(axis=0) for rows in rows_of])
        variance = float(((taught - mean[:, None]) ** 2).sum() / (n_prompts * (k - 1)))
        error = max(float(((estimate - mean) ** 2).sum(axis=1).mean()) - variance / k, 0.0)
        weight = error / (error + variance / k) if error + variance > 0 else 1.0
        target = weight * mean + (1 - weight) * estimate
        for i, rows in enumerate(rows_of):
            usable = np.array([row for row in rows if own["response"].iloc[row].strip()], dtype=np.int64)
            candidates = np.concatenate([taught[i], own_vectors[usable]])
            best = int(_best(candidates @ target[i], seeds.branch("weighting", s, i)))
            chosen = frame.iloc[place[s, i, best]] if best < k else own.iloc[usable[best - k]]
            source = "teacher" if best < k else "student"
            theirs += best >= k
            parts.append({**chosen.to_dict(), "student": s, "label_source": source})
        weights.append(weight)
        variances.append(variance)
        errors.append(error)
    notes = [
        f"Weight of the teacher's mean {np.mean(weights):.3f}; "
        f"{100 * theirs / len(parts):.0f}% of labels are the pilot's."
    ]
    if shared and n_students > 1:
        notes.append("One pilot serves all students: what it adds to their labels is an error that they share.")
    if student_estimate == "untrained":
        notes.append("The published variant: texts of an untrained model, which are no estimate of the teacher.")
    attrs = {
        "teacher_weight": tuple(weights),
        "teacher_variance": tuple(variances),
        "student_error": tuple(errors),
        "student_estimate": student_estimate,
        "pilot_labels": theirs / len(parts),
        "notes": tuple(notes),
    }
    return pd.DataFrame(parts), attrs
