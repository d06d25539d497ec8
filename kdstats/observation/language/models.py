"""Language models from a folder, a GGUF file or the hub, with a fingerprint of their weights; nothing is unpickled."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdstats.errors import DataError, MissingDependencyError, invalid
from kdstats.observation.language.libraries import AutoModelForCausalLM, AutoTokenizer, logging, torch

__all__ = ["LanguageModel", "fingerprint", "load_language_model", "quiet"]

#: Suffixes of weights that would be unpickled.
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, eq=False, kw_only=True)
class LanguageModel:
    """A loaded model with its tokenizer.

    Attributes
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
    name : str
        Last part of the path, or the name on the hub.
    fingerprint : str
        SHA-256 over weights (names, shapes, types, bytes) and vocabulary, 64 hexadecimal digits.
    """

    model: Any
    tokenizer: Any
    name: str
    fingerprint: str

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Token ids that end an answer; the first one is appended to answers that ended."""
        found = [self.tokenizer.eos_token_id]
        more = getattr(self.model.generation_config, "eos_token_id", None)
        found += list(more) if isinstance(more, (list, tuple)) else [more]
        return tuple(dict.fromkeys(int(token) for token in found if token is not None))

    @property
    def context_length(self) -> int:
        """Most tokens that prompt and answer may have together."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 2**31)

    def end_token(self) -> int:
        """Return the end-of-sequence token.

        Raises
        ------
        ProblemError
            If the tokenizer has none: answers would never be known to end.
        """
        if self.tokenizer.eos_token_id is None:
            raise invalid("model", "have a tokenizer with an end-of-sequence token", f"none in {self.name!r}")
        return int(self.tokenizer.eos_token_id)

    def encode_prompts(
        self, prompts: Sequence[str], *, prompt_format: str, system: str | None, room: int
    ) -> list[list[int]]:
        """Return the token ids of prompts as the model is asked them.

        Parameters
        ----------
        prompts : sequence of str
        prompt_format, system
            As in :class:`kdstats.LanguageTeacher`.
        room : int
            Tokens that must be left in the context for the answer.

        Raises
        ------
        ProblemError
            If a prompt is empty or too long, or a chat template is asked for and missing.
        """
        template = getattr(self.tokenizer, "chat_template", None)
        if prompt_format == "chat" and not template:
            raise invalid("prompt_format", "be 'plain' for a tokenizer without a chat template", "'chat'")
        chat = bool(template) and prompt_format != "plain"
        if system is not None and not chat:
            raise invalid("system", "go with a chat template, which the tokenizer does not have", system)
        encoded = []
        for index, prompt in enumerate(prompts):
            if not isinstance(prompt, str) or not prompt.strip():
                raise invalid("prompts", "be text that is not empty", f"{prompt!r} at index {index}")
            tokens = self._chat(prompt, system) if chat else list(self.tokenizer(prompt)["input_ids"])
            while not chat and len(tokens) > 1 and tokens[-1] in self.end_tokens:
                tokens.pop()
            if len(tokens) + room > self.context_length:
                rule = f"leave room for {room} new tokens in the context of {self.context_length}"
                raise invalid("prompts", rule, f"{len(tokens)} tokens at index {index}")
            if not tokens:
                raise invalid("prompts", "have at least one token", f"{prompt!r} at index {index}")
            encoded.append(tokens)
        return encoded

    def _chat(self, prompt: str, system: str | None) -> list[int]:
        messages = [] if system is None else [{"role": "system", "content": system}]
        messages.append({"role": "user", "content": prompt})
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def load_language_model(source: str | Path, *, dtype: str = "float32") -> LanguageModel:
    """Load a causal language model.

    Parameters
    ----------
    source : str or Path
        Folder with ``config.json``, safetensors weights and a tokenizer; a GGUF file, or a folder with one; otherwise a
        name on the hub, which is looked up as the variables of ``huggingface_hub`` say (``HF_HUB_OFFLINE=1``: in the
        local cache alone).
    dtype : {"float32", "bfloat16"}

    Returns
    -------
    LanguageModel

    Raises
    ------
    DataError
        If there is no model, or its weights are pickled.
    """
    where = Path(source).expanduser()
    options: dict[str, Any] = {}
    if where.exists():
        folder, gguf = _weights_in(where)
        name, place = where.name, str(folder)
        options["local_files_only"] = True
        if gguf is not None:
            options["gguf_file"] = gguf
    elif str(source).startswith(("/", ".", "~")) or str(source).count("/") > 1:
        raise invalid("model", "be a folder or a GGUF file that exists", str(source), DataError)
    else:
        name = place = str(source)
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            model = AutoModelForCausalLM.from_pretrained(
                place,
                dtype=getattr(torch, dtype),
                **({} if "gguf_file" in options else {"use_safetensors": True}),
                **options,
            )
        except ImportError as error:
            raise MissingDependencyError(
                f'the model {name!r} needs a library that is not installed: pip install "kdstats[language]" ({error})'
            ) from None
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"`model` must be a causal language model that can be loaded; got {name!r} ({reason})"
            ) from None
    if getattr(model.config, "quantization_config", None) is not None:
        del model.config.quantization_config
    model.eval().requires_grad_(requires_grad=False)
    return LanguageModel(model=model, tokenizer=tokenizer, name=name, fingerprint=fingerprint(model, tokenizer))


def fingerprint(model: Any, tokenizer: Any) -> str:
    """Return the SHA-256 of a model's weights and its tokenizer's vocabulary and template."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(memoryview(tensor.detach().contiguous().view(torch.uint8).numpy()).cast("B"))
    for word, token in sorted(tokenizer.get_vocab().items()):
        digest.update(f"{word}\x00{token};".encode())
    digest.update(str(getattr(tokenizer, "chat_template", None)).encode())
    return digest.hexdigest()


def _weights_in(where: Path) -> tuple[Path, str | None]:
    """Return the folder and, for GGUF weights, the name of the file in it."""
    if where.is_file():
        if where.suffix != ".gguf":
            raise invalid("model", "be a folder with safetensors weights, or a GGUF file", where.name, DataError)
        return where.parent, where.name
    if any(where.glob("*.safetensors")):
        return where, None
    found = sorted(where.glob("*.gguf"))
    if len(found) == 1:
        return where, found[0].name
    pickled = [path.name for path in sorted(where.iterdir()) if path.suffix in PICKLED]
    shown = f"{pickled[0]}, which is pickled: loading it could run code" if pickled else f"none in {str(where)!r}"
    if len(found) > 1:
        shown = f"{len(found)} GGUF files in {str(where)!r}: name one"
    raise invalid("model", "have weights in safetensors or GGUF files", shown, DataError)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' bars and notices off stderr; errors come through."""
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
