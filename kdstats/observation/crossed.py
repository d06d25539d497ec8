"""Which source makes students differ: a table of students that cross several draws, in; variance by source, out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.crossed import METHODS, RESERVED, estimate_sources
from kdstats.components.sources import SourceComponents
from kdstats.errors import DataError, invalid
from kdstats.observation.columns import key_codes, output_values
from kdstats.observation.long_table import combined, long_frame, refuse_repeated
from kdstats.problem.validation import as_choice, as_count

__all__ = ["decompose_sources"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def decompose_sources(
    table: Any,
    sources: Sequence[str],
    *,
    value: str | Sequence[str] | None = None,
    replicate: str | None = "replicate",
    point: str | None = "point",
    interactions: int | None = None,
    method: str = "anova",
    nan_policy: str = "raise",
) -> SourceComponents:
    r"""Estimate how much of the variance between students each source of randomness adds.

    A student is one combination of levels of the sources: one teacher draw, one initialization, one resampled data
    set. Equal labels are one draw: students that share a level of a source share what it adds.

    Parameters
    ----------
    table : pandas.DataFrame or xarray.DataArray
        Long form: one row per combination, replicate and point, one numeric column per output. Or an array
        with the keys (and ``output``) as dims.
    sources : sequence of str
        Columns, at least one; one source alone is the one-way analysis. A source whose every level occurs with one
        level of another is nested in it.
    value : str or sequence of str, optional
        The columns of outputs, as for :func:`kdstats.decompose`.
    replicate : str or None, default "replicate"
        Column that numbers the outputs of one student at one point. None: one output each.
    point : str or None, default "point"
        None: there is one point.
    interactions : int, optional
        Highest number of sources in an interaction, 1 for none. Default: every interaction that the table identifies;
        without replicates that is all but the highest, which the residual holds.
    method : {"anova", "reml", "ml"}, default "anova"
        Mean squares (unbiased, perhaps negative; for tables in which every combination is there, with any numbers
        of replicates), or a likelihood (components of at least 0, any design).
    nan_policy : {"raise", "omit"}, default "raise"
        ``"omit"`` leaves out rows with a NaN in any output. Infinite values are refused.

    Returns
    -------
    SourceComponents
        Components, their shares of the total and intervals of both, at each point and averaged over points.

    Raises
    ------
    DataError
        Columns missing, a key missing, text mixed with numbers in a key, values that are not finite numbers, a
        combination that occurs twice.
    EstimationError
        A source with one level; two sources that change together; a source not told from the residual; combinations
        missing (named) with ``method="anova"``; sources that the table determines only in combination.

    Warns
    -----
    NegativeComponentWarning
        With ``method="anova"``, if a component is negative somewhere. Its sign is kept.

    Notes
    -----
    The expected mean squares, the intervals and their measured coverage are on the theory page "Variance by source".
    For independent students, inter-student variance is the sum of all components but the residual; intra-student
    variance is the residual where there are replicates and no interaction is left out.

    Examples
    --------
    >>> import pandas as pd
    >>> import kdstats as kd
    >>> table = pd.DataFrame({"teacher": [1, 1, 1, 2, 2, 2], "init": [1, 2, 3] * 2, "value": [1.0, 3, 5, 6, 9, 9]})
    >>> answer = kd.decompose_sources(table, ["teacher", "init"], replicate=None, point=None)
    >>> [(name, round(float(share), 3)) for name, share in zip(answer.components, answer.shares.values.ravel())]
    [('teacher', 0.779), ('init', 0.189), ('residual', 0.032), ('total', 1.0)]
    """
    names = _source_names(sources)
    as_choice("method", method, METHODS)
    omit = as_choice("nan_policy", nan_policy, ("raise", "omit")) == "omit"
    if interactions is not None:
        as_count("interactions", interactions)
        if interactions > len(names):
            raise invalid("interactions", f"be at most the number of sources, {len(names)}", interactions, DataError)
    keys = [*names, *(key for key in (replicate, point) if key is not None)]
    for key in keys:
        if not isinstance(key, str):
            raise invalid("replicate and point", "be names of columns, or None", key, DataError)
    if len(set(keys)) < len(keys):
        raise invalid("sources, replicate and point", "be different columns", ", ".join(keys), DataError)
    frame = long_frame(table, keys, optional={"replicate": replicate, "point": point})
    named = [column for column in frame.columns if column not in keys] if isinstance(table, xr.DataArray) else value
    values, outputs = output_values(frame, keys, named, omit=omit)
    kept = ~np.isnan(values).any(axis=1)
    if not kept.any():
        raise invalid("table", "hold a number in some row", "NaN in all rows", DataError)
    frame, values = frame.take(np.flatnonzero(kept)), values[kept]
    codes, labels = zip(*(key_codes(frame, key) for key in keys), strict=True)
    refuse_repeated(codes, labels, keys, replicated=replicate is not None)
    _, first, student = np.unique(combined(codes[: len(names)]), return_index=True, return_inverse=True)
    levels = np.column_stack([code[first] for code in codes[: len(names)]])
    one = np.zeros(len(frame), dtype=np.int64)
    return estimate_sources(
        values,
        student=student.ravel().astype(np.int64),
        point=one if point is None else codes[-1],
        levels=levels,
        sources=names,
        level_labels=labels[: len(names)],
        points=[0] if point is None else labels[-1],
        outputs=outputs,
        interactions=interactions,
        method=method,
        replicate=None if replicate is None else codes[len(names)],
    )


def _source_names(sources: Any) -> list[str]:
    if isinstance(sources, str) or not isinstance(sources, Sequence) or not sources:
        raise invalid("sources", "be a sequence of one or more names of columns", sources, DataError)
    for name in sources:
        if not isinstance(name, str):
            raise invalid("sources", "be names of columns", name, DataError)
        if name in RESERVED or ":" in name:
            rule = f"not be called {', '.join(RESERVED)} or hold a colon, which names interactions"
            raise invalid("sources", rule, name, DataError)
    if len(set(sources)) < len(sources):
        raise invalid("sources", "name each column once", ", ".join(sources), DataError)
    return list(sources)
