"""A process that is killed at any moment loses nothing and stores nothing twice."""

import numpy as np
import pytest
from store_cases import DIMENSION, Oracle, assert_same_content, create, reopen, vector_of
from store_writer import FIRST, SECOND, index, run

from autoreg_rag.stores import open_store

FOLDERS = 3
DEATHS = 3
"""Of each kind of store, so many folders, in each of which so many processes die."""


@pytest.fixture(params=["flat", "hnsw", "qdrant"])
def kind(request):
    return request.param


@pytest.fixture
def expected(kind):
    oracle = Oracle(kind)
    index(oracle, FIRST)
    index(oracle, SECOND)
    return oracle


def test_a_killed_process_can_be_continued_to_the_same_end(kind, expected, quick_folder):
    events = run(kind, quick_folder() / "index")
    random = np.random.default_rng(0)
    deaths = 0
    for _ in range(FOLDERS):
        folder = quick_folder() / "index"
        plans = [
            # The index is made, then filled; later processes have less to do.
            {"die_at": int(random.integers(1, 40))},
            {"die_at": int(random.integers(1, events // 2))},
            {"parent_kills_at": int(random.integers(1, 5))},
        ]
        for plan in plans:
            deaths += run(kind, folder, **plan) is None
            assert_intact(folder)
        run(kind, folder)
        assert_complete(kind, folder, expected)
    assert deaths == FOLDERS * DEATHS


def test_a_process_can_be_killed_at_every_step_of_making_an_index(kind, expected, quick_folder):
    folder = quick_folder() / "index"
    for _ in ("making it", "opening it"):
        deaths = 0
        while run(kind, folder, corpora=(), die_at=deaths + 1) is None:
            deaths += 1
            assert_intact(folder)
        assert deaths > 2
    run(kind, folder)
    assert_complete(kind, folder, expected)
    for left in set(folder.parent.iterdir()) - {folder}:
        assert list(left.iterdir()) == []  # killed before it was locked, and known as ours


def assert_intact(folder) -> None:
    """Assert that what is there is whole, can be searched, and is right."""
    if not folder.exists():
        return
    with open_store(folder) as store:
        found = list(store.chunks())
        assert len(store) == len(found) == len({chunk.id for chunk in found})
        queries = np.array([vector_of(chunk.id) for chunk in found]).reshape(-1, DIMENSION)
        for chunk, (best,) in zip(found, store.search(queries, 1), strict=True):
            assert best.chunk == chunk
            assert best.score == pytest.approx(1, abs=1e-6)
        counts = {record.source: record.chunks for record in store.files()}
        for source, count in counts.items():
            assert sum(chunk.source == source for chunk in found) >= count


def assert_complete(kind, folder, expected) -> None:
    queries = np.array([vector_of(chunk.id) for chunk in expected.chunks()])
    with reopen(kind, folder) as store:
        assert_same_content(store, expected)
        for hits, wanted in zip(store.search(queries, 5), expected.search(queries, 5), strict=True):
            assert [hit.chunk for hit in hits] == [chunk for _, chunk in wanted]
            np.testing.assert_allclose([h.score for h in hits], [s for s, _ in wanted], atol=1e-6)
    with create(kind, folder) as store:
        assert_same_content(store, expected)
