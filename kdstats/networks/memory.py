"""What training one network takes in memory, and a refusal before anything is allocated."""

from __future__ import annotations

import os

from kdstats.errors import ObservationError
from kdstats.networks.architecture import Architecture
from kdstats.networks.stacks import PARAMETER_COPIES as TRAINED_COPIES, UNIT_COPIES

__all__ = ["machine_memory", "refuse_too_large"]

#: Copies of the parameters of one student: those of its training, its first ones and its final ones.
PARAMETER_COPIES = TRAINED_COPIES + 2


def machine_memory() -> float:
    """Return the bytes of memory of this machine; infinity where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def refuse_too_large(architecture: Architecture, *, n_rows: int) -> None:
    """Refuse a network of which not even one can be trained.

    Parameters
    ----------
    architecture : Architecture
    n_rows : int
        Rows of a step.

    Raises
    ------
    ObservationError
        Naming its parameters and what they take.
    """
    needed = 4.0 * (PARAMETER_COPIES * architecture.n_parameters + UNIT_COPIES * n_rows * sum(architecture.widths[1:]))
    if needed > machine_memory():
        raise ObservationError(
            f"`hidden` must make students that fit in memory; got {architecture.n_parameters} parameters and {n_rows} "
            f"rows a step, which take {needed / 2**30:.3g} GiB in training where this machine has "
            f"{machine_memory() / 2**30:.3g} GiB"
        )
