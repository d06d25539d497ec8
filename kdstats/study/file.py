"""The study file: data, teacher, student, design and run, as TOML that is checked before any work."""

from __future__ import annotations

import difflib
import hashlib
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdstats.errors import StudyError
from kdstats.problem.bayesian import BayesianLinearStudent, BayesianStudent
from kdstats.problem.categorical import CategoricalTeacher, SoftmaxStudent
from kdstats.problem.design import Design, VarianceWeighting
from kdstats.problem.specification import DistillationProblem
from kdstats.problem.student import EarlyStopping, GradientDescent, LinearStudent, NetworkStudent
from kdstats.problem.teacher import GaussianTeacher
from kdstats.study.data import BUILT_IN, Dataset, load_dataset, read_csv

__all__ = ["Setting", "Study"]

FloatArray = NDArray[np.float64]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class DataTable(_Table):
    """Where inputs come from and how they are split.

    The scaler is fitted to the training rows alone.
    """

    dataset: str | None = None
    csv: str | None = None
    features: list[str] | None = None
    target: str | None = None
    teacher_mean: str | None = None
    noise_variance: str | None = None
    test_fraction: float = Field(0.2, ge=0.0, lt=1.0)
    split_seed: int = Field(42, ge=0)
    standardize: bool = True
    max_points: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> DataTable:
        if (self.dataset is None) == (self.csv is None):
            raise ValueError(f"needs either dataset ({', '.join(BUILT_IN)}) or csv")
        if self.csv is not None and self.target is None and self.teacher_mean is None:
            raise ValueError("needs target (to fit a teacher) or teacher_mean with csv")
        return self


class TeacherTable(_Table):
    """The teacher's noise; its mean is a column of the data or a least-squares fit to the target.

    With the kind ``classes`` it is a multinomial logistic regression fitted to the target.
    """

    kind: Literal["gaussian", "classes"] | None = None
    penalty: float | None = Field(None, ge=0.0)
    temperature: float | None = Field(None, gt=0.0)
    noise_variance: float | None = Field(None, ge=0.0)
    noise_fraction: float | None = Field(None, ge=0.0)
    response_correlation: float = 0.0
    input_correlation: float = 0.0

    @model_validator(mode="after")
    def _one_noise(self) -> TeacherTable:
        if self.noise_variance is not None and self.noise_fraction is not None:
            raise ValueError("takes noise_variance or noise_fraction (of the target's variance), not both")
        of_classes, of_numbers = (self.penalty, self.temperature), (self.noise_variance, self.noise_fraction)
        wrong = of_numbers if self.kind == "classes" else of_classes
        if any(value is not None for value in wrong):
            raise ValueError("takes penalty and temperature with kind 'classes' alone, and noise without it alone")
        return self


class TrainingTable(_Table):
    """Gradient steps of a linear student."""

    n_steps: int
    learning_rate: float
    initialization_sd: float = 0.0


class LinearTable(_Table):
    """A linear student, exact or trained by gradient steps."""

    kind: Literal["linear"] = "linear"
    penalty: float = 0.0
    fit_intercept: bool = True
    minimum_norm: bool = False
    residual_variance: str = "unbiased"
    training: TrainingTable | None = None

    def student(self) -> LinearStudent:
        """Return what the table describes."""
        options = self.model_dump(exclude={"kind", "training"})
        training = None if self.training is None else GradientDescent(**self.training.model_dump())
        return LinearStudent(training=training, **options)


class EarlyStoppingTable(_Table):
    """When a network stops before its last epoch."""

    patience: int = 10
    held_out: float = 0.2
    min_improvement: float = 0.0
    split_seed: int = 0


