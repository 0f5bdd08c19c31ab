import logging
import os
import sqlite3
from contextlib import closing

import pytest
from qdrant_client import QdrantClient

from autoreg_rag.corpus import Chunker, read_documents
from autoreg_rag.errors import CorpusError, ReadError, StoreError
from autoreg_rag.index.indexer import Indexer
from autoreg_rag.stores import Manifest, create_store, open_store
from autoreg_rag.stores.faiss.store import FaissStore
from autoreg_rag.stores.qdrant.store import QdrantStore
from tests.index.conftest import contents, texts_by_source


def test_chunks_point_into_their_files(run, corpus, tmp_path, tiny_model):
    summary = run(corpus.folder)
    assert (summary.added, summary.files, summary.failed) == (3, 3, 0)
    with open_store(tmp_path / "index") as store:
        chunks, files = contents(store, tiny_model)
        assert summary.chunks == summary.encoded == len(chunks) == len(store)
    assert [file.source for file in files] == ["corpus/a.txt", "corpus/b.md", "corpus/deep/c.txt"]
    assert sum(file.chunks for file in files) == len(chunks)
    assert sum(chunk.source == "corpus/a.txt" for chunk in chunks.values()) > 3
    for chunk in chunks.values():
        text = (corpus.folder.parent / chunk.source).read_text()
        assert text[chunk.start : chunk.end] == chunk.text


def test_a_second_run_does_nothing(run, corpus, tmp_path, tiny_model):
    run(corpus.folder)
    with open_store(tmp_path / "index") as store:
        before = contents(store, tiny_model)
    summary = run(corpus.folder)
    assert (summary.unchanged, summary.encoded, summary.removed) == (3, 0, 0)
    with open_store(tmp_path / "index") as store:
        assert contents(store, tiny_model) == before


def test_a_run_that_removes_does_not_say_that_there_was_nothing_to_do(run, corpus):
    run(corpus.folder)
    summary = run(corpus.folder, excludes=["*.md"])
    assert (summary.removed, summary.encoded) == (1, 0)
    assert "nothing to encode" in "\n".join(summary.lines())


def test_changed_files_are_replaced_and_missing_ones_removed(run, corpus, tmp_path, tiny_model):
    run(corpus.folder)
    corpus.write("a.txt", "Now it is about birds.")
    corpus.write("new.txt", "A new file.")
    (corpus.folder / "b.md").unlink()
    summary = run(corpus.folder)
    assert (summary.added, summary.replaced, summary.unchanged, summary.removed) == (1, 1, 1, 1)
    with open_store(tmp_path / "index") as store:
        changed = contents(store, tiny_model)
        assert texts_by_source(store) == {
            "corpus/a.txt": ["Now it is about birds."],
            "corpus/deep/c.txt": ["A compiler turns source code into machine code."],
            "corpus/new.txt": ["A new file."],
        }
    run(corpus.folder, place=tmp_path / "fresh")
    with open_store(tmp_path / "fresh") as store:
        assert contents(store, tiny_model) == changed


def test_another_chunk_size_cuts_every_file_anew(run, corpus, tmp_path):
    first = run(corpus.folder)
    second = run(corpus.folder, size=64)
    assert second.replaced == 3
    assert second.chunks < first.chunks


def test_a_bad_file_is_listed_and_the_others_are_indexed(run, corpus, tmp_path, tiny_model):
    corpus.write("bad.txt", b"\x00\x01\x02 binary \x00")
    corpus.write("picture.xyz", b"unknown")
    corpus.write("empty.txt", "")
    summary = run(corpus.folder)
    assert (summary.added, summary.empty) == (4, 1)
    assert (summary.skipped, summary.failed) == (1, 1)
    assert summary.skips == ["corpus/picture.xyz: not a known format"]
    (failure,) = summary.failures
    assert "corpus/bad.txt" in failure
    assert "binary" in failure


