r"""The engine ``wide_network``: students of infinite width under gradient descent, in closed form.

An infinitely wide network stays with the tangent kernel :math:`\Theta` it starts with, and its start is a Gaussian
process of covariance K [1]_. Gradient descent on the mean squared error over n rows and q outputs multiplies the
residual in each eigendirection of :math:`\Theta_{XX}`, of eigenvalue :math:`\lambda`, by
:math:`1 - 2\eta\lambda/(nq)` a step. After T steps the outputs at the query points are
:math:`f_T = f_0^* + A\,(y - f_0)` with :math:`A = \Theta_{*X}\, U s_T(\lambda) U'`,
:math:`s_T(\lambda) = (1 - (1 - 2\eta\lambda/(nq))^T)/\lambda`, so over students

.. math::

    \text{inter} = \underbrace{K_{**} + A K_{XX} A' - A K_{X*} - K_{*X} A'}_{\text{initialization}}
                 + \underbrace{A\,C A'}_{\text{labels}},

C the covariance of the labels, :math:`\Sigma/k` for k independent responses. With momentum :math:`s_T` follows from
the two-term recursion of the same step.

References
----------
.. [1] Lee, J. et al. (2019), *Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent*,
   NeurIPS 32. The label part is the linear map A applied to their covariance.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import ApproximationWarning, PredictionError, UnsupportedProblemError, invalid
from kdstats.linear.smoother import as_full
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.prediction.networks.kernels import DUALS, Kernels, Layer, infinite_width_kernels
from kdstats.prediction.networks.narrow import draw_parameters, train_and_predict
from kdstats.prediction.networks.spread import centred, covariance_of_labels, error_of_mean, within_rows
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import NetworkStudent
from kdstats.problem.validation import as_count, as_flag, as_number
from kdstats.streams import Seeds, as_seeds

__all__ = ["WideNetwork", "predict", "wide_network"]

FloatArray = NDArray[np.float64]

#: Matrices of the size of the kernel that are held at once.
KERNEL_COPIES = 8
#: Width at which real networks are trained to estimate the error, if the student is not narrower.
CHECK_WIDTH = 64
#: Estimated relative error beyond which the answer is called outside its regime.
TOLERANCE = 0.1


@dataclass(frozen=True, eq=False, kw_only=True)
class WideNetwork:
    """The law of an infinitely wide student's outputs, alike for every output.

    Attributes
    ----------
    map : (m, n) ndarray
        A: the outputs move by A times the noise of the labels.
    start : (m, m) ndarray
        Covariance over initialisations of the trained outputs.
    noise : (m, m) ndarray
        Covariance over labels.
    residual : (q,) ndarray
        Expected squared residual of a student at the inputs, averaged over them.
    rate_limit : float
        Learning rate from which on training diverges.
    """

    map: FloatArray
    start: FloatArray
    noise: FloatArray
    residual: FloatArray
    rate_limit: float


def predict(
    problem: DistillationProblem,
    *,
    covariance: bool = False,
    n_check: int = 24,
    max_memory: float = 2.0,
    rng: Any = None,
) -> VarianceComponents:
    r"""Predict the components of wide network students from their kernels.

    Parameters
    ----------
    problem : DistillationProblem
        With a network student of ReLU or erf activations, trained by ``sgd``, full batch on every row, without weight
        decay or early stopping.
    covariance : bool, default False
        Whether to keep the inter-student covariance between query points.
    n_check : int, default 24
        Pairs of real networks behind the estimated error, at least 4; 0 leaves it out.
    max_memory : float, default 2.0
        Gibibytes that the kernels may take.
    rng : int, Generator, SeedSequence, Seeds or None
        For the check alone; the prediction does not depend on it.

    Returns
    -------
    VarianceComponents
        ``exactness`` "approximate". ``attrs["source_variances"]``: the parts of teacher and initialization, averaged
        over points; ``attrs["relative_error"]`` and ``attrs["relative_error_se"]``: how much more than this real
        students of this width are expected to vary, as a fraction, from networks of width 64 or less and the law
        that the error falls as one over width; ``attrs["relative_error_by_source"]`` the same for each part;
        ``attrs["rate_limit"]``.

    Raises
    ------
    UnsupportedProblemError
        For another student, optimiser or activation, weight decay, or resampled rows.
    PredictionError
        If the kernels would take too much memory, or training diverges at this learning rate.

    Warns
    -----
    ApproximationWarning
        If the estimated error, or that of a part, exceeds 10%: the student is too narrow, or moves too far from
        its start.

    Notes
    -----
    With the source ``student_initialization`` off the initialization part is 0 and the label part stays as it is: the
    kernel of an infinitely wide network is the same for every start. That of a real one scatters around it by
    one over the root of the width, which no average over starts takes away.

    In the standard parameterisation a step moves a layer in proportion to its fan-in, and the kernels are
    those of the given widths; the theory holds for learning rates of order one over width.
    """
    started = time.perf_counter()
    as_flag("covariance", covariance)
    if n_check != 0:
        as_count("n_check", n_check, minimum=4, reason="to estimate an error (0 leaves it out)")
    check_covered(problem)
    _check_memory(problem, as_number("max_memory", max_memory, minimum=0.0, exclusive=True))
    seeds = as_seeds(rng)
    with one_blas_thread(when=problem.gaussian_teacher.n_inputs <= SMALL):
        law = wide_network(problem)
        check = _check(problem, law, seeds, n_check) if n_check else {}
    whole = law.start + law.noise
    q, square = problem.gaussian_teacher.n_outputs, float((whole**2).sum())
    intra = law.residual + within_rows(problem) if "student_output" in problem.design.sources else np.zeros(q)
    labels = list(problem.point_labels)
    kept = None
    if covariance:
        kept = xr.DataArray(
            np.stack([whole] * q),
            dims=("output", "point", "point_other"),
            coords={"output": np.arange(q), "point": labels, "point_other": labels},
            name="inter_student_covariance",
        )
    attrs = {
        "engine": "wide_network",
        "exactness": "approximate",
        "estimator": "start and tangent kernels of infinite width after the given steps",
        "effective_rank": q * float(np.trace(whole)) ** 2 / square if square > 0.0 else 1.0,
        "source_variances": {
            "teacher_output": float(np.diag(law.noise).mean()),
            "student_initialization": float(np.diag(law.start).mean()),
        },
        "rate_limit": law.rate_limit,
        "kernel_bytes": _kernel_bytes(problem),
        **check,
        "seed": seeds.as_dict(),
        "versions": versions(),
        "problem": problem.fingerprint(),
        "wall_time": time.perf_counter() - started,
    }
    return VarianceComponents.from_arrays(
        inter_student=np.repeat(np.diag(whole)[:, None], q, axis=1),
        intra_student=intra[None, :],
        point_labels=problem.point_labels,
        attrs=attrs,
        covariance=kept,
    )


def wide_network(problem: DistillationProblem) -> WideNetwork:
    """Return the prediction in arrays; :func:`predict` adds labels, provenance and the check of its error."""
    student = _student(problem)
    return _law(problem, student, student.hidden, student.learning_rate)


def check_covered(problem: DistillationProblem) -> None:
    """Refuse what the theory does not cover."""
    if not isinstance(problem, DistillationProblem):
        raise invalid("problem", "be a DistillationProblem", f"a {type(problem).__name__}")
    student = problem.student
    if not isinstance(student, NetworkStudent):
        raise UnsupportedProblemError(
            f"wide-network theory covers a NetworkStudent; got a {type(student).__name__} "
            "(engine='closed_form' covers a LinearStudent)"
        )
    reasons = {
        "networks that kdstats builds (no `module`)": student.module is None,
        "starts drawn anew (no `perturbation_sd`)": student.perturbation_sd is None,
        f"activations {' and '.join(DUALS)}": student.activation in DUALS,
        "gradient descent (optimizer='sgd')": student.optimizer == "sgd",
        "training without weight decay": student.weight_decay == 0.0,
        "students that predict a number (head='mean')": student.head == "mean",
        "full-batch steps": student.batch_size is None,
        f"students without dropout (`dropout` must be 0; got {student.dropout:g})": student.dropout == 0.0,
        "a fixed number of steps": student.early_stopping is None,
        "students that see every row": problem.resample_size is None,
        "mean labels (no strategy 'variance_weighting')": problem.design.weighting is None,
    }
    for covered, holds in reasons.items():
        if not holds:
            raise UnsupportedProblemError(f"wide-network theory covers {covered} (`kdstats.observe` trains the others)")


def _student(problem: DistillationProblem) -> NetworkStudent:
    assert isinstance(problem.student, NetworkStudent)
    return problem.student


def _law(
    problem: DistillationProblem, student: NetworkStudent, hidden: tuple[int, ...], learning_rate: float
) -> WideNetwork:
    teacher, n = problem.gaussian_teacher, problem.gaussian_teacher.n_inputs
    own = problem.design.X_query is None
    everything = teacher.X if own else np.vstack([teacher.X, problem.X_query])
    layers = _layers(student, (teacher.n_features, *hidden))
    kernels = infinite_width_kernels(everything, layers=layers, activation=student.activation)
    inputs, points = slice(0, n), slice(0, n) if own else slice(n, None)
    eigenvalues, vectors = scipy.linalg.eigh(kernels.tangent[inputs, inputs])
    eigenvalues = np.maximum(eigenvalues, 0.0)
    size = 2.0 / (n * teacher.n_outputs)
    limit = 2.0 * (1.0 + student.momentum) / (size * eigenvalues[-1])
    if learning_rate >= limit:
        raise PredictionError(
            f"`learning_rate` must be less than {limit:.4g}, from where on gradient descent diverges on this kernel; "
            f"got {learning_rate:g}"
        )
    gain = _gain(eigenvalues, student, learning_rate, size)
    towards = (vectors * gain) @ vectors.T
    answer = kernels.tangent[points, inputs] @ towards
    left = (vectors * (1.0 - eigenvalues * gain)) @ vectors.T
    return WideNetwork(
        map=answer,
        start=_start(problem, kernels, answer, inputs, points),
        noise=_moved(answer, covariance_of_labels(problem)),
        residual=_residual(problem, kernels, left, inputs),
        rate_limit=float(limit),
    )


def _layers(student: NetworkStudent, fan_in: tuple[int, ...]) -> list[Layer]:
    weight, bias = student.weight_variance, student.bias_variance
    if student.parameterization == "ntk":
        assert weight is not None
        assert bias is not None
        layer = Layer(weight_variance=weight, bias_variance=bias, weight_gain=weight, bias_gain=bias)
        return [layer] * len(fan_in)
    return [
        Layer(
            weight_variance=1.0 / 3.0 if weight is None else weight,
            bias_variance=1.0 / (3.0 * before) if bias is None else bias,
            weight_gain=float(before),
            bias_gain=1.0,
        )
        for before in fan_in
    ]


def _gain(eigenvalues: FloatArray, student: NetworkStudent, learning_rate: float, size: float) -> FloatArray:
    r"""Return :math:`s_T(\lambda)`: what is left of the residual after T steps is :math:`1 - \lambda s_T`."""
    gain, velocity = np.zeros_like(eigenvalues), np.zeros_like(eigenvalues)
    for _ in range(student.epochs):
        velocity = student.momentum * velocity + size * (1.0 - eigenvalues * gain)
        gain += learning_rate * velocity
    return gain


def _start(
    problem: DistillationProblem, kernels: Kernels, answer: FloatArray, inputs: slice, points: slice
) -> FloatArray:
    if "student_initialization" not in problem.design.sources:
        return np.zeros((len(answer), len(answer)))
    K = kernels.start
    cross = answer @ K[inputs, points]
    return np.asarray(K[points, points] + answer @ K[inputs, inputs] @ answer.T - cross - cross.T)


def _moved(answer: FloatArray, covariance: FloatArray) -> FloatArray:
    if covariance.ndim == 2:
        return np.asarray(answer @ covariance @ answer.T)
    return np.asarray((answer * covariance) @ answer.T)


def _residual(problem: DistillationProblem, kernels: Kernels, left: FloatArray, inputs: slice) -> FloatArray:
    """Mean over inputs of E(label - output)^2: bias, labels and start (whichever start it is)."""
    n = problem.gaussian_teacher.n_inputs
    bias = (left @ problem.gaussian_teacher.mean_by_output) ** 2
    varying = as_full(covariance_of_labels(problem), n) + kernels.start[inputs, inputs]
    return np.asarray(bias.mean(axis=0) + np.einsum("ij,jk,ik->", left, varying, left, optimize=True) / n)


def _kernel_bytes(problem: DistillationProblem) -> int:
    rows = problem.gaussian_teacher.n_inputs + (0 if problem.design.X_query is None else problem.n_points)
    return 8 * KERNEL_COPIES * rows**2


def _check_memory(problem: DistillationProblem, max_memory: float) -> None:
    needed = _kernel_bytes(problem)
    if needed > max_memory * 2**30:
        raise PredictionError(
            f"`max_memory` must be at least {needed / 2**30:.3g} GiB for kernels over {problem.teacher.n_inputs} "
            f"inputs and {problem.n_points} points; got {max_memory:g}"
        )


def _check(problem: DistillationProblem, law: WideNetwork, seeds: Seeds, n_check: int) -> dict[str, Any]:
    """Train real networks of modest width, compare them with the theory at that width, scale by one over width."""
    student = _student(problem)
    narrowest = min(student.hidden)
    shrink = min(1.0, CHECK_WIDTH / narrowest)
    hidden = tuple(max(1, round(shrink * width)) for width in student.hidden)
    rate = student.learning_rate if student.parameterization == "ntk" else student.learning_rate / shrink
    parts = ("teacher_output", "student_initialization")
    active = problem.with_design(sources=(*parts, "student_output"))
    theory = _law(active, student, hidden, rate)
    seen = _narrow_students(active, student, hidden, rate, seeds, n_check)
    excess = {
        name: shrink * (values / np.diag(getattr(theory, field)).mean() - 1.0)
        for name, values, field in zip(parts, seen, ("noise", "start"), strict=True)
        if np.diag(getattr(theory, field)).mean() > 0
    }
    own = {
        "teacher_output": float(np.diag(law.noise).mean()),
        "student_initialization": float(np.diag(law.start).mean()),
    }
    total = sum(own.values())
    if total == 0.0:
        return {}
    share = {name: own[name] / total for name in excess}
    combined = sum(share[name] * excess[name] for name in excess)
    assert isinstance(combined, np.ndarray)
    error, error_se = float(combined.mean()), float(error_of_mean(combined))
    parts_off = {name: float(values.mean()) for name, values in excess.items()}
    if max(abs(error), *(abs(off) for name, off in parts_off.items() if own[name] > 0.0)) > TOLERANCE:
        shown = ", ".join(f"{name} {100 * off:+.0f}%" for name, off in parts_off.items())
        warnings.warn(
            f"students of width {narrowest} are expected to vary {100 * error:+.0f}% (standard error "
            f"{100 * error_se:.0f}) against wide-network theory ({shown}): they are too narrow for it, or trained too "
            "far from their start; use engine='linear_response'",
            ApproximationWarning,
            stacklevel=4,
        )
    return {
        "relative_error": error,
        "relative_error_se": error_se,
        "relative_error_by_source": parts_off,
        "check_width": min(hidden),
        "n_check": n_check,
    }


def _narrow_students(
    problem: DistillationProblem,
    student: NetworkStudent,
    hidden: tuple[int, ...],
    learning_rate: float,
    seeds: Seeds,
    n_check: int,
) -> tuple[FloatArray, FloatArray]:
    """Return each network's contribution to the label part and to the initialization part, averaged over points."""
    teacher, q = problem.gaussian_teacher, problem.gaussian_teacher.n_outputs
    branch = seeds.branch("width check")
    start = draw_parameters(
        student, (teacher.n_features, *hidden, q), branch.generator("student_initialization"), n_students=n_check
    )
    values, vectors = np.linalg.eigh(as_full(covariance_of_labels(problem), teacher.n_inputs))
    normal = branch.generator("teacher_output").standard_normal((n_check, teacher.n_inputs, q))
    noise = np.einsum("ij,sjq->siq", vectors * np.sqrt(np.maximum(values, 0.0)), normal, optimize=True)
    mean = np.broadcast_to(teacher.mean_by_output, noise.shape)
    free, noisy = (
        train_and_predict(teacher.X, labels, student=student, start=start, learning_rate=learning_rate)(problem.X_query)
        for labels in (mean, mean + noise)
    )
    if not (np.isfinite(free).all() and np.isfinite(noisy).all()):
        raise PredictionError(
            f"`learning_rate` must be smaller than {student.learning_rate:g}: networks trained for the check diverged"
        )
    share = n_check / (n_check - 1)
    return tuple((share * centred(part) ** 2).mean(axis=(1, 2)) for part in (noisy - free, free))
