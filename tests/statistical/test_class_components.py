"""Class components against theory, and the coverage of their intervals over 2,000 data sets of Dirichlet students.

Coverage is judged by binomtest at 1%, against 95% where the theory page says that it holds and against what the page
states where it does not.
"""

from math import comb, log

import numpy as np
import pytest
import xarray as xr
from scipy.special import psi
from scipy.stats import binomtest

from kdstats.components.class_moments import cells_of_labels, cells_of_probabilities, estimate_points
from kdstats.components.classes import COMPONENTS, ClassComponents, estimate_classes

pytestmark = [
    pytest.mark.filterwarnings("ignore::kdstats.errors.NegativeComponentWarning"),
    pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning"),
]

N_SETS = 2000
EVEN, SHARP = (1.0, 1.0, 1.0), (0.3, 0.2, 0.1)
TEN = (4.0, 2.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.2, 0.2, 0.1)
GINI = COMPONENTS[:3]


def truths(concentration):
    """Components of students whose probabilities are Dirichlet."""
    a = np.array(concentration)
    whole, p = a.sum(), a / a.sum()
    gini, entropy = 1 - (p**2).sum(), -(p * np.log(p)).sum()
    own = psi(whole + 1) - (p * psi(a + 1)).sum()
    inter = gini / (whole + 1)
    return dict(zip(COMPONENTS, (inter, gini - inter, gini, entropy - own, own, entropy), strict=True))


def cells(concentration, n_students, *, n_labels=None, n_points=1, seed=0):
    rng = np.random.default_rng([77, seed])
    p = rng.dirichlet(concentration, (n_students, N_SETS * n_points))
    return cells_of(p, n_labels=n_labels, rng=rng)


def cells_of(p, *, n_labels=None, rng=None):
    if n_labels:
        return cells_of_labels(rng.multinomial(n_labels, p))
    rows = p.reshape(-1, p.shape[-1])
    return cells_of_probabilities(rows, np.arange(len(rows)), shape=p.shape[:2], known=True)


def simulate(concentration, n_students, *, n_labels=None, n_points=1, seed=0):
    """All data sets as points of one table; with several points, averages of as many."""
    made = cells(concentration, n_students, n_labels=n_labels, n_points=n_points, seed=seed)
    names = range(len(concentration))
    if n_points == 1:
        return estimate_classes(made, classes=names, points=range(N_SETS), kind="labels", known=n_labels is None)
    found = estimate_points(made)
    moves = found.moves.reshape(6, n_students, N_SETS, n_points).mean(-1)
    parts = [array.reshape(6, N_SETS, n_points).mean(-1) for array in (found.estimate, found.plug_in)]
    arrays = [
        xr.DataArray(part, {"component": list(COMPONENTS)}, ("component", "point"))
        for part in (*parts, np.sqrt((moves**2).sum(axis=1)))
    ]
    return ClassComponents(
        estimate=arrays[0],
        plug_in=arrays[1],
        standard_error=arrays[2],
        n_students=xr.DataArray(np.full(N_SETS, n_students), dims="point"),
        attrs={"classes": tuple(names), "unit": "nats"},
    )


def covered(answer, truth):
    bounds = answer.interval()
    return {
        name: int(((bounds.sel(component=name, ci_bound="lower") <= truth[name])
                   & (truth[name] <= bounds.sel(component=name, ci_bound="upper"))).sum())
        for name in COMPONENTS
    }
