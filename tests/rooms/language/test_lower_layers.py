"""Layers below the adapters, passed once a row: the same students, and models for which it cannot be done."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import kdstats as kd
from kdstats.observation.language import lower_layers
from kdstats.observation.language.layers import Base
from kdstats.observation.language.lower_layers import LowerLayers
from kdstats.observation.language.models import load_language_model
from kdstats.observation.language.rows import answer_logits, encode_rows, joined

ANSWERS = pd.DataFrame(
    {"prompt": ["w1 w2", "w3", "w4 w5 w6"] * 2, "response": ["w20 w21", "w22", "w23", "w24 w25 w26", "w27", "w28 w29"]}
)


@pytest.fixture(scope="module")
def deep(make_model, tmp_path_factory):
    return load_language_model(make_model(tmp_path_factory.mktemp("deep") / "deep-model", n_layers=5))


def student_of(loaded, **options):
    settings = {"adapted_layers": 2, "n_steps": 6, "batch_size": 4, "learning_rate": 0.01}
    return kd.LanguageStudent(loaded.name, **settings | options)


def parameters(loaded, folder, **options):
    made = kd.train_language_students(
        student_of(loaded, **options), ANSWERS, n_students=2, n_responses=1, folder=folder, rng=1, loaded=loaded
    )
    found = []
    for number in range(2):
        made.load(number)
        found.append(torch.cat([value.detach().flatten() for value in made.base.trained.values()]).numpy())
    return np.stack(found)


@pytest.mark.parametrize("options", [{}, {"n_layers": 4, "adapted_layers": 1}, {"perturbation_sd": 0.1}])
def test_students_are_those_of_all_layers(deep, tmp_path, monkeypatch, options):
    short = parameters(deep, tmp_path / "short", **options)
    monkeypatch.setattr(lower_layers, "LARGEST", 0)
    whole = parameters(deep, tmp_path / "whole", **options)
    np.testing.assert_allclose(short, whole, atol=2e-4)
    assert np.abs(short[0] - short[1]).max() > 0.01
    assert np.abs(short - parameters(deep, tmp_path / "other", **options | {"learning_rate": 0.02})).max() > 0.01


def test_each_row_passes_the_lower_layers_once(deep):
    base = Base(deep, student_of(deep))
    rows = encode_rows(ANSWERS, deep, base.student)
    lower = LowerLayers(base, rows)
    passed = []
    for number, layer in enumerate(base.model.model.layers):
        layer.register_forward_hook(lambda *_, number=number: passed.append(number))
    with torch.no_grad():
        for _ in range(3):
            found = lower.logits(rows, joined(rows))
    assert lower.depth == 3
    # Below: six rows and the check. Above: three steps and the check.
    assert [passed.count(number) for number in range(5)] == [7, 7, 7, 4, 4]
    at = joined(rows).targets >= 0
    expected = answer_logits(base.model, joined(rows))
    torch.testing.assert_close(found[at], expected[at], atol=1e-5, rtol=1e-5)


def test_a_model_that_adds_positions_passes_all_its_layers(deep, tmp_path):
    """GPT-2 would add its positions a second time: the comparison of logits finds it."""
    config = GPT2Config(vocab_size=44, n_embd=32, n_layer=4, n_head=2, n_positions=64, initializer_range=0.4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    deep.tokenizer.save_pretrained(tmp_path / "gpt2")
    loaded = load_language_model(tmp_path / "gpt2")
    base = Base(loaded, student_of(loaded))
    rows = encode_rows(ANSWERS, loaded, base.student)
    lower = LowerLayers(base, rows)
    assert lower.depth == 2
    expected = answer_logits(base.model, joined(rows))
    torch.testing.assert_close(lower.logits(rows, joined(rows)), expected)
    assert lower.depth == 0
    torch.testing.assert_close(lower.logits(rows, joined(rows)), expected)


@pytest.mark.parametrize("options", [{"adapted_layers": None}, {"n_steps": 1}, {"adapted_layers": 5}])
def test_nothing_is_kept_without_need(deep, options):
    base = Base(deep, student_of(deep, **options))
    assert LowerLayers(base, encode_rows(ANSWERS, deep, base.student)).depth == 0
