"""The linear experiments of Cui & Pei (2026), arXiv 2601.18909, predicted before they are measured.

    python examples/paper_linear_experiments.py            # 1,000 students a cell, some minutes
    python examples/paper_linear_experiments.py --quick    # 100 students, fewer cells

Boston Housing, a linear teacher (least squares on the training rows), linear students. Three experiments: teacher
noise, averaging and variance weighting over k responses, bootstrap fractions. Every measured number is an estimate
from students that were really fitted, with a 95% interval, beside a prediction that saw none of them. Writes figures,
results.json and summary.md into ``--out``.

A teacher's responses to the training inputs are its predictions plus Gaussian noise. Everything is standardised by the
training rows alone, so that noise variances are shares of Var(y_train) = 1 and test errors have the same unit.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import special
from threadpoolctl import threadpool_limits

import kdstats as kd
from kdstats import plots
from kdstats.plots.style import BLUE, GREEN, INK, MUTED, VERMILLION, head, house_style, new_figure, settle
from kdstats.study import load_dataset

SEED = 20260118
NOISE = (*np.round(np.arange(0.0, 1.01, 0.1), 2).tolist(), 1.25, 1.5, 1.75, 2.0)
CORRECTED_NOISE = (0.01, 0.1, 0.5, 1.0)
RESPONSES = (1, 3, 5, 7, 9, 11, 13, 15, 20, 30, 40, 50)
FRACTIONS = tuple(np.round(np.arange(0.1, 1.01, 0.1), 2).tolist())
CORRELATION = 0.3
BOOTSTRAP_NOISE = 0.5
UNIT = "sd of y"
VARIANCE_UNIT = f"[({UNIT})²]"
ORACLE = kd.VarianceWeighting(student_estimate="teacher_mean", weight="estimated")

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run: students in each cell, simulated students behind a Monte Carlo prediction, the cells."""

    n_students: int = 1000
    n_simulated: int = 50_000
    noise: tuple[float, ...] = NOISE
    corrected_noise: tuple[float, ...] = CORRECTED_NOISE
    responses: tuple[int, ...] = RESPONSES
    fractions: tuple[float, ...] = FRACTIONS


