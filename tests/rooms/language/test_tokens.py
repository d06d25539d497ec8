"""Next-token laws of students, against their logits one row at a time and against the table of class predictions."""

import numpy as np
import pandas as pd
import pytest
import torch

import kdstats as kd
from kdstats.errors import ProblemError
from kdstats.observation.language import tokens as tokens_module
from kdstats.observation.language.models import load_language_model


@pytest.fixture(scope="module")
def text():
    rows = {"prompt": ["w1 w2", "w3", "w3"], "response": ["w20 w21", "w30", "w5 w6 w7"], "ended": [True, False, True]}
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def students(tiny, loaded, text, tmp_path_factory):
    student = kd.LanguageStudent(tiny, method="full", perturbation_sd=0.1, n_steps=2, batch_size=2, learning_rate=0.01)
    folder = tmp_path_factory.mktemp("students")
    return kd.train_language_students(
        student, text, n_students=4, folder=folder, sources=("student_initialization",), rng=1, loaded=loaded
    )


def laws(model, loaded, text):
    """Whole next-token laws, one row at a time, shape (positions, V)."""
    found = []
    for row in text.itertuples():
        prompt, answer = (loaded.tokenizer(part)["input_ids"] for part in (row.prompt, row.response))
        answer = answer + ([loaded.end_token()] if row.ended else [])
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        found.append(logits.double().softmax(-1).numpy())
    return np.concatenate(found)


@pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning")
def test_components_against_the_table_of_whole_laws(loaded, students, text):
    whole = np.stack([laws(students.load(number).model, loaded, text) for number in range(4)])
    found = kd.decompose_tokens(students, text, teacher=loaded, n_tokens=43, batch_size=2)  # one token is left: exact
    table = pd.DataFrame(whole.reshape(-1, whole.shape[-1]), columns=[f"p{i}" for i in range(whole.shape[-1])])
    table["student"] = np.repeat(np.arange(4), whole.shape[1])
    table["point"] = np.tile(np.arange(whole.shape[1]), 4)
    expected = kd.decompose_classes(table, classes="p*", replicate=None)
    np.testing.assert_allclose(found.classes.estimate.values, expected.estimate.values, atol=1e-6)
    measured = found.by_position
    np.testing.assert_allclose(measured["gini"], (1 - (whole**2).sum(-1)).ravel(), atol=1e-6)
    np.testing.assert_allclose(measured["entropy"], -(whole * np.log(whole)).sum(-1).ravel(), atol=1e-5)
    teacher = laws(loaded.model, loaded, text)
    divergence = (teacher * (np.log(teacher) - np.log(whole))).sum(-1)
    np.testing.assert_allclose(measured["kl_from_teacher"], divergence.ravel(), atol=1e-5)
    assert measured["token"].tolist()[:3] == [24, 25, loaded.end_token()]
    means = measured["entropy"].to_numpy().reshape(4, -1).mean(axis=1)
    row = found.averages().loc["entropy"]
    assert row["estimate"] == pytest.approx(means.mean())
    assert row["standard_error"] == pytest.approx(means.std(ddof=1) / 2)
    assert row["upper"] - row["estimate"] == pytest.approx(3.182 * means.std(ddof=1) / 2, rel=1e-3)
    assert "kl_from_teacher" in found.summary()


@pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning")
def test_the_rest_as_one_class_lowers_the_gini_index_within_its_bound(loaded, students, text):
    exact = kd.decompose_tokens(students, text, teacher=loaded, n_tokens=43)
    few = kd.decompose_tokens(students, text, teacher=loaded, n_tokens=5)
    rest = np.stack([laws(students.load(number).model, loaded, text) for number in range(4)])
    teacher = laws(loaded.model, loaded, text)
    top = np.argsort(-teacher, axis=-1)[:, :5]
    other = 1.0 - np.take_along_axis(rest, np.broadcast_to(top, (4, *top.shape)), axis=-1).sum(-1)
    loss = exact.classes.intra_student.values - few.classes.intra_student.values
    assert (loss > -1e-9).all()
    assert (loss <= (other**2).mean(axis=0) + 1e-6).all()
    assert loss.max() > 1e-4
    assert few.rest == pytest.approx(other.mean(), abs=1e-6)


@pytest.mark.filterwarnings("ignore::kdstats.errors.ApproximationWarning")
def test_batches_change_nothing(loaded, students, text):
    one, all_ = (kd.decompose_tokens(students, text, n_tokens=8, batch_size=size) for size in (1, 3))
    np.testing.assert_allclose(one.classes.estimate.values, all_.classes.estimate.values, atol=1e-6)
    assert one.by_position["kl_from_teacher"].isna().all()


def test_bad_input(tiny, loaded, students, text, tmp_path, make_model, monkeypatch):
    with pytest.raises(ProblemError, match="be at least 2 trained students"):
        kd.decompose_tokens("students", text)
    other = load_language_model(make_model(tmp_path / "other", words=["a"]))
    with pytest.raises(ProblemError, match="have the vocabulary of the student"):
        kd.decompose_tokens(students, text, teacher=other)
    monkeypatch.setattr(tokens_module, "MOST_BYTES", 1000)
    with pytest.raises(ProblemError, match="need at most"):
        kd.decompose_tokens(students, text)
