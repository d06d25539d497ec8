"""Variance components to and from tables, trees and files."""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import DataError, KdstatsError, MissingDependencyError
from kdstats.files import write_atomically

__all__ = ["from_netcdf", "to_dataframe", "to_datatree", "to_inference_data", "to_netcdf"]

FORMAT = "kdstats variance components"
FORMAT_VERSION = 1
PARTS = tuple(field.name for field in fields(VarianceComponents) if field.name != "attrs")
ARRAYS = ("covariance", "student_predictions")


def to_dataframe(components: VarianceComponents) -> pd.DataFrame:
    """Return a long table.

    Returns
    -------
    pandas.DataFrame
        One row per grid cell, point and output; columns for their labels, ``inter_student``,
        ``intra_student``, ``total`` and each with the suffix ``_se``.
    """
    total = components.estimate["total"]
    labels = [_labels(total, dim) for dim in total.dims]
    rows = list(itertools.product(*labels))
    table = {str(dim): [row[axis] for row in rows] for axis, dim in enumerate(total.dims)}
    columns: dict[str, Any] = {name: components.estimate[name].values.ravel() for name in COMPONENTS}
    columns |= {f"{name}_se": components.standard_error[name].values.ravel() for name in COMPONENTS}
    return pd.DataFrame({**table, **columns})


def to_datatree(components: VarianceComponents) -> xr.DataTree:
    """Return one group per field that is there, and ``attrs`` on the root."""
    groups = {}
    for part in PARTS:
        value = getattr(components, part)
        if isinstance(value, xr.DataArray):
            value = value.to_dataset(name=part)
        if value is not None:
            groups[f"/{part}"] = value
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = dict(components.attrs)
    return tree


def to_inference_data(components: VarianceComponents) -> Any:
    """Return an ``arviz.InferenceData``.

    Groups: ``posterior`` (``draws``, where there are any), ``constant_data`` (estimates and ``*_se``) and
    ``observed_data`` (``student_predictions``, where kept).

    Raises
    ------
    MissingDependencyError
        If arviz is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            import arviz
    except ImportError as error:
        raise MissingDependencyError('`to_inference_data` needs arviz: pip install "kdstats[bayes]"') from error
    errors = components.standard_error.rename({name: f"{name}_se" for name in COMPONENTS})
    groups: dict[str, Any] = {"constant_data": xr.merge([components.estimate, errors], combine_attrs="drop")}
    if components.draws is not None:
        groups["posterior"] = components.draws
    if components.student_predictions is not None:
        groups["observed_data"] = components.student_predictions.to_dataset(name="student_predictions")
    data = arviz.InferenceData(**groups)
    data.attrs.update({"engine": components.engine, "exactness": components.exactness})
    return data


def to_netcdf(components: VarianceComponents, path: Path) -> None:
    """Write one NetCDF-4 file, all of it or nothing.

    Every array carries a Fletcher-32 checksum and the whole content a SHA-256, checked on reading. The
    file is written beside its destination, flushed to disk and renamed.

    Raises
    ------
    DataError
        If the folder cannot be written, or ``attrs`` hold what JSON cannot.
    """
    tree, objects, encoding = to_datatree(components), {}, {}
    groups: dict[str, xr.Dataset] = {}
    for name, node in tree.children.items():
        dataset = node.to_dataset(inherit=False)
        odd = {str(c): _encoded(v.values.tolist(), c) for c, v in dataset.coords.items() if v.dtype == object}
        objects[name] = odd
        dataset = dataset.assign_coords({c: (dataset[c].dims, np.arange(dataset[c].size)) for c in odd})
        groups[f"/{name}"] = dataset.assign_attrs(_native(dataset.attrs))
        encoding[f"/{name}"] = {str(v): _storage(array) for v, array in dataset.variables.items() if array.ndim}
    header = {
        "attrs": _encoded(dict(components.attrs), "attrs"),
        "groups": {name: _encoded(node.attrs, name) for name, node in tree.children.items()},
        "objects": objects,
        "names": {name: getattr(components, name).name for name in ARRAYS if getattr(components, name) is not None},
        "text": {name: _text_dtypes(dataset) for name, dataset in groups.items()},
    }
    text = json.dumps(header)
    marks = {"format": FORMAT, "format_version": FORMAT_VERSION, "header": text, "sha256": _digest(groups, text)}
    root = xr.Dataset(attrs=_native(components.attrs) | marks)
    whole = xr.DataTree.from_dict({"/": root, **groups})
    write_atomically(
        Path(path), lambda part: whole.to_netcdf(part, engine="h5netcdf", encoding=encoding), error=DataError
    )


def from_netcdf(path: Path) -> VarianceComponents:
    """Read what :func:`to_netcdf` wrote, equal to the last bit.

    Raises
    ------
    DataError
        If the file is missing, damaged, or something else.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"cannot read {path}: no such file")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as opened:
            tree = opened.load()
        root = tree.attrs
        if root.get("format") != FORMAT:
            raise DataError(f"cannot read {path}: not written by kdstats")
        if int(root["format_version"]) > FORMAT_VERSION:
            raise DataError(
                f"cannot read {path}: format {root['format_version']} is newer than this version of kdstats"
            )
        header = json.loads(root["header"])
        groups = {f"/{name}": node.to_dataset(inherit=False) for name, node in tree.children.items()}
        for name, dtypes in header["text"].items():
            groups[name] = groups[name].assign_coords({v: groups[name][v].astype(dtype) for v, dtype in dtypes.items()})
        if root["sha256"] != _digest(groups, root["header"]):
            raise DataError(f"cannot read {path}: its checksum does not match, the file is damaged")
        return _rebuilt(groups, header)
    except KdstatsError:
        raise
    except Exception as error:  # h5py, h5netcdf, xarray and json each fail in their own ways on damaged bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"cannot read {path}: damaged, or not a NetCDF-4 file ({reason})") from error


