"""Bayesian students of a teacher on the diabetes data, and of one on Grunfeld's firms.

Run ``python examples/bayesian_students.py`` (needs ``pip install "kdstats[bayes,data]"``); writes
``bayesian_students.png`` beside the working directory and prints the tables of docs/examples/bayesian_students.md.
"""

import sys

import matplotlib.pyplot as plt
import numpy as np
import statsmodels.api as sm

import kdstats as kd
from kdstats.prediction.bayes import NUTS
from kdstats.study.data import load_dataset

COUNTS = (1, 2, 4, 8)
STRATEGIES = ("averaging", "multi_response")


def teacher_of(X, target):
    """A least-squares teacher whose noise is half the target's variance."""
    mean = X @ np.linalg.lstsq(X, target - target.mean(), rcond=None)[0]
    return kd.GaussianTeacher(X, mean, noise_variance=0.5 * target.var())


def diabetes():
    """Students that do not know the noise, with averaged labels and with rows kept apart."""
    data = load_dataset("diabetes")
    X = (data.X - data.X.mean(axis=0)) / data.X.std(axis=0)
    teacher = teacher_of(X, data.target / data.target.std())
    student = kd.BayesianLinearStudent(noise_shape=3.0, noise_scale=1.0)
    rows = {}
    for strategy in STRATEGIES:
        for k in COUNTS:
            problem = kd.DistillationProblem(
                teacher=teacher, student=student, design=kd.Design(X[:40], n_responses=k, strategy=strategy)
            )
            sampled = kd.sample_students(problem, n_students=100, rng=10 + k) if k in (1, 8) else None
            rows[strategy, k] = (problem, kd.predict(problem), kd.predictive_calibration(problem, rng=k), sampled)
    return rows


def firms():
    """Students that share strength between Grunfeld's eleven firms."""
    table = sm.datasets.grunfeld.load_pandas().data
    logs = np.log(table[["invest", "value", "capital"]].to_numpy())
    logs = (logs - logs.mean(axis=0)) / logs.std(axis=0)
    groups = table["firm"].astype("category").cat.codes.to_numpy()
    mean = logs[:, 1:] @ np.linalg.lstsq(logs[:, 1:], logs[:, 0], rcond=None)[0]
    for group in np.unique(groups):
        mean[groups == group] += (logs[:, 0] - mean)[groups == group].mean()
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(logs[:, 1:], mean, noise_variance=0.1),
        student=kd.BayesianStudent(model="hierarchical", groups=groups, query_groups=groups[firsts]),
        design=kd.Design(logs[firsts, 1:]),
    )
    return kd.sample_students(problem, n_students=20, rng=1, method=NUTS(draws=500, tune=800, target_accept=0.9))


def draw(rows, path):
    """Components against k, predicted (lines) and by PyMC (points), and coverage of the teacher's responses."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for strategy, style in zip(STRATEGIES, ("C0", "C1"), strict=True):
        label = strategy.replace("_", " ")
        for axis, name in zip(axes, ("inter_student", "intra_student"), strict=False):
            curve = [float(rows[strategy, k][1].estimate[name].mean()) for k in COUNTS]
            axis.plot(COUNTS, curve, color=style, label=f"{label}, predicted")
            for k in COUNTS:
                sampled = rows[strategy, k][3]
                if sampled is not None:
                    mean = sampled.components.average()
                    height, error = float(mean.estimate[name].item()), float(mean.standard_error[name].item())
                    axis.errorbar(k, height, 2 * error, fmt="o", color=style, capsize=3)
        axes[2].plot(COUNTS, [rows[strategy, k][2].coverage[2] for k in COUNTS], "o-", color=style, label=label)
    axes[2].axhline(0.95, color="0.5", lw=1, ls="--")
    for axis, title in zip(axes, ("inter-student variance", "intra-student variance", "coverage at 95%"), strict=True):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("responses per input")
        axis.set_title(title)
    axes[0].set_yscale("log")
    axes[1].set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8)
    axes[2].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main(path="bayesian_students.png"):
    """Print the tables and draw the picture."""
    rows = diabetes()
    print(f"{'strategy':<16}{'k':>3}{'inter':>11}{'PyMC':>20}{'intra':>11}{'PyMC':>20}{'coverage':>10}")
    for (strategy, k), (_, predicted, calibration, sampled) in rows.items():
        line = f"{strategy:<16}{k:>3}"
        for name in ("inter_student", "intra_student"):
            line += f"{float(predicted.estimate[name].mean()):>11.5f}"
            if sampled is None:
                line += f"{'':>20}"
            else:
                mean = sampled.components.average()
                line += f"{mean.estimate[name].item():>11.5f} ±{mean.standard_error[name].item():.5f}"
        print(f"{line}{calibration.coverage[2]:>10.3f}")
    draw(rows, path)
    print(firms().summary())


if __name__ == "__main__":
    main(*sys.argv[1:])
