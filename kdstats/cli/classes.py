"""Class predictions on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdstats.components.classes import ClassComponents
from kdstats.errors import DataError
from kdstats.files import write_atomically
from kdstats.observation.classes import decompose_classes

__all__ = ["decompose_class_table"]

#: Columns that need not be there unless they are named.
OPTIONAL = ("replicate", "point")
ATTRS = ("kind", "classes", "known", "n_students", "n_outputs", "unit", "last_step", "boundary", "notes", "unreliable")


def decompose_class_table(
    frame: Any,
    *,
    kind: str,
    classes: str | None,
    replicate: str,
    point: str,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> str:
    """Return the text to print; with ``out`` the components at every point go to ``classes.csv`` there."""
    keys: dict[str, Any] = {
        name: None if column == name and column not in frame.columns else column
        for name, column in zip(OPTIONAL, (replicate, point), strict=True)
    }
    result = decompose_classes(frame, kind, classes=_chosen(frame, kind, classes, options), **keys, **options)
    if out is not None:
        table = result.to_dataframe()
        write_atomically(out / "classes.csv", table.to_csv(index=False), parameter="--out", error=DataError)
    return json.dumps(_as_json(result), indent=1) if as_json else result.summary()


def _chosen(frame: Any, kind: str, classes: str | None, options: dict[str, Any]) -> Any:
    """Return a pattern of columns, or a list; labels as the table has them."""
    if classes is None or (kind == "probabilities" and "," not in classes):
        return classes
    names: list[Any] = [name.strip() for name in classes.split(",")]
    label = options["label"]
    if kind == "labels" and label in frame.columns and frame[label].dtype.kind in "iuf":
        try:
            names = [int(name) for name in names]
        except ValueError:
            return names
    return names


def _as_json(result: ClassComponents) -> dict[str, Any]:
    return {
        "average": _entries(result.average()),
        "points": _entries(result),
        "interval_probability": 0.95,
        "attrs": {name: _plain(result.attrs[name]) for name in ATTRS},
    }


def _entries(result: ClassComponents) -> list[dict[str, Any]]:
    rows = result.to_dataframe().to_dict(orient="records")
    return [{str(name): _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