QUICK = Scale(
    n_students=100,
    n_simulated=5000,
    noise=(0.0, 0.1, 0.3, 0.6, 1.0, 1.5, 2.0),
    corrected_noise=(0.1, 1.0),
    responses=(1, 3, 5, 10, 20),
    fractions=(0.1, 0.3, 0.6, 1.0),
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured number with its 95% interval, and what was predicted for it."""

    experiment: str
    quantity: str
    at: dict[str, float]
    predicted: float
    measured: float
    lower: float
    upper: float
    prediction: str

    @property
    def covered(self) -> bool:
        """Whether the prediction lies within the measured interval."""
        return self.lower <= self.predicted <= self.upper


@dataclass(kw_only=True)
class Findings:
    """What one experiment gives: measured points, named facts, pictures, and Markdown."""

    points: list[Point] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)

    def series(self, quantity: str, by: str, **at: float) -> list[Point]:
        """Return the points of one quantity, in the order of one of its coordinates."""
        chosen = [p for p in self.points if p.quantity == quantity and all(p.at[key] == at[key] for key in at)]
        return sorted(chosen, key=lambda point: point.at[by])

    def coverage(self) -> str:
        """Return how many predictions lie within the measured 95% intervals, by quantity."""
        rows = []
        for quantity in dict.fromkeys(point.quantity for point in self.points):
            if quantity.startswith("relative"):  # the same intervals, divided
                continue
            points = [point for point in self.points if point.quantity == quantity]
            rows.append(f"{quantity}: {sum(p.covered for p in points)} of {len(points)}")
        return "; ".join(rows)


@dataclass(frozen=True, kw_only=True)
class Boston:
    """The split: 404 training rows, 102 test rows, standardised by the training rows alone."""

    X_train: FloatArray
    X_test: FloatArray
    y_train: FloatArray
    y_test: FloatArray
    teacher_mean: FloatArray
    variance_all_rows: float

    def problem(
        self,
        *,
        noise: float,
        at: str = "test",
        mean: FloatArray | None = None,
        rho: float = 0.0,
        student: kd.LinearStudent | None = None,
        **design: Any,
    ) -> kd.DistillationProblem:
        """Return the distillation of this teacher; ``at`` says at which inputs students predict."""
        return kd.DistillationProblem(
            teacher=kd.GaussianTeacher(
                self.X_train,
                self.teacher_mean if mean is None else mean,
                noise_variance=noise,
                response_correlation=rho,
            ),
            student=student or kd.LinearStudent(),
            design=kd.Design(self.X_test if at == "test" else None, **design),
        )

    def target(self, at: str) -> FloatArray:
        """Return the truth where students predict."""
        return self.y_test if at == "test" else self.y_train


def load_boston() -> Boston:
    """Split 80/20 with the published seed (42), then standardise, then fit the teacher."""
    from sklearn.model_selection import train_test_split

    data = load_dataset("boston_housing")
    X_train, X_test, y_train, y_test = train_test_split(data.X, data.target, test_size=0.2, random_state=42)
    centre, scale = X_train.mean(axis=0), X_train.std(axis=0)
    level, spread = y_train.mean(), y_train.std()
    X_train, X_test = (X_train - centre) / scale, (X_test - centre) / scale
    y_train, y_test = (y_train - level) / spread, (y_test - level) / spread
    inputs = np.column_stack([np.ones(len(X_train)), X_train])
    teacher_mean = inputs @ np.linalg.lstsq(inputs, y_train, rcond=None)[0]
    assert data.target is not None
    return Boston(
        X_train=X_train,
        X_test=X_test,
        y_train=y_train,
        y_test=y_test,
        teacher_mean=teacher_mean,
        variance_all_rows=float(data.target.var() / spread**2),
    )


def stream(*path: str | float) -> np.random.SeedSequence:
    """Return a seed of its own for every cell: no two cells share students."""
    return np.random.SeedSequence([SEED, *(zlib.crc32(str(part).encode()) for part in path)])


# ------------------------------------------------------------------------------------------- 1. teacher noise


def teacher_noise(boston: Boston, scale: Scale, say: Callable[[str], None]) -> Findings:
    """Sweep the noise of single responses: train and test MSE, inter, intra and total variance."""
    found = Findings()
    runs: dict[float, kd.VarianceComponents] = {}
    for noise in scale.noise:
        say(f"teacher noise {noise:g}")
        for at in ("train", "test"):
            problem = boston.problem(noise=noise, at=at)
            seen = kd.observe(problem, engine="linear", n_students=scale.n_students, rng=stream("noise", noise))
            law = kd.mse_distribution(problem, boston.target(at))
            mse = kd.student_mse(seen, boston.target(at))
            if noise > 0:  # at 0 all students are the teacher: nothing to estimate
                where = {"noise": noise}
                found.points += mse_points("noise", at, where, law, mse)
                found.points.append(component_point("noise", f"inter, {at}", where, kd.predict(problem), seen))
        runs[noise] = seen
        if noise == 1.0:
            found.figures["noise_test_mse_law"] = plots.mse_distribution(law, mse, unit=UNIT)
            found.facts["mse_law_pvalue_at_1"] = kd.mse_test(mse, law).pvalue
            found.facts["mse_sd_at_1"], found.facts["mse_variance_at_1"] = law.sd, law.variance
    noisy = [noise for noise in scale.noise if noise > 0]
    grid = kd.predict_grid(boston.problem(noise=1.0), noise_variance=noisy, n_responses=[1])
    found.figures["noise_components"] = plots.components_against_noise(
        grid, {noise: runs[noise] for noise in noisy}, unit=UNIT
    )
    found.figures["noise_mse"] = draw_mse(found)
    silent = runs[0.0].average()
    slopes = {at: float(kd.predict(boston.problem(noise=1.0, at=at)).inter_student.mean()) for at in ("train", "test")}
    bias = kd.mse_distribution(boston.problem(noise=0.0), boston.y_test).mean
    mle = kd.predict(boston.problem(noise=1.0, at="train", student=kd.LinearStudent(residual_variance="mle")))
    found.facts |= {
        "inter_at_noise_0": float(silent.inter_student.squeeze()),
        "leverage": slopes,
        "teacher_test_mse": bias,
        "intra_at_1": float(kd.predict(boston.problem(noise=1.0)).intra_student.mean()),
        "total_at_training_inputs_mle": float(mle.total.mean()),
        "variance_all_rows": boston.variance_all_rows,
        "torch": torch_students(boston, scale, say),
        "copies": copied_students(boston, runs[1.0]),
    }
    found.text = noise_text(found)
    return found


def noise_text(found: Findings) -> list[str]:
    """Say what the first experiment found."""
    facts = found.facts
    slopes, torch, copies = facts["leverage"], facts["torch"], facts["copies"]
    return [
        flow(f"""Predicted inter-student variance is noise times mean leverage: {slopes["test"]:.4f} per unit of
            noise at the test inputs, {slopes["train"]:.4f} = 14/404 at the training inputs. The teacher's own
            test MSE is {facts["teacher_test_mse"]:.4f}; noise of twice Var(y) adds only {2 * slopes["test"]:.4f}
            to a student's."""),
        flow(f"Predictions within the measured 95% intervals: {found.coverage()}."),
        flow(f"""The whole law of the test MSE at noise 1: Kolmogorov p = {facts["mse_law_pvalue_at_1"]:.2f}. Its
            variance is {facts["mse_variance_at_1"]:.3g} and its standard deviation {facts["mse_sd_at_1"]:.3g}:
            public scripts for these experiments report one under the name of the other, a factor of
            {facts["mse_sd_at_1"] / facts["mse_variance_at_1"]:.0f} here."""),
        flow(f"""A linear student that reports its own residual variance has intra = {facts["intra_at_1"]:.3f} at
            noise 1, the noise itself: one response per input does not make it overconfident. With the
            maximum-likelihood residual variance, inter + intra over the training inputs is
            {facts["total_at_training_inputs_mle"]:.4f}: noise moves from within to between, none of it
            disappears."""),
        flow(f"""Students trained with torch ({torch["n_steps"]} gradient steps, noise 0.5): measured
            {torch["measured"]:.5f} [{torch["lower"]:.5f}, {torch["upper"]:.5f}]; predicted for those steps
            {torch["predicted"]:.5f} (p = {torch["pvalue"]:.2f}), for least squares, which they have not reached,
            {torch["least_squares"]:.5f} ({small_p(torch["pvalue_least_squares"])})."""),
        flow(f"""**Published scripts differ.** Public scripts for these experiments seed inside the loop over
            students, which gives every student after the first the same teacher answers. With such copies
            inter-student variance reads {copies["reported"]:.2g} where it is {copies["true"]:.2g}; kdstats
            refuses the table: “{copies["message"]}”. Seeds of neighbouring cells overlap there, so that their
            errors move together; here every cell has its own. Scalers fitted before the split change nothing in a
            least-squares student but the unit: Var(y) of all rows is {facts["variance_all_rows"]:.3f} of that of
            the training rows."""),
    ]


