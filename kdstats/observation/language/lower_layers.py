"""Layers below the first adapter are the same at every step: each row passes them once, the rest is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kdstats.observation.language.layers import Base, layer_stack
from kdstats.observation.language.libraries import torch
from kdstats.observation.language.rows import Batch, Row, answer_logits, joined

__all__ = ["LowerLayers"]

#: Bytes of hidden states up to which rows are kept.
LARGEST = 2**30
#: Largest difference of logits, relative to the largest of them, that rounding makes.
ROUNDING = {"float32": 1e-4, "bfloat16": 2e-2}


class LowerLayers:
    """Hidden states of rows where the trained layers begin, kept for as long as the layers below do not change.

    Attributes
    ----------
    depth : int
        Layers below the first adapter; 0 where nothing is kept.

    Notes
    -----
    A row is computed on its own, so that its states do not depend on the rows beside it and a resumed run takes the
    same steps. The rest of the model takes the states in place of embeddings. Models that treat embeddings in a way
    of their own (scaled, or with positions added) are found by comparison of the logits of the first batch, and then
    pass all their layers at every step.

    Memory: n_tokens x width numbers for each row; nothing is kept of more than 1 GiB of them.
    """

    def __init__(self, base: Base, rows: Sequence[Row]) -> None:
        student, config = base.student, base.model.config
        self.base, self.depth = base, 0
        self._kept: dict[tuple[int, ...], Any] = {}
        self._is_checked = False
        n_tokens = sum(map(len, {tuple(row.tokens) for row in rows}))
        is_small = 4 * n_tokens * int(getattr(config, "hidden_size", LARGEST)) <= LARGEST
        if student.adapted_layers is not None and student.n_steps * student.batch_size > len(rows) and is_small:
            self._name, self._layers = layer_stack(base.model, int(config.num_hidden_layers))
            self.depth = len(self._layers) - student.adapted_layers

    def logits(self, rows: Sequence[Row], batch: Batch) -> Any:
        """Return what :func:`answer_logits` does of the batch of these rows."""
        if not self.depth:
            return answer_logits(self.base.model, batch)
        shorter = self._upper_logits(rows, batch)
        if self._is_checked:
            return shorter
        self._is_checked = True
        whole = answer_logits(self.base.model, batch)
        at = batch.targets >= 0
        if (shorter - whole)[at].abs().max() <= ROUNDING[self.base.student.dtype] * whole[at].abs().max():
            return shorter
        self.depth = 0
        self._kept.clear()
        return whole

    def _upper_logits(self, rows: Sequence[Row], batch: Batch) -> Any:
        states = [self._states(row) for row in rows]
        entered = torch.zeros((*batch.tokens.shape, states[0].shape[-1]), dtype=states[0].dtype)
        for place, one in enumerate(states):
            entered[place, len(entered[place]) - len(one) :] = one
        with self._layers_from(self.depth):
            output = self.base.model(
                inputs_embeds=entered,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=batch.n_kept,
            )
        return output.logits[:, :-1].float()

    def _states(self, row: Row) -> Any:
        key = tuple(row.tokens)
        if key not in self._kept:
            alone = joined([row])
            caught: list[Any] = []

            def catch(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
                entered = given[0] if given else named["hidden_states"]
                caught.append(entered[0].detach().clone())
                raise _ReachedError

            handle = self._layers[self.depth].register_forward_pre_hook(catch, with_kwargs=True)
            try:
                with torch.no_grad():
                    answer_logits(self.base.model, alone)
            except _ReachedError:
                pass
            finally:
                handle.remove()
            self._kept[key] = caught[0]
        return self._kept[key]

    @contextmanager
    def _layers_from(self, first: int) -> Iterator[None]:
        parent, _, name = self._name.rpartition(".")
        holder = self.base.model.get_submodule(parent)
        setattr(holder, name, self._layers[first:])
        try:
            yield
        finally:
            setattr(holder, name, self._layers)


class _ReachedError(Exception):
    """The trained layers are reached."""
