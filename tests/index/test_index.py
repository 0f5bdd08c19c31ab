import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from autoreg_rag.corpus import Chunker
from autoreg_rag.errors import FingerprintError, ModelError, StoreError
from autoreg_rag.fusion import DEFAULT_ALPHA, hybrid_scores
from autoreg_rag.index.index import Index
from autoreg_rag.index.indexer import Indexer
from autoreg_rag.index.words import WordSearch
from autoreg_rag.model import AutoRegModel
from autoreg_rag.stores import Manifest, create_store

QUESTIONS = ["Where do whales live?", "What is bread made of?"]


@pytest.fixture
def index(run, corpus, tmp_path, tiny_model):
    run(corpus.folder)
    with Index.open(tmp_path / "index", model=tiny_model) as index:
        yield index


def plain_ranking(index, question, where=None):
    """All chunks by the cosine of their own vectors and the question's, best first."""
    chunks = [c for c in index.store.chunks() if where is None or where(c)]
    vectors = index.model.encode_documents([chunk.text for chunk in chunks])
    scores = vectors @ index.model.encode_queries([question])[0]
    order = np.argsort(-scores, kind="stable")
    return [(chunks[i], float(scores[i])) for i in order]


def test_hits_are_the_chunks_of_highest_cosine(index):
    for question, hits in zip(QUESTIONS, index.search(QUESTIONS, 3), strict=True):
        expected = plain_ranking(index, question)[:3]
        assert [hit.score for hit in hits] == pytest.approx([s for _, s in expected], abs=1e-3)
        assert all(hit.scores["cosine"] == hit.score for hit in hits)
        known = {chunk.id: chunk for chunk, _ in plain_ranking(index, question)}
        assert all(hit.chunk == known[hit.chunk.id] for hit in hits)


def test_a_filter_leaves_only_what_meets_it(index):
    (hits,) = index.search(QUESTIONS[:1], 50, where={"source": ["corpus/a.txt", "corpus/b.md"]})
    assert {hit.chunk.source for hit in hits} == {"corpus/a.txt", "corpus/b.md"}
    (none,) = index.search(QUESTIONS[:1], 50, where={"source": "corpus/none.txt"})
    assert none == []


@pytest.mark.parametrize("alpha", [0, DEFAULT_ALPHA, 1])
def test_hybrid_search_fuses_cosines_and_words(index, alpha):
    question = "flour and salt"
    (hits,) = index.search([question], 50, hybrid=True, alpha=alpha)
    cosines = {hit.chunk.id: hit.score for hit in index.search([question], 50)[0]}
    words = {hit.chunk.id: hit.scores["bm25"] for hit in hits if "bm25" in hit.scores}
    assert {hit.chunk.source for hit in hits if "bm25" in hit.scores} == {"corpus/b.md"}
    expected = dict(hybrid_scores(cosines, words, 500, alpha))
    assert {hit.chunk.id: hit.score for hit in hits} == pytest.approx(expected, abs=1e-3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    parts = {hit.chunk.id: hit.scores["cosine"] for hit in hits}
    assert parts == pytest.approx(cosines, abs=1e-3)


def test_an_alpha_out_of_its_range_is_refused(index):
    with pytest.raises(ValueError, match="alpha is 5; it must be from 0 to 1"):
        index.search(["flour"], alpha=5)
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        index.search(["flour"], hybrid=True, alpha=1.5)


def test_hybrid_search_keeps_to_a_filter(index):
    (hits,) = index.search(["flour and whales"], 50, hybrid=True, where={"source": "corpus/b.md"})
    assert {hit.chunk.source for hit in hits} == {"corpus/b.md"}
    assert any("bm25" in hit.scores for hit in hits)


def test_words_of_files_indexed_meanwhile_are_found(corpus, tmp_path, tiny_model, kind):
    chunker = Chunker(tiny_model.backbone.tokenizer.backend_tokenizer, 32, 8)
    manifest = Manifest(tiny_model.fingerprint(), tiny_model.reference, tiny_model.dimension)
    with create_store(kind, tmp_path / "index", manifest) as store:
        indexer, index = Indexer(tiny_model, store, chunker), Index(store, tiny_model)
        indexer.run(corpus.folder)

        def found_by_words(question):
            (hits,) = index.search([question], 50, hybrid=True)
            return {hit.chunk.source for hit in hits if "bm25" in hit.scores}

        assert found_by_words("flour or zebras") == {"corpus/b.md"}
        corpus.write("b.md", "Zebras have stripes.")
        indexer.run(corpus.folder)
        assert found_by_words("flour") == set()
        assert found_by_words("flour or zebras") == {"corpus/b.md"}


def test_a_search_by_words_lists_no_files_and_chunks_while_nothing_changes(index, monkeypatch):
    words = WordSearch(index.store)
    first = words.search(QUESTIONS, 50)

    def list_all():
        raise AssertionError("this takes longer with every file")

    monkeypatch.setattr(index.store, "files", list_all)
    monkeypatch.setattr(index.store, "chunks", list_all)
    assert words.search(QUESTIONS, 50) == first


def test_searches_by_words_of_several_threads_build_their_index_once(index, monkeypatch):
    chunks, together, built = index.store.chunks, threading.Barrier(4), []

    def counted():
        built.append(threading.get_ident())
        return chunks()

    monkeypatch.setattr(index.store, "chunks", counted)
    words = WordSearch(index.store)

    def search(_):
        together.wait()
        return words.search(QUESTIONS, 50)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(search, range(4)))
    assert len(built) == 1
    assert found == [words.search(QUESTIONS, 50)] * 4


