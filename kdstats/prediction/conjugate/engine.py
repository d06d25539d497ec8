r"""Variance components of Bayesian linear students.

The posterior mean is linear in the labels, :math:`\hat w = Fy + d`, so over students

.. math:: \text{inter} = \operatorname{diag}(X^*F\,C\,F'X^{*\prime}),

with C the covariance of the labels. A student's own variance at x is :math:`s^2(1 + x'Ax)` with
:math:`A^{-1} = \Lambda + \omega X'X`; its noise variance :math:`s^2` is the one it is told (result T16), or the
posterior mean :math:`b_n/(a_n-1)`, quadratic in the labels, whose expectation over students is exact for any
law of the noise (result T17). Where a student chooses its prior by its own labels, or sees resampled rows, many
students are drawn and each is fitted exactly.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import xarray as xr
from numpy.typing import NDArray

from kdstats.components.provenance import versions
from kdstats.components.result import VarianceComponents
from kdstats.errors import RankDeficientError, UnsupportedProblemError
from kdstats.linear.bayesian import improper, noise_degrees_of_freedom, prior_means, rows_per_input
from kdstats.linear.label_law import mean_response_covariance
from kdstats.linear.least_squares import Factorization, factorize
from kdstats.linear.smoother import as_full
from kdstats.linear.threads import SMALL, one_blas_thread
from kdstats.prediction.conjugate.simulation import simulate
from kdstats.problem.bayesian import BayesianLinearStudent
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.validation import as_count, as_flag
from kdstats.progress import ProgressLike
from kdstats.sampling import as_noise_law
from kdstats.streams import as_seeds

__all__ = ["Posterior", "posterior", "predict"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Posterior:
    """The posterior as a map of the labels.

    Attributes
    ----------
    root : (P, P) ndarray
        G with G G' the posterior covariance of the coefficients (intercept first), for known noise; over the
        noise variance where that is unknown.
    label_map : (P, n) ndarray
        F, from labels to posterior means.
    prior_pull : (P, q) ndarray
        d, what the prior mean adds.
    factorization : Factorization
        Of the weighted inputs stacked on the rows of the prior.
    weight : float
        Weight of an input: rows, times power of the likelihood, over the noise variance where known.
    prior_rows : (r, q) ndarray
        Labels of the rows of the prior.
    """

    root: FloatArray
    label_map: FloatArray
    prior_pull: FloatArray
    factorization: Factorization
    weight: float
    prior_rows: FloatArray


def predict(
    problem: DistillationProblem,
    *,
    rng: Any = None,
    n_students: int = 20_000,
    noise_law: Any = "gaussian",
    covariance: bool = False,
    progress: ProgressLike = None,
) -> VarianceComponents:
    """Predict the variance components of Bayesian linear students.

    Parameters
    ----------
    problem : DistillationProblem
        With a :class:`~kdstats.BayesianLinearStudent`.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`. Used only where students have to be drawn.
    n_students : int, default 20000
        Students to draw where the prior is chosen by the evidence or rows are resampled; not used otherwise.
    noise_law : str, NoiseLaw or callable, default "gaussian"
        Law of the teacher's noise. Exact answers hold for any law.
    covariance : bool, default False
        Keep the inter-student covariance between query points, where the answer is exact.
    progress : bool or callable, optional
        See :class:`kdstats.progress.Progress`.

    Returns
    -------
    VarianceComponents
        ``exact`` with standard errors 0, or ``simulated``. ``intra_parts`` holds the parameter part and the noise
        part of ``intra_student``.

    Raises
    ------
    RankDeficientError
        If the prior is flat and the inputs do not determine the coefficients: the posterior is improper.
    PredictionError
        If too few rows leave an unknown noise variance without a posterior mean.
    UnsupportedProblemError
        For other students.

    References
    ----------
    Results T16 and T17 of the theory page; Bishop, C. M. (2006), *Pattern Recognition and Machine Learning*,
    section 3.3.

    Examples
    --------
    Ten labels of variance 1 and a flat prior on their mean: inter and the parameter part of intra are both 1/10.

    >>> import numpy as np, kdstats as kd
    >>> problem = kd.DistillationProblem(
    ...     teacher=kd.GaussianTeacher(np.ones((10, 1)), np.zeros(10), noise_variance=1.0),
    ...     student=kd.BayesianLinearStudent(prior_variance=np.inf, noise_variance=1.0),
    ...     design=kd.Design(np.ones((1, 1))),
    ... )
    >>> answer = predict(problem)
    >>> [round(float(answer.estimate[name][0, 0]), 12) for name in ("inter_student", "intra_student")]
    [0.1, 1.1]
    """
    started = time.perf_counter()
    student = problem.student
    if not isinstance(student, BayesianLinearStudent):
        raise UnsupportedProblemError(
            f"engine 'conjugate' predicts a BayesianLinearStudent; got a {type(student).__name__} "
            "(leave `engine` out for the engine of its own)"
        )
    as_flag("covariance", covariance)
    as_noise_law(noise_law)
    rng = as_seeds(rng)
    n_students = as_count("n_students", n_students, minimum=2, reason="to estimate inter-student variance")
    if student.maximises_evidence or problem.resample_size is not None:
        return simulate(
            problem, n_students=n_students, rng=rng, noise_law=noise_law, progress=progress, started=started
        )
    with one_blas_thread(when=problem.gaussian_teacher.n_inputs <= SMALL):
        return _exact(problem, student, keep_covariance=covariance, started=started)


def posterior(problem: DistillationProblem) -> Posterior:
    """Return the posterior of a problem's student as a map of its labels.

    Raises
    ------
    RankDeficientError
        If the posterior is improper.
    """
    student, teacher = problem.student, problem.gaussian_teacher
    assert isinstance(student, BayesianLinearStudent)
    known = 1.0 if student.noise_variance is None else student.noise_variance
    weight = student.likelihood_power * rows_per_input(problem) / known
    inputs, names = teacher.X, teacher.feature_names or ()
    if student.fit_intercept:
        inputs, names = np.hstack([np.ones((len(inputs), 1)), inputs]), ("intercept", *names)
    rows = _prior_rows(student, teacher.n_features)
    pull = rows @ prior_means(problem)
    if student.fit_intercept:
        rows = np.hstack([np.zeros((len(rows), 1)), rows])
    stacked = np.vstack([np.sqrt(weight) * inputs, rows])
    try:
        factorization = factorize(stacked, names=names)
    except RankDeficientError as error:
        raise improper(str(error).rpartition("; got ")[2]) from None
    n, basis = teacher.n_inputs, factorization.basis
    return Posterior(
        root=factorization.root,
        label_map=np.sqrt(weight) * factorization.root @ basis[:n].T,
        prior_pull=factorization.root @ (basis[n:].T @ pull),
        factorization=factorization,
        weight=weight,
        prior_rows=pull,
    )


def _exact(
    problem: DistillationProblem, student: BayesianLinearStudent, *, keep_covariance: bool, started: float
) -> VarianceComponents:
    post, q = posterior(problem), problem.gaussian_teacher.n_outputs
    query = problem.X_query
    if student.fit_intercept:
        query = np.hstack([np.ones((len(query), 1)), query])
    spread = query @ post.label_map @ _root(mean_response_covariance(problem, problem.design.n_responses), problem)
    inter = np.repeat(np.einsum("ij,ij->i", spread, spread)[:, None], q, axis=1)
    gram = spread.T @ spread
    square = float(np.einsum("ij,ij->", gram, gram))
    parameter = ((query @ post.root) ** 2).sum(axis=1)[:, None] * np.ones((1, q))
    noise = np.full((1, q), student.noise_variance)
    if student.noise_variance is None:
        noise = _expected_noise(problem, student, post)[None, :]
        parameter = parameter * noise
    quiet = "student_output" not in problem.design.sources
    attrs = {
        "engine": "conjugate",
        "exactness": "exact",
        "estimator": "posterior mean and variance of the conjugate student, over the law of its labels",
        "effective_rank": q * float(np.trace(gram)) ** 2 / square if square > 0.0 else 1.0,
        "versions": versions(),
        "problem": problem.fingerprint(),
        "wall_time": time.perf_counter() - started,
    }
    answer = VarianceComponents.from_arrays(
        inter_student=inter,
        intra_student=0.0 * parameter if quiet else parameter + noise,
        point_labels=problem.point_labels,
        attrs=attrs,
    )
    return VarianceComponents(
        estimate=answer.estimate,
        standard_error=answer.standard_error,
        attrs=attrs,
        covariance=_covariance(problem, spread) if keep_covariance else None,
        intra_parts=None if quiet else _parts(answer, parameter, noise),
    )


def _prior_rows(student: BayesianLinearStudent, p: int) -> FloatArray:
    """Return R with R'R the prior precision."""
    if isinstance(student.prior_variance, np.ndarray):
        lower = scipy.linalg.cholesky(student.prior_variance, lower=True)
        return np.asarray(scipy.linalg.solve_triangular(lower, np.eye(p), lower=True))
    if student.is_flat:
        return np.zeros((0, p))
    assert isinstance(student.prior_variance, float)
    return np.asarray(np.eye(p) / np.sqrt(student.prior_variance))


def _expected_noise(problem: DistillationProblem, student: BayesianLinearStudent, post: Posterior) -> FloatArray:
    """Return E[b_n]/(a_n - 1) over students, shape (q,)."""
    n, k, basis = problem.gaussian_teacher.n_inputs, problem.design.n_responses, post.factorization.basis
    freedom = float(noise_degrees_of_freedom(problem, np.array([n]))[0])
    means = np.vstack([np.sqrt(post.weight) * problem.gaussian_teacher.mean_by_output, post.prior_rows])
    squares = (post.factorization.residuals(means) ** 2).sum(axis=0)
    labels = as_full(mean_response_covariance(problem, k), n)
    explained = np.einsum("ij,ij->", basis[:n], labels @ basis[:n])
    squares = squares + post.weight * (np.trace(labels) - explained)
    if problem.design.strategy == "multi_response":
        one = as_full(mean_response_covariance(problem, 1, fitting=False), n)
        within = (k - 1) * (1.0 - problem.gaussian_teacher.response_correlation) * np.trace(one)
        squares = squares + student.likelihood_power * within
    return np.asarray((student.noise_scale + 0.5 * squares) / (0.5 * freedom - 1.0))


def _root(covariance: FloatArray, problem: DistillationProblem) -> FloatArray:
    """Return Z with Z Z' the covariance of the labels."""
    if covariance.ndim < 2:
        return np.diag(np.sqrt(np.broadcast_to(covariance, (problem.gaussian_teacher.n_inputs,))))
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _parts(answer: VarianceComponents, parameter: FloatArray, noise: FloatArray) -> xr.Dataset:
    whole = answer.intra_student
    return xr.Dataset(
        {
            "parameter": whole.copy(data=np.broadcast_to(parameter, whole.shape)),
            "noise": whole.copy(data=np.broadcast_to(noise, whole.shape)),
        }
    )


def _covariance(problem: DistillationProblem, spread: FloatArray) -> xr.DataArray:
    labels = list(problem.point_labels)
    return xr.DataArray(
        np.stack([spread @ spread.T] * problem.gaussian_teacher.n_outputs),
        dims=("output", "point", "point_other"),
        coords={"output": np.arange(problem.gaussian_teacher.n_outputs), "point": labels, "point_other": labels},
        name="inter_student_covariance",
    )
