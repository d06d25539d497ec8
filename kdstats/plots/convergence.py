"""Were there enough students? The measured variance as students come in, closing on the predicted line."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from kdstats.components.estimation import estimate_components
from kdstats.components.result import VarianceComponents
from kdstats.errors import EstimationError, invalid
from kdstats.plots.style import BLUE, INK, head, house_style, new_figure, scale_axis, settle, squared_unit
from kdstats.problem.validation import as_probability

__all__ = ["convergence"]

N_STEPS = 40
FIRST = 5
#: Relative rounding between two computations of one variance.
SAME = 1e-9


@house_style()
def convergence(
    observed: VarianceComponents,
    *,
    predicted: VarianceComponents | None = None,
    unit: str | None = None,
    prob: float = 0.95,
) -> Figure:
    """Draw the running estimate of the average inter-student variance against the number of students.

    Parameters
    ----------
    observed : VarianceComponents
        With ``student_predictions`` of at least six students, in the order they were trained.
    predicted : VarianceComponents, optional
        Adds the predicted line.
    unit : str, optional
        Unit of the outputs, for the axis labels.
    prob : float, default 0.95
        Coverage of the interval at each number of students (not over all of them at once).

    Returns
    -------
    matplotlib.figure.Figure
        Where ``student_predictions`` are means of r >= 2 sampled outputs (a table of outputs; not the
        engines, which know each student's mean), what is drawn is their variance, inter + intra/r,
        against the same sum of the prediction.

    Raises
    ------
    EstimationError
        If the observation keeps no student predictions, or too few.
    """
    prob = as_probability("prob", prob)
    predictions = observed.student_predictions
    if predictions is None:
        raise invalid("observed", "keep student_predictions", "an observation without them", EstimationError)
    n_students = predictions.sizes["student"]
    if n_students <= FIRST:
        raise invalid("observed", f"have more than {FIRST} students", n_students, EstimationError)
    counts = np.unique(np.geomspace(FIRST, n_students, N_STEPS).round().astype(int))
    running = [_running(predictions, int(count), prob) for count in counts]
    estimate, low, high = (np.array([step[key] for step in running]) for key in ("estimate", "lower", "upper"))
    share = _share_within(observed, predictions)
    target = None if predicted is None else _target(predicted, share)

    what = "variance of student means" if share else "inter-student variance"
    figure = new_figure()
    axes = figure.subplots()
    late = counts >= min(2 * FIRST, n_students)
    scale_axis(axes, "x", counts, log=True, margin=0.02)
    scale_axis(axes, "y", np.concatenate([low[late], high[late], [] if target is None else [target]]), log=False)
    axes.fill_between(counts, low, high, color=BLUE, alpha=0.2, lw=0, gid="interval")
    axes.plot(counts, estimate, color=BLUE, marker="o", ms=3.5, gid="running")
    handles: list[Any] = [
        Line2D([], [], color=BLUE, marker="o", ms=3.5, label="observed so far"),
        Patch(color=BLUE, alpha=0.2, lw=0, label=f"{prob:.0%} interval"),
    ]
    if target is not None and predicted is not None:
        axes.axhline(target, color=INK, ls="--", lw=1.5, gid="predicted")
        handles.append(
            Line2D([], [], color=INK, ls="--", lw=1.5, label=f"predicted ({predicted.exactness}): {target:.4g}")
        )
    head(figure, "Were there enough students?", handles)
    axes.set_xlabel("Number of students")
    axes.set_ylabel(f"{what.capitalize()}, mean over points\n[{squared_unit(unit)}]")
    against = "" if target is None else f" The prediction is {target:.4g}."
    figure.set_label(
        f"Running estimate of the {what}: after {n_students} students {estimate[-1]:.4g}, {prob:.0%} interval "
        f"{low[-1]:.4g} to {high[-1]:.4g}; after {counts[0]} students it was {estimate[0]:.4g}.{against}"
    )
    return settle(figure)


def _running(predictions: Any, count: int, prob: float) -> dict[str, float]:
    """Estimate and interval from the first ``count`` students, their predictions taken as they are."""
    average = estimate_components(predictions.isel(student=slice(0, count)), variances=0.0).average()
    bounds = average.interval(prob)["inter_student"]
    return {
        "estimate": float(average.inter_student.item()),
        "lower": float(bounds.sel(ci_bound="lower").item()),
        "upper": float(bounds.sel(ci_bound="upper").item()),
    }


def _share_within(observed: VarianceComponents, predictions: Any) -> float:
    """Return the part of intra in the variance of the kept predictions: 1/r if they are the means of r outputs."""
    squares = observed.mean_squares
    n_replicates = 0 if squares is None else int(squares.attrs["n_replicates"])
    if squares is None or n_replicates < 2:
        return 0.0
    between = squares["between"]
    are_means = np.allclose(predictions.var("student", ddof=1).transpose(*between.dims), between, rtol=SAME, atol=0.0)
    return 1.0 / n_replicates if are_means else 0.0


def _target(predicted: VarianceComponents, share: float) -> float:
    if len(predicted.total.dims) > 2:
        raise invalid("predicted", "have no leading dims", f"{predicted.total.dims[:-2]}", EstimationError)
    average = predicted.average()
    return float(average.inter_student.item() + share * average.intra_student.item())
