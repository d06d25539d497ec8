r"""How many responses a student that generalises is worth, from one pilot: between bounds that need no second student.

A student that memorises k responses to a prompt differs from others by G/k, G the teacher's Gini index. One that
carries over what prompts share differs by less, as if it had seen more responses. How much less shows in one student:
in how far it follows its own responses rather than the teacher, and how far it is from the teacher.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from kdstats.errors import ApproximationWarning, invalid
from kdstats.problem.validation import as_array, as_matrix, as_probability

__all__ = ["EffectiveResponses", "effective_responses"]

FloatArray = NDArray[np.float64]

SUM_TOLERANCE = 1e-6
#: Standard errors from which a contradiction to the assumptions is told, and degrees of freedom below which it is said.
FAR, FEW = 3.0, 10.0
#: Denominator below which moments do not determine the correlation between prompts.
UNDETERMINED = 0.2


@dataclass(frozen=True, eq=False, kw_only=True)
class EffectiveResponses:
    """What one pilot tells of the variance between students like it.

    Attributes
    ----------
    n_prompts, n_responses : int
        n and k.
    gini : float
        G, the teacher's Gini index, averaged over prompts.
    leverage, leverage_error : float
        L: how far the pilot follows its own responses, 1 for a student that memorises and 0 for one that ignores them;
        and its standard error.
    distance, distance_error : float
        Mean squared distance of the pilot's probabilities from the teacher's, and its standard error.
    inter_student, standard_error : float
        Predicted Gini index between students.
    bounds : (2,) tuple of float
        Estimates of what inter-student variance cannot be below (L²G/k) and above.
    df : float
        Degrees of freedom of ``inter_student``.
    pilot_intra : float
        The pilot's own mean Gini index: an unbiased estimate of intra-student variance, less exact than
        ``intra_student``.
    regime : str
        "unbiased": the distance is the estimate; "biased": the pilot is further from the teacher than responses can
        have moved it, and LG/k is the estimate; "no leverage": nothing shows that the pilot learnt its responses.
    notes : tuple of str
        What speaks against the assumptions.
    """

    n_prompts: int
    n_responses: int
    gini: float
    leverage: float
    leverage_error: float
    distance: float
    distance_error: float
    inter_student: float
    standard_error: float
    bounds: tuple[float, float]
    df: float
    pilot_intra: float
    regime: str
    notes: tuple[str, ...]

    @property
    def intra_student(self) -> float:
        """G - ``inter_student``, which is right for students that are right on average."""
        return self.gini - self.inter_student

    @property
    def estimate(self) -> float:
        """Effective number of responses, G / ``inter_student``."""
        return self.gini / self.inter_student if self.inter_student > 0 else float("inf")

    def interval(self, prob: float = 0.95) -> tuple[float, float]:
        """Return an interval of ``inter_student``: chi-square with ``df``, as for a quadratic form of normal noise.

        Parameters
        ----------
        prob : float, default 0.95
        """
        tail = (1 - as_probability("prob", prob)) / 2
        if self.inter_student <= 0:
            return 0.0, float(-stats.norm.ppf(tail) * self.standard_error)
        scale = self.inter_student * self.df
        low, high = (float(value) for value in stats.chi2.ppf([tail, 1 - tail], self.df))
        return scale / high, scale / low if low > 0 else float("inf")

    def summary(self, prob: float = 0.95) -> str:
        """Return a few lines."""
        law, (low, high) = self.gini / self.n_responses, self.interval(prob)
        lines = [
            f"One pilot, {self.n_prompts} prompts, k = {self.n_responses} responses to each; G = {self.gini:.4f}",
            f"leverage of its own responses  {self.leverage:.3f} ± {self.leverage_error:.3f} (1: memorises)",
            f"inter-student variance         {self.inter_student:.4f} ± {self.standard_error:.4f}, "
            f"{100 * prob:g}% interval [{low:.4f}, {high:.4f}]; bounds [{self.bounds[0]:.4f}, {self.bounds[1]:.4f}]",
            f"  a student that memorises     {law:.4f}",
            f"intra-student variance         {self.intra_student:.4f} (the pilot's own {self.pilot_intra:.4f})",
            f"effective responses            {self.estimate:.2f} [{self.gini / high:.2f}, "
            f"{self.gini / low if low > 0 else float('inf'):.2f}], approximate, regime {self.regime!r}",
        ]
        lines.append(
            f"interval: at least {100 * prob:g}% where the regime is 'unbiased' (98% to 100% measured, 60 prompts)"
        )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def effective_responses(
    pilot_probabilities: ArrayLike,
    seen: ArrayLike,
    *,
    teacher_probabilities: ArrayLike | None = None,
    fresh: ArrayLike | None = None,
) -> EffectiveResponses:
    r"""Predict how much students like one pilot differ, and how many memorised responses that is worth.

    Parameters
    ----------
    pilot_probabilities : (n, C) array_like
        The pilot's probabilities of C answers to the n prompts that it learnt.
    seen : (n, C) array_like
        How often each answer was among the k independent responses that it learnt; rows sum to k.
    teacher_probabilities : (n, C) array_like, optional
        The teacher's.
    fresh : (n, C) array_like, optional
        In their place: counts of m >= 2 other responses of the teacher to the same prompts, which the pilot never saw.

    Returns
    -------
    EffectiveResponses
        Approximate. ``regime`` and ``notes`` say what was assumed.

    Raises
    ------
    ProblemError
        If shapes differ, rows are no probabilities or counts, or not exactly one of ``teacher_probabilities`` and
        ``fresh`` is given.

    Warns
    -----
    ApproximationWarning
        With all notes: a biased pilot, no leverage, leverage above 1, a distance below the lower bound, few degrees of
        freedom.

    Notes
    -----
    With q the pilot, e the frequencies it saw, p the teacher, averages over prompts,

    .. math:: L = \frac kG E\langle q-p, e-p\rangle,\quad D = E\|q-p\|^2,\qquad
              L^2\frac Gk \le \text{inter} \le D

    for any student, whatever it does with its responses; and inter :math:`\le LG/k` for one whose probabilities are a
    symmetric smoother of the responses with eigenvalues in [0, 1] (gradient flow, ridge, kernels). The estimate is D,
    or LG/k where D exceeds it by more than their errors. Its error is that of a quadratic form of noise that is
    correlated between prompts (matrix normal; the correlation is estimated by moments from the pilot itself, and is at
    least the most that a symmetric smoother of this variance can have). See the theory page "Effective responses".

    Examples
    --------
    >>> import numpy as np
    >>> import kdstats as kd
    >>> p = np.full((400, 4), 0.25)
    >>> seen = np.random.default_rng(1).multinomial(5, p)
    >>> found = kd.effective_responses(seen / 5, seen, teacher_probabilities=p)  # a pilot that memorised
    >>> round(found.estimate, 1), round(found.leverage, 1), found.regime
    (5.1, 1.0, 'unbiased')
    """
    q = _laws("pilot_probabilities", pilot_probabilities)
    counts, k = _counts("seen", seen, q.shape, minimum=1)
    if (teacher_probabilities is None) == (fresh is None):
        given = "neither" if fresh is None else "both"
        raise invalid("teacher_probabilities", "be given, or `fresh`, but not both", given)
    if fresh is None:
        law = _laws("teacher_probabilities", teacher_probabilities)
        if law.shape != q.shape:
            raise invalid("teacher_probabilities", f"have the pilot's shape {q.shape}", law.shape)
        excess, gini, scatter = 0.0, float(1 - (law**2).sum(axis=1).mean()), _scatter(law)
    else:
        others, m = _counts("fresh", fresh, q.shape, minimum=2)
        law = others / m
        gini = float(1 - (law**2).sum(axis=1).mean()) * m / (m - 1)
        excess, scatter = gini / m, _scatter(law)
    if gini <= 0:
        raise invalid("seen", "be answers of a teacher that varies", "a Gini index of 0")
    return _estimated(q - law, counts / k - law, k, gini, excess, scatter, pilot_intra=float(1 - (q**2).sum(1).mean()))


def _estimated(
    delta: FloatArray,
    noise: FloatArray,
    k: int,
    gini: float,
    excess: float,
    scatter: float,
    *,
    pilot_intra: float,
) -> EffectiveResponses:
    """``excess`` is the mean squared error of the reference law, which is in both products."""
    n, unit = len(delta), gini / k
    products = (delta * noise).sum(axis=1) / unit
    leverage = float(products.mean() - excess / unit)
    squares = float((delta**2).sum() / n)
    distance = max(squares - excess, 0.0)
    share = max(_correlation(delta, scatter), 1 / (n * min(max(distance, unit / n) / unit, 1.0)))
    distance_error = squares * float(np.sqrt(2 * share * scatter))
    relative = distance_error / distance if distance > 0 else float("inf")
    independent = float(products.std(ddof=1) / np.sqrt(n))
    leverage_error = max(independent, abs(leverage) * min(relative, 1.0))
    by_leverage = max(leverage, 0.0) * unit
    notes: list[str] = []
    regime, value, error = "unbiased", distance, distance_error
    if leverage < 2 * independent:
        regime = "no leverage"
        notes.append("The pilot does not visibly follow its responses: only the upper bound says something.")
    elif leverage > 1 + FAR * independent:
        regime = "overshooting"
        notes.append("Leverage above 1: the pilot overshoots its responses, and LG/k is no upper bound.")
    else:
        gap = distance - by_leverage
        # Both errors are nearly one: what tells is the spread over prompts of their difference.
        differs = float(((delta**2).sum(axis=1) - products * unit).std(ddof=1) / np.sqrt(n))
        if gap > FAR * differs and gap > distance_error:
            regime, value, error = "biased", by_leverage, leverage_error * unit
            notes.append(
                f"The pilot is further from the teacher than its responses explain: a squared bias of {gap:.2g} or "
                "more. Inter-student variance is between the bounds."
            )
    lower = max(leverage**2 - leverage_error**2, 0.0) * unit
    if lower > distance + FAR * distance_error:
        notes.append("The pilot is nearer to the teacher than its leverage allows: are these the responses it saw?")
    df = 2 * (value / error) ** 2 if error > 0 and value > 0 else 1.0
    if df < FEW:
        notes.append(f"{df:.1f} degrees of freedom: one pilot on these prompts tells little.")
    if notes:
        warnings.warn(" ".join(notes), ApproximationWarning, stacklevel=3)
    upper = distance if regime in ("no leverage", "overshooting") else min(distance, by_leverage)
    return EffectiveResponses(
        n_prompts=n,
        n_responses=k,
        gini=gini,
        leverage=leverage,
        leverage_error=leverage_error,
        distance=distance,
        distance_error=distance_error,
        inter_student=value,
        standard_error=error,
        bounds=(min(lower, upper), upper),
        df=df,
        pilot_intra=pilot_intra,
        regime=regime,
        notes=tuple(notes),
    )


def _scatter(law: FloatArray) -> float:
    """Return tr Q² / (tr Q)² for Q the mean covariance of one response."""
    covariance = np.diag(law.mean(axis=0)) - law.T @ law / len(law)
    total = float(np.trace(covariance))
    return float((covariance**2).sum()) / total**2 if total > 0 else 1.0


def _correlation(delta: FloatArray, scatter: float) -> float:
    """Return tr R² / (tr R)² for R the covariance between prompts of a matrix normal with column covariance Q.

    The fourth and second moments t4 = tr(ZZ')² and t2 = tr ZZ' have the means a + b + ab and 1 + 2ab, in units of
    (tr R tr Q)², a what is looked for and b that of Q. Two answers have b = 1, and say nothing of a: 0.
    """
    gram = delta @ delta.T
    total = float(np.trace(gram))
    if total <= 0:
        return 0.0
    ratio, b = float((gram**2).sum()) / total**2, scatter
    bottom = 1 + b - 2 * b * ratio
    return float(np.clip((ratio - b) / bottom, 0.0, 1.0)) if bottom > UNDETERMINED else 0.0


def _laws(name: str, value: ArrayLike | None) -> FloatArray:
    law = as_matrix(name, value)
    if law.shape[0] < 2 or law.shape[1] < 2:
        raise invalid(name, "have at least 2 prompts and 2 answers", law.shape)
    if (law < 0).any() or np.abs(law.sum(axis=1) - 1).max() > SUM_TOLERANCE:
        raise invalid(name, "hold probabilities that sum to 1 in each row", f"{law[np.argmax(np.abs(law.sum(1) - 1))]}")
    return np.asarray(law / law.sum(axis=1, keepdims=True))


def _counts(name: str, value: ArrayLike, shape: tuple[int, ...], *, minimum: int) -> tuple[FloatArray, int]:
    counts = as_array(name, value, ndim=2)
    if counts.shape != shape:
        raise invalid(name, f"have the pilot's shape {shape}", counts.shape)
    if (counts < 0).any() or (counts != np.rint(counts)).any():
        raise invalid(
            name, "hold counts, whole numbers of at least 0", f"{counts[(counts < 0) | (counts % 1 != 0)][0]}"
        )
    sums = counts.sum(axis=1)
    if (sums != sums[0]).any() or sums[0] < minimum:
        rule = f"sum to one number of at least {minimum} in each row"
        raise invalid(name, rule, f"{sums.min():g} to {sums.max():g}")
    return counts, int(sums[0])
