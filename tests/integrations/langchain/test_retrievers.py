"""The retriever finds what the index finds, for whoever asks and however."""

import asyncio
import copy
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from pydantic import ValidationError

from autoreg_rag.errors import FingerprintError, ModelError, StoreError
from autoreg_rag.fusion import standard_sum
from autoreg_rag.index.index import Index
from autoreg_rag.rerank import Reranker
from autoreg_rag.scores import DEFAULT_FUSION, SCORES
from autoreg_rag.stores import open_store
from langchain_autoreg import AutoRegEmbeddings, AutoRegReranker, AutoRegRetriever

QUESTION = "What do whales live in?"
HOW = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def hits(index_folder, model):
    """What the index itself finds; embedded Qdrant must not be open meanwhile."""
    with Index(open_store(index_folder), model) as index:
        (hits,) = index.search([QUESTION], 10)
        return hits


def ids(documents):
    return [document.id for document in documents]


def rounded(documents):
    """Without the last digits of scores, which can differ between two searches in Qdrant."""
    return [
        (document.id, document.page_content, round(document.metadata["score"], 9))
        for document in documents
    ]


class TestDocuments:
    def test_they_are_the_hits_of_the_index(self, hits, retriever):
        documents = retriever.invoke(QUESTION, k=10)
        assert len(documents) == len(hits) > 4
        for document, hit in zip(documents, hits, strict=True):
            chunk = hit.chunk
            assert (document.id, document.page_content) == (chunk.id, chunk.text)
            assert document.metadata == {
                **chunk.metadata,
                "source": chunk.source,
                "start": chunk.start,
                "end": chunk.end,
                "score": pytest.approx(hit.score, abs=1e-6),
                "scores": {"cosine": pytest.approx(hit.score, abs=1e-6)},
            }
            assert type(document.metadata["score"]) is float

    def test_the_question_is_embedded_under_i_next(self, retriever, model):
        (best, *_) = retriever.invoke(QUESTION)
        (vector,) = model.encode_documents([best.page_content])
        cosine = float(vector @ model.encode_queries([QUESTION])[0])
        assert best.metadata["score"] == pytest.approx(cosine, abs=1e-4)

    def test_k_is_of_the_retriever_or_of_the_call(self, retriever, index_folder):
        assert len(retriever.invoke(QUESTION)) == 4
        assert len(retriever.invoke(QUESTION, k=1)) == 1
        with AutoRegRetriever.from_index(index_folder, k=2, **HOW) as other:
            assert ids(other.invoke(QUESTION)) == ids(retriever.invoke(QUESTION, k=2))
            assert len(other.invoke(QUESTION, k=3)) == 3

    def test_more_than_there_are_is_all_there_are(self, hits, retriever):
        assert len(retriever.invoke(QUESTION, k=10_000)) >= len(hits)


class TestFilters:
    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            ({"topic": "garden"}, {1999, 2001}),
            ({"topic": "garden", "year": 1999}, {1999}),
            ({"year": [1999, 2001]}, {1999, 2001}),
            ({"year": 1812}, set()),
        ],
    )
    def test_only_what_meets_them_is_found(self, retriever, where, expected):
        for hybrid in (False, True):
            found = retriever.invoke(QUESTION, where=where, hybrid=hybrid)
            assert {document.metadata["year"] for document in found} == expected

    def test_those_of_the_retriever_count_unless_the_call_has_its_own(self, index_folder):
        with AutoRegRetriever(place=index_folder, where={"year": 1999}, **HOW) as retriever:
            (found,) = retriever.invoke(QUESTION)
            assert found.page_content == "Tulips grow from bulbs."
            (found,) = retriever.invoke(QUESTION, where={"year": 2001})
            assert found.page_content == "Roses grow on bushes."
            assert len(retriever.invoke(QUESTION, where={})) == 4

    def test_a_value_that_cannot_be_filtered_by_is_refused(self, retriever):
        with pytest.raises(StoreError, match="year"):
            retriever.invoke(QUESTION, where={"year": float("nan")})
        with pytest.raises(ValidationError):
            AutoRegRetriever(place="anywhere", where={"year": {"$gt": 3}})


def test_a_hybrid_search_is_the_indexs(index_folder, model):
    with Index(open_store(index_folder), model) as index:
        (expected,) = index.search(["tulips whales"], 3, hybrid=True)
    with AutoRegRetriever(place=index_folder, hybrid=True, k=3, **HOW) as retriever:
        documents = retriever.invoke("tulips whales")
    assert ids(documents) == [hit.chunk.id for hit in expected]
    assert [document.metadata["scores"].keys() for document in documents] == [
        hit.scores.keys() for hit in expected
    ]
    assert any("bm25" in document.metadata["scores"] for document in documents)