def torch_students(boston: Boston, scale: Scale, say: Callable[[str], None]) -> dict[str, Any]:
    """Train students by gradient steps in torch, and compare them with both laws they might follow."""
    say("students trained with torch")
    p = boston.X_train.shape[1]
    steps = kd.GradientDescent(n_steps=30, learning_rate=0.05, initialization_sd=1.0 / math.sqrt(3 * p))
    problem = boston.problem(noise=0.5, student=kd.LinearStudent(training=steps))
    seen = kd.observe(problem, engine="networks", n_students=scale.n_students, rng=stream("torch"))
    predicted, least_squares = kd.predict(problem), kd.predict(boston.problem(noise=0.5))
    return asdict(component_point("noise", "torch", {}, predicted, seen)) | {
        "n_steps": steps.n_steps,
        "pvalue": kd.equality_test(predicted, seen).pvalue,
        "least_squares": float(least_squares.inter_student.mean()),
        "pvalue_least_squares": kd.equality_test(least_squares, seen).pvalue,
    }


def copied_students(boston: Boston, seen: kd.VarianceComponents) -> dict[str, Any]:
    """Show what seeding inside the loop over students does: all but the first get the same answers."""
    assert seen.student_predictions is not None
    values = seen.student_predictions.values[:, :, 0].copy()
    true = float(values.var(axis=0, ddof=1).mean())
    values[2:] = values[1]
    table = xr.DataArray(values[:, None], dims=("student", "replicate", "point"))
    try:
        kd.decompose(table)
    except kd.errors.DuplicateStudentsError as error:
        message = str(error)
    return {"true": true, "reported": float(values.var(axis=0, ddof=1).mean()), "message": message}


# ------------------------------------------------------------------------- 2. averaging and variance weighting


def corrections(boston: Boston, scale: Scale, say: Callable[[str], None]) -> Findings:
    """Average k responses, or weight them against an estimate of the student's own."""
    found = Findings()
    averaged: dict[tuple[float, int], kd.VarianceComponents] = {}
    for noise in scale.corrected_noise:
        for k in scale.responses:
            say(f"averaging and weighting, noise {noise:g}, k = {k}")
            averaged[noise, k] = average_and_weight(boston, scale, noise, k, found)
    grid = kd.predict_grid(boston.problem(noise=1.0), noise_variance=scale.corrected_noise, n_responses=scale.responses)
    found.figures["averaging"] = plots.components_against_responses(grid, averaged, unit=UNIT)
    found.figures["weighting"] = draw_weighting(found, scale)
    rates = {noise: kd.rate_test({k: averaged[noise, k] for k in scale.responses}) for noise in scale.corrected_noise}
    found.facts["rate"] = {str(noise): describe_rate(rate) for noise, rate in rates.items()}
    found.facts["correlated"] = correlated(boston, scale, say, found)
    found.facts["refused_at_k_1"] = {name: refusal(boston, how) for name, how in (("oracle", ORACLE), ("pilot", None))}
    found.facts["oracle_gain"] = {k: oracle_gain(k) for k in scale.responses if k > 1}
    found.facts["pilot_with_best_weight"] = best_weight(boston)
    found.facts["no_noise_test_mse"] = kd.mse_distribution(boston.problem(noise=0.0), boston.y_test).mean
    most = max(scale.corrected_noise)
    found.facts["test_mse"] = {
        f"k={k}": kd.mse_distribution(boston.problem(noise=most, n_responses=k), boston.y_test).mean for k in (1, 50)
    }
    found.text = correction_text(found, scale)
    return found


