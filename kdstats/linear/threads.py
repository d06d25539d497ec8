"""BLAS threads: one where the work is small or runs in parallel anyway.

A threaded BLAS call on a busy machine waits for a core it did not need; for the small matrices of
most problems that costs a hundred times the arithmetic.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["SMALL", "one_blas_thread"]

#: Inputs up to which a problem is small.
SMALL = 1000


@contextmanager
def one_blas_thread(*, when: bool = True) -> Iterator[None]:
    """Keep BLAS to one thread inside the block, if ``when`` is True."""
    if not when:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _controller() -> Any:
    """Finding the loaded libraries takes milliseconds, so it is done once; numpy and scipy are loaded by then."""
    import scipy.linalg  # noqa: F401
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
