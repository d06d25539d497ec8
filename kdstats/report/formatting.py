"""Numbers as people read them: four digits, a real minus sign, powers of ten instead of e-notation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["count", "entry", "interval", "number", "percent", "pvalue"]

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES_TEN = "\N{MULTIPLICATION SIGN}10"
DIGITS = 4
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: Below this a p-value is said to be below it.
SMALLEST_PVALUE = 1e-4


def number(value: Any) -> str:
    """Return a number with four significant digits.

    Examples
    --------
    >>> number(0.25), number(-1234567.0), number(3.2e-07), number(None)
    ('0.25', '−1.235×10⁶', '3.2×10⁻⁷', '–')
    """
    if value is None or not math.isfinite(float(value)):
        return MISSING
    mantissa, _, exponent = f"{float(value):.{DIGITS}g}".partition("e")
    power = f"{TIMES_TEN}{str(int(exponent)).translate(SUPERSCRIPTS)}" if exponent else ""
    return mantissa.replace("-", MINUS) + power


def interval(lower: Any, upper: Any) -> str:
    """Return an interval in words, which cannot be misread as a subtraction."""
    if lower is None or upper is None or not (math.isfinite(float(lower)) and math.isfinite(float(upper))):
        return MISSING
    return f"{number(lower)} to {number(upper)}"


def pvalue(value: Any) -> str:
    """Return a p-value."""
    if value is None or not math.isfinite(float(value)):
        return MISSING
    return "< 0.0001" if float(value) < SMALLEST_PVALUE else f"{float(value):.4f}"


def percent(prob: float) -> str:
    """Return a probability as a percentage."""
    return f"{100 * prob:.4g}%"


def count(value: int) -> str:
    """Return an integer with thin spaces between thousands."""
    return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def entry(value: Any) -> str:
    """Return whatever provenance holds as text; entries of a mapping that are all equal are told once."""
    if value is None:
        return MISSING
    if isinstance(value, np.ndarray):
        return interval(value.min(), value.max()) if value.size > 1 else number(value.item())
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return number(value)
    if isinstance(value, Mapping):
        parts = {str(name): entry(item) for name, item in value.items()}
        same = len(set(parts.values())) == 1 and len(parts) > 1
        return next(iter(parts.values())) if same else ", ".join(f"{name} {text}" for name, text in parts.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(entry(item) for item in value) or "none"
    return str(value)