def average_and_weight(boston: Boston, scale: Scale, noise: float, k: int, found: Findings) -> kd.VarianceComponents:
    """Measure one cell with each strategy; return the averaging run."""
    where: dict[str, float] = {"noise": noise, "k": k}
    plain = boston.problem(noise=noise, n_responses=k, strategy="averaging")
    base = float(kd.predict(plain).inter_student.mean())
    designs: dict[str, kd.DistillationProblem] = {"averaging": plain}
    if k > 1:
        weighted = boston.problem(noise=noise, n_responses=k, strategy="variance_weighting")
        designs |= {"pilot": weighted, "oracle": weighted.with_design(weighting=ORACLE)}
    runs = {
        name: kd.observe(
            problem, engine="linear", n_students=scale.n_students, rng=stream("corrections", name, noise, k)
        )
        for name, problem in designs.items()
    }
    for name, problem in designs.items():
        predicted = kd.predict(problem)
        found.points.append(component_point("corrections", f"inter, {name}", where, predicted, runs[name]))
        if name != "averaging":  # the same interval, as a share of plain averaging with the same k
            found.points.append(
                component_point("corrections", f"relative, {name}", where, predicted, runs[name], divisor=base)
            )
        if name != "oracle":  # its estimated weights make the predicted law of the error unknown
            law, mse = kd.mse_distribution(problem, boston.y_test), kd.student_mse(runs[name], boston.y_test)
            found.points += mse_points("corrections", f"test, {name}", where, law, mse)
    return runs["averaging"]


def correlated(boston: Boston, scale: Scale, say: Callable[[str], None], found: Findings) -> dict[str, Any]:
    """Average responses that are correlated with each other: the floor, and the test that finds it."""
    say(f"correlated responses, rho = {CORRELATION}")
    problem = boston.problem(noise=0.5, rho=CORRELATION)
    grid = kd.predict_grid(problem, noise_variance=[0.5], n_responses=scale.responses)
    runs = {
        k: kd.observe(
            problem.with_design(n_responses=k),
            engine="linear",
            n_students=scale.n_students,
            rng=stream("correlated", k),
        )
        for k in scale.responses
    }
    for k, run in runs.items():
        predicted = kd.predict(problem.with_design(n_responses=k))
        found.points.append(component_point("corrections", "inter, correlated", {"k": k}, predicted, run))
    found.figures["averaging_correlated"] = plots.components_against_responses(grid, runs, unit=UNIT)
    return describe_rate(kd.rate_test(runs))


def describe_rate(rate: Any) -> dict[str, Any]:
    """Return slope, interval and floor as plain numbers."""
    slope, rho = rate.confidence_interval(), rate.floor.confidence_interval()
    return {
        "slope": rate.slope,
        "slope_interval": [slope.low, slope.high],
        "pvalue": rate.pvalue,
        "floor_pvalue": rate.floor.pvalue,
        "correlation": rate.floor.correlation,
        "correlation_interval": [rho.low, rho.high],
    }


def refusal(boston: Boston, weighting: kd.VarianceWeighting | None) -> str:
    """Return what the package says to variance weighting with one response."""
    try:
        boston.problem(noise=0.5, n_responses=1, strategy="variance_weighting", weighting=weighting)
    except kd.errors.ProblemError as error:
        return str(error)
    raise AssertionError("weighting by the variance of one response was accepted")


