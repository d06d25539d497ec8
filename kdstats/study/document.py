"""The report of a study: which pictures belong to what was found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kdstats import plots
from kdstats.hypotest import student_mse
from kdstats.report import write_report as write_page
from kdstats.study.run import StudyResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["study_figures", "write_report"]


def write_report(result: StudyResult, path: Path) -> Path:
    """Write the study's self-contained HTML report."""
    engine = _decisive_engine(result)
    named = {_prediction_name(result): result.predicted, "Monte Carlo": result.simulated, **result.observed}
    return write_page(
        path,
        title=result.study.title,
        predicted=result.predicted,
        observed=result.observed[engine],
        comparison=result.comparisons.get(engine),
        engines={name: components for name, components in named.items() if components is not None},
        comparisons=result.comparisons,
        figures=study_figures(result),
        facts={"Seed of the study": f"{result.study.run.seed}; each part's own seed, above, derives from it"},
        problem=result.problem,
        unit=result.setting.unit or None,
        prob=result.study.run.confidence_level,
    )


def _decisive_engine(result: StudyResult) -> str:
    """The first engine with the study's verdict, which is the worst one."""
    deciding = (name for name, comparison in result.comparisons.items() if comparison.verdict == result.verdict)
    return next(deciding, next(iter(result.observed)))


def study_figures(result: StudyResult) -> dict[str, Figure]:
    """Return the pictures of a study by title, in the order they are read."""
    unit, prob = result.setting.unit or None, result.study.run.confidence_level
    figures: dict[str, Figure] = {}
    first = next(iter(result.observed.values()))
    for engine, observed in result.observed.items():
        if result.predicted is not None:
            title = f"Predicted against observed, per query point: students of engine {engine}"
            figures[title] = plots.predicted_against_observed(result.predicted, observed, unit=unit, prob=prob)
    figures["How the estimate settles with more students"] = plots.convergence(
        first, predicted=result.predicted, unit=unit, prob=prob
    )
    if result.by_responses is not None:
        figures["What more responses per input change"] = plots.components_against_responses(
            result.by_responses.predicted, result.by_responses.observed, unit=unit, prob=prob
        )
    if result.by_noise is not None:
        figures["What a noisier teacher changes"] = plots.components_against_noise(
            result.by_noise.predicted, result.by_noise.observed, unit=unit, prob=prob
        )
    if result.mse_law is not None:
        figures["Test error of one student: predicted law and observed students"] = plots.mse_distribution(
            result.mse_law, student_mse(first, result.setting.target), unit=unit, prob=prob
        )
    return figures


def _prediction_name(result: StudyResult) -> str:
    """Name what a study was predicted by."""
    network = result.predicted is not None and result.predicted.engine == "linear_response"
    return "linear response" if network else "closed form"
