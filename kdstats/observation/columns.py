"""The columns of a long table: which are outputs, what their numbers are, which label each row has."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import DataError, IgnoredColumnsWarning, invalid

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["key_codes", "listed", "output_values", "with_missing_numbers"]

FloatArray = NDArray[np.float64]

#: Column of outputs, or how the names of several begin, where the caller names none.
DEFAULT_VALUE = "value"
#: How missing numbers are written; in a column of text these are text, and only an empty cell is missing.
MISSING = frozenset({"NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None", "#NA"})
#: Names of columns that a message lists.
LISTED = 8


def output_values(
    frame: pd.DataFrame, keys: Sequence[str], value: str | Sequence[str] | None, *, omit: bool
) -> tuple[FloatArray, list[Any]]:
    """Return the outputs of every row, shape (N, q), and their labels.

    Parameters
    ----------
    frame : DataFrame
    keys : sequence of str
        Columns that are labels.
    value : str, sequence of str or None
        Names, or patterns with ``*``. None: the column "value", or those whose names begin so, or the only
        column that is no key. A column of lists, all of one length, is one output per entry.
    omit : bool
        Let NaN pass.

    Raises
    ------
    DataError
        If a name is no column or a key, several columns could be the outputs, or an entry is no finite number.

    Warns
    -----
    IgnoredColumnsWarning
        Where ``value`` is None and columns are left over.
    """
    frame, columns = _spread_lists(frame, _output_columns(frame, keys, value))
    numbers = [_numbers(frame, column, omit=omit) for column in columns]
    return (numbers[0][:, None] if len(numbers) == 1 else np.column_stack(numbers)), columns


def key_codes(frame: pd.DataFrame, key: str) -> tuple[NDArray[np.int64], list[Any]]:
    """Return the number of each row's label, in order of appearance, and the labels.

    Raises
    ------
    DataError
        If a label is missing, text and other labels are mixed, or one is a list or an object.
    """
    import pandas as pd

    try:
        codes, labels = pd.factorize(frame[key], use_na_sentinel=True)
    except TypeError:
        odd = next((i, label) for i, label in enumerate(frame[key]) if not isinstance(label, Hashable))
        shown = f"{odd[1]!r} in row {odd[0]}"
        raise invalid(f"table[{key!r}]", "hold labels (text or numbers)", shown, DataError) from None
    absent = codes < 0
    if absent.any():
        shown = f"{int(absent.sum())} missing, the first in row {int(absent.argmax())}"
        raise invalid(f"table[{key!r}]", "name every row", shown, DataError)
    texts = [isinstance(label, str) for label in labels]
    if any(texts) and not all(texts):
        row = int(np.argmax(codes == texts.index(not texts[0])))
        shown = f"{labels[0]!r} in row 0 and {labels[codes[row]]!r} in row {row}"
        raise invalid(f"table[{key!r}]", "not mix text with other labels", shown, DataError)
    return codes.astype(np.int64, copy=False), list(labels)


def with_missing_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table read with empty cells alone as missing, columns of numbers with those marked missing as numbers.

    ``NA`` and its like are a missing number among numbers, and text (the country code, say) among text.
    """
    import pandas as pd

    found = frame.copy(deep=False)
    for column in frame.columns:
        series = frame[column]
        if pd.api.types.is_numeric_dtype(series.dtype):
            continue
        marked = series.isin(MISSING)
        if marked.any() and (series.notna() & ~marked).any():
            numbers = pd.to_numeric(series.mask(marked), errors="coerce")
            if (numbers.notna() == (series.notna() & ~marked)).all():
                found[column] = numbers
    return found


def listed(names: Any) -> str:
    """Join the first names, and say how many more there are."""
    shown = [str(name) for name in names]
    return ", ".join(shown[:LISTED]) + (f" and {len(shown) - LISTED} more" if len(shown) > LISTED else "")


