"""Turn what users pass into canonical arrays and numbers, or say what is wrong with it.

Each function returns the canonical value or raises a :class:`~kdstats.errors.ProblemError` that
names the parameter, the rule and the value. Arrays come back as C-contiguous, read-only float64
copies, so that a frozen problem cannot change under its owner.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import ProblemError, invalid

__all__ = [
    "as_array",
    "as_choice",
    "as_count",
    "as_covariance",
    "as_flag",
    "as_labels",
    "as_matrix",
    "as_number",
    "as_probability",
    "frozen",
]

FloatArray = NDArray[np.float64]

#: Relative size, against the largest eigenvalue, below which a negative eigenvalue is rounding.
COVARIANCE_TOLERANCE = 1e-10


def frozen(array: Any) -> FloatArray:
    """Return a read-only C-contiguous float64 copy."""
    copy = np.array(array, dtype=np.float64, order="C")
    copy.flags.writeable = False
    return copy


def as_array(name: str, value: Any, *, ndim: int | tuple[int, ...] | None = None) -> FloatArray:
    """Return a finite, non-empty, real array as read-only float64.

    Parameters
    ----------
    name : str
        Parameter name, for messages.
    value : array_like
        Numbers. Object, string, complex, ragged and masked input is refused.
    ndim : int or tuple of int, optional
        Numbers of dimensions that are accepted.

    Returns
    -------
    ndarray of float64
    """
    if np.ma.isMaskedArray(value) and np.ma.getmaskarray(value).any():
        raise invalid(name, "have no masked entries", f"{int(np.ma.getmaskarray(value).sum())} masked")
    try:
        raw = np.asarray(value)
    except ValueError:
        raise invalid(name, "be a rectangular array of numbers", _ragged(value)) from None
    if raw.dtype == object:
        raw = _numeric_from_object(name, raw)
    if raw.dtype.kind not in "fiub":
        raise invalid(name, "hold real numbers", f"dtype {raw.dtype}")
    if ndim is not None:
        allowed = (ndim,) if isinstance(ndim, int) else ndim
        if raw.ndim not in allowed:
            wanted = " or ".join(str(d) for d in allowed)
            raise invalid(name, f"have {wanted} dimension{'s' if wanted != '1' else ''}", f"shape {raw.shape}")
    if raw.size == 0:
        raise invalid(name, "not be empty", f"shape {raw.shape}")
    with np.errstate(over="ignore"):
        array = np.asarray(raw, dtype=np.float64)
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        place = f" at index {first[0] if len(first) == 1 else first}" if first else ""
        count = int(bad.sum())
        shown = f"{array[first]}{place}" if count == 1 else f"{count} NaN or infinite values, the first{place}"
        raise invalid(name, "be finite everywhere", shown)
    return frozen(array)


def as_matrix(name: str, value: Any, *, n_columns: int | None = None) -> FloatArray:
    """Return a finite two-dimensional array; one-dimensional input is refused, not broadcast."""
    array = as_array(name, value, ndim=2)
    if n_columns is not None and array.shape[1] != n_columns:
        raise invalid(name, f"have {n_columns} columns, as X has", f"{array.shape[1]} columns")
    return array


def as_number(
    name: str,
    value: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    exclusive: bool = False,
) -> float:
    """Return a finite float within bounds (``exclusive`` shuts out the bounds themselves)."""
    if isinstance(value, (bool, np.bool_)):
        raise invalid(name, "be a number", _literal(value))
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise invalid(name, "be a number", _literal(value))
    try:
        number = float(value)
    except OverflowError:
        raise invalid(name, "be a number of double precision", "an integer beyond 1.8e308") from None
    if not np.isfinite(number):
        raise invalid(name, "be finite", number)
    if minimum is not None and (number < minimum or (exclusive and number == minimum)):
        raise invalid(name, f"be {'greater than' if exclusive else 'at least'} {minimum:g}", number)
    if maximum is not None and (number > maximum or (exclusive and number == maximum)):
        raise invalid(name, f"be {'less than' if exclusive else 'at most'} {maximum:g}", number)
    return number


def as_probability(name: str, value: Any) -> float:
    """Return a float strictly between 0 and 1."""
    return as_number(name, value, minimum=0.0, maximum=1.0, exclusive=True)


def as_count(name: str, value: Any, *, minimum: int = 1, reason: str = "") -> int:
    """Return an integer of at least ``minimum``; floats, booleans and strings are refused."""
    why = f" {reason}" if reason else ""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise invalid(name, f"be an integer of at least {minimum}{why}", _literal(value))
    if value < minimum:
        raise invalid(name, f"be at least {minimum}{why}", int(value))
    return int(value)


def as_flag(name: str, value: Any) -> bool:
    """Return a bool; truthy values of other types are refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise invalid(name, "be True or False", _literal(value))
    return bool(value)


