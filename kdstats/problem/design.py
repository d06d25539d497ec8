"""Designs: where students are asked, how responses become labels, what is random."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdstats.errors import invalid
from kdstats.problem.validation import as_array, as_choice, as_count, as_covariance, as_labels, as_matrix

__all__ = ["SOURCES", "STRATEGIES", "VARIANCE_ESTIMATES", "Design", "VarianceWeighting", "pilot_split"]

SOURCES = ("teacher_output", "student_initialization", "data_order", "data_resampling", "student_output")
STRATEGIES = ("single", "averaging", "multi_response", "variance_weighting", "soft_labels")
#: Weights whose response variances each student estimates from its own responses.
VARIANCE_ESTIMATES = ("pooled", "per_input", "shrunken")
#: Degrees of freedom up to which the inverse of an estimated variance has infinite variance.
INFINITE_VARIANCE_DF = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class VarianceWeighting:
    r"""How the strategy ``variance_weighting`` mixes responses with a student's own estimate.

    The label is :math:`\alpha\,\bar y + (1-\alpha)\,\hat s` per input, with :math:`\bar y` the mean
    of the responses and :math:`\hat s` an estimate that a student has of its own.

    Parameters
    ----------
    student_estimate : {"pilot", "teacher_mean"} or (n,) array_like, default "pilot"
        ``"pilot"``: predictions of a pilot student of the same kind, trained on the first
        ``k // 2`` of the k responses, while :math:`\bar y` is the mean of the others; the two
        are independent, so no covariance has to be known. Needs k >= 2.
        ``"teacher_mean"``: the teacher's noiseless mean, which nobody has; an **oracle**, kept as a
        bound and labelled so in every result. An array: fixed numbers.
    student_variance : float, (n,) or (n, n) array_like, optional
        Variance of an array estimate around its mean, over students. Default 0. Not with
        ``"pilot"``, whose variance follows from the problem, or ``"teacher_mean"``.
    weight : {"known", "pooled", "per_input", "shrunken", "estimated"}, float or (n,) array_like, default "known"
        ``"known"``: the minimum-variance weight from the true variances, bias b and covariance c,
        :math:`\alpha = (v_S + b^2 - c) / (v_T + v_S + b^2 - 2c)`, kept within [0, 1]; :math:`v_T`
        is the variance of :math:`\bar y`. The next three are what a user can have without knowing
        the teacher's noise; not with ``"teacher_mean"``. Response variances :math:`s_i^2` are
        estimated from the student's own k responses around their mean (with the pilot around the
        means of both halves, which leaves k - 2 degrees of freedom and keeps them independent of
        both), taken as independent, and :math:`\alpha_i = e/(e + s_i^2/k_2)`, with :math:`k_2` the
        number of responses in :math:`\bar y`. ``"pooled"``: one variance for all inputs.
        ``"per_input"``: each input its own; refused up to 4 degrees of freedom, where the inverse
        variance has infinite variance. ``"shrunken"``: variances of the inputs moved toward a
        common one by empirical Bayes (Smyth 2004), from 1 degree of freedom. ``"estimated"``
        (with ``"teacher_mean"`` only): the published weight
        :math:`\sigma^2 / (\hat\sigma^2 + \sigma^2)`, with the empirical variance of the k
        responses (divisor k) and the true one. Needs k >= 2. Numbers within [0, 1] are used as
        they are.
    student_error : {"estimated", "known"}, default "estimated"
        Where the mean squared error :math:`e = v_S + b^2` of the student's own estimate comes from
        in those three. ``"estimated"``: the mean over inputs of
        :math:`(\hat s_i - \bar y_i)^2 - s_i^2/k_2`, or 0 if that is negative; unbiased before the
        cut where the two are uncorrelated, and one number for all inputs. ``"known"``: the true
        one at each input, with the true covariance c; it takes the noiseless teacher to know.
    """

    student_estimate: str | NDArray[np.float64] = "pilot"
    student_variance: NDArray[np.float64] | None = None
    weight: str | NDArray[np.float64] = "known"
    student_error: str = "estimated"

    if TYPE_CHECKING:  # what users may pass; the fields hold canonical arrays

        def __init__(
            self,
            *,
            student_estimate: str | ArrayLike = "pilot",
            student_variance: ArrayLike | None = None,
            weight: str | ArrayLike = "known",
            student_error: str = "estimated",
        ) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.student_estimate, str):
            as_choice("student_estimate", self.student_estimate, ("pilot", "teacher_mean"))
            if self.student_variance is not None:
                raise invalid("student_variance", "be left out unless `student_estimate` is an array", "both")
        else:
            estimate = as_array("student_estimate", self.student_estimate, ndim=1)
            object.__setattr__(self, "student_estimate", estimate)
            variance = as_array(
                "student_variance", 0.0 if self.student_variance is None else self.student_variance, ndim=(0, 1, 2)
            )
            if variance.ndim == 2:
                variance = as_covariance("student_variance", variance, estimate.size)
            elif variance.ndim == 1 and variance.shape != estimate.shape:
                raise invalid("student_variance", f"have shape {estimate.shape}", f"shape {variance.shape}")
            elif (variance < 0).any():
                raise invalid("student_variance", "be at least 0", float(variance.min()))
            object.__setattr__(self, "student_variance", variance)
        if isinstance(self.weight, str):
            as_choice("weight", self.weight, ("known", *VARIANCE_ESTIMATES, "estimated"))
            if self.is_oracle and self.weight in VARIANCE_ESTIMATES:
                raise invalid(
                    "weight", "be 'known', 'estimated' or numbers with the oracle 'teacher_mean'", self.weight
                )
            if self.weight == "estimated" and not self.is_oracle:
                raise invalid(
                    "weight",
                    f"be 'known', {', '.join(map(repr, VARIANCE_ESTIMATES))} or numbers unless `student_estimate` is "
                    "'teacher_mean'",
                    self.weight,
                )
        else:
            weight = as_array("weight", self.weight, ndim=(0, 1))
            if (weight < 0).any() or (weight > 1).any():
                raise invalid("weight", "be within [0, 1]", f"{weight.min():g} to {weight.max():g}")
            object.__setattr__(self, "weight", weight)
        as_choice("student_error", self.student_error, ("estimated", "known"))
        if self.student_error == "known" and self.variance_estimate is None:
            raise invalid(
                "student_error", f"be left out unless weight is one of {', '.join(VARIANCE_ESTIMATES)}", "'known'"
            )

    @property
    def uses_pilot(self) -> bool:
        """Whether the student's own estimate comes from a pilot student."""
        return isinstance(self.student_estimate, str) and self.student_estimate == "pilot"

    @property
    def takes_own_error(self) -> bool:
        """Whether the weights take the true error of the student's own estimate."""
        return (isinstance(self.weight, str) and self.weight == "known") or self.student_error == "known"

    @property
    def bound(self) -> str | None:
        """What the labels of a pilot or an oracle take that no user has, in words; None if nothing."""
        if self.is_oracle:
            return "oracle: the labels use the noiseless teacher mean, which no user has"
        if isinstance(self.weight, str) and self.weight == "known":
            return "oracle: the weights use the true variances and the true error of the student's own estimate"
        if self.student_error == "known":
            return "oracle: the weights use the true error of the student's own estimate"
        return None

    @property
    def weight_is_estimated(self) -> bool:
        """Whether the weight is the published one, from the empirical variance and the true one."""
        return isinstance(self.weight, str) and self.weight == "estimated"

    @property
    def variance_estimate(self) -> str | None:
        """How each student estimates response variances from its own responses; None if it does not."""
        return self.weight if isinstance(self.weight, str) and self.weight in VARIANCE_ESTIMATES else None

    def variance_degrees_of_freedom(self, n_responses: int) -> int:
        """Return the degrees of freedom that k responses to one input leave for its variance."""
        return n_responses - (2 if self.uses_pilot else 1)

    @property
    def is_oracle(self) -> bool:
        """Whether the mixture uses the noiseless teacher mean, which no user has."""
        return isinstance(self.student_estimate, str) and self.student_estimate == "teacher_mean"