class NetworkTable(_Table):
    """A feed-forward network."""

    kind: Literal["network"] = "network"
    hidden: list[int] = [16]
    head: str = "mean"
    activation: str = "relu"
    optimizer: str = "adam"
    learning_rate: float = 0.01
    epochs: int = 200
    batch_size: int | None = None
    early_stopping: EarlyStoppingTable | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    dropout: float = 0.0
    parameterization: str = "standard"
    weight_variance: float | None = None
    bias_variance: float | None = None
    perturbation_sd: float | None = None

    def student(self) -> NetworkStudent:
        """Return what the table describes."""
        options = self.model_dump(exclude={"kind", "hidden", "early_stopping"})
        stopping = None if self.early_stopping is None else EarlyStopping(**self.early_stopping.model_dump())
        return NetworkStudent(hidden=tuple(self.hidden), early_stopping=stopping, **options)


class SoftmaxTable(_Table):
    """A multinomial logistic regression, for a teacher of classes."""

    kind: Literal["softmax"] = "softmax"
    penalty: float = 0.0
    fit_intercept: bool = True

    def student(self) -> SoftmaxStudent:
        """Return what the table describes."""
        return SoftmaxStudent(**self.model_dump(exclude={"kind"}))


class BayesianTable(_Table):
    """A Bayesian linear student."""

    kind: Literal["bayesian_linear"] = "bayesian_linear"
    prior_variance: float | str | list[list[float]] = 1.0
    prior_mean: str | list[float] | None = None
    noise_variance: float | None = None
    fit_intercept: bool = True
    noise_shape: float = 0.0
    noise_scale: float = 0.0
    likelihood_power: float = 1.0

    def student(self) -> BayesianLinearStudent:
        """Return what the table describes."""
        return BayesianLinearStudent(**self.model_dump(exclude={"kind"}))


class SampledTable(_Table):
    """A Bayesian student without a closed form, by the name of its model."""

    kind: Literal["bayesian"] = "bayesian"
    model: Literal["gaussian", "student_t", "horseshoe"] = "student_t"
    prior_variance: float = 1.0
    noise_scale: float = 1.0
    fit_intercept: bool = True
    likelihood_power: float = 1.0

    def student(self) -> BayesianStudent:
        """Return what the table describes."""
        return BayesianStudent(**self.model_dump(exclude={"kind"}))


class WeightingTable(_Table):
    """How the strategy ``variance_weighting`` mixes responses with a student's own estimate."""

    student_estimate: Literal["pilot", "teacher_mean"] = "pilot"
    weight: str | float = "known"
    student_error: str = "estimated"

    def weighting(self) -> VarianceWeighting:
        """Return what the table describes."""
        return VarianceWeighting(**self.model_dump())


class DesignTable(_Table):
    """Strategy, responses and sources."""

    n_responses: int = 1
    strategy: str | None = None
    sources: list[str] | None = None
    resample_size: int | None = None
    weighting: WeightingTable | None = None
    n_generations: int = 1


class RunTable(_Table):
    """How many students, which seeds, which engines, which sweeps."""

    n_students: int = Field(500, ge=2)
    n_simulated: int = Field(20_000, ge=2)
    seed: int = Field(1, ge=0)
    noise_law: str = "gaussian"
    observe: list[Literal["linear", "networks", "conjugate", "pymc", "softmax"]] | None = None
    equivalence_margin: float = Field(1.5, gt=1.0)
    confidence_level: float = Field(0.95, gt=0.0, lt=1.0)
    sweep_responses: list[int] = []
    sweep_noise: list[float] = []
    sweep_students: int = Field(300, ge=2)


class _Document(_Table):
    title: str = "Distillation study"
    data: DataTable
    teacher: TeacherTable = TeacherTable()
    student: LinearTable | NetworkTable | BayesianTable | SampledTable | SoftmaxTable = Field(
        default=LinearTable(), discriminator="kind"
    )
    design: DesignTable = DesignTable()
    run: RunTable = RunTable()

    @model_validator(mode="before")
    @classmethod
    def _students_are_linear_by_default(cls, document: Any) -> Any:
        student = document.get("student") if isinstance(document, dict) else None
        return {**document, "student": {"kind": "linear", **student}} if isinstance(student, dict) else document


