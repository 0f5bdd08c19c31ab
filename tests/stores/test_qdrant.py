"""What only the Qdrant store has: other clients' views of it, and points of theirs."""

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore as LangChainStore
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import MetadataMode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaIndexStore
from qdrant_client import QdrantClient, models
from store_cases import DIMENSION, MANIFEST, chunks, create, vectors
from store_writer import in_process, open_briefly

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.errors import StoreError
from autoreg_rag.stores import FileRecord, create_store, open_store
from autoreg_rag.stores.qdrant.requests import request_bodies


@pytest.fixture(scope="module")
def shared(quick_folder):
    folder = quick_folder() / "index"
    with create("qdrant", folder) as store:
        for place, source in enumerate(["c/a.md", "c/b.md"]):
            store.add(chunks(source, 15), vectors(15, seed=place), "1")
            store.finish_file(FileRecord(source, "1", 15))
    return folder


class TestOtherClients:
    """A collection that this project wrote, opened by frameworks with no arguments."""

    @pytest.fixture
    def langchain(self, shared):
        opened = LangChainStore.from_existing_collection(
            "autoreg", embedding=Fixed(), path=str(shared)
        )
        yield opened
        opened.client.close()

    @pytest.fixture
    def llama_index(self, shared):
        client = QdrantClient(path=str(shared))
        yield VectorStoreIndex.from_vector_store(
            LlamaIndexStore("autoreg", client=client), embed_model=FixedMock(DIMENSION)
        )
        client.close()

    def test_langchain_finds_texts_metadata_and_offsets(self, langchain):
        document, score = langchain.similarity_search_with_score("4", k=1)[0]
        chunk = chunks("c/a.md", 15)[4]
        assert score == pytest.approx(1)
        assert document.page_content == chunk.text
        expected = {**chunk.metadata, "source": "c/a.md", "start": chunk.start, "end": chunk.end}
        own = {"_id": chunk.id, "_collection_name": "autoreg"}
        assert document.metadata == {**expected, **own}

    def test_langchain_filters(self, langchain):
        wanted = models.FieldCondition(
            key="metadata.source", match=models.MatchValue(value="c/b.md")
        )
        found = langchain.similarity_search("4", k=20, filter=models.Filter(must=[wanted]))
        assert len(found) == 15
        assert {document.metadata["source"] for document in found} == {"c/b.md"}

    def test_llama_index_finds_nodes_whose_text_is_the_passage_alone(self, llama_index):
        found = llama_index.as_retriever(similarity_top_k=1).retrieve("4")[0]
        chunk = chunks("c/a.md", 15)[4]
        assert found.score == pytest.approx(1)
        assert found.node.node_id == chunk.id
        assert found.node.ref_doc_id == "c/a.md"
        assert (found.node.start_char_idx, found.node.end_char_idx) == (chunk.start, chunk.end)
        assert found.node.metadata == {**chunk.metadata, "source": "c/a.md"}
        for mode in (MetadataMode.EMBED, MetadataMode.LLM, MetadataMode.NONE):
            assert found.node.get_content(mode) == chunk.text

    def test_llama_index_filters(self, llama_index):
        filters = MetadataFilters(
            filters=[
                MetadataFilter(key="source", value="c/b.md"),
                MetadataFilter(key="page", value=2),
            ]
        )
        found = llama_index.as_retriever(similarity_top_k=20, filters=filters).retrieve("4")
        assert {node.node_id for node in found} == {c.id for c in chunks("c/b.md", 15)[8:12]}

    def test_llama_index_deletes_a_document_with_all_its_chunks(self, folder):
        with create("qdrant", folder) as store:
            store.add(chunks("c/a", 5), vectors(5), "1")
            store.add(chunks("c/b", 5), vectors(5), "1")
        client = QdrantClient(path=str(folder))
        LlamaIndexStore("autoreg", client=client).delete("c/a")
        client.close()
        with open_store(folder) as store:
            assert list(store.sources()) == ["c/b"]


