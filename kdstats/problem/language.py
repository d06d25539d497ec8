"""Language models that answer prompts, and students of them: what is asked, without any library that runs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdstats.errors import invalid
from kdstats.problem.validation import as_choice, as_count, as_number

__all__ = ["LanguageSampling", "LanguageStudent", "LanguageTeacher"]

PROMPT_FORMATS = ("auto", "chat", "plain")
DTYPES = ("float32", "bfloat16")
METHODS = ("adapter", "full")
LABELS = ("hard", "soft")


@dataclass(frozen=True, kw_only=True)
class LanguageSampling:
    """How answers are drawn from a language model.

    Parameters
    ----------
    temperature : float, default 1.0
        Logits are divided by it; 0 always takes the likeliest token (greedy).
    top_k : int, optional
        Draw among this many likeliest tokens.
    top_p : float, optional
        Draw among the likeliest tokens whose probabilities sum to at least this, after ``top_k``.
    max_new_tokens : int, default 64
        An answer of this many tokens without an end is cut; it counts as not ended.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", as_number("temperature", self.temperature, minimum=0.0))
        if self.top_k is not None:
            object.__setattr__(self, "top_k", as_count("top_k", self.top_k))
        if self.top_p is not None:
            top_p = as_number("top_p", self.top_p, minimum=0.0, maximum=1.0)
            if top_p == 0.0:
                raise invalid("top_p", "be greater than 0", top_p)
            object.__setattr__(self, "top_p", top_p)
        object.__setattr__(self, "max_new_tokens", as_count("max_new_tokens", self.max_new_tokens))


@dataclass(frozen=True)
class LanguageTeacher:
    """Causal language model whose sampled answers students learn.

    Parameters
    ----------
    model : str or Path
        Folder with safetensors weights, a GGUF file, or a name on the hub. Pickled weights are refused.
    sampling : LanguageSampling, optional
        Default: temperature 1, all tokens, 64 of them at most.
    prompt_format : {"auto", "chat", "plain"}, default "auto"
        ``"chat"`` puts a prompt through the tokenizer's chat template, ``"auto"`` does so where there is one.
    system : str, optional
        System message of the chat.
    dtype : {"float32", "bfloat16"}, default "float32"
        Of the weights and the arithmetic.
    """

    model: str
    sampling: LanguageSampling = field(default_factory=LanguageSampling, kw_only=True)
    prompt_format: str = field(default="auto", kw_only=True)
    system: str | None = field(default=None, kw_only=True)
    dtype: str = field(default="float32", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", _as_source("model", self.model))
        if not isinstance(self.sampling, LanguageSampling):
            raise invalid("sampling", "be a LanguageSampling", self.sampling)
        _check_prompting(self)


@dataclass(frozen=True)
class LanguageStudent:
    """Causal language model that is trained on a teacher's answers.

    The loss is the cross-entropy of the answer's tokens alone, averaged over the tokens of a batch; the end-of-sequence
    token is one of them where an answer really ended. Dropout is off. Every student takes ``n_steps`` steps on
    ``batch_size`` rows each, whatever the number of rows it has, so that strategies have equal budgets.

    Parameters
    ----------
    model : str or Path
        Where it starts from; see :class:`LanguageTeacher`.
    n_layers : int, optional
        Keep this many layers, the first and last ones, and remove the block in the middle. Default: all.
    method : {"adapter", "full"}, default "adapter"
        Low-rank adapters on frozen weights (LoRA), or all weights.
    adapter_rank : int, default 8
        Rank of each adapter.
    adapter_scale : float, default 2.0
        The adapter's product is multiplied by this (``lora_alpha / r``).
    adapted_layers : int, optional
        Put adapters on the last so many layers only. Each row passes the others once, not at every step. Default: all.
    n_steps : int, default 100
        Optimizer steps.
    batch_size : int, default 8
        Rows of a step.
    learning_rate : float, default 5e-4
        Of AdamW without weight decay, constant.
    labels : {"hard", "soft"}, default "hard"
        ``"soft"``: at each token of the answer, the teacher's whole next-token law (at its temperature, ``top_k`` and
        ``top_p``) in place of the sampled token, the limit of many sampled tokens.
    perturbation_sd : float, optional
        What the source ``student_initialization`` does. Default: each student draws its own adapters (students of
        method ``"full"`` then all start the same). With a number s, each weight w also starts as w(1+e), e ~ N(0, s²).
    prompt_format, system, dtype
        As in :class:`LanguageTeacher`. With ``"bfloat16"``, what is trained stays float32.
    """

    model: str
    n_layers: int | None = field(default=None, kw_only=True)
    method: str = field(default="adapter", kw_only=True)
    adapter_rank: int = field(default=8, kw_only=True)
    adapter_scale: float = field(default=2.0, kw_only=True)
    adapted_layers: int | None = field(default=None, kw_only=True)
    n_steps: int = field(default=100, kw_only=True)
    batch_size: int = field(default=8, kw_only=True)
    learning_rate: float = field(default=5e-4, kw_only=True)
    labels: str = field(default="hard", kw_only=True)
    perturbation_sd: float | None = field(default=None, kw_only=True)
    prompt_format: str = field(default="auto", kw_only=True)
    system: str | None = field(default=None, kw_only=True)
    dtype: str = field(default="float32", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", _as_source("model", self.model))
        as_choice("method", self.method, METHODS)
        as_choice("labels", self.labels, LABELS)
        for name in ("adapter_rank", "n_steps", "batch_size"):
            object.__setattr__(self, name, as_count(name, getattr(self, name)))
        for name in ("n_layers", "adapted_layers"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_count(name, getattr(self, name)))
        if self.adapted_layers is not None and self.method == "full":
            raise invalid("adapted_layers", "be left out with method 'full'", self.adapted_layers)
        for name in ("adapter_scale", "learning_rate"):
            object.__setattr__(self, name, as_number(name, getattr(self, name), minimum=0.0, exclusive=True))
        if self.perturbation_sd is not None:
            spread = as_number("perturbation_sd", self.perturbation_sd, minimum=0.0)
            object.__setattr__(self, "perturbation_sd", spread)
        _check_prompting(self)


def _as_source(name: str, value: Any) -> str:
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise invalid(name, "be a folder, a GGUF file or a name on the hub", value)
    return str(value)


def _check_prompting(model: LanguageTeacher | LanguageStudent) -> None:
    as_choice("prompt_format", model.prompt_format, PROMPT_FORMATS)
    as_choice("dtype", model.dtype, DTYPES)
    if model.system is not None and (not isinstance(model.system, str) or model.prompt_format == "plain"):
        raise invalid("system", "be text, and go with a chat", model.system)
