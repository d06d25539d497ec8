"""Which strategy yields a Bayesian student that is as unsure as its teacher, and what approximate posteriors lose.

    python examples/bayesian_students.py            # three data sets, PyMC students beside every prediction
    python examples/bayesian_students.py --quick    # fewer rows, students and draws

Boston Housing, diabetes, and Grunfeld's eleven firms (shipped with statsmodels). The teacher is a least-squares fit;
its responses scatter by its residual variance. Predictions are exact and saw no student; PyMC samples the posteriors of
students that were really given labels. Needs ``pip install "kdstats[bayes,data]"``; Pathfinder is added where
``kdstats[samplers]`` is installed. Writes bayesian_students.png, results.json and summary.md into ``--out``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
from matplotlib.figure import Figure

import kdstats as kd
from kdstats.errors import ApproximationWarning, ConvergenceWarning, MisstatedNoiseWarning
from kdstats.plots.style import BLUE, GREEN, INK, MUTED, VERMILLION, house_style, new_figure
from kdstats.prediction.bayes import ADVI, NUTS, Laplace, Pathfinder
from kdstats.prediction.bayes.moments import batch_errors
from kdstats.study import load_dataset

SEED, K = 20261124, 5
#: How a student is told of k responses per input: strategy, what it knows of the noise, weight of a label.
STRATEGIES = {
    "one response": ("single", "unknown", 1.0),
    "mean of 5": ("averaging", "unknown", 1.0),
    "mean of 5, told the noise of one": ("averaging", "told", 1.0),
    "mean of 5, told, weight 5": ("averaging", "told", float(K)),
    "5 rows": ("multi_response", "unknown", 1.0),
}
#: Strategies that PyMC samples too.
SAMPLED = ("mean of 5", "5 rows")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run."""

    datasets: tuple[str, ...] = ("boston_housing", "diabetes")
    max_rows: int = 600
    n_students: int = 20
    n_others: int = 300
    n_calibrated: int = 500
    n_approximated: int = 4
    n_firms: int = 8
    nuts: NUTS = field(default_factory=NUTS)
    advi: ADVI = field(default_factory=lambda: ADVI(n_steps=20_000))
    with_pathfinder: bool = True


QUICK = Scale(
    datasets=("diabetes",),
    max_rows=60,
    n_students=4,
    n_others=50,
    n_calibrated=100,
    n_approximated=2,
    n_firms=2,
    nuts=NUTS(draws=200, tune=200, chains=2),
    advi=ADVI(n_steps=1000, draws=200),
    with_pathfinder=False,
)


def standardised(name: str, max_rows: int) -> tuple[Any, Any, Any]:
    """Return inputs, the teacher's mean and its noise variance, in units of the target's standard deviation."""
    data = load_dataset(name)
    X, y = data.X[:max_rows], data.target[:max_rows]
    X = (X - X.mean(axis=0)) / np.where(X.std(axis=0) > 0.0, X.std(axis=0), 1.0)
    X = X[:, X.std(axis=0) > 0.0]
    y = (y - y.mean()) / y.std()
    mean = X @ np.linalg.lstsq(X, y, rcond=None)[0]
    return X, mean, float(((y - mean) ** 2).sum() / (len(y) - X.shape[1] - 1))


def posed(X: Any, mean: Any, noise: float, strategy: str) -> kd.DistillationProblem:
    """Return a distillation into Bayesian linear students, told of the responses in one of the ways."""
    name, known, power = STRATEGIES[strategy]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisstatedNoiseWarning)  # one of the ways is wrong on purpose
        return kd.DistillationProblem(
            teacher=kd.GaussianTeacher(X, mean, noise_variance=noise),
            student=kd.BayesianLinearStudent(
                fit_intercept=True, noise_variance=noise if known == "told" else None, likelihood_power=power
            ),
            design=kd.Design(X[:40], n_responses=1 if name == "single" else K, strategy=name),
        )


def averages(components: kd.VarianceComponents) -> dict[str, list[float]]:
    """Return each component's average over points and its standard error."""
    mean = components.average()
    return {
        name: [float(mean.estimate[name].item()), float(mean.standard_error[name].item())]
        for name in ("inter_student", "intra_student")
    }


def strategies(scale: Scale) -> dict[str, Any]:
    """Predict, calibrate against the teacher's own responses, and sample with PyMC."""
    found: dict[str, Any] = {}
    for dataset in scale.datasets:
        X, mean, noise = standardised(dataset, scale.max_rows)
        for strategy in STRATEGIES:
            problem = posed(X, mean, noise, strategy)
            fit = kd.predictive_calibration(problem, n_students=scale.n_calibrated, rng=SEED)
            row = {
                "teacher_variance": noise,
                "predicted": averages(kd.predict(problem)),
                "coverage": [float(fit.coverage[-1]), float(fit.coverage_se[-1])],
                "sharpness": fit.sharpness,
                "pit_distance": fit.pit_distance,
                "grid": fit.grid.tolist(),
                "pit": fit.pit.tolist(),
                "sampled": None,
            }
            if strategy in SAMPLED:
                sampled = kd.sample_students(problem, n_students=scale.n_students, rng=SEED, method=scale.nuts)
                row["sampled"] = averages(sampled.components) | {
                    "mcse": sampled.components.attrs["mcse"],
                    "failures": sampled.diagnostics.failures,
                }
                row["exact"] = averages(kd.observe(problem, n_students=scale.n_students, rng=SEED))  # the same labels
                row["others"] = others(problem, scale)
            found[f"{dataset}/{strategy}"] = row
    return found


