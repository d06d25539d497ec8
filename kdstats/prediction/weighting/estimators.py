r"""The weights that are compared, what each has to know, and where each is undefined.

Two things are called variance weighting. One **mixes**: the label is :math:`\alpha\bar y + (1-\alpha)\hat s`,
responses against an estimate of the student's own (result T8). The other weights **inputs**: labels stay
the mean responses, and the student's fit weighs each input by one over its variance (result T4).
"""

from __future__ import annotations

from dataclasses import dataclass

from kdstats.problem.design import INFINITE_VARIANCE_DF, VarianceWeighting
from kdstats.problem.specification import DistillationProblem

__all__ = ["ESTIMATORS", "ORACLE", "Estimator", "refusal"]

ORACLE = VarianceWeighting(student_estimate="teacher_mean", weight="estimated")


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """One way to weight.

    Attributes
    ----------
    family : {"reference", "bound", "split", "same", "inputs"}
        ``split``: mixed with a pilot on responses of its own; ``same``: with a pilot on the same responses.
    label : str
        In words.
    needs : str
        What a user must know besides the responses.
    variances : str
        How the response variances are had: known, pooled, per_input, shrunken, or none.
    """

    family: str
    label: str
    needs: str
    variances: str


_VARIANCES = "the true variances"
ESTIMATORS = {
    "averaging": Estimator(family="reference", label="plain averaging", needs="nothing", variances="none"),
    "oracle": Estimator(
        family="bound",
        label="mixed with the noiseless teacher mean, as published (bound)",
        needs="the teacher's noiseless mean",
        variances="known",
    ),
    "split_known": Estimator(
        family="split",
        label="pilot on half of the responses, variances known",
        needs=f"{_VARIANCES}, the pilot's bias",
        variances="known",
    ),
    "split_pooled": Estimator(family="split", label="the same, pooled variance", needs="nothing", variances="pooled"),
    "split_per_input": Estimator(
        family="split", label="the same, a variance per input", needs="nothing", variances="per_input"
    ),
    "split_shrunken": Estimator(
        family="split", label="the same, shrunken variances", needs="nothing", variances="shrunken"
    ),
    "same_ignoring_covariance": Estimator(
        family="same",
        label="pilot on the same responses, covariance ignored",
        needs=f"{_VARIANCES}, the pilot's bias",
        variances="known",
    ),
    "same_known": Estimator(
        family="same",
        label="pilot on the same responses, bias and covariance known",
        needs=f"{_VARIANCES}, the pilot's bias",
        variances="known",
    ),
    "same_estimated": Estimator(
        family="same", label="the same, estimated (one weight)", needs="nothing", variances="pooled"
    ),
    "inputs_known": Estimator(
        family="inputs", label="inputs weighted, variances known", needs=_VARIANCES, variances="known"
    ),
    "inputs_pooled": Estimator(
        family="inputs", label="inputs weighted, pooled variance", needs="nothing", variances="pooled"
    ),
    "inputs_per_input": Estimator(
        family="inputs", label="inputs weighted, a variance per input", needs="nothing", variances="per_input"
    ),
    "inputs_shrunken": Estimator(
        family="inputs", label="inputs weighted, shrunken variances", needs="nothing", variances="shrunken"
    ),
}


def refusal(name: str, problem: DistillationProblem) -> str | None:
    """Return why this estimator has no answer for this problem, or None."""
    estimator, k, teacher = ESTIMATORS[name], problem.design.n_responses, problem.gaussian_teacher
    if k == 1:
        if estimator.family == "split":
            return "undefined at k=1: a pilot needs a response of its own"
        if name == "oracle" or estimator.variances in ("pooled", "per_input", "shrunken"):
            return "undefined at k=1: the empirical variance of one response is 0"
    if name == "oracle" and not teacher.is_diagonal:
        return "undefined for noise correlated across inputs"
    if estimator.family == "inputs" and estimator.variances == "known" and (teacher.variances <= 0.0).any():
        return "undefined: an input without noise would take all the weight"
    if estimator.variances not in ("pooled", "per_input", "shrunken"):
        return None
    spent = 2 if estimator.family == "split" else 1
    if k <= spent:
        return f"undefined at k={k}: pilot and mean take a response each, which leaves no degrees of freedom"
    if estimator.variances == "per_input" and k - spent <= INFINITE_VARIANCE_DF:
        most = spent + INFINITE_VARIANCE_DF
        return f"infinite variance: per-input with k<={most} (1/s^2 on {k - spent} degrees of freedom)"
    if teacher.response_correlation == 1.0:
        return "undefined: responses that are all alike have no variance"
    if estimator.variances != "pooled" and (teacher.variances <= 0.0).any():
        return "undefined: responses without noise have variance 0"
    return None
