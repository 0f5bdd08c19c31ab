"""Corpora in an index: their names and paths, and what becomes of those that move or go."""

import os
import shutil

import pytest

from autoreg_rag.errors import CorpusError
from autoreg_rag.stores import open_store
from tests.index.conftest import texts_by_source


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


@pytest.mark.parametrize("reason", ["nothing can be looked at", "nothing can be read"])
def test_a_move_that_fails_changes_no_path(run, corpus, tmp_path, reason):
    run(corpus.folder)
    elsewhere = tmp_path / "elsewhere" / "corpus"
    elsewhere.mkdir(parents=True)
    if reason == "nothing can be looked at":
        (elsewhere / "a.txt").symlink_to(tmp_path / "nothing")
    else:
        for path in corpus.folder.rglob("*.*"):
            bad = elsewhere / path.relative_to(corpus.folder)
            bad.parent.mkdir(exist_ok=True)
            bad.write_bytes(b"\x00")
    with pytest.raises(CorpusError):
        run(elsewhere, moved=True)
    with open_store(tmp_path / "index") as store:
        assert store.manifest.corpora == {"corpus": str(corpus.folder)}
    assert run(corpus.folder).unchanged == 3


@pytest.mark.skipif(os.name != "posix", reason="names of bytes exist on POSIX only")
def test_a_corpus_whose_name_is_not_unicode_is_indexed(run, tmp_path):
    folder = tmp_path / os.fsdecode(b"notes-\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    (folder / "a.txt").write_text("text")
    assert run(folder).added == 1
    assert run(folder).unchanged == 1
    with open_store(tmp_path / "index") as store:
        assert store.manifest.corpora == {"notes-\\udcff": f"{tmp_path}/notes-\\udcff"}
        assert list(store.sources()) == ["notes-\\udcff/a.txt"]
    (folder / "a.txt").unlink()
    with pytest.raises(CorpusError, match="--allow-empty removes the corpus"):
        run(folder)
    assert run(folder, allow_empty=True).removed == 1


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


def test_an_index_is_no_corpus(run, corpus, tmp_path):
    run(corpus.folder)
    with pytest.raises(CorpusError, match="index is an index, not a corpus"):
        run(tmp_path / "index", place=tmp_path / "other")


def test_an_index_inside_the_corpus_is_no_part_of_it(run, corpus):
    place = corpus.folder / "my-index"
    first = run(corpus.folder, place=place)
    second = run(corpus.folder, place=place)
    assert (first.added, second.unchanged, second.files) == (3, 3, 3)
    assert second.skips == ["corpus/my-index/: an index"]


def test_a_single_file_is_a_corpus(run, corpus, tmp_path):
    summary = run(corpus.folder / "b.md")
    assert (summary.added, summary.chunks) == (1, 1)
