r"""Bayesian students: a prior, a likelihood, and the posterior that they stand for.

A Bayesian student is described, not fitted, here. Its posterior predictive distribution is its own
honest intra-student variance: uncertainty about the parameters plus noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdstats.errors import invalid
from kdstats.problem.validation import as_array, as_choice, as_covariance, as_flag, as_number

__all__ = ["BAYESIAN_MODELS", "CLASS_MODELS", "BayesianLinearStudent", "BayesianStudent"]

#: Models of :class:`BayesianStudent` by name.
BAYESIAN_MODELS = ("gaussian", "student_t", "hierarchical", "horseshoe", "logistic", "softmax")
#: Those of class labels.
CLASS_MODELS = ("logistic", "softmax")


@dataclass(frozen=True, eq=False, kw_only=True)
class BayesianLinearStudent:
    r"""Bayesian linear regression on the teacher's labels, with its conjugate posterior.

    With noise variance :math:`s^2` (a label's variance, as the student believes),

    .. math:: y_i \mid w \sim N(x_i'w,\, s^2), \qquad w \sim N(m_0,\, \Lambda^{-1}).

    Known noise: :math:`\Lambda^{-1}` is ``prior_variance``. Unknown noise (``noise_variance=None``):
    :math:`s^2 \sim \mathrm{InvGamma}(a_0, b_0)` and the prior variance of the coefficients is
    :math:`s^2` times ``prior_variance`` (normal-inverse-gamma), so it is in units of the noise variance.
    An intercept has a flat prior. With k responses kept as rows (strategy ``multi_response``) the
    likelihood runs over all kn rows.

    A student's output at x is a draw from its posterior predictive distribution: its variance has a
    parameter part, :math:`x'\mathrm{Cov}(w)x`, and a noise part, the posterior mean of :math:`s^2`.

    Parameters
    ----------
    prior_variance : float, (p, p) array_like or "evidence", default 1.0
        Prior variance of each coefficient (infinity: a flat prior), their prior covariance, or
        ``"evidence"``: each student takes the variance that maximises the evidence of its own labels
        (empirical Bayes; type II maximum likelihood).
    prior_mean : (p,) or (p, q) array_like or "teacher", optional
        Prior mean of the coefficients. ``"teacher"`` centres the prior at the teacher: at the
        least-squares coefficients of the teacher's noiseless mean, which a student has where it is given
        the teacher's own parameters. Default: 0.
    noise_variance : float, optional
        Variance of one label that the student is told, greater than 0. Default: unknown.
    fit_intercept : bool, default False
        Whether there is an intercept, with a flat prior.
    noise_shape, noise_scale : float, default 0.0
        :math:`a_0` and :math:`b_0` of the prior of an unknown noise variance. 0 and 0 stand for the
        improper prior :math:`p(s^2) \propto 1/s^2`.
    likelihood_power : float, default 1.0
        Power to which the likelihood is raised. The mean of k responses weighs as much as k rows when the
        power is k and the noise variance that of one response.

    Raises
    ------
    ProblemError
        If a value is out of range, a covariance is not positive definite, or options contradict each other.

    References
    ----------
    Bishop, C. M. (2006), *Pattern Recognition and Machine Learning*, chapter 3 (posterior, evidence).
    """

    prior_variance: NDArray[np.float64] | float | str = 1.0
    prior_mean: NDArray[np.float64] | str | None = None
    noise_variance: float | None = None
    fit_intercept: bool = False
    noise_shape: float = 0.0
    noise_scale: float = 0.0
    likelihood_power: float = 1.0

    if TYPE_CHECKING:  # what users may pass; the fields hold canonical arrays

        def __init__(
            self,
            *,
            prior_variance: ArrayLike | str = 1.0,
            prior_mean: ArrayLike | str | None = None,
            noise_variance: float | None = None,
            fit_intercept: bool = False,
            noise_shape: float = 0.0,
            noise_scale: float = 0.0,
            likelihood_power: float = 1.0,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "fit_intercept", as_flag("fit_intercept", self.fit_intercept))
        object.__setattr__(self, "prior_variance", _as_prior_variance(self.prior_variance))
        if isinstance(self.prior_mean, str):
            as_choice("prior_mean", self.prior_mean, ("teacher",))
        elif self.prior_mean is not None:
            object.__setattr__(self, "prior_mean", as_array("prior_mean", self.prior_mean, ndim=(1, 2)))
        if self.prior_mean is not None and self.is_flat:
            raise invalid("prior_mean", "be left out with an infinite prior_variance, which has no centre", "given")
        if self.noise_variance is not None:
            told = as_number("noise_variance", self.noise_variance, minimum=0.0, exclusive=True)
            object.__setattr__(self, "noise_variance", told)
        for name in ("noise_shape", "noise_scale"):
            value = as_number(name, getattr(self, name), minimum=0.0)
            if value > 0.0 and self.noise_variance is not None:
                raise invalid(name, "be left out when the noise variance is known", value)
            object.__setattr__(self, name, value)
        power = as_number("likelihood_power", self.likelihood_power, minimum=0.0, exclusive=True)
        object.__setattr__(self, "likelihood_power", power)

    @property
    def is_flat(self) -> bool:
        """Whether the prior of the coefficients is flat."""
        return isinstance(self.prior_variance, float) and bool(np.isinf(self.prior_variance))

    @property
    def maximises_evidence(self) -> bool:
        """Whether each student chooses its prior variance from its own labels."""
        return isinstance(self.prior_variance, str)


@dataclass(frozen=True, eq=False, kw_only=True)
class BayesianStudent:
    r"""Bayesian regression without a closed form: its posterior is sampled with PyMC.

    With coefficients :math:`w_j \sim N(0, v)`, an intercept :math:`a \sim N(0, 100 s_0^2)` and a noise
    standard deviation :math:`s \sim \mathrm{HalfNormal}(s_0)`:

    ``"gaussian"``
        :math:`y \sim N(a + x'w, s^2)`, coefficients and noise independent a priori.
    ``"student_t"``
        Student t noise of scale s with :math:`\nu \sim 2 + \mathrm{Gamma}(2, 0.1)` degrees of freedom.
    ``"hierarchical"``
        :math:`y \sim N(a + u_{g} + x'w, s^2)` with group effects :math:`u_g \sim N(0, t^2)`,
        :math:`t \sim \mathrm{HalfNormal}(s_0)`.
    ``"horseshoe"``
        Regularised horseshoe prior of the coefficients with slab variance v and global scale half-Cauchy
        (Piironen & Vehtari 2017).

    On the class labels of a :class:`~kdstats.CategoricalTeacher`, with an intercept of prior variance 100:

    ``"logistic"``
        Two classes, :math:`\mathrm{logit}\,P(\text{second}) = a + x'w`.
    ``"softmax"``
        :math:`P(c) \propto \exp(a_c + x'w_c)`, coefficients of every class independent a priori; sampled without
        the direction along which nothing changes, that is with zero sum over classes. For two classes the logit has
        coefficients of variance 2v.

    Parameters
    ----------
    model : str or callable, default "student_t"
        A name above, or a function ``model(data)`` that adds its variables to the PyMC model in context, for
        all students at once: every variable has ``"student"`` as its first dim. ``data`` maps ``X`` (row, feature),
        ``X_query`` (point, feature) and ``labels`` (student, row) to shared data. The function has to define
        ``prediction`` (student, point), the mean of an output given the parameters, and may define
        ``prediction_variance`` (student, point), its variance.
    prior_variance : float, default 1.0
        v, greater than 0.
    noise_scale : float, default 1.0
        :math:`s_0`, in units of the labels.
    fit_intercept : bool, default True
        Whether there is an intercept.
    groups : (n,) array_like of int, optional
        Group of each training input, for ``"hierarchical"``; numbers from 0.
    query_groups : (m,) array_like of int, optional
        Group of each query point.
    likelihood_power : float, default 1.0
        Power to which the likelihood is raised. Mean labels of k responses weigh as one row, and as k with power k
        (exactly for classes, whose mean label is a sufficient statistic).
    teacher_weight : float, default 0.0
        For classes: how many soft labels of the teacher, per input, the prior is worth. It is multiplied by
        :math:`\exp(\tau\sum_i\sum_c p_{ic}\log q_c(x_i))` with the teacher's probabilities p and the student's q,
        so that the mode of the posterior minimises the loss of distillation: cross-entropy to the labels,
        plus :math:`\tau` times cross-entropy to the teacher, plus a ridge (Fang et al. 2024).

    References
    ----------
    Fang, L., Chen, Y., Zhong, W. & Ma, P. (2024), Bayesian Knowledge Distillation, ICML (teacher-informed prior).
    Piironen, J. & Vehtari, A. (2017), Electronic Journal of Statistics 11 (regularised horseshoe).
    """

    model: str | Callable[[Any], None] = "student_t"
    prior_variance: float = 1.0
    noise_scale: float = 1.0
    fit_intercept: bool = True
    groups: NDArray[np.int64] | None = None
    query_groups: NDArray[np.int64] | None = None
    likelihood_power: float = 1.0
    teacher_weight: float = 0.0

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            model: str | Callable[[Any], None] = "student_t",
            prior_variance: float = 1.0,
            noise_scale: float = 1.0,
            fit_intercept: bool = True,
            groups: ArrayLike | None = None,
            query_groups: ArrayLike | None = None,
            likelihood_power: float = 1.0,
            teacher_weight: float = 0.0,
        ) -> None: ...

    def __post_init__(self) -> None:
        if not callable(self.model):
            as_choice("model", self.model, BAYESIAN_MODELS)
        for name in ("prior_variance", "noise_scale", "likelihood_power"):
            object.__setattr__(self, name, as_number(name, getattr(self, name), minimum=0.0, exclusive=True))
        object.__setattr__(self, "fit_intercept", as_flag("fit_intercept", self.fit_intercept))
        self._check_reach()
        for name in ("groups", "query_groups"):
            value = getattr(self, name)
            if (value is not None) != (self.model == "hierarchical"):
                rule = "be given with model='hierarchical'" if value is None else "be left out of this model"
                raise invalid(name, rule, "nothing" if value is None else "groups")
            if value is not None:
                object.__setattr__(self, name, _as_groups(name, value))
        if self.groups is not None and self.query_groups is not None and self.query_groups.max() > self.groups.max():
            raise invalid(
                "query_groups",
                f"be groups of the training inputs, 0 to {self.groups.max()}",
                int(self.query_groups.max()),
            )

    @property
    def is_of_classes(self) -> bool:
        """Whether the labels are classes."""
        return not callable(self.model) and self.model in CLASS_MODELS

    def _check_reach(self) -> None:
        """Check options that not every model has."""
        weight = as_number("teacher_weight", self.teacher_weight, minimum=0.0)
        object.__setattr__(self, "teacher_weight", weight)
        if weight > 0.0 and not self.is_of_classes:
            raise invalid("teacher_weight", f"be 0 but for {' and '.join(CLASS_MODELS)}", weight)
        if self.likelihood_power != 1.0 and callable(self.model):
            raise invalid("likelihood_power", "be 1 for a model of your own", self.likelihood_power)
        if self.noise_scale != 1.0 and self.is_of_classes:
            raise invalid("noise_scale", "be left out for classes", self.noise_scale)


def _as_groups(name: str, value: object) -> NDArray[np.int64]:
    numbers = as_array(name, value, ndim=1)
    if (numbers < 0).any() or (numbers != np.round(numbers)).any():
        raise invalid(name, "be whole numbers from 0", f"{numbers[(numbers < 0) | (numbers % 1 != 0)][0]:g}")
    groups = numbers.astype(np.int64)
    groups.flags.writeable = False
    return groups


def _as_prior_variance(value: object) -> NDArray[np.float64] | float | str:
    if isinstance(value, str):
        return as_choice("prior_variance", value, ("evidence",))
    if np.ndim(value) == 0:  # type: ignore[arg-type]
        if isinstance(value, (float, np.floating)) and np.isposinf(value):
            return float("inf")
        return as_number("prior_variance", value, minimum=0.0, exclusive=True)
    matrix = as_array("prior_variance", value, ndim=2)
    matrix = as_covariance("prior_variance", matrix, matrix.shape[0])
    smallest = float(np.linalg.eigvalsh(matrix)[0])
    if smallest <= 0.0:
        raise invalid("prior_variance", "be positive definite", f"smallest eigenvalue {smallest:.3g}")
    return matrix