def _output_columns(frame: pd.DataFrame, keys: Sequence[str], value: str | Sequence[str] | None) -> list[Any]:
    if value is None:
        columns = [column for column in frame.columns if column not in keys]
        if not columns:
            raise DataError(f"`table` must have a column of outputs; got only the keys {', '.join(keys)}")
        if len(columns) == 1:
            return columns
        chosen = [column for column in columns if column == DEFAULT_VALUE]
        chosen = chosen or [column for column in columns if str(column).startswith(DEFAULT_VALUE)]
        if not chosen:
            hint = "if each is a point, one row per output is wanted: pandas.melt"
            got = f"{listed(columns)} ({hint})"
            raise invalid("value", "name the columns of outputs where several are no keys", got, DataError)
        others = [column for column in columns if column not in chosen]
        if others:
            warnings.warn(
                f"columns that are neither keys nor {DEFAULT_VALUE!r} are left out: {listed(others)} "
                "(`value` names the columns of outputs)",
                IgnoredColumnsWarning,
                stacklevel=5,
            )
        return chosen
    columns = _matched(frame, keys, [value] if isinstance(value, str) else list(value))
    if not columns:
        raise invalid("value", "name at least one column", "none", DataError)
    for column in columns:
        if column in keys:
            raise invalid("value", "not be a key column", column, DataError)
        if column not in frame.columns:
            raise invalid("value", f"be one of the columns ({listed(frame.columns)})", column, DataError)
    if len(set(columns)) < len(columns):
        raise invalid("value", "name each column once", columns, DataError)
    return columns


def _matched(frame: pd.DataFrame, keys: Sequence[str], names: list[Any]) -> list[Any]:
    """Put in the place of each name with a * the columns it fits."""
    columns: list[Any] = []
    for name in names:
        if not isinstance(name, str) or "*" not in name or name in frame.columns:
            columns.append(name)
            continue
        found = [c for c in frame.columns if c not in keys and isinstance(c, str) and fnmatchcase(c, name)]
        if not found:
            raise invalid("value", f"fit some of the columns ({listed(frame.columns)})", name, DataError)
        columns += found
    return columns


def _spread_lists(frame: pd.DataFrame, columns: list[Any]) -> tuple[pd.DataFrame, list[Any]]:
    """Give a column of lists, all of one length, one column for each entry."""
    import pandas as pd

    spread: list[Any] = []
    parts: dict[Any, FloatArray] = {}
    for column in columns:
        series = frame[column]
        if series.dtype != object or not isinstance(series.iloc[0], list | tuple | np.ndarray):
            spread.append(column)
            continue
        width = len(series.iloc[0])
        odd = [not isinstance(cell, list | tuple | np.ndarray) or len(cell) != width for cell in series]
        if any(odd) or not width:
            row = odd.index(True) if any(odd) else 0
            rule = f"hold lists of one length ({width} in row 0, at least 1)"
            raise invalid(f"table[{column!r}]", rule, f"{series.iloc[row]!r} in row {row}", DataError)
        try:
            block = np.array(series.tolist(), dtype=np.float64)
        except (TypeError, ValueError):
            raise invalid(f"table[{column!r}]", "hold lists of numbers", repr(series.iloc[0]), DataError) from None
        if block.ndim != 2:
            raise invalid(f"table[{column!r}]", "hold lists of numbers", repr(series.iloc[0]), DataError)
        names = [f"{column}[{i}]" for i in range(width)]
        parts |= dict(zip(names, block.T, strict=True))
        spread += names
    if not parts:
        return frame, columns
    kept = frame.drop(columns=[column for column in columns if column not in spread])
    return pd.concat([kept, pd.DataFrame(parts, index=frame.index)], axis=1), spread


def _numbers(frame: pd.DataFrame, column: Any, *, omit: bool) -> FloatArray:
    """Return a column as finite floats (or NaN, where they are to be left out), or say which row is not one."""
    import pandas as pd

    series = frame[column]
    if series.dtype.kind in "bcmM":
        raise invalid(f"table[{column!r}]", "hold real numbers", f"dtype {series.dtype}", DataError)
    if series.dtype.kind in "iuf":
        numbers = series.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        odd = np.isnan(numbers) & series.notna().to_numpy()
        if odd.any():
            shown = (
                f"{series.iloc[int(odd.argmax())]!r} in row {int(odd.argmax())} ({int(odd.sum())} of {odd.size} rows)"
            )
            raise invalid(f"table[{column!r}]", "hold real numbers", shown, DataError)
    bad = np.isinf(numbers) if omit else ~np.isfinite(numbers)
    if bad.any():
        shown = f"{int(bad.sum())} NaN or infinite values, the first in row {int(bad.argmax())}"
        hint = "" if omit else " (or nan_policy='omit', which leaves NaN out)"
        raise invalid(f"table[{column!r}]", f"be finite everywhere{hint}", shown, DataError)
    return np.asarray(numbers, dtype=np.float64)
