"""Log posterior densities of any student at any point, from one compiled function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import UnsupportedProblemError
from kdstats.prediction.bayes.libraries import pm
from kdstats.prediction.bayes.posteriors import quiet
from kdstats.prediction.bayes.stacks import Stack

__all__ = ["LogDensity", "StudentDensities"]

FloatArray = NDArray[np.float64]

#: Numbers of data held at once, and the largest number of points that one call takes.
BATCH, LARGEST = 4_000_000, 32_768
#: What a model of one's own computes from its parameters, as far as predictions need it.
COMPUTED = ("prediction", "prediction_variance")


class LogDensity:
    """Log posterior of each student of a stack on the unconstrained scale.

    Attributes
    ----------
    model : pymc.Model
        Its data can be set anew, for any number of students, without compiling again.
    names : list of str
        The value variables, in order.
    """

    def __init__(self, stack: Stack) -> None:
        self.model = stack.model()
        self.names = [variable.name for variable in self.model.value_vars]
        with quiet():
            terms = [term.reshape((term.shape[0], -1)).sum(axis=1) for term in self.model.logp(sum=False)]
            self.compiled = self.model.compile_fn(
                sum(terms[1:], terms[0]), inputs=self.model.value_vars, point_fn=False
            )

    def __call__(self, point: Mapping[str, FloatArray]) -> FloatArray:
        """Return the log densities (S,) of value variables (S, ...)."""
        return np.asarray(self.compiled(*(point[name] for name in self.names)))


class StudentDensities:
    """Log posterior of each student of a stack, up to its constant, on the unconstrained scale.

    Points are rows of unconstrained numbers: logarithms of positive parameters, all others as they are. The model
    that is compiled has one "student" per point, with the data of any student.

    Parameters
    ----------
    stack : Stack

    Raises
    ------
    UnsupportedProblemError
        If a parameter is neither unbounded nor positive.
    """

    def __init__(self, stack: Stack) -> None:
        width = sum(int(np.prod(array.shape[1:])) for array in stack.arrays.values())
        self._batch = min(max(BATCH // max(width, 1), 1), LARGEST)
        self._arrays, self._size = stack.arrays, 1
        density = LogDensity(stack.take([0]))
        self.model, self._names, self._density = density.model, density.names, density.compiled
        free = {self.model.rvs_to_values[variable].name: variable for variable in self.model.free_RVs}
        transforms = self.model.rvs_to_transforms
        self._kinds = [(free[name].name, transforms[free[name]] is not None) for name in self._names]
        log = pm.distributions.transforms.LogTransform
        for name in self._names:
            if not isinstance(transforms[free[name]], log | None):
                raise UnsupportedProblemError(
                    f"reweighting moves unbounded or positive parameters; got {free[name].name!r} with others "
                    "(use method='nuts')"
                )
        point = self.model.initial_point()
        self._shapes = [np.shape(point[name])[1:] for name in self._names]
        self._cuts = np.cumsum([int(np.prod(shape)) for shape in self._shapes])
        with quiet():
            self._outputs = [name for name in COMPUTED if name in self.model.named_vars]
            self._compute = None
            if self._outputs:
                outputs = self.model.replace_rvs_by_values([self.model[name] for name in self._outputs])
                self._compute = self.model.compile_fn(
                    outputs, inputs=self.model.value_vars, point_fn=False, on_unused_input="ignore"
                )

    @property
    def n_parameters(self) -> int:
        """Number of unconstrained numbers of one student."""
        return int(self._cuts[-1])

    def unconstrained(self, draws: Mapping[str, FloatArray]) -> FloatArray:
        """Return named draws (D, ...) of one student as rows."""
        columns = [np.log(draws[kind]) if positive else draws[kind] for kind, positive in self._kinds]
        return np.hstack([column.reshape(len(column), -1) for column in columns])

    def named(self, points: FloatArray, students: NDArray[np.int64]) -> dict[str, FloatArray]:
        """Return points (S, D, d) of some students as named draws (D, S, ...)."""
        found = {}
        parts = np.split(points.swapaxes(0, 1), self._cuts[:-1], axis=-1)
        for (kind, positive), part, shape in zip(self._kinds, parts, self._shapes, strict=True):
            array = part.reshape(*part.shape[:2], *shape)
            found[kind] = np.exp(array) if positive else array
        if self._compute is not None:
            size = points.shape[:2]
            whose, rows = np.repeat(students, size[1]), points.reshape(-1, points.shape[-1])
            pieces = self._called(self._compute, rows, whose)
            for number, name in enumerate(self._outputs):
                joined = np.concatenate([piece[number] for piece in pieces])
                found[name] = joined.reshape(*size, *joined.shape[1:]).swapaxes(0, 1)
        return found

    def __call__(self, points: FloatArray, students: NDArray[np.int64]) -> FloatArray:
        """Return the log densities (...) of points (..., d), each under its own student (broadcast to ...)."""
        shape = points.shape[:-1]
        rows, whose = points.reshape(-1, points.shape[-1]), np.broadcast_to(students, shape).ravel()
        return np.asarray(np.concatenate(self._called(self._density, rows, whose)).reshape(shape))

    def _called(self, function: Callable[..., Any], rows: FloatArray, whose: NDArray[np.int64]) -> list[Any]:
        """Evaluate a compiled function batch by batch."""
        found = []
        for first in range(0, len(rows), self._batch):
            part = slice(first, first + self._batch)
            size = len(rows[part])
            if size != self._size:
                self.model.set_dim("student", size, coord_values=range(size))
                self._size = size
            for name, array in self._arrays.items():
                self.model[name].set_value(array[whose[part]], borrow=True)
            parts = np.split(rows[part], self._cuts[:-1], axis=1)
            found.append(function(*(p.reshape(size, *shape) for p, shape in zip(parts, self._shapes, strict=True))))
        return found
