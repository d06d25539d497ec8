"""Work over groups of students: one thread inside a group, groups side by side.

A group has a fixed size, so what is computed for a student depends neither on the number of threads
nor, as long as whole groups are trained, on the number of students.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from kdstats.networks.kernels import LANES

__all__ = ["for_groups"]

Result = TypeVar("Result")


def for_groups(
    work: Callable[[slice], Result], n_students: int, *, size: int = LANES, n_workers: int | None = None
) -> list[Result]:
    """Call ``work`` on slices of ``size`` students, the last one maybe shorter.

    Parameters
    ----------
    work : callable
        Of a slice of students; torch has one thread inside.
    n_students : int
    size : int, default LANES
        Students in a group.
    n_workers : int, optional
        Groups at work at the same time. Default: as many as torch would use threads.

    Returns
    -------
    list
        What ``work`` returned, in the order of the groups.
    """
    groups = [slice(first, min(first + size, n_students)) for first in range(0, n_students, size)]
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(n_workers or threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, groups))
    finally:
        torch.set_num_threads(threads)
