"""The sentence encoder: pooling by hand, batches, weights that are refused; the real one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from kdstats.errors import DataError, ProblemError
from kdstats.observation.language.embedding import SentenceEmbedder
from kdstats.observation.language.parts import fetch

WORDS = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(20))]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


def test_vectors_are_means_over_the_words_that_are_there(encoder):
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10"]
    found = SentenceEmbedder(encoder)(texts)
    model = BertModel.from_pretrained(encoder).eval()
    for vector, text in zip(found, texts, strict=True):
        tokens = torch.tensor([[WORDS.index(word) for word in text.split()]])
        with torch.inference_mode():
            mean = model(input_ids=tokens).last_hidden_state[0].mean(dim=0).double().numpy()
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_batches_and_order_do_not_matter(encoder):
    texts = [" ".join(WORDS[2 : 3 + i % 9]) for i in range(17)]
    whole = SentenceEmbedder(encoder)(texts)
    assert SentenceEmbedder(encoder, batch_size=3)(texts) == pytest.approx(whole, abs=1e-5)
    assert SentenceEmbedder(encoder)(texts[::-1])[::-1] == pytest.approx(whole, abs=1e-5)
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1.0)


def test_long_texts_are_cut(encoder):
    embed = SentenceEmbedder(encoder, max_tokens=4)
    one, other = embed(["w1 w2 w3 w4 w5", "w1 w2 w3 w4"])
    assert one == pytest.approx(other, abs=1e-6)


def test_bad_input(encoder, tmp_path):
    with pytest.raises(ProblemError, match="list of texts"):
        SentenceEmbedder(encoder)("a text")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match=r"model\.safetensors"):
        SentenceEmbedder(tmp_path)


@pytest.mark.slow
def test_the_real_encoder_knows_what_is_close():
    embed = SentenceEmbedder(fetch(["embedder"])["embedder"])
    vectors = embed(["The capital of France is Paris.", "Paris is the capital.", "A cat sat on the mat."])
    close, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert close > 0.8
    assert far < 0.3
