r"""The law of a softmax student's coefficients over its labels (result T18).

The loss is linear in the labels, so its curvature H does not depend on them and the gradient at the coefficients
:math:`\beta^*` that fit the mean labels is a weighted sum of label noise. With :math:`\pi_i` the fitted and
:math:`p_i` the teacher's probabilities, k responses of correlation :math:`\rho` and n rows,

.. math:: \operatorname{Cov}(\hat\beta) \approx H^{-1}BH^{-1}, \qquad
   H = \sum_i (\operatorname{diag}\pi_i - \pi_i\pi_i') \otimes x_ix_i' + \lambda D, \qquad
   B = \frac{1+(k-1)\rho}{k}\sum_i (\operatorname{diag}p_i - p_ip_i') \otimes x_ix_i' .

Only where the student can be exactly right is :math:`\pi = p` and this :math:`H^{-1}/k`. Drawing m of n rows, with
:math:`c_i` the times that row i is drawn and :math:`u_i = p_i - \pi_i`, multiplies the first by
:math:`E c_i^2` and adds :math:`\operatorname{Cov}(\sum_i c_iu_i \otimes x_i)`. To second order the mean moves by
:math:`-H^{-1}E[\sum_i h_i\otimes x_i + \Delta H\,\delta]`, h being half the second derivative of the
softmax along the noise of its logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import softmax

from kdstats.linear.softmax_regression import SoftmaxRegression, spread_of_rows
from kdstats.problem.specification import DistillationProblem
from kdstats.sampling.softmax import softmax_inputs, softmax_regression

__all__ = ["PointLaw", "SoftmaxLaw", "probability_spread", "softmax_law"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class PointLaw:
    """Logits and probabilities at m points, to first order in the noise of the labels, their means to second.

    Attributes
    ----------
    logits : (m, C) ndarray
        At the coefficients that fit the mean labels.
    logit_shift : (m, C) ndarray
        Mean over students less that.
    logit_root : (m, C, r) ndarray
        Z with ZZ' the covariance of the logits over points and classes.
    """

    logits: FloatArray
    logit_shift: FloatArray
    logit_root: FloatArray

    @property
    def probabilities(self) -> FloatArray:
        """Probabilities at the coefficients that fit the mean labels, shape (m, C)."""
        return np.asarray(softmax(self.logits, axis=1))

    @property
    def probability_root(self) -> FloatArray:
        """Z with ZZ' the covariance of the probabilities, shape (m, C, r)."""
        return probability_spread(self.probabilities, self.logit_root)

    @property
    def mean_probabilities(self) -> FloatArray:
        """Mean over students, to second order and within [0, 1], shape (m, C)."""
        p = self.probabilities
        moved = probability_spread(p, self.logit_shift[..., None])[..., 0] + _half_second(p, self.logit_root)
        return np.clip(p + moved, 0.0, 1.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftmaxLaw:
    """The law of the coefficients.

    Attributes
    ----------
    problem : DistillationProblem
    model : SoftmaxRegression
        Fitted to the mean labels.
    root : (d, r) ndarray
        Z with ZZ' the covariance of the coefficients, by coefficient and contrast.
    shift : (d,) ndarray
        Mean coefficients over students less those that fit the mean labels.
    """

    problem: DistillationProblem
    model: SoftmaxRegression
    root: FloatArray
    shift: FloatArray

    def at(self, X: FloatArray) -> PointLaw:
        """Return the law at some points (m, p)."""
        inputs = softmax_inputs(self.problem, X)
        return PointLaw(
            logits=inputs @ self.model.centre @ self.model.contrasts.T,
            logit_shift=_at_rows(self.model, inputs, self.shift[:, None])[..., 0],
            logit_root=_at_rows(self.model, inputs, self.root),
        )

    def first_order(self, labels: FloatArray, counts: FloatArray | None, X: FloatArray) -> FloatArray:
        """Return how the probabilities at points move to first order for labels (S, n, C), shape (S, m, C)."""
        fitted = softmax(self.model.inputs @ self.model.centre @ self.model.contrasts.T, axis=1)
        pull = labels - fitted if counts is None else counts[..., None] * (labels - fitted)
        score = np.matmul(self.model.inputs.T, pull) @ self.model.contrasts
        score = score.reshape(len(labels), -1).T - (self.model.penalties[:, None] * self.model.centre).reshape(-1, 1)
        moved = scipy.linalg.cho_solve((self.model.factor, True), score)
        inputs = softmax_inputs(self.problem, X)
        p = softmax(inputs @ self.model.centre @ self.model.contrasts.T, axis=1)
        return np.moveaxis(probability_spread(p, _at_rows(self.model, inputs, moved)), -1, 0)


def softmax_law(problem: DistillationProblem) -> SoftmaxLaw:
    """Return the law of the coefficients of a :class:`~kdstats.SoftmaxStudent`.

    Raises
    ------
    RankDeficientError
        If there is no penalty and the inputs do not determine the coefficients.
    PredictionError
        If the teacher's own probabilities have no finite fit.
    """
    teacher = problem.categorical_teacher
    model = softmax_regression(problem, teacher.probabilities)
    half = scipy.linalg.solve_triangular(model.factor, _score_covariance(problem, model), lower=True)
    whitened = scipy.linalg.solve_triangular(model.factor, half.T, lower=True)  # free of the units of the inputs
    values, vectors = scipy.linalg.eigh((whitened + whitened.T) / 2.0)
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(float).eps
    root = scipy.linalg.solve_triangular(model.factor, vectors[:, kept] * np.sqrt(values[kept]), lower=True, trans="T")
    root = root if kept.any() else np.zeros((len(values), 1))
    return SoftmaxLaw(problem=problem, model=model, root=root, shift=_shift(problem, model, root))


def probability_spread(p: FloatArray, logits: FloatArray) -> FloatArray:
    """Return what small moves of the logits (m, C, r) do to probabilities (m, C)."""
    return np.asarray(p[..., None] * (logits - (p[..., None] * logits).sum(axis=1, keepdims=True)))


def _half_second(p: FloatArray, root: FloatArray) -> FloatArray:
    """Mean of the second-order term of the softmax for logits with root (m, C, r), shape (m, C)."""
    along = (p[..., None] * root).sum(axis=1)  # (m, r)
    own = (root**2).sum(axis=2)
    crossed = np.einsum("mcr,mr->mc", root, along)
    whole, trace = (along**2).sum(axis=1, keepdims=True), (p * own).sum(axis=1, keepdims=True)
    return np.asarray(0.5 * p * (own - 2.0 * crossed + 2.0 * whole - trace))


def _score_covariance(problem: DistillationProblem, model: SoftmaxRegression) -> FloatArray:
    """Covariance of the gradient at the centre, (d, d)."""
    teacher, design = problem.categorical_teacher, problem.design
    p, contrasts = teacher.probabilities, model.contrasts
    n, size = len(p), problem.resample_size
    factor = 0.0
    if "teacher_output" in design.sources and design.strategy != "soft_labels":
        factor = (1.0 + (design.n_responses - 1) * teacher.response_correlation) / design.n_responses
    mean = p @ contrasts
    spread = np.einsum("nc,cr,cs->nrs", p, contrasts, contrasts, optimize=True) - mean[:, :, None] * mean[:, None, :]
    if size is None:
        return spread_of_rows(model.inputs, factor * spread)
    misfit = _misfit(model, p)
    square = size / n * (1.0 - 1.0 / n) + (size / n) ** 2
    rows = square * factor * spread + size / n * misfit[:, :, None] * misfit[:, None, :]
    total = (model.inputs.T @ misfit).ravel()
    return np.asarray(spread_of_rows(model.inputs, rows) - size / n**2 * np.outer(total, total))


def _misfit(model: SoftmaxRegression, p: FloatArray) -> FloatArray:
    """Teacher's less fitted probabilities, in contrasts, shape (n, C-1)."""
    fitted = softmax(model.inputs @ model.centre @ model.contrasts.T, axis=1)
    return np.asarray((p - fitted) @ model.contrasts)


def _shift(problem: DistillationProblem, model: SoftmaxRegression, root: FloatArray) -> FloatArray:
    """Second-order mean of the coefficients."""
    fitted = softmax(model.inputs @ model.centre @ model.contrasts.T, axis=1)
    pull = model.row_weight * _half_second(fitted, _at_rows(model, model.inputs, root)) @ model.contrasts
    if problem.resample_size is not None:
        n, misfit = len(fitted), _misfit(model, problem.categorical_teacher.probabilities)
        scores = (model.inputs[:, :, None] * misfit[:, None, :]).reshape(n, -1)
        own = scipy.linalg.cho_solve((model.factor, True), scores.T).T.reshape(n, *model.centre.shape)
        moves = np.einsum("np,npr->nr", model.inputs, own) @ model.contrasts.T
        common = _at_rows(model, model.inputs, own.sum(axis=0).reshape(-1, 1))[..., 0] / n
        both = probability_spread(fitted, (moves - common)[..., None])[..., 0]
        pull = pull + model.row_weight * both @ model.contrasts
    return np.asarray(-scipy.linalg.cho_solve((model.factor, True), (model.inputs.T @ pull).ravel()))


def _at_rows(model: SoftmaxRegression, inputs: FloatArray, flat: FloatArray) -> FloatArray:
    """Logits (m, C, r) of coefficients (d, r) in contrasts."""
    width, n_contrasts = model.centre.shape
    small = (inputs @ flat.reshape(width, -1)).reshape(len(inputs), n_contrasts, -1)
    return np.asarray(np.matmul(model.contrasts, small))
