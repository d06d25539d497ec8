r"""Random-effects analysis of students that are combinations of levels of several sources.

One output of a student is :math:`y = \mu + \sum_T u_T + e`: T runs over the sources and their interactions, each a
partition of the students, every level an independent draw of variance :math:`\sigma_T^2`.

* Orthogonal designs (crossed, nested, mixtures; every combination there): a mean square for each term, from the
  averages of students, with expectation :math:`\sigma_e^2 + h\sum_{U\succeq T} m_U\sigma_U^2`: U runs over the
  terms finer than T and T itself, :math:`m_U` students share a level of U and h is the number of replicates [1]_.
  With unequal replicates h is their harmonic mean and the analysis is that of unweighted means, still unbiased [2]_.
* Others: by likelihood (:mod:`kdstats.components.likelihood`).

References
----------
.. [1] Searle, S. R., Casella, G. & McCulloch, C. E. (1992), *Variance Components*, ch. 4.
.. [2] Burdick, R. K. & Graybill, F. A. (1992), *Confidence Intervals on Variance Components*, ch. 6.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.effect_shape import not_gaussian_effects
from kdstats.components.kernels import cell_moments, frobenius_square
from kdstats.components.likelihood import fit_rows, fit_strata
from kdstats.components.provenance import versions
from kdstats.components.sources import DIMS, SourceComponents, combination_error, squares_dataset
from kdstats.components.uneven_effects import uneven_df
from kdstats.errors import EstimationError, NegativeComponentWarning

__all__ = ["METHODS", "RESERVED", "estimate_sources"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

METHODS = ("anova", "reml", "ml")
#: Names of components that no source may have.
RESERVED = ("residual", "inter_student", "intra_student", "total")
ESTIMATORS = {
    "anova": "mean squares and their expectations, unbiased",
    "reml": "restricted maximum likelihood, components of at least 0",
    "ml": "maximum likelihood, components of at least 0 (biased: one degree of freedom goes to the mean)",
}
#: Most levels of all terms together that the mixed-model equations of a design that is not orthogonal may have.
MAX_LEVELS = 6000
#: Rows of residuals from which their effective rank is estimated.
RANK_ROWS = 10_000
LISTED = 4
#: Relative to the largest number, what an effect may owe to the rounding of numbers and of sums of them.
ROUNDING = 16.0 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Term:
    """A source or interaction: the level of every student, from 0."""

    name: str
    levels: IntArray

    @property
    def n_levels(self) -> int:
        return int(self.levels.max()) + 1


@dataclass(frozen=True, eq=False, kw_only=True)
class _Cells:
    """Outputs of the students of one design at the points that have it: counts (S,), the rest (S, P)."""

    counts: FloatArray
    means: FloatArray
    squares: FloatArray


@dataclass(frozen=True, eq=False, kw_only=True)
class _Analysis:
    """Components (T+1, P), their covariance (P, T+1, T+1), and mean squares (J, P) with their coefficients."""

    components: FloatArray
    covariance: FloatArray | None
    mean_squares: FloatArray
    df: FloatArray
    coefficients: FloatArray
    average_df: FloatArray


def estimate_sources(
    values: FloatArray,
    *,
    student: IntArray,
    point: IntArray,
    levels: IntArray,
    sources: Sequence[str],
    level_labels: Sequence[Sequence[Any]],
    points: Sequence[Any],
    outputs: Sequence[Any],
    interactions: int | None = None,
    method: str = "anova",
    replicate: IntArray | None = None,
    engine: str = "table",
) -> SourceComponents:
    """Estimate the variance that every source adds, point by point.

    Parameters
    ----------
    values : (N, q) ndarray
        One row for each output of a student at a point.
    student, point : (N,) ndarrays of int
        Positions of the student and the point of each row.
    levels : (S, k) ndarray of int
        Level of each student under each source, from 0. Students are the distinct combinations.
    sources : sequence of str
        k names, none of them in ``RESERVED``.
    level_labels : sequence of sequences
        Labels of the levels of each source, for messages.
    points, outputs : sequence
        Labels.
    interactions : int, optional
        Highest number of sources in an interaction; 1 is none. Default: all that the table identifies.
    method : {"anova", "reml", "ml"}, default "anova"
    replicate : (N,) ndarray of int, optional
        Number of each row within its student; the same number at two points is one draw. Only for the degrees of
        freedom of averages over points.
    engine : str, default "table"

    Returns
    -------
    SourceComponents

    Raises
    ------
    EstimationError
        If a source has one level, two sources change together, a source is not told from the residual, the design has
        missing combinations and ``method`` is "anova", or a likelihood has no maximum.

    Warns
    -----
    NegativeComponentWarning
        If a component is negative somewhere.
    """
    shape = (len(levels), len(points), len(outputs))
    _, first = np.unique(point, return_index=True)
    rounding = np.zeros(shape[1:])
    np.maximum.at(rounding, point, ROUNDING * np.abs(values))
    values = np.ascontiguousarray(values - values[first][point])  # differences lose no digits beside an offset
    counts, means, squares = cell_moments(student * shape[1] + point, values, shape[0] * shape[1])
    counts = counts.reshape(shape[:2])
    means, squares = means.reshape(shape), squares.reshape(shape)
    order = len(sources) if interactions is None else interactions
    terms, notes = _terms(levels, sources, order=order, replicated=bool((counts > 1).any()))
    names = tuple(term.name for term in terms)
    n = len(terms) + 1
    full = any(term.n_levels == shape[0] for term in terms)
    mixing, components = _mixing(names, identified=full)
    grid = shape[1:]
    found = np.empty((n, *grid))
    errors = np.empty((len(components), *grid))
    parts = np.empty((n, *grid)), np.empty((n, *grid)), np.empty((n, n, *grid))
    average_df: list[FloatArray] = []
    crossed, shape_notes = True, dict[str, None]()
    for chosen in _designs(counts):
        present = counts[:, chosen[0]] > 0
        cells = _Cells(
            counts=counts[present, chosen[0]].astype(np.float64),
            means=means[present][:, chosen].reshape(int(present.sum()), -1),
            squares=squares[present][:, chosen].reshape(int(present.sum()), -1),
        )
        own = [_Term(name=term.name, levels=_renumbered(term.levels[present])) for term in terms]
        where = f" at point {points[chosen[0]]!r}" if len(chosen) < shape[1] else ""
        _refuse_unidentified(own, cells, where)
        residuals = _residuals(values, student, point, replicate, cells, means, chosen) if full else None
        place = partial(_place, levels[present], sources, level_labels)
        analysis = _analyse(own, cells, method=method, where=where, missing=place, residuals=residuals)
        if _is_crossed(levels[present]):
            table, axes = _crossed_table(own, cells, levels[present], sources)
            least = rounding[chosen].ravel()
            analysis = _with_uneven_effects(analysis, table, axes, rounding=least)
            found_shapes = not_gaussian_effects(table, axes, cells.squares, cells.counts, rounding=least)
            shape_notes.update(dict.fromkeys(found_shapes))
        else:
            crossed = False
        at = (len(chosen), grid[1])
        found[:, chosen] = analysis.components.reshape(n, *at)
        errors[:, chosen] = _errors(mixing, analysis).reshape(-1, *at)
        for part, value in zip(parts, (analysis.mean_squares, analysis.df, analysis.coefficients), strict=True):
            value = np.broadcast_to(value, (*value.shape[:-1], at[0] * at[1]))
            part[..., chosen, :] = value.reshape(*value.shape[:-1], *at)
        average_df.append(analysis.average_df if len(chosen) == shape[1] else analysis.df.min(axis=-1))
    if method == "anova":
        _warn_if_negative(found, names)
    coords = {"component": list(components), "point": _labels(points), "output": _labels(outputs)}
    estimate = xr.DataArray(np.einsum("ct,tpq->cpq", mixing, found), coords, DIMS, name="variance")
    mean_squares, df, coefficients = parts
    return SourceComponents(
        estimate=estimate,
        standard_error=estimate.copy(data=errors).rename("standard_error"),
        mean_squares=squares_dataset(
            mean_squares,
            df=df,
            coefficients=np.einsum("ct,tjpq->cjpq", mixing, coefficients),
            average_df=np.min(average_df, axis=0),
            like=estimate,
            terms=(*names, "residual"),
        ),
        attrs={
            **_facts(levels, sources, engine=engine, method=method),
            "interactions": order,
            "effect_df": "effects" if crossed else "gaussian",
            "n_outputs": int(counts[:, 0].sum()),
            "boundary": tuple(name for name, row in zip((*names, "residual"), found, strict=True) if (row <= 0).any()),
            "notes": tuple(notes),
            "not_gaussian": tuple(shape_notes)[:LISTED],
        },
    )


def _facts(levels: IntArray, sources: Sequence[str], *, engine: str, method: str) -> dict[str, Any]:
    return {
        "engine": engine,
        "exactness": "observed",
        "method": method,
        "estimator": ESTIMATORS[method],
        "sources": tuple(sources),
        "n_students": len(levels),
        "n_levels": {name: len(set(column.tolist())) for name, column in zip(sources, levels.T, strict=True)},
        "versions": versions(),
    }


def _terms(levels: IntArray, sources: Sequence[str], *, order: int, replicated: bool) -> tuple[list[_Term], list[str]]:
    """Return the partitions of the students that differ from one another and from the rows, and what was left out."""
    notes: list[str] = []
    kept: dict[bytes, _Term] = {}
    members: dict[str, tuple[int, ...]] = {}
    for size in range(1, order + 1):
        for chosen in itertools.combinations(range(len(sources)), size):
            name = ":".join(sources[i] for i in chosen)
            partition = _renumbered(np.unique(levels[:, chosen], axis=0, return_inverse=True)[1].ravel())
            n_levels = int(partition.max()) + 1
            if size == 1 and n_levels < 2:
                raise EstimationError(f"`{name}` must have at least 2 levels to estimate its variance; got 1")
            same = kept.get(partition.tobytes())
            if same is not None and size == 1:
                raise EstimationError(
                    f"`sources` must vary independently; got {same.name!r} and {name!r}, whose levels "
                    "change together (one seed may drive both): nothing in the table tells them apart; name one of them"
                )
            if same is not None:
                notes.extend(_alias_note(same, name, members, sources))
                continue
            if n_levels == len(levels) and not replicated:
                if size == 1:
                    raise EstimationError(
                        f"`{name}` must have a level with 2 outputs to tell its variance from the residual; got one "
                        "output at each level: leave it out (the residual then holds it) or give replicates"
                    )
                notes.append(
                    f"Without replicates {name} is part of the residual, which holds it and the noise of an output."
                )
                continue
            kept[partition.tobytes()] = _Term(name=name, levels=partition)
            members[name] = tuple(chosen)
    terms = list(kept.values())
    if not replicated and not notes:
        notes.append(
            "Without replicates the residual holds interactions that are not in the model and the noise of an output."
        )
    elif replicated and not any(term.n_levels == len(levels) for term in terms):
        notes.append("Interactions above the order asked for are taken to be 0: what they add is in the residual.")
    return terms, notes


def _alias_note(same: _Term, name: str, members: dict[str, tuple[int, ...]], sources: Sequence[str]) -> list[str]:
    if len(members[same.name]) > 1:
        return [f"{name} has the levels of {same.name}: one component stands for both."]
    outer = ", ".join(part for part in name.split(":") if part != same.name)
    return [
        f"{same.name} is nested in {outer}: each of its levels has one level of {outer}, and its component is the "
        f"variance within {outer}."
    ]


def _renumbered(levels: IntArray) -> IntArray:
    """Number levels in order of appearance, so that equal partitions are equal arrays."""
    _, first, inverse = np.unique(levels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse.ravel()].astype(np.int64)


def _mixing(names: tuple[str, ...], *, identified: bool) -> tuple[FloatArray, tuple[str, ...]]:
    """Return the (K, T+1) matrix that makes the reported components of the model's, and their names."""
    n = len(names) + 1
    rows = [*np.eye(n)]
    if identified:
        rows += [np.append(np.ones(n - 1), 0.0), np.eye(n)[-1]]
    sums = ("inter_student", "intra_student", "total") if identified else ("total",)
    return np.array([*rows, np.ones(n)]), (*names, "residual", *sums)


