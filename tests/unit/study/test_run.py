import numpy as np
import pytest

from kdstats.cli.presentation import study_text
from kdstats.errors import KdstatsError
from kdstats.study import Study, run_study
from kdstats.study.document import study_figures, write_report


@pytest.fixture(scope="module")
def finished(document, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return run_study(Study(document), out=folder), document, folder


def test_everything_asked_for_is_there(finished):
    result, _, folder = finished
    assert set(result.observed) == {"linear", "networks"} == set(result.comparisons)
    assert result.predicted.exactness == "exact"
    assert result.simulated.n_students == 1000
    assert list(result.by_responses.observed) == [1, 4]
    assert result.by_responses.rate is not None
    assert result.mse_law is not None
    assert {path.name for path in folder.glob("*.nc")} >= {"closed_form.nc", "monte_carlo.nc", "observed_linear.nc"}


def test_engines_and_cells_have_students_of_their_own(finished):
    result, _, _ = finished
    runs = [*result.observed.values(), *result.by_responses.observed.values(), *result.by_noise.observed.values()]
    seeds = {run.attrs["seed"]["teacher_output"] for run in runs}
    assert len(seeds) == len(runs)


def test_an_interrupted_study_ends_with_the_same_numbers(finished, tmp_path):
    result, document, _ = finished
    study = Study(document)
    said = []

    def interrupt(text, *_):
        said.append(text)
        if "networks" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, out=tmp_path, say=interrupt)
    told = []
    resumed = run_study(study, out=tmp_path, say=lambda text, *_: told.append(text))
    assert not any("(linear)" in text and " at " not in text for text in told)  # taken from the folder, not trained
    assert resumed.reused == ["closed_form", "monte_carlo", "observed_linear"]
    for name, observed in result.observed.items():
        np.testing.assert_array_equal(resumed.observed[name].estimate.to_array(), observed.estimate.to_array())


def test_the_worst_engine_decides_the_verdict(finished):
    result, _, _ = finished
    verdicts = {comparison.verdict for comparison in result.comparisons.values()}
    assert result.verdict == next(v for v in ("disagree", "undecided", "agree") if v in verdicts)


def test_report_has_a_picture_of_each_finding(finished, tmp_path):
    result, _, _ = finished
    assert len(study_figures(result)) == 6
    page = write_report(result, tmp_path / "report.html").read_text()
    assert page.count("<svg") == 6


def networks(**student):
    return {
        "data": {"dataset": "diabetes", "max_points": 5},
        "teacher": {"noise_fraction": 0.5},
        "student": {"kind": "network", "hidden": [4], "epochs": 5, **student},
        "run": {"n_students": 200},
    }


@pytest.mark.parametrize("sources", [None, ["teacher_output", "student_output"]])
def test_network_students_are_predicted_and_compared(sources, tmp_path):
    document = networks()
    document["run"] |= {"sweep_responses": [1, 4], "sweep_noise": [0.5, 2.0], "sweep_students": 60}
    if sources is not None:
        document["design"] = {"sources": sources}
    result = run_study(Study(document))
    assert result.predicted.engine == "linear_response"
    assert result.comparisons["networks"].verdict == "agree"
    assert result.by_responses.predicted.inter_student.sizes["n_responses"] == 2 == len(result.by_noise.observed)
    for sweep in (result.by_responses, result.by_noise):
        for index, run in enumerate(sweep.observed.values()):
            ratio = float(run.inter_student.mean()) / float(sweep.predicted.inter_student[index].mean())
            assert 0.5 < ratio < 2.0  # 60 students of a common start know it to a quarter: z = 3 and more
    assert ("first weights add" in study_text(result, tmp_path)) == (sources is None)
    page = write_report(result, tmp_path / "report.html").read_text()
    assert "linear response" in page
    assert "closed form" not in page.lower()


def test_networks_that_no_theory_covers_are_observed_without_a_prediction():
    said = []
    document = networks(batch_size=32)
    result = run_study(Study(document), say=lambda text, *_: said.append(text))
    assert list(result.observed) == ["networks"]
    assert result.predicted is None
    assert result.comparisons == {}
    assert any("no prediction: linear response covers full-batch steps" in text for text in said)
    document["run"]["observe"] = ["linear"]
    with pytest.raises(KdstatsError, match=r"`run.observe` must be \['networks'\] for a network student"):
        run_study(Study(document))
