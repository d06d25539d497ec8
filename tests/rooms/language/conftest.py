"""A tiny random model, made once: two layers of width 32 and a vocabulary of words; and examples made to use it."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from kdstats.observation.language.models import load_language_model

WORDS = [f"w{i}" for i in range(40)]
CHAT = "{% for message in messages %}<user> {{ message['content'] }} {% endfor %}<bot>"


def build(folder, *, seed=0, words=WORDS, end="<end>", n_layers=2, chat=False):
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<end>", "<user>", "<bot>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token=end)
    fast.chat_template = CHAT if chat else None
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None if end is None else vocabulary["<end>"],
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The folder of the model."""
    return build(tmp_path_factory.mktemp("tiny") / "tiny-model")


@pytest.fixture(scope="session")
def loaded(tiny):
    return load_language_model(tiny)


@pytest.fixture(scope="session")
def make_model():
    """A function that saves a model to a folder."""
    return build


@pytest.fixture
def language_example(monkeypatch):
    """A function that imports an example by name: five questions of the tiny model's words, embeddings from a hash."""
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples")
    questions = pd.DataFrame(
        {
            "prompt_id": [f"q{i}" for i in range(5)],
            "prompt": [f"w{i} w{i + 1}" for i in range(5)],
            "references": [["w3"]] * 5,
        }
    )
    setting = importlib.import_module("language_setting")
    monkeypatch.setattr(setting, "read_trivia", lambda path: questions)
    monkeypatch.setattr(setting, "fetch", dict.fromkeys)
    monkeypatch.setattr(setting, "SentenceEmbedder", lambda folder: embed)
    monkeypatch.setattr(setting, "SYSTEM", None)
    yield importlib.import_module
    for name in ("language_setting", "language_sources", "language_strategies"):
        sys.modules.pop(name, None)


def embed(texts):
    return np.array([np.random.default_rng([*map(ord, text), 1]).normal(size=8) for text in texts])
