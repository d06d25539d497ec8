"""Measures of text answers: what each student adds to each at every prompt.

A measure is a table (S, n) of contributions whose mean is the estimate, as
:mod:`kdstats.components.crossed_means` has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.class_moments import cells_of_labels, estimate_points
from kdstats.components.crossed_means import pair_contributions
from kdstats.errors import DataError, invalid
from kdstats.observation.responses.answers import Answers, as_embeddings, as_unit_rows
from kdstats.observation.responses.clusters import clusters, in_bulk, unit_rows
from kdstats.observation.responses.matching import match, normalized
from kdstats.problem.validation import as_array

__all__ = [
    "bulk_measures",
    "cluster_measures",
    "is_deterministic",
    "matches",
    "reference_vectors",
    "split_wrong",
    "text_measures",
    "vector_measures",
]

FloatArray = NDArray[np.float64]

CLASSES = ("inter", "intra", "total")
ENTROPIES = ("mutual_information", "semantic_entropy", "total_entropy")


def is_deterministic(answers: Answers) -> bool:
    """Whether each student gave one answer to a prompt, and cannot give another."""
    if answers.counts.max() > 1 or "temperature" not in answers.frame:
        return False
    return bool((answers.frame["temperature"].iloc[answers.rows] == 0).all())


def text_measures(answers: Answers) -> dict[str, FloatArray]:
    """Return measures of the texts alone."""
    texts = [answers.texts[row] for row in answers.rows]
    found: dict[str, FloatArray] = {"words": answers.cell_means(np.array([float(len(text.split())) for text in texts]))}
    if "ended" in answers.frame:
        ended = answers.frame["ended"].iloc[answers.rows]
        if ended.isna().any():
            raise invalid("table['ended']", "be True or False", "missing values", DataError)
        if not ended.isin([True, False]).all():
            raise invalid(
                "table['ended']", "be True or False", repr(ended[~ended.isin([True, False])].iloc[0]), DataError
            )
        found["ended"] = answers.cell_means(ended.to_numpy(dtype=np.float64))
    _, codes = np.unique(np.array(texts, dtype=object), return_inverse=True)
    found |= {f"text_{name}": values for name, values in zip(CLASSES, _classes(answers, codes.ravel()), strict=False)}
    if answers.counts.min() > 1:
        pairs = np.column_stack([answers.student * len(answers.prompts) + answers.prompt, codes.ravel()])
        cells = np.unique(pairs, axis=0)[:, 0]
        distinct = np.bincount(cells, minlength=answers.counts.size)
        found["distinct_responses"] = distinct.reshape(answers.counts.shape).astype(np.float64)
    return found


def _classes(answers: Answers, codes: NDArray[np.int64]) -> list[FloatArray]:
    """Return contributions to Gini inter, intra, total, mutual information, expected and total entropy."""
    n_students, n_prompts = answers.counts.shape
    known = is_deterministic(answers)
    tables = np.full((6, n_students, n_prompts), np.nan)
    for i in range(n_prompts):
        at = answers.prompt == i
        _, own = np.unique(codes[at], return_inverse=True)
        size = int(own.max()) + 1
        counts = np.bincount(answers.student[at] * size + own.ravel(), minlength=n_students * size)
        cells = cells_of_labels(counts.reshape(n_students, 1, size))
        if known:
            zeros = np.zeros((n_students, 1))
            cells = type(cells)(mean=cells.mean, count=cells.count, within=zeros, entropy=zeros, last_step=zeros)
        with np.errstate(divide="ignore", invalid="ignore"):
            point = estimate_points(cells)
        moves = np.nan_to_num(point.moves[:, :, 0]) if n_students == 2 else point.moves[:, :, 0]
        tables[:, :, i] = point.estimate + np.sqrt(n_students * (n_students - 1)) * moves
    return list(tables)


def cluster_measures(answers: Answers, vectors: FloatArray, similarity: float) -> dict[str, FloatArray]:
    """Return Gini indices and entropies over clusters of all students' answers to a prompt."""
    codes = np.zeros(len(answers.rows), dtype=np.int64)
    for i in range(len(answers.prompts)):
        at = answers.prompt == i
        codes[at] = clusters(vectors[answers.rows[at]], similarity=similarity)
    tables = _classes(answers, codes)
    return dict(zip((*(f"gini_{name}" for name in CLASSES), *ENTROPIES), tables, strict=True))


def matches(answers: Answers, targets: list[list[str]], threshold: float) -> tuple[FloatArray, FloatArray | None]:
    """Return exact, contained and fuzzy matches of students' rows (N, 3), and the teacher's fuzzy rate per prompt."""
    plain = [[normalized(text) for text in texts] for texts in targets]
    hits = np.empty((len(answers.rows), 3))
    for j, (row, prompt) in enumerate(zip(answers.rows, answers.prompt, strict=True)):
        one = match(answers.texts[row], plain[prompt], threshold=threshold)
        hits[j] = one.exact, one.contained, one.fuzzy
    if not answers.n_teacher:
        return hits, None
    rates = [
        np.mean([match(answers.texts[row], plain[i], threshold=threshold).fuzzy for row in rows])
        for i, rows in enumerate(answers.teacher)
    ]
    return hits, np.array(rates, dtype=np.float64)


