"""Answers of one token: the law is the model's own, and transformers that memorise k of them follow the tabular law."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import kdstats as kd
from kdstats.errors import ProblemError
from kdstats.observation.language.answers import single_token_answers
from kdstats.observation.language.models import load_language_model

EXAMPLE = Path(__file__).parents[3] / "examples" / "language_single_token.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("language_single_token", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def painter(example, make_model, tmp_path_factory):
    """The folder of a random model that knows the words."""
    words = ["The", "color", "of", "the", "is", *example.KINDS, *example.THINGS, *example.COLORS]
    return make_model(tmp_path_factory.mktemp("painter") / "painter", words=words)


def test_the_law_is_the_models_own(painter, example):
    loaded = load_language_model(painter)
    prompts = ["The color of the wet dog is", "The dog"]
    found = single_token_answers(loaded, prompts, answers=list(example.COLORS))
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            logits = loaded.model(torch.tensor([loaded.tokenizer(prompt)["input_ids"]])).logits[0, -1].double()
        law = logits.softmax(-1)[[loaded.tokenizer(color)["input_ids"][0] for color in example.COLORS]].numpy()
        np.testing.assert_allclose(found.teacher.probabilities[row], law / law.sum(), atol=1e-6)
        assert found.mass[row] == pytest.approx(law.sum(), abs=1e-6)
    with pytest.raises(ProblemError, match="have one token each; got 'dark red' with 2"):
        single_token_answers(loaded, prompts, answers=["dark red", "blue"])
    with pytest.raises(ProblemError, match="be at least two different tokens"):
        single_token_answers(loaded, prompts, answers=["red", "red"])


def test_the_example_runs(example, painter, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example, "RESPONSES", (1, 2))
    assert example.main(["--quick", "--model", str(painter), "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "single_token.csv")
    assert table.groupby(["student", "k"]).size().tolist() == [3] * 4
    parts = table.pivot_table(index=["student", "k"], columns="component", values="observed")
    np.testing.assert_allclose(parts["inter_student"] + parts["intra_student"], parts["total"])
    assert set(table[table["component"] == "inter_student"]["law"]) == {"departs"}  # so few steps memorise nothing
    assert "effective number of responses" in capsys.readouterr().out


@pytest.mark.slow
def test_transformers_that_memorise_follow_the_tabular_law(example, painter):
    teacher, _ = example.teacher_of(load_language_model(painter))
    for k in (2, 5):
        rows = pd.DataFrame(
            example.measure(teacher, "memorises", k=k, n_students=40, seed=3, share=1.0)[0],
            columns=list(example.COLUMNS),
        ).set_index("component")
        for name in ("inter_student", "total"):
            row = rows.loc[name]
            error = (row["upper"] - row["lower"]) / (2 * 2.02)  # an interval is about two standard errors each way
            assert abs(row["observed"] - row["predicted"]) < 4 * error + 0.01 * row["predicted"]
        halved = rows.loc["inter_student", "predicted"] / 1.5  # the test would notice another rate
        assert rows.loc["inter_student", "lower"] > halved


@pytest.mark.slow
def test_students_of_the_language_room_follow_it_too(make_model, tmp_path):
    """Whole language models, trained on sampled answers of one token and their end, each to prompts of its own."""
    folder = make_model(tmp_path / "model", seed=3)
    loaded = load_language_model(folder)
    prompts, answers = [f"w{i} w{i}" for i in range(8)], [f"w{i}" for i in range(30, 36)]
    teacher = single_token_answers(loaded, prompts, answers=answers).teacher
    k, n_students = 2, 30
    rng = np.random.default_rng(5)
    table = pd.DataFrame(
        [
            {"prompt": prompt, "response_index": number, "response": rng.choice(answers, p=law), "ended": True}
            for prompt, law in zip(prompts, teacher.probabilities, strict=True)
            for number in range(k * n_students)
        ]
    )
    student = kd.LanguageStudent(folder, method="full", n_steps=120, batch_size=16, learning_rate=0.01)
    made = kd.train_language_students(
        student, table, n_students=n_students, n_responses=k, folder=tmp_path / "students", rng=1, loaded=loaded,
        sources=("teacher_output", "data_order"), checkpoint_steps=120,
    )  # fmt: skip
    text = pd.DataFrame({"prompt": prompts, "response": answers[0], "ended": False})
    found = kd.decompose_tokens(made, text, n_tokens=43).classes.average()
    bounds, gini = found.interval(), float(teacher.gini.mean())
    for name, predicted in (("inter_student", gini / k), ("intra_student", gini * (1 - 1 / k)), ("total", gini)):
        value = float(found.estimate.sel(component=name).item())
        error = float(np.ptp(bounds.sel(component=name).values)) / (2 * 2.05)
        assert abs(value - predicted) < 4 * error + 0.02 * gini, (name, value, predicted)
    assert float(bounds.sel(component="inter_student", ci_bound="upper").item()) < 0.9 * gini  # not the law of k = 1
