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
