"""Masks of dropout: which hidden units are dropped, for every row and student, from streams of their own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["Dropout"]


class Dropout:
    """Draws factors of hidden units, 0 with probability ``rate`` and 1/(1 - rate) else (inverted dropout).

    Parameters
    ----------
    rate : float
        At least 0 and less than 1.
    widths : sequence of int
        Units of each hidden layer.
    generators : sequence of Generator
        One for each student, or a single one for all of them; each draws a number for every row and unit.
    """

    def __init__(self, rate: float, widths: Sequence[int], generators: Sequence[np.random.Generator]) -> None:
        self.rate, self.widths, self.generators = rate, tuple(widths), generators

    def factors(self, n_rows: int) -> list[torch.Tensor]:
        """Return new factors of some rows by hidden layer, shapes (C or 1, n_rows, width)."""
        drawn = np.empty((len(self.generators), n_rows, sum(self.widths)), dtype=np.float32)
        for place, generator in zip(drawn, self.generators, strict=True):
            generator.random(dtype=np.float32, out=place)
        kept = torch.from_numpy(drawn >= np.float32(self.rate)).to(torch.float32)
        kept *= 1.0 / (1.0 - self.rate)
        return [kept[..., first:last] for first, last in itertools.pairwise((0, *itertools.accumulate(self.widths)))]