class TestPointsOfOthers:
    """Points that frameworks add to a collection of this project by their own stores."""

    @pytest.fixture
    def others(self, folder):
        """Fill a collection, let others add three points near every query, give their ids."""
        with create("qdrant", folder) as store:
            store.add(chunks("c/a.md", 15), vectors(15), "1")
            store.finish_file(FileRecord("c/a.md", "1", 15))
        langchain = LangChainStore.from_existing_collection(
            "autoreg", embedding=Fixed(), path=str(folder)
        )
        langchain.add_texts(["4", "5"], [{"source": "c/a.md"}, {"source": "c/b.md"}])
        langchain.client.close()
        client = QdrantClient(path=str(folder))
        llama_index = VectorStoreIndex.from_vector_store(
            LlamaIndexStore("autoreg", client=client), embed_model=FixedMock(DIMENSION)
        )
        llama_index.insert(Document(text="4"))
        points, _ = client.scroll("autoreg", limit=99)
        client.close()
        return {str(point.id) for point in points} - {c.id for c in chunks("c/a.md", 15)}

    def test_are_not_found(self, folder, others):
        assert len(others) == 3
        with open_store(folder) as store:
            assert len(store) == 15
            assert {chunk.id for chunk in store.chunks()} == {c.id for c in chunks("c/a.md", 15)}
            for k in (1, 99):
                for where in (None, {"source": ["c/a.md", "c/b.md"]}):
                    (hits,) = store.search(vectors(15)[4:5], k, where)
                    assert hits[0].chunk == chunks("c/a.md", 15)[4]
                    assert len(hits) == min(k, 15)
            assert list(store.sources()) == ["c/a.md"]
            assert store.present(list(others)) == set()
            with pytest.raises(KeyError):
                store.get(list(others))

    def test_stay_when_files_come_and_go(self, folder, others):
        with create("qdrant", folder) as store:
            store.add(chunks("c/a.md", 3, "2"), vectors(3), "2")
            store.finish_file(FileRecord("c/a.md", "2", 3))
            assert len(store) == 3
            store.remove_file("c/a.md")
            store.remove_file("c/b.md")
            store.set_metadata([Chunk(id_, "x", "c/a.md", 0, 1) for id_ in others])
            assert len(store) == 0
        client = QdrantClient(path=str(folder))
        points, _ = client.scroll("autoreg", limit=99)
        client.close()
        assert {str(point.id) for point in points} == others
        assert not any("_chunk" in point.payload for point in points)

    def test_one_that_took_the_place_of_a_chunk_gives_it_back(self, folder):
        some = chunks("c/a.md", 3)
        with create("qdrant", folder) as store:
            store.add(some, vectors(3), "1")
        client = QdrantClient(path=str(folder))
        client.overwrite_payload("autoreg", {"page_content": "mine"}, [some[0].id])
        client.close()
        with create("qdrant", folder) as store:
            ids = [chunk.id for chunk in some]
            assert store.present(ids) == set(ids[1:])
            store.add(some[:1], vectors(1), "1")
            assert store.get(ids) == some


def test_old_chunks_are_looked_for_only_where_there_can_be_any(folder, monkeypatch):
    deleted = []
    delete = QdrantClient.delete

    def noted(client, collection_name, *args, **kwargs):
        deleted.append(collection_name)
        return delete(client, collection_name, *args, **kwargs)

    def index(store, version):
        for source in ("c/a", "c/b"):
            store.add(chunks(source, 3, version), vectors(3), version)
            store.finish_file(FileRecord(source, version, 3))

    monkeypatch.setattr(QdrantClient, "delete", noted)
    with create("qdrant", folder) as store:
        index(store, "1")
        store.finish_file(FileRecord("c/empty", "1", 0))
        assert deleted.count("autoreg") == 0
        index(store, "2")
        assert deleted.count("autoreg") == 2
        assert len(store) == 6
    with create("qdrant", folder) as store:
        index(store, "3")
        assert deleted.count("autoreg") == 4
        index(store, "3")
        assert deleted.count("autoreg") == 4
        assert len(store) == 6
        store.add(chunks("c/c", 3), vectors(3), "1")
    with create("qdrant", folder) as store:  # a killed run left chunks without a record
        store.add(chunks("c/c", 2, "2"), vectors(2), "2")
        store.finish_file(FileRecord("c/c", "2", 2))
        assert deleted.count("autoreg") == 5
        assert len(store) == 8


class Fixed(Embeddings):
    """The vector of the chunk whose number a text is."""

    def embed_query(self, text):
        return vectors(15)[int(text)].tolist() if text.isdigit() else [1.0] * DIMENSION

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]


class FixedMock(MockEmbedding):
    def _get_query_embedding(self, query):
        return Fixed().embed_query(query)


