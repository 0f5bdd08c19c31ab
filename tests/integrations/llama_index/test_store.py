"""An index of ours as a vector store of LlamaIndex, of either kind."""

import dataclasses
import re

import numpy as np
import pytest
from llama_index.core import Document, StorageContext, VectorStoreIndex
from llama_index.core.schema import MetadataMode, TextNode
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from pydantic import ValidationError
from qdrant_client import QdrantClient

from autoreg_rag import Index
from autoreg_rag.errors import FingerprintError, StoreError
from autoreg_rag.stores import Manifest, create_store, open_store
from llama_index.embeddings.autoreg import AutoRegEmbedding
from llama_index.vector_stores.autoreg import AutoRegVectorStore

QUESTION = "What do whales live in?"


@pytest.fixture
def store(index_folder):
    with AutoRegVectorStore.from_index(index_folder) as store:
        yield store


@pytest.fixture
def chunks(store):
    return list(store.client.chunks())


@pytest.fixture
def vector(embedding):
    return embedding.get_query_embedding(QUESTION)


def only(*filters, condition=FilterCondition.AND):
    return MetadataFilters(filters=list(filters), condition=condition)


def equals(key, value, operator=FilterOperator.EQ):
    return MetadataFilter(key=key, value=value, operator=operator)


class TestQuery:
    def test_a_retriever_finds_what_our_own_search_finds(self, index_folder, embedding, model):
        with Index.open(index_folder, model=model) as index:
            (expected,) = index.search([QUESTION], 5)
        with AutoRegVectorStore.from_index(index_folder) as store:
            opened = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
            found = opened.as_retriever(similarity_top_k=5).retrieve(QUESTION)
        assert [node.node_id for node in found] == [hit.chunk.id for hit in expected]
        assert [node.score for node in found] == pytest.approx([hit.score for hit in expected])
        assert {type(node.score) for node in found} == {float}

    async def test_asynchronous_retrieval_finds_the_same(self, store, embedding):
        opened = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
        retriever = opened.as_retriever(similarity_top_k=5)
        found, expected = await retriever.aretrieve(QUESTION), retriever.retrieve(QUESTION)
        assert [node.node for node in found] == [node.node for node in expected]
        assert [node.score for node in found] == pytest.approx([n.score for n in expected])

    def test_nodes_hold_text_offsets_metadata_and_their_document(self, store, chunks, vector):
        result = store.query(VectorStoreQuery(vector, similarity_top_k=100))
        nodes = {node.node_id: node for node in result.nodes}
        assert list(nodes) == result.ids
        assert set(nodes) == {chunk.id for chunk in chunks}
        for chunk in chunks:
            node = nodes[chunk.id]
            assert (node.start_char_idx, node.end_char_idx) == (chunk.start, chunk.end)
            assert node.metadata == {**chunk.metadata, "source": chunk.source}
            assert node.ref_doc_id == chunk.source
            for mode in (MetadataMode.EMBED, MetadataMode.LLM, MetadataMode.NONE):
                assert node.get_content(mode) == chunk.text

    def test_similarity_is_the_cosine_whatever_the_vectors_length(self, store, vector):
        plain = store.query(VectorStoreQuery(vector, similarity_top_k=3))
        longer = store.query(VectorStoreQuery([7 * x for x in vector], similarity_top_k=3))
        assert longer.ids == plain.ids
        assert longer.similarities == pytest.approx(plain.similarities)
        texts = [node.text for node in plain.nodes]
        vectors = np.array(store.embedding().get_text_embedding_batch(texts))
        assert plain.similarities == pytest.approx(vectors @ vector, abs=1e-3)
        assert plain.similarities == sorted(plain.similarities, reverse=True)

    def test_our_nodes_are_those_that_the_qdrant_integration_builds(
        self, make_index, model, tmp_path, store, vector
    ):
        """From an index of either kind, as the Qdrant one of the same corpus opens there."""
        query = VectorStoreQuery(vector, similarity_top_k=100)
        client = QdrantClient(path=str(make_index("qdrant", model, tmp_path)))
        theirs = QdrantVectorStore("autoreg", client=client).query(query)
        client.close()
        ours = store.query(query)
        assert {node.node_id: node for node in ours.nodes} == {
            node.node_id: node for node in theirs.nodes
        }
        assert ours.similarities == pytest.approx(theirs.similarities, abs=1e-5)


