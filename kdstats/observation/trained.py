"""Trained students and their training sets: parts of a block, and the streams of students that cross draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kdstats.linear.smoother import Smoother
from kdstats.sampling import TrainingBlock

__all__ = ["Levels", "Trained", "Trainer", "joined", "select", "stream_numbers"]

FloatArray = NDArray[np.float64]
#: Source to the number of the stream that each student has of it.
Levels = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """Some trained students.

    Attributes
    ----------
    predictions : (B, m, q) ndarray
    variances : (B, q) or (B, m, q) ndarray
        Of their own outputs.
    outputs : (B, r, m, q) ndarray, optional
        Outputs drawn from each, where their variances are not known.
    """

    predictions: FloatArray
    variances: FloatArray
    outputs: FloatArray | None = None

    def first(self, n_students: int) -> Trained:
        """Return the first of the students."""
        return Trained(
            predictions=self.predictions[:n_students],
            variances=self.variances[:n_students],
            outputs=None if self.outputs is None else self.outputs[:n_students],
        )


class Trainer(Protocol):
    """Turns the training sets of some students, who number whole groups, into trained students."""

    fit: Smoother | None
    description: str

    def train(self, drawn: TrainingBlock, block: int, n_workers: int | None) -> Trained:
        """Train students on the training sets of one block, from its first student on."""
        ...


def joined(parts: list[Trained]) -> Trained:
    """Return the students of several parts, one after the other."""
    outputs = [part.outputs for part in parts if part.outputs is not None]
    return Trained(
        predictions=np.concatenate([part.predictions for part in parts]),
        variances=np.concatenate([part.variances for part in parts]),
        outputs=np.concatenate(outputs) if outputs else None,
    )


def select(drawn: TrainingBlock, students: slice) -> TrainingBlock:
    """Return the training sets of some students."""
    return TrainingBlock(
        labels=drawn.labels[students],
        within=drawn.within[students],
        counts=None if drawn.counts is None else drawn.counts[students],
    )


def stream_numbers(levels: Levels | None, source: str, first: int, n_students: int) -> NDArray[np.int64] | None:
    """Return the streams that some students have of a source, or None if each has its own."""
    return None if levels is None else levels[source][first : first + n_students]
