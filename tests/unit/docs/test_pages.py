"""Pages of the documentation as programs: Python and shell blocks run in order, and print what the page says."""

import contextlib
import io
import os
import re
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from kdstats.cli import main

DOCS = Path(__file__).parents[3] / "docs"
PAGES = (
    "how-to/class-predictions.md",
    "how-to/compare.md",
    "how-to/from-a-table.md",
    "how-to/observe.md",
    "how-to/plan-a-budget.md",
    "how-to/predict.md",
    "how-to/predict-a-network.md",
    "how-to/report.md",
    "how-to/sampled-answers.md",
    "how-to/text-answers.md",
    "how-to/softmax-students.md",
    "how-to/weight-honestly.md",
    "how-to/which-source.md",
)
#: Pages that go on from the tutorial's first block, and show no output.
LATER_PAGES = (
    "how-to/how-many-responses.md",
    "how-to/noise-that-is-not-gaussian.md",
    "how-to/resume-and-repeat.md",
    "how-to/stop-when-decided.md",
)
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
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


def blocks(text):
    """Return kind and text of a page's fenced blocks, those in lists included."""
    return [(kind, textwrap.dedent(block)) for _, kind, block in FENCE.findall(text)]


def run_page(text, names=None):
    """Run a page's blocks in order; return pairs of what was printed and what the page says was printed."""
    names, printed, pairs = names or {}, None, []
    for kind, block in blocks(text):
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
    (tmp_path / "examples").symlink_to(DOCS.parent / "examples")
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_pages_run_and_print_what_they_say(page, study_here):
    text = (DOCS / page).read_text(encoding="utf-8")
    pairs = run_page(text)
    assert pairs, f"{page} shows no output"
    for printed, said in pairs:
        assert printed == said
    assert os.getcwd() == str(study_here)


def tutorial_names():
    names = {}
    kind, first = blocks((DOCS / "tutorial.md").read_text(encoding="utf-8"))[0]
    assert kind == "python"
    python(first, names)
    assert {"kd", "problem", "predicted"} <= set(names)
    return names


@pytest.mark.usefixtures("study_here")
@pytest.mark.parametrize("page", LATER_PAGES)
def test_later_pages_run_after_the_tutorial(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert any(kind == "python" for kind, _ in blocks(text))
    run_page(text, tutorial_names())


@pytest.mark.slow
@pytest.mark.usefixtures("study_here")
def test_tutorial_runs():
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    assert len([kind for kind, _ in blocks(text) if kind == "python"]) > 3
    run_page(text)


def test_a_page_that_lies_is_caught():
    (printed, said), *_ = run_page("```python\nprint(1 + 1)\n```\n```text\n3\n```\n")
    assert printed != said
    for indent in ("", "  "):
        with pytest.raises(NameError):
            run_page(f"{indent}```python\n{indent}print(undefined_name)\n{indent}```\n")