def others(problem: kd.DistillationProblem, scale: Scale) -> dict[str, Any]:
    """Fit other students exactly: their inter-student variance, all together and in groups as large as PyMC's."""
    seen = kd.observe(problem, n_students=scale.n_others * scale.n_students, rng=SEED + 1)
    assert seen.student_predictions is not None
    groups = seen.student_predictions.to_numpy().reshape(scale.n_others, scale.n_students, -1)
    return averages(seen) | {"groups": groups.var(axis=1, ddof=1).mean(axis=1).tolist()}


def approximations(scale: Scale) -> dict[str, Any]:
    """Fit the same students, in their correlated coefficients, by NUTS and by approximations."""
    X, mean, noise = standardised("diabetes", scale.max_rows)
    problem = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(X, mean, noise_variance=noise),
        student=kd.BayesianStudent(model="gaussian"),
        design=kd.Design(X[:40]),
    )
    methods: dict[str, Any] = {"NUTS": scale.nuts, "Laplace": Laplace(), "ADVI": scale.advi}
    if scale.with_pathfinder and importlib.util.find_spec("pymc_extras") is not None:
        methods["Pathfinder"] = Pathfinder()
        methods["Pathfinder, no weights"] = Pathfinder(resampling="none")
    found = {}
    for name, method in methods.items():
        sampled = kd.sample_students(problem, n_students=scale.n_approximated, rng=SEED, method=method)
        value, error = parameter_part(sampled.inference_data, problem.X_query)
        found[name] = {
            "parameter": [value, error],
            "intra_student": [
                float(sampled.components.intra_student.mean()),
                sampled.components.attrs["mcse"]["intra_student"],
            ],
            "failures": sampled.diagnostics.failures,
        }
    return found


def parameter_part(data: az.InferenceData, query: Any) -> tuple[float, float]:
    """Return the posterior variance of predictions, averaged over students and points, and its MCSE."""
    post = data.posterior
    prediction = post["coefficient"].values @ query.T + post["intercept"].values[..., None]
    series = ((prediction - prediction.mean(axis=(0, 1))) ** 2).mean(axis=(2, 3))
    return float(series.mean()), float(batch_errors(series))


def firms(scale: Scale) -> dict[str, Any]:
    """Students that share strength between Grunfeld's firms, beside the closed form with that strength given."""
    import statsmodels.api as sm

    table = sm.datasets.grunfeld.load_pandas().data
    logs = np.log(table[["invest", "value", "capital"]].to_numpy())
    logs = (logs - logs.mean(axis=0)) / logs.std(axis=0)
    codes = table["firm"].astype("category").cat.codes.to_numpy()
    own = np.eye(codes.max() + 1)[codes]
    y, inputs = logs[:, 0], logs[:, 1:]
    design = np.hstack([inputs, own])
    fitted = np.linalg.lstsq(design, y, rcond=None)[0]
    noise = float(((y - design @ fitted) ** 2).sum() / (len(y) - design.shape[1]))
    firsts = np.flatnonzero(np.diff(codes, prepend=-1))
    hierarchical = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(inputs, design @ fitted, noise_variance=noise),
        student=kd.BayesianStudent(model="hierarchical", groups=codes, query_groups=codes[firsts]),
        design=kd.Design(inputs[firsts]),
    )
    spread = fitted[2:].var(ddof=1)
    given = kd.DistillationProblem(
        teacher=kd.GaussianTeacher(design, design @ fitted, noise_variance=noise),
        student=kd.BayesianLinearStudent(
            prior_variance=np.diag([1.0, 1.0] + [spread] * own.shape[1]), noise_variance=noise, fit_intercept=True
        ),
        design=kd.Design(design[firsts]),
    )
    method = NUTS(draws=scale.nuts.draws, tune=2 * scale.nuts.tune, chains=scale.nuts.chains, target_accept=0.95)
    sampled = kd.sample_students(hierarchical, n_students=scale.n_firms, rng=SEED, method=method)
    return {
        "predicted": averages(kd.predict(given)),
        "sampled": averages(sampled.components),
        "failures": sampled.diagnostics.failures,
    }


