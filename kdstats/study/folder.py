"""Result folders: finished units survive an interruption, and are computed once.

Every unit is a NetCDF file of its own, written whole or not at all. The manifest has the study and
the SHA-256 of each unit; a folder that holds another study's results is refused, and the first key
that differs is named.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import DataError, StudyError
from kdstats.files import write_atomically

__all__ = ["ResultFolder", "prepare"]

MANIFEST = "manifest.json"


class ResultFolder:
    """Where a study keeps its units; without a path nothing is kept.

    Parameters
    ----------
    path : Path or None
        Created if missing.
    study : dict
        Every table and key of the study.

    Raises
    ------
    StudyError
        If the folder cannot be written, or holds the results of another study.
    """

    def __init__(self, path: Path | None, study: dict[str, Any]) -> None:
        self.path = path
        self.reused: list[str] = []
        self._manifest: dict[str, Any] = {
            "study": json.loads(json.dumps(study)),
            "units": {},
            "versions": dict(versions()),
        }
        if path is None:
            return
        prepare(path)
        existing = self._read_manifest(path)
        if existing is not None:
            changed = _first_difference(existing.get("study", {}), self._manifest["study"])
            if changed is not None:
                raise StudyError(
                    f"`out` must be new or hold the same study; got {str(path)!r}, whose study differs in {changed}"
                )
            self._manifest["units"] = existing["units"]

    def unit(self, name: str, compute: Callable[[], VarianceComponents]) -> VarianceComponents:
        """Return a unit from the folder if it is there and intact, else compute and keep it."""
        if self.path is None:
            return compute()
        place = self.path / f"{name}.nc"
        if self._manifest["units"].get(name) == _digest(place):
            try:
                result = VarianceComponents.from_netcdf(place)
            except DataError:
                pass
            else:
                self.reused.append(name)
                return result
        result = compute()
        result.to_netcdf(place)
        self._manifest["units"][name] = _digest(place)
        self._save()
        return result

    def _save(self) -> None:
        assert self.path is not None
        content = json.dumps(self._manifest, indent=1, sort_keys=True)
        write_atomically(self.path / MANIFEST, content, parameter="out")

    def _read_manifest(self, path: Path) -> dict[str, Any] | None:
        place = path / MANIFEST
        if not place.exists():
            return None
        try:
            manifest = json.loads(place.read_text(encoding="utf-8"))
            return manifest if isinstance(manifest["units"], dict) else None
        except (OSError, ValueError, KeyError, TypeError):
            raise StudyError(f"`out` must hold a readable {MANIFEST}; got a damaged one in {str(path)!r}") from None


def prepare(path: Path) -> None:
    """Make sure that a folder can be written, before any work is done; a new one is made by the first file in it."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            pass
        for folder in missing:
            folder.rmdir()
    except OSError as error:
        raise StudyError(f"`out` must be a folder that can be written; got {str(path)!r} ({error.strerror})") from None


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def _first_difference(old: Any, new: Any, path: str = "") -> str | None:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            found = _first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            if found is not None:
                return found
        return None
    return None if old == new else f"{path} ({old!r} there, {new!r} here)"