def test_alpha_weighs_the_cosine_of_a_hybrid_search(index_folder, model):
    with Index(open_store(index_folder), model) as index:
        expected = {
            alpha: [hit.score for hit in index.search([QUESTION], 3, hybrid=True, alpha=alpha)[0]]
            for alpha in (0.1, 0.9)
        }
    assert expected[0.1] != pytest.approx(expected[0.9])
    with AutoRegRetriever(place=index_folder, hybrid=True, alpha=0.1, k=3, **HOW) as retriever:
        for documents, alpha in (
            (retriever.invoke(QUESTION), 0.1),
            (retriever.invoke(QUESTION, alpha=0.9), 0.9),
        ):
            scores = [document.metadata["score"] for document in documents]
            assert scores == pytest.approx(expected[alpha], abs=1e-5)
        with pytest.raises(ValueError, match="from 0 to 1"):
            retriever.invoke(QUESTION, alpha=2)
    with pytest.raises(ValidationError):
        AutoRegRetriever(place=index_folder, alpha=-1, **HOW)


class TestReranking:
    @pytest.mark.parametrize("score", SCORES)
    def test_a_kind_of_score_orders_as_the_reranker_does(self, index_folder, hits, model, score):
        texts = [hit.chunk.text for hit in hits]
        raw = Reranker(model, score=score).scores(QUESTION, texts)
        scores = standard_sum(np.array([hit.score for hit in hits]), raw, DEFAULT_FUSION)
        best = np.argsort(-scores, kind="stable")[:3]
        with AutoRegRetriever(
            place=index_folder, reranker=score, depth=len(hits), k=3, **HOW
        ) as retriever:
            documents = retriever.invoke(QUESTION)
        assert ids(documents) == [hits[place].chunk.id for place in best]
        found = [document.metadata["relevance_score"] for document in documents]
        np.testing.assert_allclose(found, scores[best], rtol=1e-3)
        retrieved = [document.metadata["score"] for document in documents]
        np.testing.assert_allclose(retrieved, [hits[place].score for place in best], atol=1e-6)

    def test_only_the_depth_is_reranked_and_at_least_k(self, index_folder, hits, model):
        ours = AutoRegReranker(model=model.reference, score="sum", **HOW)
        with AutoRegRetriever(place=index_folder, reranker=ours, depth=2, k=1, **HOW) as retriever:
            for k, depth in ((2, 2), (3, 3)):
                found = retriever.invoke(QUESTION, k=k)
                assert set(ids(found)) == {hit.chunk.id for hit in hits[:depth]}
            assert retriever.invoke(QUESTION)[0].id in {hit.chunk.id for hit in hits[:2]}

    def test_the_rerankers_top_n_counts_too(self, index_folder, how):
        ours = AutoRegReranker(**how, top_n=2)
        with AutoRegRetriever(place=index_folder, reranker=ours, k=3, **HOW) as retriever:
            assert len(retriever.invoke(QUESTION)) == 2

    async def test_it_is_the_same_when_asynchronous(self, index_folder):
        with AutoRegRetriever(place=index_folder, reranker="pmi", **HOW) as retriever:
            documents = await retriever.ainvoke(QUESTION)
            assert rounded(documents) == rounded(retriever.invoke(QUESTION))
            assert all("relevance_score" in document.metadata for document in documents)

    def test_its_model_is_the_indexs_unless_another_is_named(self, retriever, how, other_folder):
        for none in ({}, {"model": None}, {"model_name": None}):
            assert retriever.index_reranker(**none) == AutoRegReranker(**how)
        for name in ("model", "model_name"):
            other = retriever.index_reranker(**{name: other_folder}, top_n=2)
            assert other == AutoRegReranker(model=other_folder, top_n=2, **HOW)

    def test_the_kind_can_be_changed(self, index_folder):
        with AutoRegRetriever(place=index_folder, reranker="sum", **HOW) as retriever:
            by_sum = retriever.invoke(QUESTION)[0].metadata["relevance_score"]
            retriever.reranker = "mean"
            by_mean = retriever.invoke(QUESTION)[0].metadata["relevance_score"]
            assert by_mean != by_sum
            retriever.reranker = None
            assert "relevance_score" not in retriever.invoke(QUESTION)[0].metadata

    def test_with_no_hit_there_is_nothing_to_rerank(self, index_folder):
        with AutoRegRetriever(place=index_folder, reranker="pmi", **HOW) as retriever:
            assert retriever.invoke(QUESTION, where={"year": 1812}) == []

    def test_an_unknown_kind_is_refused(self, index_folder):
        with pytest.raises(ValidationError):
            AutoRegRetriever(place=index_folder, reranker="best", **HOW)


