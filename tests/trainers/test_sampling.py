from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from autoreg_trainers.sampling import SourceSampler


def sources(counts: dict[str, int]) -> list[str]:
    rows = [name for name, count in counts.items() for _ in range(count)]
    return np.random.default_rng(5).permutation(rows).tolist()


def batches(sampler: SourceSampler, size: int) -> list[list[int]]:
    order = list(sampler)
    return [order[start : start + size] for start in range(0, len(order), size)]


@pytest.mark.parametrize(
    ("counts", "size"),
    [
        ({"a": 17, "b": 9, "c": 3}, 4),
        ({"a": 8, "b": 8}, 4),
        ({"a": 3, "b": 2}, 8),
        ({"a": 1}, 1),
        ({}, 4),
    ],
)
def test_every_row_comes_once_and_whole_batches_are_of_one_source(counts, size):
    names = sources(counts)
    found = batches(SourceSampler(names, size, seed=3), size)
    assert sorted(row for batch in found for row in batch) == list(range(len(names)))
    alone = Counter(
        names[batch[0]]
        for batch in found
        if len(batch) == size and len({names[row] for row in batch}) == 1
    )
    assert all(alone[name] >= count // size for name, count in counts.items())
    assert all(len(batch) == size for batch in found[:-1])


def test_the_order_follows_seed_and_epoch():
    names = sources({"a": 40, "b": 40, "c": 40})
    first, second = SourceSampler(names, 8, seed=1), SourceSampler(names, 8, seed=1)
    start = list(first)
    assert list(second) == start
    first.set_epoch(1)
    later = list(first)
    assert later != start
    second.set_epoch(1)
    assert list(second) == later
    assert list(SourceSampler(names, 8, seed=2)) != start


def test_sources_take_turns():
    names = sources({"a": 400, "b": 400})
    found = batches(SourceSampler(names, 8, seed=0), 8)
    changes = sum(names[one[0]] != names[other[0]] for one, other in pairwise(found))
    assert changes > 25