def run(scale: Scale) -> dict[str, Any]:
    """Return everything that is shown."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the tables have a column for it
        warnings.simplefilter("ignore", ApproximationWarning)
        found = {"strategies": strategies(scale), "approximations": approximations(scale), "firms": firms(scale)}
    return found | {"seconds": time.perf_counter() - started}


def summary(found: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    lines = [
        "| data, strategy | predicted inter | PyMC | predicted intra | PyMC | intra / teacher's | 95% covers | PIT |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["strategies"].items():
        cells = [name.replace("/", ", ")]
        for component in ("inter_student", "intra_student"):
            cells.append(f"{row['predicted'][component][0]:.5f}")
            cells.append(pair(row["sampled"][component], 5) if row["sampled"] else "")
        cells.append(f"{row['predicted']['intra_student'][0] / row['teacher_variance']:.3f}")
        cells.append(pair(row["coverage"], 4))
        cells.append(f"{row['pit_distance']:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| beside the exact fit | PyMC inter | exact, same labels | PyMC intra | exact | others | as alike | marked |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["strategies"].items():
        if row["sampled"]:
            groups, own = row["others"]["groups"], row["exact"]["inter_student"][0]
            cells = [name.replace("/", ", ")]
            for component in ("inter_student", "intra_student"):
                cells += [pair(row["sampled"][component], 5), f"{row['exact'][component][0]:.5f}"]
            cells += [pair(row["others"]["inter_student"], 5), f"{sum(g <= own for g in groups)} of {len(groups)}"]
            lines.append("| " + " | ".join([*cells, "; ".join(row["sampled"]["failures"])]) + " |")
    exact = found["approximations"]["NUTS"]["parameter"]
    lines += ["", "| method | parameter part | share of NUTS | intra | marked |", "|---|---|---|---|---|"]
    for name, row in found["approximations"].items():
        value, error = row["parameter"]
        share = value / exact[0]
        bound = share * np.hypot(error / value, exact[1] / exact[0])
        marked, whole = "; ".join(row["failures"]), pair(row["intra_student"], 5)
        lines.append(f"| {name} | {pair(row['parameter'], 5)} | {share:.3f} ± {bound:.3f} | {whole} | {marked} |")
    row = found["firms"]
    lines += ["", f"| Grunfeld's firms{', marked' if row['failures'] else ''} | inter | intra |", "|---|---|---|"]
    for title, kind in (("closed form, spread of firms given", "predicted"), ("PyMC, hierarchical", "sampled")):
        lines.append(f"| {title} | {pair(row[kind]['inter_student'], 5)} | {pair(row[kind]['intra_student'], 5)} |")
    return "\n".join([*lines, "", f"{found['seconds']:.0f} s"]) + "\n"


def pair(value: list[float], digits: int) -> str:
    """Return a number and its standard error."""
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"


def draw(found: dict[str, Any]) -> Figure:
    """Coverage by strategy, the transform of the teacher's responses, and what approximations keep."""
    with house_style():
        figure = new_figure(width=14.0, height=4.6)
        left, middle, right = figure.subplots(1, 3)
        names, colours = list(STRATEGIES), (INK, VERMILLION, MUTED, GREEN, BLUE)
        datasets = list(dict.fromkeys(key.split("/")[0] for key in found["strategies"]))
        for marker, dataset in zip("os", datasets, strict=False):
            values = [found["strategies"][f"{dataset}/{name}"]["coverage"] for name in names]
            left.errorbar(
                [value for value, _ in values],
                np.arange(len(names)) + (0.1 if marker == "s" else -0.1),
                xerr=[2.0 * error for _, error in values],
                fmt=marker,
                color=INK,
                ms=5,
                label=dataset.replace("_", " "),
            )
        left.axvline(0.95, color=MUTED, ls="--", lw=1)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.set_xlabel("teacher's responses in 95% intervals")
        left.legend(loc="lower left", fontsize=8)
        for name, colour in zip(names, colours, strict=True):
            row = found["strategies"][f"{datasets[-1]}/{name}"]
            middle.plot(row["grid"], np.subtract(row["pit"], row["grid"]), color=colour, label=name)
        middle.axhline(0.0, color=MUTED, lw=1, ls="--")
        middle.set_xlabel("u")
        middle.set_title(f"P(transform < u) - u, {datasets[-1]}", fontsize=10)
        middle.legend(fontsize=7, loc="upper right")
        exact = found["approximations"]["NUTS"]["parameter"][0]
        methods = list(found["approximations"])
        parts = [found["approximations"][name]["parameter"] for name in methods]
        right.errorbar(
            [value / exact for value, _ in parts],
            range(len(methods)),
            xerr=[2.0 * e / exact for _, e in parts],
            fmt="o",
            color=BLUE,
        )
        right.axvline(1.0, color=MUTED, ls="--", lw=1)
        right.set_yticks(range(len(methods)), methods)
        right.invert_yaxis()
        right.set_xlim(left=0.0)
        right.set_xlabel("parameter part over NUTS's (± 2 MCSE)")
    figure.set_layout_engine("constrained")
    return figure


def write(found: dict[str, Any], out: Path) -> None:
    """Write figure, numbers and tables."""
    out.mkdir(parents=True, exist_ok=True)
    draw(found).savefig(out / "bayesian_students.png", dpi=110)
    (out / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / "summary.md").write_text(summary(found), encoding="utf-8")


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer rows, students and draws")
    parser.add_argument("--out", type=Path, default=Path("out/bayesian_students"))
    options = parser.parse_args()
    found = run(QUICK if options.quick else Scale())
    write(found, options.out)
    print(summary(found))


if __name__ == "__main__":
    main()
