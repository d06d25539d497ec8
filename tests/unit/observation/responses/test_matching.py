"""Matches with references, clusters of one meaning, the teacher's bulk."""

from __future__ import annotations

import numpy as np
import pytest

from kdstats.observation.responses.clusters import clusters, in_bulk, unit_rows
from kdstats.observation.responses.matching import match, normalized


@pytest.mark.parametrize(
    ("answer", "reference", "kind"),
    [
        ("Paris.", "paris", "exact"),
        ("The capital is PARIS, of course", "Paris", "contained"),
        ("William Shakespeare wrote it", "William Shakespear", "fuzzy"),
        ("Comparison", "Paris", "none"),
        ("Yes, 1913", "1912", "none"),  # numbers agree or do not
        ("a cat", "car", "none"),
        ("", "Paris", "none"),
        ("The Who", "the who", "exact"),
    ],
)
def test_match(answer, reference, kind):
    found = match(normalized(answer), [normalized(reference)])
    kinds = {"exact": (True, True, True), "contained": (False, True, True), "fuzzy": (False, False, True)}
    assert (found.exact, found.contained, found.fuzzy) == kinds.get(kind, (False, False, False))


def test_any_reference_will_do():
    assert match("the big apple", ["new york", "big apple"]).contained


@pytest.mark.parametrize(
    ("answer", "reference", "matches"),
    [
        ("-5", "5", False),
        ("it is -5", "5", False),
        ("\u22125 °C", "-5", True),
        ("between 3-5", "5", True),  # a range, and no sign
        ("0.5", "5", False),
        ("3.5", "5", False),
        (".5", "0.5", True),
        ("It costs 5.", "5", True),
        ("at 12:30", "30", False),
        ("at 12:30, sharp", "12:30", True),
        ("1,000", "1000", True),
        ("about 1\u202f234\u202f567 people", "1,234,567", True),
        ("1.234,5", "1234.5", True),
        ("1, 2, 3", "2", True),
        ("1,2,3", "2", True),
        ("1,2", "2", False),
        ("C++", "C#", False),
        ("written in C++.", "c++", True),
        ("C", "C++", False),
        ("blood type O+", "O-", False),
        ("<5", ">5", False),
        ("it is <5", "5", False),
        ("<= 5", "≤5", True),
        ("½", "1 2", False),
        ("½", "1/2", True),
        ("2½", "2 1/2", True),
        ("10²", "102", False),
        ("10²", "10^2", True),
        ("1e-5", "5", False),
        ("+", "+", True),
        ("+", "-", False),
        ("%", "#", False),
        ("the year was 1912!", "1912", True),
        ("COVID-19", "covid 19", True),
        ("gpt-3.5", "5", False),
    ],
)
def test_numbers_and_symbols(answer, reference, matches):
    found = match(normalized(answer), [normalized(reference)])
    assert found.contained is found.fuzzy is matches


def test_normalised_texts_stay_as_they_are():
    for text in ("-5", "0.5 and <5", "c++ or c#", "1,000", "10^-3", "½", "Ça va?", "+", "...", "12:30am", "1e-5"):
        assert normalized(normalized(text)) == normalized(text)
    assert normalized(" ... ") == ""


@pytest.mark.parametrize(
    ("answer", "references", "fuzzy", "similarity"),
    [
        ("alexandra 1234567890124", ["1234567890123", "alexander"], True, 2 * 12 / 26),
        ("listened 1234568", ["1234567", "enlisted"], False, 12 / 14),  # "enlisted" alone: 0.75
        ("colour 7", ["color", "8"], True, 10 / 11),
    ],
)
def test_references_in_any_order(answer, references, fuzzy, similarity):
    for order in (references, references[::-1]):
        found = match(answer, order)
        assert (found.exact, found.contained, found.fuzzy) == (False, False, fuzzy)
        assert found.similarity == pytest.approx(similarity)


def test_articles_alone_stay():
    assert normalized("The The") == "the the"


def _directions(*degrees):
    angle = np.radians(degrees)
    return np.column_stack([np.cos(angle), np.sin(angle)])


def test_clusters_join_at_the_average_cosine():
    number = clusters(_directions(0, 10, 90, 95, 180), similarity=0.9)
    assert [number[0] == number[1], number[2] == number[3], len(set(number))] == [True, True, 3]
    assert len(set(clusters(_directions(0, 10, 90, 95, 180), similarity=0.999))) == 5


def test_bulk_is_what_the_teacher_says_often():
    teacher = _directions(0, 1, 2, 3, 90)
    answers = _directions(1, 90, 45)
    assert in_bulk(answers, teacher, similarity=0.95, mass=0.5).tolist() == [True, False, False]
    assert in_bulk(answers, teacher, similarity=0.95, mass=0.2).tolist() == [True, True, False]


def test_a_zero_vector_has_no_direction():
    assert unit_rows(np.zeros((1, 3))).tolist() == [[0.0, 0.0, 0.0]]
