r"""Students of class labels as PyMC models: logistic and softmax regression.

A student sees how often each class was answered at each input. Counts of rows kept apart have their multinomial
likelihood; averaged labels and soft labels are frequencies and weigh as one row, which is what training on their
cross-entropy does: :math:`\sum_i\sum_c f_{ic}\log p_c(x_i)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.prediction.bayes.libraries import pm, pt
from kdstats.prediction.bayes.stacks import Draws, Predictive, Stack
from kdstats.problem.bayesian import BayesianStudent
from kdstats.problem.specification import DistillationProblem

__all__ = ["INTERCEPT_WIDTH", "class_probabilities", "class_stack"]

FloatArray = NDArray[np.float64]

#: Prior standard deviation of an intercept, in noise scales (1 for the logits of classes).
INTERCEPT_WIDTH = 10.0


def class_stack(problem: DistillationProblem, counts: FloatArray) -> Stack:
    """Return the model of students that met these classes.

    Parameters
    ----------
    problem : DistillationProblem
        With a CategoricalTeacher and a BayesianStudent, model ``"logistic"`` or ``"softmax"``.
    counts : (S, n, C) ndarray
        How often each class was among the k responses to each input.
    """
    student, teacher, design = problem.student, problem.categorical_teacher, problem.design
    assert isinstance(student, BayesianStudent)
    assert teacher.X is not None
    inputs, k = teacher.X, design.n_responses
    kept = design.strategy in ("single", "multi_response")
    weight = student.likelihood_power * (1.0 if kept else 1.0 / k)
    is_counted = kept and weight == 1.0 and "teacher_output" in design.sources
    binary, width = student.model == "logistic", np.sqrt(student.prior_variance)

    def logits() -> Any:
        """Return logits (S, C, n), one line of zeros for a logistic student."""
        if binary:
            score = pm.Normal("coefficient", 0.0, width, dims=("student", "feature")) @ inputs.T
            if student.fit_intercept:
                score = score + pm.Normal("intercept", 0.0, INTERCEPT_WIDTH, dims="student")[:, None]
            return pt.stack([pt.zeros_like(score), score], axis=1)
        slopes = pm.ZeroSumNormal("coefficient", sigma=width, dims=("student", "feature", "class"))
        score = slopes.dimshuffle(0, 2, 1) @ inputs.T
        if student.fit_intercept:
            score = score + pm.ZeroSumNormal("intercept", sigma=INTERCEPT_WIDTH, dims=("student", "class"))[:, :, None]
        return score

    def build(data: Mapping[str, Any]) -> None:
        logs = pt.special.log_softmax(logits(), axis=1)
        if student.teacher_weight > 0.0:
            known = student.teacher_weight * (logs * teacher.probabilities.T).sum(axis=(1, 2))
            pm.Potential("teacher_prior", known, dims="student")
        if is_counted:
            pm.Multinomial("response", n=k, p=pt.exp(logs).dimshuffle(0, 2, 1), observed=data["labels"])
        else:
            pm.Potential(
                "likelihood", weight * (logs * data["labels"].dimshuffle(0, 2, 1)).sum(axis=(1, 2)), dims="student"
            )

    def predictive(draws: Draws) -> Predictive:
        chances = class_probabilities(draws, problem)
        flat = chances.reshape(*chances.shape[:-2], -1)
        return Predictive(mean=flat, variance=flat * (1.0 - flat))

    return Stack(
        arrays={"labels": counts},
        dims={"labels": ("row", "class")},
        coords={
            "row": list(range(len(inputs))),
            "feature": [f"x{j}" for j in range(inputs.shape[1])],
            "class": list(teacher.output_labels),
        },
        build=build,
        predictive=predictive,
        observed={"labels": "response"} if is_counted and not student.teacher_weight else {},
    )


def class_probabilities(draws: Draws, problem: DistillationProblem) -> FloatArray:
    """Return class probabilities (..., S, m, C) at the query points, per draw."""
    coefficient = draws["coefficient"]
    assert isinstance(problem.student, BayesianStudent)
    if problem.student.model == "logistic":
        score = coefficient @ problem.X_query.T
        if "intercept" in draws:
            score = score + draws["intercept"][..., None]
        score = np.stack([np.zeros_like(score), score], axis=-1)
    else:
        score = np.einsum("mp,...spc->...smc", problem.X_query, coefficient)
        if "intercept" in draws:
            score = score + draws["intercept"][..., None, :]
    raised = np.exp(score - score.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
