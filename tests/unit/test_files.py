from pathlib import Path

import pytest

from kdstats.errors import DataError, StudyError
from kdstats.files import write_atomically


def test_a_folder_is_no_file_to_write(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(StudyError, match="can be written"):
        write_atomically(tmp_path / "report.html", "text")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_failure_before_the_last_step_leaves_the_older_file(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    target.write_text("older")

    def fail(self, other):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(StudyError, match="No space left on device"):
        write_atomically(target, "newer")
    assert target.read_text() == "older"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_an_interruption_leaves_no_part_behind(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "report.html", "text")
    assert not list(tmp_path.iterdir())


def test_a_writer_function_fills_the_file(tmp_path):
    write_atomically(tmp_path / "a.bin", lambda part: part.write_bytes(b"12"))
    assert (tmp_path / "a.bin").read_bytes() == b"12"


def test_the_callers_argument_and_error_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="`out` must be a file that can be written"):
        write_atomically(tmp_path / "file" / "a.txt", "text", parameter="out", error=DataError)