def test_a_chunk_that_vanishes_after_the_ranking_is_left_out(index, monkeypatch):
    get = index.store.get
    gone = index.search(["flour"], 1, hybrid=True)[0][0].chunk.id

    def get_what_is_left(ids):
        if gone in ids:
            raise KeyError(gone)
        return get(ids)

    monkeypatch.setattr(index.store, "get", get_what_is_left)
    words = WordSearch(index.store).search(["flour or whales"], 50)[0]
    assert words
    assert gone not in {hit.chunk.id for hit in words}


def test_a_filter_leaves_as_many_hits_by_words_as_there_are(index, monkeypatch):
    monkeypatch.setattr("autoreg_rag.index.words._SMALLEST_PAGE", 1)
    words = WordSearch(index.store)
    question = ["whales mammals sea flour"]
    (every,) = words.search(question, 50)
    for source in ("corpus/a.txt", "corpus/b.md"):
        kept = [hit for hit in every if hit.chunk.source == source]
        assert kept
        for depth in (1, 2, 50):
            assert words.search(question, depth, [{"source": source}]) == [kept[:depth]]


def test_half_characters_in_a_question_count_as_unknown_ones(index):
    assert index.search(["flour \udcff"], 3) == index.search(["flour \ufffd"], 3)


def test_no_questions_find_nothing(index):
    assert index.search([]) == []


def test_bad_searches_are_refused(index):
    with pytest.raises(ValueError, match="k is 0"):
        index.search(QUESTIONS, 0)
    with pytest.raises(ValueError, match="empty"):
        index.search(["  "])
    with pytest.raises(TypeError, match="a list of questions"):
        index.search("one question")


def test_an_index_opens_with_the_model_that_it_names(run, corpus, tmp_path, tiny_model):
    run(corpus.folder)
    with Index.open(tmp_path / "index", dtype="float32") as index:
        assert index.model.fingerprint() == tiny_model.fingerprint()


def test_an_index_of_another_model_is_refused_with_the_command_that_mends_it(
    run, corpus, tmp_path, tiny_folders
):
    run(corpus.folder)
    with pytest.raises(FingerprintError, match=r"python -m autoreg_rag\.index") as caught:
        Index.open(tmp_path / "index", model=str(tiny_folders["qwen"]))
    assert "\n" not in str(caught.value)
    other = AutoRegModel.from_pretrained(tiny_folders["llama"], query_instruction="Other:")
    with pytest.raises(FingerprintError, match="other settings"):
        Index.open(tmp_path / "index", model=other)
    with Index.open(tmp_path / "index"):  # the refusal let go of the store
        pass


def test_places_without_an_index_are_refused(tmp_path):
    with pytest.raises(StoreError, match=r"python -m autoreg_rag\.index"):
        Index.open(tmp_path / "missing")


def test_an_index_whose_model_is_gone_says_so(run, corpus, tmp_path, tiny_folder, monkeypatch):
    run(corpus.folder)
    monkeypatch.setattr("autoreg_rag.backbone.find_folder", lambda name: tmp_path / "gone")
    monkeypatch.setattr("autoreg_rag.model.find_folder", lambda name: tmp_path / "gone")
    with pytest.raises(ModelError, match="safetensors"):
        Index.open(tmp_path / "index")
