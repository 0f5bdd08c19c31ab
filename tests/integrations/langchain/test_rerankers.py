"""What LangChain expects of a document compressor, and that its scores are the reranker's."""

import asyncio
import copy
import pickle
import threading

import numpy as np
import pytest
from langchain_core.documents import Document
from pydantic import ValidationError

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.errors import FingerprintError, ModelError
from autoreg_rag.fusion import standard_sum
from autoreg_rag.rerank import Reranker, parts
from autoreg_rag.rerank.likelihoods import Likelihoods
from autoreg_rag.scores import DEFAULT_FUSION, DEFAULT_SCORE, SCORES
from langchain_autoreg import AutoRegEmbeddings, AutoRegReranker

QUESTION = "What is bread made of?"
TEXTS = [
    "Whales live in the sea.",
    "Bread is baked from flour, water and salt.",
    "naïve café, 漢字かな交じり文, عربي, emoji 🧵 👩‍👩‍👧",
    "A compiler reads code.",
    "far too long " * 300,
]


@pytest.fixture
def documents():
    """As `AutoRegRetriever` returns them."""
    scores = [0.9 - place / 10 for place in range(len(TEXTS))]
    return [
        Document(
            text,
            id=f"id-{place}",
            metadata={"place": place, "score": scores[place], "scores": {"cosine": scores[place]}},
        )
        for place, text in enumerate(TEXTS)
    ]


@pytest.fixture
def reranker(how):
    return AutoRegReranker(**how, fusion=None)


def stored_by(model, text):
    """The metadata that indexing stores with a text."""
    chunk = Chunk("id", text, "source", 0, len(text))
    (scored,) = parts.with_parts(
        Likelihoods(model), parts.fingerprint(model), [chunk], model.compress([text])
    )
    return scored.metadata


def places(documents):
    return [document.metadata["place"] for document in documents]


def relevance(documents):
    return [document.metadata["relevance_score"] for document in documents]


