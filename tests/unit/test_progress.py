import sys

import pytest

from kdstats import progress
from kdstats.errors import ProblemError
from kdstats.progress import Progress


def test_a_bar_is_shown_when_asked_for_and_only_on_stderr(capsys):
    with Progress(True) as bar:
        bar.show(3, 7)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "students" in captured.err


def test_without_a_wish_a_terminal_is_shown_a_bar_after_a_while(monkeypatch, capsys):
    with Progress(None) as bar:
        bar.show(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress(None) as bar:
        bar.show(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with Progress(None) as bar:
        bar.show(1, 2)
    assert "students" in capsys.readouterr().err
    with Progress(False) as bar:
        bar.show(1, 2)
    assert capsys.readouterr().err == ""


def test_a_function_is_told(capsys):
    told = []
    with Progress(lambda done, total: told.append((done, total))) as bar:
        bar.show(1, 2)
        bar.show(2, 2)
    assert told == [(1, 2), (2, 2)]
    assert capsys.readouterr().err == ""


def test_other_wishes_are_refused():
    with pytest.raises(ProblemError, match="`progress` must be True, False, None or a function"):
        Progress("yes")