class TestRunnable:
    def test_it_is_a_part_of_chains(self, retriever):
        chain = {
            "texts": retriever | (lambda documents: [one.page_content for one in documents]),
            "question": RunnablePassthrough(),
        } | RunnableLambda(lambda given: f"{given['question']} {len(given['texts'])}")
        assert chain.invoke(QUESTION) == f"{QUESTION} 4"

    async def test_all_ways_to_call_it_agree(self, retriever):
        expected = rounded(retriever.invoke(QUESTION))
        for documents in (
            *retriever.batch([QUESTION, QUESTION]),
            *await retriever.abatch([QUESTION, QUESTION]),
            *retriever.stream(QUESTION),
            await retriever.ainvoke(QUESTION),
        ):
            assert rounded(documents) == expected
        assert rounded(await retriever.ainvoke(QUESTION, k=2)) == expected[:2]

    def test_k_is_configurable(self, retriever):
        configurable = retriever.configurable_fields(k=ConfigurableField(id="k"))
        assert len(configurable.with_config(configurable={"k": 2}).invoke(QUESTION)) == 2
        assert len(configurable.invoke(QUESTION)) == 4

    def test_callbacks_hear_of_it(self, retriever):
        class Heard(BaseCallbackHandler):
            started, ended = (), ()

            def on_retriever_start(self, serialized, query, **_):
                self.started += (query,)

            def on_retriever_end(self, documents, **_):
                self.ended += (documents,)

        heard = Heard()
        documents = retriever.invoke(QUESTION, config={"callbacks": [heard]})
        assert heard.started == (QUESTION,)
        assert heard.ended == (documents,)

    async def test_the_event_loop_goes_on_while_the_model_is_busy(self, retriever):
        is_busy, is_released, answers = threading.Event(), threading.Event(), []

        def hold(_):
            is_busy.set()
            answers.append(is_released.wait(60))

        holder = threading.Thread(target=retriever._index.use, args=[hold])
        holder.start()
        is_busy.wait(60)
        call = asyncio.ensure_future(retriever.ainvoke(QUESTION))
        for _ in range(20):
            await asyncio.sleep(0)  # a call that blocks would hold the loop here
        assert not call.done()
        is_released.set()
        documents = await call
        holder.join()
        assert answers == [True]
        assert rounded(documents) == rounded(retriever.invoke(QUESTION))

    def test_threads_get_what_one_would_get(self, retriever):
        questions = [f"{QUESTION} {number}" for number in range(12)]
        expected = [rounded(retriever.invoke(question)) for question in questions]
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(retriever.invoke, questions))
        assert [rounded(documents) for documents in found] == expected


