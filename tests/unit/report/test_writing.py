from pathlib import Path

import pytest

from kdstats.errors import StudyError
from kdstats.report import write_report
from kdstats.report.writing import write_atomically


def test_the_report_is_written_where_it_was_asked_for(tmp_path, everything):
    path = write_report(tmp_path / "new" / "folder" / "report.html", **everything)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.rstrip().endswith("</html>")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_two_reports_of_one_study_have_the_same_bytes(tmp_path, everything):
    first, second = (write_report(tmp_path / name, **everything).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path, everything):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StudyError) as caught:
        write_report(tmp_path / "file" / "report.html", **everything)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "file" / "report.html") in str(caught.value)


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