def as_choice(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return one of the allowed names."""
    allowed = tuple(choices)
    if not isinstance(value, str) or value not in allowed:
        raise invalid(name, f"be one of {', '.join(allowed)}", _literal(value))
    return value


def as_covariance(name: str, value: Any, size: int) -> FloatArray:
    """Return a symmetric positive semi-definite matrix of a given size.

    Asymmetry and negative eigenvalues beyond rounding (1e-10 of the largest) are errors that
    state the size of the violation.
    """
    matrix = as_array(name, value, ndim=2)
    if matrix.shape != (size, size):
        raise invalid(name, f"have shape ({size}, {size})", f"shape {matrix.shape}")
    scale = float(np.abs(matrix).max())
    asymmetry = float(np.abs(matrix - matrix.T).max())
    if asymmetry > COVARIANCE_TOLERANCE * scale:
        raise invalid(name, "be symmetric", f"entries that differ by up to {asymmetry:.3g}")
    if (np.diag(matrix) < 0).any():
        where = int(np.flatnonzero(np.diag(matrix) < 0)[0])
        raise invalid(name, "have variances of at least 0", f"{matrix[where, where]:g} at index {where}")
    symmetric = 0.5 * (matrix + matrix.T)
    smallest = float(np.linalg.eigvalsh(symmetric)[0])
    if smallest < -COVARIANCE_TOLERANCE * max(scale, np.finfo(float).tiny) * size:
        raise invalid(name, "be positive semi-definite", f"smallest eigenvalue {smallest:.3g}")
    return frozen(symmetric)


def as_labels(name: str, value: Any, size: int) -> tuple[Any, ...]:
    """Return ``size`` unique hashable labels; lists, as files have them, become tuples."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise invalid(name, f"be a sequence of {size} labels", value)
    labels = tuple(_label(item) for item in value)
    for label in labels:
        if not isinstance(label, Hashable):
            raise invalid(name, "have labels such as numbers, names or tuples of them", label)
    if len(labels) != size:
        raise invalid(name, f"have {size} labels", f"{len(labels)}")
    if len(set(labels)) != size:
        twice = next(label for label in labels if labels.count(label) > 1)
        raise invalid(name, "be unique", f"{twice!r} more than once")
    return labels


def _literal(value: Any) -> str:
    """Show a value as it would be typed: a string in quotes, so that "5" is not taken for 5."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def _label(item: Any) -> Any:
    if isinstance(item, (list, tuple)):
        return tuple(_label(part) for part in item)
    return item.item() if isinstance(item, np.generic) else item


def _numeric_from_object(name: str, raw: NDArray[Any]) -> NDArray[Any]:
    """Accept object arrays of plain numbers (as pandas makes them), nothing else."""
    if raw.size and all(isinstance(item, (int, float, np.number)) and not isinstance(item, bool) for item in raw.flat):
        try:
            return raw.astype(np.float64)
        except OverflowError:
            raise invalid(name, "hold numbers of double precision", "an integer beyond 1.8e308") from None
    lengths = {np.shape(item) for item in raw.flat} if raw.ndim == 1 else set()
    if any(lengths) or len(lengths) > 1:
        raise ProblemError(f"`{name}` must be a rectangular array of numbers; got rows of differing lengths")
    kinds = sorted({type(item).__name__ for item in raw.flat})
    raise invalid(name, "hold real numbers", f"object array with {', '.join(kinds[:4])}")


def _ragged(value: Any) -> str:
    try:
        sizes = sorted({len(row) for row in value})
    except TypeError:
        return "a mixture of scalars and sequences"
    return f"rows of lengths {', '.join(str(s) for s in sizes[:6])}"
