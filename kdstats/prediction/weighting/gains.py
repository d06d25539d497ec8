"""Predicted gain or loss of weighting against plain averaging of the same number of responses."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from kdstats.errors import ApproximationWarning, PredictionError, UnsupportedProblemError, invalid
from kdstats.linear.label_law import label_law, mean_response_covariance
from kdstats.linear.smoother import Smoother, augment, smoother
from kdstats.linear.threads import one_blas_thread
from kdstats.prediction.weighting.estimators import ESTIMATORS, ORACLE, refusal
from kdstats.prediction.weighting.simulation import Estimate, Setting, simulate
from kdstats.problem.design import VarianceWeighting
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import LinearStudent
from kdstats.problem.validation import as_choice, as_count, as_probability
from kdstats.progress import Progress, ProgressLike
from kdstats.sampling import Gaussian, StudentT, as_noise_law
from kdstats.streams import as_seeds

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["WeightingGain", "WeightingGains", "weighting_gains"]

FloatArray = NDArray[np.float64]

#: Distance from 1 that is rounding.
ROUNDING = 1e-9
METRICS = ("variance", "error", "label_error")


@dataclass(frozen=True, kw_only=True)
class WeightingGain:
    """One way to weight, against plain averaging of the same responses.

    Attributes
    ----------
    estimator : str
        Key, as in the table of :func:`weighting_gains`.
    label, needs : str
        In words, and what a user must know for it besides the responses.
    variance : float or None
        Inter-student variance over that of plain averaging, each averaged over the query points; below 1
        is a gain. None where the estimator has no answer.
    error : float or None
        The same for the mean squared error around the student that noiseless labels make: variance and
        the bias that weighting brings.
    label_error : float or None
        The same for the mean squared error of the labels around the teacher's mean, averaged over the inputs.
    variance_se, error_se, label_error_se : float or None
        Standard errors; 0 where exact.
    exactness : {"exact", "simulated", "refused"}
    refused : str or None
        Why there is no answer.
    is_bound : bool
        Whether it takes what no user has: a bound, not an estimator.
    """

    estimator: str
    label: str
    needs: str
    variance: float | None
    error: float | None
    label_error: float | None
    variance_se: float | None
    error_se: float | None
    label_error_se: float | None
    exactness: str
    refused: str | None
    is_bound: bool

    def interval(self, metric: str = "error", prob: float = 0.95) -> tuple[float, float] | None:
        """Return the normal interval of one ratio (``variance``, ``error`` or ``label_error``), or None if refused."""
        if metric not in METRICS:
            raise invalid("metric", f"be one of {', '.join(METRICS)}", metric)
        value, error = getattr(self, metric), getattr(self, f"{metric}_se")
        if value is None:
            return None
        half = float(special.ndtri(0.5 + 0.5 * as_probability("prob", prob))) * error
        return value - half, value + half

    @property
    def effect(self) -> str:
        """``gain``, ``loss``, ``none``, ``undecided``, ``bound`` or ``refused``; by the 95% interval of ``error``."""
        bounds = self.interval()
        if bounds is None:
            return "refused"
        if self.is_bound:
            return "bound"
        low, high = bounds
        if max(abs(low - 1.0), abs(high - 1.0)) <= ROUNDING:
            return "none"
        return "gain" if high < 1.0 else "loss" if low > 1.0 else "undecided"


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightingGains:
    """Every way to weight, against plain averaging; ``gains["split_pooled"]`` is one row.

    Attributes
    ----------
    table : tuple of WeightingGain
        One row per estimator, refusals included.
    n_responses : int
        k, for averaging and for every estimator.
    averaging_variance : float
        Inter-student variance of plain averaging, mean over the query points: the unit of ``variance`` and ``error``.
    averaging_label_error : float
        Mean variance of a mean response: the unit of ``label_error``.
    n_students : int
        Students behind each simulated row.
    noise_law : str
    seed : mapping of str to int
    """

    table: tuple[WeightingGain, ...]
    n_responses: int
    averaging_variance: float
    averaging_label_error: float
    n_students: int
    noise_law: str
    seed: Mapping[str, int]

    def __getitem__(self, estimator: str) -> WeightingGain:
        return self.table[tuple(ESTIMATORS).index(as_choice("estimator", estimator, ESTIMATORS))]

    def to_dataframe(self) -> pd.DataFrame:
        """Return the table with one row per estimator, indexed by its key; NaN where refused."""
        import pandas as pd

        frame = pd.DataFrame([{**asdict(row), "effect": row.effect} for row in self.table]).set_index("estimator")
        numbers = [f"{metric}{suffix}" for metric in METRICS for suffix in ("", "_se")]
        return frame.astype(dict.fromkeys(numbers, float))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values (valid JSON: no NaN)."""
        return {
            "n_responses": self.n_responses,
            "averaging_variance": self.averaging_variance,
            "averaging_label_error": self.averaging_label_error,
            "n_students": self.n_students,
            "noise_law": self.noise_law,
            "seed": dict(self.seed),
            "estimators": {row.estimator: {**asdict(row), "effect": row.effect} for row in self.table},
        }

    def summary(self) -> str:
        """Return a printable table."""
        lines = [
            f"Weighting against plain averaging of the same k = {self.n_responses} responses: ratios, a gain below 1",
            f"(inter-student variance of averaging {self.averaging_variance:.5g}; ± one standard error, none: exact)",
            "",
            f"{'':<57}{'variance':>16}{'error':>16}{'labels':>16}  effect",
        ]
        for row in self.table:
            if row.refused is not None:
                lines.append(f"{row.label:<57}  {row.refused}")
                continue
            cells = "".join(f"{_cell(getattr(row, m), getattr(row, f'{m}_se')):>16}" for m in METRICS)
            lines.append(f"{row.label:<57}{cells}  {row.effect}")
        lines += [
            "",
            "error: mean squared, around the student of noiseless labels; labels: around the teacher's mean",
            "bound: takes the teacher's noiseless mean, which no user has; effect: by error, at 95%",
            "intervals: normal, those of simulated rows covered .89 to .95 with 64 students, .92 to .96 from 512 on",
        ]
        return "\n".join(lines)