class Setting(_Table):
    """What a study file becomes: the problem, and the truth at its query points where known."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    problem: DistillationProblem
    target: Any
    unit: str


class Study:
    """A checked study file.

    Parameters
    ----------
    document : mapping
        The tables of the file.
    folder : Path, optional
        Where relative paths in it start. Default: the working directory.

    Raises
    ------
    StudyError
        If a table or key is unknown or missing or a value has the wrong type: one line, naming the key.
    """

    def __init__(self, document: dict[str, Any], *, folder: Path | None = None) -> None:
        try:
            self._document = _Document.model_validate(document)
        except ValidationError as error:
            raise StudyError(_one_line(error)) from None
        self._folder = folder or Path()

    @classmethod
    def from_toml(cls, path: str | Path) -> Study:
        """Read a study file."""
        place = Path(path)
        try:
            document = tomllib.loads(place.read_text(encoding="utf-8"))
        except OSError as error:
            raise StudyError(f"`study` must be a readable file; got {str(place)!r} ({error.strerror})") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise StudyError(f"`study` must be valid TOML; got {place.name!r}: {error}") from None
        return cls(document, folder=place.parent)

    @property
    def title(self) -> str:
        """Title of the report."""
        return self._document.title

    @property
    def run(self) -> RunTable:
        """Numbers of students, seeds, engines and sweeps."""
        return self._document.run

    def with_run(self, **changes: Any) -> Study:
        """Return the study with some entries of its run table changed (None leaves one as it is)."""
        document = self._document.model_dump(exclude_unset=True)
        document["run"] = {**document.get("run", {}), **{k: v for k, v in changes.items() if v is not None}}
        return Study(document, folder=self._folder)

    def as_dict(self) -> dict[str, Any]:
        """Return every table and key, defaults included."""
        return self._document.model_dump(exclude_none=True)

    def to_toml(self) -> str:
        """Return the study as TOML text, defaults included."""
        import tomli_w

        return tomli_w.dumps(self.as_dict())

    def fingerprint(self) -> str:
        """Return a SHA-256 of the study, which identifies its results."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()

    def setting(self) -> Setting:
        """Load the data, split and scale it, and return the problem it poses."""
        table = self._document.data
        data = self._load(table)
        train, test = _split(len(data.X), table)
        X = data.X
        if table.standardize:
            X = _standardized(X, train)
        target = data.target
        teacher = self._teacher(data, X, train)
        design = self._document.design
        problem = DistillationProblem(
            teacher=teacher,
            student=self._document.student.student(),
            design=Design(
                X[test],
                n_responses=design.n_responses,
                strategy=design.strategy,
                sources=design.sources,
                resample_size=design.resample_size,
                weighting=None if design.weighting is None else design.weighting.weighting(),
                n_generations=design.n_generations,
                point_labels=tuple(f"row {row}" for row in test),
            ),
        )
        return Setting(problem=problem, target=None if target is None else target[test], unit=data.unit)

    def _teacher(self, data: Dataset, X: FloatArray, train: NDArray[np.int64]) -> GaussianTeacher | CategoricalTeacher:
        table = self._document.teacher
        if table.kind == "classes":
            from kdstats.study.class_teacher import class_teacher

            return class_teacher(
                X[train],
                None if data.target is None else data.target[train],
                penalty=1.0 if table.penalty is None else table.penalty,
                temperature=1.0 if table.temperature is None else table.temperature,
                response_correlation=table.response_correlation,
            )
        mean = self._teacher_mean(data, X, train)
        return GaussianTeacher(
            X[train],
            mean[train],
            noise_variance=self._noise(data, train),
            response_correlation=table.response_correlation,
            input_correlation=table.input_correlation,
            feature_names=data.feature_names,
        )

    def _load(self, table: DataTable) -> Dataset:
        if table.dataset is not None:
            return load_dataset(table.dataset)
        assert table.csv is not None
        return read_csv(
            self._folder / table.csv,
            target=table.target,
            teacher_mean=table.teacher_mean,
            noise_variance=table.noise_variance,
            features=table.features,
        )

    def _teacher_mean(self, data: Dataset, X: FloatArray, train: NDArray[np.int64]) -> FloatArray:
        if data.teacher_mean is not None:
            return data.teacher_mean
        from kdstats.linear.least_squares import factorize

        assert data.target is not None
        inputs = np.hstack([np.ones((len(X), 1)), X])
        fit = factorize(inputs[train], names=("intercept", *data.feature_names))
        return np.asarray(inputs @ fit.solve(data.target[train]))

    def _noise(self, data: Dataset, train: NDArray[np.int64]) -> Any:
        table = self._document.teacher
        if table.noise_variance is not None:
            return table.noise_variance
        if table.noise_fraction is not None:
            reference = data.target if data.target is not None else data.teacher_mean
            assert reference is not None
            return table.noise_fraction * float(reference[train].var())
        if data.noise_variance is not None:
            return data.noise_variance[train]
        raise StudyError(
            "`teacher` must have noise_variance or noise_fraction, or `data` a noise_variance column; got none"
        )


