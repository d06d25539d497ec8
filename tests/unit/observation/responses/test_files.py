"""Answers and questions from files of every kind, and files that are something else."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from kdstats.errors import DataError, MissingDependencyError
from kdstats.observation.responses import files
from kdstats.observation.responses.files import read_bioasq, read_questions, read_responses, read_trivia

ROWS = [
    {"prompt_id": "a", "response": "Paris", "student": "1"},
    {"prompt_id": "a", "response": "NA", "student": "2"},
    {"prompt_id": "b", "response": "nine, or so", "student": "1"},
]
BIOASQ = {
    "questions": [
        {"id": "1", "type": "factoid", "body": "Which gene?", "exact_answer": [["BRCA1", "breast cancer 1"]]},
        {"id": "2", "type": "yesno", "body": "Is it?", "exact_answer": "yes", "ideal_answer": ["Yes, it is."]},
        {"id": "3", "type": "list", "body": "Which drugs?", "exact_answer": [["aspirin"], ["ibuprofen", "Advil"]]},
        {"id": "4", "type": "summary", "body": "What is known?", "ideal_answer": ["Not much."]},
        {"id": "5", "type": "factoid", "body": "Without an answer?"},
    ]
}


def _write(path, rows):
    frame = pd.DataFrame(rows)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_answers_come_back(tmp_path, suffix):
    frame = read_responses(_write(tmp_path / f"log{suffix}", ROWS))
    assert frame.to_dict(orient="records") == ROWS


def test_answers_of_csv_are_text(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text('id,completion,student\n007,12,1\n007,,2\n008,"a, b",1\n')
    frame = read_responses(path, columns={"id": "prompt_id", "completion": "response"})
    assert frame["response"].tolist() == ["12", "", "a, b"]
    named = _write(tmp_path / "named.csv", [{"prompt_id": "007", "response": "NA"}])
    assert read_responses(named).to_dict(orient="records") == [{"prompt_id": "007", "response": "NA"}]


def test_a_prompt_names_itself(tmp_path):
    path = _write(tmp_path / "log.jsonl", [{"prompt": "Why?", "response": "So."}])
    assert read_responses(path)["prompt_id"].tolist() == ["Why?"]


def test_bioasq(tmp_path):
    path = tmp_path / "training.json"
    path.write_text(json.dumps(BIOASQ))
    frame = read_bioasq(path)
    assert frame["references"].tolist() == [
        ["BRCA1", "breast cancer 1"],
        ["yes"],
        ["aspirin", "ibuprofen", "Advil"],
    ]
    assert frame["kind"].tolist() == ["factoid", "yesno", "list"]
    assert read_bioasq(path, kinds="summary")["references"].tolist() == [["Not much."]]


def test_trivia_of_the_package():
    frame = read_trivia()
    assert len(frame) > 200
    assert all(text.strip() for texts in frame["references"] for text in texts)
    assert not frame["prompt"].duplicated().any()


def test_trivia_of_a_file(tmp_path):
    path = tmp_path / "t.yml"
    path.write_text("conversations:\n- ['Capital of Peru?', Lima]\n- ['Two?', 2]\n- ['Two?', two]\n")
    assert read_trivia(path)["references"].tolist() == [["Lima"], ["2", "two"]]


def test_questions_with_several_references(tmp_path):
    rows = [{"prompt": "Which?", "reference": ["a", "b"]}, {"prompt": "What?", "reference": "c"}]
    frame = read_questions(_write(tmp_path / "q.jsonl", rows))
    assert frame.to_dict(orient="list") == {
        "prompt_id": [0, 1],
        "prompt": ["Which?", "What?"],
        "references": [["a", "b"], ["c"]],
    }


def test_a_missing_corpus_is_named(monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="chatterbot-corpus"):
        read_trivia()


@pytest.mark.parametrize(
    ("name", "content", "reader", "message"),
    [
        ("a.jsonl", '{"prompt_id": 1}\nnot json', read_responses, "line 2"),
        ("a.jsonl", "[1, 2]", read_responses, "one JSON object"),
        ("a.jsonl", '{"prompt_id": 1}', read_responses, "'response'"),
        ("a.csv", "", read_responses, "CSV file"),
        ("a.txt", "x", read_responses, r"\.jsonl, \.csv"),
        ("a.parquet", "x", read_responses, "Parquet"),
        ("a.json", "{}", read_bioasq, "BioASQ"),
        ("a.json", '{"questions": []}', read_bioasq, "a question with an answer"),
        ("a.json", "[", read_bioasq, "BioASQ"),
        ("a.yml", "talks: []", read_trivia, "conversations"),
        ("a.yml", "a: [", read_trivia, "conversations"),
        ("a.csv", "prompt,answer\nx,y\n", read_questions, "'reference'"),
        ("a.csv", "prompt_id,prompt,reference\n1,x,y\n1,x,y\n", read_questions, "once"),
    ],
)
def test_files_that_are_something_else(tmp_path, name, content, reader, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        reader(path)


@pytest.mark.parametrize("reader", [read_responses, read_bioasq, read_trivia])
def test_no_file(tmp_path, reader):
    with pytest.raises(DataError, match="nowhere"):
        reader(tmp_path / "nowhere.jsonl")