class TestScores:
    @pytest.mark.parametrize("score", SCORES)
    def test_they_are_the_rerankers_best_first(self, how, model, documents, score):
        expected = Reranker(model, score=score).scores(QUESTION, TEXTS)
        found = AutoRegReranker(**how, score=score, fusion=None).compress_documents(
            documents, QUESTION
        )
        assert places(found) == np.argsort(-expected, kind="stable").tolist()
        np.testing.assert_allclose(relevance(found), np.sort(expected)[::-1], rtol=1e-5)
        assert {type(value) for value in relevance(found)} == {float}

    def test_the_kind_is_the_rerankers_default(self, reranker):
        assert reranker.score == DEFAULT_SCORE

    def test_a_fusion_weighs_the_score_of_the_retrieval(self, how, model, documents):
        raw = Reranker(model).scores(QUESTION, TEXTS)
        retrieval = np.array([document.metadata["score"] for document in documents])
        documents[0].metadata["score"] = np.float32(retrieval[0])  # as a FAISS store gives it
        for weight in (0.0, 0.3, 1.0):
            expected = standard_sum(retrieval, raw, weight)
            fused = AutoRegReranker(**how, fusion=weight)
            found = fused.compress_documents(documents, QUESTION)
            np.testing.assert_allclose(relevance(found), np.sort(expected)[::-1], atol=1e-5)

    def test_without_a_score_the_order_of_the_retrieval_counts(self, how, model, documents):
        raw = Reranker(model).scores(QUESTION, TEXTS)
        expected = standard_sum(-np.arange(len(TEXTS)), raw, DEFAULT_FUSION)
        for score in ("good", None):
            documents[2].metadata["score"] = score
            found = AutoRegReranker(**how).compress_documents(documents, QUESTION)
            np.testing.assert_allclose(relevance(found), np.sort(expected)[::-1], atol=1e-5)

    @pytest.mark.parametrize("beside", [{}, {"scores": [9, 9]}])
    def test_a_score_that_is_not_our_retrievers_does_not_count(self, how, model, beside):
        votes = [0, 9000, 12, 3, 40]
        documents = [
            Document(text, metadata={"score": score, **beside})
            for text, score in zip(TEXTS, votes, strict=True)
        ]
        raw = Reranker(model).scores(QUESTION, TEXTS)
        expected = standard_sum(-np.arange(len(TEXTS)), raw, DEFAULT_FUSION)
        found = AutoRegReranker(**how).compress_documents(documents, QUESTION)
        np.testing.assert_allclose(relevance(found), np.sort(expected)[::-1], atol=1e-5)

    @pytest.mark.parametrize("key", ["score", "similarity"])
    def test_another_retrievers_score_counts_where_its_key_is_named(self, how, model, key):
        retrieval = [0.1, 0.7, 0.3, 0.2, 0.6]
        documents = [
            Document(text, metadata={"score": 0.0, key: score})
            for text, score in zip(TEXTS, retrieval, strict=True)
        ]
        raw = Reranker(model).scores(QUESTION, TEXTS)
        expected = standard_sum(np.array(retrieval), raw, DEFAULT_FUSION)
        named = AutoRegReranker(**how, retrieval_score_key=key)
        found = named.compress_documents(documents, QUESTION)
        np.testing.assert_allclose(relevance(found), np.sort(expected)[::-1], atol=1e-5)
        documents[3].metadata[key] = "0.9"
        with pytest.raises(ValueError, match="not a number"):
            named.compress_documents(documents, QUESTION)
        misspelt = AutoRegReranker(**how, retrieval_score_key="scroe")
        with pytest.raises(ValueError, match="no document has 'scroe'"):
            misspelt.compress_documents(documents, QUESTION)
        del documents[3].metadata[key]  # then all go by their order
        expected = standard_sum(-np.arange(len(TEXTS)), raw, DEFAULT_FUSION)
        found = named.compress_documents(documents, QUESTION)
        np.testing.assert_allclose(relevance(found), np.sort(expected)[::-1], atol=1e-5)

    def test_parts_that_indexing_stored_are_used(self, how, model, documents):
        by_pmi = AutoRegReranker(**how, score="pmi", fusion=None)
        (alone,) = by_pmi.compress_documents(documents[:1], QUESTION)
        (baseline,) = Reranker(model, score="pmi").baselines(TEXTS[:1])
        mark = stored_by(model, TEXTS[0])[parts.MARK]
        stored = {parts.PRIOR: float(baseline) - 100, parts.MARK: mark}
        documents[0].metadata |= stored
        (found,) = by_pmi.compress_documents(documents[:1], QUESTION)
        assert relevance([found])[0] - relevance([alone])[0] == pytest.approx(100, abs=1e-2)
        documents[0].page_content += "!"  # the parts are of another text now
        (found,) = by_pmi.compress_documents(documents[:1], QUESTION)
        assert relevance([found])[0] < relevance([alone])[0] + 50

    def test_equal_scores_keep_their_order(self, reranker):
        same = [Document("Bread.", metadata={"place": place}) for place in range(5)]
        assert places(reranker.compress_documents(same, QUESTION)) == [0, 1, 2, 3, 4]


class TestDocuments:
    async def test_they_may_come_one_by_one(self, reranker, documents):
        expected = reranker.compress_documents(documents, QUESTION)
        assert reranker.compress_documents((one for one in documents), QUESTION) == expected
        found = await reranker.acompress_documents((one for one in documents), QUESTION)
        assert found == expected
        assert reranker.compress_documents(iter([]), QUESTION) == []

    def test_they_are_copies_with_all_that_the_originals_have(self, reranker, documents):
        documents[0].metadata["nested"] = {"list": [1]}
        before = copy.deepcopy(documents)
        found = reranker.compress_documents(documents, QUESTION)
        assert documents == before
        for document in found:
            original = documents[document.metadata["place"]]
            assert document is not original
            assert (document.id, document.page_content) == (original.id, original.page_content)
            score = document.metadata.pop("relevance_score")
            assert document.metadata == original.metadata
            assert score < 1000
            if "nested" in document.metadata:
                document.metadata["nested"]["list"].append(2)
        assert documents == before

    def test_top_n_are_the_best(self, how, reranker, documents):
        best = AutoRegReranker(**how, top_n=2, fusion=None).compress_documents(documents, QUESTION)
        assert best == reranker.compress_documents(documents, QUESTION)[:2]

    def test_no_documents_stay_none(self, reranker):
        assert reranker.compress_documents([], QUESTION) == []

    @pytest.mark.parametrize("text", ["", " \n\t"])
    def test_one_without_text_is_refused(self, reranker, documents, text):
        documents[3] = Document(text)
        with pytest.raises(ValueError, match="document 3 has no text"):
            reranker.compress_documents(documents, QUESTION)

    def test_an_empty_question_is_refused(self, reranker, documents):
        for some in (documents, []):
            with pytest.raises(ValueError, match="question is empty"):
                reranker.compress_documents(some, "  ")
        with pytest.raises(TypeError, match="NoneType"):
            reranker.compress_documents(documents, None)


