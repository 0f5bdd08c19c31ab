import logging
import shutil

import pytest

from autoreg_rag.corpus import read_documents
from autoreg_rag.errors import CorpusError, StoreError
from autoreg_rag.stores import open_store
from autoreg_rag.stores.faiss.store import FaissStore
from autoreg_rag.stores.qdrant.store import QdrantStore
from tests.index.conftest import contents


def texts_by_source(store):
    found = {}
    for chunk in store.chunks():
        found.setdefault(chunk.source, []).append(chunk)
    return {s: [c.text for c in sorted(cs, key=lambda c: c.start)] for s, cs in found.items()}


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


def test_nothing_that_can_be_read_is_an_error(run, corpus, tmp_path):
    folder = tmp_path / "bad"
    folder.mkdir()
    with pytest.raises(CorpusError, match="no files in"):
        run(folder)
    (folder / "bad.txt").write_bytes(b"\x00\x00")
    with pytest.raises(CorpusError, match="no file could be read"):
        run(folder)
    with pytest.raises(CorpusError, match="cannot read the corpus"):
        run(tmp_path / "missing")


def test_a_folder_that_was_not_reached_is_not_noted(run, corpus, tmp_path):
    empty, elsewhere = tmp_path / "empty", tmp_path / "elsewhere" / "corpus"
    for folder in (empty, elsewhere):
        folder.mkdir(parents=True)
    (elsewhere / "a.txt").write_text("Another corpus of that name.")
    with pytest.raises(CorpusError, match="no files in"):
        run(empty, corpus.folder)
    assert run(elsewhere).added == 1


def test_two_corpora_live_side_by_side(run, corpus, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("The other corpus.")
    run(corpus.folder)
    summary = run(other)
    assert (summary.added, summary.removed) == (1, 0)
    with open_store(tmp_path / "index") as store:
        assert set(store.manifest.corpora) == {"corpus", "other"}
        assert len(texts_by_source(store)) == 4


def test_a_second_corpus_of_the_same_name_is_refused(run, corpus, tmp_path):
    run(corpus.folder)
    twin = tmp_path / "elsewhere" / "corpus"
    twin.mkdir(parents=True)
    (twin / "x.txt").write_text("text")
    with pytest.raises(CorpusError, match="already holds a corpus called 'corpus'"):
        run(twin)
    with pytest.raises(CorpusError, match="same name"):
        run(corpus.folder, twin)


def test_a_folder_that_is_named_twice_is_indexed_once(run, corpus):
    assert run(corpus.folder, corpus.folder / "deep" / "..").added == 3


def test_a_corpus_that_moved_is_the_same_corpus_if_the_user_says_so(run, corpus, tmp_path):
    run(corpus.folder)
    moved = tmp_path / "elsewhere" / "corpus"
    moved.parent.mkdir()
    corpus.folder.rename(moved)
    with pytest.raises(CorpusError, match="--moved"):
        run(moved)
    assert run(moved, moved=True).unchanged == 3
    assert run(moved).unchanged == 3


@pytest.fixture
def beside(run, corpus, tmp_path):
    """Index the corpus and another one, and give the folder of the other."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("The other corpus.")
    run(corpus.folder, other)
    return other


@pytest.mark.parametrize("folder_stays", [False, True])
def test_a_corpus_of_which_nothing_is_left_is_removed_if_the_user_says_so(
    run, corpus, beside, tmp_path, folder_stays
):
    shutil.rmtree(corpus.folder)
    if folder_stays:
        corpus.folder.mkdir()
    with pytest.raises(CorpusError, match="--allow-empty removes the corpus 'corpus'"):
        run(corpus.folder)
    with open_store(tmp_path / "index") as store:
        assert len(texts_by_source(store)) == 4
        assert set(store.manifest.corpora) == {"corpus", "other"}
    summary = run(corpus.folder, beside, allow_empty=True, show_progress=True)
    assert (summary.removed, summary.unchanged, summary.files) == (3, 1, 1)
    with open_store(tmp_path / "index") as store:
        assert list(store.sources()) == ["other/a.txt"]
        assert store.manifest.corpora == {"other": str(beside)}


def test_the_last_corpus_of_an_index_can_be_removed(run, corpus, tmp_path):
    run(corpus.folder)
    assert run(corpus.folder, globs=["*.none"], allow_empty=True).removed == 3
    with open_store(tmp_path / "index") as store:
        assert (len(store), list(store.sources()), store.manifest.corpora) == (0, [], {})
    assert run(corpus.folder).added == 3


def test_only_a_corpus_that_the_index_knows_is_removed(run, corpus, tmp_path):
    run(corpus.folder)
    for unknown in (tmp_path / "missing", tmp_path / "elsewhere" / "corpus"):
        for _ in range(2):  # to be named once does not make it known
            with pytest.raises(CorpusError, match="cannot read the corpus") as caught:
                run(unknown, moved=True, allow_empty=True)
            assert "--allow-empty" not in str(caught.value)
    with open_store(tmp_path / "index") as store:
        assert store.manifest.corpora == {"corpus": str(corpus.folder)}
        assert len(texts_by_source(store)) == 3


def test_files_that_cannot_be_read_do_not_make_a_corpus_empty(run, corpus, tmp_path):
    run(corpus.folder)
    shutil.rmtree(corpus.folder)
    corpus.folder.mkdir()
    (corpus.folder / "a.txt").symlink_to(tmp_path / "nothing")
    with pytest.raises(CorpusError, match="can be read"):
        run(corpus.folder, allow_empty=True)
    with open_store(tmp_path / "index") as store:
        assert len(texts_by_source(store)) == 3


def test_an_index_inside_the_corpus_is_no_part_of_it(run, corpus):
    place = corpus.folder / "my-index"
    first = run(corpus.folder, place=place)
    second = run(corpus.folder, place=place)
    assert (first.added, second.unchanged, second.files) == (3, 3, 3)
    assert second.skips == ["corpus/my-index/: an index"]


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


def test_a_single_file_is_a_corpus(run, corpus, tmp_path):
    summary = run(corpus.folder / "b.md")
    assert (summary.added, summary.chunks) == (1, 1)


def test_a_folder_that_cannot_be_listed_keeps_its_chunks(run, corpus, tmp_path, monkeypatch):
    import os

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
