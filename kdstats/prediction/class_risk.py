r"""How much risks vary: of one predictor over the labels it is scored on, and of students over the labels they learn.

For a predictor with losses :math:`\ell_i` (one for each class) scored on n inputs with k labels each (result T19, Menon
et al. 2021),

.. math:: \operatorname{Var}(\hat R) = \frac1n\Big\{\operatorname{Var}_x[p'\ell] +
          \frac{1+(k-1)\rho}{k}\,E[\ell'(\operatorname{diag}p - pp')\ell]\Big\} .

Students' logits are Gaussian to first order in the noise of their labels. Their test cross-entropy, their accuracy and
the class they answer with are functions of those logits, and their laws are sampled from it. A few hundred students
that are really fitted say how far the law of the cross-entropy can be trusted.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from kdstats.errors import ApproximationWarning, UnsupportedProblemError, invalid
from kdstats.problem.categorical import CategoricalTeacher, SoftmaxStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import NetworkStudent
from kdstats.problem.validation import as_count, as_matrix, as_number
from kdstats.sampling import BLOCK as MOST_CHECKED
from kdstats.sampling.softmax import SoftmaxFitter, softmax_regression
from kdstats.streams import Seeds, as_seeds

__all__ = ["EmpiricalRisk", "RiskDistribution", "empirical_risk", "risk_distribution"]

FloatArray = NDArray[np.float64]

#: Draws handled at a time.
BLOCK = 250
#: What warns: a spread or a mean (over that spread) shown to be off by more, or a spread not shown within a factor.
TOLERANCE, MARGIN, Z = 0.1, 1.5, 1.96
#: Fewest fitted students that judge a spread.
FEWEST = 32
#: Relative difference of cross-entropies that is rounding.
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class EmpiricalRisk:
    """Mean loss over n inputs, and its variance over new inputs and labels.

    Attributes
    ----------
    mean : float
        Expected loss.
    from_inputs, from_labels : float
        Parts of the variance of the mean loss; the second is 0 for soft labels.
    variance, standard_error : float
        Their sum, and its standard error over the inputs.
    n_inputs, n_responses : int
    """

    mean: float
    from_inputs: float
    from_labels: float
    standard_error: float
    n_inputs: int
    n_responses: int

    @property
    def variance(self) -> float:
        """Variance of the mean loss."""
        return self.from_inputs + self.from_labels

    def summary(self) -> str:
        """Return a printable line for each part."""
        return (
            f"risk {self.mean:.5g} over {self.n_inputs} inputs with {self.n_responses} labels each\n"
            f"  variance {self.variance:.4g} ± {self.standard_error:.2g}: inputs {self.from_inputs:.4g}, "
            f"sampled labels {self.from_labels:.4g} (soft labels would leave the first)"
        )


def empirical_risk(
    losses: ArrayLike, probabilities: ArrayLike, *, n_responses: int = 1, response_correlation: float = 0.0
) -> EmpiricalRisk:
    """Return the variance of one predictor's mean loss over sampled labels.

    Parameters
    ----------
    losses : array_like, shape (n, C)
        Loss at each input for each class the label could be.
    probabilities : array_like, shape (n, C)
        Probability of each class; the inputs are taken for a random sample of theirs.
    n_responses : int, default 1
        Labels at each input.
    response_correlation : float, default 0.0
        Between the labels of one input, in [0, 1].

    Raises
    ------
    ProblemError
        If shapes differ, there are fewer than 2 inputs, or probabilities are none.

    Examples
    --------
    >>> import kdstats as kd
    >>> risk = kd.empirical_risk([[0.0, 1.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]], n_responses=5)
    >>> risk.mean, risk.from_inputs, risk.from_labels
    (0.5, 0.0, 0.025)
    """
    teacher = CategoricalTeacher(probabilities, response_correlation=response_correlation)
    table, p = as_matrix("losses", losses), teacher.probabilities
    if table.shape != p.shape:
        raise invalid("losses", f"have the shape of probabilities {p.shape}", f"shape {table.shape}")
    n, k = as_count("n_inputs", len(p), minimum=2), as_count("n_responses", n_responses)
    shift = float((p * table).sum()) / n
    centred = np.where(p > 0, table - shift, 0.0)
    expected = (p * centred).sum(axis=1)
    within = (p * (centred - expected[:, None]) ** 2).sum(axis=1)
    factor = (1.0 + (k - 1) * teacher.response_correlation) / k
    between = (expected - expected.mean()) ** 2 * n / (n - 1)
    return EmpiricalRisk(
        mean=shift + float(expected.mean()),
        from_inputs=float(between.mean()) / n,
        from_labels=factor * float(within.mean()) / n,
        standard_error=float((between + factor * within).std(ddof=1)) / n**1.5,
        n_inputs=n,
        n_responses=k,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class RiskDistribution:
    """Law over students of their test cross-entropy and accuracy, and of the class they answer with.

    Attributes
    ----------
    cross_entropy, accuracy : (N,) ndarray
        Means over the points, for N draws from the law of the students.
    flips : (m,) ndarray
        Probability that a student's likeliest class differs from that of the student of the mean labels (with starts
        of their own: from the class most students answer).
    errors : (m,) ndarray
        Probability that it differs from the target's likeliest class.
    disagreement : (m,) ndarray
        Probability that it differs from another student's.
    exactness : str
        "asymptotic" (softmax regression) or "approximate" (networks): first order in the noise of the labels.
    checked : (S,) ndarray
        Cross-entropy of students that were really fitted, for the check.
    """

    cross_entropy: FloatArray
    accuracy: FloatArray
    flips: FloatArray
    errors: FloatArray
    disagreement: FloatArray
    exactness: str
    checked: FloatArray

    @property
    def mean_error(self) -> tuple[float, float]:
        """Mean cross-entropy of the fitted students less that of the law, and its standard error (NaN unchecked)."""
        S = len(self.checked)
        if S < FEWEST:
            return np.nan, np.nan
        error = np.hypot(self.checked.std(ddof=1) / np.sqrt(S), self.cross_entropy.std(ddof=1) / np.sqrt(self.n_draws))
        return float(self.checked.mean() - self.cross_entropy.mean()), float(error)

    @property
    def spread_ratio(self) -> tuple[float, float]:
        """Standard deviation of the fitted students over that of the law, and its standard error (NaN unchecked)."""
        if len(self.checked) < FEWEST:
            return np.nan, np.nan
        if max(np.ptp(self.checked), np.ptp(self.cross_entropy)) <= ROUNDING * abs(self.cross_entropy.mean()):
            return 1.0, 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = float(self.checked.std(ddof=1) / self.cross_entropy.std(ddof=1))
        squares = (self.checked - self.checked.mean()) ** 2
        return ratio, 0.5 * ratio * float(squares.std(ddof=1) / squares.mean()) / np.sqrt(len(squares))

    @property
    def n_draws(self) -> int:
        """Number of draws, N."""
        return len(self.accuracy)

    def quantile(self, prob: ArrayLike, *, of: str = "cross_entropy") -> FloatArray:
        """Return quantiles of ``cross_entropy`` or ``accuracy`` over students."""
        if of not in ("cross_entropy", "accuracy"):
            raise invalid("of", "be cross_entropy or accuracy", of)
        return np.asarray(np.quantile(getattr(self, of), np.asarray(prob, dtype=float)))

    def summary(self) -> str:
        """Return a printable table."""
        lines = [f"{self.n_draws} draws from the law of the students ({self.exactness})"]
        for name in ("cross_entropy", "accuracy"):
            values = getattr(self, name)
            error, sd = values.std(ddof=1) / np.sqrt(len(values)), values.std(ddof=1)
            lines.append(f"  {name:14} mean {values.mean():.5g} ± {error:.2g}   sd over students {sd:.4g}")
        for name in ("flips", "errors", "disagreement"):
            lines.append(f"  {name:14} mean over points {getattr(self, name).mean():.4g}")
        if len(self.checked) >= FEWEST:
            (off, off_se), (ratio, ratio_se) = self.mean_error, self.spread_ratio
            lines.append(
                f"  {len(self.checked)} fitted students: cross-entropy {off:+.2g} ± {off_se:.2g} higher, its sd "
                f"{ratio:.3g} ± {ratio_se:.2g} times as large"
            )
        return "\n".join(lines)


def risk_distribution(
    problem: DistillationProblem,
    target: Any = None,
    *,
    n_draws: int = 4000,
    n_students: int = 256,
    n_check_students: int = 256,
    rng: Any = None,
) -> RiskDistribution:
    """Return the law over students of test cross-entropy, accuracy and answers.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.SoftmaxStudent`, or a network with the head ``softmax`` that linear response covers.
    target : array_like, optional
        True classes at the query points as numbers 0 to C-1, shape (m,), or probabilities (m, C). Default: the
        teacher's own probabilities, where the query points are its inputs.
    n_draws : int, default 4000
        At least 100.
    n_students : int, default 256
        For networks: label sets along which the run is differentiated (and starts). At least 8.
    n_check_students : int, default 256
        Students that are really fitted or trained, on labels of their own, to judge the law of the cross-entropy:
        32 to 256, or 0 for none.
    rng : int, Generator, SeedSequence, Seeds or None
        See :func:`kdstats.streams.as_seeds`.

    Raises
    ------
    ProblemError
        If the target is missing or does not fit.
    UnsupportedProblemError
        For other students.

    Warns
    -----
    ApproximationWarning
        If the fitted students show (95% intervals) the standard deviation of the cross-entropy off by more than 10%,
        or its mean by more than a tenth of that, or do not show it within a factor 1.5.

    Notes
    -----
    First order in the noise of the labels. The check is of the cross-entropy; accuracy and answers follow from the same
    logits.
    """
    wanted = _target(problem, target)
    n_check_students = as_count("n_check_students", n_check_students, minimum=0)
    if 0 < n_check_students < FEWEST:
        as_count("n_check_students", n_check_students, minimum=FEWEST, reason="to judge a spread")
    if n_check_students > MOST_CHECKED:
        raise invalid("n_check_students", f"be at most {MOST_CHECKED}", n_check_students)
    n_draws = as_count("n_draws", n_draws, minimum=100)
    n_students = as_count("n_students", n_students, minimum=8)
    seeds = as_seeds(rng)
    centres, roots, exactness = _law(problem, n_students, seeds)
    generator = seeds.branch("risk").generator("teacher_output")
    entropies, accuracies = [], []
    votes = np.zeros(wanted.shape)
    for first in range(0, n_draws, BLOCK):
        count = min(BLOCK, n_draws - first)
        start = generator.integers(len(centres), size=count)
        pilot = generator.integers(len(roots), size=count)
        logits = centres[start]
        for number, root in enumerate(roots):
            mine = pilot == number
            logits[mine] += np.moveaxis(root @ generator.standard_normal((root.shape[2], int(mine.sum()))), -1, 0)
        answer = logits.argmax(axis=2)
        entropies.append(-(wanted * log_softmax(logits, axis=2)).sum(axis=2).mean(axis=1))
        accuracies.append(np.take_along_axis(wanted[None], answer[..., None], axis=2)[..., 0].mean(axis=1))
        for c in range(wanted.shape[1]):
            votes[:, c] += (answer == c).sum(axis=0)
    centre = centres[0].argmax(axis=1) if len(centres) == 1 else votes.argmax(axis=1)
    points = np.arange(len(votes))
    same = (votes * (votes - 1.0)).sum(axis=1) / (n_draws * (n_draws - 1.0))
    found = RiskDistribution(
        cross_entropy=np.concatenate(entropies),
        accuracy=np.concatenate(accuracies),
        flips=1.0 - votes[points, centre] / n_draws,
        errors=1.0 - votes[points, wanted.argmax(axis=1)] / n_draws,
        disagreement=1.0 - same,
        exactness=exactness,
        checked=_fitted_entropies(problem, wanted, n_check_students, seeds),
    )
    if n_check_students:
        _warn_of_misfit(found, n_check_students)
    return found


def _fitted_entropies(problem: DistillationProblem, wanted: FloatArray, n_students: int, seeds: Seeds) -> FloatArray:
    """Return the cross-entropy of students that are really fitted; those without a finite fit are left out."""
    if not n_students:
        return np.zeros(0)
    if isinstance(problem.student, SoftmaxStudent):
        model = softmax_regression(problem, problem.categorical_teacher.probabilities)
        fitted = SoftmaxFitter(problem=problem, seeds=seeds.branch("risk check"), model=model).block(0, n_students)
        p = np.maximum(fitted.probabilities[fitted.converged], np.finfo(float).tiny)
        return np.asarray(-(wanted * np.log(p)).sum(axis=2).mean(axis=1))
    from kdstats.prediction.networks.class_response import trained_logits

    logits = trained_logits(problem, n_students=n_students, seeds=seeds)
    return np.asarray(-(wanted * log_softmax(logits, axis=2)).sum(axis=2).mean(axis=1))


def _warn_of_misfit(found: RiskDistribution, asked: int) -> None:
    if len(found.checked) < FEWEST:
        warnings.warn(
            f"the law of the cross-entropy is not checked: {len(found.checked)} of {asked} sets of labels have a "
            "finite fit; give SoftmaxStudent a penalty, or more responses",
            ApproximationWarning,
            stacklevel=3,
        )
        return
    (off, off_se), (ratio, ratio_se) = found.mean_error, found.spread_ratio
    low, high = ratio - Z * ratio_se, ratio + Z * ratio_se
    spread = float(found.cross_entropy.std(ddof=1))
    is_off = low > 1.0 + TOLERANCE or high < 1.0 - TOLERANCE or abs(off) - Z * off_se > TOLERANCE * spread
    if is_off or not (low >= 1.0 / MARGIN and high <= MARGIN):
        warnings.warn(
            f"first order is not shown to hold for the law of the cross-entropy: {len(found.checked)} fitted students "
            f"differ in mean by {off:.3g} ± {off_se:.2g} and have {ratio:.3g} ({low:.3g} to {high:.3g}) times the "
            "standard deviation; take their quantiles (attribute checked), or more responses",
            ApproximationWarning,
            stacklevel=3,
        )


def _law(problem: DistillationProblem, n_students: int, seeds: Seeds) -> tuple[FloatArray, list[FloatArray], str]:
    """Return centres (S, m, C) and roots (m, C, r) of the logits, and how exact they are."""
    student = problem.student
    if isinstance(student, SoftmaxStudent):
        from kdstats.prediction.closed_form.softmax_law import softmax_law

        here = softmax_law(problem).at(problem.X_query)
        return (here.logits + here.logit_shift)[None], [here.logit_root], "asymptotic"
    if isinstance(student, NetworkStudent) and student.head == "softmax":
        from kdstats.prediction.networks.class_response import logit_law

        law = logit_law(problem, n_students=n_students, seeds=seeds)
        return law.centres, law.roots, "approximate"
    raise UnsupportedProblemError(
        "risks of classes need a SoftmaxStudent, or a NetworkStudent with head='softmax'; got a "
        f"{type(student).__name__}"
    )


def _target(problem: DistillationProblem, target: Any) -> FloatArray:
    """Return probabilities of the true class, shape (m, C)."""
    if not isinstance(problem, DistillationProblem):
        raise invalid("problem", "be a DistillationProblem", f"a {type(problem).__name__}")
    teacher, m = problem.categorical_teacher, problem.n_points
    if target is None:
        if problem.design.X_query is not None:
            raise invalid("target", "be given where the query points are not the teacher's inputs", None)
        return teacher.probabilities
    values = np.asarray(target)
    if values.ndim == 2:
        values = CategoricalTeacher(values).probabilities
        if values.shape != (m, teacher.n_outputs):
            raise invalid("target", f"have shape ({m},) or ({m}, {teacher.n_outputs})", f"shape {values.shape}")
        return np.asarray(values)
    if values.shape != (m,) or values.dtype.kind not in "iu":
        raise invalid("target", f"be {m} whole numbers, or probabilities ({m}, {teacher.n_outputs})", values.shape)
    for number in (int(values.min()), int(values.max())):
        as_number("target", number, minimum=0.0, maximum=teacher.n_outputs - 1.0)
    return np.asarray(np.eye(teacher.n_outputs)[values])
