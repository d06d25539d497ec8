"""Answers sampled from a language model in batches, each prompt computed once for all its answers.

A batch of prompts, padded on the left, goes through the model once; its key-value cache is repeated for the answers of
each prompt, and they go on together, one token at a time, until all have ended. Rows that ended leave the batch. Each
answer has a random stream of its own, addressed by its prompt and number, and a token is where the stream's next
uniform number falls in the cumulated probabilities. So an answer does not depend on which others are in its batch,
except through rounding: sums in another order move probabilities by about 1e-7 (float32), which changes a token in
about as many draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.observation.language.libraries import DynamicCache, torch
from kdstats.observation.language.models import LanguageModel
from kdstats.problem.language import LanguageSampling
from kdstats.streams import Seeds

__all__ = ["Answer", "answer_uniforms", "generate", "left_padded", "truncated_law"]

#: Share of rows still at work below which the others are taken out of the batch.
COMPACT_BELOW = 0.8


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One sampled answer.

    Attributes
    ----------
    tokens : list of int
        Without the token that ended it.
    ended : bool
        Whether the model ended it; otherwise it was cut.
    log_probability : float
        Of all its tokens, the one that ended it too, under the model itself (temperature 1, nothing cut off), in nats.
    """

    tokens: list[int]
    ended: bool
    log_probability: float


def answer_uniforms(seeds: Seeds, source: str, prompt: str, *path: int, n_tokens: int) -> NDArray[np.float64]:
    """Return the uniform numbers of one answer; the first ones are the same for any number of tokens."""
    address = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big")
    return seeds.generator(source, "answer", address & 0xFFFFFFFF, address >> 32, *path).random(n_tokens)


def truncated_law(logits: Any, sampling: LanguageSampling) -> Any:
    """Return the probabilities that tokens are drawn with, shape of the logits (..., V), float32.

    The order of :meth:`kdstats.CategoricalTeacher.truncated`: temperature, then ``top_k``, then ``top_p`` of the rest.
    At temperature 0 the likeliest token, the first of equals, has probability 1.
    """
    logits = logits.float()
    if sampling.temperature == 0.0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        top, place = logits.topk(sampling.top_k, dim=-1)
        law = torch.zeros_like(logits).scatter_(-1, place, _nucleus(top.softmax(-1), sampling.top_p))
    else:
        ordered = logits.softmax(-1)
        if sampling.top_p is None or sampling.top_p == 1.0:
            return ordered
        top, place = ordered.sort(dim=-1, descending=True, stable=True)
        law = torch.zeros_like(ordered).scatter_(-1, place, _nucleus(top, sampling.top_p))
    return law


def _nucleus(descending: Any, mass: float | None) -> Any:
    if mass is None or mass == 1.0:
        return descending
    before = descending.double().cumsum(-1) - descending.double()
    kept = torch.where(before < mass, descending, torch.zeros_like(descending))
    return kept / kept.sum(-1, keepdim=True)


def left_padded(sequences: Sequence[Sequence[int]]) -> tuple[Any, Any, Any]:
    """Return token ids, attention mask and positions of sequences that end at the same place, shape (B, L)."""
    longest = max(len(sequence) for sequence in sequences)
    tokens = torch.zeros((len(sequences), longest), dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, sequence in enumerate(sequences):
        tokens[row, longest - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, longest - len(sequence) :] = 1
    return tokens, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def generate(
    loaded: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniforms: Sequence[Sequence[NDArray[np.float64]]],
    *,
    sampling: LanguageSampling,
) -> list[list[Answer]]:
    """Sample answers to a batch of prompts.

    Parameters
    ----------
    loaded : LanguageModel
    prompts : sequence of sequences of int
        Token ids of B prompts.
    uniforms : sequence of sequences of (max_new_tokens,) arrays
        One array for each answer wanted of each prompt; their numbers may differ between prompts.
    sampling : LanguageSampling

    Returns
    -------
    list of list of Answer
    """
    counts = [len(rows) for rows in uniforms]
    with torch.inference_mode():
        rows = _generate_rows(loaded, prompts, counts, np.concatenate([np.stack(rows) for rows in uniforms]), sampling)
    edges = np.cumsum([0, *counts])
    return [rows[first:last] for first, last in pairwise(edges)]


def _generate_rows(
    loaded: LanguageModel,
    prompts: Sequence[Sequence[int]],
    counts: list[int],
    uniforms: NDArray[np.float64],
    sampling: LanguageSampling,
) -> list[Answer]:
    tokens, mask, positions = left_padded(prompts)
    cache = DynamicCache(config=loaded.model.config)
    output = loaded.model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    owner = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(counts))
    if counts != [1] * len(prompts):
        cache.batch_select_indices(owner)
    logits, mask, position = output.logits[:, -1][owner], mask[owner], positions[owner, -1]
    n_rows, ends = len(owner), torch.tensor(loaded.end_tokens)
    drawn: list[list[int]] = [[] for _ in range(n_rows)]
    ended = np.zeros(n_rows, dtype=bool)
    log_probability = np.zeros(n_rows)
    at_work = torch.arange(n_rows)  # the answer that each row of the batch belongs to
    alive = torch.ones(n_rows, dtype=torch.bool)
    numbers = torch.from_numpy(uniforms)
    for step in range(sampling.max_new_tokens):
        chosen = _draw(logits, numbers[at_work, step], sampling)
        gained = logits.float().log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        finishes = torch.isin(chosen, ends)
        for row in torch.nonzero(alive)[:, 0].tolist():
            answer = int(at_work[row])
            log_probability[answer] += float(gained[row])
            if finishes[row]:
                ended[answer] = True
            else:
                drawn[answer].append(int(chosen[row]))
        alive &= ~finishes
        if not alive.any() or step + 1 == sampling.max_new_tokens:
            break
        position = position + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=-1)
        if alive.float().mean() < COMPACT_BELOW:
            kept = torch.nonzero(alive)[:, 0]
            cache.batch_select_indices(kept)
            at_work, alive, chosen, mask, position = (x[kept] for x in (at_work, alive, chosen, mask, position))
        output = loaded.model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=position[:, None],
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]
    return [
        Answer(tokens=row, ended=bool(end), log_probability=float(value))
        for row, end, value in zip(drawn, ended, log_probability, strict=True)
    ]


def _draw(logits: Any, uniform: Any, sampling: LanguageSampling) -> Any:
    """Return the token at which each row's uniform number falls, shape (B,)."""
    if sampling.temperature == 0.0:
        return logits.argmax(-1)
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        top, place = (logits.float() / sampling.temperature).topk(sampling.top_k, dim=-1)
        return place.gather(-1, _inverted(_nucleus(top.softmax(-1), sampling.top_p), uniform))[:, 0]
    return _inverted(truncated_law(logits, sampling), uniform)[:, 0]


def _inverted(law: Any, uniform: Any) -> Any:
    edges = law.double().cumsum(-1)
    place = torch.searchsorted(edges, (uniform[:, None] * edges[:, -1:]).contiguous(), right=True)
    # the last token with any probability, where rounding puts a number beyond the sum
    last = law.shape[-1] - 1 - (law > 0).flip(-1).int().argmax(-1, keepdim=True)
    return torch.minimum(place, last)
