"""A language model as a teacher of classes: its law of the next token, among given answers of one token each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import invalid
from kdstats.observation.language.libraries import torch
from kdstats.observation.language.models import LanguageModel
from kdstats.observation.language.responses import as_prompts
from kdstats.observation.language.sampling import left_padded
from kdstats.problem.categorical import CategoricalTeacher

__all__ = ["SingleTokenAnswers", "single_token_answers"]

#: Prompts computed together.
BATCH = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class SingleTokenAnswers:
    """A teacher's law of answers of one token.

    Attributes
    ----------
    teacher : CategoricalTeacher
        Its probabilities, rescaled to the answers alone, one row a prompt.
    mass : (n,) ndarray
        Probability that the model gives one of the answers at all.
    """

    teacher: CategoricalTeacher
    mass: NDArray[np.float64]


def single_token_answers(
    loaded: LanguageModel,
    prompts: Sequence[str] | Mapping[Any, str],
    *,
    answers: Sequence[str],
    inputs: Any = None,
    prompt_format: str = "auto",
) -> SingleTokenAnswers:
    """Return a language model's next-token probabilities among given answers as a teacher of classes.

    Parameters
    ----------
    loaded : LanguageModel
    prompts : sequence of str, or mapping
    answers : sequence of str
        At least two, of one token each and all different; where answers follow text, they begin with a space.
    inputs : (n, p) array_like, optional
        What students see of the prompts (``X`` of the teacher).
    prompt_format : {"auto", "chat", "plain"}

    Returns
    -------
    SingleTokenAnswers

    Raises
    ------
    ProblemError
        If an answer is not one token, or two are the same.
    """
    named = as_prompts(prompts)
    coded = [loaded.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    for answer, found in zip(answers, coded, strict=True):
        if len(found) != 1:
            raise invalid("answers", "have one token each", f"{answer!r} with {len(found)}")
    tokens = [int(found[0]) for found in coded]
    if len(tokens) < 2 or len(set(tokens)) < len(tokens):
        raise invalid("answers", "be at least two different tokens", list(answers))
    encoded = loaded.encode_prompts(list(named.values()), prompt_format=prompt_format, system=None, room=1)
    laws = []
    for first in range(0, len(encoded), BATCH):
        ids, mask, positions = left_padded(encoded[first : first + BATCH])
        with torch.no_grad():
            output = loaded.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
            )
        laws.append(output.logits[:, -1].double().softmax(-1)[:, tokens].numpy())
    law = np.concatenate(laws)
    mass = law.sum(axis=1)
    teacher = CategoricalTeacher(law / mass[:, None], inputs, class_labels=tuple(answers))
    return SingleTokenAnswers(teacher=teacher, mass=mass)
