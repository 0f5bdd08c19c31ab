"""What only the Qdrant store has: other clients' views of it, and a server that may fail."""

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore as LangChainStore
from llama_index.core import VectorStoreIndex
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.schema import MetadataMode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaIndexStore
from qdrant_client import QdrantClient, models
from qdrant_server import Server, StrictServer
from store_cases import DIMENSION, MANIFEST, chunks, create, vectors
from store_writer import in_process, open_briefly

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.errors import StoreError
from autoreg_rag.stores import FileRecord, create_store, open_store
from autoreg_rag.stores.qdrant.connection import Connection, shown
from autoreg_rag.stores.qdrant.requests import request_bodies

SECRETS = ("s3cret", "user", "token")


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


@pytest.fixture
def serve():
    servers = []

    def start(*statuses):
        servers.append(Server(*statuses))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def assert_no_secret(text):
    assert not any(secret in text for secret in SECRETS)


def test_a_server_that_fails_for_a_while_is_asked_again(serve, caplog):
    server = serve(503, 0, 429)
    connection = Connection.to_server(server.url, None)
    assert connection.call(connection.client.collection_exists, "autoreg")
    connection.close()
    assert len(server.requests) == 4
    assert caplog.text.count("trying again") == 3
    assert_no_secret(caplog.text)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
@pytest.mark.parametrize(
    ("status", "message"), [(401, "refuses the API key"), (403, "refuses"), (400, "failed: .*400")]
)
def test_a_server_that_refuses_is_not_asked_again(serve, status, message):
    server = serve(status)
    with pytest.raises(StoreError, match=message) as caught:
        open_store(server.url, api_key="s3cret")
    assert len(server.requests) == 1
    assert_no_secret(str(caught.value))


def test_one_connection_of_a_machine_writes_to_a_collection(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOREG_RAG_CACHE", str(tmp_path))
    server = serve()
    first, second = (Connection.to_server(server.url, None) for _ in range(2))
    first.lock("one")
    with pytest.raises(StoreError, match=r"'one' at http://127.* wait until it is done") as caught:
        second.lock("one")
    assert_no_secret(str(caught.value))
    second.lock("two")
    second.close()
    first.close()
    third = Connection.to_server(server.url, None)
    third.lock("one")
    third.close()


def test_the_command_for_another_index_names_the_server_without_secrets(folder):
    with create("qdrant", folder) as store:
        store._connection.embedded = False
        store._connection.place = shown("http://user:s3cret@host:6333/?token=token")
        options = "--store qdrant --url http://host:6333 --collection NEW_NAME"
        assert store.options() == options


@pytest.fixture
def strict(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOREG_RAG_CACHE", str(tmp_path))
    server = StrictServer()
    yield server
    server.close()


def fill_on(server):
    with create_store("qdrant", server.url, MANIFEST) as store:
        store.add(chunks("c/a", 5), vectors(5), "1")
        store.finish_file(FileRecord("c/a", "1", 5))


def test_strict_mode_lets_an_index_be_written(strict):
    fill_on(strict)
    with create_store("qdrant", strict.url, MANIFEST) as store:
        store.add(chunks("c/a", 3, "2"), vectors(3), "2")
        store.finish_file(FileRecord("c/a", "2", 3))
        assert list(store.chunks()) == sorted(chunks("c/a", 3, "2"), key=lambda chunk: chunk.id)
        store.add(chunks("c/b", 3), vectors(3), "1")
        assert list(store.sources()) == ["c/a", "c/b"]
        store.discard("c/b", "1")
        assert list(store.sources()) == ["c/a"]
        store.remove_file("c/a")
        assert (len(store), list(store.files())) == (0, [])


def test_strict_mode_lets_documents_be_looked_for(strict):
    fill_on(strict)
    with open_store(strict.url) as store:
        (hits,) = store.search(vectors(1), 9, {"source": ["c/a", "c/b"]})
        assert {hit.chunk.id for hit in hits} == {chunk.id for chunk in chunks("c/a", 5)}
        for key in ("doc_id", "document_id", "ref_doc_id"):
            assert store.search(vectors(1), 9, {key: "c/a"}) == [[]]


def test_an_older_collection_gets_the_payload_indexes_that_it_lacks(strict):
    fill_on(strict)
    every = dict(strict.indexed["autoreg"])
    for path in every.keys() - {"metadata.source", "doc_id"}:  # which older versions made
        del strict.indexed["autoreg"][path]
    with open_store(strict.url, writable=True) as store:
        store.discard("c/a", "1")
        assert len(store) == 0
    assert strict.indexed["autoreg"] == every
    before = len(strict.requests)
    open_store(strict.url, writable=True).close()
    assert not any("/index" in request for request in strict.requests[before:])


@pytest.mark.parametrize(
    ("where", "path", "types"),
    [
        ({"title": "plain"}, "metadata.title", "keyword"),
        ({"page": 3}, "metadata.page", "float, integer"),
        ({"start": 3}, "_chunk.metadata.start", "float, integer"),
        ({"odd key": True}, 'metadata."odd key"', "bool"),
    ],
)
def test_a_filter_that_strict_mode_refuses_is_said_with_what_to_do(strict, where, path, types):
    fill_on(strict)
    with open_store(strict.url) as store:
        with pytest.raises(StoreError) as caught:
            store.search(vectors(1), 9, where)
        assert f"create one on {path} of the collection (type: {types})" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert_no_secret(str(caught.value))
        strict.indexed["autoreg"][path] = types.split(",")[0]
        store.search(vectors(1), 9, where)


def test_the_revision_takes_two_requests_however_many_files_there_are(strict):
    with create_store("qdrant", strict.url, MANIFEST) as store:
        for place in range(30):
            store.finish_file(FileRecord(f"c/{place}", "1", 0))
        before = len(strict.requests)
        revision = store.revision()
        assert strict.requests[before:] == [
            "POST /collections/autoreg/points/count",
            "POST /collections/autoreg__files/points",
        ]
        with open_store(strict.url) as reader:
            assert reader.revision() == revision
            store.finish_file(FileRecord("c/0", "2", 0))
            assert reader.revision() != revision


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


def test_a_server_that_is_not_there_is_noticed_at_once(serve):
    server = serve()
    server.close()
    for attempt in (
        lambda: open_store(server.url),
        lambda: create_store("qdrant", server.url, MANIFEST),
    ):
        with pytest.raises(StoreError, match=r"no usable answer .* http://127.0.0.1:\d+") as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert_no_secret(str(caught.value))


@pytest.mark.parametrize("url", ["http://", "https://[bad", "http://a b:x"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(StoreError, match="not the address of a Qdrant server"):
        open_store(url)


def test_texts_of_any_length_are_stored(folder):
    chunk = Chunk(chunks("c/a", 1)[0].id, "x" * 5_000_000, "c/a", 0, 5_000_000)
    with create("qdrant", folder) as store:
        store.add([chunk], vectors(1), "1")
        assert list(store.chunks()) == [chunk]
