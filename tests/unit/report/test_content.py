import warnings

import numpy as np
import pytest

from kdstats.components.estimation import estimate_components
from kdstats.errors import NegativeComponentWarning, StudyError
from kdstats.hypotest import compare
from kdstats.observation.linear import observe
from kdstats.prediction.closed_form import predict_grid
from kdstats.prediction.closed_form.engine import predict
from kdstats.prediction.monte_carlo import predict as monte_carlo
from kdstats.report import Illustration, Report, render_report
from kdstats.report.formatting import interval, number
from kdstats.report.tables import MAX_POINTS, average_table, point_table, provenance_table, table_of_tests
from kdstats.report.wording import word_verdict
from kdstats.streams import Seeds


def test_agreement_is_said_first(everything, render):
    assert everything["comparison"].verdict == "agree"
    page = render(**everything)
    headings = [place for place, (tag, _, _) in enumerate(page.tags) if tag == "h2"]
    assert page.tags[headings[0]][1]["id"] == "verdict"
    assert "Prediction and observation agree" in page.said
    assert f"is {number(everything['comparison'].ratio)} times the predicted one" in page.said


def test_disagreement_is_said(problem, observed):
    wrong = compare(predict(problem.with_teacher(noise_variance=4.0)), observed)
    words = word_verdict(wrong)
    assert words.kind == "disagree"
    assert "disagree" in words.headline
    assert any(wrong.reason in sentence for sentence in words.sentences)


def test_the_verdict_says_whose_students_it_is_about(problem, predicted, observed):
    few = compare(predicted, observe(problem, n_students=4, rng=1))
    several = {"linear": compare(predicted, observed), "networks": few}
    said = " ".join(word_verdict(few, several).sentences)
    assert "This is about the students of engine networks." in said
    assert "Students of engine linear: agree, ratio" in said
    assert "engine" not in " ".join(word_verdict(few, {"networks": few}).sentences)


def test_undecided_says_how_many_students_would_decide(problem, predicted):
    few = compare(predicted, observe(problem, n_students=4, rng=1))
    assert few.verdict == "undecided"
    said = " ".join(word_verdict(few).sentences)
    assert f"About {few.n_students_needed} students would decide it (4 were trained)" in said


def test_when_no_number_would_decide_the_page_says_so():
    endless = type("Endless", (), {"verdict": "undecided", "n_students_needed": None})()
    assert "More students alone would not decide it." in word_verdict(endless).sentences


def test_without_a_comparison_nothing_is_claimed(predicted, render):
    page = render(title="Only a prediction", predicted=predicted)
    assert "Nothing was compared" in page.said
    assert "agree" not in page.said.lower().replace("disagree", "")
    assert not page.all("svg")


def test_averages_carry_errors_and_intervals(predicted, observed):
    table = average_table(predicted, observed, unit="K", prob=0.9)
    assert table.columns == (
        "Variance", "Predicted (exact)", "Observed", "Standard error", "90% interval", "Observed / predicted"
    )  # fmt: skip
    average, row = observed.average(), dict(zip(table.columns, table.rows[0], strict=True))
    assert row["Variance"] == "Inter-student"
    assert row["Predicted (exact)"] == number(predicted.inter_student.mean())
    assert row["Observed"] == number(average.inter_student.item())
    assert row["Standard error"] == number(average.standard_error["inter_student"].item())
    assert row["90% interval"] == interval(*average.interval(0.9)["inter_student"].values.ravel())
    assert row["Observed / predicted"] == number(average.inter_student.item() / predicted.inter_student.mean().item())


def test_a_grid_has_a_row_per_cell(problem):
    grid = predict_grid(problem, noise_variance=[1.0, 2.0], n_responses=[1, 3])
    table = average_table(grid, None, unit="K", prob=0.95)
    assert len(table.rows) == 12
    assert table.rows[3][0] == "noise_variance 1, n_responses 3, Inter-student"
    cell = grid.inter_student.sel(noise_variance=1.0, n_responses=3).mean().item()
    assert table.rows[3][1] == number(cell)
    assert point_table(grid, None, unit="K", prob=0.95) is None


