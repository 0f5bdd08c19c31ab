"""What every store must do, compared with a plain one."""

import uuid
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from store_cases import (
    DIMENSION,
    KINDS,
    MANIFEST,
    Oracle,
    assert_same_content,
    assert_same_hits,
    chunks,
    create,
    reopen,
    vector_of,
    vectors,
)

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.errors import StoreError
from autoreg_rag.stores import FileRecord, Manifest, open_store
from autoreg_rag.stores.where import matches

COUNT = 24


@pytest.fixture(params=KINDS, scope="module")
def kind(request):
    return request.param


@pytest.fixture
def oracle(kind):
    return Oracle(kind)


@pytest.fixture
def store(kind, folder):
    create(kind, folder).close()
    with reopen(kind, folder) as opened:
        yield opened


@pytest.fixture
def filled(store, oracle):
    """Give a store with three finished files, optimized."""
    fill(store, oracle)
    return store


@pytest.fixture(scope="module")
def shelf(kind, quick_folder):
    """Give a store like `filled`, for tests that only search, and its oracle."""
    folder = quick_folder() / "index"
    create(kind, folder).close()
    with reopen(kind, folder) as opened:
        oracle = Oracle(kind)
        fill(opened, oracle)
        yield opened, oracle


def fill(store, oracle):
    for place, source in enumerate(["docs/a.md", "docs/b é.txt", "docs/漢.pdf"]):
        some, rows = chunks(source, COUNT), vectors(COUNT, seed=place)
        for target in (store, oracle):
            target.add(some[:20], rows[:20], "1")
            target.add(some[20:], rows[20:], "1")
            target.finish_file(FileRecord(source, "1", COUNT))
    store.optimize()


def test_holds_what_was_added(shelf):
    assert_same_content(*shelf)


def test_finds_the_nearest_chunks_of_every_query(shelf):
    assert_same_hits(*shelf, vectors(25, seed=9), 10)


def test_finds_all_chunks_when_asked_for_more_than_there_are(shelf):
    assert_same_hits(*shelf, vectors(3, seed=9), 10**9)


def test_a_query_finds_the_same_alone_and_among_others(shelf):
    store, _ = shelf
    queries = vectors(40, seed=8)
    together = store.search(queries, 5)
    assert [store.search(query[None], 5)[0] for query in queries] == together


@pytest.mark.parametrize(
    "where",
    [
        {"source": "docs/b é.txt"},
        {"source": ["docs/a.md", "docs/漢.pdf"]},
        {"page": 3},
        {"page": 3.0},
        {"page": [0, 1, 17]},
        {"ratio": 0.125},
        {"ratio": 2},
        {"draft": True},
        {"draft": [False, "no"]},
        {"draft": 1},
        {"page": True},
        {"page": "3"},
        {"title": "naïve café"},
        {"title": "plain\0"},
        {"title": ["plain", "漢字かな"], "draft": False},
        {"odd.key \\[0] $'%ü": "y"},
        {"source": "docs/a.md", "page": [1, 2], "draft": True},
        {"source": "docs/a"},
        {"unknown": "x"},
        {"page": 2**60},
        {"page": []},
        {},
    ],
    ids=str,
)
def test_finds_only_chunks_that_meet_the_filter(shelf, where):
    assert_same_hits(*shelf, vectors(4, seed=7), 50, where)


@pytest.mark.parametrize(
    "value", [None, float("nan"), [10**400], [-(10**5000)], [["x"]], {"a": 1}.items(), b"3"]
)
def test_refuses_a_filter_that_means_nothing(shelf, value):
    store, _ = shelf
    with pytest.raises(StoreError, match="cannot filter 'page'"):
        store.search(vectors(1), 5, {"page": value})
    with pytest.raises(StoreError, match="values by key"):
        store.search(vectors(1), 5, "page=1")
    for key in (3, None, b"page"):
        with pytest.raises(StoreError, match=f"cannot filter by the key {key}: use text"):
            store.search(vectors(1), 5, {key: 1})


