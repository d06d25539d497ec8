import json

import pytest

import kdstats as kd
from kdstats.errors import StudyError
from kdstats.study.folder import MANIFEST, ResultFolder


def count_calls(calls):
    def compute():
        calls.append(1)
        return kd.predict(kd.catalog.two_groups())

    return compute


def test_a_finished_unit_is_computed_once(tmp_path):
    calls = []
    first = ResultFolder(tmp_path, {"run": {"seed": 1}}).unit("part", count_calls(calls))
    folder = ResultFolder(tmp_path, {"run": {"seed": 1}})
    again = folder.unit("part", count_calls(calls))
    assert len(calls) == 1
    assert folder.reused == ["part"]
    assert again.estimate.identical(first.estimate)


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_unit_is_computed_again(tmp_path, damage):
    calls = []
    ResultFolder(tmp_path, {}).unit("part", count_calls(calls))
    place = tmp_path / "part.nc"
    if damage is None:
        content = bytearray(place.read_bytes())
        content[len(content) // 2] ^= 255
        damage = bytes(content)
    place.write_bytes(damage)
    ResultFolder(tmp_path, {}).unit("part", count_calls(calls))
    assert len(calls) == 2
    ResultFolder(tmp_path, {}).unit("part", count_calls(calls))
    assert len(calls) == 2


def test_another_studys_folder_is_refused_naming_the_key(tmp_path):
    ResultFolder(tmp_path, {"run": {"seed": 1, "n": 5}}).unit("part", count_calls([]))
    with pytest.raises(StudyError, match=r"whose study differs in run.seed \(1 there, 2 here\)"):
        ResultFolder(tmp_path, {"run": {"seed": 2, "n": 5}})


def test_a_damaged_manifest_is_refused(tmp_path):
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(StudyError, match="damaged"):
        ResultFolder(tmp_path, {})


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="`out` must be a folder that can be written"):
        ResultFolder(tmp_path / "file", {})


def test_the_manifest_has_study_units_and_versions(tmp_path):
    ResultFolder(tmp_path, {"title": "x"}).unit("part", count_calls([]))
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["study"] == {"title": "x"}
    assert set(manifest["units"]) == {"part"}
    assert "numpy" in manifest["versions"]
