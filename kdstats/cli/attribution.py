"""Sobol indices of the sources of randomness on the command line."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdstats.cli.sources import components_as_json, plain
from kdstats.components.attribution import VarianceAttribution
from kdstats.errors import DataError, invalid
from kdstats.files import write_atomically
from kdstats.study import Study

__all__ = ["attribute_study", "parse_levels"]

#: Loaded on request: it imports torch.
TRAINING_MODULE = "kdstats.observation.attribution"


def parse_levels(text: str | None) -> int | dict[str, int] | None:
    """Read ``12`` or ``teacher_output=12,data_order=5``."""
    if text is None:
        return None
    try:
        if "=" not in text:
            return int(text)
        pairs = (part.split("=") for part in text.split(","))
        return {name.strip(): int(count) for name, count in pairs}
    except ValueError:
        raise invalid("--n-levels", "be a count, or counts by source as teacher_output=12,data_order=5", text) from None


def attribute_study(
    study: Study,
    *,
    n_levels: int | dict[str, int] | None,
    out: Path | None,
    as_json: bool,
    progress: Callable[[int, int], None],
) -> str:
    """Return the text to print; with ``out`` both tables go to ``indices.csv`` and ``sources.csv`` there."""
    verb = importlib.import_module(TRAINING_MODULE).attribute_variance
    problem = study.setting().problem
    result: VarianceAttribution = verb(
        problem, n_levels=n_levels, rng=study.run.seed, noise_law=study.run.noise_law, progress=progress
    )
    if out is not None:
        for name, table in (("indices", result.to_dataframe()), ("sources", result.components.to_dataframe())):
            write_atomically(out / f"{name}.csv", table.to_csv(index=False), parameter="--out", error=DataError)
    return json.dumps(_as_json(result), indent=1) if as_json else result.summary()


def _as_json(result: VarianceAttribution) -> dict[str, Any]:
    return {
        "average": _entries(result.average()),
        "points": _entries(result),
        "interval_probability": 0.95,
        "inactive": dict(result.inactive),
        "components": components_as_json(result.components),
    }


def _entries(result: VarianceAttribution) -> list[dict[str, Any]]:
    rows = result.to_dataframe().replace({np.nan: None}).to_dict(orient="records")
    return [{str(name): plain(value) for name, value in row.items()} for row in rows]
