"""The example of three sources of variance, end to end on a tiny model."""

from __future__ import annotations

import json

import pytest

from kdstats.errors import ApproximationWarning


def test_three_sources_on_a_tiny_model(language_example, tiny, tmp_path, monkeypatch):
    example = language_example("language_sources")
    monkeypatch.setattr(example, "TEMPERATURES", (0.2, 1.5))
    monkeypatch.setattr(example, "NOISE", (None, 0.5))
    monkeypatch.setattr(example, "OUTPUT_TEMPERATURES", (0.0, 1.0))
    sizes = "--prompts 5 --students 3 --outputs 2 --texts 4 --steps 4 --batch-size 4 --new-tokens 5 --layers 2"
    options = [*sizes.split(), "--adapted", "1", "--out", str(tmp_path), "--model", str(tiny)]
    with pytest.warns(ApproximationWarning, match="3 students"):
        first = example.main(options)
    assert set(first["experiments"]) == set(example.EXPERIMENTS)
    kept = json.loads((tmp_path / "results.json").read_text())["experiments"]
    cold, hot = kept["temperature"]
    assert 0 < cold["label_variance"]["estimate"] < hot["label_variance"]["estimate"]
    assert min(level["tokens"]["inter_student"]["estimate"] for level in (cold, hot)) > 0
    alone, noisy = kept["weights"]
    assert 0 < alone["tokens"]["inter_student"]["estimate"] < 0.1 * noisy["tokens"]["inter_student"]["estimate"]
    greedy, sampled = kept["outputs"]
    assert greedy["measures"]["embedding_intra"]["estimate"] == 0.0
    assert sampled["measures"]["embedding_intra"]["estimate"] > 0.1
    text = (tmp_path / "summary.md").read_text()
    assert "## weights" in text
    assert "weights 50%" in text
    with pytest.warns(ApproximationWarning, match="3 students"):
        again = example.main([*options, "--only", "outputs"])  # from what is kept
    assert again["experiments"]["outputs"] == first["experiments"]["outputs"]