class TestHybrid:
    def retriever(self, store, embedding, **settings):
        opened = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
        settings = {"similarity_top_k": 5, "vector_store_query_mode": "hybrid"} | settings
        return opened.as_retriever(**settings)

    @pytest.mark.parametrize("where", [None, {"year": [1999, 2001]}])
    def test_it_finds_what_our_own_hybrid_search_finds(self, index_folder, embedding, model, where):
        with Index.open(index_folder, model=model) as index:
            (expected,) = index.search([QUESTION], 5, hybrid=True, where=where)
            (by_cosine,) = index.search([QUESTION], 5, where=where)
        filters = where and only(
            equals("year", 1999), equals("year", 2001), condition=FilterCondition.OR
        )
        with AutoRegVectorStore.from_index(index_folder) as store:
            found = self.retriever(store, embedding, filters=filters).retrieve(QUESTION)
        assert [node.node_id for node in found] == [hit.chunk.id for hit in expected]
        assert [node.score for node in found] == pytest.approx([hit.score for hit in expected])
        assert found[0].score != pytest.approx(by_cosine[0].score)

    def test_alpha_weighs_the_cosine(self, index_folder, embedding, model):
        with Index.open(index_folder, model=model) as index:
            (expected,) = index.search([QUESTION], 5, hybrid=True, alpha=0.1)
            (by_default,) = index.search([QUESTION], 5, hybrid=True)
        with AutoRegVectorStore.from_index(index_folder) as store:
            found = self.retriever(store, embedding, alpha=0.1).retrieve(QUESTION)
        assert [node.node_id for node in found] == [hit.chunk.id for hit in expected]
        scores = pytest.approx([hit.score for hit in expected], abs=1e-5)
        assert [node.score for node in found] == scores
        assert [hit.score for hit in by_default] != scores

    def test_hybrid_top_k_is_how_many_are_found(self, store, embedding):
        every = self.retriever(store, embedding).retrieve(QUESTION)
        few = self.retriever(store, embedding, hybrid_top_k=2).retrieve(QUESTION)
        assert [node.node_id for node in few] == [node.node_id for node in every[:2]]

    def test_a_filter_that_nothing_can_meet_finds_nothing(self, store, embedding):
        filters = only(equals("year", 1999), equals("year", 2001))
        assert self.retriever(store, embedding, filters=filters).retrieve(QUESTION) == []


class TestFilters:
    CASES = (
        (only(equals("source", "corpus/bread.md")), lambda c: c.source == "corpus/bread.md"),
        (only(equals("ref_doc_id", "corpus/bread.md")), lambda c: c.source == "corpus/bread.md"),
        (only(equals("doc_id", "17")), lambda c: c.metadata.get("doc_id") == "17"),
        (only(equals("year", 1999)), lambda c: c.metadata.get("year") == 1999),
        (only(equals("year", 1999.0)), lambda c: c.metadata.get("year") == 1999),
        (only(equals("year", [1999, 2001], FilterOperator.IN)), lambda c: "year" in c.metadata),
        (only(equals("year", [], FilterOperator.IN)), lambda c: False),
        (
            only(equals("topic", "garden"), equals("year", 2001)),
            lambda c: c.metadata.get("year") == 2001,
        ),
        (only(equals("year", 1999), equals("year", 2001)), lambda c: False),
        (
            only(
                equals("year", 1999),
                equals("source", "corpus/bread.md"),
                condition=FilterCondition.OR,
            ),
            lambda c: c.metadata.get("year") == 1999 or c.source == "corpus/bread.md",
        ),
        (
            only(
                equals("topic", "garden"),
                only(
                    equals("year", 1999),
                    equals("source", "corpus/bread.md"),
                    condition=FilterCondition.OR,
                ),
            ),
            lambda c: c.metadata.get("year") == 1999,
        ),
        (only(), lambda c: True),
    )

    @pytest.mark.parametrize(("filters", "meets"), CASES)
    def test_only_what_meets_them_is_found(self, store, chunks, vector, filters, meets):
        result = store.query(VectorStoreQuery(vector, similarity_top_k=100, filters=filters))
        expected = {chunk.id for chunk in chunks if meets(chunk)}
        assert set(result.ids) == expected
        assert {node.node_id for node in store.get_nodes(filters=filters)} == expected
        assert result.similarities == sorted(result.similarities, reverse=True)

    def test_the_best_of_either_filter_come_first(self, store, vector):
        everything = store.query(VectorStoreQuery(vector, similarity_top_k=100))
        sources = {node.ref_doc_id for node in everything.nodes}
        either = only(*(equals("source", s) for s in sources), condition=FilterCondition.OR)
        for k in (1, 3, 100):
            query = VectorStoreQuery(vector, similarity_top_k=k, filters=either)
            result = store.query(query)
            assert result.ids == everything.ids[:k]

    def test_doc_ids_leave_only_their_nodes(self, store, chunks, vector):
        wanted = ["corpus/bread.md", "corpus/deep/code.txt"]
        query = VectorStoreQuery(vector, similarity_top_k=100, doc_ids=wanted)
        expected = {chunk.id for chunk in chunks if chunk.source in wanted}
        assert set(store.query(query).ids) == expected
        query.filters = only(equals("source", "corpus/sea.txt"))
        assert store.query(query).ids == []

    @pytest.mark.parametrize(
        ("filters", "message"),
        [
            (only(equals("year", 2000, FilterOperator.GT)), "year > 2000"),
            (only(equals("year", 2000, FilterOperator.NE)), "year != 2000"),
            (only(equals("year", [2000])), r"year == \[2000\]"),
            (only(equals("topic", "garden", FilterOperator.IN)), "topic in"),
            (only(equals("topic", None, FilterOperator.IS_EMPTY)), "is_empty"),
            (only(equals("year", 1), condition=FilterCondition.NOT), "'not'"),
            (
                only(*(equals("year", y) for y in range(99)), condition=FilterCondition.OR),
                "99 alternatives",
            ),
        ],
    )
    def test_what_cannot_be_filtered_by_is_refused(self, store, vector, filters, message):
        with pytest.raises(ValueError, match=message):
            store.query(VectorStoreQuery(vector, filters=filters))


