"""What only the FAISS store has: files that can be damaged, readers beside a writer, factories."""

import logging
import os
import resource
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest
from store_cases import (
    DIMENSION,
    MANIFEST,
    Oracle,
    assert_same_content,
    assert_same_hits,
    chunks,
    create,
    vectors,
)
from store_writer import in_process, open_briefly

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.errors import StoreError
from autoreg_rag.stores import FileRecord, create_store, open_store
from autoreg_rag.stores.faiss.store import FaissStore

TIDY = {"index.sqlite", "vectors-0.f32", "write.lock"}


@pytest.fixture
def oracle():
    return Oracle("flat")


@pytest.fixture
def store(folder):
    with create("flat", folder) as opened:
        yield opened


def fill(*targets, source="c/a", count=40, version="1"):
    for target in targets:
        target.add(chunks(source, count, version), vectors(count, seed=count), version)
        target.finish_file(FileRecord(source, version, count))


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_writer_in_another_process_is_refused(store, folder):
    error = in_process(open_briefly, folder, True)
    assert f"process {os.getpid()} is writing to {folder}" in str(error)
    assert str(folder / "write.lock") in str(error)
    store.close()
    assert in_process(open_briefly, folder, True) is None


def test_a_reader_sees_what_is_committed_while_another_writes(store, folder, oracle):
    fill(store, oracle)
    with open_store(folder) as reader:
        assert_same_content(reader, oracle)
        with store._writing():
            store._sidecar.remove_file("c/a")
            assert_same_content(reader, oracle)
            assert_same_hits(reader, oracle, vectors(5), 7)
        oracle.remove_file("c/a")
        assert_same_hits(reader, oracle, vectors(5), 7)
        fill(store, oracle, source="c/b", count=9)
        assert_same_hits(reader, oracle, vectors(5), 7)


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
def test_a_reader_follows_when_rows_are_numbered_anew(folder, oracle, factory):
    with create_store("faiss", folder, MANIFEST, factory=factory) as store:
        fill(store, oracle, source="c/a")
        fill(store, oracle, source="c/b", count=50)
        store.optimize()
        with FaissStore(folder, effort=1000) as reader:
            assert_same_hits(reader, oracle, vectors(5), 7)
            for target in (store, oracle):
                target.remove_file("c/a")
            store.optimize()
            assert "vectors-1.f32" in names(folder)
            assert not {"vectors-0.f32", "index-0-90.faiss"} & names(folder)
            assert_same_hits(reader, oracle, vectors(5), 7)
            fill(store, oracle, source="c/c", count=30)
            assert_same_hits(reader, oracle, vectors(5), 7)


def test_a_few_dead_rows_are_kept_and_never_found(store, folder, oracle):
    fill(store, oracle, source="c/a", count=100)
    fill(store, oracle, source="c/b", count=5)
    for target in (store, oracle):
        target.remove_file("c/b")
    store.optimize()
    assert "vectors-0.f32" in names(folder)
    assert_same_hits(store, oracle, vectors(5, seed=5), 200)


def test_what_a_crash_left_is_removed_by_the_next_writer(store, folder, oracle):
    fill(store, oracle)
    store.close()
    assert names(folder) == TIDY
    for name in ("vectors-1.f32", "vectors-1.f32.new", "index-0-40.faiss", "index-0-4.faiss.new"):
        (folder / name).write_bytes(b"half")
    with (folder / "vectors-0.f32").open("ab") as matrix:
        matrix.write(b"uncommitted")
    with open_store(folder) as reader:
        assert_same_hits(reader, oracle, vectors(5), 7)
    with open_store(folder, writable=True) as writer:
        assert_same_hits(writer, oracle, vectors(5), 7)
    assert names(folder) == TIDY
    assert (folder / "vectors-0.f32").stat().st_size == 40 * DIMENSION * 4


def test_rows_that_were_written_but_not_committed_are_overwritten(store, folder, oracle):
    fill(store, oracle)
    too_large = Chunk(chunks("c/b", 1)[0].id, "text", "c/b", 2**70, 2**70 + 4)
    with pytest.raises(OverflowError):  # SQLite finds it, when the vector is written already
        store.add([too_large], vectors(1), "1")
    assert (folder / "vectors-0.f32").stat().st_size == 40 * DIMENSION * 4
    fill(store, oracle, source="c/b", count=9)
    assert_same_hits(store, oracle, vectors(5), 60)


