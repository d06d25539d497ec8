r"""Simulated students under every estimated weight at once, on the same responses.

Each student is kept as its coefficients less those of the noiseless student, in coordinates in which their
squared length is the mean squared deviation over the query points. The student of the mean responses, whose
variance is known exactly, is the control variate: with y a student's squared deviation and a the
control's, the estimate is the mean of :math:`y - \beta(a - Ea)`, where β comes from the other half
of the students, so that the estimate stays unbiased.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kdstats.errors import PredictionError
from kdstats.linear.smoother import Smoother
from kdstats.prediction.weighting.estimators import ESTIMATORS, ORACLE
from kdstats.problem.design import VarianceWeighting, pilot_split
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.sampling import BLOCK, NoiseLaw
from kdstats.sampling.response_variances import response_variances
from kdstats.sampling.training_sets import draw_responses, estimated_weight, oracle_labels
from kdstats.streams import Seeds

__all__ = ["Estimate", "Setting", "simulate"]

FloatArray = NDArray[np.float64]
Say = Callable[[int, int], None]

#: Standard errors between simulated and exact plain averaging that chance does not reach.
LARGEST_Z = 10.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Setting:
    """A problem with plain averaging, its student and pilot, and the exact variances of averaging.

    Attributes
    ----------
    problem : DistillationProblem
    student, pilot : Smoother
    coefficient_map, pilot_map : (P, n) ndarray
        Coefficients of student and pilot for labels in raw coordinates.
    gram_root : (P, P) ndarray
        R with ``R.T @ R`` the mean outer product of the query points.
    variance, label_error : float
        Of plain averaging: mean variance over the query points, mean squared error of a label.
    """

    problem: DistillationProblem
    student: Smoother
    pilot: Smoother
    coefficient_map: FloatArray
    pilot_map: FloatArray
    gram_root: FloatArray
    variance: float
    label_error: float

    def pilot_predictions(self, labels: FloatArray) -> FloatArray:
        """Return predictions at the inputs of pilots trained on labels of shape (B, n)."""
        return np.asarray((labels @ self.pilot_map.T) @ self.pilot.raw_inputs.T)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Ratios to plain averaging with their standard errors (0 where exact)."""

    variance: float
    error: float
    label_error: float
    variance_se: float = 0.0
    error_se: float = 0.0
    label_error_se: float = 0.0