def _designs(counts: IntArray) -> Iterator[IntArray]:
    """Yield the points that have the same students with the same numbers of outputs."""
    _, group = np.unique(counts, axis=1, return_inverse=True)
    group = group.ravel()
    for first in dict.fromkeys(group.tolist()):
        yield np.flatnonzero(group == first)


def _labels(labels: Sequence[Any]) -> Any:
    array = np.empty(len(labels), dtype=object)
    array[:] = list(labels)
    plain = np.array(list(labels)) if not any(isinstance(label, tuple) for label in labels) else array
    return plain if plain.ndim == 1 and plain.size == len(labels) else array


def _refuse_unidentified(terms: list[_Term], cells: _Cells, where: str) -> None:
    n_rows = int(cells.counts.sum())
    seen: dict[bytes, str] = {}
    for term in terms:
        if term.n_levels < 2:
            raise EstimationError(f"`{term.name}` must have at least 2 levels{where}; got {term.n_levels}")
        if term.n_levels == n_rows:
            raise EstimationError(
                f"`{term.name}` must have a level with 2 outputs{where} to tell it from the residual; got none"
            )
        twin = seen.setdefault(term.levels.tobytes(), term.name)
        if twin != term.name:
            raise EstimationError(
                f"`sources` must vary independently{where}; got {twin!r} and {term.name!r} that change together"
            )


