"""The example that compares strategies on a language model, end to end on a tiny one."""

from __future__ import annotations

import json


def test_all_strategies_on_a_tiny_model(language_example, tiny, tmp_path):
    example = language_example("language_strategies")
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