class TestRefusals:
    def test_an_index_that_is_missing(self, tmp_path):
        with pytest.raises(StoreError, match="does not exist"):
            AutoRegVectorStore.from_index(tmp_path / "none")
        (tmp_path / "file").touch()
        with pytest.raises(StoreError, match="something other"):
            AutoRegVectorStore.from_index(tmp_path)

    def test_unknown_arguments(self, index_folder):
        with pytest.raises(ValidationError, match="dimension"):
            AutoRegVectorStore(place=str(index_folder), dimension=3)

    def test_queries_that_it_cannot_answer(self, store, vector):
        with pytest.raises(ValueError, match="no vector"):
            store.query(VectorStoreQuery(query_str=QUESTION))
        for empty in (VectorStoreQuery(query_str=""), VectorStoreQuery(query_str=" ")):
            with pytest.raises(ValueError, match="the question is empty"):
                store.query(empty)
        with pytest.raises(ValueError, match="zero"):
            store.query(VectorStoreQuery([0.0] * len(vector)))
        with pytest.raises(ValueError, match="mode 'mmr'"):
            store.query(VectorStoreQuery(vector, mode=VectorStoreQueryMode.MMR))
        with pytest.raises(ValueError, match="mode 'mmr'"):
            store.query(VectorStoreQuery(vector, mode="mmr"))
        hybrid = VectorStoreQuery(vector, mode=VectorStoreQueryMode.HYBRID)
        with pytest.raises(ValueError, match="needs the question"):
            store.query(hybrid)
        with pytest.raises(ValueError, match="the question is empty"):
            store.query(dataclasses.replace(hybrid, query_str=" "))
        with pytest.raises(ValueError, match="from 0 to 1"):
            store.query(dataclasses.replace(hybrid, query_str=QUESTION, alpha=1.5))
        with pytest.raises(ValueError, match="1 or more"):
            store.query(dataclasses.replace(hybrid, query_str=QUESTION, similarity_top_k=0))
        with pytest.raises(ValueError, match="node_ids"):
            store.query(VectorStoreQuery(vector, node_ids=["1"]))
        with pytest.raises(StoreError, match="1 or more"):
            store.query(VectorStoreQuery(vector, similarity_top_k=0))

    async def test_keywords_of_another_store(self, store, embedding):
        opened = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
        asked = {"qdrant_filters": None, "hybrid_k": 3}
        retriever = opened.as_retriever(vector_store_kwargs=asked)
        message = "takes no qdrant_filters, hybrid_k: use filters or doc_ids"
        with pytest.raises(ValueError, match=message):
            retriever.retrieve(QUESTION)
        with pytest.raises(ValueError, match=message):
            await retriever.aretrieve(QUESTION)

    def test_a_blank_question_though_it_has_a_vector(self, store, vector):
        with pytest.raises(ValueError, match="the question is empty"):
            store.query(VectorStoreQuery(vector, query_str=" \n"))
        by_vector_alone = VectorStoreQuery(vector, query_str="", similarity_top_k=1)
        assert len(store.query(by_vector_alone).ids) == 1

    def test_a_vector_of_another_dimension(self, store, vector):
        with pytest.raises(StoreError, match=r"31 numbers, those of the index have 32.*embedding"):
            store.query(VectorStoreQuery(vector[:-1]))

    def test_changes(self, store, chunks, embedding, kind):
        with pytest.raises(StoreError, match=r"python -m autoreg_rag\.index"):
            VectorStoreIndex.from_documents(
                [Document(text="new")],
                embed_model=embedding,
                storage_context=StorageContext.from_defaults(vector_store=store),
            )
        for change in (
            lambda: store.add([TextNode(text="new")]),
            lambda: store.delete("corpus/bread.md"),
            lambda: store.delete_nodes([chunks[0].id]),
            store.clear,
        ):
            with pytest.raises(StoreError, match="cannot be changed through LlamaIndex") as caught:
                change()
            (command,) = re.findall("python -m (autoreg_rag.index [^']+)'", str(caught.value))
            assert command.startswith("autoreg_rag.index CORPUS ")
            made_by = store.client.manifest.model
            assert command.endswith(f"--out {store.place} --model {made_by}")
            assert ("--store qdrant" in command) == (kind == "qdrant")
        assert list(store.client.chunks()) == chunks

    def test_changes_of_an_index_of_the_default_model(self, tmp_path):
        create_store("faiss", tmp_path / "index", Manifest("0" * 16, "default", 32)).close()
        with (
            AutoRegVectorStore.from_index(tmp_path / "index") as store,
            pytest.raises(StoreError, match=f"CORPUS --out {tmp_path / 'index'}' again"),
        ):
            store.clear()