class TestOpening:
    def test_retrievers_of_one_index_share_it(self, retriever, index_folder):
        with AutoRegRetriever(place=index_folder, k=1, **HOW) as other:
            assert other._index.use(lambda index: index) is retriever._index.use(lambda i: i)
        assert len(retriever.invoke(QUESTION)) == 4  # closing one leaves the other open

    def test_the_last_one_closes_it(self, index_folder):
        first = AutoRegRetriever(place=index_folder, **HOW)
        second = AutoRegRetriever(place=index_folder, **HOW)
        first.close()
        first.close()
        assert second.invoke(QUESTION)
        del second
        with open_store(index_folder) as store:  # embedded Qdrant admits one at a time
            assert len(store)

    def test_a_copy_is_closed_by_itself(self, index_folder):
        retriever = AutoRegRetriever(place=index_folder, **HOW)
        for copied in (copy.copy(retriever), retriever.model_copy(), copy.deepcopy(retriever)):
            copied.close()
            assert retriever.invoke(QUESTION)
        last = copy.copy(retriever)
        retriever.close()
        assert last.invoke(QUESTION)
        last.close()
        with open_store(index_folder) as store:
            assert len(store)

    def test_a_closed_one_says_so(self, index_folder):
        retriever = AutoRegRetriever(place=index_folder, **HOW)
        retriever.close()
        with pytest.raises(StoreError, match=f"{index_folder} was closed"):
            retriever.invoke(QUESTION)

    def test_copies_have_the_index_that_their_settings_name(
        self, retriever, make_index, model, tmp_path
    ):
        expected = rounded(retriever.invoke(QUESTION))
        for again in (
            copy.deepcopy(retriever),
            pickle.loads(pickle.dumps(retriever)),  # noqa: S301 - made here
        ):
            assert rounded(again.invoke(QUESTION)) == expected
            again.close()
        folder = make_index("faiss", model, tmp_path)
        (folder.parent / "corpus").rename(tmp_path / "elsewhere")
        moved = tmp_path / "moved"
        folder.rename(moved)
        with retriever.model_copy(update={"place": str(moved), "k": 2}) as other:
            assert len(other.invoke(QUESTION)) == 2
            assert other._index.use(lambda i: i) is not retriever._index.use(lambda i: i)
        assert rounded(retriever.invoke(QUESTION)) == expected

    def test_a_relative_place_is_found_from_anywhere(self, index_folder, monkeypatch, tmp_path):
        monkeypatch.chdir(index_folder.parent)
        monkeypatch.setenv("HOME", str(index_folder.parent))
        for place in (index_folder.name, "~/index"):
            monkeypatch.chdir(index_folder.parent)
            with AutoRegRetriever(place=place, **HOW) as retriever:
                dump, expected = pickle.dumps(retriever), rounded(retriever.invoke(QUESTION))
                monkeypatch.chdir(tmp_path)
                again = pickle.loads(dump)  # noqa: S301 - made here
                for one in (again, retriever.model_copy(), copy.deepcopy(retriever)):
                    assert one.place == str(index_folder)
                    assert rounded(one.invoke(QUESTION)) == expected
                    one.close()
        assert AutoRegEmbeddings.from_index("~/index").fingerprint

    def test_a_missing_index_is_named_when_it_is_opened(self, tmp_path):
        with pytest.raises(StoreError, match=f"{tmp_path / 'none'} does not exist.*make an index"):
            AutoRegRetriever(place=tmp_path / "none")

    def test_another_model_is_refused_when_it_is_opened(self, index_folder, other_folder):
        with pytest.raises(FingerprintError, match=str(other_folder)):
            AutoRegRetriever(place=index_folder, model=other_folder, **HOW)
        with AutoRegRetriever(place=index_folder, **HOW) as retriever:
            assert retriever.invoke(QUESTION)  # and what was refused is closed

    def test_other_settings_are_refused_when_it_is_opened(self, index_folder):
        with pytest.raises(FingerprintError, match="other settings"):
            AutoRegRetriever(place=index_folder, query_instruction="An answer: ", **HOW)

    def test_a_model_that_is_gone_is_named(self, index_folder):
        with pytest.raises(ModelError, match="/no/such/model"):
            AutoRegRetriever(place=index_folder, model="/no/such/model", **HOW)

    def test_an_api_key_is_not_shown(self, index_folder):
        with AutoRegRetriever(place=index_folder, api_key="secret-key", **HOW) as retriever:
            assert "secret-key" not in f"{retriever!r} {retriever.model_dump_json()}"

    @pytest.mark.parametrize("wrong", [{"k": 0}, {"depth": 0}, {"folder": "x"}, {"place": 3}])
    def test_a_wrong_argument_is_refused(self, wrong):
        with pytest.raises(ValidationError):
            AutoRegRetriever(**wrong)

    def test_an_index_that_was_made_anew_is_opened_anew(self, make_index, model, tmp_path):
        folder = make_index("faiss", model, tmp_path / "one")
        old = AutoRegRetriever(place=folder, **HOW)
        shutil.rmtree(folder)
        corpus = tmp_path / "one" / "corpus"
        make_index("faiss", model, tmp_path / "two").rename(folder)
        assert corpus.is_dir()
        with AutoRegRetriever(place=folder, **HOW) as new:
            assert new._index.use(lambda i: i) is not old._index.use(lambda i: i)
        old.close()


class TestBadQuestions:
    @pytest.mark.parametrize("question", ["", "  \n"])
    async def test_an_empty_one_is_refused(self, retriever, question):
        with pytest.raises(ValueError, match="question is empty"):
            retriever.invoke(question)
        with pytest.raises(ValueError, match="question is empty"):
            await retriever.ainvoke(question)

    @pytest.mark.parametrize("question", [None, {"input": QUESTION}, [QUESTION]])
    def test_what_is_no_text_is_refused(self, retriever, question):
        with pytest.raises(TypeError, match="it must be a str"):
            retriever.invoke(question)

    def test_no_documents_are_not_to_be_had(self, retriever):
        with pytest.raises(ValueError, match="k is 0"):
            retriever.invoke(QUESTION, k=0)

    def test_an_unknown_argument_is_refused(self, retriever):
        with pytest.raises(TypeError, match="top_k"):
            retriever.invoke(QUESTION, top_k=3)

    @pytest.mark.parametrize(
        "question", ["🧵 漢字 عربي naïve \ud800 \0", "a very long question " * 500]
    )
    def test_any_text_is_a_question(self, retriever, question):
        assert len(retriever.invoke(question)) == 4
        assert len(retriever.invoke(question, hybrid=True)) == 4
