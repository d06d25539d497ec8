"""Data sets as teachers need them: inputs, target, and what is known of the teacher's answers.

Built-in sets come from installed packages; nothing is fetched. A user's own table is a CSV file whose
columns are named on the way in.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import DataError, MissingDependencyError, invalid

__all__ = ["BUILT_IN", "CLASSES", "Dataset", "load_dataset", "read_csv"]

FloatArray = NDArray[np.float64]

#: Sets whose target is a class.
CLASSES = ("wine", "breast_cancer", "digits")
BUILT_IN = ("boston_housing", "diabetes", *CLASSES)

_BOSTON_NAMES = ("CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT")


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """A table of inputs with the columns that stand for answers.

    Attributes
    ----------
    X : (n, p) ndarray
    feature_names : tuple of str
    target : (n,) ndarray or None
        Truth, where known.
    teacher_mean, noise_variance : (n,) ndarray or None
        The teacher's mean answer and its variance, where the table has them.
    unit : str
        Unit of the target, for pictures.
    """

    X: FloatArray
    feature_names: tuple[str, ...]
    target: FloatArray | None = None
    teacher_mean: FloatArray | None = None
    noise_variance: FloatArray | None = None
    unit: str = ""


def load_dataset(name: str) -> Dataset:
    """Return a built-in data set.

    Parameters
    ----------
    name : {"boston_housing", "diabetes", "wine", "breast_cancer", "digits"}
        506 x 13 from mlxtend, and 442 x 10 from scikit-learn; with classes 0, 1, ... as target 178 x 13 (3),
        569 x 30 (2) and 1797 x 64 (10), from scikit-learn.

    Raises
    ------
    DataError
        If there is no set of that name.
    MissingDependencyError
        If the package that ships it is not installed.
    """
    if name not in BUILT_IN:
        raise invalid("dataset", f"be one of {', '.join(BUILT_IN)}", name, DataError)
    try:
        if name == "boston_housing":
            from mlxtend.data import boston_housing_data

            X, target = boston_housing_data()
            return Dataset(
                X=np.asarray(X, float), feature_names=_BOSTON_NAMES, target=np.asarray(target, float), unit="1000 USD"
            )
        from sklearn import datasets

        bunch = getattr(datasets, f"load_{name}")()
        return Dataset(
            X=np.asarray(bunch.data, float),
            feature_names=tuple(bunch.feature_names),
            target=np.asarray(bunch.target, float),
            unit="progression score" if name == "diabetes" else "",
        )
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f'data set {name!r} needs {error.name}, which is not installed: pip install "kdstats[data]"'
        ) from error


def read_csv(
    path: str | Path,
    *,
    target: str | None = None,
    teacher_mean: str | None = None,
    noise_variance: str | None = None,
    features: Sequence[str] | None = None,
) -> Dataset:
    """Read a user's table: one header line, one row per input, numbers only.

    Parameters
    ----------
    path : str or Path
        CSV file (comma separated, UTF-8).
    target, teacher_mean, noise_variance : str, optional
        Names of the columns that hold them.
    features : sequence of str, optional
        Names of the input columns. Default: every other column.

    Raises
    ------
    DataError
        If the file is missing, empty or ragged, a column is unknown or twice there, or a cell is no finite number:
        the message has the line and the column.
    """
    place = Path(path)
    header, rows = _read_rows(place)
    roles = {"target": target, "teacher_mean": teacher_mean, "noise_variance": noise_variance}
    for role, column in roles.items():
        if column is not None and column not in header:
            raise invalid(role, f"name a column of {place.name} ({', '.join(header)})", column, DataError)
    taken = [column for column in roles.values() if column is not None]
    if len(set(taken)) != len(taken):
        raise invalid("target, teacher_mean and noise_variance", "be different columns", ", ".join(taken), DataError)
    chosen = list(features) if features is not None else [name for name in header if name not in taken]
    for name in chosen:
        if name not in header:
            raise invalid("features", f"name columns of {place.name} ({', '.join(header)})", name, DataError)
    if not chosen:
        raise invalid("features", "name at least one column", f"none left in {place.name}", DataError)
    columns = {name: _column(place, header, rows, name) for name in {*chosen, *taken}}
    return Dataset(
        X=np.column_stack([columns[name] for name in chosen]),
        feature_names=tuple(chosen),
        unit=target or "",
        **{role: columns[column] for role, column in roles.items() if column is not None},
    )


def _read_rows(place: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with place.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle)
            lines = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "not a CSV file in UTF-8"
        raise DataError(f"`csv` must be a readable file; got {str(place)!r} ({reason})") from None
    if not lines:
        raise DataError(f"`csv` must have a header and rows; got {place.name!r}, which is empty")
    header, rows = [name.strip() for name in lines[0][1]], lines[1:]
    if not rows:
        raise DataError(f"`csv` must have at least one row; got {place.name!r} with a header alone")
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise DataError(f"`csv` must have columns of different names; got {twice[0]!r} twice in {place.name!r}")
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"`csv` must have {len(header)} cells in every line; got {len(row)} in line {number} of {place.name!r}"
            )
    return header, rows


def _column(place: Path, header: list[str], rows: list[tuple[int, list[str]]], name: str) -> FloatArray:
    position = header.index(name)
    values = np.empty(len(rows))
    for index, (number, row) in enumerate(rows):
        try:
            values[index] = float(row[position])
        except ValueError:
            raise DataError(_cell(place, number, name, row[position])) from None
        if not np.isfinite(values[index]):
            raise DataError(_cell(place, number, name, row[position]))
    return values


def _cell(place: Path, number: int, name: str, text: Any) -> str:
    return f"`csv` must hold finite numbers; got {text!r} in line {number}, column {name!r} of {place.name!r}"