class TestEmbedding:
    def test_it_is_that_of_the_index(self, store, embedding, model):
        own = store.embedding(dtype="float32", device="cpu")
        assert own.fingerprint == model.fingerprint()
        assert own.get_query_embedding(QUESTION) == embedding.get_query_embedding(QUESTION)
        assert store.embedding(model_name=None).model_name == own.model_name

    def test_a_model_that_is_not_the_indexs_is_refused(self, store, other_folder):
        with pytest.raises(FingerprintError, match=str(other_folder)):
            store.embedding(model_name=other_folder).get_query_embedding(QUESTION)
        with pytest.raises(FingerprintError):
            store.embedding(query_instruction="Other:").get_query_embedding(QUESTION)


class TestNodes:
    def test_nodes_are_got_by_id(self, store, chunks):
        wanted = [chunks[2].id, chunks[0].id]
        found = store.get_nodes([*wanted, "00000000-0000-0000-0000-000000000000"])
        assert [node.node_id for node in found] == wanted
        assert [node.text for node in found] == [chunks[2].text, chunks[0].text]

    async def test_all_nodes_are_got(self, store, chunks):
        assert {node.node_id for node in await store.aget_nodes()} == {c.id for c in chunks}

    def test_an_open_store_sees_what_is_indexed_meanwhile(
        self, make_index, model, tmp_path, vector
    ):
        folder = make_index("faiss", model, tmp_path)
        with AutoRegVectorStore.from_index(folder) as store:
            with open_store(folder, writable=True) as writer:
                writer.remove_file("corpus/sea.txt")
            result = store.query(VectorStoreQuery(vector, similarity_top_k=100))
            assert {node.ref_doc_id for node in result.nodes} == {
                "corpus/bread.md",
                "corpus/deep/code.txt",
                "corpus/rows.jsonl",
            }


def test_the_default_model_answers_from_an_index_of_its_own(make_index, real_model, tmp_path):
    folder = make_index("faiss", real_model, tmp_path)
    with AutoRegVectorStore.from_index(folder) as store:
        index = VectorStoreIndex.from_vector_store(store, embed_model=AutoRegEmbedding())
        found = index.as_retriever(similarity_top_k=3).retrieve("What is bread baked from?")
    vector = real_model.encode_queries(["What is bread baked from?"])[0]
    vectors = real_model.encode_documents([node.text for node in found])
    assert [node.score for node in found] == pytest.approx(vectors @ vector, abs=0.02)  # bfloat16
    assert "corpus/bread.md" in {node.node.ref_doc_id for node in found}
