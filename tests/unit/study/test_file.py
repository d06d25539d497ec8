import dataclasses

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import StudyError
from kdstats.study import Study, load_dataset
from kdstats.study.file import WeightingTable


def test_scaler_is_fitted_to_the_training_rows_alone(study):
    problem = study.setting().problem
    np.testing.assert_allclose(problem.teacher.X.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(problem.teacher.X.std(axis=0), 1.0)
    assert np.abs(problem.X_query.mean(axis=0)).max() > 1e-3  # the query rows keep their own mean


def test_query_rows_keep_their_number_and_their_truth(study):
    setting = study.setting()
    rows = [int(label.removeprefix("row ")) for label in setting.problem.point_labels]
    np.testing.assert_array_equal(setting.target, load_dataset("diabetes").target[rows])
    assert len(rows) == 20


def test_noise_fraction_is_a_share_of_the_training_targets_variance(changed):
    full = Study(changed("data.test_fraction", 0.0)).setting()
    expected = 0.5 * load_dataset("diabetes").target.var()
    assert float(full.problem.teacher.noise_variance) == pytest.approx(expected)


def test_text_form_reads_back_the_same(study, tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(study.to_toml())
    again = Study.from_toml(path)
    assert again.as_dict() == study.as_dict()
    assert again.setting().problem.fingerprint() == study.setting().problem.fingerprint()


def test_how_responses_are_weighted_has_a_table(tmp_path):
    document = {"data": {"dataset": "diabetes"}, "teacher": {"noise_fraction": 0.5}, "student": {"kind": "network"}}
    design = {"n_responses": 4, "strategy": "variance_weighting", "weighting": {"weight": "pooled"}}
    weighting = Study({**document, "design": design}).setting().problem.design.weighting
    assert (weighting.weight, weighting.student_estimate) == ("pooled", "pilot")
    assert set(WeightingTable.model_fields) == {f.name for f in dataclasses.fields(weighting)} - {"student_variance"}
    number = Study({**document, "design": {**design, "weighting": {"weight": 0.25}}}).setting().problem
    assert float(number.design.weighting.weight) == 0.25
    path = tmp_path / "study.toml"
    path.write_text(Study({**document, "design": design}).to_toml())
    assert Study.from_toml(path).setting().problem.design.weighting.weight == "pooled"
    with pytest.raises(kd.errors.ProblemError, match="`weight` must be one of"):
        Study({**document, "design": {**design, "weighting": {"weight": "guessed"}}}).setting()


def test_every_option_of_a_network_student_has_a_key(tmp_path):
    options = {
        "hidden": [6, 5],
        "head": "gaussian",
        "activation": "erf",
        "optimizer": "sgd",
        "momentum": 0.5,
        "weight_decay": 0.01,
        "dropout": 0.1,
        "learning_rate": 0.02,
        "epochs": 30,
        "batch_size": 16,
        "early_stopping": {"patience": 4, "held_out": 0.25, "min_improvement": 0.001, "split_seed": 3},
        "parameterization": "ntk",
        "weight_variance": 1.5,
        "bias_variance": 0.1,
        "perturbation_sd": 0.05,
    }
    missing = {field.name for field in dataclasses.fields(kd.NetworkStudent)} - set(options)
    assert missing == {"module"}
    document = {"data": {"dataset": "diabetes"}, "teacher": {"noise_fraction": 0.5}}
    problem = Study({**document, "student": {"kind": "network", **options}}).setting().problem
    stopping = kd.EarlyStopping(**options.pop("early_stopping"))
    assert problem.student == kd.NetworkStudent(early_stopping=stopping, **options)
    (tmp_path / "problem.toml").write_text(problem.to_toml())
    assert kd.DistillationProblem.from_toml(tmp_path / "problem.toml").student == problem.student


def test_csv_is_found_beside_the_study_file(tmp_path):
    (tmp_path / "mine.csv").write_text("x,m\n" + "\n".join(f"{i},{2 * i}" for i in range(12)))
    (tmp_path / "study.toml").write_text(
        '[data]\ncsv = "mine.csv"\nteacher_mean = "m"\ntest_fraction = 0.25\n[teacher]\nnoise_variance = 1.5\n'
    )
    problem = Study.from_toml(tmp_path / "study.toml").setting().problem
    assert problem.teacher.n_inputs == 9
    assert problem.n_points == 3


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("run.n_student", 5, "got 'n_student', which is none; did you mean 'n_students'"),
        ("colour", "red", "`colour` must be a known key; got 'colour', which is none .there are title, data"),
        ("student.neurons", 4, "`student.neurons` must be a known key; .* .there are kind, penalty"),
        ("run.n_students", 1, "`run.n_students`: input should be greater than or equal to 2; got 1"),
        ("run.n_students", 2.5, "`run.n_students`: .* integer; got 2.5"),
        ("run.seed", -1, "`run.seed`"),
        ("run.confidence_level", 1.0, "`run.confidence_level`"),
        ("data.csv", "x.csv", "`data` needs either dataset"),
        ("data.test_fraction", 1.0, "`data.test_fraction`"),
        ("teacher.noise_variance", 1.0, "`teacher` takes noise_variance or noise_fraction"),
        ("teacher.noise_fraction", -0.1, "`teacher.noise_fraction`"),
        ("student.hidden", [4], "`student.hidden` must be a known key; got 'hidden'"),
        ("student.kind", "cubic", "`student` 'cubic' found using 'kind'"),
        ("student.training", {"n_steps": 5}, "`student.training.learning_rate` must be given"),
    ],
)
def test_bad_files_name_the_key_in_one_line(changed, path, value, message):
    with pytest.raises(StudyError, match=message) as caught:
        Study(changed(path, value))
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_one_line(tmp_path):
    with pytest.raises(StudyError, match="No such file"):
        Study.from_toml(tmp_path / "none.toml")
    path = tmp_path / "broken.toml"
    path.write_text("a = [1,")
    with pytest.raises(StudyError, match="`study` must be valid TOML"):
        Study.from_toml(path)