def weighting_gains(
    problem: DistillationProblem,
    *,
    pilot: LinearStudent | None = None,
    n_students: int = 4096,
    rng: Any = None,
    noise_law: Any = "gaussian",
    progress: ProgressLike = None,
) -> WeightingGains:
    r"""Predict what weighting by inverse variances gains or loses against plain averaging.

    Parameters
    ----------
    problem : DistillationProblem
        With a teacher of one output and an exactly fitted :class:`~kdstats.LinearStudent`. Its number of responses k
        is used by averaging and by every estimator; its strategy and weighting are not.
    pilot : LinearStudent, optional
        The student whose predictions are mixed with the responses. Default: one like the problem's.
    n_students : int, default 4096
        Students simulated for the rows whose weights are estimated, at least 8.
    rng : int, Generator, SeedSequence, Seeds or None
        As in :func:`kdstats.streams.as_seeds`.
    noise_law : str, NoiseLaw or callable, default "gaussian"
        Shape of the teacher's noise, as in Monte Carlo prediction.
    progress : bool or callable, optional
        See :class:`kdstats.progress.Progress`.

    Returns
    -------
    WeightingGains
        With the rows

        * ``averaging``: 1, the reference;
        * ``oracle``: mixed with the noiseless teacher mean by the published weight, a bound (exact for
          Gaussian responses);
        * ``split_known``: pilot on ``k // 2`` responses mixed with the mean of the others, so that
          c = 0, by the weight of result T8 from the true variances and the pilot's bias (exact);
        * ``split_pooled``, ``split_per_input``, ``split_shrunken``: the same from estimated variances (simulated);
        * ``same_known``: pilot on all k responses, weight of result T8 with bias b and covariance c (exact);
        * ``same_ignoring_covariance``: the same with c taken for 0 (exact);
        * ``same_estimated``: the same from the responses alone, one weight for all inputs (simulated);
        * ``inputs_known``: inputs weighted in the student's fit by one over their variance (exact);
        * ``inputs_pooled``: one variance for all inputs, which is no weighting (exact);
        * ``inputs_per_input``, ``inputs_shrunken``: weights from estimated variances (result T4, simulated).

        An estimator without an answer has a row that says why: at k = 1 no response variance can be
        estimated, and one over a variance on up to 4 degrees of freedom has infinite variance.

    Raises
    ------
    UnsupportedProblemError
        For networks, gradient steps, minimum norm, estimated weights, resampled rows, chains, several outputs.
    ProblemError
        If responses do not vary, or an argument is out of range.
    PredictionError
        If double precision does not hold the noise beside the teacher's mean, or its square.

    Warns
    -----
    ApproximationWarning
        If the noise law has no fourth moment.

    Notes
    -----
    All simulated rows see the same responses. The student of their plain means, whose variance is known,
    is the control variate, which leaves ratios unbiased. Input weights are scaled to mean 1, so that a ridge
    penalty keeps its meaning.

    Examples
    --------
    >>> import kdstats as kd
    >>> problem = kd.catalog.intercept_only(noise_variance=4.0, n_inputs=8).with_design(n_responses=3)
    >>> gains = weighting_gains(problem, n_students=256, rng=1)
    >>> round(gains["oracle"].variance, 3)  # a bound, whatever the data
    0.491
    >>> gains["inputs_per_input"].refused
    'infinite variance: per-input with k<=5 (1/s^2 on 2 degrees of freedom)'
    """
    _check(problem)
    plain = problem.with_design(strategy=None, weighting=None)
    pilot = _checked_pilot(plain, pilot)
    count = as_count("n_students", n_students, minimum=8, reason="to simulate estimated weights")
    law, seeds = as_noise_law(noise_law), as_seeds(rng)
    bar = Progress(progress)
    if isinstance(law, StudentT) and law.df <= 4.0:
        warnings.warn(
            f"noise law {law.name} has no fourth moment: standard errors of simulated rows are too small",
            ApproximationWarning,
            stacklevel=2,
        )
    with one_blas_thread(), np.errstate(all="ignore"), bar:
        setting = _setting(plain, pilot)
        refused = {name: refusal(name, plain) for name in ESTIMATORS}
        found: dict[str, Estimate] = {}
        simulated = []
        for name in (name for name, reason in refused.items() if reason is None):
            exact = _exact(setting, name, is_gaussian=isinstance(law, Gaussian))
            if exact is None:
                simulated.append(name)
            else:
                found[name] = exact
        if simulated:
            found |= simulate(
                setting, simulated, n_students=count, seeds=seeds.branch("weighting"), law=law, say=bar.show
            )
    if not np.isfinite([list(asdict(estimate).values()) for estimate in found.values()]).all():
        raise PredictionError("ratios are not finite: `noise_variance` is too large or too small to square in float64")
    return WeightingGains(
        table=tuple(_row(name, found.get(name), refused[name], is_simulated=name in simulated) for name in ESTIMATORS),
        n_responses=plain.design.n_responses,
        averaging_variance=setting.variance,
        averaging_label_error=setting.label_error,
        n_students=count,
        noise_law=law.name,
        seed=seeds.as_dict(),
    )