def test_a_file_that_turns_bad_keeps_its_old_chunks(run, corpus, tmp_path):
    run(corpus.folder)
    corpus.write("a.txt", b"\x00\x01\x02 binary \x00")
    summary = run(corpus.folder)
    assert (summary.unchanged, summary.removed, summary.failed) == (2, 0, 1)
    with open_store(tmp_path / "index") as store:
        assert "Whales" in texts_by_source(store)["corpus/a.txt"][0]


def test_a_file_that_breaks_off_leaves_none_of_its_new_chunks(run, corpus, tmp_path, tiny_model):
    import gzip

    rows = "".join(f'{{"text": "row number {i} of the table"}}\n' for i in range(400))
    whole = gzip.compress(rows.encode())
    corpus.write("rows.jsonl.gz", whole[: len(whole) // 2])
    tiny_model.token_budget = 32  # small blocks, so that some rows are stored before the end
    summary = run(corpus.folder)
    assert summary.encoded > 3
    assert summary.failed == 1
    with open_store(tmp_path / "index") as store:
        assert "corpus/rows.jsonl.gz" not in texts_by_source(store)
    corpus.write("rows.jsonl.gz", whole)
    run(corpus.folder)
    with open_store(tmp_path / "index") as store:
        assert len(texts_by_source(store)["corpus/rows.jsonl.gz"]) == 400


@pytest.mark.parametrize("globs", [[], ["*.txt"]])
def test_what_lay_below_a_link_that_leads_nowhere_now_is_kept(run, corpus, tmp_path, globs):
    target = tmp_path / "disk"
    (corpus.folder / "deep").rename(target)
    (corpus.folder / "deep").symlink_to(target)
    run(corpus.folder, globs=globs)
    target.rename(tmp_path / "unmounted")
    summary = run(corpus.folder, globs=globs)
    assert (summary.removed, summary.failed) == (0, 1)
    with open_store(tmp_path / "index") as store:
        assert "corpus/deep/c.txt" in texts_by_source(store)


def test_files_that_the_patterns_leave_out_now_are_removed(run, corpus):
    run(corpus.folder)
    assert run(corpus.folder, globs=["*.txt"]).removed == 1
    assert run(corpus.folder, excludes=["deep/"]).removed == 1


def test_bad_records_of_an_unchanged_file_count_again(run, corpus):
    corpus.write("rows.jsonl", '{"text": "good"}\nbad\n{"text": "fine"}\nworse\n')
    assert run(corpus.folder).failed == 2
    second = run(corpus.folder)
    assert (second.unchanged, second.failed) == (4, 2)
    assert second.failures == ["corpus/rows.jsonl: 2 of its records could not be read"]


def test_a_file_that_changes_while_it_is_read_is_not_stored(run, corpus, tmp_path, monkeypatch):
    def read_then_change(file, **options):
        yield from read_documents(file, **options)
        if file.source == "corpus/a.txt":
            corpus.write("a.txt", "Written by someone else meanwhile.")

    monkeypatch.setattr("autoreg_rag.index.indexer.read_documents", read_then_change)
    summary = run(corpus.folder)
    assert summary.failures == ["corpus/a.txt: changed while it was read; run again"]
    with open_store(tmp_path / "index") as store:
        assert "corpus/a.txt" not in set(store.sources())
    monkeypatch.undo()
    assert run(corpus.folder).added == 1


def delete_chunks(place, ids):
    """Do as another program might."""
    if (place / "index.sqlite").exists():
        with closing(sqlite3.connect(place / "index.sqlite")) as database, database:
            database.executemany("DELETE FROM chunks WHERE id = ?", [(id_,) for id_ in ids])
    else:
        client = QdrantClient(path=str(place))
        client.delete("autoreg", ids)
        client.close()


def test_chunks_that_another_program_deleted_are_made_again(
    run, corpus, tmp_path, tiny_model, monkeypatch
):
    place = tmp_path / "index"
    run(corpus.folder)
    with open_store(place) as store:
        before = contents(store, tiny_model)
        ids = [c.id for c in before[0].values() if c.source == "corpus/a.txt"]
        lost = ids[1:]
    delete_chunks(place, lost)

    def unreadable(file, **options):
        raise ReadError(f"{file.source}: no luck")

    with monkeypatch.context() as bad:
        bad.setattr("autoreg_rag.index.indexer.read_documents", unreadable)
        assert run(corpus.folder).failures == ["corpus/a.txt: no luck"]
    with open_store(place) as store:  # what was left of it stays
        assert [chunk.id for chunk in store.chunks() if chunk.source == "corpus/a.txt"] == ids[:1]
    summary = run(corpus.folder)
    assert (summary.replaced, summary.unchanged) == (1, 2)
    assert (summary.encoded, summary.resumed) == (len(lost), 1)
    with open_store(place) as store:
        assert contents(store, tiny_model) == before
    assert run(corpus.folder).unchanged == 3


def test_a_file_that_is_too_large_is_refused_before_it_is_hashed(run, corpus, monkeypatch):
    def hashed(file, settings):
        raise AssertionError("this takes long")

    monkeypatch.setattr("autoreg_rag.index.indexer.file_digest", hashed)
    for path in corpus.folder.rglob("*.*"):
        path.write_bytes(b"x" * 101)
    with pytest.raises(CorpusError, match="larger than the limit of 100 bytes"):
        run(corpus.folder, max_bytes=100)


def test_the_limit_of_size_is_for_new_files_that_are_read_whole(run, corpus):
    run(corpus.folder)
    corpus.write("rows.jsonl", '{"text": "a row of the table"}\n' * 10)
    corpus.write("new.txt", "x" * 101)
    summary = run(corpus.folder, max_bytes=100)
    assert (summary.added, summary.unchanged) == (1, 3)
    assert summary.failures == ["corpus/new.txt: larger than the limit of 100 bytes"]


def test_a_run_of_few_chunks_is_complete_without_an_approximate_index(
    tiny_model, corpus, tmp_path, caplog
):
    manifest = Manifest(tiny_model.fingerprint(), tiny_model.reference, tiny_model.dimension)
    chunker = Chunker(tiny_model.backbone.tokenizer.backend_tokenizer, 256, 0)
    with create_store("faiss", tmp_path / "index", manifest, factory="IVF256,Flat") as store:
        summary = Indexer(tiny_model, store, chunker, globs=["b.md", "c.txt"]).run(corpus.folder)
    assert (summary.added, summary.chunks) == (2, 2)
    assert "2 vectors are too few to train 'IVF256,Flat' on" in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
def test_a_failure_is_one_line_whatever_the_file_is_called(run, corpus, caplog):
    corpus.write("two\nlines.txt", b"\x00")
    corpus.write("two\nlines.xyz", "text")
    summary = run(corpus.folder)
    assert [line.isprintable() for line in (*summary.failures, *summary.skips)] == [True, True]
    assert "corpus/two\\nlines.txt" in summary.failures[0]
    assert "two\nlines" not in caplog.text


def test_an_interruption_is_not_masked_and_optimizes_nothing(run, corpus, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    def optimize(store):
        raise AssertionError("this would keep the user waiting")

    for store in (FaissStore, QdrantStore):
        monkeypatch.setattr(store, "optimize", optimize)
    monkeypatch.setattr("autoreg_rag.index.indexer.read_documents", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(corpus.folder)


def test_a_folder_that_cannot_be_listed_keeps_its_chunks(run, corpus, tmp_path, monkeypatch):
    run(corpus.folder)
    scandir = os.scandir

    def refuse(path):
        if str(path).rstrip("/").endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    summary = run(corpus.folder)
    assert (summary.removed, summary.unchanged, summary.failed) == (0, 2, 1)
    with open_store(tmp_path / "index") as store:
        assert "corpus/deep/c.txt" in texts_by_source(store)


def test_a_second_writer_is_refused(run, corpus, tmp_path):
    run(corpus.folder)
    with open_store(tmp_path / "index", writable=True), pytest.raises(StoreError):
        run(corpus.folder)


def test_failures_are_said_as_they_come(run, corpus, caplog):
    corpus.write("bad.txt", b"\x00")
    with caplog.at_level(logging.WARNING):
        run(corpus.folder)
    assert any("corpus/bad.txt" in record.message for record in caplog.records)