def pilot_split(n_responses: int) -> tuple[int, int]:
    """Return how many of k responses train the pilot student and how many are averaged."""
    return n_responses // 2, n_responses - n_responses // 2


@dataclass(frozen=True, eq=False)
class Design:
    r"""Where predictions are wanted and how the distillation is run.

    Parameters
    ----------
    X_query : array_like or DataFrame, shape (m, p), optional
        Points at which students predict. Default: the training inputs. The index of a DataFrame
        becomes the labels of dimension ``point``.
    n_responses : int, default 1
        Responses k that the teacher gives to each input.
    strategy : {"single", "averaging", "multi_response", "variance_weighting", "soft_labels"}
        Default "single" for one response, "averaging" otherwise. ``single`` takes k = 1. ``soft_labels``
        hands over a CategoricalTeacher's probabilities themselves, with the weight of k responses.
    sources : iterable of str, optional
        Sources of randomness that are on; the others are held at their mean (an initialization
        that has no useful mean, of a network, is held at one common draw, and so are the order of
        mini-batches and the masks of dropout in training). Default: all, with
        ``data_resampling`` only where ``resample_size`` is given.
    resample_size : int, optional
        Each student sees this many rows, drawn with replacement from the n labelled inputs
        (m-out-of-n bootstrap).
    weighting : VarianceWeighting, optional
        For strategy ``variance_weighting`` only. Default: the pilot with known variances.
    n_generations : int, default 1
        Length of a chain of distillations: each student becomes the next one's teacher, with
        fresh noise of the teacher's covariance on its predictions at the inputs.
    point_labels : sequence, optional
        Labels of the query points. Default: the index of a DataFrame, else 0 to m-1.

    Raises
    ------
    ProblemError
        If a value is out of range, or options contradict each other.
    """

    X_query: NDArray[np.float64] | None = None
    n_responses: int = field(default=1, kw_only=True)
    strategy: str | None = field(default=None, kw_only=True)
    sources: frozenset[str] = field(default=None, kw_only=True)  # type: ignore[arg-type]
    resample_size: int | None = field(default=None, kw_only=True)
    weighting: VarianceWeighting | None = field(default=None, kw_only=True)
    n_generations: int = field(default=1, kw_only=True)
    point_labels: tuple[Any, ...] | None = field(default=None, kw_only=True)

    if TYPE_CHECKING:  # what users may pass; the fields hold canonical arrays

        def __init__(
            self,
            X_query: ArrayLike | None = None,
            *,
            n_responses: int = 1,
            strategy: str | None = None,
            sources: Iterable[str] | None = None,
            resample_size: int | None = None,
            weighting: VarianceWeighting | None = None,
            n_generations: int = 1,
            point_labels: Iterable[Any] | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        k = as_count("n_responses", self.n_responses)
        strategy = self.strategy if self.strategy is not None else ("single" if k == 1 else "averaging")
        as_choice("strategy", strategy, STRATEGIES)
        if strategy == "single" and k != 1:
            raise invalid("n_responses", "be 1 with strategy 'single' (or choose 'averaging')", k)
        object.__setattr__(self, "n_responses", k)
        object.__setattr__(self, "strategy", strategy)
        self._set_points()
        self._set_sources()
        self._set_weighting()
        object.__setattr__(self, "n_generations", as_count("n_generations", self.n_generations))
        if self.n_generations > 1 and strategy == "variance_weighting":
            raise invalid("n_generations", "be 1 with strategy 'variance_weighting'", self.n_generations)

    def _set_points(self) -> None:
        labels = self.point_labels
        if labels is None and self.X_query is not None and hasattr(self.X_query, "index"):
            labels = tuple(self.X_query.index) if not callable(self.X_query.index) else None
        if self.X_query is not None:
            object.__setattr__(self, "X_query", as_matrix("X_query", self.X_query))
            if labels is not None:
                labels = as_labels("point_labels", labels, self.X_query.shape[0])
        elif labels is not None:
            labels = as_labels("point_labels", labels, len(labels) if isinstance(labels, Sized) else 0)
        object.__setattr__(self, "point_labels", labels)

    def _set_sources(self) -> None:
        size = self.resample_size
        if size is not None:
            object.__setattr__(self, "resample_size", as_count("resample_size", size))
        if self.sources is None:
            chosen = frozenset(SOURCES) - (frozenset() if size is not None else {"data_resampling"})
        else:
            given: Any = (self.sources,) if isinstance(self.sources, str) else self.sources
            if not isinstance(given, Iterable):
                raise invalid("sources", f"be names out of {', '.join(SOURCES)}", given)
            chosen = frozenset(as_choice("sources", source, SOURCES) for source in given)
        if size is not None and "data_resampling" not in chosen:
            raise invalid("resample_size", "be left out when the source 'data_resampling' is off", size)
        object.__setattr__(self, "sources", chosen)

    def _set_weighting(self) -> None:
        if self.strategy != "variance_weighting":
            if self.weighting is not None:
                raise invalid("weighting", "be left out unless strategy is 'variance_weighting'", self.strategy)
            return
        weighting = self.weighting if self.weighting is not None else VarianceWeighting()
        if not isinstance(weighting, VarianceWeighting):
            raise invalid("weighting", "be a VarianceWeighting", weighting)
        if weighting.weight_is_estimated and self.n_responses < 2:
            raise invalid(
                "n_responses",
                "be at least 2 to estimate a response variance for the weight (it is 0 with one response)",
                self.n_responses,
            )
        if weighting.uses_pilot and self.n_responses < 2:
            raise invalid(
                "n_responses",
                "be at least 2 to train a pilot student on responses of its own",
                self.n_responses,
            )
        if weighting.variance_estimate is not None:
            _check_degrees_of_freedom(weighting, self.n_responses)
        object.__setattr__(self, "weighting", weighting)


def _check_degrees_of_freedom(weighting: VarianceWeighting, n_responses: int) -> None:
    """Refuse weights from response variances that k responses do not determine well enough."""
    spent = n_responses - weighting.variance_degrees_of_freedom(n_responses)
    wish = f"with weight={weighting.variance_estimate!r}" + (" and a pilot" if weighting.uses_pilot else "")
    if n_responses <= spent:
        raise invalid(
            "n_responses",
            f"be at least {spent + 1} {wish} (fewer leave no degrees of freedom for a response variance)",
            n_responses,
        )
    if weighting.variance_estimate == "per_input" and n_responses <= spent + INFINITE_VARIANCE_DF:
        raise invalid(
            "n_responses",
            f"be at least {spent + INFINITE_VARIANCE_DF + 1} {wish} (the inverse of a variance with up to "
            f"{INFINITE_VARIANCE_DF} degrees of freedom has infinite variance; 'pooled' and 'shrunken' take fewer)",
            n_responses,
        )