@pytest.mark.parametrize("key", ["odd\0key", "odd\ud800key"])
def test_a_filters_key_is_read_as_metadata_is_stored(store, key):
    chunk = replace(chunks("docs/a", 1)[0], metadata={"odd\ufffdkey": 1})
    store.add([chunk], vectors(1), "1")
    (hits,) = store.search(vectors(1), 9, {key: 1})
    assert [hit.chunk for hit in hits] == [chunk]
    assert matches(chunk, {key: 1})


def test_an_empty_store_finds_nothing(store, oracle):
    store.optimize()
    assert_same_content(store, oracle)
    assert store.search(vectors(2), 5) == [[], []]
    assert store.search(vectors(2), 5, {"page": 1}) == [[], []]


def test_no_queries_give_no_results(shelf):
    store, _ = shelf
    assert store.search(np.empty((0, DIMENSION), np.float32), 5) == []


@pytest.mark.parametrize("k", [1, 3, 29, 60])
def test_equal_scores_are_ordered_by_id_even_at_the_cut(store, oracle, kind, k):
    some = chunks("docs/a", 60)
    same, other = vectors(2)
    rows = np.stack([other if place % 7 == 3 else same for place in range(60)])
    for target in (store, oracle):
        target.add(some[::-1], rows[::-1], "1")
    if kind == "hnsw":  # a graph does not lead to every one of many equal vectors
        store.optimize()
        found = [hit.chunk.id for hit in store.search(same[None], k)[0] if hit.score > 0.999]
        assert found == sorted(found)
        assert len(found) == min(k, 51)
    else:
        assert_same_hits(store, oracle, np.stack([same, other]), k)
    assert_same_hits(store, oracle, np.stack([same, other]), k, {"draft": True})


def test_an_id_that_comes_again_is_replaced(filled, oracle):
    old = chunks("docs/a.md", COUNT)[5]
    new = Chunk(old.id, "another text", old.source, 1, 2, {"page": 99})
    for target in (filled, oracle):
        target.add([old, new], vectors(2, seed=5), "1")
    assert_same_content(filled, oracle)
    assert_same_hits(filled, oracle, vectors(2, seed=5), 5)
    assert_same_hits(filled, oracle, vectors(2, seed=5), 5, {"page": 99})


def test_a_file_that_is_replaced_has_old_and_new_chunks_until_it_is_finished(filled, oracle):
    new = chunks("docs/a.md", 20, "2")
    for target in (filled, oracle):
        target.add(new, vectors(20, seed=5), "2")
    assert len(filled) == 3 * COUNT + 20
    assert filled.file("docs/a.md") == FileRecord("docs/a.md", "1", COUNT)
    assert_same_hits(filled, oracle, vectors(20, seed=5), 9)
    for target in (filled, oracle):
        target.finish_file(FileRecord("docs/a.md", "2", 20))
    assert len(filled) == 2 * COUNT + 20
    assert filled.file("docs/a.md") == FileRecord("docs/a.md", "2", 20)
    assert_same_content(filled, oracle)
    assert_same_hits(filled, oracle, vectors(20, seed=5), 9)


def test_a_removed_file_is_gone_with_its_chunks(filled, oracle):
    for target in (filled, oracle):
        target.remove_file("docs/b é.txt")
        target.remove_file("docs/never there")
    assert filled.file("docs/b é.txt") is None
    assert_same_content(filled, oracle)
    assert_same_hits(filled, oracle, vectors(20, seed=1), 9)
    filled.optimize()
    assert_same_content(filled, oracle)
    assert_same_hits(filled, oracle, vectors(20, seed=1), 9)


def test_discarding_an_unfinished_version_keeps_the_finished_one(filled, oracle):
    for target in (filled, oracle):
        target.add(chunks("docs/a.md", 20, "2"), vectors(20, seed=5), "2")
        target.add(chunks("docs/new.md", 20, "2"), vectors(20, seed=6), "2")
    assert "docs/new.md" in list(filled.sources())
    for target in (filled, oracle):
        target.discard("docs/a.md", "2")
        target.discard("docs/new.md", "2")
    assert_same_content(filled, oracle)
    assert_same_hits(filled, oracle, vectors(20, seed=5), 9)


