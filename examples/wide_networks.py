"""Wide-network theory against trained networks, width by width.

Usage: ``python examples/wide_networks.py [--students S] [--widths 64 128 ...] [--out FOLDER]``. Boston Housing, 60
inputs and 40 query points, one hidden layer in the NTK parameterisation, 200 steps of gradient descent. For each width
S networks with starts of their own are trained twice, on the noiseless labels and on noisy ones: the spread of
the first is the initialization part, that of the differences the label part. Prints ratios to the theory with 95%
intervals and the fit ``ratio = limit + slope / width``, and draws both.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import kdstats as kd
from kdstats.networks.architecture import architecture_of, initial_parameters, predict
from kdstats.networks.training import train_networks
from kdstats.streams import as_seeds
from kdstats.study.data import load_dataset

N, M, EPOCHS, NOISE = 60, 40, 200, 0.3
WIDTHS = (64, 128, 256, 512, 1024, 2048)
PARTS = ("student_initialization", "teacher_output", "both")


@dataclass(frozen=True)
class Point:
    """Observed over predicted variance at one width, by part: ratio and standard error."""

    width: int
    ratio: dict[str, float]
    error: dict[str, float]


@dataclass(frozen=True)
class Fit:
    """Weighted least squares of ratio on 1/width: limit and slope with standard errors, and chi-square of the fit."""

    limit: float
    limit_se: float
    slope: float
    slope_se: float
    chi_square: float
    df: int


def problem(width: int, activation: str = "relu") -> kd.DistillationProblem:
    data = load_dataset("boston_housing")
    X = (data.X - data.X.mean(axis=0)) / data.X.std(axis=0)
    y = (data.target - data.target.mean()) / data.target.std()
    rows = np.random.default_rng(0).permutation(len(X))[: N + M]
    student = kd.NetworkStudent(
        hidden=(width,),
        activation=activation,
        optimizer="sgd",
        learning_rate=0.5,
        epochs=EPOCHS,
        parameterization="ntk",
        weight_variance=2.0,
        bias_variance=0.1,
    )
    return kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X[rows[:N]], y[rows[:N]], noise_variance=NOISE),
        student=student,
        design=kd.Design(X[rows[N:]]),
    )


def point(width: int, *, n_students: int, rng: int, activation: str = "relu") -> Point:
    """Train n_students pairs of one width and compare them with the theory."""
    what = problem(width, activation)
    theory = kd.predict(what, engine="wide_network", n_check=0).attrs["source_variances"]
    seeds = as_seeds(rng).branch("width", width)
    architecture = architecture_of(what.student, n_features=what.teacher.n_features, n_outputs=1)
    start = initial_parameters(architecture, seeds.generator("student_initialization"), n_students=n_students)
    normal = seeds.generator("teacher_output").standard_normal((n_students, N, 1))
    mean = np.broadcast_to(what.teacher.mean_by_output, normal.shape)

    def outputs(labels: np.ndarray) -> np.ndarray:
        trained = train_networks(what.teacher.X, labels, student=what.student, initial=start)
        return predict(architecture, trained.parameters, what.X_query)[..., 0]

    free, noisy = outputs(mean), outputs(mean + np.sqrt(NOISE) * normal)
    seen = {"student_initialization": free, "teacher_output": noisy - free, "both": noisy}
    predicted = theory | {"both": sum(theory.values())}
    ratio, error = {}, {}
    for part, values in seen.items():
        squares = n_students / (n_students - 1) * ((values - values.mean(axis=0)) ** 2).mean(axis=1) / predicted[part]
        ratio[part], error[part] = float(squares.mean()), float(squares.std(ddof=1) / np.sqrt(n_students))
    return Point(width=width, ratio=ratio, error=error)


def fit(points: list[Point], part: str) -> Fit:
    """Fit ratio = limit + slope / width."""
    design = np.column_stack([np.ones(len(points)), [1.0 / p.width for p in points]])
    ratio, error = (np.array([getattr(p, name)[part] for p in points]) for name in ("ratio", "error"))
    weighted = design / error[:, None]
    covariance = np.linalg.inv(weighted.T @ weighted)
    limit, slope = covariance @ weighted.T @ (ratio / error)
    misfit = float((((ratio - design @ [limit, slope]) / error) ** 2).sum())
    errors = np.sqrt(np.diag(covariance))
    return Fit(float(limit), float(errors[0]), float(slope), float(errors[1]), misfit, len(points) - 2)


def picture(points: list[Point], path: Path) -> None:
    """Draw ratios over width with the fitted curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes: Any = figure.subplots(1, 3, sharey=True)
    widths = np.array([p.width for p in points])
    names = {"student_initialization": "initialization part", "teacher_output": "label part", "both": "both together"}
    for axis, part in zip(axes, PARTS, strict=True):
        found, fine = fit(points, part), np.geomspace(widths[0], widths[-1], 100)
        error = 1.96 * np.array([p.error[part] for p in points])
        axis.axhline(1.0, color="0.6", linewidth=1)
        axis.errorbar(widths, [p.ratio[part] for p in points], yerr=error, fmt="o", color="C0", capsize=3)
        axis.plot(fine, found.limit + found.slope / fine, color="C1")
        axis.set(xscale="log", xlabel="width", title=f"{names[part]}: {found.limit:.3f} + {found.slope:.3g}/width")
        axis.set_xticks(widths, [str(width) for width in widths], fontsize=8)
        axis.minorticks_off()
        axis.title.set_fontsize(9)
    axes[0].set_ylabel("observed / predicted variance")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=400)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--activation", choices=("relu", "erf"), default="relu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/wide_networks"))
    options = parser.parse_args()
    points = []
    print(f"{'width':>6}" + "".join(f"{part:>32}" for part in PARTS))
    for width in options.widths:
        found = point(width, n_students=options.students, rng=options.seed, activation=options.activation)
        points.append(found)
        cells = (
            f"{found.ratio[part]:.3f} ({found.ratio[part] - 1.96 * found.error[part]:.3f} to "
            f"{found.ratio[part] + 1.96 * found.error[part]:.3f})"
            for part in PARTS
        )
        print(f"{width:6d}" + "".join(f"{cell:>32}" for cell in cells), flush=True)
    for part in PARTS:
        line = fit(points, part)
        print(
            f"{part}: ratio = {line.limit:.4f} ± {line.limit_se:.4f} + ({line.slope:.3g} ± {line.slope_se:.2g}) / "
            f"width, chi-square {line.chi_square:.2f} on {line.df} degrees of freedom"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    picture(points, options.out / "convergence.svg")
    print(f"wrote {options.out / 'convergence.svg'}")


if __name__ == "__main__":
    main()
