"""Which texts students learn: blocks of responses, medoids, weights; bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import kdstats as kd
from kdstats.errors import DataError, ProblemError

RNG = np.random.default_rng(0)


def teacher(*, prompts=3, responses=12):
    return pd.DataFrame(
        [
            {"prompt_id": f"q{i}", "prompt": f"Q{i}?", "response_index": j, "response": f"t {i} {j}", "student": None}
            for i in range(prompts)
            for j in range(responses)
        ]
    )


def hashed(texts, dimension=6):
    return np.array([np.random.default_rng([ord(c) for c in text]).normal(size=dimension) for text in texts])


def test_students_have_blocks_of_their_own():
    table = teacher().sample(frac=1.0, random_state=1)
    single = kd.choose_labels(table, "single", n_students=4, n_responses=3).table
    several = kd.choose_labels(table, "multi_response", n_students=4, n_responses=3).table
    assert single.groupby("student")["response_index"].unique().map(list).tolist() == [[0], [3], [6], [9]]
    assert several.groupby("student")["response_index"].unique().map(sorted).tolist() == [
        [0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11],
    ]  # fmt: skip
    assert len(several) == 36


def test_the_medoid_has_the_highest_mean_cosine():
    table = teacher()
    chosen = kd.choose_labels(table, "medoid", n_students=3, n_responses=4, embeddings=hashed).table
    for _, row in chosen.iterrows():
        block = table[
            (table["prompt_id"] == row["prompt_id"])
            & table["response_index"].between(4 * row["student"], 4 * row["student"] + 3)
        ]
        vectors = hashed(block["response"])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosine = (vectors @ vectors.T).mean(axis=1)
        assert row["response"] == block["response"].iloc[cosine.argmax()]


def test_a_medoid_of_two_is_either():
    table = teacher(prompts=200, responses=2)
    chosen = kd.choose_labels(table, "medoid", n_students=1, n_responses=2, embeddings=hashed, rng=1).table
    assert 60 < (chosen["response_index"] == 0).sum() < 140  # 200 tosses: 5.6 standard errors
    again = kd.choose_labels(table, "medoid", n_students=1, n_responses=2, embeddings=hashed, rng=1).table
    pd.testing.assert_frame_equal(chosen, again)


def weighted_case(noise, *, prompts=400, k=4, seed=3):
    """A teacher of known variance 6 around known means, and pilots whose error is known."""
    rng = np.random.default_rng(seed)
    table = teacher(prompts=prompts, responses=2 * k)
    means = 30 * rng.normal(size=(prompts, 6))
    own = np.repeat(means, 2 * k, axis=0) + rng.normal(size=(len(table), 6))
    pilot = pd.DataFrame(
        [{"prompt_id": f"q{i}", "response": f"p {i} {s}", "student": s} for s in range(2) for i in range(prompts)]
    )
    theirs = np.tile(means, (2, 1)) + noise * rng.normal(size=(len(pilot), 6))
    return table, own, pilot, theirs


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_weights_are_those_of_the_variances(noise):
    table, own, pilot, theirs = weighted_case(noise)
    lengths = np.linalg.norm(own, axis=1)
    scale = float((1 / lengths**2).mean())  # on the sphere, 5 of 6 dimensions are left, at 1/length
    found = kd.choose_labels(
        table, "variance_weighting", n_students=2, n_responses=4, embeddings=own, pilot=pilot, pilot_embeddings=theirs
    )
    assert np.allclose(found.attrs["teacher_variance"], 5 * scale, rtol=0.2)
    expected = noise**2 / (noise**2 + 1 / 4)
    assert np.allclose(found.attrs["teacher_weight"], expected, atol=0.05)


def test_a_good_pilot_gives_its_texts_and_a_bad_one_none():
    for noise, least, most in ((1e-6, 0.9, 1.0), (30.0, 0.0, 0.3)):
        table, own, pilot, theirs = weighted_case(noise, prompts=100)
        found = kd.choose_labels(
            table,
            "variance_weighting",
            n_students=2,
            n_responses=4,
            embeddings=own,
            pilot=pilot,
            pilot_embeddings=theirs,
        )
        assert least <= found.attrs["pilot_labels"] <= most
        assert (found.table["label_source"] == "student").mean() == found.attrs["pilot_labels"]


def test_shared_and_untrained_pilots_are_named():
    table = teacher()
    pilot = pd.DataFrame({"prompt_id": ["q0", "q1", "q2"], "response": ["a", "b", "c"]})
    found = kd.choose_labels(
        table,
        "variance_weighting",
        n_students=2,
        n_responses=4,
        embeddings=hashed,
        pilot=pilot,
        student_estimate="untrained",
    )
    assert "an error that they share" in found.summary()
    assert "untrained model" in found.summary()
    assert found.attrs["student_estimate"] == "untrained"


def test_rows_of_students_are_left_out():
    table = teacher()
    mixed = pd.concat([table, table.assign(student=1, response="student")])
    assert "student" not in set(
        kd.choose_labels(mixed, "multi_response", n_students=4, n_responses=3).table["response"]
    )


PILOT = pd.DataFrame({"prompt_id": ["q0", "q1", "q2"], "response": ["a", "b", "c"]})


@pytest.mark.parametrize(
    ("strategy", "options", "error", "message"),
    [
        ("soft_labels", {}, ProblemError, "single"),
        ("variance_weighting", {"n_responses": 1, "pilot": PILOT}, ProblemError, "one response has no variance"),
        ("variance_weighting", {"embeddings": hashed}, DataError, "pilot"),
        ("medoid", {"pilot": PILOT, "embeddings": hashed}, DataError, "pilot"),
        ("medoid", {}, ProblemError, "embeddings"),
        ("single", {"n_students": 5}, DataError, "15 responses to every prompt.*got 12 to 'q0'"),
        ("variance_weighting", {"embeddings": hashed, "pilot": PILOT[:2]}, DataError, "none to 'q2'"),
        (
            "variance_weighting",
            {"embeddings": hashed, "pilot": PILOT.assign(student=[0, 0, 2])},
            DataError,
            "none of 1",
        ),
        ("variance_weighting", {"embeddings": np.ones((36, 2)), "pilot": PILOT}, DataError, "pilot_embeddings"),
    ],
)
def test_bad_input(strategy, options, error, message):
    with pytest.raises(error, match=message):
        kd.choose_labels(teacher(), strategy, **{"n_students": 4, "n_responses": 3} | options)


def test_an_empty_response_cannot_be_learnt():
    table = teacher()
    table.loc[5, "response"] = " "
    with pytest.raises(DataError, match="1 empty, first in row 5"):
        kd.choose_labels(table, "single", n_students=4, n_responses=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: pd.concat([t, t[t["response_index"] == 7]]), "once; got 7 to 'q0' in rows 7 and 36"),
        (lambda t: t.assign(response_index=t["response_index"].astype(float).replace(3.0, np.nan)), "nan in row 3"),
        (
            lambda t: t.assign(response_index=t["response_index"].map("r{}".format)),
            "be a number in every row; got 'r0'",
        ),
        (lambda t: t.assign(response_index=[[i] for i in t["response_index"]]), "be a number in every row"),
    ],
)
def test_responses_are_numbered_once(change, message):
    with pytest.raises(DataError, match=message):
        kd.choose_labels(change(teacher()), "single", n_students=4, n_responses=3)


def test_numbers_written_as_text_are_numbers():
    plain = kd.choose_labels(teacher(), "multi_response", n_students=4, n_responses=3).table
    text = teacher().assign(response_index=lambda t: t["response_index"].astype(str))
    found = kd.choose_labels(text, "multi_response", n_students=4, n_responses=3).table
    assert found["response"].tolist() == plain["response"].tolist()
