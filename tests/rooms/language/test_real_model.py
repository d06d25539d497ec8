"""The small real model, fetched, checked and converted: it answers, and bears the loss of its middle in order."""

import pandas as pd
import pytest
import torch

import kdstats as kd
from kdstats.observation.language import parts
from kdstats.observation.language.layers import without_middle_layers
from kdstats.observation.language.models import load_language_model
from kdstats.observation.language.rows import answer_logits, encode_rows, joined


@pytest.mark.slow
def test_the_real_teacher_answers_and_bears_the_loss_of_its_middle():
    teacher = kd.LanguageTeacher(
        parts.fetch(["teacher"])["teacher"], sampling=kd.LanguageSampling(temperature=0.0, max_new_tokens=16)
    )
    loaded = load_language_model(teacher.model)
    answers = kd.sample_responses(teacher, ["What is the capital of France?"], rng=1, loaded=loaded)
    assert answers["response"].tolist() == ["The capital of France is Paris."]
    assert answers["ended"].all()
    batch = joined(encode_rows(pd.DataFrame(answers), loaded, teacher))
    at, losses = batch.targets >= 0, []
    for n_layers in (30, 24, 10):
        with torch.no_grad():
            logits = answer_logits(without_middle_layers(loaded, n_layers).model, batch)
        losses.append(float(torch.nn.functional.cross_entropy(logits[at], batch.targets[at])))
    assert losses == sorted(losses)
    assert losses[2] > losses[1] + 1
