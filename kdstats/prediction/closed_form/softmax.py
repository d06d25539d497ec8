r"""Variance components of softmax students by the delta method, with an error estimated from a few refits.

With :math:`ZZ'` the covariance of the probabilities at the query points (:mod:`.softmax_law`) and :math:`m_c` the
mean probability of class c over students, to second order,

.. math:: \text{inter}_c = (ZZ')_{cc}, \qquad \text{total}_c = m_c(1-m_c),

the second because an output of a random student is class c with probability :math:`m_c`. Intra is the difference.
First order holds where the noise of a label times its leverage is small. How far it can be trusted is seen
from a few students fitted to label sets of their own, each compared with its own first order.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import ApproximationWarning, invalid
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.prediction.closed_form.softmax_law import SoftmaxLaw, softmax_law
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count
from kdstats.sampling import BLOCK
from kdstats.sampling.softmax import SoftmaxFitter
from kdstats.streams import Seeds, as_seeds

__all__ = ["softmax_components"]

FloatArray = NDArray[np.float64]

#: Relative error beyond which an answer warns, and margin within which the check must show the ratio.
TOLERANCE, MARGIN, Z = 0.1, 1.25, 1.96
#: Entries of a root (points, classes, directions) that are handled at a time.
CHUNK = 4_000_000
#: Fewest refits that give an error of their own.
FEWEST = 8
#: Variance of probabilities that is rounding.
ROUNDING = 1e-24


def softmax_components(
    problem: DistillationProblem, *, rng: Any = None, covariance: bool = False, n_check_students: int = 64
) -> VarianceComponents:
    """Predict the variance components of a :class:`~kdstats.SoftmaxStudent`.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.CategoricalTeacher` that has inputs.
    rng : int, Generator, SeedSequence, Seeds or None
        Labels of the refits behind the error estimate; the components do not depend on it. Default: the seed 0.
    covariance : bool, default False
        Keep the inter-student covariance between points, per class.
    n_check_students : int, default 64
        Refits, 8 to 256, or 0 for none (and no error estimate).

    Returns
    -------
    VarianceComponents
        ``exactness`` "asymptotic". ``attrs["relative_error"]``: variance of refitted students over first order, less
        1, on average over points and classes, with ``attrs["relative_error_se"]``; ``attrs["intra_error"]`` and
        ``attrs["intra_error_se"]``: mean intra-student variance of the refits less the predicted one;
        ``attrs["n_without_fit"]``: label sets out of ``attrs["n_check_students"]`` that had no finite fit.

    Warns
    -----
    ApproximationWarning
        If the error is estimated beyond 10%, if the refits do not show the variance within a factor 1.25 (95%
        interval), or if a label set had no finite fit.
    """
    started = time.perf_counter()
    n_check_students = as_count("n_check_students", n_check_students, minimum=0)
    if 0 < n_check_students < FEWEST:
        as_count("n_check_students", n_check_students, minimum=FEWEST, reason="to give the error an error")
    if n_check_students > BLOCK:
        raise invalid("n_check_students", f"be at most {BLOCK}", n_check_students)
    seeds = as_seeds(0 if rng is None else rng)
    with one_blas_thread(when=problem.teacher.n_inputs <= SMALL):
        law = softmax_law(problem)
        parts = _by_points(law, keep=covariance)
        _warn_of_impossible(parts)
        quiet = "student_output" not in problem.design.sources
        intra = np.zeros_like(parts.inter) if quiet else np.maximum(parts.total - parts.inter, 0.0)
        checked = _check(law, parts, seeds, n_check_students)
    attrs = {
        "engine": "closed_form",
        "exactness": "asymptotic",
        "estimator": "delta method: J H^-1 B H^-1 J', means to second order",
        "approximation": "first order in the noise of the labels",
        "effective_rank": parts.effective_rank,
        "versions": versions(),
        "problem": problem.fingerprint(),
        **checked,
    }
    labels, classes = list(problem.point_labels), list(problem.categorical_teacher.output_labels)
    kept = None
    if parts.covariance is not None:
        coords = {"output": classes, "point": labels, "point_other": labels}
        kept = xr.DataArray(
            parts.covariance, dims=("output", "point", "point_other"), coords=coords, name="inter_student_covariance"
        )
    return VarianceComponents.from_arrays(
        inter_student=parts.inter,
        intra_student=intra,
        point_labels=problem.point_labels,
        output_labels=problem.categorical_teacher.output_labels,
        covariance=kept,
        attrs=attrs | {"wall_time": time.perf_counter() - started},
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Parts:
    """Inter and total variance (m, C), effective rank, and covariances (C, m, m) where asked for."""

    inter: FloatArray
    total: FloatArray
    effective_rank: float
    covariance: FloatArray | None


def _by_points(law: SoftmaxLaw, *, keep: bool) -> _Parts:
    """Go through the points a few at a time."""
    X, n_classes, rank = law.problem.X_query, law.model.n_classes, law.root.shape[1]
    step = len(X) if keep else max(1, CHUNK // (n_classes * rank))
    inter, total, gram = [], [], np.zeros((rank, rank))
    covariance = None
    for first in range(0, len(X), step):
        here = law.at(X[first : first + step])
        root, mean = here.probability_root, here.mean_probabilities
        inter.append((root**2).sum(axis=2))
        total.append(mean * (1.0 - mean))
        flat = root.reshape(-1, rank)
        gram += flat.T @ flat
        if keep:
            covariance = np.matmul(root.transpose(1, 0, 2), root.transpose(1, 2, 0))
    trace, square = float(np.trace(gram)), float((gram**2).sum())
    return _Parts(
        inter=np.concatenate(inter),
        total=np.concatenate(total),
        effective_rank=trace**2 / square if square > 0.0 else 1.0,
        covariance=covariance,
    )


def _warn_of_impossible(parts: _Parts) -> None:
    """Say where first order gives probabilities more variance than numbers between 0 and 1 can have."""
    inter, most = parts.inter.mean(), parts.total.mean()
    if inter > (1.0 + TOLERANCE) * most + ROUNDING:
        warnings.warn(
            f"first order gives inter-student variance {inter:.3g} on average where class probabilities can have no "
            f"more than {most:.3g}; use engine='monte_carlo'",
            ApproximationWarning,
            stacklevel=4,
        )


def _check(law: SoftmaxLaw, parts: _Parts, seeds: Seeds, n_students: int) -> dict[str, Any]:
    """Refit a few students and compare each with its own first order."""
    problem = law.problem
    fitter = SoftmaxFitter(problem=problem, seeds=seeds.branch("closed form check"), model=law.model)
    if not fitter.is_random:
        return {"relative_error": 0.0, "relative_error_se": 0.0, "intra_error": 0.0, "intra_error_se": 0.0}
    if n_students == 0:
        return {}
    fitted = fitter.block(0, n_students)
    good = fitted.converged
    facts: dict[str, Any] = {"n_check_students": n_students, "n_without_fit": int((~good).sum())}
    if facts["n_without_fit"]:
        warnings.warn(
            f"{facts['n_without_fit']} of {n_students} sets of labels have no finite fit (a linear rule separates the "
            "classes, or a class is never given): the prediction holds for none of them; give SoftmaxStudent a "
            "penalty, or more responses",
            ApproximationWarning,
            stacklevel=5,
        )
    if good.sum() < FEWEST:
        return facts
    X, counts = problem.X_query, None if fitted.counts is None else fitted.counts[good].astype(np.float64)
    real, shadow = fitted.probabilities[good], law.first_order(fitted.labels[good], counts, X)
    facts |= _compared(real, shadow, parts, quiet="student_output" not in problem.design.sources)
    ratio, error = 1.0 + facts["relative_error"], facts["relative_error_se"]
    low, high = ratio - Z * error, ratio + Z * error
    if abs(ratio - 1.0) > TOLERANCE or low < 1.0 / MARGIN or high > MARGIN:
        warnings.warn(
            f"first order is not shown to hold for these labels: refitted students vary {ratio:.3g} ({low:.3g} to "
            f"{high:.3g}) times as much as predicted; use engine='monte_carlo'",
            ApproximationWarning,
            stacklevel=5,
        )
    return facts


def _compared(real: FloatArray, shadow: FloatArray, parts: _Parts, *, quiet: bool) -> dict[str, Any]:
    """Ratio of the variance of students to that of their own first order, which they share most noise with."""
    S = len(real)
    seen, said = (((part - part.mean(axis=0)) ** 2).mean(axis=(1, 2)) for part in (real, shadow))
    nothing = max(seen.mean(), said.mean()) <= ROUNDING
    ratio = 1.0 if nothing else float(seen.mean() / said.mean())
    own = (real * (1.0 - real)).mean(axis=(1, 2))
    predicted = float(np.maximum(parts.total - parts.inter, 0.0).mean())
    return {
        "relative_error": ratio - 1.0,
        "relative_error_se": 0.0 if nothing else float((seen - said * ratio).std(ddof=1) / np.sqrt(S) / said.mean()),
        "intra_error": 0.0 if quiet else float(own.mean()) - predicted,
        "intra_error_se": 0.0 if quiet else float(own.std(ddof=1) / np.sqrt(S)),
    }
