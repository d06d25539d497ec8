"""How the three components grow with the teacher's noise."""

from __future__ import annotations

from matplotlib.figure import Figure

from kdstats.components.result import VarianceComponents
from kdstats.plots.panels import Panels, draw_panels
from kdstats.plots.series import Observed
from kdstats.plots.style import house_style, squared_unit
from kdstats.problem.validation import as_probability

__all__ = ["components_against_noise"]


@house_style()
def components_against_noise(
    predicted: VarianceComponents, observed: Observed | None = None, *, unit: str | None = None, prob: float = 0.95
) -> Figure:
    """Draw inter-student, intra-student and total variance against the teacher's noise variance.

    Parameters
    ----------
    predicted : VarianceComponents
        A grid with leading dim ``noise_variance`` (squared output units). One further leading dim of
        up to six labels gives one panel each.
    observed : VarianceComponents, mapping or sequence, optional
        Measured runs: a grid, a mapping from noise variance to run (any subset of levels, or levels in
        between), or one run for each predicted cell in its order.
    unit : str, optional
        Unit of the outputs, for the axis labels.
    prob : float, default 0.95
        Coverage of the intervals.

    Returns
    -------
    matplotlib.figure.Figure
        Axes are logarithmic where the values span a ratio above 20 and are positive. Components that
        are 0 throughout are left out. Markers of the three components are moved a few points sideways
        so that they do not hide each other; a measured estimate of 0 or less is a triangle at the foot
        of a log axis.

    Raises
    ------
    EstimationError
        If the grid lacks the dim, or runs do not match its cells.
    """
    what = Panels(
        dim="noise_variance",
        title="How much students vary, against the teacher's noise",
        x_label=f"Noise variance of one teacher response [{squared_unit(unit)}]",
        log=None,
    )
    return draw_panels(predicted, observed, what=what, unit=unit, prob=as_probability("prob", prob))