def test_a_record_says_how_much_of_its_file_could_not_be_read(store, oracle, kind, folder):
    record = FileRecord("docs/a", "1", 0, failed=3)
    for target in (store, oracle):
        target.finish_file(record)
    assert store.file("docs/a") == record
    store.close()
    with reopen(kind, folder, writable=False) as again:
        assert_same_content(again, oracle)


def test_a_file_without_chunks_can_be_done(store, oracle):
    for target in (store, oracle):
        target.add([], np.empty((0, DIMENSION), np.float32), "1")
        target.finish_file(FileRecord("docs/empty", "1", 0))
    assert_same_content(store, oracle)


def test_everything_is_there_after_reopening(filled, oracle, kind, folder):
    filled.remove_file("docs/a.md")
    oracle.remove_file("docs/a.md")
    filled.close()
    filled.close()
    for writable in (False, True):
        with reopen(kind, folder, writable) as again:
            assert again.manifest == MANIFEST
            assert_same_content(again, oracle)
            assert_same_hits(again, oracle, vectors(5, seed=2), 9)


def test_says_which_ids_are_present(shelf):
    store, _ = shelf
    known = [chunk.id for chunk in chunks("docs/a.md", COUNT)]
    unknown = [chunk.id for chunk in chunks("docs/a.md", COUNT, "2")]
    assert store.present([*known, *unknown]) == set(known)
    assert store.present(unknown) == set()
    assert store.present([]) == set()
    odd = [known[0].upper(), "", "no id of ours", 17]
    assert store.present([*odd, known[0]]) == {known[0]}
    with pytest.raises(KeyError, match="no id of ours"):
        store.get([known[0], "no id of ours"])


def test_gives_chunks_by_id_in_the_order_asked(shelf):
    store, _ = shelf
    some = chunks("docs/漢.pdf", COUNT)[20:3:-2]
    assert store.get([chunk.id for chunk in some]) == some
    assert store.get([]) == []
    unknown = chunks("docs/x", 1)[0].id
    with pytest.raises(KeyError, match=unknown):
        store.get([some[0].id, unknown])


def test_metadata_comes_back_as_it_was_whatever_its_keys(store):
    metadata = {
        "source": "mine", "start": "mine", "text": "t", "page_content": 1, "metadata": 2.5,
        "doc_id": True, "_chunk": "c", "_node_content": "n", 'a"b': 1, "": "empty", "big": 2**53,
    }  # fmt: skip
    chunk = Chunk(chunks("docs/a", 1)[0].id, "text", "docs/a", 3, 9, metadata)
    store.add([chunk], vectors(1), "1")
    assert list(store.chunks()) == [chunk]
    assert store.search(vectors(1), 1, {"source": "docs/a"})[0][0].chunk == chunk
    assert store.search(vectors(1), 1, {"source": "mine"}) == [[]]
    for key, value in metadata.items():
        if key not in ("source", 'a"b', ""):  # Qdrant cannot address the last two
            (hits,) = store.search(vectors(1), 1, {key: value})
            assert [hit.chunk for hit in hits] == [chunk]
            assert matches(chunk, {key: value})
    types = {key: type(value) for key, value in metadata.items()}
    assert {key: type(value) for key, value in next(store.chunks()).metadata.items()} == types


@pytest.mark.parametrize(
    "where", [{"start": 12.5}, {"end": "late"}, {"start": [1, 12.5], "end": "late"}, {"start": 30}]
)
def test_a_filter_looks_at_a_record_s_own_start_and_end(store, where):
    rows = chunks("docs/a", 5)
    own = replace(rows[3], metadata={"start": 12.5, "end": "late"})
    store.add([*rows[:3], own, rows[4]], vectors(5), "1")
    (hits,) = store.search(vectors(1), 9, where)
    found = [hit.chunk for hit in hits]
    assert found == ([own] if where != {"start": 30} else [])  # 30 is its offset
    assert found == [chunk for chunk in store.chunks() if matches(chunk, where)]