def best_weight(boston: Boston, *, k: int = 9) -> float:
    """Return the variance ratio to plain averaging of a pilot whose responses weigh as many as they are."""
    weighting = kd.VarianceWeighting(weight=(k - k // 2) / k)
    mixed = boston.problem(noise=1.0, n_responses=k, strategy="variance_weighting", weighting=weighting)
    plain = boston.problem(noise=1.0, n_responses=k, strategy="averaging")
    return float(kd.predict(mixed).inter_student.mean() / kd.predict(plain).inter_student.mean())


def oracle_gain(k: int) -> float:
    """Return E[(1 + chi2_{k-1}/k)^-2], by Gauss-Laguerre quadrature of the gamma density."""
    nodes, weights = special.roots_genlaguerre(100, (k - 1) / 2 - 1)
    return float(weights @ (1.0 + 2.0 * nodes / k) ** -2 / weights.sum())


def correction_text(found: Findings, scale: Scale) -> list[str]:
    """Say what the second experiment found."""
    gains, tied, test = (found.facts[name] for name in ("oracle_gain", "correlated", "test_mse"))
    first, last = min(gains), max(gains)
    measured = {
        name: {
            k: pooled(p for p in found.points if p.quantity == f"relative, {name}" and p.at["k"] == k) for k in gains
        }
        for name in ("oracle", "pilot")
    }
    found.facts["relative_to_averaging"] = measured
    table = [
        "| k | oracle, formula | oracle, measured | pilot, predicted | pilot, measured |",
        "|---|---|---|---|---|",
        *(
            f"| {k} | {gains[k]:.3f} | {measured['oracle'][k]['measured']:.3f} | "
            f"{measured['pilot'][k]['predicted']:.3f} | {measured['pilot'][k]['measured']:.3f} |"
            for k in gains
        ),
    ]
    slopes = "; ".join(
        f"noise {noise}: {rate['slope']:.4f} {bracket(rate['slope_interval'])}, floor {small_p(rate['floor_pvalue'])}"
        for noise, rate in found.facts["rate"].items()
    )
    most = max(scale.corrected_noise)
    oracle_refused, pilot_refused = (found.facts["refused_at_k_1"][name] for name in ("oracle", "pilot"))
    return [
        flow(f"Averaging, log-log slope of inter-student variance on k: {slopes}."),
        flow(f"Predictions within the measured 95% intervals: {found.coverage()}."),
        flow(f"""Responses with correlation {CORRELATION}: slope {tied["slope"]:.3f}
            {bracket(tied["slope_interval"])}, a floor detected with {small_p(tied["floor_pvalue"])}, implied
            correlation {tied["correlation"]:.3f} {bracket(tied["correlation_interval"])}: averaging is O(1/k)
            only where responses are independent."""),
        flow(f"""What there is to gain in expected test MSE at noise {most:g}: {test["k=1"]:.4f} with one
            response, {test["k=50"]:.4f} with fifty, {found.facts["no_noise_test_mse"]:.4f} with a noiseless
            teacher."""),
        flow(f"""Inter-student variance of variance weighting as a share of plain averaging with the same k
            responses (measured: mean over the noise levels, {scale.n_students} students each; 1 is no gain):"""),
        "\n".join(table),
        flow(f"""**Published scripts differ.** Their “student estimate” is the noiseless teacher mean, with the
            true noise variance as its variance: an **oracle** that no user has, and with which the best weight on
            the responses would be 0. Its gain is E[(1+χ²ₖ₋₁/k)⁻²], which tends to ¼ whatever the data and the
            student: it says nothing about weighting. With an estimate that a student can have, from a pilot
            trained on k//2 of the same k responses, and the minimum-variance weight at each input, weighting
            **loses**: {measured["pilot"][first]["predicted"]:.2f} times the variance of plain averaging at k =
            {first}, {measured["pilot"][last]["predicted"]:.2f} times at k = {last}. The pilot's predictions are
            so much better than single labels that nearly all weight goes to them, and the responses that it was
            not trained on are all but thrown away: labels of least variance do not make students of least
            variance. No weight can do better than averaging, the best linear unbiased use of k responses
            (Gauss-Markov): weights in proportion to the numbers of responses, (k - k//2)/k, reach
            {found.facts["pilot_with_best_weight"]:.6f} times its variance."""),
        flow(f"k = 1 is refused. Oracle: {oracle_refused}. Pilot: {pilot_refused}."),
    ]


def pooled(points: Iterable[Point]) -> dict[str, float]:
    """Average ratios that have one expectation over independent cells."""
    chosen = list(points)
    return {name: float(np.mean([getattr(point, name) for point in chosen])) for name in ("predicted", "measured")}


# -------------------------------------------------------------------------------------- 3. bootstrap fractions


def bootstrap(boston: Boston, scale: Scale, say: Callable[[str], None]) -> Findings:
    """Let each student see a fraction of the training rows, drawn with replacement."""
    settings: dict[str, dict[str, Any]] = {
        "A": {"noise": 0.0, "sources": ("data_resampling",)},
        "A'": {"noise": BOOTSTRAP_NOISE},
        "B": {"noise": 0.0, "mean": boston.y_train, "sources": ("data_resampling",)},
    }
    found, rows, notes = Findings(), [], {}
    for fraction in scale.fractions:
        size = round(fraction * len(boston.X_train))
        for name, setting in settings.items():
            say(f"bootstrap {name}, {size} of {len(boston.X_train)} rows")
            problem = boston.problem(resample_size=size, **setting)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", kd.errors.ApproximationWarning)
                first_order = kd.predict(problem)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", kd.errors.ApproximationWarning)  # counted below instead
                seen = kd.observe(
                    problem, engine="linear", n_students=scale.n_students, rng=stream("bootstrap", name, fraction)
                )
                simulated = kd.predict(
                    problem,
                    engine="monte_carlo",
                    n_students=scale.n_simulated,
                    rng=stream("simulated", name, fraction),
                    progress=False,
                )
            if caught:
                notes[size] = str(caught[0].message)
            point = component_point("bootstrap", name, {"fraction": fraction}, simulated, seen, students="any")
            if name != "A":
                found.points.append(point)
            rows.append(
                asdict(point)
                | {
                    "rows": size,
                    "first_order": float(first_order.inter_student.mean()),
                    "in_regime": not caught,
                    "simulated_se": float(simulated.attrs["average_standard_error"]["inter_student"]),
                    "n_rank_deficient": int(seen.attrs["n_rank_deficient"]),
                    "n_simulated_rank_deficient": int(simulated.attrs["n_rank_deficient"]),
                }
            )
    found.facts["fractions"], found.facts["warnings"] = rows, notes
    found.facts["chas_rows"] = int((boston.X_train[:, 3] > 0).sum())
    found.figures["bootstrap"] = draw_bootstrap(rows)
    found.text = bootstrap_text(found, scale)
    return found


def bootstrap_text(found: Findings, scale: Scale) -> list[str]:
    """Say what the third experiment found."""
    rows = found.facts["fractions"]
    table = [
        "| setting | rows | measured [95%] | Monte Carlo | first order | rank-deficient |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['quantity']} | {r['rows']} | {r['measured']:.3g} [{r['lower']:.3g}, {r['upper']:.3g}] | "
            f"{r['predicted']:.3g} | {r['first_order']:.3g}{'' if r['in_regime'] else ' (out of regime)'} | "
            f"{r['n_rank_deficient']} of {scale.n_students} |"
            for r in sorted(rows, key=lambda r: (r["quantity"], r["rows"]))
        ),
    ]
    exact = [r for r in rows if r["quantity"] == "A" and not r["n_rank_deficient"]]
    broken = [r for r in rows if r["quantity"] == "A" and r["n_rank_deficient"]]
    lost = "; ".join(f"{r['n_rank_deficient']} at {r['rows']} rows, variance {r['measured']:.2g}" for r in broken)
    off = ", ".join(
        f"{r['rows']} rows {100 * (r['first_order'] / r['predicted'] - 1):+.0f}%" for r in rows if r["quantity"] == "B"
    )
    return [
        flow(f"""A: labels are the noiseless answers of a linear teacher. Wherever every student's rows determine
            its coefficients the variance is exactly 0; the {max(r["measured"] for r in exact):.0e} measured is
            rounding. CHAS is 1 in {found.facts["chas_rows"]} of 404 rows, and small resamples lose it (or another
            column): {lost or "none here"} (of {scale.n_students} students). Those students take the solution of
            smallest norm, miss a coefficient, and alone vary."""),
        flow(
            f"A': the teacher's answers have noise {BOOTSTRAP_NOISE:g}, redrawn for each student. B: the truth, fixed."
        ),
        flow(f"""Predictions (Monte Carlo, {scale.n_simulated} students) within the measured 95% intervals:
            {found.coverage()}."""),
        flow(f"""The first-order closed form against Monte Carlo in B: {off}. Outside its regime it says so:
            “{next(iter(found.facts["warnings"].values()), "")}”."""),
        "\n".join(table),
        flow("""**Published scripts differ.** They plot A for a linear student of a linear teacher, where
            resampling rows changes no student: such a curve is rounding error, plus the resamples that lost a
            column, which a least-squares routine that takes the solution of smallest norm does not report. That
            resampled data make students vary needs labels that scatter around what the student can fit: the truth
            (B), where one fit predicts the curve, or a noisy teacher (A')."""),
    ]


# ------------------------------------------------------------------------------- words, measured points, pictures


def flow(text: str) -> str:
    """Return a paragraph in one line."""
    return " ".join(text.split())


def small_p(pvalue: float) -> str:
    return f"p = {pvalue:.2g}" if pvalue >= 1e-12 else "p < 1e-12"


def bracket(interval: Sequence[float]) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def component_point(
    experiment: str,
    quantity: str,
    at: dict[str, float],
    predicted: kd.VarianceComponents,
    seen: kd.VarianceComponents,
    *,
    students: str = "gaussian",
    divisor: float = 1.0,
) -> Point:
    """Return the inter-student variance averaged over points, with the interval of that average."""
    average = seen.average()
    bounds = average.interval(0.95, students=students).inter_student.values.ravel()
    return Point(
        experiment=experiment,
        quantity=quantity,
        at=at,
        predicted=float(predicted.inter_student.mean()) / divisor,
        measured=float(average.inter_student.squeeze()) / divisor,
        lower=float(bounds[0]) / divisor,
        upper=float(bounds[1]) / divisor,
        prediction=f"{predicted.engine}, {predicted.exactness}",
    )


def mse_points(experiment: str, name: str, at: dict[str, float], law: Any, mse: FloatArray) -> list[Point]:
    """Return mean and variance of the MSE over students, with intervals, beside the predicted law."""
    mean = kd.mse_test(mse, law, method="mean")
    low, high = mean.confidence_interval()
    spread = kd.estimate_components(mse[:, None], variances=0.0)
    bounds = spread.interval(0.95, students="any").inter_student.values.ravel()
    common = {"experiment": experiment, "at": at, "prediction": "law of the MSE, exact"}
    return [
        Point(
            quantity=f"MSE mean, {name}", predicted=law.mean, measured=mean.observed, lower=low, upper=high, **common
        ),
        Point(
            quantity=f"MSE variance, {name}",
            predicted=law.variance,
            measured=float(spread.inter_student.squeeze()),
            lower=float(bounds[0]),
            upper=float(bounds[1]),
            **common,
        ),
    ]


def draw_measured(
    axes: Axes, points: Sequence[Point], by: str, *, colour: str, marker: str, shift: float = 1.0
) -> None:
    """Draw estimates with their intervals."""
    x = np.array([point.at[by] for point in points]) * shift
    y = np.array([[p.lower, p.measured, p.upper] for p in points])
    axes.vlines(x, y[:, 0], y[:, 2], color=colour, lw=1.4)
    axes.plot(x, y[:, 1], ls="none", marker=marker, ms=4.5, mfc="white", mec=colour, mew=1.4, zorder=3)


def measured_handle(label: str = "observed, 95% interval", *, colour: str = MUTED, marker: str = "o") -> Line2D:
    return Line2D([], [], ls="none", marker=marker, mfc="white", mec=colour, mew=1.4, label=label)


@house_style()
def draw_mse(found: Findings) -> Figure:
    """Draw mean and variance of the MSE against noise, train and test."""
    figure = new_figure(width=9.0, height=6.2)
    grid = figure.subplots(2, 2, sharex=True)
    for row, kind in zip(grid, ("mean", "variance"), strict=True):
        for axes, at in zip(row, ("train", "test"), strict=True):
            points = found.series(f"MSE {kind}, {at}", "noise")
            axes.plot([p.at["noise"] for p in points], [p.predicted for p in points], color=BLUE)
            draw_measured(axes, points, "noise", colour=VERMILLION, marker="o")
            inputs = "training" if at == "train" else "test"
            axes.set_title(f"{kind.capitalize()} at the {inputs} inputs", fontweight="bold")
            axes.set_xlim(0.0, None)
            if kind == "variance":
                axes.set_ylim(0.0, None)
                axes.set_xlabel(f"Noise variance of one response {VARIANCE_UNIT}")
    grid[0, 0].set_ylabel(f"Mean MSE over students\n{VARIANCE_UNIT}")
    grid[1, 0].set_ylabel(f"Variance of the MSE over students\n[({UNIT})⁴]")
    handles = [Line2D([], [], color=BLUE, label="predicted (exact)"), measured_handle(colour=VERMILLION)]
    head(figure, "Error of one student against the truth", handles)
    figure.set_label("Mean and variance over students of the train and test MSE against noise: measured on predicted.")
    return settle(figure)


@house_style()
def draw_weighting(found: Findings, scale: Scale) -> Figure:
    """Draw inter-student variance of weighting as a share of plain averaging."""
    figure = new_figure(width=8.0, height=5.0)
    axes = figure.subplots()
    first, last = min(k for k in scale.responses if k > 1), max(scale.responses)
    looks = {"pilot": (VERMILLION, "s", "-"), "oracle": (BLUE, "o", "--")}
    for name, (colour, marker, line) in looks.items():
        points = found.series(f"relative, {name}", "k", noise=scale.corrected_noise[0])
        axes.plot([p.at["k"] for p in points], [p.predicted for p in points], color=colour, ls=line)
        for index, noise in enumerate(scale.corrected_noise):
            shift = 1.018 ** (index - (len(scale.corrected_noise) - 1) / 2)
            points = found.series(f"relative, {name}", "k", noise=noise)
            draw_measured(axes, points, "k", colour=colour, marker=marker, shift=shift)
    axes.axhline(1.0, color=INK, lw=1.2)
    axes.axhline(0.25, color=MUTED, ls=":", lw=1.2)
    axes.set(xscale="log", yscale="log", xlim=(first / 1.12, last * 1.12), ylim=(0.2, 4.0))
    axes.set_xticks([k for k in scale.responses if k > 1], [f"{k}" for k in scale.responses if k > 1])
    axes.set_yticks([0.25, 0.5, 1, 2, 3], ["0.25", "0.5", "1", "2", "3"])
    axes.minorticks_off()
    axes.text(last, 1.03, "plain averaging of the same k responses", ha="right", va="bottom", fontsize=9.5)
    axes.text(first, 0.245, "¼, limit of the oracle", ha="left", va="top", fontsize=9.5, color=MUTED)
    axes.set_xlabel("Responses per input, k")
    axes.set_ylabel("Inter-student variance over that of\nplain averaging (below 1 is a gain)")
    handles = [
        Line2D([], [], color=VERMILLION, ls="-", marker="s", mfc="white", label="pilot student: what a user can have"),
        Line2D([], [], color=BLUE, ls="--", marker="o", mfc="white", label="oracle: knows the noiseless teacher"),
        Line2D([], [], color=MUTED, label="lines: predicted"),
        measured_handle(f"{len(scale.corrected_noise)} noise levels, 95% intervals"),
    ]
    head(figure, "Variance weighting gains with an oracle and loses without", handles, columns=2)
    figure.set_label(
        "Inter-student variance of variance weighting over that of plain averaging, against k: the oracle falls to a "
        "quarter, the pilot stays near two; measured on predicted."
    )
    return settle(figure)


@house_style()
def draw_bootstrap(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw inter-student variance against the share of rows each student sees; A, which is 0, in a panel of its own."""
    figure = new_figure(width=8.0, height=6.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 2))
    looks = {"A'": (VERMILLION, "s", "-", upper), "B": (BLUE, "o", "--", upper), "A": (GREEN, "^", ":", lower)}
    for name, (colour, marker, line, axes) in looks.items():
        series = sorted((r for r in rows if r["quantity"] == name), key=lambda r: r["rows"])
        x = [r["at"]["fraction"] for r in series]
        if name != "A":
            axes.plot(x, [r["predicted"] for r in series], color=colour, ls=line)
            axes.plot(x, [r["first_order"] for r in series], color=MUTED, ls=line, lw=1.2, zorder=1.5)
        points = [Point(**{key: r[key] for key in Point.__dataclass_fields__}) for r in series]
        draw_measured(axes, points, "fraction", colour=colour, marker=marker)
    outside = [r["at"]["fraction"] for r in rows if not r["in_regime"]]
    inside = [r["at"]["fraction"] for r in rows if r["in_regime"]]
    for axes in (upper, lower):
        axes.set(yscale="log", xlim=(0.05, 1.04))
        if outside and inside:
            axes.axvspan(0.05, (max(outside) + min(inside)) / 2, color=MUTED, alpha=0.12, lw=0)
    upper.set_ylim(0.008, 0.8)
    upper.set_yticks([0.01, 0.02, 0.05, 0.1, 0.2, 0.5], ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5"])
    upper.minorticks_off()
    lower.set_ylim(1e-34, 1e-1)
    lower.set_yticks([1e-32, 1e-22, 1e-12, 1e-2])
    lower.minorticks_off()
    upper.text(0.06, 0.0085, "shaded: first order out of its regime\n(fewer than 10 rows per coefficient)", fontsize=9)
    lower.text(0.7, 1e-28, "exact theory: 0; what is seen is rounding", ha="center", va="bottom", fontsize=9.5)
    lower.text(0.235, 1e-5, "resamples that lost a column", va="center", fontsize=9.5)
    lower.set_ylabel("The same,\nlabels A")
    lower.set_xlabel("Share of the 404 training rows that each student sees, drawn with replacement")
    upper.set_ylabel(f"Inter-student variance,\nmean over test points {VARIANCE_UNIT}")
    handles = [
        measured_handle("A': noisy teacher labels, redrawn", colour=VERMILLION, marker="s"),
        measured_handle("B: true labels, fixed", colour=BLUE),
        measured_handle("A: noiseless teacher labels", colour=GREEN, marker="^"),
        Line2D([], [], color=BLUE, ls="--", label="in colour: Monte Carlo"),
        Line2D([], [], color=MUTED, lw=1.2, label="in grey: closed form, first order"),
        Line2D([], [], color="none", label="bars: 95% intervals"),
    ]
    head(figure, "Students that see part of the rows", handles, columns=2)
    figure.set_label(
        "Inter-student variance against the share of rows: measured points on the Monte Carlo curves, the first-order "
        "form below them where rows are few; with noiseless labels nothing but rounding."
    )
    return settle(figure)


# ----------------------------------------------------------------------------------------------------- the run

TITLES = {
    "noise": "1. Teacher noise",
    "corrections": "2. Averaging and variance weighting",
    "bootstrap": "3. Bootstrap fractions",
}
EXPERIMENTS = {"noise": teacher_noise, "corrections": corrections, "bootstrap": bootstrap}


def run(scale: Scale, *, say: Callable[[str], None] = lambda line: None) -> dict[str, Findings]:
    """Run the three experiments."""
    boston = load_boston()
    with threadpool_limits(1):  # matrices are small: threads would only wait for each other
        return {name: experiment(boston, scale, say) for name, experiment in EXPERIMENTS.items()}


def write(found: Mapping[str, Findings], scale: Scale, out: Path) -> None:
    """Write figures, results.json and summary.md."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Linear experiments of Cui & Pei (2026), predicted and measured",
        "",
        flow(f"""Boston Housing, 404 training and 102 test rows; {scale.n_students} students in each cell;
            variances in units of Var(y_train). Every interval is a 95% interval."""),
    ]
    for name, findings in found.items():
        lines += ["", f"## {TITLES[name]}"]
        lines += [part for text in findings.text for part in ("", text)]
        for label, figure in findings.figures.items():
            figure.savefig(out / f"{label}.png", dpi=110)
            lines += ["", f"![{figure.get_label() or label}]({label}.png)"]
    (out / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    document = {
        "seed": SEED,
        "scale": asdict(scale),
        **{name: {"points": [asdict(p) for p in f.points], "facts": f.facts} for name, f in found.items()},
    }
    (out / "results.json").write_text(json.dumps(document, indent=1, default=float) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="100 students and fewer cells")
    parser.add_argument("--out", type=Path, default=Path("out/paper_linear"), help="folder for the results")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    scale = QUICK if options.quick else Scale()
    found = run(scale, say=lambda line: print(f"{time.perf_counter() - started:6.1f} s  {line}", flush=True))
    write(found, scale, options.out)
    for name, findings in found.items():
        print("", TITLES[name], *findings.text, sep="\n")
    print(f"\nwritten to {options.out} in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
