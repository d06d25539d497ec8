"""Named streams: a number depends on seed and path alone."""

import numpy as np
import pytest
import scipy.stats

import kdstats as kd
from kdstats.streams import as_seeds

SOURCES = ("teacher_output", "student_initialization", "data_order", "data_resampling", "student_output")


def draw(seeds, *path):
    return seeds.generator(*path).normal(size=4)


def test_same_path_same_numbers():
    np.testing.assert_array_equal(draw(as_seeds(3), "teacher_output", 5), draw(as_seeds(3), "teacher_output", 5))


def test_every_path_is_a_stream_of_its_own():
    seeds = as_seeds(3)
    paths = [
        (s, *rest)
        for s in SOURCES
        for rest in ((), (0,), (1,), (0, 0), (0, 1), (1, 0), ("pilot",), ("pilot", 0), ("0",))
    ]
    first = {seeds.generator(*path).integers(2**63) for path in paths}
    assert len(first) == len(paths)
    assert len({seeds.torch_seed(*path) for path in paths}) == len(paths)


def test_blocks_do_not_overlap_and_are_uncorrelated():
    seeds = as_seeds(11)
    blocks = np.array([seeds.generator("teacher_output", i).normal(size=256) for i in range(200)])
    assert len(np.unique(blocks)) == blocks.size
    means = blocks.mean(axis=0) * np.sqrt(200)
    assert scipy.stats.kstest(means, "norm").pvalue > 1e-3
    neighbours = (blocks[:-1] * blocks[1:]).sum() / np.sqrt(blocks[1:].size)
    assert abs(neighbours) < 4


def test_one_source_is_redrawn_alone():
    seeds = as_seeds(3)
    other = seeds.with_seed(teacher_output=4)
    assert (draw(seeds, "teacher_output") != draw(other, "teacher_output")).all()
    for source in SOURCES[1:]:
        np.testing.assert_array_equal(draw(seeds, source), draw(other, source))
    assert other.as_dict() == dict.fromkeys(SOURCES, 3) | {"teacher_output": 4}


def test_streams_leave_global_state_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    draw(as_seeds(None), "teacher_output")
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_torch_seeds_fit():
    assert all(0 <= as_seeds(seed).torch_seed("data_order", 1) < 2**63 for seed in range(50))


def test_what_a_seed_may_be():
    assert as_seeds(seeds := as_seeds(5)) is seeds
    assert as_seeds(np.int64(5)) == seeds
    assert as_seeds(2**200).teacher_output == 2**200
    assert as_seeds(None) != as_seeds(None)
    generator = np.random.default_rng(1)
    assert as_seeds(generator) != as_seeds(generator)  # it advances
    assert as_seeds(np.random.default_rng(1)) == as_seeds(np.random.default_rng(1))
    one, two = np.random.SeedSequence(1).spawn(2)
    assert as_seeds(one) != as_seeds(two)
    assert as_seeds(np.random.SeedSequence(1)) == as_seeds(np.random.SeedSequence(1))


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True, np.array([1, 2]), [1], np.float64(2)])
def test_bad_seeds(seed):
    with pytest.raises(kd.errors.ProblemError, match="`rng` must be a non-negative integer seed"):
        as_seeds(seed)
    with pytest.raises(kd.errors.ProblemError, match="`data_order` must be a non-negative integer seed"):
        as_seeds(1).with_seed(data_order=seed)


def test_branches_are_unrelated_and_follow_their_own_source():
    seeds = as_seeds(1)
    branch = seeds.branch("part", 2)
    assert branch == as_seeds(1).branch("part", 2)
    assert (
        len({*seeds.as_dict().values(), *branch.as_dict().values(), *seeds.branch("part", 3).as_dict().values()}) == 11
    )
    other = seeds.with_seed(data_order=9).branch("part", 2)
    assert other.teacher_output == branch.teacher_output
    assert other.data_order != branch.data_order
