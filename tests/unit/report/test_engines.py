from kdstats.hypotest import compare
from kdstats.observation.linear import observe
from kdstats.report.formatting import MISSING, number
from kdstats.report.tables import engine_table


def test_every_engine_has_its_averages_and_its_own_verdict(problem, predicted, observed, everything, render):
    few = observe(problem, n_students=4, rng=1)
    engines = {"closed form": predicted, "many": observed, "few": few}
    comparisons = {name: compare(predicted, engines[name]) for name in ("many", "few")}
    table = engine_table(engines, comparisons, unit="squared units")
    rows = {row[0]: row for row in table.rows}
    assert rows["closed form"][3] == number(predicted.average().inter_student.item())
    assert rows["closed form"][-1] == MISSING
    assert rows["many"][-1] == "agree"
    assert rows["few"][-1] == "undecided"
    assert rows["few"][2] == "4"
    page = render(**everything, engines=engines, comparisons=comparisons)
    assert table.caption.split(":")[0] in page.said


def test_one_engine_needs_no_table(predicted):
    assert engine_table({"closed form": predicted}, {}, unit="squared units") is None