def test_the_revision_changes_with_the_chunks_and_only_then(store):
    revisions = [store.revision()]
    for change in (
        lambda: store.add(chunks("docs/a", 5), vectors(5), "1"),
        lambda: store.finish_file(FileRecord("docs/a", "1", 5)),
        lambda: store.add(chunks("docs/a", 5, "2"), vectors(5), "2"),
        lambda: store.finish_file(FileRecord("docs/a", "2", 5)),
        lambda: store.add(chunks("docs/b", 5), vectors(5), "1"),
        lambda: store.discard("docs/b", "1"),
        lambda: store.remove_file("docs/a"),
    ):
        change()
        revisions.append(store.revision())
        store.search(vectors(1), 5)
        assert store.revision() == revisions[-1]
    assert len(set(revisions)) == len(revisions)


def test_the_manifest_can_be_replaced(store, kind, folder):
    manifest = Manifest("other", "b/model", DIMENSION, {"x": "/y z"})
    store.write_manifest(manifest)
    assert store.manifest == manifest
    store.close()
    with reopen(kind, folder, writable=False) as again:
        assert again.manifest == manifest


def test_sources_may_be_removed_while_they_are_listed(filled):
    for source in filled.sources():
        filled.remove_file(source)
    assert len(filled) == 0


def test_a_store_opened_for_reading_cannot_be_written(filled, kind, folder):
    filled.close()
    with open_store(folder) as reader:
        for write in (
            lambda: reader.add(chunks("docs/x", 1), vectors(1), "1"),
            lambda: reader.finish_file(FileRecord("docs/x", "1", 1)),
            lambda: reader.remove_file("docs/a.md"),
            lambda: reader.discard("docs/a.md", "1"),
            lambda: reader.write_manifest(MANIFEST),
        ):
            with pytest.raises(StoreError, match="opened for reading"):
                write()
        assert len(reader) == 3 * COUNT


def test_a_store_that_was_closed_says_so(filled, folder):
    filled.close()
    with open_store(folder) as store:
        store.close()
        for use in (lambda: len(store), lambda: store.search(vectors(1), 3)):
            with pytest.raises(StoreError, match="was closed: open it again"):
                use()


def test_a_second_writer_is_refused(filled, kind, folder):
    with pytest.raises(StoreError, match="wait until it is done"):
        open_store(folder, writable=True)
    with pytest.raises(StoreError, match="wait until it is done"):
        create(kind, folder)
    filled.close()
    with open_store(folder, writable=True) as again:
        assert len(again) == 3 * COUNT


