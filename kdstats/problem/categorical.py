"""Teachers that answer with one of C classes, and students that learn class probabilities from the answers.

One response is a class; as a label it is a vector with a 1 at that class. A language model's next token
and a classifier's answer are of this kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr

from kdstats.errors import invalid
from kdstats.problem.validation import as_array, as_count, as_flag, as_labels, as_matrix, as_number, frozen

__all__ = ["ROUNDING", "CategoricalTeacher", "DirichletStudent", "SoftmaxStudent", "TabularStudent"]

FloatArray = NDArray[np.float64]

#: Largest distance of a row's sum from 1 that is taken for rounding and divided out.
SUM_TOLERANCE = 1e-6
#: Relative difference of probabilities, and of sums of them, that is rounding.
ROUNDING = 1e-9
#: Most probabilities (inputs x classes) that labels are turned into: 8 GiB.
MOST_PROBABILITIES = 2**30


@dataclass(frozen=True, eq=False)
class CategoricalTeacher:
    r"""Teacher whose response to each input is one of C classes.

    Responses to different inputs are independent. The k responses to one input are independent given
    that input's answer law :math:`\pi`, which is :math:`p_i` itself, or, with a response correlation
    :math:`\rho > 0`, a draw from the Dirichlet law with mean :math:`p_i` and concentration
    :math:`1/\rho - 1` that they share. Either way a response has law :math:`p_i`, and the indicators of a
    class in two responses have correlation :math:`\rho`.

    Parameters
    ----------
    probabilities : array_like, shape (n, C)
        Probability of each class at each input; rows sum to 1 (up to 1e-6, which is divided out), C >= 2.
    X : array_like or DataFrame, shape (n, p), optional
        Training inputs. A tabular student does without.
    response_correlation : float, default 0.0
        Correlation :math:`\rho` between the responses to one input, in [0, 1].
    class_labels : sequence, optional
        Names of the classes, which become the labels of the dim ``output``. Default: 0 to C-1.

    Raises
    ------
    ProblemError
        If a probability is negative or not finite, a row does not sum to 1, or shapes do not fit.

    Examples
    --------
    >>> import kdstats as kd
    >>> teacher = kd.CategoricalTeacher([[0.7, 0.2, 0.1]])
    >>> teacher.at_temperature(0.5).probabilities.round(3)
    array([[0.907, 0.074, 0.019]])
    >>> teacher.truncated(top_k=2).probabilities.round(3)
    array([[0.778, 0.222, 0.   ]])
    """

    probabilities: FloatArray
    X: FloatArray | None = None
    response_correlation: float = field(default=0.0, kw_only=True)
    class_labels: tuple[Any, ...] | None = field(default=None, kw_only=True)

    if TYPE_CHECKING:  # what users may pass; the fields hold canonical arrays

        def __init__(
            self,
            probabilities: ArrayLike,
            X: ArrayLike | None = None,
            *,
            response_correlation: float = 0.0,
            class_labels: Any = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        if np.ndim(self.probabilities) == 1:
            raise invalid(
                "probabilities",
                "have 2 dimensions, inputs and one column per class (labels go to CategoricalTeacher.from_labels)",
                f"shape {np.shape(self.probabilities)}",
            )
        probabilities = as_matrix("probabilities", self.probabilities)
        n, n_classes = probabilities.shape
        if n_classes < 2:
            raise invalid("probabilities", "have at least 2 columns, one per class", f"{n_classes}")
        if (probabilities < 0).any():
            row, column = np.argwhere(probabilities < 0)[0]
            raise invalid(
                "probabilities", "be at least 0", f"{probabilities[row, column]:g} at index ({row}, {column})"
            )
        sums = probabilities.sum(axis=1)
        off = int(np.argmax(np.abs(sums - 1.0)))
        if abs(sums[off] - 1.0) > SUM_TOLERANCE:
            raise invalid("probabilities", "sum to 1 in every row", f"{sums[off]:.8g} in row {off}")
        object.__setattr__(self, "probabilities", frozen(probabilities / sums[:, None]))
        if self.X is not None:
            inputs = as_matrix("X", self.X)
            if len(inputs) != n:
                raise invalid("X", f"have one row per row of probabilities ({n})", f"{len(inputs)}")
            object.__setattr__(self, "X", inputs)
        correlation = as_number("response_correlation", self.response_correlation, minimum=0.0, maximum=1.0)
        object.__setattr__(self, "response_correlation", correlation)
        if self.class_labels is not None:
            object.__setattr__(self, "class_labels", as_labels("class_labels", self.class_labels, n_classes))

    @classmethod
    def from_labels(
        cls, labels: ArrayLike, X: ArrayLike | None = None, *, n_classes: int | None = None, class_labels: Any = None
    ) -> CategoricalTeacher:
        """Return a teacher that always gives each input its label.

        Parameters
        ----------
        labels : array_like of int, shape (n,)
            Class of each input, from 0 to C-1.
        X : array_like or DataFrame, shape (n, p), optional
            Training inputs.
        n_classes : int, optional
            C, at least 2. Default: the number of ``class_labels``, or one more than the largest label.
        class_labels : sequence, optional
            Names of the classes.

        Raises
        ------
        ProblemError
            If a label is no integer, or outside the classes: the first of them is named.

        Examples
        --------
        >>> import kdstats as kd
        >>> kd.CategoricalTeacher.from_labels([0, 2], n_classes=3).probabilities
        array([[1., 0., 0.],
               [0., 0., 1.]])
        """
        given = as_array("labels", labels, ndim=1)
        if n_classes is None:
            if class_labels is not None and not isinstance(class_labels, Sequence | np.ndarray):
                raise invalid("class_labels", "be a sequence of labels", class_labels)
            n_classes = len(class_labels) if class_labels is not None else max(2, int(given.max(initial=0.0)) + 1)
        n_classes = as_count("n_classes", n_classes, minimum=2)
        wrong = np.flatnonzero((given < 0) | (given >= n_classes) | (given != np.floor(given)))
        if wrong.size:
            raise invalid(
                "labels",
                f"be integers from 0 to {n_classes - 1}, one of the {n_classes} classes",
                f"{given[wrong[0]]:.12g} at index {wrong[0]} ({wrong.size} of {given.size} labels are outside)",
            )
        if given.size * n_classes > MOST_PROBABILITIES:
            rule = "number classes (identifiers are not): a table of inputs x classes must fit memory"
            raise invalid("labels", rule, f"{given.size} x {n_classes} probabilities")
        return cls(np.eye(n_classes)[given.astype(np.int64)], X, class_labels=class_labels)

    @property
    def n_inputs(self) -> int:
        """Number of training inputs, n."""
        return int(self.probabilities.shape[0])

    @property
    def n_features(self) -> int:
        """Number of columns of X; 0 without one."""
        return 0 if self.X is None else int(self.X.shape[1])

    @property
    def n_outputs(self) -> int:
        """Number of classes, C."""
        return int(self.probabilities.shape[1])

    @property
    def output_labels(self) -> tuple[Any, ...]:
        """Names of the classes."""
        return tuple(range(self.n_outputs)) if self.class_labels is None else self.class_labels

    @property
    def gini(self) -> FloatArray:
        """Gini index of each input's answer law, the total variance of a label, shape (n,)."""
        return frozen(1.0 - (self.probabilities**2).sum(axis=1))

    @property
    def entropy(self) -> FloatArray:
        """Entropy of each input's answer law in nats, shape (n,)."""
        return frozen(entr(self.probabilities).sum(axis=1))

    def entropy_slope(self, temperature: float = 1.0) -> FloatArray:
        r"""Return how fast each input's entropy rises with the temperature, :math:`dH/dT`, shape (n,).

        Parameters
        ----------
        temperature : float, default 1.0
            Greater than 0: where the slope is taken.

        Notes
        -----
        With logits :math:`z_c` the law at temperature T is :math:`p_c \propto e^{z_c/T}`, so that
        :math:`dp_c/dT = -p_c(z_c - \sum_d p_dz_d)/T^2` and
        :math:`dH/dT = -\sum_c (dp_c/dT)\ln p_c = \mathrm{Var}_T(z)/T^3`: never negative. Classes of probability 0
        stay out.

        Examples
        --------
        >>> import kdstats as kd
        >>> kd.CategoricalTeacher([[0.5, 0.5], [0.9, 0.1]]).entropy_slope().round(3)
        array([0.   , 0.435])
        """
        heated = self.at_temperature(temperature).probabilities
        top = self.probabilities.max(axis=1, keepdims=True)
        logits = np.log(np.where(self.probabilities > 0.0, self.probabilities / top, 1.0))
        centred = logits - (heated * logits).sum(axis=1, keepdims=True)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            parts = np.where(heated > 0.0, heated * (centred / temperature) ** 2, 0.0)
            return frozen(parts.sum(axis=1) / temperature)

    def at_temperature(self, temperature: float) -> CategoricalTeacher:
        """Return the teacher that samples at another temperature: probabilities to the power 1/T, rescaled.

        Parameters
        ----------
        temperature : float
            Greater than 0; 1 changes nothing, towards 0 only the likeliest classes are left.
        """
        temperature = as_number("temperature", temperature, minimum=0.0, exclusive=True)
        with np.errstate(divide="ignore", over="ignore", under="ignore"):
            logits = np.log(self.probabilities)
            raised = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
        return replace(self, probabilities=raised / raised.sum(axis=1, keepdims=True))

    def truncated(self, *, top_k: int | None = None, top_p: float | None = None) -> CategoricalTeacher:
        """Return the teacher that answers among its likeliest classes only.

        Parameters
        ----------
        top_k : int, optional
            Keep this many classes of each input; of equally likely ones those that come first.
        top_p : float, optional
            Keep the likeliest classes until their probabilities sum to at least this (nucleus sampling), up to a
            rounding of one part in 1e9; 1 keeps all.
            With both, ``top_k`` is applied first and its rest rescaled, as generation libraries do.
        """
        kept = self.probabilities
        if top_k is not None:
            kept = _likeliest(kept, ranks_kept=as_count("top_k", top_k))
        if top_p is not None:
            mass = as_number("top_p", top_p, minimum=0.0, maximum=1.0)
            if mass == 0.0:
                raise invalid("top_p", "be greater than 0", mass)
            kept = _nucleus(kept, mass)
        return replace(self, probabilities=kept)


