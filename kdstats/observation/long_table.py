"""Long tables of any kind: their keys as columns, combinations of keys numbered, repeated rows refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.errors import DataError, invalid
from kdstats.observation.columns import listed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WITHOUT", "combined", "long_frame", "refuse_repeated", "with_keys"]

IntArray = NDArray[np.int64]

#: How to do without a key.
WITHOUT = {
    "replicate": "replicate=None if each student gave one output",
    "point": "point=None if there is one point",
}


def with_keys(table: pd.DataFrame, keys: Sequence[str], *, hints: Mapping[str, str]) -> pd.DataFrame:
    """Return a table with all keys as columns, each column once.

    Parameters
    ----------
    table : DataFrame
        Keys may be levels of its index.
    keys : sequence of str
    hints : mapping of str to str
        What to try where a key is missing.

    Raises
    ------
    DataError
        If there are no rows, a column occurs twice, or a key is missing.
    """
    levels = [name for name in table.index.names if name in keys and name not in table.columns]
    frame: pd.DataFrame = table.reset_index(level=levels) if levels else table
    if not len(frame):
        raise invalid("table", "not be empty", "0 rows", DataError)
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise invalid("table", "have each column once", f"{twice[0]!r} more than once", DataError)
    missing = [key for key in keys if key not in frame.columns]
    if missing:
        hint = f" ({hints[missing[0]]})" if missing[0] in hints else ""
        raise DataError(f"`table` must have a column {missing[0]!r}; got {listed(frame.columns)}{hint}")
    return frame


def long_frame(table: Any, keys: list[str], *, optional: Mapping[str, str | None]) -> pd.DataFrame:
    """Return a DataFrame or DataArray as a long table with all keys as columns.

    Parameters
    ----------
    table : DataFrame or DataArray
    keys : list of str
    optional : mapping of str to (str or None)
        The columns called replicate and point, which a message says how to do without.

    Raises
    ------
    DataError
        If it is neither, or as :func:`with_keys`.
    """
    if isinstance(table, xr.DataArray):
        table = _unstacked(table, keys)
    elif not (hasattr(table, "columns") and hasattr(table, "index")):
        raise invalid("table", "be a pandas DataFrame or an xarray DataArray", f"a {type(table).__name__}", DataError)
    hints = {column: WITHOUT[key] for key, column in optional.items() if column is not None}
    return with_keys(table, keys, hints=hints).reset_index(drop=True)


def _unstacked(table: xr.DataArray, keys: list[str]) -> pd.DataFrame:
    missing = [key for key in keys if key not in table.dims]
    if missing:
        raise DataError(
            f"`table` must have the dims {', '.join(keys)}; got {listed(table.dims)} without {missing[0]!r}"
        )
    strange = [str(dim) for dim in table.dims if dim not in (*keys, "output")]
    if strange:
        raise DataError(f"`table` must have no dims but {', '.join(keys)} and output; got {strange[0]!r} too")
    bare = table.drop_vars([name for name in table.coords if name not in table.dims])
    if "output" not in bare.dims:
        return bare.rename("value").to_dataframe().reset_index()
    outputs = bare.coords["output"].values.tolist() if "output" in bare.coords else range(bare.sizes["output"])
    columns = {name: bare.isel(output=i, drop=True) for i, name in enumerate(outputs)}
    return xr.Dataset(columns).to_dataframe(dim_order=keys).reset_index()


def refuse_repeated(
    codes: Sequence[IntArray], labels: Sequence[list[Any]], keys: list[str], *, replicated: bool
) -> None:
    """Refuse rows whose keys all occur together before, naming the first."""
    _, first, counts = np.unique(combined(codes), return_index=True, return_counts=True)
    if counts.max() == 1:
        return
    row = int(first[counts > 1].min())
    named = ", ".join(f"{key} {label[code[row]]!r}" for key, label, code in zip(keys, labels, codes, strict=True))
    hint = "" if replicated else " (name the column that numbers them: replicate=...)"
    raise DataError(
        f"`table` must have one row for each {', '.join(keys)}; got {int((counts - 1).sum())} repeated rows, first of "
        f"{named}{hint}"
    )


def combined(codes: Sequence[IntArray]) -> IntArray:
    """Number the combinations of codes."""
    number = codes[0]
    for code in codes[1:]:
        number = number * (int(code.max()) + 1) + code
        if number.max() > 2**31:  # keep the product within 64 bits
            number = np.unique(number, return_inverse=True)[1].ravel()
    return number
