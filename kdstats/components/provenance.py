"""Where a number came from: versions and machine-independent run facts, for every result."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

__all__ = ["versions"]

_PACKAGES = ("kdstats", "numpy", "scipy", "numba", "xarray", "torch")


@functools.cache
def versions() -> MappingProxyType[str, str]:
    """Return the versions of Python and of the installed packages that compute, without importing them."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return MappingProxyType(found)
