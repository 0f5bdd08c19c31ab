"""Copies, pickles and dictionaries of a vector store open the same index, from anywhere."""

import copy
import logging
import pickle
import re

import pytest
from llama_index.core.vector_stores import VectorStoreQuery

from autoreg_rag.errors import StoreError
from autoreg_rag.stores import Manifest, create_store
from llama_index.vector_stores.autoreg import AutoRegVectorStore


@pytest.fixture
def query(embedding):
    vector = embedding.get_query_embedding("What do whales live in?")
    return VectorStoreQuery(vector, similarity_top_k=3)


def test_a_store_is_opened_again_from_what_it_is_written_to(index_folder, query, caplog):
    store = AutoRegVectorStore(place=str(index_folder), api_key="secret")
    expected = store.query(query)
    settings, dump, pickled = store.to_dict(), store.model_dump(), pickle.dumps(store)
    assert "secret" not in f"{settings} {dump} {store!r}"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    store.close()
    for open_again in (
        lambda: AutoRegVectorStore.from_dict(settings),
        lambda: AutoRegVectorStore.model_validate(dump),
        lambda: pickle.loads(pickled),  # noqa: S301 - made here
    ):
        with open_again() as again:
            assert again.query(query) == expected


def test_copies_share_the_open_index(index_folder, query):
    with AutoRegVectorStore.from_index(index_folder) as store:
        expected = store.query(query)
        for again in (
            copy.copy(store),
            copy.deepcopy(store),
            store.model_copy(deep=True),
            *copy.deepcopy([store]),
        ):
            assert again is not store
            assert again.client is store.client
            assert again.query(query) == expected


def test_a_copy_has_the_index_that_its_own_fields_name(
    index_folder, model, tmp_path, monkeypatch, query
):
    manifest = Manifest(model.fingerprint(), model.reference, model.dimension)
    create_store("faiss", tmp_path / "empty", manifest).close()
    monkeypatch.chdir(tmp_path)
    with AutoRegVectorStore.from_index(index_folder) as store:
        expected = store.query(query)
        for again in (store.model_copy, store.copy):
            with again(update={"place": "empty"}) as other:
                assert other.place == str(tmp_path / "empty")
                assert other.query(query).ids == []
        assert store.query(query) == expected
        assert store.model_copy(update={"place": index_folder}).client is store.client


def test_a_copy_may_have_another_collection(model, tmp_path):
    manifest = Manifest(model.fingerprint(), model.reference, model.dimension)
    for name in ("one", "two"):
        create_store("qdrant", tmp_path / "index", manifest, collection=name).close()
    store = AutoRegVectorStore(place=tmp_path / "index", collection="one")
    store.close()  # embedded Qdrant admits one at a time
    with store.model_copy(update={"collection": "two"}) as other:
        assert "--collection two" in other.client.options()


def test_a_pickle_of_an_index_that_is_gone_says_so(make_index, model, tmp_path):
    folder = make_index("faiss", model, tmp_path)
    with AutoRegVectorStore.from_index(folder) as store:
        dump = pickle.dumps(store)
    folder.rename(tmp_path / "moved")
    with pytest.raises(StoreError, match=str(folder)):
        pickle.loads(dump)  # noqa: S301 - made here


def test_a_relative_place_is_found_from_anywhere(index_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(index_folder.parent)
    with AutoRegVectorStore.from_index(index_folder.name) as store:
        settings, dump = store.to_dict(), pickle.dumps(store)
    monkeypatch.chdir(tmp_path)
    assert settings["place"] == str(index_folder)
    AutoRegVectorStore.from_dict(settings).close()
    pickle.loads(dump).close()  # noqa: S301 - made here
    (tmp_path / "autoreg-index").symlink_to(index_folder)
    with AutoRegVectorStore() as by_default:
        assert by_default.place == str(index_folder)


def test_a_place_may_begin_with_the_home_folder(index_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(index_folder.parent))
    with AutoRegVectorStore(place="~/index") as store:
        assert store.place == str(index_folder)


def test_the_url_of_a_server_stays_as_it_is():
    with pytest.raises(StoreError, match=re.escape("http://127.0.0.1:9 ")):
        AutoRegVectorStore(place="http://127.0.0.1:9")
