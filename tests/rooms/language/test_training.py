"""Students of a tiny model: what they learn, that they resume, and what is refused."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import kdstats as kd
from kdstats.errors import DataError, DivergedStudentError, DuplicateStudentsError, ProblemError, StudyError
from kdstats.observation.language import training
from kdstats.observation.language.layers import Base, without_middle_layers
from kdstats.observation.language.models import load_language_model
from kdstats.observation.language.rows import answer_logits, encode_rows, joined
from kdstats.observation.language.sampling import truncated_law
from kdstats.streams import as_seeds

PROMPTS = ["w1 w2", "w3", "w4 w5 w6"]


@pytest.fixture(scope="module")
def answers():
    """Four answers to each prompt, some cut."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": prompt,
            "response_index": k,
            "response": " ".join(f"w{i}" for i in rng.integers(20, 40, 3)),
            "ended": k != 1,
        }
        for prompt in PROMPTS
        for k in range(4)
    ]
    return pd.DataFrame(rows)


def student(tiny, **options):
    return kd.LanguageStudent(tiny, **{"n_steps": 6, "batch_size": 4, "learning_rate": 0.01} | options)


def train(tiny, loaded, answers, folder, *, n_students=2, rng=1, options=None, **others):
    return kd.train_language_students(
        student(tiny, **options or {}), answers, n_students=n_students, folder=folder, rng=rng, loaded=loaded, **others
    )


def parameters(made):
    made_parameters = []
    for number in range(made.n_students):
        made.load(number)
        made_parameters.append(torch.cat([value.detach().flatten() for value in made.base.trained.values()]).numpy())
    return np.stack(made_parameters)


def test_a_row_has_the_end_only_where_the_answer_ended(tiny, loaded, answers):
    rows = encode_rows(answers, loaded, student(tiny))
    ends = [row.tokens[-1] == loaded.end_token() for row in rows]
    assert ends == answers["ended"].tolist()
    assert [row.n_answer for row in rows] == [4 if end else 3 for end in ends]
    batch = joined(rows[:2])
    assert batch.targets[0].tolist() == rows[0].tokens[-4:]
    assert batch.targets[1].tolist() == [-100, *rows[1].tokens[-3:]]


def test_the_loss_is_that_of_the_answers_alone(loaded, tiny, answers):
    rows = encode_rows(answers[:5], loaded, student(tiny))
    batch = joined(rows)
    logits, at = answer_logits(loaded.model, batch), batch.targets >= 0
    expected = []
    for row in rows:
        whole = loaded.model(torch.tensor([row.tokens])).logits[0].log_softmax(-1)
        places = range(len(row.tokens) - row.n_answer, len(row.tokens))
        expected += [-float(whole[place - 1, row.tokens[place]]) for place in places]
    found = torch.nn.functional.cross_entropy(logits[at], batch.targets[at])
    assert float(found) == pytest.approx(np.mean(expected), abs=1e-5)


@pytest.mark.parametrize("method", ["adapter", "full"])
def test_students_learn_their_answers_and_differ(tiny, loaded, answers, tmp_path, method):
    options = {"method": method, "n_steps": 60, "learning_rate": 0.02 if method == "adapter" else 0.01}
    made = train(tiny, loaded, answers[answers["response_index"] != 1], tmp_path, options=options, n_responses=1,
                 sources=("student_initialization", "data_order"))  # fmt: skip
    first = answers[answers["response_index"] == 0]
    told = made.sample(first["prompt"].tolist(), sampling=kd.LanguageSampling(temperature=0.0, max_new_tokens=6))
    assert set(told["source"]) == {"student"}
    assert told["student"].tolist() == [0, 0, 0, 1, 1, 1]
    for number in range(2):
        part = told[told["student"] == number]
        assert part["response"].tolist() == first["response"].tolist()
        assert part["ended"].all()
    found = parameters(made)
    assert np.abs(found[0] - found[1]).max() > 1e-4
    assert "60 steps on 4 rows, 240 rows" in made.summary()


