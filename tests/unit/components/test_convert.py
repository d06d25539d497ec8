import os
import sys
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import xarray as xr

from kdstats.components.convert import from_netcdf, to_dataframe, to_inference_data
from kdstats.components.estimation import estimate_components
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import DataError, MissingDependencyError

PARTS = ("estimate", "standard_error", "draws", "mean_squares", "covariance", "student_predictions")


def everything(point_labels=("", "ä", "a long label"), **attrs):
    rng = np.random.default_rng(0)
    c = estimate_components(
        rng.normal(size=(9, 1, 3, 2)) + 0.1 * rng.normal(size=(9, 3, 3, 2)), point_labels=point_labels, attrs=attrs
    )
    inter, intra = rng.gamma(3, size=(2, 2, 5, 3, 2))
    dims = ("chain", "draw", "point", "output")
    draws = xr.Dataset(
        {name: (dims, v) for name, v in zip(COMPONENTS, (inter, intra, inter + intra), strict=True)},
        coords=c.estimate.coords,
    )
    covariance = xr.DataArray(
        rng.normal(size=(2, 3, 3)),
        dims=("output", "point", "point_other"),
        coords={"output": [0, 1], "point": c.total.point, "point_other": c.total.point.values},
    )
    return replace(c, draws=draws, covariance=covariance)


def assert_same(first, second):
    for part in PARTS:
        a, b = getattr(first, part), getattr(second, part)
        assert (a is None) == (b is None), part
        if a is not None:
            xr.testing.assert_identical(a, b)
            for name in a.coords:
                assert a.coords[name].dtype == b.coords[name].dtype
    assert dict(first.attrs) == dict(second.attrs)


