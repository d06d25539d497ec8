"""Write a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from kdstats.errors import StudyError

__all__ = ["write_atomically"]


def write_atomically(path: Path, text: str) -> None:
    """Write text to a temporary file beside ``path``, flush it to disk, and put it in place in one step.

    Raises
    ------
    StudyError
        If the folder cannot be made or written; nothing is left behind and an older file stays.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        raise StudyError(f"`path` must be a file that can be written; {path}: {error.strerror or error}") from error
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)
