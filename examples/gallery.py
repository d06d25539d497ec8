"""One picture for every verb of kdstats, on Boston Housing.

    python examples/gallery.py --out out/gallery

A linear teacher with noise of half the target's variance, five responses averaged, linear students. Writes one small
PNG for each of demo, predict, observe, compare, decompose, plan and report, and for variance by source;
docs/gallery.md shows them.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

import kdstats as kd
from kdstats import plots
from kdstats.plots.style import COMPONENT_LOOKS, head, house_style, new_figure, scale_axis, settle, squared_unit
from kdstats.study import Study
from kdstats.study.file import Setting

SEED = 1
RESPONSES = (1, 2, 5, 10, 20, 50)
NOISE = (0.1, 0.25, 0.5, 1.0, 2.0)
N_COLOURS = 256
DPI = 90

STUDY = {
    "data": {"dataset": "boston_housing"},
    "teacher": {"noise_fraction": 0.5},
    "student": {"kind": "linear"},
    "design": {"n_responses": 5, "strategy": "averaging"},
}


@dataclass(frozen=True)
class Gallery:
    """The students behind the pictures: trained once, shared by the pictures that show them."""

    n_students: int = 500

    @cached_property
    def setting(self) -> Setting:
        """Problem, truth at the query points and unit."""
        return Study(STUDY).setting()

    @cached_property
    def problem(self) -> kd.DistillationProblem:
        """Five responses averaged."""
        return self.setting.problem

    @cached_property
    def noise(self) -> float:
        """Variance of one response."""
        return float(self.problem.teacher.noise_variance)

    @cached_property
    def predicted(self) -> kd.VarianceComponents:
        """The closed form."""
        return kd.predict(self.problem)

    @cached_property
    def observed(self) -> kd.VarianceComponents:
        """Students really fitted."""
        return kd.observe(self.problem, n_students=self.n_students, rng=SEED)

    def demo(self) -> Figure:
        """Draw averaging more responses: predicted curves through measured students, beside the 1/k line."""
        grid = kd.predict_grid(self.problem, noise_variance=[self.noise], n_responses=RESPONSES)
        seen = {
            k: kd.observe(self.problem.with_design(n_responses=k), n_students=self.n_students, rng=SEED + k)
            for k in RESPONSES
        }
        return plots.components_against_responses(grid, seen, unit=self.setting.unit)

    def predict(self) -> Figure:
        """Draw components against the teacher's noise, before any student is trained."""
        levels = [level * self.noise for level in NOISE]
        grid = kd.predict_grid(self.problem, noise_variance=levels, n_responses=[self.problem.design.n_responses])
        return plots.components_against_noise(grid, unit=self.setting.unit)

    def observe(self) -> Figure:
        """Draw the estimate and its interval while students come in."""
        return plots.convergence(self.observed, predicted=self.predicted, unit=self.setting.unit)

    def compare(self) -> Figure:
        """Draw observed against predicted variance at every query point."""
        return plots.predicted_against_observed(self.predicted, self.observed, unit=self.setting.unit)

    def decompose(self) -> Figure:
        """Draw the components of a table of predictions, point by point."""
        return draw_table(kd.decompose(self.table()), unit=self.setting.unit)

    def plan(self) -> Figure:
        """Draw what budgets buy where a prompt costs three responses and responses are a little correlated."""
        problem = self.problem.with_teacher(response_correlation=0.05)
        return plots.frontier(kd.plan(problem, budget=3000, prompt_cost=3, response_cost=1), unit=self.setting.unit)

    def report(self) -> Figure:
        """Draw the predicted law of one student's test error over the test errors of trained students."""
        target = self.setting.target
        law = kd.mse_distribution(self.problem, target)
        return plots.mse_distribution(law, kd.student_mse(self.observed, target), unit=self.setting.unit)

    def sources(self) -> Figure:
        """Draw what each source adds for students that cross draws of all three (simulated effects)."""
        names = ["teacher_output", "student_initialization", "data_resampling"]
        draw = np.random.default_rng(SEED).standard_normal
        index = np.indices((8, 8, 6, 2, 12)).reshape(5, -1)
        table = pd.DataFrame(dict(zip([*names, "replicate", "point"], index, strict=True)))
        teacher, start, data, _, point = index
        table["value"] = (
            1.0 * draw((8, 12))[teacher, point]
            + 0.7 * draw((8, 12))[start, point]
            + 0.4 * draw((8, 8, 12))[teacher, start, point]
            + 0.5 * draw((6, 12))[data, point]
            + 0.6 * draw(len(table))
        )
        return plots.variance_by_source(kd.decompose_sources(table, names, method="reml"))

    def table(self, *, n_students: int = 60, n_replicates: int = 30, n_points: int = 12) -> pd.DataFrame:
        """Return what a user would bring: outputs of some students, several at each point, in long form."""
        predictions = self.observed.student_predictions.values[:n_students, :n_points, 0]
        spread = np.sqrt(self.observed.intra_student.values[:n_points, 0])
        outputs = np.random.default_rng(SEED).normal(
            predictions[:, None], spread, size=(len(predictions), n_replicates, n_points)
        )
        index = pd.MultiIndex.from_product(map(range, outputs.shape), names=["student", "replicate", "point"])
        return pd.Series(outputs.ravel(), index=index, name="value").reset_index()