def simulate(
    setting: Setting, names: Sequence[str], *, n_students: int, seeds: Seeds, law: NoiseLaw, say: Say
) -> dict[str, Estimate]:
    """Return the ratios of the named estimators from the same simulated students."""
    deviations: dict[str, list[FloatArray]] = {name: [] for name in ("averaging", *names)}
    label_errors: dict[str, list[FloatArray]] = {name: [] for name in deviations}
    teacher_mean = setting.problem.gaussian_teacher.mean_by_output[:, 0]
    noiseless = setting.coefficient_map @ teacher_mean
    fit_inputs = _input_fit(setting) if any(ESTIMATORS[name].family == "inputs" for name in names) else None
    for block in range(-(-n_students // BLOCK)):
        responses = draw_responses(setting.problem, seeds, block, law)[..., 0]
        mean = responses.mean(axis=1)
        for name in deviations:
            if ESTIMATORS[name].family == "inputs":
                assert fit_inputs is not None
                labels, coefficients = mean, fit_inputs(mean, _input_variances(responses, mean, name))
            else:
                labels = _labels(setting, name, responses, mean)
                coefficients = labels @ setting.coefficient_map.T
            deviations[name].append((coefficients - noiseless) @ setting.gram_root.T)
            label_errors[name].append(((labels - teacher_mean) ** 2).mean(axis=1))
        say(min(n_students, (block + 1) * BLOCK), n_students)
    students = {name: np.concatenate(parts)[:n_students] for name, parts in deviations.items()}
    labels_of = {name: np.concatenate(parts)[:n_students] for name, parts in label_errors.items()}
    _check_control(setting, students["averaging"])
    return {name: _estimate(setting, students, labels_of, name) for name in names}


def _labels(setting: Setting, name: str, responses: FloatArray, mean: FloatArray) -> FloatArray:
    if name == "averaging":
        return mean
    if name == "oracle":
        return oracle_labels(_with(setting.problem, ORACLE), responses[..., None])[..., 0]
    if name == "same_estimated":
        leverage = np.einsum("ip,pi->i", setting.pilot.raw_inputs, setting.pilot_map)
        return _shrunk_toward_pilot(responses, mean, setting.pilot_predictions(mean), leverage)
    first, _ = pilot_split(responses.shape[1])
    own, averaged = setting.pilot_predictions(responses[:, :first].mean(axis=1)), responses[:, first:].mean(axis=1)
    problem = _with(setting.problem, VarianceWeighting(weight=ESTIMATORS[name].variances))
    alpha = estimated_weight(problem, responses[..., None], averaged[..., None], own[..., None], setting.pilot)[..., 0]
    return np.asarray(alpha * averaged + (1.0 - alpha) * own)


def _with(problem: DistillationProblem, weighting: VarianceWeighting) -> DistillationProblem:
    return problem.with_design(strategy="variance_weighting", weighting=weighting)


def _shrunk_toward_pilot(
    responses: FloatArray, mean: FloatArray, fitted: FloatArray, leverage: FloatArray
) -> FloatArray:
    """Mix with one weight, 1 - (v_T - c)/E(responses - pilot)^2 (result T8), both averaged over inputs."""
    variance = _squares(responses, mean).mean(axis=1) / (responses.shape[1] - 1) / responses.shape[1]
    excess = variance * (1.0 - leverage).mean()
    whole = ((mean - fitted) ** 2).mean(axis=1)
    alpha = np.clip(1.0 - np.divide(excess, whole, out=np.ones_like(whole), where=whole > 0.0), 0.0, 1.0)[:, None]
    return np.asarray(alpha * mean + (1.0 - alpha) * fitted)


def _squares(responses: FloatArray, mean: FloatArray) -> FloatArray:
    return np.asarray(((responses - mean[:, None]) ** 2).sum(axis=1))


def _input_variances(responses: FloatArray, mean: FloatArray, name: str) -> FloatArray:
    return response_variances(_squares(responses, mean), responses.shape[1] - 1, estimate=ESTIMATORS[name].variances)


def _input_fit(setting: Setting) -> Callable[[FloatArray, FloatArray], FloatArray]:
    """Return the fit of many students at once, each with weights of its own, scaled to mean 1."""
    student = setting.problem.student
    assert isinstance(student, LinearStudent)
    basis, to_coefficients = setting.student.raw_inputs, np.eye(setting.student.raw_inputs.shape[1])
    if student.penalty == 0.0:
        basis, triangle = scipy.linalg.qr(basis, mode="economic")
        to_coefficients = scipy.linalg.solve_triangular(triangle, to_coefficients)
    n, width = basis.shape
    penalised = np.full(width, student.penalty)
    penalised[0] = 0.0 if student.fit_intercept else student.penalty
    penalty = to_coefficients.T @ (penalised[:, None] * to_coefficients)
    products = np.einsum("ip,iq->ipq", basis, basis).reshape(n, -1)

    def fit(labels: FloatArray, variances: FloatArray) -> FloatArray:
        weights = 1.0 / variances
        weights /= weights.mean(axis=1, keepdims=True)
        gram = (weights @ products).reshape(-1, width, width) + penalty
        found = np.linalg.solve(gram, ((weights * labels) @ basis)[..., None])[..., 0]
        return np.asarray(found @ to_coefficients.T)

    return fit


def _check_control(setting: Setting, averaging: FloatArray) -> None:
    """Refuse a simulation whose plain averaging is not what is known exactly: its responses have no digits left."""
    squares = (averaging**2).sum(axis=1)
    error = squares.std(ddof=1) / np.sqrt(len(squares))
    if not abs(squares.mean() - setting.variance) <= LARGEST_Z * error:
        raise PredictionError(
            "simulated plain averaging is far from its exact variance: the noise is too small beside the teacher's "
            "mean for double precision, or its law has no variance (centre and scale the teacher's answers)"
        )


def _estimate(
    setting: Setting, students: dict[str, FloatArray], label_errors: dict[str, FloatArray], name: str
) -> Estimate:
    z, n = students[name], len(students[name])
    control = (students["averaging"] ** 2).sum(axis=1)
    spread = ((z - z.mean(axis=0)) ** 2).sum(axis=1) * n / (n - 1)
    variance = _controlled(spread, control, setting.variance)
    error = _controlled((z**2).sum(axis=1), control, setting.variance)
    labels = _controlled(label_errors[name], label_errors["averaging"], setting.label_error)
    if ESTIMATORS[name].family == "inputs":
        labels = (1.0, 0.0)
    return Estimate(
        variance=variance[0],
        error=error[0],
        label_error=labels[0],
        variance_se=variance[1],
        error_se=error[1],
        label_error_se=labels[1],
    )


def _controlled(values: FloatArray, control: FloatArray, expectation: float) -> tuple[float, float]:
    """Return mean over ``expectation`` and its standard error, with the control's error taken out."""
    odd = np.arange(len(values)) % 2 == 1
    adjusted = np.empty_like(values)
    for half in (odd, ~odd):
        a, y = control[~half], values[~half]
        spread = a - a.mean()
        beta = spread @ (y - y.mean()) / (spread @ spread)
        adjusted[half] = values[half] - beta * (control[half] - expectation)
    return float(adjusted.mean() / expectation), float(adjusted.std(ddof=1) / np.sqrt(len(values)) / expectation)
