"""Variance by source on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdstats.cli.tables import optional_keys
from kdstats.components.sources import SourceComponents
from kdstats.errors import DataError
from kdstats.files import write_atomically
from kdstats.observation.crossed import decompose_sources

__all__ = ["components_as_json", "decompose_by_source", "plain"]


def decompose_by_source(
    frame: Any,
    sources: list[str],
    *,
    replicate: str,
    point: str,
    out: Path | None,
    as_json: bool,
    **options: Any,
) -> str:
    """Return the text to print; with ``out`` the components at every point go to ``sources.csv`` there."""
    keys = optional_keys(frame, replicate=replicate, point=point)
    result = decompose_sources(frame, [name.strip() for name in sources], **keys, **options)
    if out is not None:
        table = result.to_dataframe()
        write_atomically(out / "sources.csv", table.to_csv(index=False), parameter="--out", error=DataError)
    return json.dumps(components_as_json(result), indent=1) if as_json else result.summary()


def components_as_json(result: SourceComponents) -> dict[str, Any]:
    """Return components averaged over points and at each, with what was found about the design."""
    attrs = (
        "method",
        "estimator",
        "sources",
        "interactions",
        "n_students",
        "n_levels",
        "n_outputs",
        "boundary",
        "notes",
    )
    return {
        "average": _entries(result.average()),
        "points": _entries(result),
        "interval_probability": 0.95,
        "attrs": {name: result.attrs[name] for name in attrs},
    }


def _entries(result: SourceComponents) -> list[dict[str, Any]]:
    rows = result.to_dataframe().to_dict(orient="records")
    return [{str(name): plain(value) for name, value in row.items()} for row in rows]


def plain(value: Any) -> Any:
    """Return a number that JSON knows; None for one that is not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
