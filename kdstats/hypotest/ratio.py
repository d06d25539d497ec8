r"""Tests of the ratio of two strategies' variances, for students that share teacher draws and for students that do not.

Averages over points are compared. Which law the ratio has is in the module named for it:
:mod:`kdstats.hypotest.unpaired_ratio` and :mod:`kdstats.hypotest.paired_ratio` (Gaussian students),
:mod:`kdstats.hypotest.resampled_ratio` (students of any law) and :mod:`kdstats.hypotest.component_ratio` (intra-student
and total variance).
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.components.result import COMPONENTS, VarianceComponents
from kdstats.errors import ApproximationWarning, ComparisonError
from kdstats.hypotest.component_ratio import component_ratio
from kdstats.hypotest.paired_ratio import paired_ratio
from kdstats.hypotest.ratio_result import RatioResult
from kdstats.hypotest.resampled_ratio import Resampling, far_students
from kdstats.hypotest.student_space import refuse_sampled_means, student_rows, warn_of_shared_seeds
from kdstats.hypotest.unpaired_ratio import independent_ratio
from kdstats.problem.validation import as_choice, as_count, as_flag, as_number

__all__ = ["RatioResult", "ratio_test"]

FloatArray = NDArray[np.float64]

ALTERNATIVES = ("two-sided", "less", "greater")
METHODS = ("normal", "kurtosis", "bootstrap", "permutation")
#: Methods that need not know each student's own squared distance.
OF_MEANS = ("normal", "kurtosis")
#: Fewest students of each strategy, unpaired and paired.
MINIMUM = {False: 2, True: 3}
#: What to do about students that are not Gaussian.
OTHERWISE = "the level of method='normal' is not held; from 40 students on take method='permutation'"
#: What is said of observations of one seed.
SHARED = "`observed_b` shares the seed of `observed_a`"
PAIRING = (
    "set `paired=True` if student s of both had the same teacher draws (the same number of responses), else give each "
    "its own `rng`"
)
NO_PAIRING = (
    "give each its own `rng`, for intra-student and total variances are compared as those of independent students"
)


def ratio_test(
    observed_a: VarianceComponents,
    observed_b: VarianceComponents,
    *,
    paired: bool = False,
    component: str = "inter_student",
    null_ratio: float = 1.0,
    alternative: str = "two-sided",
    method: str = "normal",
    effective_rank: float | None = None,
    n_resamples: int = 9999,
    rng: Any = None,
) -> RatioResult:
    """Test the ratio of two strategies' variances, averaged over points and outputs.

    Parameters
    ----------
    observed_a, observed_b : VarianceComponents
        Observations of the two strategies at the same points; with ``student_predictions`` for inter-student variance.
    paired : bool, default False
        Whether student s of one and student s of the other share teacher draws, so that they are correlated.
    component : {"inter_student", "intra_student", "total"}
        What is compared. Only inter-student variance can be paired.
    null_ratio : float, default 1
        First over second variance under the null hypothesis.
    alternative : {"two-sided", "less", "greater"}
        Of the first over the second variance.
    method : {"normal", "kurtosis", "bootstrap", "permutation"}
        ``"normal"``: Gaussian students. ``"kurtosis"``: standard error of the log ratio from the students themselves
        (inter-student variance: jackknife), Student's t. The others are for inter-student variance only.
        ``"bootstrap"``: the law of that statistic from resampled students (bootstrap-t). ``"permutation"``: from
        students (paired: the two of each pair) exchanged between the strategies after centring and scaling by
        ``null_ratio``.
    effective_rank : float, optional
        Independent points that the query points amount to for either strategy, from a prediction; covariances are then
        taken for proportional. Default: estimated from the students, for each strategy.
    n_resamples : int, default 9999
        Of the bootstrap or permutation.
    rng : int, Generator or None
        Of the bootstrap or permutation.

    Returns
    -------
    RatioResult
        ``unreliable`` names what speaks against p-value and interval.

    Raises
    ------
    ComparisonError
        Points differ, predictions are missing, replicates were sampled, pairs of unequal numbers, or fewer students
        than the method is known to hold its level with: 30 for "kurtosis" and "bootstrap" (200 for intra-student and
        total variance), 40 for "permutation".

    Warns
    -----
    DependentStudentsWarning
        If students of one seed are compared as independent.
    ApproximationWarning
        If the result is marked unreliable.

    Notes
    -----
    ``"normal"`` is exact at one point, unpaired (F) and paired (t with S-2 degrees of freedom). For several points
    it uses effective degrees of freedom, estimated for each strategy from the sample covariance as it stands: the level
    is then *at most* the nominal one, and far below it for few students at many independent points (.02 with 30
    students at 10 independent points, .00 with 5). A prediction knows better: ``effective_rank=``. Pairs at several
    points take the larger p-value of F and t, and the hull of both intervals. The intra-student ratio is F where
    outputs were sampled, Welch's t where own variances are known; the total is recovered from the intervals of its two
    mean squares and has at most the nominal level too.

    Gaussian students are assumed by ``"normal"``: from 20 students on (5 for the outputs of each), excess kurtosis
    or skewness found at the 5% level marks the result unreliable. It also marks "kurtosis" and "bootstrap" with fewer
    than 500 students; "permutation" held its level with 40 exponential students. With fewer, no test of skewed
    students holds.

    Students of kdstats are paired by position where both strategies draw the same number of responses from the same
    seed. With different numbers of responses one seed does not pair them: give each strategy its own.

    References
    ----------
    E. J. G. Pitman, "A note on normal correlation", Biometrika 31, 1939.

    R. G. Miller, "Jackknifing variances", Annals of Mathematical Statistics 39, 1968.

    W. A. Morgan, "A test for the significance of the difference between the two variances in a sample from a
    normal bivariate population", Biometrika 31, 1939.

    Examples
    --------
    >>> import kdstats as kd
    >>> problem = kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8)
    >>> one = kd.observe(problem, n_students=200, rng=1)
    >>> five = kd.observe(problem.with_design(n_responses=5, strategy="averaging"), n_students=200, rng=2)
    >>> result = kd.ratio_test(one, five)
    >>> low, high = result.confidence_interval()
    >>> result.pvalue < 1e-10, low < 5 < high
    (True, True)
    """
    as_choice("component", component, COMPONENTS)
    as_choice("alternative", alternative, ALTERNATIVES)
    as_choice("method", method, METHODS)
    null = as_number("null_ratio", null_ratio, minimum=0.0, exclusive=True)
    n_resamples = as_count("n_resamples", n_resamples, minimum=99)
    given = None if effective_rank is None else as_number("effective_rank", effective_rank, minimum=1.0)
    together = as_flag("paired", paired)
    if component != "inter_student":
        if method not in OF_MEANS or together:
            raise ComparisonError(
                f"`component` must be 'inter_student' for paired students or another method; got {component!r}"
            )
        _check_points(observed_a, observed_b)
        warn_of_shared_seeds((observed_a, observed_b), f"{SHARED}: {NO_PAIRING}", stacklevel=2)
        of_means = component_ratio(
            observed_a, observed_b, component, null_ratio=null, alternative=alternative, method=method
        )
        return _told(of_means)
    rows = _rows(observed_a, observed_b)
    if not together:
        warn_of_shared_seeds((observed_a, observed_b), f"{SHARED}: {PAIRING}", stacklevel=2)
    if together and len(rows[0]) != len(rows[1]):
        raise ComparisonError(
            f"`observed_b` must have the students of `observed_a`, {len(rows[0])}, to be paired; got {len(rows[1])}"
        )
    a, b = (item - item.mean(axis=0) for item in rows)
    if min(len(a), len(b)) < MINIMUM[together]:
        raise ComparisonError(
            f"`observed_b` must have at least {MINIMUM[together]} students; got {min(len(a), len(b))}"
        )
    if not (a.any() and b.any()):
        raise ComparisonError(
            "`observed_a` and `observed_b` must vary between students; got students that are all equal"
        )
    if method == "normal":
        found = (paired_ratio if together else independent_ratio)(a, b, null, alternative, rank=given)
        doubt = far_students(a, b)
        return _told(replace(found, unreliable=f"{doubt}: {OTHERWISE}") if doubt else found)
    resampled = Resampling(
        a=a, b=b, paired=together, n_resamples=n_resamples, rng=np.random.default_rng(rng), method=method
    )
    return _told(resampled.result(null, alternative))


def _told(result: RatioResult) -> RatioResult:
    if result.unreliable:
        warnings.warn(f"the ratio is unreliable: {result.unreliable}", ApproximationWarning, stacklevel=3)
    return result


def _rows(observed_a: Any, observed_b: Any) -> tuple[FloatArray, FloatArray]:
    _check_points(observed_a, observed_b)
    for name, item in (("observed_a", observed_a), ("observed_b", observed_b)):
        refuse_sampled_means(name, item)
    labels = {
        "points": observed_a.inter_student["point"].values.tolist(),
        "outputs": observed_a.inter_student["output"].values.tolist(),
    }
    return student_rows("observed_a", observed_a, **labels), student_rows("observed_b", observed_b, **labels)


def _check_points(observed_a: Any, observed_b: Any) -> None:
    for name, item in (("observed_a", observed_a), ("observed_b", observed_b)):
        if not isinstance(item, VarianceComponents):
            raise ComparisonError(f"`{name}` must be VarianceComponents; got a {type(item).__name__}")
        if item.exactness != "observed":
            raise ComparisonError(f"`{name}` must be an observation; got a prediction ({item.engine})")
    labels = [sorted(map(repr, item.inter_student["point"].values.tolist())) for item in (observed_a, observed_b)]
    if labels[0] != labels[1]:
        raise ComparisonError("`observed_b` must have the points of `observed_a`; got others")
