"""Transformers and what it needs, imported quietly; where one is missing, the extra that brings it."""

from __future__ import annotations

import warnings

from kdstats.errors import MissingDependencyError

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "DynamicCache",
    "SafetensorError",
    "load_file",
    "logging",
    "safe_open",
    "save_file",
    "torch",
]

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file, save_file
        from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
        from transformers.utils import logging
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("torch", "safetensors", "transformers"):
        raise
    raise MissingDependencyError(
        f'language models need {error.name}, which is not installed: pip install "kdstats[language]"'
    ) from error
