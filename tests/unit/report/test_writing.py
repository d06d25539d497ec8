import pytest

from kdstats.errors import StudyError
from kdstats.report import write_report


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
