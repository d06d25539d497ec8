r"""Students as PyMC models, all of them at once.

A Gaussian likelihood is written by its sufficient statistics along the principal axes of the inputs: the p scores
:math:`U'y` are normal around :math:`d_j v_j`, the squares off the axes are :math:`s^2\chi^2`. It is the
likelihood of all n labels, at the cost of p of them, and its posterior is nearly spherical, which is what NUTS
likes. Models with other likelihoods see every label.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import UnsupportedProblemError, invalid
from kdstats.linear.bayesian import principal_scores, rows_per_input
from kdstats.prediction.bayes.class_models import INTERCEPT_WIDTH, class_stack
from kdstats.prediction.bayes.libraries import pm, pt
from kdstats.prediction.bayes.stacks import Draws, Predictive, Stack
from kdstats.problem.bayesian import BayesianLinearStudent, BayesianStudent
from kdstats.problem.categorical import CategoricalTeacher
from kdstats.problem.specification import DistillationProblem

__all__ = ["conjugate_stack", "stack_of"]

FloatArray = NDArray[np.float64]
Derived = tuple[tuple[str, ...], FloatArray]

#: Parameters of the gamma prior of Student t degrees of freedom beyond 2.
FREEDOM_SHAPE, FREEDOM_RATE = 2.0, 0.1


def stack_of(problem: DistillationProblem, responses: FloatArray) -> Stack:
    """Return the model of students that were given these responses.

    Parameters
    ----------
    problem : DistillationProblem
        With a BayesianLinearStudent or a BayesianStudent.
    responses : (S, k, n, q) ndarray
        Each student's k responses to each input; averaged here unless the strategy keeps them as rows. Of a
        CategoricalTeacher: the counts (S, n, C) of the classes among them.
    """
    student = problem.student
    if isinstance(problem.teacher, CategoricalTeacher):
        return class_stack(problem, responses)
    rows_kept = problem.design.strategy == "multi_response"
    if isinstance(student, BayesianLinearStudent):
        labels = responses.mean(axis=1)
        within = ((responses - labels[:, None]) ** 2).sum(axis=1)
        return conjugate_stack(problem, labels=labels, within=within)
    if not isinstance(student, BayesianStudent):
        raise UnsupportedProblemError(
            f"engine 'pymc' samples a BayesianLinearStudent or a BayesianStudent; got a {type(student).__name__}"
        )
    values = responses[..., 0] if rows_kept else responses[..., 0].mean(axis=1, keepdims=True)
    return _rows_stack(problem, student, values.reshape(len(values), -1), copies=values.shape[1])


def conjugate_stack(problem: DistillationProblem, *, labels: FloatArray, within: FloatArray) -> Stack:
    """Return the model of a BayesianLinearStudent: its posterior is known, which makes it the test of the engine.

    Parameters
    ----------
    problem : DistillationProblem
    labels, within : (S, n, 1) ndarray
        As in :func:`~kdstats.linear.bayesian.fit_bayesian_students`.
    """
    student, teacher = problem.student, problem.gaussian_teacher
    assert isinstance(student, BayesianLinearStudent)
    if teacher.n_outputs > 1:
        raise UnsupportedProblemError(f"engine 'pymc' has one output; got {teacher.n_outputs} (use engine='conjugate')")
    if student.maximises_evidence or problem.resample_size is not None:
        raise UnsupportedProblemError(
            "engine 'pymc' samples students with a given prior and all rows; got an evidence prior or resampled rows "
            "(use engine='conjugate')"
        )
    found = principal_scores(problem, labels=labels, within=within)
    n, p, intercept = teacher.n_inputs, teacher.n_features, student.fit_intercept
    rank = min(n - int(intercept), p)
    power, known = student.likelihood_power * rows_per_input(problem), student.noise_variance
    freedom = power * n - int(intercept) - rank
    prior_variance = student.prior_variance if isinstance(student.prior_variance, float) else 1.0
    proper_noise = student.noise_shape > 0.0 and student.noise_scale > 0.0

    def build(data: Mapping[str, Any]) -> None:
        noise, unit = pt.ones_like(data["squares"]), pt.ones_like(data["squares"])
        if known is not None:
            noise = known * noise
        elif proper_noise:
            noise = unit = pm.InverseGamma("noise_variance", student.noise_shape, student.noise_scale, dims="student")
        else:
            log_noise = pm.Flat("log_noise_variance", dims="student")
            noise = unit = pt.exp(log_noise)
            if student.noise_shape > 0.0 or student.noise_scale > 0.0:
                tilt = -student.noise_shape * log_noise - student.noise_scale / noise
                pm.Potential("noise_prior", tilt, dims="student")
        if student.is_flat:
            axis = pm.Flat("axis_coefficient", dims=("student", "axis"))
        else:
            axis = pm.Normal("axis_coefficient", 0.0, pt.sqrt(prior_variance * unit)[:, None], dims=("student", "axis"))
        spread = pt.sqrt(noise / power)
        pm.Normal("scores", data["length"] * axis[:, :rank], spread[:, None], observed=data["score"])
        if intercept:
            centre = pm.Flat("centre", dims="student")
            pm.Normal("levels", centre, spread / np.sqrt(n), observed=data["level"])
        if known is None and freedom > 0.0:
            pm.Gamma("residual_squares", 0.5 * freedom, 0.5 / noise, observed=data["squares"])

    to_slopes, means = found.right @ found.scale.T, found.prior_mean[:, 0]

    def noise_of(draws: Draws) -> FloatArray:
        if known is not None:
            return np.full(draws["axis_coefficient"].shape[:-1], known)
        return draws["noise_variance"] if "noise_variance" in draws else np.exp(draws["log_noise_variance"])

    def predictive(draws: Draws) -> Predictive:
        mean = problem.X_query @ means + draws["axis_coefficient"] @ ((problem.X_query - found.centre) @ to_slopes.T).T
        if intercept:
            mean = mean + draws["centre"][..., None]
        return Predictive(mean=mean, variance=noise_of(draws)[..., None])

    def derived(draws: Draws) -> dict[str, Derived]:
        moved = draws["axis_coefficient"] @ to_slopes
        more: dict[str, Derived] = {"coefficient": (("student", "feature"), means + moved)}
        if known is None and not proper_noise:
            more["noise_variance"] = (("student",), noise_of(draws))
        if intercept:
            more["intercept"] = (("student",), draws["centre"] - moved @ found.centre)
        return more

    axes = [f"axis {j}" for j in range(p)]
    return Stack(
        arrays={
            "length": np.repeat(found.lengths[None, :rank], len(labels), axis=0),
            "score": found.scores[:, :rank, 0],
            "squares": np.maximum(found.squares[:, 0], np.finfo(np.float64).tiny),
            "level": found.level[:, 0],
        },
        dims={"length": ("score_axis",), "score": ("score_axis",), "squares": (), "level": ()},
        coords={"score_axis": axes[:rank], "axis": axes, "feature": list(teacher.feature_names or ())},
        build=build,
        predictive=predictive,
        derived=derived,
        averages=True,
        observed={"score": "scores"} | ({} if known is not None or freedom <= 0.0 else {"squares": "residual_squares"}),
    )


def _rows_stack(problem: DistillationProblem, student: BayesianStudent, labels: FloatArray, *, copies: int) -> Stack:
    """Return the model of students that see every label, shape (S, copies * n)."""
    X, n_copies = problem.gaussian_teacher.X, copies
    rows = np.tile(X, (n_copies, 1))
    coords: dict[str, Any] = {
        "row": np.arange(len(rows)),
        "point": np.arange(problem.n_points),
        "feature": list(problem.gaussian_teacher.feature_names or ()),
    }
    if callable(student.model):
        return _user_stack(student.model, problem, rows, labels, coords)
    groups = None if student.groups is None else np.tile(student.groups, n_copies)
    if groups is not None:
        coords["group"] = np.arange(int(groups.max()) + 1)
    name, scale, power = student.model, student.noise_scale, student.likelihood_power

    def build(data: Mapping[str, Any]) -> None:
        slopes = (
            _horseshoe(student, len(rows))
            if name == "horseshoe"
            else pm.Normal("coefficient", 0.0, np.sqrt(student.prior_variance), dims=("student", "feature"))
        )
        mean = slopes @ rows.T
        if student.fit_intercept:
            mean = mean + pm.Normal("intercept", 0.0, INTERCEPT_WIDTH * scale, dims="student")[:, None]
        if groups is not None:
            spread = pm.HalfNormal("group_sd", scale, dims="student")
            unit = pm.Normal("group_unit", 0.0, 1.0, dims=("student", "group"))
            mean = mean + (spread[:, None] * unit)[:, groups]
        noise = pm.HalfNormal("noise_sd", scale, dims="student")[:, None]
        if name == "student_t":
            beyond = pm.Gamma("freedom_beyond_2", FREEDOM_SHAPE, FREEDOM_RATE, dims="student")
            law, shape = pm.StudentT, {"nu": beyond[:, None] + 2.0, "mu": mean, "sigma": noise}
        else:
            law, shape = pm.Normal, {"mu": mean, "sigma": noise}
        if power == 1.0:
            law("response", **shape, observed=data["labels"])
        else:
            weighed = power * pm.logp(law.dist(**shape), data["labels"])
            pm.Potential("likelihood", weighed.sum(axis=1), dims="student")

    def predictive(draws: Draws) -> Predictive:
        mean = _slopes(draws, student) @ problem.X_query.T
        if student.fit_intercept:
            mean = mean + draws["intercept"][..., None]
        if student.query_groups is not None:
            mean = mean + (draws["group_sd"][..., None] * draws["group_unit"])[..., student.query_groups]
        variance = draws["noise_sd"] ** 2
        if name == "student_t":
            variance = variance * (1.0 + 2.0 / draws["freedom_beyond_2"])
        return Predictive(mean=mean, variance=variance[..., None])

    def derived(draws: Draws) -> dict[str, Derived]:
        more: dict[str, Derived] = {}
        if name == "horseshoe":
            more["coefficient"] = (("student", "feature"), _slopes(draws, student))
        if groups is not None:
            effects = draws["group_sd"][..., None] * draws["group_unit"]
            more["group_effect"] = (("student", "group"), effects)
        return more

    return Stack(
        arrays={"labels": labels},
        dims={"labels": ("row",)},
        coords=coords,
        build=build,
        predictive=predictive,
        derived=derived,
        observed={"labels": "response"} if power == 1.0 else {},
    )


def _horseshoe(student: BayesianStudent, n_rows: int) -> Any:
    """Add a regularised horseshoe prior, not centred, and return the coefficients."""
    noise_scale = student.noise_scale
    pull = pm.HalfCauchy("global_scale", noise_scale / np.sqrt(n_rows), dims="student")[:, None]
    local = pm.HalfCauchy("local_scale", 1.0, dims=("student", "feature"))
    unit = pm.Normal("coefficient_unit", 0.0, 1.0, dims=("student", "feature"))
    return unit * _slab(pull * local, student.prior_variance, pt.sqrt)


def _slab(scale: Any, slab_variance: float, root: Any) -> Any:
    """Return the horseshoe's standard deviation, which the slab bounds."""
    return scale * root(slab_variance / (slab_variance + scale**2))


