"""From trained students to variance components: outputs drawn, copies refused, provenance kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.estimation import estimate_components
from kdstats.components.result import VarianceComponents
from kdstats.errors import invalid
from kdstats.linear.smoother import Smoother
from kdstats.observation.duplicates import refuse_duplicates
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count
from kdstats.sampling import BLOCK, NoiseLaw
from kdstats.streams import Seeds

__all__ = ["as_replicates", "assemble_components", "draw_outputs"]

FloatArray = NDArray[np.float64]

DIMS = ("student", "replicate", "point", "output")


def as_replicates(problem: DistillationProblem, n_replicates: Any) -> int | None:
    """Return a valid number of outputs per student, or None for its known predictive variance.

    Raises
    ------
    ProblemError
        If it is less than 2, or given while the source ``student_output`` is off.
    """
    if n_replicates is None:
        return None
    if "student_output" not in problem.design.sources:
        raise invalid("n_replicates", "be left out when the source 'student_output' is off", n_replicates)
    return as_count("n_replicates", n_replicates, minimum=2, reason="to identify intra-student variance")


def assemble_components(
    predictions: NDArray[Any],
    problem: DistillationProblem,
    *,
    variances: FloatArray,
    seeds: Seeds,
    law: NoiseLaw,
    engine: str,
    started: float,
    n_replicates: int | None = None,
    outputs: FloatArray | None = None,
    smoother: Smoother | None = None,
    precision: float | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> VarianceComponents:
    """Estimate the components of students that were really trained.

    Parameters
    ----------
    predictions : (S, m, q) ndarray
        Mean prediction of each student at the query points.
    problem : DistillationProblem
        What they were trained on.
    variances : (S, q) or (S, m, q) ndarray
        Variance of each student's own outputs, the same at all points or by point; not used where
        ``student_output`` is off.
    seeds : Seeds
    law : NoiseLaw
        Law of the teacher's noise.
    engine : str
    started : float
        ``time.perf_counter()`` at the start of the run.
    n_replicates : int, optional
        Outputs to draw from each student, normal around its prediction. Default: none; its
        variance is known and enters as it is.
    outputs : (S, r, m, q) ndarray, optional
        Outputs that were drawn already.
    smoother, precision : optional
        As in :func:`~kdstats.observation.duplicates.refuse_duplicates`.
    attrs : mapping, optional
        More provenance; ``training`` says how students were fitted.

    Returns
    -------
    VarianceComponents
        ``student_predictions`` holds the mean predictions, not averages of drawn outputs.

    Raises
    ------
    DuplicateStudentsError
        If students that should be independent copy each other.
    """
    refuse_duplicates(predictions, problem, law=law, smoother=smoother, precision=precision)
    quiet = "student_output" not in problem.design.sources
    variances = variances[:, None, :] if variances.ndim == 2 else variances
    spread = np.zeros(predictions.shape) if quiet else np.broadcast_to(variances, predictions.shape)
    known = None
    if outputs is None and n_replicates is not None:
        outputs = draw_outputs(predictions, variances, seeds, n_replicates)
    elif outputs is None:
        outputs, known = predictions[:, None], spread
    components = estimate_components(
        xr.DataArray(outputs, dims=DIMS),
        variances=known,
        point_labels=problem.point_labels,
        engine=engine,
        attrs={
            "exactness": "observed",
            "seed": seeds.as_dict(),
            "noise_law": law.name,
            "problem": problem.fingerprint(),
            **(attrs or {}),
        },
    )
    kept = components.student_predictions
    if known is None and kept is not None:
        kept = kept.copy(data=predictions.astype(np.float64))
    return replace(
        components,
        student_predictions=kept,
        attrs={**components.attrs, "wall_time": time.perf_counter() - started},
    )


def draw_outputs(predictions: NDArray[Any], variances: FloatArray, seeds: Seeds, n_replicates: int) -> FloatArray:
    """Draw outputs of every student around its prediction, shape (S, r, m, q), from one stream per block."""
    n_students, *grid = predictions.shape
    outputs = np.empty((n_students, n_replicates, *grid))
    for block in range(-(-n_students // BLOCK)):
        part = slice(block * BLOCK, min((block + 1) * BLOCK, n_students))
        noise = seeds.generator("student_output", block).standard_normal((BLOCK, n_replicates, *grid))
        sd = np.sqrt(variances[part])[:, None]
        outputs[part] = predictions[part, None] + sd * noise[: part.stop - part.start]
    return outputs
