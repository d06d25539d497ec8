"""Teachers of classes for a study: a multinomial logistic regression fitted to the classes of the training rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import StudyError
from kdstats.linear.softmax_regression import SoftmaxRegression
from kdstats.problem.categorical import CategoricalTeacher

__all__ = ["class_teacher"]

FloatArray = NDArray[np.float64]


def class_teacher(
    X: FloatArray, target: FloatArray | None, *, penalty: float, temperature: float, response_correlation: float
) -> CategoricalTeacher:
    """Fit a teacher to classes.

    Parameters
    ----------
    X : (n, p) ndarray
        Training inputs.
    target : (n,) ndarray
        Their classes, as whole numbers.
    penalty : float
        On the coefficients of the teacher, as in :class:`~kdstats.SoftmaxStudent`.
    temperature : float
        At which it answers.
    response_correlation : float

    Raises
    ------
    StudyError
        If the target is missing or no classes, or the teacher has no finite fit.
    """
    if target is None or (target != np.round(target)).any():
        raise StudyError(
            "`data.target` must hold classes as whole numbers for a teacher of classes; got others, or none"
        )
    classes, labels = np.unique(target.astype(np.int64), return_inverse=True)
    if classes.size < 2:
        raise StudyError(f"`data.target` must have at least 2 classes in the training rows; got {classes.size}")
    inputs = np.hstack([np.ones((len(X), 1)), X])
    penalties = np.full(inputs.shape[1], penalty)
    penalties[0] = 0.0
    model = SoftmaxRegression(inputs=inputs, penalties=penalties, centre_labels=np.eye(classes.size)[labels])
    if not model.has_centre:
        raise StudyError(
            f"`teacher.penalty` must be larger: with {penalty:g} the fit to the true classes has no finite coefficients"
        )
    logits = inputs @ model.centre @ model.contrasts.T
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    teacher = CategoricalTeacher(
        raised / raised.sum(axis=1, keepdims=True),
        X,
        response_correlation=response_correlation,
        class_labels=tuple(int(label) for label in classes),
    )
    return teacher if temperature == 1.0 else teacher.at_temperature(temperature)
