"""What is sampled is kept, whatever happens, and never sampled again."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import kdstats as kd
from kdstats.errors import DataError, ProblemError
from kdstats.observation.language import responses as responses_module

PROMPTS = [f"w{i} w{i + 1}" for i in range(6)]


def ask(tiny, store, *, loaded=None, n_responses=3, rng=1, prompts=PROMPTS, batch_size=6, **settings):
    teacher = kd.LanguageTeacher(tiny, sampling=kd.LanguageSampling(**{"max_new_tokens": 8} | settings))
    return kd.sample_responses(
        teacher, prompts, n_responses=n_responses, rng=rng, store=store, loaded=loaded, batch_size=batch_size
    )


@pytest.fixture
def counted(monkeypatch):
    """Number of answers that the model was asked for."""
    counts = []
    original = responses_module.generate

    def generate(loaded, prompts, uniforms, **options):
        counts.append(sum(len(rows) for rows in uniforms))
        return original(loaded, prompts, uniforms, **options)

    monkeypatch.setattr(responses_module, "generate", generate)
    return counts


def test_the_store_gives_what_sampling_gives(tiny, loaded, tmp_path):
    pd.testing.assert_frame_equal(
        normal(ask(tiny, tmp_path / "s", loaded=loaded)), normal(ask(tiny, None, loaded=loaded))
    )


def normal(frame):
    return frame.assign(token_ids=[list(map(int, tokens)) for tokens in frame["token_ids"]]).astype(
        {"response_index": int, "prompt_id": str, "top_p": float}
    )


def test_nothing_is_sampled_twice(tiny, loaded, tmp_path, counted):
    first = ask(tiny, tmp_path, loaded=loaded)
    assert sum(counted) == 18
    again = ask(tiny, tmp_path, loaded=loaded)
    assert sum(counted) == 18
    pd.testing.assert_frame_equal(first, again)
    ask(tiny, tmp_path, loaded=loaded, n_responses=5, prompts=[*PROMPTS, "w20"])
    assert sum(counted) == 18 + 6 * 2 + 5
    ask(tiny, tmp_path, loaded=loaded, temperature=0.5)
    assert sum(counted) == 18 + 6 * 2 + 5 + 18
    ask(tiny, tmp_path, loaded=loaded, rng=2)
    assert sum(counted) == 18 + 6 * 2 + 5 + 18 + 18


def test_the_store_of_another_model_is_refused(tiny, loaded, tmp_path, make_model, counted):
    ask(tiny, tmp_path / "store", loaded=loaded)
    n = sum(counted)
    other = make_model(tmp_path / "other" / "tiny-model", seed=5)
    with pytest.raises(DataError, match="give every model a folder of its own"):
        ask(other, tmp_path / "store")
    assert sum(counted) == n
    with pytest.raises(DataError, match=r"`store` must hold the answers of the model that is asked, 'api'"):
        kd.ResponseStore(tmp_path / "store", model="api")


SCRIPT = """
import sys, time
import kdstats as kd
import kdstats.observation.language.responses as r
original = r.generate
def slow(*args, **options):
    time.sleep(0.15)
    return original(*args, **options)
r.generate = slow
teacher = kd.LanguageTeacher(sys.argv[1], sampling=kd.LanguageSampling(max_new_tokens=8))
prompts = [f"w{i} w{i + 1}" for i in range(30)]
kd.sample_responses(teacher, prompts, n_responses=3, rng=1, store=sys.argv[2], batch_size=6,
                    progress=lambda done, total: print(done, flush=True))
