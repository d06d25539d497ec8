r"""The largest R-hat of many parameters, and what chance allows it to be.

Thousands of parameters have a largest R-hat above 1.01 by chance alone. Let M pieces (halves of chains) of length L
have the mean variance W, means of variance B/L, and the effective size e each. Of converged pieces
:math:`B/L \approx \sigma^2\chi^2_{M-1}/(e(M-1))` and :math:`W \approx \sigma^2(1 - 1/e + 1/L)`, so with
:math:`\hat R^2 = (L-1)/L + (B/L)/W`, to first order in 1/e,

.. math:: \hat R^2 \approx 1 + \frac{1}{e}\Bigl(F - \frac{e}{L}\Bigr), \qquad F \sim F_{M-1,\, M(e-1)},

exactly for independent normal draws (e = L). The allowance takes the quantile of F that the largest of so many exceeds
once in a hundred runs.
"""

from __future__ import annotations

import numpy as np
from scipy.special import fdtri

from kdstats.prediction.bayes.libraries import az

__all__ = ["MAX_RHAT", "allowed_rhat", "worst_rhat"]

#: The gate for a single series (Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021, Bayesian Analysis 16).
MAX_RHAT = 1.01
#: How often converged chains exceed the allowance, and parameters that ArviZ looks at after a screening.
LEVEL, SCREENED = 0.01, 25


def allowed_rhat(*, n_pieces: int, length: int, effective: float, n_parameters: int) -> float:
    """Return the R-hat that the largest of ``n_parameters`` exceeds with chance 0.01 at most, of converged chains.

    Parameters
    ----------
    n_pieces, length : int
        Half chains and their draws.
    effective : float
        Effective number of draws of one of them.
    n_parameters : int
        R-hat is the larger of two, of ranks and of folded ranks, so they count twice.
    """
    quantile = fdtri(n_pieces - 1, n_pieces * max(effective - 1.0, 1.0), 1.0 - LEVEL / (2 * n_parameters))
    return float(np.sqrt(1.0 + max(quantile - effective / length, 0.0) / effective))


def worst_rhat(data: az.InferenceData) -> tuple[float, float]:
    """Return the largest R-hat of a parameter, and what it may be: the larger of 1.01 and its allowance.

    Parameters are screened by their plain split R-hat; ArviZ judges the worst of them. Effective sizes are those of the
    chains one by one: together, they would fall with the very difference that is looked for.
    """
    columns = np.concatenate(
        [np.asarray(array.values).reshape(*array.shape[:2], -1) for array in data.posterior.data_vars.values()], axis=2
    )
    half = columns.shape[1] // 2
    pieces = np.concatenate([columns[:, :half], columns[:, half : 2 * half]])
    spread = pieces.var(axis=1, ddof=1).mean(axis=0)
    ratio = pieces.mean(axis=1).var(axis=0, ddof=1) / np.where(spread > 0.0, spread, 1.0)
    order = np.argsort(ratio)[::-1][:SCREENED]
    kept = [columns[:, :, index] for index in order if spread[index] > 0.0]
    if not kept:
        return float("nan"), MAX_RHAT
    rhats = [float(az.rhat(column)) for column in kept]
    worst = int(np.nanargmax(rhats))
    ess = min(sum(float(az.ess(chain[None], method=kind)) for chain in kept[worst]) for kind in ("bulk", "tail"))
    allowed = allowed_rhat(
        n_pieces=len(pieces), length=half, effective=ess / len(pieces), n_parameters=columns.shape[2]
    )
    return rhats[worst], max(MAX_RHAT, allowed)