@pytest.mark.parametrize(
    ("chunk", "vector", "message"),
    [
        (chunks("a", 1)[0], np.zeros((1, DIMENSION + 1)), "shape"),
        (chunks("a", 1)[0], np.zeros((2, DIMENSION)), "shape"),
        (chunks("a", 1)[0], np.full((1, DIMENSION), np.nan), "not finite"),
        (Chunk(chunks("a", 1)[0].id, "half \ud83d", "a", 0, 6), vectors(1), "half a character"),
        (Chunk(chunks("a", 1)[0].id, "x", "a", 0, 1, {"n": float("nan")}), vectors(1), "metadata"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_changes_nothing(shelf, chunk, vector, message):
    store, oracle = shelf
    with pytest.raises(StoreError, match=message):
        store.add([chunk], vector, "1")
    assert_same_content(store, oracle)


def test_queries_that_make_no_sense_are_refused(shelf):
    store, _ = shelf
    with pytest.raises(StoreError, match="shape"):
        store.search(vectors(1)[:, 1:], 5)
    with pytest.raises(StoreError, match="1 or more"):
        store.search(vectors(1), 0)


class Behaviour(RuleBasedStateMachine):
    """Any series of operations leaves a store as it leaves the oracle."""

    sources = st.sampled_from(["c/one", "c/two", "c/três"])
    versions = st.sampled_from(["1", "2"])
    quick_folder = None

    @initialize(kind=st.sampled_from(KINDS))
    def start(self, kind):
        self.kind, self.folder = kind, self.quick_folder() / "index"
        create(kind, self.folder).close()
        self.store, self.oracle = reopen(kind, self.folder), Oracle(kind)

    @rule(source=sources, version=versions, first=st.integers(0, 6), count=st.integers(0, 6))
    def add(self, source, version, first, count):
        some = chunks(source, 12, version)[first : first + count]
        rows = np.array([vector_of(chunk.id) for chunk in some]).reshape(-1, DIMENSION)
        self.both("add", some, rows.astype(np.float32), version)

    @rule(source=sources, version=versions)
    def finish_file(self, source, version):
        self.both("finish_file", FileRecord(source, version, 3))

    @rule(source=sources)
    def remove_file(self, source):
        self.both("remove_file", source)

    @rule(source=sources, version=versions)
    def discard(self, source, version):
        self.both("discard", source, version)

    @rule()
    def optimize(self):
        self.both("optimize")

    @rule()
    def reopen(self):
        self.store.close()
        self.store = reopen(self.kind, self.folder)

    @rule(seed=st.integers(0, 99), k=st.integers(1, 30), source=sources)
    def search(self, seed, k, source):
        queries = vectors(2, seed)
        assert_same_hits(self.store, self.oracle, queries, k)
        assert_same_hits(self.store, self.oracle, queries, k, {"source": source, "draft": True})

    @invariant()
    def same_content(self):
        if hasattr(self, "store"):
            assert_same_content(self.store, self.oracle)

    def both(self, method, *arguments):
        for target in (self.store, self.oracle):
            getattr(target, method)(*arguments)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()


def test_any_series_of_operations_leaves_a_store_as_it_leaves_the_oracle(quick_folder):
    class InFolder(Behaviour):
        pass

    InFolder.quick_folder = staticmethod(quick_folder)
    run_state_machine_as_test(
        InFolder,
        settings=settings(max_examples=24, stateful_step_count=20, derandomize=True, database=None),
    )


def test_metadata_is_replaced_and_nothing_else(filled):
    before = list(filled.chunks())
    files = list(filled.files())
    queries = vectors(4, seed=9)
    found = filled.search(queries, 50)
    changed = [replace(c, metadata={**c.metadata, "extra": i / 7}) for i, c in enumerate(before)]
    gone = Chunk(str(uuid.uuid4()), "not stored", "docs/a.md", 0, 10, {"extra": 1.0})
    filled.set_metadata([*changed[:30], gone])
    assert list(filled.chunks()) == changed[:30] + before[30:]
    assert list(filled.files()) == files
    for hits, earlier in zip(filled.search(queries, 50), found, strict=True):
        assert [hit.chunk.id for hit in hits] == [hit.chunk.id for hit in earlier]
        assert [hit.score for hit in hits] == pytest.approx(
            [hit.score for hit in earlier], abs=1e-6
        )
    (hits,) = filled.search(queries[:1], 50, {"extra": 5 / 7})
    assert [hit.chunk for hit in hits] == [changed[5]]
    filled.set_metadata([before[5]])  # a key that is left out is gone
    assert list(filled.search(queries[:1], 50, {"extra": 5 / 7})) == [[]]
    filled.set_metadata([])
    filled.remove_file("docs/a.md")  # the changed chunks still belong to their files
    assert not any(chunk.source == "docs/a.md" for chunk in filled.chunks())


def test_metadata_that_cannot_be_stored_is_refused(filled):
    before = list(filled.chunks())
    with pytest.raises(StoreError, match="cannot be stored"):
        filled.set_metadata([replace(before[0], metadata={"bad": float("nan")})])
    assert list(filled.chunks()) == before