def split_wrong(rates: FloatArray) -> dict[str, FloatArray]:
    """Split (S, n) rates of wrong answers into what two students share and what one has alone."""
    shared = pair_contributions(rates[..., None])
    return {"shared_wrong": shared, "lone_wrong": rates - shared}


def reference_vectors(
    embeddings: Any, targets: list[list[str]] | None, given: Any, answers: Answers, *, dimension: int
) -> list[FloatArray] | None:
    """Return the unit vectors of each prompt's references, the main one first."""
    if given is not None:
        absent = [prompt for prompt in answers.prompts if prompt not in given]
        if absent:
            raise invalid("reference_embeddings", "have every prompt", f"none for {absent[0]!r}", DataError)
        vectors = [np.atleast_2d(as_array("reference_embeddings", given[prompt])) for prompt in answers.prompts]
        odd = next((v.shape for v in vectors if v.ndim != 2 or v.shape[1] != dimension), None)
        if odd is not None:
            raise invalid("reference_embeddings", f"have {dimension} columns, as embeddings", f"{odd}", DataError)
        names = [
            [f"reference {i + 1} of {p!r}" for i in range(len(v))]
            for v, p in zip(vectors, answers.prompts, strict=True)
        ]
        return [as_unit_rows("reference_embeddings", v, of=of) for v, of in zip(vectors, names, strict=True)]
    if targets is None or not callable(embeddings):
        return None
    flat = as_embeddings(embeddings, [text for texts in targets for text in texts], name="embeddings(references)")
    return np.split(flat, np.cumsum([len(texts) for texts in targets])[:-1])


def vector_measures(
    answers: Answers, vectors: FloatArray, references: list[FloatArray] | None
) -> dict[str, FloatArray]:
    """Return variances, errors and cosines of embeddings."""
    own = vectors[answers.rows]
    means, counts = answers.cell_means(own), answers.counts
    squares = answers.cell_means((own**2).sum(axis=1))
    plain = squares - np.einsum("sid,sid->si", means, means)
    if is_deterministic(answers):
        intra = np.zeros_like(squares)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            intra = np.where(counts > 1, plain * counts / (counts - 1), np.nan)
    common = pair_contributions(means)
    found = {"embedding_total": squares - common, "embedding_intra": intra, "embedding_inter": squares - intra - common}
    if references is not None:
        main = np.stack([vectors_of[0] for vectors_of in references])
        errors = means - main
        found["systematic_error"] = pair_contributions(errors)
        found["squared_error"] = squares - 2 * np.einsum("sid,id->si", means, main) + (main**2).sum(axis=1)
        found["idiosyncratic_error"] = found["squared_error"] - found["systematic_error"] - intra
        nearest = np.array([(references[i] @ v).max() for i, v in zip(answers.prompt, own, strict=True)])
        found["cosine_to_reference"] = answers.cell_means(nearest)
    if answers.n_teacher:
        found |= _against_teacher(answers, vectors, means, references)
    return found


def _against_teacher(
    answers: Answers, vectors: FloatArray, means: FloatArray, references: list[FloatArray] | None
) -> dict[str, FloatArray]:
    taught = [vectors[rows] for rows in answers.teacher]
    centre = np.stack([each.mean(axis=0) for each in taught])
    own = vectors[answers.rows]
    along = np.einsum("nd,nd->n", own, unit_rows(centre)[answers.prompt])
    found = {"cosine_to_teacher": answers.cell_means(along)}
    if answers.n_teacher < 2:
        return found
    spread = np.array([((v - c) ** 2).sum() / (len(v) - 1) for v, c in zip(taught, centre, strict=True)])
    noise = spread / np.array([len(v) for v in taught])
    shape = answers.counts.shape
    found["teacher_distance"] = pair_contributions(means - centre) - noise
    found["teacher_spread"] = np.broadcast_to(spread, shape)
    if references is not None:
        main = np.stack([vectors_of[0] for vectors_of in references])
        found["teacher_error"] = np.broadcast_to(((centre - main) ** 2).sum(axis=1) - noise, shape)
    return found


def bulk_measures(
    answers: Answers, vectors: FloatArray, wrong: FloatArray | None, *, similarity: float, bulk: float
) -> dict[str, FloatArray]:
    """Return rates of answers off the teacher's bulk; with those that are wrong (N,), of hallucinations."""
    if answers.n_teacher * bulk < 1 - 1e-9:
        needed = int(np.ceil(1 / bulk - 1e-9))
        rule = f"hold at least {needed} answers of the teacher to every prompt for bulk={bulk:g}"
        raise invalid("table", rule + ", or one answer is a bulk", answers.n_teacher, DataError)
    off = np.zeros(len(answers.rows))
    for i, rows in enumerate(answers.teacher):
        at = answers.prompt == i
        off[at] = ~in_bulk(vectors[answers.rows[at]], vectors[rows], similarity=similarity, mass=bulk)
    found = {"off_bulk": answers.cell_means(off)}
    if wrong is not None:
        found["hallucination"] = answers.cell_means(off * wrong)
        found["shared_hallucination"] = pair_contributions(found["hallucination"][..., None])
    return found
