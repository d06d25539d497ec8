import dataclasses

import numpy as np
import pytest
import xarray as xr

from kdstats.components.provenance import versions
from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import EstimationError, ProblemError

ATTRS = {"engine": "closed_form", "exactness": "exact"}


def build(**options):
    fields = {"inter_student": [[1.0, 2.0]], "intra_student": 0.5, "point_labels": ["a"], "attrs": ATTRS}
    return VarianceComponents.from_arrays(**{**fields, **options})


def test_from_arrays():
    c = build(output_labels=["u", "v"], inter_student_se=0.1)
    assert c.total.dims == ("point", "output")
    np.testing.assert_array_equal(c.total, [[1.5, 2.5]])
    np.testing.assert_array_equal(c.standard_error["inter_student"], 0.1)
    np.testing.assert_array_equal(c.standard_error["total"], 0.0)
    assert list(c.inter_student.output.values) == ["u", "v"]
    assert list(build().inter_student.output.values) == [0, 1]
    assert repr(c) == "<VarianceComponents engine='closed_form' exactness='exact' (point: 1, output: 2)>"


def test_arrays_are_copies():
    inter = np.ones((1, 2))
    c = build(inter_student=inter)
    inter[:] = 5
    np.testing.assert_array_equal(c.inter_student, 1.0)


def test_frozen_and_keyword_only():
    c = build()
    with pytest.raises(dataclasses.FrozenInstanceError):
        c.attrs = {}
    with pytest.raises(TypeError):
        c.attrs["engine"] = "other"
    with pytest.raises(TypeError):
        VarianceComponents(c.estimate, c.standard_error, c.attrs)
    assert c.n_students is None
    assert build(attrs={**ATTRS, "n_students": np.int64(5)}).n_students == 5


@pytest.mark.parametrize("sign", [1, -1])
def test_total_must_be_the_sum(sign):
    c = build(inter_student=[[-1.0, 2.0]])
    off = c.estimate.copy(deep=True)
    off["total"] = off["total"] + sign * 1e-6
    with pytest.raises(EstimationError, match=r"`total` must equal inter_student \+ intra_student; got a gap of 1e-06"):
        dataclasses.replace(c, estimate=off)
    off["total"] = c.total * (1 + 1e-12)
    assert dataclasses.replace(c, estimate=off).total.shape == (1, 2)


def test_refusals():
    c = build()
    with pytest.raises(EstimationError, match=r"`estimate` must have the variables .* got no intra_student"):
        dataclasses.replace(c, estimate=c.estimate.drop_vars("intra_student"))
    with pytest.raises(EstimationError, match="must end in the dims point, output"):
        dataclasses.replace(c, estimate=c.estimate.transpose("output", "point"))
    with pytest.raises(EstimationError, match=r"`standard_error.total` must have shape \(1, 2\)"):
        dataclasses.replace(c, standard_error=c.standard_error.assign(total=xr.DataArray(0.0)))
    with pytest.raises(ProblemError, match="exactness'\\]` must be one of exact, asymptotic"):
        build(attrs={"engine": "x", "exactness": "perfect"})
    with pytest.raises(EstimationError, match="`attrs` must name the engine"):
        build(attrs={"exactness": "exact"})


def test_leading_dims():
    c = build(inter_student=np.ones((3, 1, 2)), leading={"k": [1, 2, 4]})
    assert c.total.dims == ("k", "point", "output")
    assert list(c.total.k.values) == [1, 2, 4]
    assert set(c.estimate) == set(COMPONENTS)


def test_versions_name_what_computed():
    assert {"python", "kdstats", "numpy", "xarray"} <= set(versions())
    with pytest.raises(TypeError):
        versions()["numpy"] = "0"
