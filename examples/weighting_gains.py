"""What variance weighting gains over plain averaging: the published oracle, and estimators that a user can have.

    python examples/weighting_gains.py            # three data sets, ten numbers of responses, about a minute
    python examples/weighting_gains.py --quick    # fewer of both

Boston Housing and diabetes, whose teacher is equally noisy everywhere, and Engel's household budgets (shipped with
statsmodels), where the noise grows with income: its variance is fitted to the residuals. Linear teachers and students.
Each ratio is to the inter-student variance of plain averaging of the same k responses. Predictions saw no student;
three of the estimators are also measured, with students that were really fitted. Writes weighting_gains.png,
results.json and summary.md into ``--out``.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import special

import kdstats as kd
from kdstats.plots.style import BLUE, GREEN, INK, MUTED, VERMILLION, head, house_style, new_figure, settle
from kdstats.prediction.closed_form import published_oracle_gain
from kdstats.prediction.weighting import WeightingGains
from kdstats.study import load_dataset

SEED = 20260118
TEST_SHARE = 0.2
#: What is measured too, and how its students are posed.
MEASURED = ("oracle", "split_shrunken", "inputs_per_input")

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run."""

    responses: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10, 15, 20, 50)
    n_simulated: int = 8192
    n_students: int = 1000


QUICK = Scale(responses=(1, 3, 6, 10), n_simulated=512, n_students=100)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One data set as a distillation: training inputs, teacher, query points."""

    title: str
    X_train: FloatArray
    X_test: FloatArray
    teacher_mean: FloatArray
    noise_variance: FloatArray

    def problem(self, n_responses: int) -> kd.DistillationProblem:
        """Return the distillation with plain averaging of k responses."""
        return kd.DistillationProblem(
            teacher=kd.GaussianTeacher(self.X_train, self.teacher_mean, noise_variance=self.noise_variance),
            student=kd.LinearStudent(),
            design=kd.Design(self.X_test, n_responses=n_responses),
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The ratio of students that were really fitted, with its 95% interval, and what was predicted for it."""

    data: str
    estimator: str
    n_responses: int
    measured: float
    lower: float
    upper: float
    predicted: float

    @property
    def covered(self) -> bool:
        """Whether the prediction lies within the measured interval."""
        return self.lower <= self.predicted <= self.upper


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that was found: predicted gains by data set and k, and the measured ratios."""

    gains: Mapping[str, Mapping[int, WeightingGains]]
    measured: tuple[Measured, ...]
    titles: Mapping[str, str]


def settings() -> dict[str, Setting]:
    """Return the three data sets: split, standardised by the training rows, with a least-squares teacher."""
    boston, diabetes = load_dataset("boston_housing"), load_dataset("diabetes")
    income, food = engel()
    assert boston.target is not None
    assert diabetes.target is not None
    return {
        "boston": posed("Boston Housing, equal noise", boston.X, boston.target),
        "diabetes": posed("Diabetes, equal noise", diabetes.X, diabetes.target),
        "engel": posed("Engel, noise grows with income", income[:, None], food, varying=np.log(income)),
    }


def engel() -> tuple[FloatArray, FloatArray]:
    """Return income and food expenditure of 235 Belgian households (Engel 1857, as in Koenker and Bassett 1982)."""
    from statsmodels.datasets import engel as data

    table = data.load_pandas().data
    return table["income"].to_numpy(float), table["foodexp"].to_numpy(float)


def posed(title: str, X: FloatArray, target: FloatArray, *, varying: FloatArray | None = None) -> Setting:
    """Return a teacher fitted to the training rows, whose responses scatter as its residuals do."""
    order = np.random.default_rng(SEED).permutation(len(X))
    test, train = np.split(order, [round(TEST_SHARE * len(X))])
    centre, scale = X[train].mean(axis=0), X[train].std(axis=0)
    X_train, X_test = (X[train] - centre) / scale, (X[test] - centre) / scale
    y = (target[train] - target[train].mean()) / target[train].std()
    inputs = np.column_stack([np.ones(len(train)), X_train])
    mean = inputs @ np.linalg.lstsq(inputs, y, rcond=None)[0]
    residuals = y - mean
    noise = np.full(len(train), residuals @ residuals / (len(train) - inputs.shape[1]))
    if varying is not None:
        noise = fitted_variance(residuals, varying[train])
    return Setting(title=title, X_train=X_train, X_test=X_test, teacher_mean=mean, noise_variance=noise)


def fitted_variance(residuals: FloatArray, by: FloatArray) -> FloatArray:
    """Return exp(a + b x), fitted to the logarithms of squared Gaussian residuals (Harvey 1976)."""
    columns = np.column_stack([np.ones(len(by)), by - by.mean()])
    log_bias = special.digamma(0.5) + np.log(
        2.0
    )  # mean of the logarithm of a chi-squared variable on 1 degree of freedom
    return np.exp(columns @ np.linalg.lstsq(columns, np.log(residuals**2) - log_bias, rcond=None)[0])


def stream(*path: str | int) -> np.random.SeedSequence:
    """Return a seed of its own for every cell: no two cells share students."""
    return np.random.SeedSequence([SEED, *(zlib.crc32(str(part).encode()) for part in path)])


def run(scale: Scale, *, say: Callable[[str], None] = lambda _: None) -> Findings:
    """Predict the gains for every data set and k, and measure some of them."""
    gains: dict[str, dict[int, WeightingGains]] = {}
    measured: list[Measured] = []
    chosen = settings()
    for data, setting in chosen.items():
        gains[data] = {}
        for k in scale.responses:
            say(f"{setting.title}, k = {k}")
            problem = setting.problem(k)
            found = kd.weighting_gains(problem, n_students=scale.n_simulated, rng=stream(data, k), progress=False)
            gains[data][k] = found
            measured += [measure(data, problem, found, name, scale) for name in MEASURED if found[name].refused is None]
    return Findings(gains=gains, measured=tuple(measured), titles={key: s.title for key, s in chosen.items()})


def measure(data: str, problem: kd.DistillationProblem, found: WeightingGains, name: str, scale: Scale) -> Measured:
    """Fit students for real and relate their variance to the exact one of plain averaging."""
    k, row = problem.design.n_responses, found[name]
    seen = kd.observe(
        weighted(problem, name), engine="linear", n_students=scale.n_students, rng=stream("measured", data, name, k)
    ).average()
    low, high = seen.interval(0.95, students="any").inter_student.values.ravel() / found.averaging_variance
    assert row.variance is not None
    return Measured(
        data=data,
        estimator=name,
        n_responses=k,
        measured=float(seen.inter_student.squeeze()) / found.averaging_variance,
        lower=float(low),
        upper=float(high),
        predicted=row.variance,
    )


def weighted(problem: kd.DistillationProblem, name: str) -> kd.DistillationProblem:
    """Return the problem whose students weight as the named estimator does."""
    if name == "inputs_per_input":
        return problem.with_student(weights="estimated")
    how = {
        "oracle": kd.VarianceWeighting(student_estimate="teacher_mean", weight="estimated"),
        "split_shrunken": kd.VarianceWeighting(weight="shrunken"),
    }
    return problem.with_design(strategy="variance_weighting", weighting=how[name])


# ---------------------------------------------------------------------------------------------------- pictures, words


LOOKS = {
    "oracle": (MUTED, "--", "o", "mixed with the noiseless teacher mean: a bound"),
    "split_shrunken": (VERMILLION, "-", "s", "mixed with a pilot student, shrunken variances"),
    "inputs_known": (GREEN, ":", "", "inputs weighted, true variances"),
    "inputs_shrunken": (GREEN, "-", "", "inputs weighted, shrunken variances"),
    "inputs_per_input": (BLUE, "-.", "D", "inputs weighted, a variance each (from k = 6)"),
}


@house_style()
def draw(found: Findings) -> Figure:
    """Draw the ratio of inter-student variances against k, one panel for each data set."""
    figure = new_figure(width=10.0, height=5.2)
    panels = figure.subplots(1, len(found.gains), sharey=True)
    for axes, (data, by_k) in zip(panels, found.gains.items(), strict=True):
        _draw_panel(axes, data, by_k, found)
        axes.set_title(found.titles[data])
    panels[0].set_ylabel("Inter-student variance over that of\nplain averaging (below 1 is a gain)")
    handles = [
        Line2D([], [], color=colour, ls=line, marker=marker or "none", mfc="white", label=label)
        for colour, line, marker, label in LOOKS.values()
    ]
    handles.append(Line2D([], [], color="none", label="lines: predicted; markers: measured, 95% intervals"))
    head(figure, "Weighting gains where inputs differ in noise; elsewhere only an oracle does", handles, columns=2)
    figure.set_label(
        "Inter-student variance of five ways to weight over that of plain averaging, against k, three data sets: the "
        "oracle falls to a quarter everywhere, pilots lose, and weighted inputs gain only where the noise differs."
    )
    return settle(figure)


def _draw_panel(axes: Axes, data: str, by_k: Mapping[int, WeightingGains], found: Findings) -> None:
    axes.axhline(1.0, color=INK, lw=1.0)
    for name, (colour, line, marker, _) in LOOKS.items():
        rows = {k: gains[name] for k, gains in by_k.items() if gains[name].variance is not None}
        axes.plot(list(rows), [row.variance for row in rows.values()], color=colour, ls=line)
        points = [p for p in found.measured if (p.data, p.estimator) == (data, name)]
        if points:
            values = np.array([(p.n_responses, p.measured, p.lower, p.upper) for p in points]).T
            axes.errorbar(
                values[0],
                values[1],
                yerr=[values[1] - values[2], values[3] - values[1]],
                color=colour,
                ls="",
                marker=marker,
                mfc="white",
                ms=5,
                elinewidth=1.0,
            )
    axes.set(xscale="log", yscale="log", ylim=(0.22, 4.2))
    ticks = [k for k in (2, 3, 5, 10, 20, 50) if min(by_k) <= k <= max(by_k)]
    axes.set_xticks(ticks, [f"{k}" for k in ticks])
    axes.set_yticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
    axes.minorticks_off()
    axes.set_xlabel("Responses per input, k")


COLUMNS = {
    "oracle": "oracle (bound)",
    "split_known": "pilot, known",
    "split_pooled": "pilot, pooled",
    "split_per_input": "pilot, per input",
    "split_shrunken": "pilot, shrunken",
    "same_known": "same responses, known",
    "same_estimated": "same responses, estimated",
    "inputs_known": "inputs, known",
    "inputs_per_input": "inputs, per input",
    "inputs_shrunken": "inputs, shrunken",
}


def summary(found: Findings) -> str:
    """Return what was found as Markdown: the oracle's formula, and one table for each data set."""
    lines = ["# What weighting gains over plain averaging", "", "| k | oracle, formula | predicted | measured [95%] |"]
    lines += ["|---|---|---|---|"]
    for point in (p for p in found.measured if p.estimator == "oracle"):
        lines.append(
            f"| {point.n_responses} ({point.data}) | {published_oracle_gain(point.n_responses):.3f} "
            f"| {point.predicted:.3f} | {point.measured:.3f} [{point.lower:.3f}, {point.upper:.3f}] |"
        )
    covered = sum(p.covered for p in found.measured)
    lines += ["", f"{covered} of {len(found.measured)} predictions lie within the measured 95% interval."]
    for data, by_k in found.gains.items():
        for metric, what in (("error", "Students"), ("label_error", "Labels")):
            lines += ["", f"## {found.titles[data]}. {what}: mean squared error over that of plain averaging", ""]
            lines += ["| k | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
            for k, gains in by_k.items():
                cells = [_cell(gains, name, metric) for name in COLUMNS]
                lines.append(f"| {k} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(gains: WeightingGains, name: str, metric: str) -> str:
    value, error = getattr(gains[name], metric), getattr(gains[name], f"{metric}_se")
    if value is None:
        return "infinite" if "infinite" in (gains[name].refused or "") else "undefined"
    return f"{value:.3f}" if error < 5e-4 else f"{value:.3f} ± {error:.3f}"


def write(found: Findings, scale: Scale, out: Path) -> None:
    """Write the figure, results.json and summary.md."""
    out.mkdir(parents=True, exist_ok=True)
    draw(found).savefig(out / "weighting_gains.png", dpi=100)
    document = {
        "seed": SEED,
        "scale": asdict(scale),
        "gains": {data: {k: gains.to_dict() for k, gains in by_k.items()} for data, by_k in found.gains.items()},
        "measured": [asdict(point) for point in found.measured],
    }
    (out / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (out / "summary.md").write_text(summary(found), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few students, few numbers of responses")
    parser.add_argument("--out", type=Path, default=Path("out/weighting_gains"), help="folder for the results")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    scale = QUICK if options.quick else Scale()
    found = run(scale, say=lambda line: print(f"{time.perf_counter() - started:6.1f} s  {line}", flush=True))
    write(found, scale, options.out)
    print(summary(found))
    print(f"written to {options.out} in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
