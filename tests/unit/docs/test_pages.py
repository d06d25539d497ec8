"""Pages of the documentation as programs: Python and shell blocks run in order, and print what the page says."""

import contextlib
import io
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from kdstats.cli import main

DOCS = Path(__file__).parents[3] / "docs"
PAGES = (
    "how-to/compare.md",
    "how-to/observe.md",
    "how-to/predict.md",
    "how-to/report.md",
    "how-to/weight-honestly.md",
)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STUDY = """
title = "Diabetes"
[data]
dataset = "diabetes"
max_points = 10
[teacher]
noise_fraction = 0.5
[design]
n_responses = 5
[run]
n_students = 200
n_simulated = 1000
observe = ["linear"]
"""


def shell(text):
    """Run the lines of a shell block that call kdstats; return what they print and the last exit code."""
    out, code, before = io.StringIO(), 0, sys.argv
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] != "kdstats":
            continue
        sys.argv = words
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            sys.argv = before
        assert code in (0, 4), (line, code)
    return out.getvalue()


def python(text, names):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(text, "page", "exec"), names)
    return out.getvalue()


def run_page(text):
    """Run a page's blocks in order; return pairs of what was printed and what the page says was printed."""
    names, printed, pairs = {}, None, []
    for kind, block in FENCE.findall(text):
        if kind == "python":
            printed = python(block, names)
        elif kind == "sh":
            printed = shell(block)
        elif kind == "text":
            pairs.append((printed, block))
    return pairs


@pytest.fixture
def study_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_pages_run_and_print_what_they_say(page, study_here):
    text = (DOCS / page).read_text(encoding="utf-8")
    pairs = run_page(text)
    assert pairs, f"{page} shows no output"
    for printed, said in pairs:
        assert printed == said
    assert os.getcwd() == str(study_here)


def test_a_page_that_lies_is_caught():
    (printed, said), *_ = run_page("```python\nprint(1 + 1)\n```\n```text\n3\n```\n")
    assert printed != said
    with pytest.raises(NameError):
        run_page("```python\nprint(undefined_name)\n```\n")