def _split(n: int, table: DataTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return training and query rows; without a test fraction students are asked at their own inputs."""
    if table.test_fraction == 0.0:
        every = np.arange(n)
        return every, every[: table.max_points]
    n_test = math.ceil(table.test_fraction * n)
    if n_test >= n:
        raise StudyError(f"`data.test_fraction` must leave training rows; got {table.test_fraction} of {n} rows")
    order = np.random.Generator(np.random.Philox(table.split_seed)).permutation(n)
    return np.sort(order[n_test:]), np.sort(order[:n_test])[: table.max_points]


def _standardized(X: FloatArray, train: NDArray[np.int64]) -> FloatArray:
    """Centre and scale by the training rows; a column that is constant there stays as it is."""
    constant = np.ptp(X[train], axis=0) == 0.0
    spread = np.where(constant, 1.0, X[train].std(axis=0))
    return np.asarray(np.where(constant, X, (X - X[train].mean(axis=0)) / spread))


def _nearest(place: Sequence[str]) -> str:
    """Name the key of the same table that is spelled most alike, or all of them."""
    *tables, key = place
    known = _keys(tables)
    alike = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {alike[0]!r}?" if alike else f" (there are {', '.join(known)})"


def _keys(tables: Sequence[str]) -> list[str]:
    """Return the keys of a table of the file, by its path; of the file itself for the empty path."""
    model: Any = {
        (): _Document,
        ("data",): DataTable,
        ("teacher",): TeacherTable,
        ("student", "linear"): LinearTable,
        ("student", "linear", "training"): TrainingTable,
        ("student", "network"): NetworkTable,
        ("student", "bayesian_linear"): BayesianTable,
        ("student", "bayesian"): SampledTable,
        ("student", "softmax"): SoftmaxTable,
        ("design",): DesignTable,
        ("run",): RunTable,
    }[tuple(tables)]
    return list(model.model_fields)


def _one_line(error: ValidationError) -> str:
    """Say the first thing that is wrong, and how many more there are."""
    first, *others = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
    kinds = ("linear", "network", "bayesian_linear", "bayesian", "softmax")
    path = ".".join(str(part) for part in first["loc"] if part not in kinds) or "study"
    if first["type"] == "extra_forbidden":
        text = f"`{path}` must be a known key; got {path.rpartition('.')[2]!r}, which is none"
        text += _nearest([str(part) for part in first["loc"]])
    elif first["type"] == "missing":
        text = f"`{path}` must be given; got nothing"
    else:
        reason = first["msg"].removeprefix("Value error, ").removeprefix("Input tag ")
        text = (
            f"`{path}`: {reason[0].lower()}{reason[1:]}; got {first['input']!r}"
            if not isinstance(first["input"], dict)
            else f"`{path}` {reason}"
        )
    return text + (f" (and {len(others)} more)" if others else "")