def _slopes(draws: Draws, student: BayesianStudent) -> FloatArray:
    if "coefficient" in draws:
        return draws["coefficient"]
    scale = draws["global_scale"][..., None] * draws["local_scale"]
    return np.asarray(draws["coefficient_unit"] * _slab(scale, student.prior_variance, np.sqrt))


def _user_stack(
    model: Any, problem: DistillationProblem, rows: FloatArray, labels: FloatArray, coords: dict[str, Any]
) -> Stack:
    def build(data: Mapping[str, Any]) -> None:
        shared = {
            "X": pm.Data("X", rows, dims=("row", "feature")),
            "X_query": pm.Data("X_query", problem.X_query, dims=("point", "feature")),
        }
        model({**shared, "labels": data["labels"]})
        _check_user_model(pm.modelcontext(None))

    def predictive(draws: Draws) -> Predictive:
        mean = draws["prediction"]
        return Predictive(mean=mean, variance=draws.get("prediction_variance", np.zeros_like(mean[..., :1])))

    return Stack(
        arrays={"labels": labels}, dims={"labels": ("row",)}, coords=coords, build=build, predictive=predictive
    )


def _check_user_model(model: pm.Model) -> None:
    """Refuse a user's model whose variables do not lie along the students, or that predicts nothing."""
    if "prediction" not in model.named_vars:
        raise invalid("model", "define `prediction` with dims (student, point)", f"{', '.join(model.named_vars)}")
    for name in [*(variable.name for variable in model.free_RVs), "prediction"]:
        dims = model.named_vars_to_dims.get(name, ())
        if not dims or dims[0] != "student":
            raise invalid("model", "give every variable 'student' as its first dim", f"{name} with dims {dims}")
