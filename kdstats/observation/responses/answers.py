"""A table of text answers, checked once: who answered what, how often, as text and as vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import DataError, invalid
from kdstats.observation.columns import key_codes, listed
from kdstats.observation.long_table import combined, with_keys
from kdstats.observation.responses.clusters import unit_rows
from kdstats.observation.responses.matching import normalized
from kdstats.problem.validation import as_array

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Answers",
    "Embedder",
    "as_embeddings",
    "as_references",
    "as_unit_rows",
    "response_frame",
    "student_answers",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
#: Texts to vectors, one row each.
Embedder = Callable[[list[str]], Any]

TEACHER, STUDENT = "teacher", "student"
HINTS = {
    "prompt_id": "each row answers one prompt",
    "response": "the text of the answer",
    "student": "who answered; empty in rows of the teacher",
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """Answers of students and of their teacher.

    Attributes
    ----------
    frame : DataFrame
        All rows, numbered from 0.
    rows : (N,) ndarray of int
        Rows of students' answers, ordered by student, then prompt.
    student, prompt : (N,) ndarray of int
        Of these rows.
    students, prompts : list
        Labels.
    teacher : list of ndarray of int
        Rows of the teacher's answers to each prompt, possibly none.
    texts : list of str
        Normalised, of all rows.
    """

    frame: pd.DataFrame
    rows: IntArray
    student: IntArray
    prompt: IntArray
    students: list[Any]
    prompts: list[Any]
    teacher: list[IntArray]
    texts: list[str]

    @property
    def counts(self) -> IntArray:
        """Number of answers of each student to each prompt, shape (S, n)."""
        shape = (len(self.students), len(self.prompts))
        counts = np.bincount(self.student * shape[1] + self.prompt, minlength=shape[0] * shape[1])
        return counts.reshape(shape)

    @property
    def n_teacher(self) -> int:
        """Fewest answers of the teacher to a prompt."""
        return min(len(rows) for rows in self.teacher)

    def cell_means(self, values: FloatArray) -> FloatArray:
        """Average numbers (N,) or vectors (N, d) of students' rows within each student and prompt."""
        counts = self.counts
        cell = self.student * counts.shape[1] + self.prompt
        starts = np.flatnonzero(np.diff(cell, prepend=-1))
        sums = np.add.reduceat(values, starts, axis=0)
        means = sums.reshape(*counts.shape, *values.shape[1:])
        return np.asarray(means / counts.reshape(*counts.shape, *(1,) * (values.ndim - 1)))


def response_frame(table: Any, *, keys: Sequence[str]) -> pd.DataFrame:
    """Return a table of answers with its keys as columns and rows numbered from 0; ``response`` is text everywhere."""
    if not (hasattr(table, "columns") and hasattr(table, "index")):
        raise invalid("table", "be a pandas DataFrame", f"a {type(table).__name__}", DataError)
    frame = with_keys(table, keys, hints=HINTS).reset_index(drop=True)
    texts = [isinstance(text, str) for text in frame["response"]]
    if not all(texts):
        row = texts.index(False)
        shown = f"{frame['response'].iloc[row]!r} in row {row} ({texts.count(False)} rows)"
        raise invalid("table['response']", "be text in every row", shown, DataError)
    if "source" in frame.columns:
        odd = ~frame["source"].isin([TEACHER, STUDENT])
        if odd.any():
            shown = f"{frame['source'][odd].iloc[0]!r} in row {int(np.argmax(odd))}"
            raise invalid("table['source']", f"be {TEACHER!r} or {STUDENT!r}", shown, DataError)
    return frame