def _place(levels: IntArray, sources: Sequence[str], labels: Sequence[Sequence[Any]]) -> str:
    """Say which combinations of levels are missing, or which level has an unequal number of others below it."""
    sizes = [len(set(column.tolist())) for column in levels.T]
    for one, other in itertools.permutations(range(len(sources)), 2):
        if len(np.unique(levels[:, (one, other)], axis=0)) == sizes[one]:
            below = np.bincount(np.unique(levels[:, (other, one)], axis=0)[:, 0], minlength=1)
            few, many = below[below > 0].min(), below.max()
            if few < many:
                return f"{few} to {many} levels of {sources[one]} within one of {sources[other]}"
    total = int(np.prod(np.array(sizes, dtype=object)))
    crossed = f"{total - len(levels)} of {total} combinations of levels missing"
    there = {tuple(row) for row in levels.tolist()}
    used = [sorted(set(column.tolist())) for column in levels.T]
    absent = (combination for combination in itertools.product(*used) if combination not in there)
    first = itertools.islice(absent, LISTED)
    shown = "; ".join(
        ", ".join(f"{name} {_plain(label[i])!r}" for name, label, i in zip(sources, labels, row, strict=True))
        for row in first
    )
    more = " ..." if total - len(levels) > LISTED else ""
    return f"{crossed}: {shown}{more}" if shown else "levels that are not crossed or nested evenly"


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label


