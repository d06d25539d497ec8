"""What each student is trained on: which answers are whose, as token ids with the answer's tokens marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdstats.errors import DataError, invalid
from kdstats.observation.language.libraries import torch
from kdstats.observation.language.models import LanguageModel
from kdstats.observation.language.sampling import left_padded
from kdstats.observation.language.store import as_responses
from kdstats.problem.language import LanguageStudent, LanguageTeacher

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Batch", "Row", "answer_logits", "encode_rows", "joined", "student_rows"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A prompt with one answer.

    Attributes
    ----------
    tokens : list of int
        Of prompt and answer, with the end where the answer ended.
    n_answer : int
        How many of the last ones are the answer's.
    """

    tokens: list[int]
    n_answer: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Rows side by side, ending at the same place.

    Attributes
    ----------
    tokens, mask, positions : (B, L) tensors
    n_kept : int
        Length of the longest answer and one more: logits of so many last places are needed.
    targets : (B, n_kept - 1) tensor
        Tokens of the answers, -100 elsewhere.
    """

    tokens: Any
    mask: Any
    positions: Any
    n_kept: int
    targets: Any


def student_rows(responses: Any, *, n_students: int, n_responses: int | None, own_answers: bool) -> list[pd.DataFrame]:
    """Return each student's part of a table of responses.

    Parameters
    ----------
    responses : DataFrame
        With a column ``student`` that is filled: the rows of each student 0 to S-1. Otherwise answers are told apart by
        ``response_index``: the first k of each prompt are student 0's, the next k student 1's.
    n_students : int
    n_responses : int, optional
        k. Default: as many as there are for all students alike.
    own_answers : bool
        False: every student has the answers of student 0.

    Raises
    ------
    DataError
        If there are too few answers, or an answer is empty.
    """
    frame = as_responses(responses)
    if "student" in frame.columns and frame["student"].notna().all():
        parts = [frame[frame["student"] == number] for number in range(n_students if own_answers else 1)]
        short = [number for number, part in enumerate(parts) if part.empty]
        if short:
            raise invalid("responses", f"have rows of all {n_students} students", f"none of {short[0]}", DataError)
    else:
        numbers = _numbers(frame)
        fewest = int(numbers.groupby(frame["prompt"].to_numpy()).max().min()) + 1
        shares = n_students if own_answers else 1
        k = max(fewest // shares, 1) if n_responses is None else n_responses
        if k * shares > fewest:
            rule = f"have {k * shares} answers to each prompt, {k} for each of {shares} students"
            raise invalid("responses", rule, f"{fewest} to one of them", DataError)
        parts = [frame[numbers.between(k * number, k * number + k - 1)] for number in range(shares)]
    return parts if own_answers else parts * n_students


def _numbers(frame: pd.DataFrame) -> Any:
    if "response_index" in frame.columns and frame["response_index"].notna().all():
        return frame["response_index"].astype(int)
    return frame.groupby("prompt").cumcount()


def encode_rows(frame: pd.DataFrame, loaded: LanguageModel, student: LanguageStudent | LanguageTeacher) -> list[Row]:
    """Return the rows of a table as token ids.

    Answers are read as text by the model's own tokenizer; special tokens in them are left out. The end-of-sequence
    token follows answers that ended (all of a table without ``ended``).

    Raises
    ------
    ProblemError
        If there is no end-of-sequence token, or prompt and answer exceed the context.
    """
    end = loaded.end_token()
    texts = frame["response"].tolist()
    answers = loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]
    ended = frame["ended"].fillna(value=True).astype(bool) if "ended" in frame.columns else np.ones(len(frame), bool)
    prompts = frame["prompt"].tolist()
    known = dict(zip(dict.fromkeys(prompts), range(len(prompts)), strict=False))
    encoded = loaded.encode_prompts(list(known), prompt_format=student.prompt_format, system=student.system, room=1)
    rows = []
    for number, (prompt, answer, has_end) in enumerate(zip(prompts, answers, ended, strict=True)):
        answer = [*answer, end] if has_end else list(answer)
        tokens = [*encoded[known[prompt]], *answer]
        if len(tokens) > loaded.context_length:
            rule = f"fit the context of {loaded.context_length} tokens with their prompts"
            raise invalid("responses", rule, f"{len(tokens)} tokens in row {number}")
        rows.append(Row(tokens=tokens, n_answer=len(answer)))
    return rows


def joined(rows: Sequence[Row]) -> Batch:
    """Return rows as one batch."""
    tokens, mask, positions = left_padded([row.tokens for row in rows])
    longest = max(row.n_answer for row in rows)
    targets = torch.full((len(rows), longest), -100, dtype=torch.long)
    for place, row in enumerate(rows):
        targets[place, longest - row.n_answer :] = torch.tensor(row.tokens[-row.n_answer :])
    return Batch(tokens=tokens, mask=mask, positions=positions, n_kept=longest + 1, targets=targets)


def answer_logits(model: Any, batch: Batch) -> Any:
    """Return logits of the tokens of the answers, shape (B, n_kept - 1, V), float32."""
    output = model(
        input_ids=batch.tokens,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        logits_to_keep=batch.n_kept,
    )
    return output.logits[:, :-1].float()
