"""What a PyMC model of many students sees: one array per kind of data, students along its first dim."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.prediction.bayes.libraries import pm

__all__ = ["Draws", "Predictive", "Stack"]

FloatArray = NDArray[np.float64]
Draws = Mapping[str, FloatArray]


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictive:
    """Moments of an output given the parameters, per draw.

    Attributes
    ----------
    mean : (..., S, m) ndarray
    variance : (..., S, m) or (..., S, 1) ndarray
    """

    mean: FloatArray
    variance: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Stack:
    """A model of S students at once, which no number of students has to be compiled again for.

    Attributes
    ----------
    arrays : mapping
        Name to (S, ...) data of each student. A model made for them takes other students by ``pm.set_data``.
    dims : mapping
        Name to the names of the dims after ``student``.
    coords : mapping
        Labels of those dims.
    build : callable
        ``build(data)`` adds the variables, each with ``student`` as its first dim, to the model in context;
        ``data`` maps the names of ``arrays`` to shared data.
    predictive : callable
        ``predictive(draws)`` turns parameter draws (..., S, ...) into :class:`Predictive`.
    derived : callable
        ``derived(draws)`` returns further named quantities with their dims, for the user: coefficients, noise.
    averages : bool
        Whether the mean of the arrays over students is the data of a typical student (sufficient statistics), or
        not (labels, whose mean is less noisy than any student's).
    observed : mapping
        Array to the observed variable that it is the value of; empty for models that cannot be simulated.
    """

    arrays: Mapping[str, FloatArray]
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, Sequence[Any]]
    build: Callable[[Mapping[str, Any]], None]
    predictive: Callable[[Draws], Predictive]
    derived: Callable[[Draws], Mapping[str, tuple[tuple[str, ...], FloatArray]]] = lambda draws: {}
    averages: bool = False
    observed: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_students(self) -> int:
        """Number of students, S."""
        return int(next(iter(self.arrays.values())).shape[0])

    def take(self, students: Any) -> Stack:
        """Return the stack of some of the students (any index along the first dim, repeats included)."""
        return replace(self, arrays={name: array[students] for name, array in self.arrays.items()})

    def pilot(self) -> Stack:
        """Return the stack of one typical student: the average one, or the first."""
        if not self.averages:
            return self.take([0])
        return replace(self, arrays={name: array.mean(axis=0, keepdims=True) for name, array in self.arrays.items()})

    def model(self) -> pm.Model:
        """Return the PyMC model of these students."""
        coords = {"student": np.arange(self.n_students), **self.coords}
        with pm.Model(coords=coords) as model:
            data = {
                name: pm.Data(name, array, dims=("student", *self.dims[name])) for name, array in self.arrays.items()
            }
            self.build(data)
        return model
