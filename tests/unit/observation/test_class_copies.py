"""Students of classes that copy another are refused; equal labels by chance are not."""

import numpy as np
import pytest

import kdstats as kd
from kdstats.errors import DuplicateStudentsError
from kdstats.observation import categorical
from kdstats.observation.class_copies import chance_of_agreement, refuse_copied_classes
from kdstats.sampling.classes import draw_class_counts

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 2))
P = RNG.dirichlet(np.ones(3), size=30)


def problem(student, p=P, **design):
    return kd.DistillationProblem(
        teacher=kd.CategoricalTeacher(p, X[: len(p)]), student=student, design=kd.Design(**design)
    )


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("student", [kd.TabularStudent(), kd.DirichletStudent(), kd.SoftmaxStudent(penalty=1.0)])
def test_students_of_one_seed_are_refused_and_independent_ones_are_not(student, k):
    asked = problem(student, n_responses=k)
    seen = kd.observe(asked, n_students=40, rng=1).student_predictions.values
    refuse_copied_classes(seen, asked)
    with pytest.raises(DuplicateStudentsError, match="got 39 of 40 that copy"):
        refuse_copied_classes(np.repeat(seen[:1], 40, axis=0), asked)


def test_observe_refuses_blocks_of_one_stream(monkeypatch):
    monkeypatch.setattr(categorical, "BLOCK", 8)
    monkeypatch.setattr(categorical, "draw_class_counts", lambda asked, seeds, _: draw_class_counts(asked, seeds, 0))
    with pytest.raises(DuplicateStudentsError, match="the same teacher responses"):
        kd.observe(problem(kd.TabularStudent()), n_students=24, rng=1)


def test_coincidences_are_no_copies():
    few = np.array([[0.5, 0.5], [0.9, 0.1]])
    asked = problem(kd.TabularStudent(), few)
    kd.observe(asked, n_students=200, rng=1)  # four tables in all
    kd.observe(problem(kd.TabularStudent(), sources=["student_output"]), n_students=20, rng=1)
    kd.observe(problem(kd.SoftmaxStudent(penalty=1.0), strategy="soft_labels"), n_students=20, rng=1)


@pytest.mark.parametrize("k", [1, 3])
def test_likely_labels_make_many_pairs_and_no_copies(k):
    """Four thousand students of two inputs: pairs by the million, whose number varies with the students in common."""
    law = np.array([[0.05, 0.2, 0.75], [0.1, 0.3, 0.6]])
    for seed in range(5):
        kd.observe(problem(kd.TabularStudent(), law, n_responses=k), n_students=4000, rng=seed)


@pytest.mark.parametrize("student", [kd.TabularStudent(), kd.SoftmaxStudent(penalty=1.0)])
def test_the_chance_bounds_how_often_students_agree(student):
    p = np.tile([[0.6, 0.4], [0.7, 0.3], [0.5, 0.5]], (2, 1))
    asked = problem(student, p)
    counts = RNG.multinomial(1, np.broadcast_to(p, (4000, 6, 2)))
    rows = counts.reshape(4000, -1) if isinstance(student, kd.TabularStudent) else counts.sum(axis=1)
    agree = (rows[::2] == rows[1::2]).all(axis=1).mean()
    said = chance_of_agreement(asked)
    assert agree < said + 4 * np.sqrt(said / 2000)
    assert said < 3 * agree


def test_one_copy_among_students_of_many_inputs_is_refused():
    wide = RNG.dirichlet(np.ones(4), size=30)
    asked = problem(kd.TabularStudent(), wide, n_responses=4)
    seen = kd.observe(asked, n_students=30, rng=2).student_predictions.values.copy()
    seen[7] = seen[21]
    with pytest.raises(DuplicateStudentsError, match="got 1 of 30 that copy"):
        refuse_copied_classes(seen, asked)
