"""LangChain's own Qdrant store opens a collection that our indexing wrote."""

import numpy as np
import pytest
from langchain_qdrant import QdrantVectorStore
from qdrant_client import models

from autoreg_rag.errors import FingerprintError
from autoreg_rag.stores.names import COLLECTION
from langchain_autoreg import AutoRegEmbeddings, AutoRegRetriever

QUESTION = "What do whales live in?"


@pytest.fixture(scope="module")
def folder(make_index, model, tmp_path_factory):
    return make_index("qdrant", model, tmp_path_factory.mktemp("qdrant"))


@pytest.fixture
def ours(folder):
    """What our retriever finds."""
    with AutoRegRetriever(place=folder, k=100, dtype="float32", device="cpu") as retriever:
        return retriever.invoke(QUESTION)


@pytest.fixture
def store(folder, ours):
    embeddings = AutoRegEmbeddings.from_index(folder, dtype="float32", device="cpu")
    store = QdrantVectorStore.from_existing_collection(
        COLLECTION, embedding=embeddings, path=str(folder)
    )
    yield store
    store.client.close()


def test_it_finds_what_our_retriever_finds(store, ours):
    found = store.similarity_search_with_score(QUESTION, k=100)
    scores = [score for _, score in found]
    np.testing.assert_allclose(scores, [one.metadata["score"] for one in ours], atol=1e-5)
    by_id = {document.metadata["_id"]: document for document, _ in found}
    assert by_id.keys() == {document.id for document in ours}
    for document in ours:
        theirs = by_id[document.id]
        assert theirs.page_content == document.page_content
        assert {k: v for k, v in theirs.metadata.items() if not k.startswith("_")} == {
            k: v for k, v in document.metadata.items() if k not in ("score", "scores")
        }


async def test_it_finds_the_same_when_asynchronous(store):
    found = await store.asimilarity_search(QUESTION, k=3)
    assert found == store.similarity_search(QUESTION, k=3)
    assert len(found) == 3


def test_it_filters_by_our_metadata(store):
    def equal(key, value):
        return models.FieldCondition(key=f"metadata.{key}", match=models.MatchValue(value=value))

    by_year = models.Filter(must=[equal("year", 1999)])
    (found,) = store.similarity_search(QUESTION, k=10, filter=by_year)
    assert found.page_content == "Tulips grow from bulbs."
    by_source = models.Filter(must=[equal("source", "corpus/bread.md")])
    found = store.similarity_search(QUESTION, k=10, filter=by_source)
    assert {document.metadata["source"] for document in found} == {"corpus/bread.md"}


def test_it_ranks_by_marginal_relevance_and_as_a_retriever(store):
    assert len(store.max_marginal_relevance_search(QUESTION, k=3)) == 3
    retriever = store.as_retriever(search_kwargs={"k": 2})
    assert retriever.invoke(QUESTION) == store.similarity_search(QUESTION, k=2)


def test_it_gets_documents_by_our_ids(store, ours):
    (found,) = store.get_by_ids([ours[0].id])
    assert found.page_content == ours[0].page_content


def test_embeddings_of_another_model_are_refused(folder, other_folder):
    embeddings = AutoRegEmbeddings.from_index(folder, model=other_folder)
    with pytest.raises(FingerprintError, match=str(other_folder)):
        QdrantVectorStore.from_existing_collection(
            COLLECTION, embedding=embeddings, path=str(folder)
        )