def test_another_process_is_refused_even_to_read(folder):
    with create("qdrant", folder):
        for writable in (False, True):
            error = in_process(open_briefly, folder, writable)
            assert "allows only one" in str(error)
    assert in_process(open_briefly, folder, False) is None


def test_collections_of_one_storage_do_not_mix(folder):
    with create_store("qdrant", folder, MANIFEST, collection="one") as store:
        store.add(chunks("c/a", 3), vectors(3), "1")
    with create_store("qdrant", folder, MANIFEST, collection="two") as store:
        assert len(store) == 0
    with open_store(folder, collection="one") as store:
        assert len(store) == 3
    with pytest.raises(StoreError, match=r"no collection 'autoreg'.*python -m autoreg_rag.index"):
        open_store(folder)


def test_what_is_left_of_a_collection_that_was_deleted_is_not_taken_for_its_files(folder):
    with create("qdrant", folder) as store:
        store.add(chunks("c/a.md", 3), vectors(3), "1")
        store.finish_file(FileRecord("c/a.md", "1", 3))
    client = QdrantClient(path=str(folder))
    client.delete_collection("autoreg")
    client.close()
    with create("qdrant", folder) as store:
        assert store.file("c/a.md") is None
        assert list(store.files()) == []


def test_a_collection_of_another_program_is_refused_untouched(folder):
    client = QdrantClient(path=str(folder))
    vector = models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)
    client.create_collection("autoreg", vector)
    client.close()
    for refused in (lambda: create("qdrant", folder), lambda: open_store(folder)):
        with pytest.raises(StoreError, match="was not made by autoreg-rag"):
            refused()
    client = QdrantClient(path=str(folder))
    assert [c.name for c in client.get_collections().collections] == ["autoreg"]
    client.close()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"collections": {"x": {"vectors": 1}}}'])
def test_a_damaged_storage_is_noticed(folder, content):
    create("qdrant", folder).close()
    (folder / "meta.json").write_text(content)
    with pytest.raises(StoreError, match="is damaged"):
        open_store(folder)


def test_a_name_that_qdrant_does_not_take_is_refused(folder):
    with pytest.raises(StoreError, match="cannot make the collection 'a/b'"):
        create_store("qdrant", folder, MANIFEST, collection="a/b")
    assert not folder.exists()


def test_a_key_that_qdrant_cannot_address_is_refused(folder):
    with create("qdrant", folder) as store, pytest.raises(StoreError, match="cannot filter by"):
        store.search(vectors(1), 5, {'a "quoted" key': 1})


def test_requests_stay_below_four_megabytes():
    rng = np.random.default_rng(0)
    points = [
        models.PointStruct(id=place, vector=rng.normal(size=576).tolist(), payload={"text": text})
        for place, text in enumerate(["é" * 5000] * 700 + ["x" * 5_000_000] + ["y"] * 3)
    ]
    batches = list(request_bodies(points))
    assert [point for batch in batches for point in batch] == points
    sizes = [sum(len(point.model_dump_json().encode()) for point in batch) for batch in batches]
    too_large = [len(batch) for batch, size in zip(batches, sizes, strict=True) if size > 4e6]
    assert too_large == [1]
    assert len(batches) <= 7


def test_an_index_without_a_revision_gets_one_with_the_next_change(folder):
    create("qdrant", folder).close()
    client = QdrantClient(path=str(folder))
    record = {"source": "c/a", "digest": "1", "chunks": 0, "failed": 0}
    id_ = "6b0f0c52-8b9a-5f5e-9d5c-000000000000"
    client.upsert("autoreg__files", [models.PointStruct(id=id_, vector=[1.0], payload=record)])
    client.close()
    with open_store(folder, writable=True) as store:
        assert list(store.files()) == [FileRecord("c/a", "1", 0)]
        revision = store.revision()
        store.finish_file(FileRecord("c/b", "1", 0))
        assert store.revision() != revision
        assert [record.source for record in store.files()] == ["c/a", "c/b"]


def test_texts_of_any_length_are_stored(folder):
    chunk = Chunk(chunks("c/a", 1)[0].id, "x" * 5_000_000, "c/a", 0, 5_000_000)
    with create("qdrant", folder) as store:
        store.add([chunk], vectors(1), "1")
        assert list(store.chunks()) == [chunk]
