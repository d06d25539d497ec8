"""Answers of a tiny model against its own probabilities and against the generation library."""

import numpy as np
import pytest
import torch
from scipy import stats

import kdstats as kd
from kdstats.observation.language.sampling import answer_uniforms, generate, truncated_law
from kdstats.streams import as_seeds

PROMPTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w10 w11"]


def sample(tiny, loaded, *, n_responses=6, rng=3, batch_size=64, prompts=PROMPTS, **settings):
    teacher = kd.LanguageTeacher(tiny, sampling=kd.LanguageSampling(**{"max_new_tokens": 12} | settings))
    return kd.sample_responses(teacher, prompts, n_responses=n_responses, rng=rng, batch_size=batch_size, loaded=loaded)


def test_the_table_has_the_agreed_columns(tiny, loaded):
    table = sample(tiny, loaded)
    assert list(table.columns) == [
        "prompt_id", "prompt", "response_index", "response", "token_ids", "ended", "model", "temperature", "top_k",
        "top_p", "max_new_tokens", "seed", "source", "student", "logprob",
    ]  # fmt: skip
    assert table["prompt"].tolist() == [prompt for prompt in PROMPTS for _ in range(6)]
    assert table["response_index"].tolist() == list(range(6)) * 4
    assert set(table["source"]) == {"teacher"}
    assert table["student"].isna().all()
    assert 0 < table["ended"].sum() < len(table)
    assert all(len(tokens) == 12 for tokens in table["token_ids"][~table["ended"]])


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_an_answer_does_not_depend_on_its_batch(tiny, loaded, batch_size):
    whole, parts = sample(tiny, loaded), sample(tiny, loaded, batch_size=batch_size)
    assert whole["response"].tolist() == parts["response"].tolist()
    np.testing.assert_allclose(whole["logprob"], parts["logprob"], atol=1e-4)


def test_fewer_answers_to_fewer_prompts_are_the_same_answers(tiny, loaded):
    many, few = sample(tiny, loaded), sample(tiny, loaded, n_responses=2, prompts=PROMPTS[2:])
    expected = many[many["prompt"].isin(PROMPTS[2:]) & (many["response_index"] < 2)]
    assert few["response"].tolist() == expected["response"].tolist()


def test_another_seed_gives_other_answers(tiny, loaded):
    assert sample(tiny, loaded)["response"].tolist() != sample(tiny, loaded, rng=4)["response"].tolist()


def test_greedy_answers_are_those_of_the_generation_library(tiny, loaded):
    table = sample(tiny, loaded, n_responses=1, temperature=0.0)
    for prompt, tokens in zip(table["prompt"], table["token_ids"], strict=True):
        ids = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
        output = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, pad_token_id=0
        )
        made = output[0, ids.shape[1] :].tolist()
        assert [token for token in made if token != loaded.end_token()] == list(tokens)


def test_log_probabilities_are_those_of_the_whole_text(tiny, loaded):
    table = sample(tiny, loaded, temperature=0.7, top_k=9, top_p=0.8)
    for row in table.itertuples():
        ids = loaded.tokenizer(row.prompt)["input_ids"]
        answer = list(row.token_ids) + ([loaded.end_token()] if row.ended else [])
        with torch.no_grad():
            logits = loaded.model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(answer)), answer].sum()
        assert row.logprob == pytest.approx(float(expected), abs=1e-3)


def first_token_law(loaded, prompt, sampling):
    with torch.no_grad():
        logits = loaded.model(torch.tensor([loaded.tokenizer(prompt)["input_ids"]])).logits[:, -1]
    return truncated_law(logits, sampling).double().numpy()[0]


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 2.0}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 8, "top_p": 0.7}]
)
def test_frequencies_of_tokens_against_their_law(loaded, settings):
    sampling, n = kd.LanguageSampling(max_new_tokens=1, **settings), 3000
    seeds, prompt = as_seeds(11), PROMPTS[0]
    uniforms = [[answer_uniforms(seeds, "teacher_output", prompt, i, n_tokens=1) for i in range(n)]]
    answers = generate(loaded, [loaded.tokenizer(prompt)["input_ids"]], uniforms, sampling=sampling)[0]
    seen = np.bincount(
        [loaded.end_token() if answer.ended else answer.tokens[0] for answer in answers],
        minlength=len(loaded.tokenizer),
    )
    law = first_token_law(loaded, prompt, sampling)
    assert not seen[law == 0].any()
    assert chi_square(seen, law) > 1e-4
    other = first_token_law(loaded, PROMPTS[1], kd.LanguageSampling())
    assert chi_square(seen, other) < 1e-8  # the test would notice another law


def chi_square(seen, law):
    common = law * seen.sum() >= 5
    observed = np.append(seen[common], seen[~common].sum())
    expected = np.append(law[common], law[~common].sum()) * seen.sum()
    kept = expected > 0
    return stats.chisquare(observed[kept], expected[kept] * observed[kept].sum() / expected[kept].sum()).pvalue


def test_the_law_is_that_of_the_categorical_teacher(loaded):
    plain = kd.CategoricalTeacher(first_token_law(loaded, PROMPTS[0], kd.LanguageSampling())[None])
    settings = kd.LanguageSampling(temperature=0.6, top_k=12, top_p=0.9)
    expected = plain.at_temperature(0.6).truncated(top_k=12, top_p=0.9).probabilities[0]
    np.testing.assert_allclose(first_token_law(loaded, PROMPTS[0], settings), expected, atol=1e-6)
