"""The example that compares strategies on a language model, end to end on a tiny one."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "language_strategies.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("language_strategies", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def embed(texts):
    return np.array([np.random.default_rng([*map(ord, text), 1]).normal(size=8) for text in texts])


def test_all_strategies_on_a_tiny_model(example, tiny, tmp_path, monkeypatch):
    questions = pd.DataFrame(
        {
            "prompt_id": [f"q{i}" for i in range(5)],
            "prompt": [f"w{i} w{i + 1}" for i in range(5)],
            "references": [["w3"]] * 5,
        }
    )
    monkeypatch.setattr(example, "read_trivia", lambda path: questions)
    monkeypatch.setattr(example, "fetch", lambda names: dict.fromkeys(names))
    monkeypatch.setattr(example, "SentenceEmbedder", lambda folder: embed)
    monkeypatch.setattr(example, "SYSTEM", None)
    sizes = "--prompts 5 --students 3 --responses 3 --bulk 5 --outputs 2 --steps 3 --batch-size 4 --new-tokens 5"
    options = [
        *sizes.split(),
        "--layers",
        "2",
        "--adapted",
        "1",
        "--published",
        "--out",
        str(tmp_path),
        "--model",
        str(tiny),
    ]
    first = example.main(options)
    assert set(first["measures"]) == {*example.STRATEGIES, example.PUBLISHED}
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["measures"]["single"]["embedding_total"]["estimate"] > 0
    assert kept["label_variance"]["multi_response"]["estimate"] < kept["label_variance"]["single"]["estimate"]
    text = (tmp_path / "summary.md").read_text()
    assert "Verdict:" in text
    assert "untrained model" in text
    again = example.main(options)  # from what is kept: nothing is sampled or trained twice
    assert again["measures"] == first["measures"]
