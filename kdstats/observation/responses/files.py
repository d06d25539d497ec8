"""Files of text answers and of questions: JSON lines, CSV, Parquet, BioASQ, a corpus of trivia."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdstats.errors import DataError, MissingDependencyError, invalid
from kdstats.observation.columns import listed, with_missing_numbers
from kdstats.problem.validation import as_choice

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_bioasq", "read_questions", "read_responses", "read_trivia"]

PARQUET, LINES = (".parquet", ".pq"), (".jsonl", ".ndjson")
#: BioASQ types whose exact answers are short texts.
BIOASQ_TYPES = ("factoid", "yesno", "list", "summary")
TRIVIA = ("chatterbot_corpus", "data/english/trivia.yml")


def read_responses(path: str | Path, *, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Read answers logged by any system, for :func:`kdstats.decompose_responses`.

    Parameters
    ----------
    path : str or Path
        ``.jsonl`` or ``.ndjson`` (one object a line), ``.csv`` or ``.parquet``.
    columns : mapping of str to str, optional
        New names of columns, such as ``{"completion": "response", "id": "prompt_id"}``.

    Returns
    -------
    DataFrame
        With at least ``prompt_id`` and ``response``, as text. An empty CSV cell is an empty answer; ``NA`` is missing
        among numbers, and text among text. Without a column ``prompt_id``, ``prompt`` stands for it.

    Raises
    ------
    DataError
        If the file cannot be read as what its name says, or a column is missing.
    MissingDependencyError
        For Parquet without pyarrow.
    """
    file = Path(path)
    frame = _read(file).rename(columns=dict(columns or {}))
    if "prompt_id" not in frame.columns and "prompt" in frame.columns:
        frame = frame.assign(prompt_id=frame["prompt"])
    for name in ("prompt_id", "response"):
        if name not in frame.columns:
            raise DataError(f"`path` must have a column {name!r}; got {listed(frame.columns)} (columns=... renames)")
    if file.suffix.lower() == ".csv":
        frame = frame.assign(response=frame["response"].fillna("").astype(str))
    return frame


def read_questions(path: str | Path, *, question: str = "prompt", reference: str = "reference") -> pd.DataFrame:
    """Read questions with references from JSON lines, CSV or Parquet.

    Parameters
    ----------
    path : str or Path
    question, reference : str
        Columns. A reference is a text or (JSON, Parquet) a list of texts.

    Returns
    -------
    DataFrame
        Columns ``prompt_id`` (its own or the number of the row), ``prompt`` and ``references`` (lists of texts).
    """
    frame = _read(Path(path))
    for name in (question, reference):
        if name not in frame.columns:
            raise DataError(f"`path` must have a column {name!r}; got {listed(frame.columns)}")
    label = frame["prompt_id"] if "prompt_id" in frame.columns else range(len(frame))
    references = [[str(v)] if isinstance(v, str) or not _is_list(v) else [str(x) for x in v] for v in frame[reference]]
    return _questions(zip(label, frame[question], references, strict=True), path)


def read_bioasq(path: str | Path, *, kinds: Iterable[str] = ("factoid", "yesno", "list")) -> pd.DataFrame:
    """Read a training file of the BioASQ challenge, task b.

    Parameters
    ----------
    path : str or Path
        JSON with ``questions``, each with ``id``, ``body``, ``type``, ``exact_answer`` and ``ideal_answer``.
    kinds : iterable of str
        Types to keep, of factoid, yesno, list and summary.

    Returns
    -------
    DataFrame
        Columns ``prompt_id``, ``prompt``, ``references`` (lists of texts: synonyms of a factoid, all synonyms of all
        items of a list, ``yes`` or ``no``, ideal answers of a summary) and ``kind``. Questions without an answer, as
        in test files, are left out.

    Raises
    ------
    DataError
        If the file is not such JSON, or no question of these kinds has an answer.
    """
    wanted = {as_choice("kinds", kind, BIOASQ_TYPES) for kind in ([kinds] if isinstance(kinds, str) else kinds)}
    try:
        content = json.loads(_text(Path(path)))
        questions = content["questions"]
        rows = [(q["id"], q["body"], _bioasq_answers(q), q["type"]) for q in questions if q["type"] in wanted]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"`path` must be a BioASQ file (JSON with questions); got {str(path)!r} ({error!r})") from None
    rows = [row for row in rows if row[2]]
    frame = _questions((row[:3] for row in rows), path)
    return frame.assign(kind=[row[3] for row in rows])