def _check(problem: DistillationProblem) -> None:
    if not isinstance(problem, DistillationProblem):
        raise invalid("problem", "be a DistillationProblem", f"a {type(problem).__name__}")
    student = problem.student
    if not isinstance(student, LinearStudent):
        raise UnsupportedProblemError(f"weighting gains cover a LinearStudent; got a {type(student).__name__}")
    for is_outside, what in (
        (student.training is not None, "students trained by gradient steps"),
        (student.minimum_norm, "students of minimum norm"),
        (student.weights_are_estimated, "a student with weights='estimated' (it is among the rows)"),
        ("data_resampling" in problem.design.sources, "resampled rows"),
        (problem.design.n_generations > 1, "chains of distillations"),
        (problem.gaussian_teacher.n_outputs > 1, "teachers of several outputs (take one at a time)"),
    ):
        if is_outside:
            raise UnsupportedProblemError(f"weighting gains do not cover {what}")
    if "teacher_output" not in problem.design.sources:
        raise invalid("sources", "have 'teacher_output' on, which is what weighting is about", "it off")


def _checked_pilot(problem: DistillationProblem, pilot: LinearStudent | None) -> LinearStudent:
    if pilot is None:
        assert isinstance(problem.student, LinearStudent)
        return problem.student
    if not isinstance(pilot, LinearStudent):
        raise invalid("pilot", "be a LinearStudent or None", f"a {type(pilot).__name__}")
    if pilot.training is not None or pilot.minimum_norm or pilot.weights_are_estimated:
        raise invalid("pilot", "be fitted exactly, with weights that are numbers", pilot)
    return pilot


def _setting(problem: DistillationProblem, pilot: LinearStudent) -> Setting:
    fit, pilot_fit = smoother(problem), smoother(replace(problem, student=pilot))
    student = problem.student
    assert isinstance(student, LinearStudent)
    query = augment(problem.X_query, student)
    setting = Setting(
        problem=problem,
        student=fit,
        pilot=pilot_fit,
        coefficient_map=_raw_map(fit),
        pilot_map=_raw_map(pilot_fit),
        gram_root=np.asarray(np.linalg.qr(query / np.sqrt(len(query)), mode="r")),
        variance=1.0,
        label_error=1.0,
    )
    law = label_law(problem, fit)
    averaged = _ratios(setting, setting.coefficient_map, law.mean[:, 0], law.covariance)
    if not averaged.variance > 0.0:
        raise invalid("noise_variance", "be greater than 0, or averaging has nothing to remove", averaged.variance)
    return replace(setting, variance=averaged.variance, label_error=averaged.label_error)


