"""The report: what goes on the page, and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdstats.components.result import VarianceComponents
from kdstats.errors import StudyError, invalid
from kdstats.files import write_atomically
from kdstats.problem.validation import as_probability
from kdstats.report.drawing import Illustration, as_illustrations, inline_svg
from kdstats.report.formatting import count, percent
from kdstats.report.tables import average_table, engine_table, point_table, provenance_table, table_of_tests
from kdstats.report.wording import notes, word_verdict

__all__ = ["Report", "render_report", "write_report"]

#: A problem whose text is longer is named by its fingerprint only.
MAX_PROBLEM_TEXT = 500_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Everything that one page shows.

    Parameters
    ----------
    title : str
        Heading of the page.
    predicted, observed : VarianceComponents, optional
        At least one; a grid gets one row per cell.
    comparison : Comparison, optional
        Verdict on ``predicted`` against ``observed``.
    engines : mapping of str to VarianceComponents, optional
        Every result of the study by name; two or more get a table of their own.
    comparisons : mapping of str to Comparison, optional
        Verdicts by the names of ``engines``.
    figures : sequence of Figure or Illustration, or mapping from title to Figure
        See :func:`kdstats.report.drawing.as_illustrations`.
    facts : mapping of str to str, optional
        What else a reader needs to repeat the page, shown beside the provenance of the numbers.
    problem : DistillationProblem, optional
        Its text and fingerprint go on the page.
    unit : str, optional
        Unit of the outputs.
    prob : float, default 0.95
        Coverage of the intervals.
    created : datetime, optional
        Time printed at the foot; default now. The same report with the same ``created`` is the same
        text to the byte.

    Raises
    ------
    StudyError
        If there is no result to report, or a figure is none.
    """

    title: str
    predicted: VarianceComponents | None = None
    observed: VarianceComponents | None = None
    comparison: Any = None
    engines: Mapping[str, VarianceComponents] = field(default_factory=dict)
    comparisons: Mapping[str, Any] = field(default_factory=dict)
    figures: tuple[Illustration, ...] | Mapping[str, Any] | Sequence[Any] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    problem: Any = None
    unit: str | None = None
    prob: float = 0.95
    created: datetime | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.title, str) or not self.title.strip():
            raise invalid("title", "be text", self.title, StudyError)
        for name in ("predicted", "observed"):
            if not isinstance(getattr(self, name), VarianceComponents | None):
                raise invalid(name, "be VarianceComponents", f"a {type(getattr(self, name)).__name__}", StudyError)
        if self.predicted is None and self.observed is None:
            raise invalid("predicted", "be given where `observed` is not", self.predicted, StudyError)
        object.__setattr__(self, "figures", as_illustrations(self.figures))
        object.__setattr__(self, "prob", as_probability("prob", self.prob))
        moment = self.created if self.created is not None else datetime.now(UTC)
        object.__setattr__(self, "created", moment.astimezone(UTC))


def write_report(
    path: str | Path,
    *,
    title: str,
    predicted: VarianceComponents | None = None,
    observed: VarianceComponents | None = None,
    comparison: Any = None,
    engines: Mapping[str, VarianceComponents] | None = None,
    comparisons: Mapping[str, Any] | None = None,
    figures: Mapping[str, Any] | Sequence[Any] = (),
    facts: Mapping[str, str] | None = None,
    problem: Any = None,
    unit: str | None = None,
    prob: float = 0.95,
    created: datetime | None = None,
) -> Path:
    """Write a self-contained HTML report, whole or not at all.

    Parameters
    ----------
    path : str or Path
        File to write; its folder is made where it does not exist.
    title, predicted, observed, comparison, engines, comparisons, figures, facts, problem, unit, prob, created
        See :class:`Report`.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    StudyError
        If the file cannot be written, or there is nothing to report.
    """
    report = Report(
        title=title,
        predicted=predicted,
        observed=observed,
        comparison=comparison,
        engines=engines or {},
        comparisons=comparisons or {},
        figures=figures,
        facts=facts or {},
        problem=problem,
        unit=unit,
        prob=prob,
        created=created,
    )
    target = Path(path)
    write_atomically(target, render_report(report))
    return target


def render_report(report: Report) -> str:
    """Return the page as HTML text: no script, no external resource, readable without a network."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kdstats.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    unit = "squared output units" if report.unit is None else f"squared {report.unit}"
    drawings = [
        {"title": each.title, "caption": each.caption, "svg": Markup(inline_svg(each, identity=f"figure-{position}"))}
        for position, each in enumerate(as_illustrations(report.figures), 1)
    ]
    assert report.created is not None
    return environment.get_template("report.html.j2").render(
        title=report.title,
        verdict=word_verdict(report.comparison, report.comparisons),
        notes=notes(report.predicted, report.observed),
        averages=average_table(report.predicted, report.observed, unit=unit, prob=report.prob),
        engines=engine_table(report.engines, report.comparisons, unit=unit),
        points=point_table(report.predicted, report.observed, unit=unit, prob=report.prob),
        tests=None if report.comparison is None else table_of_tests(report.comparison),
        tests_text=None if report.comparison is None else str(report.comparison.summary()),
        provenance=provenance_table(report.predicted, report.observed, facts=_facts(report)),
        figures=drawings,
        problem_text=_problem_text(report.problem),
        coverage=percent(report.prob),
        created=report.created,
    )


def _facts(report: Report) -> dict[str, str]:
    found = dict(report.facts)
    if report.problem is not None:
        found["SHA-256 of the problem below"] = str(report.problem.fingerprint())
    return found


def _problem_text(problem: Any) -> str | None:
    if problem is None:
        return None
    text = str(problem.to_toml())
    if len(text) <= MAX_PROBLEM_TEXT:
        return text
    return f"# {count(len(text))} characters of TOML, too long for this page. SHA-256: {problem.fingerprint()}"