class TestNetCDF:
    @pytest.mark.parametrize(
        "labels",
        [("", "ä", "a long label"), (3, 1, 2), (0.1, 0.2, 0.3), (("a", 1), ("a", 2), ("b", 1)), (1, "b", None)],
    )
    def test_round_trip_to_the_last_bit(self, tmp_path, labels):
        c = everything(labels)
        c.to_netcdf(tmp_path / "c.nc")
        assert_same(c, VarianceComponents.from_netcdf(tmp_path / "c.nc"))

    def test_attrs_that_netcdf_cannot_hold(self, tmp_path):
        attrs = {
            "seed": 2**70,
            "nothing": None,
            "flag": True,
            "pair": (1, (2.5, "x")),
            "versions": MappingProxyType({"numpy": "2"}),
            "keyed": {1: "a", (2, 3): [0.1]},
            "count": np.int64(3),
            "tiny": 5e-324,
        }
        c = everything(**attrs)
        c.to_netcdf(tmp_path / "c.nc")
        back = from_netcdf(tmp_path / "c.nc").attrs
        assert {name: back[name] for name in attrs} == attrs
        assert type(back["seed"]) is int
        assert type(back["pair"]) is tuple

    def test_arrays_in_attrs_and_leading_dims(self, tmp_path):
        c = VarianceComponents.from_arrays(
            inter_student=np.ones((2, 1, 1)),
            intra_student=np.nan,
            point_labels=["a"],
            leading={"k": [1, 5]},
            attrs={"engine": "x", "exactness": "simulated", "effective_rank": np.array([0.1, 2.0])},
        )
        c.to_netcdf(tmp_path / "c.nc")
        back = from_netcdf(tmp_path / "c.nc")
        xr.testing.assert_identical(back.estimate, c.estimate)
        np.testing.assert_array_equal(back.attrs["effective_rank"], [0.1, 2.0])

    def test_other_readers_see_plain_variables(self, tmp_path):
        c = everything(seed=4)
        c.to_netcdf(tmp_path / "c.nc")
        with xr.open_datatree(tmp_path / "c.nc", engine="h5netcdf") as tree:
            np.testing.assert_array_equal(tree["estimate/total"], c.total)
            assert tree.attrs["seed"] == 4
            assert [str(label) for label in tree["estimate/point"].values] == ["", "ä", "a long label"]
            assert tree["estimate/total"].encoding["fletcher32"]

    def test_damage_anywhere_is_an_error_or_harmless(self, tmp_path):
        c = everything()
        path = tmp_path / "c.nc"
        c.to_netcdf(path)
        content = path.read_bytes()
        refused = []
        filled = np.flatnonzero(np.frombuffer(content, dtype=np.uint8))
        for position in np.random.default_rng(1).choice(filled, 12):
            broken = bytearray(content)
            broken[position] ^= 0x10
            path.write_bytes(broken)
            try:
                assert_same(c, from_netcdf(path))
            except DataError as error:
                refused.append(str(error))
        assert refused
        assert not any("\n" in message for message in refused)

    def test_flipped_number_is_refused(self, tmp_path):
        c = everything()
        path = tmp_path / "c.nc"
        c.to_netcdf(path)
        content = bytearray(path.read_bytes())
        start = content.find(c.total.values.tobytes())
        assert start > 0
        content[start + 3] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot read .*c\.nc: damaged"):
            from_netcdf(path)

    def test_flipped_label_is_refused(self, tmp_path):
        path = tmp_path / "c.nc"
        everything(("a", ("b", 2), "unmistakable")).to_netcdf(path)
        content = path.read_bytes()
        assert b"unmistakable" in content
        path.write_bytes(content.replace(b"unmistakable", b"unmistakeble"))
        with pytest.raises(DataError, match="cannot read"):
            from_netcdf(path)

    @pytest.mark.parametrize("content", [b"", b"not a file of this kind", None])
    def test_not_a_result(self, tmp_path, content):
        path = tmp_path / "c.nc"
        if content is None:
            everything().to_netcdf(path)
            content = path.read_bytes()[:5000]
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot read .*c\.nc: ") as caught:
            from_netcdf(path)
        assert "\n" not in str(caught.value)

    def test_missing_or_foreign_file(self, tmp_path):
        with pytest.raises(DataError, match="no such file"):
            from_netcdf(tmp_path / "none.nc")
        xr.Dataset({"x": 1}).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
        with pytest.raises(DataError, match="not written by kdstats"):
            from_netcdf(tmp_path / "x.nc")

    def test_failure_leaves_the_old_file_and_no_litter(self, tmp_path, monkeypatch):
        path = tmp_path / "c.nc"
        everything().to_netcdf(path)
        before = path.read_bytes()

        def full(*args, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(xr.DataTree, "to_netcdf", full)
        with pytest.raises(DataError, match=r"`path` must be a file that can be written; .*No space left on device"):
            everything(seed=1).to_netcdf(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["c.nc"]

    def test_a_new_folder_is_made_and_a_file_in_its_place_is_an_error(self, tmp_path):
        everything().to_netcdf(tmp_path / "new" / "c.nc")
        assert os.listdir(tmp_path / "new") == ["c.nc"]
        with pytest.raises(DataError, match="must be a file that can be written"):
            everything().to_netcdf(tmp_path / "new" / "c.nc" / "d.nc")

    def test_attr_that_cannot_be_stored(self, tmp_path):
        with pytest.raises(DataError, match="cannot store 'attrs': it holds a set"):
            everything(strange={1, 2}).to_netcdf(tmp_path / "c.nc")
        assert os.listdir(tmp_path) == []


class TestTables:
    def test_dataframe_is_long_with_labels(self):
        frame = to_dataframe(everything((("a", 1), "b", 3)))
        assert list(frame.columns) == ["point", "output", *COMPONENTS, *(f"{name}_se" for name in COMPONENTS)]
        assert list(frame["point"]) == [("a", 1), ("a", 1), "b", "b", 3, 3]
        np.testing.assert_array_equal(frame["total"], everything().total.values.ravel())

    def test_dataframe_of_a_grid(self):
        c = VarianceComponents.from_arrays(
            inter_student=np.arange(6.0).reshape(3, 2, 1),
            intra_student=0.0,
            point_labels=["a", "b"],
            leading={"k": [1, 2, 5]},
            attrs={"engine": "x", "exactness": "exact"},
        )
        assert c.to_dataframe().set_index(["k", "point"]).loc[(5, "a"), "total"] == 4.0

    def test_datatree_groups(self):
        c = everything()
        tree = c.to_datatree()
        assert set(tree.children) == set(PARTS)
        xr.testing.assert_identical(tree["estimate"].to_dataset(), c.estimate)
        assert tree.attrs["engine"] == "table"

    def test_inference_data(self):
        c = everything()
        data = to_inference_data(c)
        assert set(data.groups()) == {"posterior", "observed_data", "constant_data"}
        xr.testing.assert_equal(data.posterior, c.draws)
        assert "total_se" in data.constant_data
        assert set(to_inference_data(c.average()).groups()) == {"posterior", "constant_data"}

    def test_inference_data_without_arviz(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "arviz", None)
        with pytest.raises(MissingDependencyError, match=r'pip install "kdstats\[bayes\]"'):
            to_inference_data(everything())