def read_trivia(path: str | Path | None = None) -> pd.DataFrame:
    """Read questions and short answers of general trivia.

    Parameters
    ----------
    path : str or Path, optional
        A YAML file with ``conversations``, lists of a question and answers. Default: the one that the package
        ``chatterbot-corpus`` carries, which is found but not imported.

    Returns
    -------
    DataFrame
        Columns ``prompt_id``, ``prompt``, ``references``. Questions asked twice are kept once, with all answers.

    Raises
    ------
    MissingDependencyError
        If the package, or pyyaml, is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("trivia in YAML needs pyyaml: pip install pyyaml") from error
    if path is None:
        spec = find_spec(TRIVIA[0])
        if spec is None or spec.origin is None:
            raise MissingDependencyError("trivia questions need chatterbot-corpus: pip install 'kdstats[data]'")
        path = Path(spec.origin).parent / TRIVIA[1]
    try:
        pairs = yaml.safe_load(_text(Path(path)))["conversations"]
        talks = [[str(part).strip() for part in pair] for pair in pairs]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        shown = str(error).splitlines()[0]
        raise DataError(f"`path` must be YAML with conversations; got {str(path)!r} ({shown})") from None
    found: dict[str, list[str]] = {}
    for question, *replies in talks:
        known = found.setdefault(question, [])
        known += [reply for reply in replies if reply and reply not in known]
    rows = [(f"trivia-{i:03d}", question, replies) for i, (question, replies) in enumerate(found.items()) if replies]
    return _questions(rows, path)


def _bioasq_answers(question: Mapping[str, Any]) -> list[str]:
    key = "ideal_answer" if question["type"] == "summary" else "exact_answer"
    return list(dict.fromkeys(text.strip() for text in _flat(question.get(key, [])) if text.strip()))


def _flat(value: Any) -> list[str]:
    return [text for part in value for text in _flat(part)] if isinstance(value, list) else [str(value)]


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1)


def _questions(rows: Iterable[tuple[Any, Any, list[str]]], path: Any) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=["prompt_id", "prompt", "references"])
    if not len(frame):
        raise invalid("path", "hold a question with an answer", str(path), DataError)
    if frame["prompt_id"].duplicated().any():
        twice = frame["prompt_id"][frame["prompt_id"].duplicated()].iloc[0]
        raise invalid("prompt_id", "name each question once", twice, DataError)
    return frame


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"`path` must be a readable text file; got {str(path)!r} ({reason})") from None


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    suffix = path.suffix.lower()
    if suffix in LINES:
        rows = []
        for number, line in enumerate(_text(path).splitlines(), 1):
            if line.strip():
                rows.append(_object(line, path, number))
        return pd.DataFrame(rows)
    if suffix == ".csv":
        try:
            text: dict[Any, type] = {"response": str, "prompt_id": str}
            frame = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""], low_memory=False)
            rest = [column for column in frame.columns if column not in text]
            frame[rest] = with_missing_numbers(frame[rest])
            return frame
        except (OSError, ValueError) as error:
            raise DataError(f"`path` must be a CSV file with a header and rows; got {path.name!r} ({error})") from None
    if suffix in PARQUET:
        try:
            return pd.read_parquet(path)
        except ImportError as error:
            raise MissingDependencyError('a Parquet table needs pyarrow: pip install "kdstats[parquet]"') from error
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"`path` must be a Parquet file; got {path.name!r} ({reason})") from None
    raise invalid("path", "end in .jsonl, .csv or .parquet", path.name, DataError)


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"`path` must hold one JSON object a line; got line {number} of {path.name!r} ({error})"
        ) from None
    if not isinstance(row, dict):
        raise DataError(f"`path` must hold one JSON object a line; got line {number} of {path.name!r}: {line[:40]!r}")
    return row
