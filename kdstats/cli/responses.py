"""Text answers on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from kdstats.components.responses import ResponseComponents
from kdstats.errors import DataError, invalid
from kdstats.files import write_atomically
from kdstats.observation.responses.decomposition import decompose_responses
from kdstats.observation.responses.files import read_questions, read_responses

__all__ = ["decompose_response_file"]


def decompose_response_file(
    table: Path, *, references: Path | None, embeddings: Path | None, out: Path | None, as_json: bool, **options: Any
) -> str:
    """Return the text to print; with ``out`` the measures go to ``responses.csv`` there."""
    found = decompose_responses(
        read_responses(table),
        references=None if references is None else _references(references),
        embeddings=None if embeddings is None else _vectors(embeddings),
        **options,
    )
    if out is not None:
        text = found.to_dataframe().to_csv()
        write_atomically(out / "responses.csv", text, parameter="--out", error=DataError)
    return json.dumps(_as_json(found), indent=1) if as_json else found.summary()


def _references(path: Path) -> dict[Any, list[str]]:
    try:
        frame = read_questions(path, question="prompt_id")
    except DataError as missing:
        try:
            frame = read_questions(path)  # keyed by the prompts themselves, as answers may be
        except DataError:
            raise DataError(f"--references {path.name}: {missing}") from None
        return dict(zip(frame["prompt"], frame["references"], strict=True))
    return dict(zip(frame["prompt_id"], frame["references"], strict=True))


def _vectors(path: Path) -> Any:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise invalid("--embeddings", "be an array saved by numpy.save", f"{path.name} ({error})", DataError) from None
    if not isinstance(vectors, np.ndarray):
        raise invalid("--embeddings", "be one array saved by numpy.save", path.name, DataError)
    return vectors


def _as_json(found: ResponseComponents) -> dict[str, Any]:
    rows = found.to_dataframe().reset_index().to_dict(orient="records")
    plain = [
        {str(k): None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()} for row in rows
    ]
    attrs = {name: found.attrs[name] for name in ("n_responses", "n_teacher", "similarity", "bulk", "notes")}
    return {"measures": plain, "interval_probability": 0.95, "attrs": attrs}
