r"""What choosing the medoid of k responses does to the variance of a label, where averaging texts is impossible.

The medoid is the response nearest to the mean of all k. It is one of them, so its variance is no k-th part.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from kdstats.errors import invalid
from kdstats.problem.validation import as_array, as_count, as_matrix, frozen
from kdstats.streams import as_seeds

__all__ = ["MedoidVariance", "medoid_variance"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Multisets of responses that are enumerated at most, and Gaussian draws or multisets at a time.
MAX_OUTCOMES, BLOCK = 200_000, 4096
#: Numbers in an array, and Gaussian numbers that are drawn at most.
ARRAY, MAX_NUMBERS = 2**24, 10**10
#: Answers whose squared distances are kept.
MAX_ANSWERS = 4096
#: Relative difference of summed squared distances below which responses are equally near, beside the rounding of
#: embeddings.
TIE = 1e-12
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False, kw_only=True)
class MedoidVariance:
    """Variance of the medoid of k responses beside that of one response.

    Attributes
    ----------
    n_responses : int
    ratio : float
        Variance of the medoid divided by that of one response (traces); 1/k is what averaging would give.
    standard_error : float
        Of the ratio; 0 if it is exact.
    squared_bias : float
        Squared distance between the mean medoid and the mean response, in units of the variance of one response: what
        choosing the usual answer moves.
    label_law : (C,) ndarray or None
        Probability that each answer of a finite law is chosen.
    exactness : str
        "exact" or "monte_carlo".
    law : str
        What responses were taken to follow.
    """

    n_responses: int
    ratio: float
    standard_error: float
    squared_bias: float
    label_law: FloatArray | None
    exactness: str
    law: str

    def summary(self) -> str:
        """Return two lines."""
        error = "exact" if self.exactness == "exact" else f"± {self.standard_error:.2g}"
        return (
            f"Medoid of {self.n_responses} responses, {self.law}\n"
            f"variance {self.ratio:.4g} of one response's ({error}), where averaging would give "
            f"{1 / self.n_responses:.4g}; squared bias {self.squared_bias:.4g}"
        )


def medoid_variance(
    n_responses: int,
    *,
    dimension: int | None = None,
    embeddings: ArrayLike | None = None,
    probabilities: ArrayLike | None = None,
    n_draws: int = 100_000,
    rng: Any = None,
) -> MedoidVariance:
    r"""Predict the variance of the medoid of k independent responses, relative to one response.

    Parameters
    ----------
    n_responses : int
        k.
    dimension : int, optional
        Responses are isotropic Gaussian vectors of so many dimensions.
    embeddings : (C, d) array_like, optional
        Or they are these answers. The identity matrix is the law of classes: the medoid is then the plurality.
    probabilities : (C,) array_like, optional
        Of these answers. Default: equal.
    n_draws : int, default 100000
        Of a Monte Carlo answer. Finite laws with at most 200,000 multisets of k answers are enumerated.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`; the source is ``teacher_output``.

    Returns
    -------
    MedoidVariance

    Raises
    ------
    ProblemError
        If not exactly one of ``dimension`` and ``embeddings`` is given, the answers do not vary, or a Gaussian law
        would take more than 1e10 numbers (``n_draws * k * min(k, dimension)``).

    Notes
    -----
    Distances are squared Euclidean; for vectors of length 1 the medoid is the response with the highest mean cosine to
    all. Of equally near responses each is as likely: the medoid of two is either.

    Gaussian: the mean :math:`\bar x` is independent of the residuals, whose law is symmetric, so

    .. math:: \frac{\mathrm{tr\,Var}(medoid)}{\mathrm{tr\,Var}(x)} = \frac1k + \frac{E\min_i\|x_i-\bar x\|^2}{d},

    where the minimum needs the Gram matrix of the residuals alone: it is drawn as a centred Wishart matrix, so that
    high dimensions cost nothing. Towards infinite dimension all residuals are of one length, :math:`(1-1/k)d`, and the
    ratio is 1: the medoid is then as variable as a single response.

    Examples
    --------
    >>> import numpy as np
    >>> medoid_variance(3, embeddings=np.eye(2), probabilities=[0.8, 0.2]).label_law.round(3)  # majority of three
    array([0.896, 0.104])
    """
    k = as_count("n_responses", n_responses)
    n_draws = as_count("n_draws", n_draws, minimum=100)
    if (dimension is None) == (embeddings is None):
        given = "neither" if dimension is None else "both"
        raise invalid("dimension", "be given, or `embeddings`, but not both", given)
    if embeddings is None:
        if probabilities is not None:
            raise invalid("probabilities", "go with `embeddings`", "a dimension")
        return _gaussian(k, as_count("dimension", dimension), n_draws=n_draws, rng=rng)
    points = as_matrix("embeddings", embeddings)
    law = _law(probabilities, len(points))
    points, law = points[law > 0], law[law > 0]
    points = points[:, (points != points[0]).any(axis=0)]
    if not points.size:
        raise invalid("embeddings", "differ where `probabilities` exceed 0", f"{len(law)} equal rows")
    points = np.ldexp(points, -np.frexp(np.abs(points).max())[1])  # squares of the largest or least would not fit
    rounding = 4 * np.finfo(np.float64).eps * float(np.linalg.norm(np.abs(points).max(axis=0)))
    points = points - points[0]
    size = float(np.abs(points).max())
    return _finite(k, points / size, law, rounding=rounding / size, n_draws=n_draws, rng=rng)


def _law(probabilities: Any, size: int) -> FloatArray:
    if probabilities is None:
        return np.full(size, 1.0 / size)
    law = as_array("probabilities", probabilities, ndim=1)
    if len(law) != size or (law < 0).any():
        raise invalid("probabilities", f"be {size} numbers of at least 0, one for each answer", f"{law}")
    if abs(law.sum() - 1.0) > SUM_TOLERANCE:
        raise invalid("probabilities", "sum to 1", f"{law.sum():.8g}")
    return np.asarray(law / law.sum())


def _gaussian(k: int, d: int, *, n_draws: int, rng: Any) -> MedoidVariance:
    each = k * min(k, d)
    if n_draws * each > MAX_NUMBERS:
        raise invalid("n_draws", f"be at most {MAX_NUMBERS // each} for {k} responses in {d} dimensions", n_draws)
    seeds, at_once = as_seeds(rng), min(BLOCK, max(1, ARRAY // each))
    found = np.empty(n_draws)
    for block, first in enumerate(range(0, n_draws, at_once)):
        size = min(at_once, n_draws - first)
        root = _gram_root(seeds.generator("teacher_output", "medoid", block), at_once, k, d)[:size]
        residuals = root - root.mean(axis=1, keepdims=True)
        found[first : first + size] = (residuals**2).sum(axis=2).min(axis=1)
    shares = found / d
    return MedoidVariance(
        n_responses=k,
        ratio=1.0 / k + float(shares.mean()),
        standard_error=float(shares.std(ddof=1) / np.sqrt(n_draws)),
        squared_bias=0.0,
        label_law=None,
        exactness="monte_carlo" if k > 1 else "exact",
        law=f"isotropic Gaussian in {d} dimension{'s' if d > 1 else ''}",
    )


def _gram_root(rng: np.random.Generator, size: int, k: int, d: int) -> FloatArray:
    """Return matrices A, shape (size, k, min(k, d)), with A A' distributed as X X' for X normal of shape (k, d)."""
    if d <= k:
        return rng.standard_normal((size, k, d))
    root = np.tril(rng.standard_normal((size, k, k)), -1)
    places = np.arange(k)
    root[:, places, places] = np.sqrt(rng.chisquare(d - places, (size, k)))
    return root


def _finite(k: int, points: FloatArray, law: FloatArray, *, rounding: float, n_draws: int, rng: Any) -> MedoidVariance:
    """Answers are known up to ``rounding``; their coordinates are at most 1, and one of them is 0."""
    exact = math.comb(len(law) + k - 1, k) <= MAX_OUTCOMES
    chosen = np.zeros(len(law))
    batches: list[FloatArray] = []
    between = cdist(points, points, "sqeuclidean") if len(points) <= MAX_ANSWERS else None
    for counts, weight in _multisets(k, law) if exact else _drawn(k, law, n_draws, rng):
        part = weight[:, None] * _shares(counts, points, between, rounding=rounding)
        chosen += part.sum(axis=0)
        batches.append(part.mean(axis=0) / weight.mean() if not exact else part.sum(axis=0))
    chosen /= chosen.sum()
    points = points - law @ points
    spread = float(law @ (points**2).sum(axis=1))
    mean = chosen @ points
    squares = (points**2).sum(axis=1)
    gradient = (squares - 2 * points @ mean) / spread  # of the ratio, by the law of labels
    error = 0.0
    if not exact:
        slopes = np.array([batch @ gradient for batch in batches])
        error = float(slopes.std(ddof=1) / np.sqrt(len(slopes)))
    return MedoidVariance(
        n_responses=k,
        ratio=float(chosen @ squares - mean @ mean) / spread,
        standard_error=error,
        squared_bias=float(mean @ mean) / spread,
        label_law=frozen(chosen),
        exactness="exact" if exact else "monte_carlo",
        law=f"a law of {len(law)} answers",
    )


def _multisets(k: int, law: FloatArray) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield counts (N, C) of all multisets of k answers, and their probabilities."""
    size, logs = len(law), np.log(law)
    factorials = np.array([math.lgamma(n + 1) for n in range(k + 1)])
    sets = combinations_with_replacement(range(size), k)
    while True:
        block = np.array(list(islice(sets, BLOCK)), dtype=np.int64)
        if not len(block):
            return
        counts = _counted(block, size)
        yield counts, np.exp(factorials[k] - factorials[counts].sum(axis=1) + counts @ logs)


def _drawn(k: int, law: FloatArray, n_draws: int, rng: Any) -> Iterator[tuple[IntArray, FloatArray]]:
    """Yield counts of drawn multisets in at least 50 batches of one size."""
    seeds, size = as_seeds(rng), max(min(BLOCK, n_draws // 50), 2)
    for block in range(n_draws // size):
        generator = seeds.generator("teacher_output", "medoid", block)
        yield generator.multinomial(k, law, size=size), np.ones(size)


def _counted(sets: IntArray, size: int) -> IntArray:
    place = np.arange(len(sets))[:, None] * size + sets
    return np.bincount(place.ravel(), minlength=len(sets) * size).reshape(len(sets), size)


def _shares(counts: IntArray, points: FloatArray, between: FloatArray | None, *, rounding: float) -> FloatArray:
    """Return the probability (N, C) that each answer is the medoid; of equally near responses each is as likely.

    The nearest to the mean has the least sum of squared distances to all k, which adds positive numbers: a far answer
    leaves the differences between near ones as they are.
    """
    width = int((counts > 0).sum(axis=1).max())
    place = np.argsort(-counts, axis=1, kind="stable")[:, :width]  # answers that were drawn, then some that were not
    number = np.take_along_axis(counts, place, axis=1)
    shares = np.zeros(counts.shape)
    step = max(1, ARRAY // (width * (width if between is not None else points.shape[1])))
    for first in range(0, len(counts), step):
        at, n = place[first : first + step], number[first : first + step]
        k = n.sum(axis=1, keepdims=True)
        if between is not None:
            distance = np.einsum("nij,nj->ni", between[at[:, :, None], at[:, None, :]], n)
        else:
            own = points[at] - points[at[:, :1]]
            own = own - np.einsum("ni,nid->nd", n / k, own)[:, None]
            squares = (own**2).sum(axis=2)
            distance = k * squares + (n * squares).sum(axis=1, keepdims=True)
        distance = np.where(n > 0, distance, np.inf)
        least = distance.min(axis=1, keepdims=True)
        weight = np.where(distance <= least * (1.0 + TIE) + rounding * np.sqrt(k * least), n, 0)
        np.put_along_axis(shares[first : first + step], at, weight / weight.sum(axis=1, keepdims=True), axis=1)
    return shares