@pytest.mark.parametrize("writable", [False, True])
class TestDamage:
    @pytest.fixture
    def closed(self, store, folder):
        fill(store)
        store.close()
        return folder

    def refused(self, folder, writable, *messages):
        with pytest.raises(StoreError) as caught:
            open_store(folder, writable=writable)
        assert all(message in str(caught.value) for message in messages)
        assert "\n" not in str(caught.value)

    def test_a_truncated_matrix_is_noticed(self, closed, writable):
        os.truncate(closed / "vectors-0.f32", 40 * DIMENSION * 4 - 1)
        self.refused(closed, writable, "vectors-0.f32", "rebuild", "autoreg_rag.index")

    def test_a_missing_matrix_is_noticed(self, closed, writable):
        (closed / "vectors-0.f32").unlink()
        self.refused(closed, writable, "vectors-0.f32", "rebuild", "autoreg_rag.index")

    def test_a_database_of_random_bytes_is_noticed(self, closed, writable):
        (closed / "index.sqlite").write_bytes(np.random.default_rng(0).bytes(9000))
        self.refused(closed, writable, "index.sqlite", "rebuild", "autoreg_rag.index")

    def test_a_truncated_database_is_noticed(self, closed, writable):
        os.truncate(closed / "index.sqlite", 4096)
        self.refused(closed, writable, "index.sqlite", "rebuild", "autoreg_rag.index")

    def test_a_database_of_another_program_is_refused(self, closed, writable):
        (closed / "index.sqlite").unlink()
        with sqlite3.connect(closed / "index.sqlite") as other:
            other.execute("CREATE TABLE notes (text)")
        self.refused(closed, writable, "is not part of an index of autoreg-rag")

    def test_a_layout_of_another_version_is_refused(self, closed, writable):
        with sqlite3.connect(closed / "index.sqlite") as database:
            database.execute("PRAGMA user_version = 99")
        self.refused(closed, writable, "layout 99", "install the version that made it")


@pytest.mark.parametrize(
    ("text_length", "limit"), [(10, 60_000), (30_000, 400_000)], ids=["vectors", "texts"]
)
def test_without_space_nothing_is_half_written(folder, oracle, text_length, limit):
    create("flat", folder).close()
    error, added = in_process(fill_until_full, folder, text_length, limit)
    assert str(folder) in str(error)
    with open_store(folder, writable=True) as store:
        assert 0 < len(store) == added
        oracle.add(long_chunks(added, text_length), vectors(added), "1")
        assert_same_content(store, oracle)
        assert_same_hits(store, oracle, vectors(5), 7)


def fill_until_full(folder, text_length, limit):
    """Add chunks until no file may grow any more; return the error and what was stored."""
    with open_store(folder, writable=True) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            for start in range(0, 2000, 10):
                some = long_chunks(start + 10, text_length)[start:]
                store.add(some, vectors(start + 10)[start:], "1")
        except StoreError as error:
            return str(error), len(store)
    return None, 2000


def long_chunks(count, text_length):
    return [
        Chunk(chunk.id, "x" * text_length, chunk.source, 0, text_length)
        for chunk in chunks("c/long", count)
    ]


def test_an_index_that_may_only_be_read_can_be_searched(folder, oracle):
    with create("flat", folder) as store:
        fill(store, oracle)
    for path in (folder, folder.parent, folder.parent.parent, *folder.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    hits, error = in_process(search_as_nobody, folder)
    assert [hit.chunk for hit in hits] == [c for _, c in oracle.search(vectors(1), 5)[0]]
    assert "no right to use" in error
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)


def search_as_nobody(folder):
    if os.geteuid() == 0:
        os.setuid(65534)
    with open_store(folder) as reader:
        hits = reader.search(vectors(1), 5)[0]
    try:
        open_store(folder, writable=True)
    except StoreError as error:
        return hits, str(error)


def test_searches_in_several_threads_give_what_each_would_alone(store):
    fill(store, count=60)
    queries = vectors(32, seed=3)
    alone = [store.search(query[None], 5) for query in queries]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda query: store.search(query[None], 5), queries)) == alone


