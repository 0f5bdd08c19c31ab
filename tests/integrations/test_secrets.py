"""What a server's URL keeps secret is shown nowhere, but not lost, in both frameworks."""

import pickle

import pytest
from llama_index.core.schema import TextNode

from autoreg_rag.corpus import Chunker
from autoreg_rag.errors import StoreError
from autoreg_rag.index.indexer import Indexer
from autoreg_rag.stores import Manifest, create_store
from langchain_autoreg import AutoRegRetriever
from llama_index.vector_stores.autoreg import AutoRegVectorStore
from tests.stores.qdrant_server import StrictServer

SECRETS = ("s3cret", "user", "token=")


@pytest.fixture
def url(model, tmp_path, monkeypatch):
    """The URL of a server that has an index, with a password and a token."""
    monkeypatch.setenv("AUTOREG_RAG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bread.txt").write_text("Bread is baked from flour, water and salt.")
    server = StrictServer()
    assert all(secret in server.url for secret in SECRETS)
    manifest = Manifest(model.fingerprint(), model.reference, model.dimension)
    with create_store("qdrant", server.url, manifest) as store:
        chunker = Chunker(model.backbone.tokenizer.backend_tokenizer)
        Indexer(model, store, chunker).run(tmp_path / "bread.txt")
    yield server.url
    server.close()


def assert_no_secret(text, url):
    assert f"http://{url.rpartition('@')[2].partition('?')[0]}" in text
    assert not any(secret in text for secret in SECRETS)


def test_a_vector_store_of_llama_index(url):
    with AutoRegVectorStore(place=url) as store:
        assert_no_secret(repr(store), url)
        assert_no_secret(str(store), url)
        with pytest.raises(StoreError, match="cannot be changed") as caught:
            store.add([TextNode(text="new")])
        assert_no_secret(str(caught.value), url)
        assert store.to_dict()["place"] == url
        with pickle.loads(pickle.dumps(store)) as again:  # noqa: S301 - made here
            assert again.get_nodes() == store.get_nodes() != []


def test_a_retriever_of_langchain(url):
    retriever = AutoRegRetriever(place=url, dtype="float32", device="cpu")
    assert_no_secret(repr(retriever), url)
    assert_no_secret(str(retriever), url)
    again = pickle.loads(pickle.dumps(retriever))  # noqa: S301 - made here
    assert again.place == url
    assert again.invoke("bread") == retriever.invoke("bread") != []
    again.close()
    retriever.close()
    with pytest.raises(StoreError, match="was closed") as caught:
        retriever.invoke("bread")
    assert_no_secret(str(caught.value), url)


@pytest.mark.parametrize("kind", [AutoRegRetriever, AutoRegVectorStore])
def test_one_that_could_not_be_made_can_be_shown_by_who_reports_its_error(kind):
    with pytest.raises(StoreError, match="not the address of a Qdrant server") as caught:
        kind(place="http://user:s3cret@")
    found = [entry.frame.f_locals.get("self") for entry in caught.traceback]
    shown = {repr(one) for one in found if isinstance(one, kind)}
    assert len(shown) == 1
    assert "place='http://...'" in shown.pop()