@dataclass(frozen=True, eq=False, kw_only=True)
class TabularStudent:
    r"""Student that memorises each input: its probabilities are the frequencies of the answers it saw.

    With pseudo-counts :math:`a_c` it answers class c with :math:`(n_c + a_c)/(k + \sum a)`, the
    posterior mean under a Dirichlet prior.

    Parameters
    ----------
    pseudo_count : float or (C,) array_like, default 0.0
        Pseudo-count of each class, at least 0. A number counts for every class.
    """

    pseudo_count: FloatArray = field(default=0.0)  # type: ignore[arg-type]

    if TYPE_CHECKING:

        def __init__(self, *, pseudo_count: ArrayLike = 0.0) -> None: ...

    def __post_init__(self) -> None:
        counts = as_array("pseudo_count", self.pseudo_count, ndim=(0, 1))
        if (counts < 0).any():
            raise invalid("pseudo_count", "be at least 0", float(counts.min()))
        object.__setattr__(self, "pseudo_count", counts)

    def pseudo_counts(self, n_classes: int) -> FloatArray:
        """Return one pseudo-count per class."""
        return np.broadcast_to(self.pseudo_count, (n_classes,))


@dataclass(frozen=True, eq=False, kw_only=True)
class DirichletStudent:
    r"""Bayesian student of one input's answers: a Dirichlet prior, updated by the answers it saw.

    After :math:`n_c` of k answers were c, its posterior is Dirichlet with parameters :math:`n_c + A_c`. It answers
    with its posterior mean, as a :class:`TabularStudent` with the prior as pseudo-counts does, but also knows how
    unsure it is of its probabilities: its own variance has a parameter part and a noise part.

    Parameters
    ----------
    prior_count : float or (C,) array_like, default 1.0
        Dirichlet parameter :math:`A_c` of each class, greater than 0. A number counts for every class.
    """

    prior_count: FloatArray = field(default=1.0)  # type: ignore[arg-type]

    if TYPE_CHECKING:

        def __init__(self, *, prior_count: ArrayLike = 1.0) -> None: ...

    def __post_init__(self) -> None:
        counts = as_array("prior_count", self.prior_count, ndim=(0, 1))
        if (counts <= 0).any():
            raise invalid("prior_count", "be greater than 0", float(counts.min()))
        object.__setattr__(self, "prior_count", counts)

    def pseudo_counts(self, n_classes: int) -> FloatArray:
        """Return the prior's parameter for each class."""
        return np.broadcast_to(self.prior_count, (n_classes,))