"""


def test_a_killed_run_loses_one_batch_at_most(tiny, loaded, tmp_path, counted):
    prompts = [f"w{i} w{i + 1}" for i in range(30)]
    command = [sys.executable, "-c", SCRIPT, str(tiny), str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        reported = [int(run.stdout.readline()) for _ in range(3)]
        os.kill(run.pid, signal.SIGKILL)
        reported += [int(line) for line in run.stdout.read().splitlines()]
    assert run.returncode == -signal.SIGKILL
    kept = kd.ResponseStore(tmp_path / "store").read()
    assert reported[-1] <= len(kept) <= reported[-1] + 6 < 90
    resumed = ask(tiny, tmp_path / "store", loaded=loaded, prompts=prompts)
    assert sum(counted) == 90 - len(kept)
    uninterrupted = ask(tiny, None, loaded=loaded, prompts=prompts)
    assert resumed["response"].tolist() == uninterrupted["response"].tolist()
    np.testing.assert_allclose(resumed["logprob"], uninterrupted["logprob"], rtol=1e-12)


def test_a_file_cut_short_is_named(tiny, loaded, tmp_path):
    ask(tiny, tmp_path, loaded=loaded)
    broken = sorted(tmp_path.glob("*.parquet"))[0]
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(DataError, match=broken.name):
        kd.ResponseStore(tmp_path).read()


def test_answers_logged_elsewhere(tmp_path):
    store = kd.ResponseStore(tmp_path / "store", model="api")
    frame = pd.DataFrame({"prompt": ["a", "a", "b"], "response": ["x", "y", "z"], "temperature": [1.0, 1.0, 1.0]})
    assert store.add_logged(frame) == 3
    path = tmp_path / "more.jsonl"
    path.write_text("".join(json.dumps({"prompt": "a", "response": text, "temperature": 1.0}) + "\n" for text in "uv"))
    assert store.add_logged(path) == 2
    assert (
        store.add_logged(
            pd.DataFrame({"prompt": ["b"], "response": ["!"], "response_index": [0], "temperature": [1.0]})
        )
        == 0
    )
    table = kd.ResponseStore(tmp_path / "store").read()
    assert table[table["prompt"] == "a"]["response"].tolist() == ["x", "y", "u", "v"]
    assert table["ended"].all()
    assert table["token_ids"].isna().all()
    with pytest.raises(DataError, match="be answers of 'api', whose store this is; got other"):
        store.add_logged(frame.assign(model="other"))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"prompt": ["a"]}, "have a column 'response'"),
        (
            {"prompt": ["a", "b"], "response": ["x", " "]},
            "have text in every response; got 1 empty, the first in row 1",
        ),
        ({"prompt": [], "response": []}, "have at least one row"),
    ],
)
def test_bad_logs(tmp_path, frame, message):
    with pytest.raises(DataError, match=message):
        kd.ResponseStore(tmp_path / "s", model="api").add_logged(pd.DataFrame(frame))


def test_folders_that_are_no_store(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="be empty or a response store"):
        kd.ResponseStore(tmp_path, model="api")
    with pytest.raises(DataError, match="a new one needs `model`"):
        kd.ResponseStore(tmp_path / "new")
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read as one"):
        kd.ResponseStore(tmp_path)


def test_bad_prompts_and_models(tiny, loaded, tmp_path, make_model, counted):
    for prompts, message in [
        (["w1 " * 60], "leave room for 8 new tokens in the context of 64; got 60 tokens at index 0"),
        (["w1", " "], "be text that is not empty; got ' ' at 1"),
        (["w1", "w1"], "be all different"),
        ([], "be a sequence of texts"),
        ("w1", "be a sequence of texts"),
    ]:
        with pytest.raises(ProblemError, match=message):
            ask(tiny, tmp_path / "s", loaded=loaded, prompts=prompts)
    with pytest.raises(ProblemError, match="go with a chat template"):
        kd.sample_responses(replace(kd.LanguageTeacher(tiny), system="Be brief"), ["w1"], loaded=loaded)
    endless = make_model(tmp_path / "endless", end=None)
    with pytest.raises(ProblemError, match="a tokenizer with an end-of-sequence token"):
        ask(endless, tmp_path / "s")
    assert not counted
    assert not (tmp_path / "s").exists()


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match=r"safetensors or GGUF files; got pytorch_model.bin, which is pickled"):
        ask(tmp_path, None)
    with pytest.raises(DataError, match="a folder with safetensors weights, or a GGUF file"):
        ask(tmp_path / "pytorch_model.bin", None)
    with pytest.raises(DataError, match="that exists"):
        ask(tmp_path / "nowhere", None)


def test_a_chat_template_is_used_where_there_is_one(tmp_path, make_model):
    from kdstats.observation.language.models import load_language_model

    model = load_language_model(make_model(tmp_path / "m", chat=True))
    asked = {
        kind: model.encode_prompts(["w1"], prompt_format=kind, system=None, room=1)[0]
        for kind in ("auto", "chat", "plain")
    }
    assert asked["auto"] == asked["chat"] == [2, 5, 3]
    assert asked["plain"] == [5]