class TestSettings:
    @pytest.mark.parametrize(
        "wrong", [{"top_n": 0}, {"score": "best"}, {"fusion": 1.5}, {"modle": "x"}]
    )
    def test_a_wrong_argument_is_refused(self, wrong):
        with pytest.raises(ValidationError):
            AutoRegReranker(**wrong)

    def test_it_shares_the_model_of_equal_embeddings(self, how, reranker):
        first = AutoRegEmbeddings(**how)
        model = first._use(lambda model: model)
        assert reranker._use(lambda model: model) is model

    def test_settings_can_be_changed(self, how, model, documents):
        changed = AutoRegReranker(**how, query_instruction="An answer: ", max_length=9, score="sum")
        found = changed.compress_documents(documents, QUESTION)
        expected = Reranker(model, score="sum").scores(QUESTION, TEXTS)
        assert not np.allclose(relevance(found), np.sort(expected)[::-1], rtol=1e-3)

    def test_copies_work_and_do_not_hold_the_model(self, reranker, documents):
        expected = reranker.compress_documents(documents, QUESTION)
        data = pickle.dumps(reranker)
        assert len(data) < 5000
        for again in (
            pickle.loads(data),  # noqa: S301 - made here
            copy.deepcopy(reranker),
            reranker.model_copy(),
            AutoRegReranker.model_validate_json(reranker.model_dump_json()),
        ):
            assert again.compress_documents(documents, QUESTION) == expected
        other = reranker.model_copy(update={"score": "sum"})
        assert relevance(other.compress_documents(documents, QUESTION)) != relevance(expected)
        assert reranker.compress_documents(documents, QUESTION) == expected

    def test_another_model_is_refused(self, how, documents):
        with pytest.raises(FingerprintError, match="0123456789abcdef"):
            AutoRegReranker(**how, fingerprint="0123456789abcdef").compress_documents(
                documents, QUESTION
            )
        with pytest.raises(ModelError, match="/no/such/model"):
            AutoRegReranker(model="/no/such/model").compress_documents(documents, QUESTION)


class TestAsync:
    async def test_it_gives_the_same(self, reranker, documents):
        expected = reranker.compress_documents(documents, QUESTION)
        assert await reranker.acompress_documents(documents, QUESTION) == expected
        assert await reranker.acompress_documents([], QUESTION) == []
        with pytest.raises(ValueError, match="question is empty"):
            await reranker.acompress_documents(documents, "")

    async def test_the_event_loop_goes_on_while_the_model_is_busy(self, reranker, documents):
        is_busy, is_released, answers = threading.Event(), threading.Event(), []

        def hold(_):
            is_busy.set()
            answers.append(is_released.wait(60))

        holder = threading.Thread(target=reranker._use, args=[hold])
        holder.start()
        is_busy.wait(60)
        call = asyncio.ensure_future(reranker.acompress_documents(documents, QUESTION))
        for _ in range(20):
            await asyncio.sleep(0)  # a call that blocks would hold the loop here
        assert not call.done()
        is_released.set()
        assert len(await call) == len(documents)
        holder.join()
        assert answers == [True]


def test_many_candidates_are_all_scored(reranker):
    documents = [Document(f"text number {place}") for place in range(1000)]
    scores = relevance(reranker.compress_documents(documents, QUESTION))
    assert len(scores) == 1000
    assert scores == sorted(scores, reverse=True)


def test_a_document_and_a_question_over_the_window_are_cut(reranker):
    long = "Whales are mammals that live in the sea. " * 200
    documents = [Document(long), Document(long + long)]
    found = reranker.compress_documents(documents, long)
    assert [document.page_content for document in found] == [long, long + long]
    first, second = relevance(found)
    assert first == pytest.approx(second, abs=1e-3)