VERBS: dict[str, Callable[[Gallery], Figure]] = {
    "demo": Gallery.demo,
    "predict": Gallery.predict,
    "observe": Gallery.observe,
    "compare": Gallery.compare,
    "decompose": Gallery.decompose,
    "plan": Gallery.plan,
    "report": Gallery.report,
    "sources": Gallery.sources,
}


@house_style()
def draw_table(components: kd.VarianceComponents, *, unit: str) -> Figure:
    """Draw inter and intra at each point with their 95% intervals, on a log axis where all are above 0."""
    figure = new_figure(width=7.0, height=4.2)
    axes = figure.subplots()
    places = np.arange(components.estimate.sizes["point"])
    bounds = components.interval(0.95)
    handles, drawn = [], []
    for name in ("inter_student", "intra_student"):
        look = COMPONENT_LOOKS[name]
        values = components.estimate[name].values[:, 0]
        low, high = (bounds[name].sel(ci_bound=side).values[:, 0] for side in ("lower", "upper"))
        drawn += [low, high]
        axes.errorbar(
            places + look.shift / 30.0,
            values,
            yerr=[values - low, high - values],
            color=look.colour,
            ls="",
            marker=look.marker,
            mfc="white",
        )
        handles.append(Line2D([], [], color=look.colour, ls="", marker=look.marker, mfc="white", label=look.name))
    scale_axis(axes, "y", drawn, log=bool(np.min(drawn) > 0.0), margin=0.1)
    axes.set_xticks(places, [f"{label}" for label in components.estimate.coords["point"].values])
    axes.set_xlabel("Point")
    axes.set_ylabel(f"Variance [{squared_unit(unit)}]")
    handles.append(Line2D([], [], color="none", label="bars: 95% intervals"))
    head(figure, "A table of predictions, taken apart", handles)
    figure.set_label("Inter-student and intra-student variance with 95% intervals at twelve points of a table.")
    return settle(figure)


def save(figure: Figure, path: Path) -> None:
    """Write a small PNG: few colours, which line drawings need no more of."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    picture = Image.open(buffer).convert("RGB").quantize(N_COLOURS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/gallery"), help="folder for the pictures")
    parser.add_argument("--n-students", type=int, default=Gallery.n_students, help="students of each observation")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    gallery = Gallery(n_students=options.n_students)
    for verb, draw in VERBS.items():
        save(draw(gallery), options.out / f"gallery_{verb}.png")
        print(f"{time.perf_counter() - started:6.1f} s  {options.out / f'gallery_{verb}.png'}", flush=True)


if __name__ == "__main__":
    main()