def test_points_keep_their_labels(problem, predicted, observed):
    table = point_table(predicted, observed, unit="K", prob=0.95)
    assert [row[0] for row in table.rows] == [str(label) for label in problem.point_labels]
    assert table.rows[2][1] == number(predicted.inter_student.values[2, 0])
    assert table.rows[2][4] == interval(*observed.interval()["inter_student"].values[2, 0])


def test_a_long_list_of_points_says_what_it_leaves_out():
    many = estimate_components(np.random.default_rng(0).normal(size=(3, 1, MAX_POINTS + 5)), variances=0.0)
    table = point_table(None, many, unit="K", prob=0.95)
    assert len(table.rows) == MAX_POINTS
    assert f"the first {MAX_POINTS} of {MAX_POINTS + 5} points" in table.caption


def test_every_test_has_a_row(comparison):
    table = table_of_tests(comparison)
    assert len(table.rows) == len(comparison.tests)
    equality = comparison.tests["equality"]
    assert table.rows[0][:4] == (
        "Equality of the average", number(equality.statistic), number(equality.df), f"{equality.pvalue:.4f}"
    )  # fmt: skip


def test_provenance_has_engines_versions_and_the_problem(everything, problem):
    table = provenance_table(everything["predicted"], everything["observed"], facts={})
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["Engine"] == ("closed_form", "linear")
    assert rows["Exactness"] == ("exact", "observed")
    assert rows["Students"][1] == "150"
    assert all("numpy" in cell for cell in rows["Versions"])
    assert "Wall time (seconds)" in rows
    assert rows["Seed"][1] == "1"


def test_seeds_that_differ_are_all_told(problem):
    seeds = Seeds(teacher_output=3, student_initialization=4, data_order=5, data_resampling=6, student_output=7)
    simulated = monte_carlo(problem, n_students=50, rng=seeds)
    rows = {row[0]: row[1] for row in provenance_table(simulated, None, facts={}).rows}
    assert "teacher_output 3" in rows["Seed"]
    assert "student_output 7" in rows["Seed"]


def test_the_problem_is_on_the_page_and_reads_back(everything, render, problem):
    page = render(**everything)
    text = next(word for word in page.words if word.startswith("[teacher]"))
    assert type(problem).from_toml(text).fingerprint() == problem.fingerprint()


def test_a_problem_too_long_is_named_by_its_fingerprint(everything, render, monkeypatch):
    monkeypatch.setattr("kdstats.report.document.MAX_PROBLEM_TEXT", 10)
    page = render(**everything)
    assert "too long for this page" in page.said
    assert everything["problem"].fingerprint() in page.said


def test_negative_components_are_explained(render):
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegativeComponentWarning)
        seen = estimate_components(rng.normal(size=(10, 2, 4)))
    assert (seen.inter_student < 0).any()
    assert "keeps its sign" in render(title="Negative", observed=seen).said


def test_illustrations_say_what_they_are_told(everything, render):
    figure = everything["figures"]["Plain"]
    everything["figures"] = [Illustration(figure=figure, title="Mine", caption="What it shows.")]
    page = render(**everything)
    assert page.all("svg")[0]["aria-label"] == "Mine"
    assert "What it shows." in page.said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": ""}, "`title`"),
        ({"predicted": None, "observed": None}, "`predicted`"),
        ({"predicted": 3}, "`predicted` must be VarianceComponents"),
        ({"figures": [3]}, "`figures`"),
    ],
)
def test_what_cannot_be_reported_is_named(everything, change, message):
    with pytest.raises(StudyError, match=message):
        Report(**{**everything, **change})


def test_the_report_can_be_rendered_twice_from_one_object(everything):
    report = Report(**everything)
    assert render_report(report) == render_report(report)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.25, "0.25"),
        (-0.25, "\N{MINUS SIGN}0.25"),
        (12345.678, "1.235\N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT FOUR}"),
        (3.2e-7, "3.2\N{MULTIPLICATION SIGN}10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT SEVEN}"),
        (np.nan, "\N{EN DASH}"),
        (-np.inf, "\N{EN DASH}"),
        (None, "\N{EN DASH}"),
    ],
)
def test_numbers_read_as_written(value, shown):
    assert number(value) == shown
