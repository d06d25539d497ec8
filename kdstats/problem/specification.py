"""The problem: one teacher, one student, one design, checked against each other once.

Also its text form. A problem written to TOML and read back is the same problem to the last bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdstats.errors import MisstatedNoiseWarning, UnsupportedProblemError, invalid
from kdstats.problem.bayesian import CLASS_MODELS, BayesianLinearStudent, BayesianStudent
from kdstats.problem.categorical import CategoricalTeacher, DirichletStudent, SoftmaxStudent, TabularStudent
from kdstats.problem.design import Design, VarianceWeighting, pilot_split
from kdstats.problem.student import EarlyStopping, GradientDescent, LinearStudent, NetworkStudent
from kdstats.problem.teacher import GaussianTeacher
from kdstats.problem.validation import as_count, as_labels

__all__ = ["DistillationProblem"]

Teacher = GaussianTeacher | CategoricalTeacher
Student = (
    LinearStudent
    | NetworkStudent
    | BayesianLinearStudent
    | BayesianStudent
    | TabularStudent
    | DirichletStudent
    | SoftmaxStudent
)

#: Students that each kind of teacher can have.
STUDENTS_OF: dict[type, tuple[type, ...]] = {
    GaussianTeacher: (LinearStudent, NetworkStudent, BayesianLinearStudent, BayesianStudent),
    CategoricalTeacher: (TabularStudent, DirichletStudent, NetworkStudent, SoftmaxStudent, BayesianStudent),
}

_KINDS: dict[str, dict[str, type]] = {
    "teacher": {"gaussian": GaussianTeacher, "categorical": CategoricalTeacher},
    "student": {
        "linear": LinearStudent,
        "network": NetworkStudent,
        "bayesian_linear": BayesianLinearStudent,
        "bayesian": BayesianStudent,
        "tabular": TabularStudent,
        "dirichlet": DirichletStudent,
        "softmax": SoftmaxStudent,
    },
    "design": {"design": Design},
}
_NESTED: dict[str, type] = {
    "training": GradientDescent,
    "early_stopping": EarlyStopping,
    "weighting": VarianceWeighting,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class DistillationProblem:
    """What is asked: how much students of one kind, distilled in one way, will vary.

    Parameters
    ----------
    teacher : GaussianTeacher or CategoricalTeacher
        Distribution of the responses at the n training inputs.
    student : LinearStudent, NetworkStudent, BayesianLinearStudent or BayesianStudent
        Or a TabularStudent, DirichletStudent, NetworkStudent, SoftmaxStudent or BayesianStudent for a
        CategoricalTeacher.
        What is fitted to the labels.
    design : Design
        Query points, strategy, number of responses, sources of randomness.

    Raises
    ------
    ProblemError
        If the parts do not fit each other: columns of ``X_query``, lengths of weights, a
        response correlation impossible for k responses, options that exclude each other.
    """

    teacher: Teacher
    student: Student
    design: Design

    def __post_init__(self) -> None:
        _check_kind("teacher", self.teacher, tuple(STUDENTS_OF))
        _check_kind("student", self.student, STUDENTS_OF[type(self.teacher)], f" for a {type(self.teacher).__name__}")
        _check_kind("design", self.design, (Design,))
        if isinstance(self.teacher, CategoricalTeacher):
            self._check_categorical(self.teacher)
            return
        if self.design.strategy == "soft_labels":
            raise invalid("strategy", "be another for a GaussianTeacher, whose mean is not sampled", "soft_labels")
        self._check_query()
        self._check_responses()
        if isinstance(self.student, LinearStudent):
            self._check_linear_student(self.student)
            return
        kind = type(self.student).__name__
        if self.design.strategy == "variance_weighting" and not isinstance(self.student, NetworkStudent):
            raise invalid("strategy", f"be single, averaging or multi_response for a {kind}", "variance_weighting")
        if self.design.n_generations > 1:
            raise invalid("n_generations", f"be 1 for a {kind}", self.design.n_generations)
        if isinstance(self.student, BayesianLinearStudent):
            self._check_bayesian_student(self.student)
        elif isinstance(self.student, BayesianStudent):
            self._check_sampled_student(self.student)
        elif isinstance(self.student, NetworkStudent):
            if self.student.head == "softmax":
                raise invalid("head", "be mean or gaussian for a GaussianTeacher", "softmax")
            self._check_network_student(self.student)

    def _check_categorical(self, teacher: CategoricalTeacher) -> None:
        design = self.design
        if design.strategy == "variance_weighting":
            raise invalid(
                "strategy", "be single, averaging, multi_response or soft_labels for classes", design.strategy
            )
        if design.n_generations > 1:
            raise invalid("n_generations", "be 1 for a CategoricalTeacher", design.n_generations)
        if isinstance(self.student, (TabularStudent, DirichletStudent)):
            kind = type(self.student).__name__
            if design.X_query is not None:
                raise invalid("X_query", f"be left out for a {kind}, which knows its inputs alone", "given")
            if "data_resampling" in design.sources:
                raise invalid("sources", f"be without 'data_resampling' for a {kind}", "data_resampling")
            name = "pseudo_count" if isinstance(self.student, TabularStudent) else "prior_count"
            counts = getattr(self.student, name)
            if counts.ndim and counts.shape != (teacher.n_outputs,):
                raise invalid(name, f"have one entry per class ({teacher.n_outputs})", f"{counts.shape[0]}")
        elif teacher.X is None:
            raise invalid("X", "be given to the teacher of a student with inputs", None)
        else:
            self._check_query()
        if isinstance(self.student, NetworkStudent):
            if self.student.head != "softmax":
                raise invalid("head", "be 'softmax' for a CategoricalTeacher", self.student.head)
            self._check_network_student(self.student)
        elif isinstance(self.student, BayesianStudent):
            self._check_class_student(self.student, teacher.n_outputs)
        if design.point_labels is not None:
            as_labels("point_labels", design.point_labels, self.n_points)

    def _check_query(self) -> None:
        query, p = self.design.X_query, self.teacher.n_features
        if query is not None and query.shape[1] != p:
            raise invalid("X_query", f"have {p} columns, as X has", f"{query.shape[1]} columns")
        if self.design.point_labels is not None:
            as_labels("point_labels", self.design.point_labels, self.n_points)

    def _check_responses(self) -> None:
        k, rho = self.design.n_responses, self.teacher.response_correlation
        if k > 1 and rho < -1.0 / (k - 1) - 1e-12:
            raise invalid(
                "response_correlation", f"be within [-1/(k-1), 1] = [{-1 / (k - 1):.4g}, 1] for k={k} responses", rho
            )
        weighting = self.design.weighting
        if weighting is not None:
            teacher = self.gaussian_teacher
            n = teacher.n_inputs
            if self.teacher.n_outputs > 1:
                raise invalid("mean", "have one output with strategy 'variance_weighting'", f"{self.teacher.n_outputs}")
            if weighting.weight_is_estimated and not teacher.is_diagonal:
                raise invalid("noise_variance", "be a scalar or (n,) with an estimated weight", "a correlated one")
            if weighting.variance_estimate is not None and rho == 1.0:
                raise invalid(
                    "response_correlation", f"be less than 1 with weight={weighting.variance_estimate!r}", rho
                )
            if weighting.variance_estimate == "shrunken" and (teacher.variances <= 0.0).any():
                raise invalid(
                    "noise_variance",
                    "be greater than 0 at every input with weight='shrunken' (variances are compared by logarithms)",
                    f"0 at index {int(np.argmin(teacher.variances))}",
                )
            for name in ("student_estimate", "weight"):
                value = getattr(weighting, name)
                if isinstance(value, np.ndarray) and value.ndim and value.shape != (n,):
                    raise invalid(name, f"have one entry per row of X ({n})", f"shape {value.shape}")

    def _check_linear_student(self, student: LinearStudent) -> None:
        n, design = self.teacher.n_inputs, self.design
        if isinstance(student.weights, np.ndarray) and student.weights.shape != (n,):
            raise invalid("weights", f"have one entry per row of X ({n})", f"shape {student.weights.shape}")
        if isinstance(student.covariance, np.ndarray) and student.covariance.shape != (n, n):
            raise invalid("covariance", f"have shape ({n}, {n})", f"shape {student.covariance.shape}")
        if student.weights_are_estimated:
            if self.teacher.n_outputs > 1:
                raise invalid("mean", "have one output with weights='estimated'", f"{self.teacher.n_outputs}")
            as_count(
                "n_responses",
                design.n_responses,
                minimum=6,
                reason="with weights='estimated' (infinite variance below)",
            )
            if design.strategy != "averaging" or design.n_generations > 1:
                raise invalid("strategy", "be 'averaging' with weights='estimated', in one generation", design.strategy)
        if "data_resampling" in design.sources:
            if student.covariance is not None:
                raise invalid("covariance", "be left out with the source 'data_resampling'", "given")
            if design.n_generations > 1:
                raise invalid("n_generations", "be 1 with the source 'data_resampling'", design.n_generations)

    def _check_network_student(self, student: NetworkStudent) -> None:
        stopping, n = student.early_stopping, self.teacher.n_inputs
        if stopping is None:
            return
        if stopping.n_held_out(n) >= n:
            raise invalid("held_out", f"leave inputs to train on out of {n}", stopping.held_out)
        if self.resample_size is None:
            return
        if student.batch_size is not None:
            raise invalid(
                "early_stopping",
                "be left out where rows are resampled and batched (students would differ in number of steps)",
                "given",
            )
        if student.dropout > 0.0:
            raise invalid("early_stopping", "be left out where rows are resampled and units dropped", "given")

    def _check_bayesian_student(self, student: BayesianLinearStudent) -> None:
        p, q = self.teacher.n_features, self.teacher.n_outputs
        if isinstance(student.prior_variance, np.ndarray) and student.prior_variance.shape != (p, p):
            raise invalid("prior_variance", f"be a number or ({p}, {p})", f"shape {student.prior_variance.shape}")
        if isinstance(student.prior_mean, np.ndarray) and student.prior_mean.shape not in ((p,), (p, q)):
            raise invalid("prior_mean", f"have shape ({p},) or ({p}, {q})", f"shape {student.prior_mean.shape}")
        if student.noise_variance is not None and self.design.strategy == "averaging":
            self._warn_of_misstated_noise(student.noise_variance / student.likelihood_power)

    def _check_class_student(self, student: BayesianStudent, n_classes: int) -> None:
        if not student.is_of_classes:
            shown = "a function" if callable(student.model) else student.model
            raise invalid("model", f"be one of {', '.join(CLASS_MODELS)} for a CategoricalTeacher", shown)
        if student.model == "logistic" and n_classes > 2:
            raise invalid("model", "be 'softmax' for more than 2 classes", f"{student.model} with {n_classes}")
        if self.resample_size is not None:
            raise invalid("sources", "leave out 'data_resampling' for a BayesianStudent", "it")

    def _check_sampled_student(self, student: BayesianStudent) -> None:
        if student.is_of_classes:
            raise invalid("model", "be one of a mean for a GaussianTeacher, which has no classes", student.model)
        if self.teacher.n_outputs > 1:
            raise invalid("mean", "have one output for a BayesianStudent", self.teacher.n_outputs)
        if self.resample_size is not None:
            raise invalid("sources", "leave out 'data_resampling' for a BayesianStudent", "it")
        for name, groups, size in (
            ("groups", student.groups, self.teacher.n_inputs),
            ("query_groups", student.query_groups, self.n_points),
        ):
            if groups is not None and groups.shape != (size,):
                raise invalid(name, f"have {size} entries", f"{groups.shape[0]}")

    def _warn_of_misstated_noise(self, told: float) -> None:
        """Warn if averaged labels are told to be about as noisy as single responses."""
        k, one = self.design.n_responses, float(self.gaussian_teacher.variances.mean())
        averaged = one * max(0.0, 1.0 + (k - 1) * self.teacher.response_correlation) / k
        if told**2 > one * averaged and averaged < one:
            factor = f"{told / averaged:.3g}-fold" if averaged > 0.0 else "without bound"
            warnings.warn(
                f"`noise_variance` says that a label has variance {told:.4g}, but labels are means of {k} responses, "
                f"with variance {averaged:.4g}: students overstate their noise, and intra_student with it, {factor}. "
                f"Give noise_variance={averaged:.4g}, strategy='multi_response', or likelihood_power={k} (then the "
                "noise stays that of one response)",
                MisstatedNoiseWarning,
                stacklevel=5,
            )

    @property
    def gaussian_teacher(self) -> GaussianTeacher:
        """The teacher, where it is a GaussianTeacher.

        Raises
        ------
        UnsupportedProblemError
            If it is not.
        """
        if not isinstance(self.teacher, GaussianTeacher):
            raise UnsupportedProblemError(f"this needs a GaussianTeacher; got a {type(self.teacher).__name__}")
        return self.teacher

    @property
    def categorical_teacher(self) -> CategoricalTeacher:
        """The teacher, where it is a CategoricalTeacher.

        Raises
        ------
        UnsupportedProblemError
            If it is not.
        """
        if not isinstance(self.teacher, CategoricalTeacher):
            raise UnsupportedProblemError(f"this needs a CategoricalTeacher; got a {type(self.teacher).__name__}")
        return self.teacher

    @property
    def X_query(self) -> NDArray[np.float64]:
        """Query points, shape (m, p): the training inputs where the design names none.

        Raises
        ------
        UnsupportedProblemError
            If the teacher has no inputs to fall back on.
        """
        if self.design.X_query is not None:
            return self.design.X_query
        if self.teacher.X is None:
            raise UnsupportedProblemError("this needs a teacher with inputs X; got a CategoricalTeacher without")
        return self.teacher.X

    @property
    def n_points(self) -> int:
        """Number of query points, m."""
        return self.teacher.n_inputs if self.design.X_query is None else int(self.design.X_query.shape[0])

    @property
    def point_labels(self) -> tuple[Any, ...]:
        """Labels of the query points."""
        labels = self.design.point_labels
        return tuple(range(self.n_points)) if labels is None else labels

    @property
    def resample_size(self) -> int | None:
        """Rows each student sees, or None while the source ``data_resampling`` is off."""
        if "data_resampling" not in self.design.sources:
            return None
        return self.teacher.n_inputs if self.design.resample_size is None else self.design.resample_size

    def pilot_problem(self) -> DistillationProblem:
        """Return what the pilots of variance weighting are trained on: the first responses, asked at the inputs.

        They see every row, and their own outputs do not vary.
        """
        kept = self.design.sources - {"data_resampling", "student_output"}
        changes = {"X_query": None, "point_labels": None, "resample_size": None, "weighting": None, "strategy": None}
        return self.with_design(n_responses=pilot_split(self.design.n_responses)[0], sources=kept, **changes)

    def with_design(self, **changes: Any) -> DistillationProblem:
        """Return the problem with some entries of its design changed.

        A number of responses changes the strategy ``single`` to ``averaging``; a resample size switches
        the source ``data_resampling`` on, and None off, unless ``sources`` says otherwise.
        """
        if "n_responses" in changes and "strategy" not in changes and self.design.strategy == "single":
            changes["strategy"] = None
        if "resample_size" in changes and "sources" not in changes:
            others = self.design.sources - {"data_resampling"}
            changes["sources"] = others if changes["resample_size"] is None else others | {"data_resampling"}
        return replace(self, design=replace(self.design, **changes))

    def with_teacher(self, **changes: Any) -> DistillationProblem:
        """Return the problem with some entries of its teacher changed."""
        return replace(self, teacher=replace(self.teacher, **changes))

    def with_student(self, **changes: Any) -> DistillationProblem:
        """Return the problem with some entries of its student changed."""
        return replace(self, student=replace(self.student, **changes))

    def fingerprint(self) -> str:
        """Return a SHA-256 over every field, which identifies the problem."""
        digest = hashlib.sha256()
        for part in _KINDS:
            _update(digest, part, getattr(self, part))
        return digest.hexdigest()

    def to_toml(self) -> str:
        """Return the problem as TOML text; floats are written so that they read back bit for bit."""
        import tomli_w

        document = {part: _to_table(part, getattr(self, part)) for part in _KINDS}
        return tomli_w.dumps(document)

    @classmethod
    def from_toml(cls, source: str | Path) -> DistillationProblem:
        """Read a problem from TOML text or from a file.

        Parameters
        ----------
        source : str or Path
            A Path names a file; a str is the text itself.

        Raises
        ------
        ProblemError
            If the file cannot be read, the text is no TOML, a table or key is unknown or missing, or a value
            breaks a rule.
        """
        text = _read(source) if isinstance(source, Path) else source
        if not isinstance(text, str):
            raise invalid("source", "be TOML text or a Path", f"a {type(source).__name__}")
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise invalid("source", "be valid TOML", str(error)) from None
        for part in document:
            if part not in _KINDS:
                raise invalid("source", f"have only the tables {', '.join(_KINDS)}", f"[{part}]")
        missing = [part for part in _KINDS if part not in document]
        if missing:
            raise invalid("source", "have the tables teacher, student and design", f"no [{missing[0]}]")
        return cls(**{part: _from_table(part, document[part]) for part in _KINDS})


def _check_kind(name: str, value: object, kinds: tuple[type, ...], where: str = "") -> None:
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds).replace(" or ", ", ", len(kinds) - 2)
        raise invalid(name, f"be a {wanted}{where}", f"a {type(value).__name__}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not UTF-8 text"
        raise invalid("source", "be a file that can be read", f"{path}: {reason}") from None


def _update(digest: Any, path: str, value: Any) -> None:
    """Feed one field, or the fields of one description, to a digest."""
    if dataclasses.is_dataclass(value):
        digest.update(f"{path}:{type(value).__name__};".encode())
        for item in fields(value):
            _update(digest, f"{path}.{item.name}", getattr(value, item.name))
    elif isinstance(value, np.ndarray):
        digest.update(f"{path}:{value.shape};".encode())
        digest.update(np.ascontiguousarray(value).data)
    else:
        shown = sorted(value) if isinstance(value, frozenset) else value
        shown = f"{value.__module__}.{value.__qualname__}" if callable(value) else shown
        digest.update(f"{path}={shown!r};".encode())


def _to_table(part: str, value: Any) -> dict[str, Any]:
    kind = next(name for name, cls in _KINDS[part].items() if isinstance(value, cls))
    return {"kind": kind, **_fields(value)}


def _fields(value: Any) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for item in fields(value):
        entry = getattr(value, item.name)
        if entry is None:
            continue
        if callable(entry):
            raise invalid(item.name, "be left out of a problem that is written to TOML", entry.__qualname__)
        if isinstance(entry, np.ndarray):
            entry = entry.tolist()
        elif isinstance(entry, frozenset):
            entry = sorted(entry)
        elif isinstance(entry, tuple):
            entry = list(entry)
        elif item.name in _NESTED:
            entry = _fields(entry)
        table[item.name] = entry
    return table


def _from_table(part: str, table: Any) -> Any:
    if not isinstance(table, dict):
        raise invalid(part, "be a table", table)
    table = dict(table)
    kinds = _KINDS[part]
    kind = table.pop("kind", next(iter(kinds)) if len(kinds) == 1 else None)
    if not isinstance(kind, str) or kind not in kinds:
        raise invalid(f"{part}.kind", f"be one of {', '.join(kinds)}", kind)
    return _construct(part, kinds[kind], table)


def _construct(path: str, cls: type, table: dict[str, Any]) -> Any:
    known = {item.name for item in fields(cls)}
    for key in table:
        if key not in known:
            raise invalid(f"{path}.{key}", f"be one of the known keys ({', '.join(sorted(known))})", "an unknown key")
    arguments = {
        key: _construct(f"{path}.{key}", _NESTED[key], dict(value))
        if key in _NESTED and isinstance(value, dict)
        else value
        for key, value in table.items()
    }
    try:
        return cls(**arguments)
    except TypeError as error:
        raise invalid(path, "have every key it needs", str(error).split(") ")[-1]) from None
