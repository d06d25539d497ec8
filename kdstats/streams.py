"""Named random streams.

A stream is addressed by a path of names and integers below one seed. The generator found at a
path depends on the seed and that path alone, so that adding a consumer, reordering work or
spreading it over workers changes no number anybody else draws. Generators are counter based
(Philox, Salmon et al. 2011).

The four sources of a distillation have a seed of their own each (:class:`Seeds`), so that one
can be held while another is redrawn.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields, replace

import numpy as np

from kdstats.errors import invalid

__all__ = ["Seeds", "as_seeds"]


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """One seed per source of randomness.

    Parameters
    ----------
    teacher_output : int
        Teacher responses (and the teacher's own fitting error).
    student_initialization : int
        Initial weights of gradient-trained students.
    data_order : int
        Order of the mini-batches, and masks of dropout in training.
    data_resampling : int
        Which rows each student sees.
    student_output : int
        Outputs drawn from a trained student.
    """

    teacher_output: int
    student_initialization: int
    data_order: int
    data_resampling: int
    student_output: int

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_seed(field.name, getattr(self, field.name))

    def generator(self, source: str, *path: str | int) -> np.random.Generator:
        """Return the generator of one source at one path.

        Parameters
        ----------
        source : str
            A field of this class.
        *path : str or int
            Names and non-negative integers that address the stream below the source.

        Returns
        -------
        numpy.random.Generator
            Philox generator that depends on the source's seed and the path alone.
        """
        return np.random.Generator(np.random.Philox(self.sequence(source, *path)))

    def sequence(self, source: str, *path: str | int) -> np.random.SeedSequence:
        """Return the seed sequence behind :meth:`generator`."""
        key = tuple(_address(part) for part in (source, *path))
        return np.random.SeedSequence(getattr(self, source), spawn_key=key)

    def torch_seed(self, source: str, *path: str | int) -> int:
        """Return a 63-bit seed for a ``torch.Generator`` of one source at one path."""
        return int(self.sequence(source, *path).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def branch(self, *path: str | int) -> Seeds:
        """Return seeds for another part of the work, unrelated to these, each source's from its own seed."""
        return Seeds(**{source: self.torch_seed(source, *path) for source in self.as_dict()})

    def with_seed(self, **seeds: int) -> Seeds:
        """Return a copy in which the named sources have other seeds."""
        return replace(self, **seeds)

    def as_dict(self) -> dict[str, int]:
        """Return the seeds by source, for provenance."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def as_seeds(rng: int | np.random.Generator | np.random.SeedSequence | Seeds | None) -> Seeds:
    """Turn what a user passes as ``rng`` into one seed per source.

    Parameters
    ----------
    rng : int, numpy Generator, SeedSequence, Seeds or None
        A non-negative integer gives every source that seed (streams differ by the name of the
        source, so they are independent all the same). A Generator is advanced by one draw.
        None takes fresh entropy from the operating system.

    Returns
    -------
    Seeds
        The seeds in canonical form; pass them on to repeat a run.

    Raises
    ------
    ProblemError
        If ``rng`` is a negative or non-integer number, or of another type.
    """
    if isinstance(rng, Seeds):
        return rng
    if rng is None:
        seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    elif isinstance(rng, np.random.Generator):
        seed = int(rng.integers(2**63))
    elif isinstance(rng, np.random.SeedSequence):
        seed = int(rng.generate_state(1, np.uint64)[0])
    else:
        seed = _check_seed("rng", rng)
    return Seeds(**{field.name: seed for field in fields(Seeds)})


def _check_seed(name: str, value: object) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise invalid(name, "be a non-negative integer seed, a numpy Generator, a SeedSequence, Seeds or None", value)
    if value < 0:
        raise invalid(name, "be a non-negative integer seed", int(value))
    return int(value)


def _address(part: str | int) -> int:
    return zlib.crc32(part.encode()) if isinstance(part, str) else int(part)