def _rebuilt(groups: Mapping[str, xr.Dataset], header: Mapping[str, Any]) -> VarianceComponents:
    parts: dict[str, Any] = {}
    for path, dataset in groups.items():
        name = path.removeprefix("/")
        odd = {}
        for coord, labels in header["objects"][name].items():
            values = np.empty(len(labels), dtype=object)
            values[:] = [_decoded(label) for label in labels]
            odd[coord] = (dataset[coord].dims, values)
        dataset = dataset.assign_coords(odd)
        dataset.attrs = _decoded(header["groups"][name])
        for variable in dataset.variables.values():
            variable.encoding = {}
        dataset.encoding = {}
        if name in ARRAYS:
            parts[name] = dataset[name].rename(header["names"][name])
        else:
            parts[name] = dataset
    return VarianceComponents(**parts, attrs=_decoded(header["attrs"]))


def _text_dtypes(dataset: xr.Dataset) -> dict[str, str]:
    return {str(name): array.dtype.str for name, array in dataset.variables.items() if array.dtype.kind == "U"}


def _storage(array: xr.Variable) -> dict[str, Any]:
    text = {"dtype": "S1"} if array.dtype.kind == "U" else {"_FillValue": None} if array.dtype.kind == "f" else {}
    return {"fletcher32": True, **text}


def _digest(groups: Mapping[str, xr.Dataset], header: str) -> str:
    digest = hashlib.sha256(header.encode())
    for path in sorted(groups):
        for name in sorted(groups[path].variables, key=str):
            array = groups[path].variables[name]
            digest.update(f"{path}/{name} {array.dims} {array.shape} {array.dtype.str}".encode())
            digest.update(np.ascontiguousarray(array.values).tobytes())
    return digest.hexdigest()


def _native(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the attributes that NetCDF can hold as they are, for other readers; the header holds them all."""
    return {
        str(name): value
        for name, value in attrs.items()
        if type(value) in (str, float) or (type(value) is int and abs(value) < 2**63)
    }


def _encoded(value: Any, name: Any) -> Any:
    """Turn into JSON, marking what JSON would lose (tuples, arrays, keys that are not text)."""
    if value is None or isinstance(value, str | bool | int | float):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return _encoded(value.item(), name)
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubU":
        return {"__array__": value.tolist(), "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, tuple):
        return {"__tuple__": [_encoded(item, name) for item in value]}
    if isinstance(value, list):
        return [_encoded(item, name) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("__") for key in value):
            return {key: _encoded(item, name) for key, item in value.items()}
        return {"__items__": [[_encoded(key, name), _encoded(item, name)] for key, item in value.items()]}
    raise DataError(f"cannot store {name!r}: it holds a {type(value).__name__}")


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__array__" in value:
        return np.array(value["__array__"], dtype=value["dtype"]).reshape(value["shape"])
    if "__tuple__" in value:
        return tuple(_decoded(item) for item in value["__tuple__"])
    if "__items__" in value:
        return {_decoded(key): _decoded(item) for key, item in value["__items__"]}
    return {key: _decoded(item) for key, item in value.items()}


def _labels(array: xr.DataArray, dim: Any) -> list[Any]:
    return array.coords[dim].values.tolist() if dim in array.coords else list(range(array.sizes[dim]))
