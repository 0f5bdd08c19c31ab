"""A Qdrant server that fails, refuses, or is strict."""

import pytest
from qdrant_client import models
from qdrant_server import Server, StrictServer
from store_cases import MANIFEST, chunks, create, vectors

from autoreg_rag.errors import StoreError
from autoreg_rag.stores import FileRecord, create_store, open_store
from autoreg_rag.stores.qdrant.connection import Connection, shown

SECRETS = ("s3cret", "user", "token")


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


def test_what_is_no_id_of_a_chunk_is_not_there(strict):
    fill_on(strict)
    known = chunks("c/a", 5)[0]
    with open_store(strict.url) as store:
        assert store.present(["no id of ours", known.id]) == {known.id}
        with pytest.raises(KeyError, match="no id of ours"):
            store.get([known.id, "no id of ours"])


def test_points_of_others_are_not_found_in_strict_mode(strict):
    fill_on(strict)
    payload = {"page_content": "mine", "metadata": {"source": "c/a"}}
    point = models.PointStruct(id=1, vector=vectors(1)[0].tolist(), payload=payload)
    strict.embedded.upsert("autoreg", [point])
    with open_store(strict.url) as store:
        assert len(store) == 5
        for where in (None, {"source": "c/a"}):
            assert len(store.search(vectors(1), 9, where)[0]) == 5
        assert list(store.sources()) == ["c/a"]


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
