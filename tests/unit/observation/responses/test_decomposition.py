"""Tables of text answers to measures: against brute force, identities, bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import kdstats as kd
from kdstats.components.responses import ResponseComponents
from kdstats.errors import ComparisonError, DataError, DuplicateStudentsError, EstimationError

WORDS = ["paris", "london", "rome", "oslo town", "lima"]
VECTORS = dict(zip(WORDS, np.random.default_rng(0).normal(size=(5, 4)), strict=True))


def embed(texts):
    return np.array([VECTORS[text.lower()] for text in texts])


def answers(*, students=4, prompts=6, responses=3, teacher=10, seed=1, **columns):
    rng = np.random.default_rng(seed)
    law = rng.dirichlet(np.ones(5), size=prompts)
    rows = [
        {"student": s, "prompt_id": f"q{i}", "response_index": j, "response": WORDS[rng.choice(5, p=p)], **columns}
        for s in range(students)
        for i, own in enumerate(law)
        for p in [rng.dirichlet(own * 3 + 1e-3)]
        for j in range(responses)
    ]
    rows += [
        {"student": None, "prompt_id": f"q{i}", "response_index": j, "response": WORDS[rng.choice(5, p=p)], **columns}
        for i, p in enumerate(law)
        for j in range(teacher)
    ]
    return pd.DataFrame(rows)


REFERENCES = {f"q{i}": WORDS[i % 5] for i in range(6)}


def test_error_splits_exactly_and_parts_are_pair_products():
    table = answers()
    found = kd.decompose_responses(table, embeddings=embed, references=REFERENCES)
    value = {name: found.mean(name).estimate for name in found.measures}
    parts = value["systematic_error"] + value["idiosyncratic_error"] + value["embedding_intra"]
    assert value["squared_error"] == pytest.approx(parts, abs=1e-12)
    assert value["idiosyncratic_error"] == pytest.approx(value["embedding_inter"], abs=1e-12)
    assert value["embedding_total"] == pytest.approx(value["embedding_inter"] + value["embedding_intra"], abs=1e-12)
    unit = {word: vector / np.linalg.norm(vector) for word, vector in VECTORS.items()}
    products = []
    for prompt, rows in table[table["student"].notna()].groupby("prompt_id"):
        errors = rows["response"].map(lambda word: unit[word]) - rows["response"].map(
            lambda _, prompt=prompt: unit[REFERENCES[prompt]]
        )
        products += [
            a @ b
            for i, a in enumerate(errors)
            for j, b in enumerate(errors)
            if rows["student"].iloc[i] != rows["student"].iloc[j]
        ]
    assert value["systematic_error"] == pytest.approx(np.mean(products), abs=1e-12)


def test_embedding_variance_is_that_of_decompose():
    table = answers()
    found = kd.decompose_responses(table, embeddings=embed)
    own = table[table["student"].notna()].rename(columns={"response_index": "replicate", "prompt_id": "point"})
    unit = embed(own["response"])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    own = own[["student", "replicate", "point"]].assign(**{f"value_{i}": unit[:, i] for i in range(4)})
    with pytest.warns(kd.errors.NegativeComponentWarning):
        usual = kd.decompose(own, allow_duplicates=True)
    for name in ("inter", "intra", "total"):
        expected = usual.estimate["total" if name == "total" else f"{name}_student"].sum("output").mean()
        assert found.mean(f"embedding_{name}").estimate == pytest.approx(float(expected), abs=1e-12)


def test_texts_and_clusters_are_those_of_decompose_classes():
    table = answers(responses=5)
    found = kd.decompose_responses(table, embeddings=embed, similarity=0.999)
    own = table[table["student"].notna()].rename(columns={"response_index": "replicate", "prompt_id": "point"})
    with pytest.warns((kd.errors.ApproximationWarning, kd.errors.NegativeComponentWarning)):
        usual = kd.decompose_classes(own, "labels", label="response").average()
    names = {
        "text_inter": "inter_student",
        "text_total": "total",
        "gini_intra": "intra_student",
        "semantic_entropy": "expected_entropy",
        "mutual_information": "mutual_information",
    }
    for name, theirs in names.items():
        assert found.mean(name).estimate == pytest.approx(usual.estimate.sel(component=theirs).item(), abs=1e-12)


def test_a_hallucination_is_neither_right_nor_usual():
    table = answers(students=3, prompts=2, responses=2, teacher=0)
    table["response"] = ["paris", "rome", "rome", "oslo town"] * 3
    taught = pd.DataFrame(
        {
            "student": None,
            "prompt_id": ["q0"] * 5 + ["q1"] * 5,
            "response_index": [*range(5)] * 2,
            "response": ["rome"] * 4 + ["lima"] + ["london"] * 5,
        }
    )
    found = kd.decompose_responses(
        pd.concat([table, taught]),
        embeddings=embed,
        references={"q0": "Paris", "q1": ["Lima", "Rome"]},
        similarity=0.9,
        bulk=0.5,
        allow_duplicates=True,
    )
    value = found.by_prompt()
    assert value["fuzzy_match"].tolist() == [0.5, 0.5]
    assert value["off_bulk"].tolist() == [0.5, 1.0]  # rome is the bulk of q0
    assert value["hallucination"].tolist() == [0.0, 0.5]  # paris is right in q0, oslo is neither in q1
    assert value["shared_hallucination"].tolist() == [0.0, 0.25]
    assert value["shared_wrong"].tolist() == [0.25, 0.25]
    assert value["teacher_match"].tolist() == [0.0, 0.0]


def test_greedy_students_have_no_variance_of_their_own():
    table = answers(responses=1, temperature=0.0)
    found = kd.decompose_responses(table, embeddings=embed)
    assert found.mean("embedding_intra").estimate == 0.0
    assert found.mean("gini_intra").estimate == 0.0
    assert found.mean("embedding_inter").estimate == pytest.approx(found.mean("embedding_total").estimate)
    sampled = kd.decompose_responses(answers(responses=1, temperature=1.0), embeddings=embed)
    assert np.isnan(sampled.mean("embedding_intra").estimate)
    assert np.isfinite(sampled.mean("embedding_total").estimate)


def test_rows_in_any_order_and_an_array_of_vectors():
    table = answers()
    shuffled = table.sample(frac=1.0, random_state=3)
    one = kd.decompose_responses(table, embeddings=embed, references=REFERENCES).to_dataframe()
    other = kd.decompose_responses(
        shuffled,
        embeddings=embed(shuffled["response"]),
        references=REFERENCES,
        reference_embeddings={prompt: VECTORS[word] for prompt, word in REFERENCES.items()},
    ).to_dataframe()
    pd.testing.assert_frame_equal(one, other.loc[one.index])


def test_difference_and_ratio_pair_prompts():
    one, other = (
        kd.decompose_responses(answers(students=5, seed=seed), embeddings=embed, references=REFERENCES)
        for seed in (1, 2)
    )
    change = one.difference(other)
    assert change["estimate"]["words"] == pytest.approx(one.mean("words").estimate - other.mean("words").estimate)
    ratio = one.difference(other, relative=True).loc["embedding_total"]
    assert ratio["estimate"] == pytest.approx(
        one.mean("embedding_total").estimate / other.mean("embedding_total").estimate
    )
    words = one.difference(other, relative=True).loc["words"]
    assert words["lower"] < words["estimate"] < words["upper"]
    never = [kd.decompose_responses(answers(seed=seed), references=dict.fromkeys(REFERENCES, "zzz")) for seed in (1, 2)]
    alike = never[0].difference(never[1]).loc["exact_match"]
    assert alike["estimate"] == 0.0
    assert np.isnan([alike["lower"], alike["upper"]]).all()
    fewer = kd.decompose_responses(answers(prompts=5), embeddings=embed)
    with pytest.raises(ComparisonError, match="q5"):
        one.difference(fewer)


def test_summary_says_what_was_measured():
    text = kd.decompose_responses(answers(ended=True), embeddings=embed, references=REFERENCES).summary()
    assert "Students: 4, prompts: 6, answers of a student to a prompt: 3, of the teacher: 10" in text
    assert "systematic_error" in text
    assert "No entailment is tested" in text
    assert max(map(len, text.splitlines())) <= 110


def test_without_embeddings_texts_alone():
    found = kd.decompose_responses(answers(), references=REFERENCES)
    assert "fuzzy_match" in found.measures
    assert not {"embedding_inter", "hallucination", "gini_total"} & set(found.measures)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.drop(columns="response"), DataError, "response"),
        (lambda t: t.assign(response=None), DataError, "text in every row"),
        (lambda t: t[t["student"].isna()], DataError, "rows of the teacher alone"),
        (lambda t: t[(t["student"] != 1) | (t["prompt_id"] != "q2")], DataError, "student 1.* to prompt 'q2'"),
        (lambda t: t[t["student"].isna() | (t["student"] == 1)], EstimationError, "2 students.*got 1"),
        (lambda t: t[t["prompt_id"] == "q1"], EstimationError, "2 prompts.*got 1"),
        (lambda t: t.assign(source="parrot"), DataError, "parrot"),
        (lambda t: t.assign(response_index=0), DataError, "one number twice"),
        (lambda t: t[t["student"].notna() | (t["response_index"] < 4)], DataError, "at least 5 answers of the teacher"),
        (lambda t: [1, 2], DataError, "DataFrame"),
    ],
)
def test_bad_tables(change, error, message):
    with pytest.raises(error, match=message):
        kd.decompose_responses(change(answers()), embeddings=embed, references=REFERENCES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"references": {"q0": "paris"}}, "every prompt"),
        ({"references": dict.fromkeys(REFERENCES, "")}, "a text, or a list"),
        ({"references": ["paris"]}, "map prompts"),
        ({"embeddings": np.ones((3, 4))}, "one row for each"),
        ({"embeddings": lambda texts: np.ones((1, 4))}, "one row for each"),
        ({"embeddings": None, "reference_embeddings": {}}, "go with"),
        ({"reference_embeddings": dict.fromkeys(REFERENCES, np.ones(3))}, "4 columns"),
        ({"bulk": 1.5}, "less than 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises((DataError, kd.errors.ProblemError), match=message):
        kd.decompose_responses(answers(), **{"embeddings": embed, "references": REFERENCES} | options)


def test_copied_students_are_refused():
    table = answers(students=3, prompts=12)
    copied = table[table["student"] == 0].assign(student=2.0)
    table = pd.concat([table[table["student"] != 2], copied])
    with pytest.raises(DuplicateStudentsError, match=r"students 0.* and 2"):
        kd.decompose_responses(table)
    assert kd.decompose_responses(table, allow_duplicates=True).mean("text_inter").estimate < 1
    alike = answers(students=4).assign(response="paris")
    assert kd.decompose_responses(alike).mean("text_total").estimate == 0.0


def test_a_ratio_to_what_is_not_separable_from_zero_has_no_bounds():
    rng = np.random.default_rng(3)
    tables = {}
    for name, centre in (("none", 0.0), ("some", 1.0)):
        values = centre + rng.normal(size=(1, 4, 30))
        values -= values.mean() - centre - 0.02
        tables[name] = ResponseComponents(
            contributions=xr.DataArray(
                values,
                coords={"measure": ["embedding_inter"], "student": range(4), "prompt": range(30)},
                dims=("measure", "student", "prompt"),
            ),
            attrs={"n_responses": (2, 2), "n_teacher": 0, "notes": ()},
        )
    for one, other in (("some", "none"), ("none", "some")):
        row = tables[one].difference(tables[other], relative=True).loc["embedding_inter"]
        assert np.isfinite(row["estimate"])
        assert np.isnan([row["lower"], row["upper"]]).all()
    row = tables["some"].difference(tables["none"]).loc["embedding_inter"]
    assert row["lower"] > 0
    again = tables["some"].difference(tables["some"], relative=True).loc["embedding_inter"]
    assert again["lower"] < 1 < again["upper"]


@pytest.mark.parametrize(("responses", "told"), [(2, True), (3, True), (4, False)])
def test_saturated_entropy_is_told(responses, told):
    found = kd.decompose_responses(answers(responses=responses), embeddings=embed)
    assert any("semantic_entropy saturates" in note for note in found.attrs["notes"]) == told


def test_embeddings_without_a_direction_are_refused():
    table = answers()
    vectors = embed(table["response"])
    vectors[3] = 0.0
    with pytest.raises(
        DataError, match=r"`embeddings` must have a direction in every row.*1 rows of zeros, .*row 3 \("
    ):
        kd.decompose_responses(table, embeddings=vectors)
    given = {prompt: np.zeros((1, 4)) if prompt == "q2" else np.ones((1, 4)) for prompt in REFERENCES}
    with pytest.raises(DataError, match=r"`reference_embeddings` must have a direction .* 'q2'"):
        kd.decompose_responses(table, embeddings=embed(table["response"]), reference_embeddings=given)
    large = kd.decompose_responses(table, embeddings=1e200 * embed(table["response"]))
    plain = kd.decompose_responses(table, embeddings=embed)
    assert large.mean("embedding_total").estimate == pytest.approx(plain.mean("embedding_total").estimate)


@pytest.mark.parametrize(
    "change", [lambda c: c, lambda c: c.iloc[::-1], lambda c: c.assign(response=c.response.str.upper() + "!")]
)
def test_copies_in_another_order_or_in_capitals_are_refused(change):
    table = answers(students=3, prompts=20).drop(columns="response_index")
    copied = change(table[table["student"] == 0].assign(student=9.0))
    with pytest.raises(DuplicateStudentsError, match=r"students 0.* and 9"):
        kd.decompose_responses(pd.concat([table, copied]))


def test_students_that_agree_by_chance_are_no_copies():
    rng = np.random.default_rng(4)
    for seed in range(40):  # greedy answers that half of all students give, and sets of two answers out of two
        words = rng.choice(["yes", "no"], size=(4, 5))
        words[3] = words[0] if seed % 2 else words[3]
        greedy = [(s, i, words[s, i]) for s in range(4) for i in range(5)]
        sampled = [(s, i, word) for s in range(4) for i in range(5) for word in rng.permutation(["yes", "no"])]
        for rows in (greedy, sampled):
            kd.decompose_responses(pd.DataFrame(rows, columns=["student", "prompt_id", "response"]))


@pytest.mark.parametrize(
    ("options", "measure"),
    [({"similarity": 0.5}, "gini_total"), ({"bulk": 0.5}, "hallucination"), ({"fuzzy_threshold": 0.6}, "fuzzy_match")],
)
def test_differences_of_other_settings_are_refused(options, measure):
    one = kd.decompose_responses(answers(), embeddings=embed, references=REFERENCES)
    other = kd.decompose_responses(answers(seed=2), embeddings=embed, references=REFERENCES, **options)
    with pytest.raises(ComparisonError, match=f"`other` must have the {next(iter(options))} .*{measure}"):
        one.difference(other)
    texts = [kd.decompose_responses(answers(seed=seed), similarity=0.5 + 0.1 * seed) for seed in (1, 2)]
    assert texts[0].difference(texts[1]).attrs["notes"] == ()  # no measure of texts rests on it


def test_differences_of_other_numbers_of_answers_are_noted():
    one = kd.decompose_responses(answers(), embeddings=embed)
    other = kd.decompose_responses(answers(seed=2, responses=5, teacher=8), embeddings=embed)
    with pytest.warns(kd.errors.ApproximationWarning) as told:
        notes = one.difference(other).attrs["notes"]
    assert [str(each.message) for each in told] == list(notes)
    assert "3 to 3 against 5 to 5; part of the difference of " in notes[0]
    assert "distinct_responses" in notes[0]
    assert "answers of the teacher: 10 against 8" in notes[1]


def test_intervals_of_measures_end_at_what_they_can_be():
    rows = [(s, p, "yes" if (s, p) == (0, 0) else "no") for s in range(6) for p in range(4) for _ in range(3)]
    found = kd.decompose_responses(
        pd.DataFrame(rows, columns=["student", "prompt_id", "response"]), allow_duplicates=True
    )
    frame = found.to_dataframe(0.999)
    assert frame["lower"]["text_inter"] == frame["lower"]["text_total"] == 0.0
    assert frame["lower"]["distinct_responses"] == 1.0
    assert (frame["upper"][["text_inter", "text_intra", "text_total"]] <= 1.0).all()
    assert "Intervals end at what is possible: text_inter" in found.summary(0.999)
    assert found.interval("words", 0.9) == (1.0, 1.0)
