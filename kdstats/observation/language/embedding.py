"""Texts to vectors by a sentence encoder: last hidden states averaged over the tokens that are there, at length 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import DataError, invalid
from kdstats.observation.language.libraries import AutoTokenizer, torch
from kdstats.observation.language.models import quiet
from kdstats.observation.language.parts import find_part
from kdstats.problem.validation import as_count

__all__ = ["SentenceEmbedder"]

FloatArray = NDArray[np.float64]


class SentenceEmbedder:
    """Sentence encoder, called with a list of texts.

    Parameters
    ----------
    model : str or Path, optional
        Folder with ``model.safetensors``, a configuration and a tokenizer. Default: all-MiniLM-L6-v2 as ``kdstats
        language fetch`` installs it, whose hash is checked.
    batch_size : int, default 128
        Texts at a time, of like length.
    max_tokens : int, default 256
        What is longer is cut.

    Raises
    ------
    DataError
        If the folder is not there, or holds no safetensors weights (pickled ones are never read).
    MissingDependencyError
        If the default model is not installed.

    Notes
    -----
    Mean pooling under the attention mask and division by the length, as sentence-transformers does for its MiniLM
    models (Reimers, N. & Gurevych, I. (2019), Sentence-BERT, *EMNLP*). Two texts are as close as the cosine of their
    vectors, which is their inner product.
    """

    def __init__(self, model: str | Path | None = None, *, batch_size: int = 128, max_tokens: int = 256) -> None:
        folder = find_part("embedder").parent if model is None else Path(model)
        if not (folder / "model.safetensors").is_file():
            raise invalid("model", "be a folder with model.safetensors", str(folder), DataError)
        self.batch_size = as_count("batch_size", batch_size)
        self.max_tokens = as_count("max_tokens", max_tokens)
        try:
            with quiet():
                from transformers import AutoModel

                self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                self._model = AutoModel.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
                ).eval()
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"`model` must be a sentence encoder; got {str(folder)!r} ({reason})") from None

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Return vectors of length 1, shape (len(texts), d); a vector depends on its batch through rounding alone."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise invalid("texts", "be a list of texts", f"a {type(texts).__name__}")
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = np.empty((len(texts), int(self._model.config.hidden_size)))
        for first in range(0, len(order), self.batch_size):
            places = order[first : first + self.batch_size]
            found[places] = self._embed([texts[i] for i in places])
        return found

    def _embed(self, texts: list[str]) -> Any:
        encoded = self._tokenizer(texts, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
        with torch.inference_mode():
            hidden = self._model(**encoded).last_hidden_state
            mask = encoded["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
            return torch.nn.functional.normalize(mean, dim=-1).double().numpy()
