"""Files written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from kdstats.errors import KdstatsError, StudyError

__all__ = ["write_atomically"]


def write_atomically(
    path: Path,
    content: str | Callable[[Path], object],
    *,
    parameter: str = "path",
    error: type[KdstatsError] = StudyError,
) -> Path:
    """Write beside the destination, flush to disk, and put the file in place in one step.

    Parameters
    ----------
    path : Path
        Destination; its folder is made where it does not exist.
    content : str or callable
        Text, or a function that writes the file at the path it is given.
    parameter : str, default "path"
        Name of the caller's argument, for the message.
    error : type, optional
        Class of the error.

    Returns
    -------
    Path
        The destination.

    Raises
    ------
    KdstatsError
        Of class ``error``, if the folder cannot be made or written; nothing is left behind and an
        older file stays.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(part)
        else:
            part.write_text(content, encoding="utf-8", newline="\n")
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as failure:
        reason = failure.strerror or failure
        raise error(f"`{parameter}` must be a file that can be written; got {str(path)!r} ({reason})") from None
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)
    return path
