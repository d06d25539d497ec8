"""The page about language models as a program, on a tiny model."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

import kdstats as kd

PAGE = Path(__file__).parents[3] / "docs/how-to/language-students.md"
#: What a tiny model has less of: layers, steps and tokens.
SMALLER = {
    "n_layers=24": "n_layers=1",
    "n_steps=100": "n_steps=3",
    "max_new_tokens=32": "max_new_tokens=4",
    "students.sample(prompts)": "students.sample(prompts, sampling=few)",
}


@pytest.mark.filterwarnings("ignore::kdstats.errors.KdstatsWarning")
def test_the_page_runs(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    for size, small in SMALLER.items():
        assert text.count(size) == 1
        text = text.replace(size, small)
    few = kd.LanguageSampling(temperature=0, max_new_tokens=4)
    rng = np.random.default_rng(0)
    law = rng.dirichlet(np.ones(4), size=48)
    seen = rng.multinomial(2, law)
    names = {"kd": kd, "few": few, "folder": str(tiny), "prompts": [f"w{i} w{i + 1}" for i in range(6)]}
    names |= {"teacher_probabilities": law, "seen": seen, "pilot_probabilities": 0.5 * law + 0.25 * seen}
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for block in blocks:
            exec(compile(block, PAGE.name, "exec"), names)
    assert len(names["responses"]) == 60
    assert sorted(names["answers"]["student"].unique()) == [0, 1, 2, 3, 4]
    assert "mutual_information" in out.getvalue()
    assert 4.0 < names["found"].estimate < 16.0  # half of what two responses say: a quarter of their variance, eight