def test_answers_are_shared_out_or_named(tiny, loaded, answers, tmp_path):
    both = train(tiny, loaded, answers, tmp_path / "a", n_responses=2, sources=("teacher_output",))
    named = answers.assign(student=answers["response_index"] // 2)
    again = train(tiny, loaded, named, tmp_path / "b", sources=("teacher_output",))
    np.testing.assert_array_equal(parameters(both), parameters(again))
    with pytest.raises(DataError, match="have 6 answers to each prompt, 3 for each of 2 students; got 4 to one"):
        train(tiny, loaded, answers, tmp_path / "c", n_responses=3)
    with pytest.raises(DataError, match="have rows of all 3 students; got none of 2"):
        train(tiny, loaded, named, tmp_path / "c", n_students=3)


def test_sources_are_apart(tiny, loaded, answers, tmp_path):
    """Each source moves what it should, and holding it leaves the rest as it was."""
    runs = {
        name: parameters(train(tiny, loaded, answers, tmp_path / name, n_responses=2, sources=(name,)))
        for name in ("teacher_output", "student_initialization", "data_order")
    }
    for name, found in runs.items():
        assert np.abs(found[0] - found[1]).max() > 1e-5, name
    for other in ("student_initialization", "data_order"):
        np.testing.assert_array_equal(runs["teacher_output"][0], runs[other][0])
        assert np.abs(runs["teacher_output"][1] - runs[other][1]).max() > 1e-5
    seeds = as_seeds(1)
    moved = parameters(
        train(
            tiny,
            loaded,
            answers,
            tmp_path / "x",
            n_responses=2,
            sources=("teacher_output",),
            rng=seeds.with_seed(data_order=2),
        )
    )
    assert np.abs(moved - runs["teacher_output"]).max() > 1e-5


def test_relative_noise_of_the_first_weights(tiny, loaded):
    base = Base(loaded, student(tiny, method="full", perturbation_sd=0.1))
    name = "model.layers.0.mlp.up_proj.weight"
    draws = []
    for number in range(2):
        base.start(as_seeds(3), number)
        draws.append((base.trained[name] / loaded.model.get_parameter(name) - 1).detach().numpy().ravel())
    n = draws[0].size
    for draw in draws:  # a sample sd has standard error sd/sqrt(2n)
        assert abs(draw.std() - 0.1) < 4 * 0.1 / np.sqrt(2 * n)
        assert abs(draw.mean()) < 4 * 0.1 / np.sqrt(n)
    assert abs(np.corrcoef(draws)[0, 1]) < 4 / np.sqrt(n)


def test_adapters_start_as_nothing_and_are_drawn_apart(tiny, loaded, answers):
    base = Base(loaded, student(tiny))
    batch = joined(encode_rows(answers, loaded, student(tiny)))
    expected, first = answer_logits(loaded.model, batch), []
    for number in range(2):
        base.start(as_seeds(3), number)
        torch.testing.assert_close(answer_logits(base.model, batch), expected)
        first.append(base.trained["model.layers.0.self_attn.q_proj.lora_A.default.weight"].detach().clone())
    assert not torch.equal(*first)
    assert all("lora" in name for name in base.trained)
    few = Base(loaded, student(tiny, adapted_layers=1))
    assert {name.split(".")[2] for name in few.trained} == {"1"}


SCRIPT = """
import sys, time
import kdstats as kd
import kdstats.observation.language.training as t
original = t._loss
def slow(*args):
    time.sleep(0.05)
    return original(*args)
t._loss = slow
student = kd.LanguageStudent(sys.argv[1], n_steps=12, batch_size=4, learning_rate=0.01)
kd.train_language_students(student, sys.argv[2], n_students=2, folder=sys.argv[3], rng=1,
                           progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
def test_a_killed_run_loses_one_batch_at_most(tiny, loaded, answers, tmp_path, monkeypatch):
    (tmp_path / "answers.jsonl").write_text(answers.to_json(orient="records", lines=True))
    command = [sys.executable, "-c", SCRIPT, str(tiny), str(tmp_path / "answers.jsonl"), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        reported = [int(run.stdout.readline()) for _ in range(17)]
        os.kill(run.pid, signal.SIGKILL)
        reported += [int(line) for line in run.stdout.read().splitlines()]
    assert 17 <= reported[-1] < 24
    steps = []
    original = training._loss
    monkeypatch.setattr(training, "_loss", lambda *args: steps.append(1) or original(*args))
    options = {"n_steps": 12}
    resumed = train(tiny, loaded, answers, tmp_path / "run", options=options)
    assert 24 - reported[-1] - 1 <= len(steps) <= 24 - reported[-1]
    whole = train(tiny, loaded, answers, tmp_path / "whole", options=options)
    np.testing.assert_array_equal(parameters(resumed), parameters(whole))
    assert not list((tmp_path / "run").glob("*.checkpoint*"))


def test_another_configuration_is_refused(tiny, loaded, answers, tmp_path):
    train(tiny, loaded, answers, tmp_path, sources=("data_order",))
    with pytest.raises(StudyError, match="differs in learning_rate"):
        train(tiny, loaded, answers, tmp_path, sources=("data_order",), options={"learning_rate": 0.02})
    with pytest.raises(StudyError, match="differs in seeds"):
        train(tiny, loaded, answers, tmp_path, sources=("data_order",), rng=2)
    with pytest.raises(StudyError, match="differs in rows"):
        train(tiny, loaded, answers[4:], tmp_path, sources=("data_order",))
    broken = tmp_path / "student-0000.safetensors"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(StudyError, match=r"student-0000\.safetensors is not one"):
        train(tiny, loaded, answers, tmp_path, sources=("data_order",))


def test_identical_students_are_refused(tiny, loaded, answers, tmp_path):
    same = pd.concat([answers[answers["response_index"] == 0].assign(response_index=k) for k in range(2)])
    with pytest.raises(DuplicateStudentsError, match="students 0, 1"):
        train(tiny, loaded, same, tmp_path, sources=("teacher_output",))


def test_layers_are_removed_from_the_middle(tmp_path, make_model):
    deep = load_language_model(make_model(tmp_path / "deep", n_layers=5))
    cut = without_middle_layers(deep, 3)
    kept = [0, 3, 4]
    for place, number in enumerate(kept):
        theirs, mine = deep.model.model.layers[number], cut.model.model.layers[place]
        assert torch.equal(mine.mlp.up_proj.weight, theirs.mlp.up_proj.weight)
        assert mine.self_attn.layer_idx == place
    assert cut.model.config.num_hidden_layers == 3
    assert len(deep.model.model.layers) == 5
    assert deep.model.config.num_hidden_layers == 5
    assert cut.fingerprint != deep.fingerprint
    tokens = torch.tensor([[4, 5, 6]])
    whole = cut.model(tokens).logits[:, -1]
    first = cut.model(tokens[:, :2], use_cache=True)
    torch.testing.assert_close(
        cut.model(tokens[:, 2:], past_key_values=first.past_key_values).logits[:, -1], whole, atol=1e-4, rtol=1e-4
    )
    with pytest.raises(ProblemError, match="be at most the 5 layers"):
        without_middle_layers(deep, 6)


def test_soft_labels_take_a_student_to_the_teacher(tiny, loaded, answers, tmp_path, make_model):
    start = load_language_model(make_model(tmp_path / "start", seed=9))
    teacher = kd.LanguageTeacher(tiny, sampling=kd.LanguageSampling(temperature=1.5, top_k=30))
    options = {"method": "full", "labels": "soft", "n_steps": 80, "batch_size": 12, "learning_rate": 0.01}
    made = train(
        tmp_path / "start", start, answers, tmp_path / "run", n_students=1, options=options, n_responses=4,
        teacher=teacher, loaded_teacher=loaded,
    )  # fmt: skip
    batch = joined(encode_rows(answers, loaded, teacher))
    at = batch.targets >= 0

    def distance(model):
        with torch.no_grad():
            law = truncated_law(answer_logits(loaded.model, batch)[at], teacher.sampling)
            mine = answer_logits(model, batch)[at].log_softmax(-1)
        return float((law * (law.clamp(min=1e-30).log() - mine)).sum(-1).mean())

    assert distance(made.load(0).model) < 0.1 * distance(start.model)


def test_bad_training(tiny, loaded, answers, tmp_path, make_model):
    other = load_language_model(make_model(tmp_path / "other", words=["a", "b"]))
    teacher, soft = kd.LanguageTeacher(tmp_path / "other"), {"labels": "soft"}
    with pytest.raises(ProblemError, match="have the vocabulary of the student, token by token; got 'other' with 6"):
        train(tiny, loaded, answers, tmp_path / "s", options=soft, teacher=teacher, loaded_teacher=other)
    with pytest.raises(ProblemError, match="`teacher` must be given with labels='soft'"):
        train(tiny, loaded, answers, tmp_path / "s", options=soft)
    with pytest.raises(DataError, match="have text in every response; got 1 empty"):
        train(tiny, loaded, answers.assign(response=["", *answers["response"][1:]]), tmp_path / "s")
    with pytest.raises(ProblemError, match="fit the context of 64 tokens"):
        train(tiny, loaded, answers.assign(response="w1 " * 70), tmp_path / "s")
    with pytest.raises(ProblemError, match="have one that tells students apart; got none"):
        train(tiny, loaded, answers, tmp_path / "s", sources=())
    with pytest.raises(ProblemError, match="start alike without perturbation_sd"):
        train(tiny, loaded, answers, tmp_path / "s", sources=("student_initialization",), options={"method": "full"})
    with pytest.raises(ProblemError, match="`sources` must be among"):
        train(tiny, loaded, answers, tmp_path / "s", sources=("teacher",))
    with pytest.raises(ProblemError, match="be at most the 2 layers"):
        train(tiny, loaded, answers, tmp_path / "s", options={"adapted_layers": 3})
    endless = load_language_model(make_model(tmp_path / "endless", end=None))
    with pytest.raises(ProblemError, match="a tokenizer with an end-of-sequence token"):
        train(tmp_path / "endless", endless, answers, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    with pytest.raises(DivergedStudentError, match="student 0 diverged at step"):
        train(tiny, loaded, answers, tmp_path / "s", options={"method": "full", "learning_rate": 1e30})


def test_options_of_students_and_sampling():
    for options, message in [
        ({"n_steps": 0}, "`n_steps` must be at least 1"),
        ({"adapted_layers": 2, "method": "full"}, "be left out with method 'full'"),
        ({"learning_rate": 0.0}, "be greater than 0"),
        ({"dtype": "float16"}, "be one of float32, bfloat16"),
        ({"system": "x", "prompt_format": "plain"}, "go with a chat"),
    ]:
        with pytest.raises(ProblemError, match=message):
            kd.LanguageStudent("m", **options)
    for options, message in [({"temperature": -1.0}, "at least 0"), ({"top_p": 0.0}, "greater than 0"),
                             ({"top_k": 0}, "at least 1")]:  # fmt: skip
        with pytest.raises(ProblemError, match=message):
            kd.LanguageSampling(**options)
    with pytest.raises(ProblemError, match="be a LanguageSampling"):
        kd.LanguageTeacher("m", sampling=1.0)
    assert replace(kd.LanguageStudent("m"), n_steps=3).n_steps == 3


@pytest.mark.filterwarnings("ignore:3 students:kdstats.errors.ApproximationWarning")
@pytest.mark.parametrize("method", ["adapter", "full"])
def test_bfloat16_rounds_and_no_more(tiny, answers, tmp_path, method):
    """Weights or products in bfloat16 move a student less than its own answers do; what is kept is float32."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        options = {"n_steps": 2, "dtype": dtype, "method": method}
        made = train(tiny, None, answers, tmp_path / dtype, n_students=3, options=options)
        found[dtype] = pd.DataFrame(kd.decompose_tokens(made, answers).by_position)["log_probability"].to_numpy()
        assert all(value.dtype == torch.float32 for value in made.base.trained.values())
    single, half = (values.reshape(3, -1) for values in found.values())
    between = single.std(axis=0, ddof=1)
    rounding, others = np.abs(half - single).mean(), np.abs(half - np.roll(single, 1, axis=0)).mean()
    assert 0 < rounding < 0.5 * between.mean() < 0.5 * others