def _analyse(
    terms: list[_Term],
    cells: _Cells,
    *,
    method: str,
    where: str,
    missing: Callable[[], str],
    residuals: FloatArray | None,
) -> _Analysis:
    orthogonal = _is_orthogonal(terms)
    equal = bool((cells.counts == cells.counts[0]).all())
    if method == "anova" and not orthogonal:
        raise EstimationError(
            f"`method` must be 'reml' or 'ml' for a design that is not balanced{where}; got 'anova' with {missing()}"
        )
    if orthogonal:
        strata = _strata(terms, cells, residuals)
        if method == "anova":
            return strata
        if equal:
            return _by_strata(strata, terms, cells, restricted=method == "reml", where=where)
    return _by_rows(terms, cells, restricted=method == "reml", where=where)


def _is_orthogonal(terms: list[_Term]) -> bool:
    """Whether averaging over two terms in turn is averaging over a third, or over all students."""
    partitions = {term.levels.tobytes() for term in terms} | {np.zeros_like(terms[0].levels).tobytes()}
    for term in terms:
        sizes = np.bincount(term.levels)
        if (sizes != sizes[0]).any():
            return False
    for one, other in itertools.combinations(terms, 2):
        joint = _join(one.levels, other.levels)
        if joint.tobytes() not in partitions:
            return False
        _, first, together = np.unique(
            one.levels * other.n_levels + other.levels, return_index=True, return_counts=True
        )
        block, size = joint[first], np.bincount(joint)
        if (together * size[block] != (len(joint) // one.n_levels) * (len(joint) // other.n_levels)).any():
            return False
        within = np.bincount(block, minlength=size.size)
        if (within != _distinct(one.levels, joint) * _distinct(other.levels, joint)).any():
            return False
    return True


def _join(one: IntArray, other: IntArray) -> IntArray:
    """Return the finest partition coarser than both: components of the graph of their levels."""
    joint = one.copy()
    while True:
        lowest = np.full(int(other.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(lowest, other, joint)
        moved = lowest[other]
        lowest = np.full(int(one.max()) + 1, np.iinfo(np.int64).max)
        np.minimum.at(lowest, one, moved)
        moved = lowest[one]
        if (moved == joint).all():
            return _renumbered(joint)
        joint = moved


def _distinct(levels: IntArray, blocks: IntArray) -> IntArray:
    """Return the number of levels in each block, of a partition finer than the blocks."""
    pairs = np.unique(np.stack([levels, blocks]), axis=1)
    return np.bincount(pairs[1], minlength=int(blocks.max()) + 1)


def _strata(terms: list[_Term], cells: _Cells, residuals: FloatArray | None) -> _Analysis:
    """Split the averages of students into one part for each term, coarse before fine."""
    n_students = cells.counts.size
    harmonic = n_students / float((1 / cells.counts).sum())
    y = cells.means - cells.means.mean(axis=0)
    order = sorted(range(len(terms)), key=lambda i: terms[i].n_levels)
    rest = y
    parts: dict[int, FloatArray] = {}
    df: dict[int, int] = {}
    for i in order:
        below = [j for j in parts if _is_coarser(terms[j], terms[i])]
        averages = _averages(rest, terms[i])
        parts[i] = averages
        rest = rest - averages
        df[i] = terms[i].n_levels - 1 - sum(df[j] for j in below)
    left = n_students - 1 - sum(df.values())
    within = float(cells.counts.sum()) - n_students
    _refuse_saturated(terms, [df[i] for i in range(len(terms))], left + within)
    squares = [harmonic * (parts[i] ** 2).sum(axis=0) / df[i] for i in range(len(terms))]
    pooled = ((harmonic * (rest**2).sum(axis=0) if left else 0.0) + cells.squares.sum(axis=0)) / (left + within)
    ranks = [_rank(parts[i]) for i in range(len(terms))]
    ranks.append(_rank(rest) if within == 0 else 1.0 if residuals is None else _rank(residuals))
    freedom = np.array([*(df[i] for i in range(len(terms))), left + within], dtype=float)
    expectations = _expectations(terms, harmonic)
    inverse = np.asarray(np.linalg.inv(expectations), dtype=np.float64)
    mean_squares = np.array([*squares, pooled])
    return _Analysis(
        components=inverse @ mean_squares,
        covariance=None,
        mean_squares=mean_squares,
        df=freedom[:, None],
        coefficients=inverse[:, :, None],
        average_df=freedom * ranks,
    )


def _is_crossed(levels: IntArray) -> bool:
    return len(levels) == np.prod([len(np.unique(column)) for column in levels.T])


def _crossed_table(
    terms: list[_Term], cells: _Cells, levels: IntArray, sources: Sequence[str]
) -> tuple[FloatArray, dict[str, tuple[int, ...]]]:
    """Return the means of students that cross all levels, (L_1, ..., L_k, P), and the sources of each term."""
    order = np.lexsort(levels.T[::-1])
    table = cells.means[order].reshape(*(len(np.unique(column)) for column in levels.T), -1)
    members = (term.name.split(":") for term in terms)
    axes = [tuple(i for i, source in enumerate(sources) if source in names) for names in members]
    return table, dict(zip((term.name for term in terms), axes, strict=True))


def _with_uneven_effects(
    analysis: _Analysis, table: FloatArray, terms: dict[str, tuple[int, ...]], *, rounding: FloatArray
) -> _Analysis:
    """Give mean squares of students that cross all levels the degrees of freedom that their effects show."""
    df = np.array(np.broadcast_to(analysis.df, analysis.mean_squares.shape))
    average_df = analysis.average_df.copy()
    for i, axes in enumerate(terms.values()):
        df[i], average_df[i] = uneven_df(table, axes, df=analysis.df[i, 0], average_df=average_df[i], rounding=rounding)
    return replace(analysis, df=df, average_df=average_df)


def _refuse_saturated(terms: list[_Term], df: list[int], residual: float) -> None:
    empty = [term.name for term, count in zip(terms, df, strict=True) if count < 1]
    if empty or residual < 1:
        name = empty[0] if empty else "the residual"
        others = ", ".join(term.name for term in terms if term.name != name)
        raise EstimationError(
            f"`sources` must leave degrees of freedom to each component; got none for {name} beside {others}: give "
            "replicates, or ask for fewer interactions"
        )


def _is_coarser(one: _Term, other: _Term) -> bool:
    return one.n_levels < other.n_levels and int(_distinct(one.levels, other.levels).max()) == 1


def _averages(values: FloatArray, term: _Term) -> FloatArray:
    sums = np.zeros((term.n_levels, values.shape[1]))
    np.add.at(sums, term.levels, values)
    averages: FloatArray = (sums / np.bincount(term.levels)[:, None])[term.levels]
    return averages


def _expectations(terms: list[_Term], replicates: float) -> FloatArray:
    """Return the matrix of expected mean squares: rows of strata, columns of components."""
    n_students = terms[0].levels.size
    matrix = np.zeros((len(terms) + 1, len(terms) + 1))
    matrix[:, -1] = 1.0
    for i, term in enumerate(terms):
        for j, finer in enumerate(terms):
            if i == j or _is_coarser(term, finer):
                matrix[i, j] = replicates * n_students / finer.n_levels
    return matrix


def _rank(rows: FloatArray) -> float:
    """Return (tr C)^2 / tr C^2 of the sample covariance of rows as it stands."""
    scale = float(np.abs(rows).max(initial=0.0))
    if scale == 0 or rows.shape[1] == 1:
        return 1.0
    scaled = rows / scale
    return float(np.einsum("ij,ij->", scaled, scaled)) ** 2 / frobenius_square(scaled)


def _residuals(
    values: FloatArray,
    student: IntArray,
    point: IntArray,
    replicate: IntArray | None,
    cells: _Cells,
    means: FloatArray,
    chosen: IntArray,
) -> FloatArray | None:
    """Return what replicates add to their students, (rows, points x outputs), or None if they do not line up."""
    count = int(cells.counts[0])
    if replicate is None or len(chosen) < means.shape[1] or (cells.counts != count).any() or count < 2:
        return None
    order = np.lexsort((replicate, point, student))
    n_students = min(cells.counts.size, max(RANK_ROWS // count, 1))
    used = order[: n_students * len(chosen) * count]
    cube = values[used].reshape(n_students, len(chosen), count, -1) - means[:n_students, :, None, :]
    return np.ascontiguousarray(cube.transpose(0, 2, 1, 3)).reshape(n_students * count, -1)


def _by_strata(strata: _Analysis, terms: list[_Term], cells: _Cells, *, restricted: bool, where: str) -> _Analysis:
    expectations = _expectations(terms, float(cells.counts[0]))
    sizes = [cells.counts[0] * cells.counts.size / term.n_levels for term in terms]
    _refuse_degenerate(strata.mean_squares[-1], where)
    fits = [
        fit_strata(
            column, df=strata.df[:, 0], expectations=expectations, mean=np.append(sizes, 1.0), restricted=restricted
        )
        for column in strata.mean_squares.T
    ]
    return _Analysis(
        components=np.array([fit.components for fit in fits]).T,
        covariance=np.array([np.linalg.inv(fit.information) for fit in fits]),
        mean_squares=strata.mean_squares,
        df=strata.df,
        coefficients=strata.coefficients,
        average_df=strata.average_df,
    )


def _by_rows(terms: list[_Term], cells: _Cells, *, restricted: bool, where: str) -> _Analysis:
    order = sorted(range(len(terms)), key=lambda i: terms[i].n_levels)
    n_levels = sum(term.n_levels for term in terms)
    if n_levels > MAX_LEVELS:
        raise EstimationError(
            f"`method` 'reml' and 'ml' must have at most {MAX_LEVELS} levels of all sources and interactions together "
            f"where the design is not balanced; got {n_levels}"
        )
    if cells.counts.sum() == cells.counts.size and max(term.n_levels for term in terms) == cells.counts.size:
        raise EstimationError(
            f"replicates must tell the finest term from the residual{where}; got one output everywhere"
        )
    levels = [terms[i].levels for i in order]
    names = [terms[i].name for i in order]
    fits = fit_rows(
        levels, names=names, counts=cells.counts, means=cells.means, squares=cells.squares, restricted=restricted
    )
    back = np.append(np.argsort(order), len(terms))
    df = np.array([fit.df for fit in fits]).T[back]
    return _Analysis(
        components=np.array([fit.components for fit in fits]).T[back],
        covariance=np.array([np.linalg.inv(fit.information)[np.ix_(back, back)] for fit in fits]),
        mean_squares=np.array([fit.mean_squares for fit in fits]).T[back],
        df=df,
        coefficients=np.stack([fit.coefficients[np.ix_(back, back)] for fit in fits], axis=-1),
        average_df=df.min(axis=1),
    )


def _refuse_degenerate(residual: FloatArray, where: str) -> None:
    if (residual <= 0).any():
        raise EstimationError(
            f"outputs must vary beyond their sources{where} for a likelihood to have a maximum; got a residual "
            "variance of 0 (method='anova' needs none)"
        )


def _errors(mixing: FloatArray, analysis: _Analysis) -> FloatArray:
    if analysis.covariance is not None:
        errors: FloatArray = np.sqrt(np.einsum("ct,ptu,cu->cp", mixing, analysis.covariance, mixing))
        return errors
    coefficients = np.einsum("ct,tjp->cjp", mixing, analysis.coefficients)
    return combination_error(coefficients, analysis.mean_squares, analysis.df)


def _warn_if_negative(found: FloatArray, names: tuple[str, ...]) -> None:
    below = (found[:-1] < 0).reshape(len(names), -1).sum(axis=1)
    if below.any():
        parts = ", ".join(
            f"{name} at {count} of {found[0].size} points" for name, count in zip(names, below, strict=True) if count
        )
        warnings.warn(
            f"negative components: {parts} (smallest {found[:-1].min():.4g}): the unbiased estimate keeps its "
            "sign; more levels of the source would settle it",
            NegativeComponentWarning,
            stacklevel=4,
        )