@dataclass(frozen=True, kw_only=True)
class SoftmaxStudent:
    r"""Multinomial logistic regression on the classes a teacher gave, fitted to convergence.

    The student gives class c the probability :math:`\pi_c(x) \propto e^{x'\beta_c}` and minimises the cross-entropy
    summed over its rows plus :math:`\tfrac12\lambda\lVert\beta\rVert^2`, the intercepts free. Rows are the n inputs
    with the frequencies of their k responses as labels (``averaging``), all kn responses (``multi_response``), or
    the teacher's probabilities with the weight of k responses (``soft_labels``); so the penalty counts for 1/k as
    much in the last two, and without a penalty all but soft labels make the same student.

    Parameters
    ----------
    penalty : float, default 0.0
        :math:`\lambda`, at least 0: one over the ``C`` of scikit-learn's ``LogisticRegression``. Without one, labels
        that a linear rule separates have no finite fit, and are refused.
    fit_intercept : bool, default True
        Whether a free intercept is fitted for each class.

    Raises
    ------
    ProblemError
        If the penalty is negative or not finite.
    """

    penalty: float = 0.0
    fit_intercept: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", as_number("penalty", self.penalty, minimum=0.0))
        object.__setattr__(self, "fit_intercept", as_flag("fit_intercept", self.fit_intercept))


def _likeliest(probabilities: FloatArray, *, ranks_kept: int) -> FloatArray:
    order = np.argsort(-probabilities, axis=1, kind="stable")
    kept = np.zeros_like(probabilities)
    chosen = order[:, :ranks_kept]
    np.put_along_axis(kept, chosen, np.take_along_axis(probabilities, chosen, axis=1), axis=1)
    return np.asarray(kept / kept.sum(axis=1, keepdims=True))


def _nucleus(probabilities: FloatArray, mass: float) -> FloatArray:
    if mass == 1.0:
        return probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    sorted_ = np.take_along_axis(probabilities, order, axis=1)
    before = np.cumsum(sorted_, axis=1) - sorted_
    kept = np.zeros_like(probabilities)
    np.put_along_axis(kept, order, np.where(before < mass * (1.0 - ROUNDING), sorted_, 0.0), axis=1)
    return np.asarray(kept / kept.sum(axis=1, keepdims=True))