def test_half_precision_takes_half_the_space(folder):
    with create("float16", folder) as store:
        fill(store)
        assert store.float16
    assert (folder / "vectors-0.f16").stat().st_size == 40 * DIMENSION * 2


class TestApproximate:
    def test_finds_rows_that_came_after_it_and_takes_them_up(self, folder, oracle):
        with create_store("faiss", folder, MANIFEST, factory="HNSW8") as store:
            fill(store, oracle, source="c/a", count=30)
            store.optimize()
            assert "index-0-30.faiss" in names(folder)
            fill(store, oracle, source="c/b", count=20)
            assert_same_hits(store, oracle, vectors(5), 50)
            store.optimize()
            assert "index-0-50.faiss" in names(folder)
            assert "index-0-30.faiss" not in names(folder)
            assert_same_hits(store, oracle, vectors(5), 50)

    def test_never_finds_a_row_without_a_chunk(self, folder, oracle):
        with create_store("faiss", folder, MANIFEST, factory="HNSW8") as store:
            fill(store, oracle, source="c/a", count=100)
            store.optimize()
            for target in (store, oracle):
                target.add(chunks("c/a", 10), vectors(10, seed=1), "1")
            assert_same_hits(store, oracle, chunks_vectors(), 110)
            store.optimize()
            assert_same_hits(store, oracle, chunks_vectors(), 110)

    @pytest.mark.parametrize("factory", ["IVF8,Flat", "IVF8,SQ8", "HNSW16_SQ8"])
    def test_finds_most_of_what_is_near_and_scores_it_exactly(self, folder, oracle, factory):
        with create_store("faiss", folder, MANIFEST, factory=factory) as store:
            fill(store, oracle, count=400)
            store.optimize()
            assert "index-0-400.faiss" in names(folder)
            queries = vectors(50, seed=4)
            found = store.search(queries, 5)
            expected = oracle.search(queries, 5)
        shared = sum(
            len({hit.chunk.id for hit in hits} & {chunk.id for _, chunk in wanted})
            for hits, wanted in zip(found, expected, strict=True)
        )
        assert shared >= 0.7 * 250
        exact = {(place, c.id): s for place, row in enumerate(expected) for s, c in row}
        for place, hits in enumerate(found):
            for hit in hits:
                wanted = exact.get((place, hit.chunk.id), hit.score)
                assert hit.score == pytest.approx(wanted, abs=1e-6)

    def test_one_that_leads_to_too_few_rows_is_not_relied_on(self, folder, oracle):
        with create_store("faiss", folder, MANIFEST, factory="IVF32,Flat") as store:
            fill(store, oracle, count=400)
            store.optimize()
        with FaissStore(folder, effort=1) as store:
            assert_same_hits(store, oracle, vectors(5), 200)

    def test_is_searched_exactly_with_a_filter(self, folder, oracle):
        with create_store("faiss", folder, MANIFEST, factory="IVF32,Flat") as store:
            fill(store, oracle, count=400)
            store.optimize()
        with FaissStore(folder, effort=1) as store:
            assert_same_hits(store, oracle, vectors(5), 3, {"draft": True})

    def test_too_few_vectors_are_worth_a_warning_and_searched_exactly(self, folder, oracle, caplog):
        factory, enough = "IVF64,Flat", 64
        with create_store("faiss", folder, MANIFEST, factory=factory) as store:
            fill(store, oracle, count=enough - 1)
            store.optimize()
            assert f"{enough - 1} vectors are too few to train '{factory}'" in caplog.text
            assert_same_hits(store, oracle, vectors(5), 7)
            assert not list(folder.glob("index-*"))
            fill(store, oracle, source="c/b", count=1)
            store.optimize()
            assert f"index-0-{enough}.faiss" in names(folder)

    def test_one_that_the_writer_removes_while_a_reader_opens_it_is_looked_for_again(
        self, folder, oracle, monkeypatch
    ):
        def read(path, flags):
            monkeypatch.undo()
            fill(store, oracle, source="c/c", count=9)
            store.optimize()  # deletes the file at this path
            return faiss.read_index(path, flags)

        with create_store("faiss", folder, MANIFEST, factory="HNSW8") as store:
            fill(store, oracle)
            store.optimize()
            with FaissStore(folder, effort=10_000) as reader:
                fill(store, oracle, source="c/b", count=9)
                store.optimize()
                monkeypatch.setattr(faiss, "read_index", read)
                assert_same_hits(reader, oracle, vectors(5), 7)

    def test_what_cannot_be_written_is_an_error(self, folder, oracle, monkeypatch):
        def full(index, path):
            raise RuntimeError("Error in write at io.cpp:1: write error: No space left on device")

        with create_store("faiss", folder, MANIFEST, factory="IVF4,Flat") as store:
            fill(store, oracle)
            monkeypatch.setattr(faiss, "write_index", full)
            with pytest.raises(StoreError, match=r"cannot build .* over 40 vectors .*No space"):
                store.optimize()
            assert_same_hits(store, oracle, vectors(5), 7)

    @pytest.mark.parametrize(
        "factory",
        [
            "",
            "nonsense",
            "HNSW-1",
            "HNSW0",
            "HNSW1",
            "HNSW1_SQ8",
            "IVF4_HNSW1,Flat",
            "IVF0,Flat",
            "IVF4,PQ3",
            "HNSW99999999999",
            "PCA8,IVF4,Flat",
            "HNSW16,PQ8",
        ],
    )
    def test_a_factory_that_cannot_be_used_is_refused_before_anything_is_made(
        self, folder, factory
    ):
        with pytest.raises(StoreError, match="factory") as caught:
            create_store("faiss", folder, MANIFEST, factory=factory)
        assert not any(part in str(caught.value) for part in ("::", ".cpp", "stoi", "\n"))
        assert not folder.exists()

    def test_few_vectors_for_the_lists_are_worth_a_warning(self, folder, caplog):
        with create_store("faiss", folder, MANIFEST, factory="IVF8,Flat") as store:
            fill(store, count=40)
            with caplog.at_level(logging.WARNING):
                store.optimize()
        assert "40 vectors are few for 8 lists" in caplog.text

    def test_is_trained_anew_when_the_rows_have_grown_far(self, quick_folder):
        narrow = vectors(1) + 0.1 * vectors(40, seed=1)

        def found(optimized_between):
            folder = quick_folder() / "index"
            with create_store("faiss", folder, MANIFEST, factory="IVF8,Flat") as store:
                store.add(chunks("c/a", 40), narrow, "1")
                if optimized_between:
                    store.optimize()
                fill(store, source="c/b", count=360)
                store.optimize()
            with FaissStore(folder, effort=1) as store:
                return store.search(vectors(50, seed=4), 5)

        assert found(optimized_between=True) == found(optimized_between=False)

    def test_is_trained_anew_rarely(self, folder, caplog):
        with create_store("faiss", folder, MANIFEST, factory="IVF8,Flat") as store:
            for source in map(str, range(28)):
                store.add(chunks(source, 10), vectors(10, seed=int(source)), "1")
                store.optimize()
        rows = [record.args[0] for record in caplog.records if "few for" in record.message]
        assert rows == [10, 20, 70, 260]  # since 4, 16, 64 and 256

    def test_can_be_chosen_and_given_up_later(self, folder, oracle):
        with create_store("faiss", folder, MANIFEST) as store:
            fill(store, oracle)
        with create_store("faiss", folder, MANIFEST, factory="HNSW8") as store:
            store.optimize()
            assert "index-0-40.faiss" in names(folder)
        with create_store("faiss", folder, MANIFEST) as store:
            assert store.factory == "HNSW8"
        with create_store("faiss", folder, MANIFEST, factory="Flat") as store:
            store.optimize()
            assert_same_hits(store, oracle, vectors(5), 7)
        assert names(folder) == TIDY

    def test_one_that_was_deleted_is_built_anew(self, folder, oracle):
        with create_store("faiss", folder, MANIFEST, factory="HNSW8") as store:
            fill(store, oracle)
            store.optimize()
        (folder / "index-0-40.faiss").write_bytes(b"not an index")
        with pytest.raises(StoreError, match="delete it and run the index command again"):
            open_store(folder)
        (folder / "index-0-40.faiss").unlink()
        with pytest.raises(StoreError, match="run the index command again"):
            open_store(folder)
        with open_store(folder, writable=True) as store:
            store.optimize()
            assert_same_hits(store, oracle, vectors(5), 7)
        assert "index-0-40.faiss" in names(folder)


def chunks_vectors():
    return np.concatenate([vectors(10, seed=100), vectors(10, seed=1)])
