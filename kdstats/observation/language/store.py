"""Answers of one model on disk: what has been sampled is never sampled again.

A store is a folder of Parquet files that are only ever added, each written whole or not at all, beside ``store.json``,
which says whose answers they are. An answer is addressed by a key, the SHA-256 of model, prompt, sampling settings and
seed, and by its number under that key.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdstats.errors import DataError, MissingDependencyError, invalid
from kdstats.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "ResponseStore", "as_responses", "response_key"]

#: Columns of a table of responses, in order.
COLUMNS = (
    "prompt_id",
    "prompt",
    "response_index",
    "response",
    "token_ids",
    "ended",
    "model",
    "temperature",
    "top_k",
    "top_p",
    "max_new_tokens",
    "seed",
    "source",
    "student",
    "logprob",
)
#: What an answer logged elsewhere need not say.
OPTIONAL = {
    "token_ids": None,
    "ended": True,
    "temperature": np.nan,
    "top_k": None,
    "top_p": np.nan,
    "max_new_tokens": None,
    "seed": None,
    "source": "teacher",
    "student": None,
    "logprob": np.nan,
}
MANIFEST, FORMAT = "store.json", 1


def response_key(fingerprint: str, prompt: str, settings: Mapping[str, Any], *, seed: int) -> str:
    """Return the address of the answers of one model to one prompt under one setting and seed."""
    text = json.dumps([fingerprint, prompt, dict(sorted(settings.items())), seed], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ResponseStore:
    """Answers of one model, kept in a folder.

    Parameters
    ----------
    folder : str or Path
        Made where it does not exist.
    model : str, optional
        Name of the model. Needed for a new store.
    fingerprint : str, optional
        Of the model's weights. Default: the name alone tells models apart, as for answers logged from an API.

    Raises
    ------
    DataError
        If the folder holds the answers of another model, or is no store.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> import kdstats as kd
    >>> logged = pd.DataFrame({"prompt": ["2+2?", "2+2?"], "response": ["4", "four"]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = kd.ResponseStore(folder, model="an API's model")
    ...     n_new = store.add_logged(logged)
    ...     table = store.read()
    >>> n_new, table["response_index"].tolist()
    (2, [0, 1])
    """

    def __init__(self, folder: str | Path, *, model: str | None = None, fingerprint: str | None = None) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if path.exists():
            try:
                self.manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                known = self.manifest["format"], self.manifest["model"], self.manifest["fingerprint"]
            except (OSError, ValueError, KeyError, TypeError):
                raise DataError(f"`folder` must be a response store; {path} cannot be read as one") from None
            if known[0] != FORMAT:
                raise invalid("folder", f"be a response store of format {FORMAT}", f"format {known[0]}", DataError)
            if model is not None and known[1:] != (model, fingerprint or f"name:{model}"):
                raise DataError(
                    f"`store` must hold the answers of the model that is asked, {model!r} "
                    f"({_short(fingerprint or f'name:{model}')}); {self.folder} holds those of {known[1]!r} "
                    f"({_short(known[2])}): give every model a folder of its own"
                )
        else:
            if model is None:
                raise invalid("folder", "be a response store (a new one needs `model`)", str(self.folder), DataError)
            if self.folder.is_dir() and any(self.folder.iterdir()):
                raise invalid("folder", "be empty or a response store", str(self.folder), DataError)
            self.manifest = {"format": FORMAT, "model": model, "fingerprint": fingerprint or f"name:{model}"}
            write_atomically(path, json.dumps(self.manifest, indent=1), parameter="folder", error=DataError)

    @property
    def model(self) -> str:
        """Name of the model whose answers these are."""
        return str(self.manifest["model"])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of its weights; ``name:`` and the name for answers logged elsewhere."""
        return str(self.manifest["fingerprint"])

    def read(self) -> pd.DataFrame:
        """Return all answers, in the order of prompts and numbers, with their ``key``."""
        import pandas as pd

        parts = [self._part(path) for path in sorted(self.folder.glob("*.parquet"))]
        if not parts:
            return pd.DataFrame(columns=["key", *COLUMNS])
        frame = pd.concat(parts, ignore_index=True).drop_duplicates(["key", "response_index"], ignore_index=True)
        return frame.sort_values(["prompt_id", "key", "response_index"], kind="stable", ignore_index=True)

    def numbers(self) -> dict[str, set[int]]:
        """Return the numbers of the answers there are, by key."""
        found: dict[str, set[int]] = {}
        for path in sorted(self.folder.glob("*.parquet")):
            part = self._part(path, columns=["key", "response_index"])
            for key, number in zip(part["key"], part["response_index"], strict=True):
                found.setdefault(key, set()).add(int(number))
        return found

    def add(self, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Add answers as one file.

        Parameters
        ----------
        rows : sequence of mappings
            With ``key`` and all of :data:`COLUMNS`.
        """
        pa, pq = _arrow()
        table = pa.Table.from_pylist([dict(row) for row in rows], schema=_schema(pa))
        path = self.folder / f"{len(list(self.folder.glob('*.parquet'))):06d}-{secrets.token_hex(4)}.parquet"
        return write_atomically(path, lambda part: pq.write_table(table, part), parameter="store", error=DataError)

    def add_logged(self, responses: Any) -> int:
        """Add answers that were logged elsewhere, such as those of an API.

        Parameters
        ----------
        responses : DataFrame or path
            With columns ``prompt`` and ``response``, and any of :data:`COLUMNS`; a path to JSON lines, CSV or Parquet.
            Without ``response_index``, answers to a prompt are numbered in their order, after those there are.

        Returns
        -------
        int
            How many were new. Answers whose number is there already are left out.

        Raises
        ------
        DataError
            If a column is missing, an answer is empty or no text, or the table names another model.
        """
        frame = as_responses(responses)
        if "model" in frame.columns:
            others = sorted({str(name) for name in frame["model"].dropna()} - {self.model})
            if others:
                raise invalid("responses", f"be answers of {self.model!r}, whose store this is", others[0], DataError)
        known, rows = self.numbers(), []
        records = frame.to_dict("records")
        for record in records:
            row = {**OPTIONAL, **{name: value for name, value in record.items() if name in COLUMNS}}
            row = {name: None if _is_missing(value) else value for name, value in row.items()}
            row["ended"] = True if row["ended"] is None else bool(row["ended"])
            row["source"], row["model"] = row["source"] or "teacher", self.model
            row["prompt_id"] = str(row["prompt"] if row.get("prompt_id") is None else row["prompt_id"])
            settings = {name: row[name] for name in ("temperature", "top_k", "top_p", "max_new_tokens")}
            key = response_key(self.fingerprint, row["prompt"], settings, seed=row["seed"] or 0)
            taken = known.setdefault(key, set())
            number = row.get("response_index")
            number = max(taken, default=-1) + 1 if number is None else int(number)
            if number not in taken:
                taken.add(number)
                rows.append({**row, "key": key, "response_index": number})
        if rows:
            self.add(rows)
        return len(rows)

    def _part(self, path: Path, columns: Iterable[str] | None = None) -> pd.DataFrame:
        pa, pq = _arrow()
        try:
            table = pq.read_table(path, columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowInvalid) as error:
            reason = " ".join(str(error).split())[:120]
            raise DataError(
                f"`store` must have files that can be read; got {path.name} ({reason}): delete it"
            ) from None
        frame: pd.DataFrame = table.to_pandas(types_mapper=_types(pa))
        return frame


def as_responses(source: Any) -> pd.DataFrame:
    """Return a table of responses from a frame or a file, with its needs checked.

    Parameters
    ----------
    source : DataFrame, str or Path
        JSON lines (``.jsonl``), CSV or Parquet.

    Raises
    ------
    DataError
        If columns ``prompt`` or ``response`` are missing, or a row has none of them.
    """
    import pandas as pd

    if isinstance(source, (str, Path)):
        path = Path(source)
        try:
            if path.suffix in (".jsonl", ".ndjson", ".json"):
                source = pd.read_json(path, lines=True, dtype=False)
            elif path.suffix == ".parquet":
                source = _arrow()[1].read_table(path).to_pandas()
            else:
                source = pd.read_csv(path)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise invalid("responses", "be a file that can be read", f"{str(path)!r} ({reason})", DataError) from None
    if not isinstance(source, pd.DataFrame):
        raise invalid("responses", "be a DataFrame or a path", f"a {type(source).__name__}", DataError)
    for name in ("prompt", "response"):
        if name not in source.columns:
            got = ", ".join(str(column) for column in source.columns[:8])
            raise invalid("responses", f"have a column {name!r}", got or "no columns", DataError)
        empty = [not isinstance(value, str) or not value.strip() for value in source[name]]
        if any(empty):
            first = int(np.argmax(empty))
            shown = f"{sum(empty)} empty, the first in row {first}, {source[name].iloc[first]!r}"
            raise invalid("responses", f"have text in every {name}", shown, DataError)
    if not len(source):
        raise invalid("responses", "have at least one row", "none", DataError)
    return source


def _schema(pa: Any) -> Any:
    types = {
        "key": pa.string(),
        "prompt_id": pa.string(),
        "prompt": pa.string(),
        "response_index": pa.int32(),
        "response": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "ended": pa.bool_(),
        "model": pa.string(),
        "temperature": pa.float64(),
        "top_k": pa.int32(),
        "top_p": pa.float64(),
        "max_new_tokens": pa.int32(),
        "seed": pa.uint64(),
        "source": pa.string(),
        "student": pa.int32(),
        "logprob": pa.float64(),
    }
    return pa.schema(list(types.items()))


def _types(pa: Any) -> Any:
    """Whole numbers that may be missing stay whole."""
    import pandas as pd

    return {pa.int32(): pd.Int32Dtype(), pa.uint64(): pd.UInt64Dtype()}.get


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def _short(fingerprint: str) -> str:
    return fingerprint if fingerprint.startswith("name:") else fingerprint[:12]


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise MissingDependencyError('a response store needs pyarrow: pip install "kdstats[language]"') from error
    return pa, pq
