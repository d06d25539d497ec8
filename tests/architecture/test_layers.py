"""The layers of the house, held by import-linter, and proof that it would notice."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(folder):
    """Run the contracts of ``folder`` on the package in it."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(folder), "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def house(tmp_path):
    """A copy of the package with its contracts, to break."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "kdstats", tmp_path / "kdstats", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def append(path, line):
    path.write_text(path.read_text() + f"\n{line}\n")


def test_contracts_are_kept():
    finished = lint(ROOT)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Contracts: 3 kept, 0 broken" in finished.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("problem/teacher.py", "from kdstats.linear import smoother", "Layers"),
        ("errors.py", "import kdstats.streams", "Layers"),
        ("prediction/closed_form/budget.py", "import kdstats.observation.linear", "Layers"),
        ("prediction/networks/wide.py", "import kdstats.networks.training", "Heavy libraries"),
        ("linear/least_squares.py", "def late():\n    import pymc", "Heavy libraries"),
        ("report/wording.py", "import kdstats.prediction.closed_form", "Pictures and reports"),
    ],
)
def test_a_wrong_import_is_caught(house, module, line, contract):
    append(house / "kdstats" / module, line)
    finished = lint(house)
    assert finished.returncode == 1, finished.stdout + finished.stderr
    broken = [text for text in finished.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(text.startswith(contract) for text in broken), finished.stdout


def test_a_stray_module_is_caught(house):
    (house / "kdstats" / "utils.py").write_text('"""Grab bag."""\n')
    finished = lint(house)
    assert finished.returncode != 0
    assert "utils" in finished.stdout + finished.stderr


def test_no_grab_bags():
    names = {path.stem for path in (ROOT / "kdstats").rglob("*")}
    assert not names & {"utils", "helpers", "common", "misc", "core", "util", "helper"}