def _raw_map(fit: Smoother) -> FloatArray:
    """Coefficients for labels in raw coordinates, shape (P, n)."""
    return np.asarray(fit.coefficient_map @ fit.whiten(np.eye(fit.raw_inputs.shape[0])))


def _exact(setting: Setting, name: str, *, is_gaussian: bool) -> Estimate | None:
    """Return the ratios where labels are a fixed linear map of the responses, else None."""
    problem, mean = setting.problem, setting.problem.gaussian_teacher.mean_by_output[:, 0]
    covariance = mean_response_covariance(problem, problem.design.n_responses)
    if name == "averaging":
        return Estimate(variance=1.0, error=1.0, label_error=1.0)
    if name == "split_known" or (name == "oracle" and is_gaussian):
        weighting = ORACLE if name == "oracle" else VarianceWeighting()
        law = label_law(problem.with_design(strategy="variance_weighting", weighting=weighting), setting.pilot)
        return _ratios(setting, setting.coefficient_map, law.mean[:, 0], law.covariance)
    if name in ("same_known", "same_ignoring_covariance"):
        mixing = _same_responses_map(setting, covariance, ignores_covariance=name == "same_ignoring_covariance")
        return _ratios(setting, setting.coefficient_map, mixing @ mean, covariance, mixing=mixing)
    if name in ("inputs_known", "inputs_pooled"):
        variances = _diagonal(covariance, len(mean))
        weights = None if name == "inputs_pooled" else variances.mean() / variances
        if weights is not None:
            weights = weights / weights.mean()
        return _ratios(
            setting, _raw_map(smoother(problem.with_student(weights=weights, covariance=None))), mean, covariance
        )
    return None


def _same_responses_map(setting: Setting, covariance: FloatArray, *, ignores_covariance: bool) -> FloatArray:
    """Return the map from mean responses to labels mixed with a pilot trained on them, shape (n, n)."""
    hat, mean = setting.pilot.raw_hat, setting.problem.gaussian_teacher.mean_by_output[:, 0]
    passed = _times(hat, covariance)
    error = np.einsum("ij,ij->i", passed, hat) + (hat @ mean - mean) ** 2
    shared = np.zeros(len(mean)) if ignores_covariance else np.diag(passed)
    whole = _diagonal(covariance, len(mean)) + error - 2.0 * shared
    alpha = np.divide(error - shared, whole, out=np.ones_like(whole), where=whole > 0.0)
    return np.asarray(np.diag(alpha) + (1.0 - alpha)[:, None] * hat)


def _ratios(
    setting: Setting,
    coefficient_map: FloatArray,
    label_mean: FloatArray,
    covariance: FloatArray,
    *,
    mixing: FloatArray | None = None,
) -> Estimate:
    """Return the ratios of a student for labels of this mean and covariance (with ``mixing``, before mixing)."""
    teacher_mean = setting.problem.gaussian_teacher.mean_by_output[:, 0]
    gain = setting.gram_root @ coefficient_map
    bias = gain @ label_mean - setting.gram_root @ setting.coefficient_map @ teacher_mean
    if mixing is None:
        label_variance = float(_diagonal(covariance, len(label_mean)).sum())
    else:
        label_variance = float(np.einsum("ij,ij->", _times(mixing, covariance), mixing))
        gain = gain @ mixing
    variance = float(np.einsum("ij,ij->", _times(gain, covariance), gain))
    label_error = (label_variance + float(((label_mean - teacher_mean) ** 2).sum())) / len(label_mean)
    return Estimate(
        variance=variance / setting.variance,
        error=(variance + float(bias @ bias)) / setting.variance,
        label_error=label_error / setting.label_error,
    )


def _times(matrix: FloatArray, covariance: FloatArray) -> FloatArray:
    """Multiply from the right by a covariance that is a number, variances or full."""
    return np.asarray(matrix @ covariance if covariance.ndim == 2 else matrix * covariance)


def _diagonal(covariance: FloatArray, n: int) -> FloatArray:
    return np.asarray(np.diag(covariance) if covariance.ndim == 2 else np.broadcast_to(covariance, (n,)))


def _row(name: str, found: Estimate | None, refused: str | None, *, is_simulated: bool) -> WeightingGain:
    estimator = ESTIMATORS[name]
    numbers = asdict(found) if found is not None else {f"{m}{s}": None for m in METRICS for s in ("", "_se")}
    return WeightingGain(
        estimator=name,
        label=estimator.label,
        needs=estimator.needs,
        exactness="refused" if refused is not None else "simulated" if is_simulated else "exact",
        refused=refused,
        is_bound=estimator.family == "bound",
        **numbers,
    )


def _cell(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}" if error > ROUNDING else f"{value:.3f}        "