def student_answers(table: Any) -> Answers:
    """Read a table of answers: every student answers every prompt at least once.

    Raises
    ------
    DataError
        If a column or an answer is missing, a response is no text, or the answers of a cell are numbered twice alike.
    """
    frame = response_frame(table, keys=["prompt_id", "response", "student"])
    is_student = (frame["source"] == STUDENT).to_numpy() if "source" in frame else frame["student"].notna().to_numpy()
    if not is_student.any():
        raise invalid("table", "hold answers of students", "rows of the teacher alone", DataError)
    codes, prompts = key_codes(frame, "prompt_id")
    rows = np.flatnonzero(is_student)
    student, students = key_codes(frame.iloc[rows], "student")
    order = np.lexsort((codes[rows], student))
    rows, student = rows[order], student[order]
    asked, prompt = np.unique(codes[rows], return_inverse=True)
    shape = (len(students), len(asked))
    counts = np.bincount(student * shape[1] + prompt, minlength=shape[0] * shape[1])
    if counts.min() == 0:
        s, p = divmod(int(counts.argmin()), shape[1])
        raise DataError(
            f"`table` must hold an answer of every student to every prompt; got {int((counts == 0).sum())} of "
            f"{counts.size} missing, first of student {students[s]!r} to prompt {prompts[asked[p]]!r}"
        )
    if "response_index" in frame:
        number, _ = key_codes(frame.iloc[rows], "response_index")
        if len(np.unique(combined([student, prompt.astype(np.int64), number]))) < len(rows):
            rule = "number the answers of a student to a prompt"
            raise invalid("table['response_index']", rule, "one number twice", DataError)
    teacher = np.flatnonzero(~is_student)
    return Answers(
        frame=frame,
        rows=rows,
        student=student,
        prompt=prompt.astype(np.int64),
        students=[s.item() if isinstance(s, np.generic) else s for s in students],
        prompts=[prompts[i] for i in asked],
        teacher=[teacher[codes[teacher] == i] for i in asked],
        texts=[normalized(text) for text in frame["response"]],
    )


def as_embeddings(embeddings: Any, texts: Sequence[str], *, name: str = "embeddings") -> FloatArray:
    """Return vectors of length 1, one for each text, from an array or an embedder (each text is embedded once)."""
    if callable(embeddings):
        once = list(dict.fromkeys(texts))
        place = {text: i for i, text in enumerate(once)}
        vectors = as_array(name, np.asarray(embeddings(once)), ndim=2)
        if len(vectors) != len(once):
            raise invalid(name, f"give one row for each of {len(once)} texts", f"{len(vectors)} rows", DataError)
        vectors = vectors[[place[text] for text in texts]]
    else:
        vectors = as_array(name, embeddings, ndim=2)
        if len(vectors) != len(texts):
            raise invalid(
                name, f"have one row for each of {len(texts)} rows of the table", f"{len(vectors)}", DataError
            )
    return as_unit_rows(name, vectors, of=texts)


def as_unit_rows(name: str, vectors: FloatArray, *, of: Sequence[str]) -> FloatArray:
    """Return rows of length 1; a row of zeros, which has no direction and so no cosine, is refused."""
    zero = ~vectors.any(axis=1)
    if zero.any():
        row = int(zero.argmax())
        shown = f"{int(zero.sum())} rows of zeros, the first in row {row} ({of[row][:40]!r})"
        raise invalid(name, "have a direction in every row, for cosines", shown, DataError)
    return unit_rows(vectors)


def as_references(references: Any, frame: pd.DataFrame, prompts: Sequence[Any]) -> list[list[str]] | None:
    """Return the references of each prompt, the first of which is the main one; None where there are none at all."""
    if references is None:
        if "reference" not in frame.columns:
            return None
        known = frame.drop_duplicates("prompt_id").set_index("prompt_id")["reference"]
        references = {prompt: known[prompt] for prompt in prompts}
    if not isinstance(references, Mapping):
        raise invalid("references", "map prompts to texts", f"a {type(references).__name__}", DataError)
    absent = [prompt for prompt in prompts if prompt not in references]
    if absent:
        shown = f"none for {len(absent)} prompts: {listed(absent)}"
        raise invalid("references", "have every prompt", shown, DataError)
    found = []
    for prompt in prompts:
        value = references[prompt]
        texts = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise invalid(f"references[{prompt!r}]", "be a text, or a list of texts", value, DataError)
        found.append(texts)
    return found
