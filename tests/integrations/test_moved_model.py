"""An index whose model has moved says so, and how to name it, in both frameworks."""

import shutil

import pytest

from autoreg_rag.errors import ModelNotFoundError
from autoreg_rag.model import AutoRegModel
from langchain_autoreg import AutoRegEmbeddings, AutoRegRetriever
from llama_index.vector_stores.autoreg import AutoRegVectorStore

HOW = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def moved(model_folder, make_index, tmp_path):
    """An index, and the folder to which its model has moved."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    index = make_index("faiss", AutoRegModel.from_pretrained(folder, **HOW), tmp_path)
    return index, folder.rename(tmp_path / "elsewhere")


def of_llama_index(index, **settings):
    with AutoRegVectorStore(place=index) as store:
        return store.embedding(**settings).get_query_embedding("text")


def of_langchain(index, **settings):
    return AutoRegEmbeddings.from_index(index, **settings).embed_query("text")


def retrieved(index, **settings):
    with AutoRegRetriever(place=index, **settings) as retriever:
        return retriever.invoke("text")


@pytest.mark.parametrize("ask", [of_llama_index, of_langchain, retrieved])
def test_the_error_says_how_to_name_it(ask, moved, tmp_path):
    index, folder = moved
    message = rf"not at {tmp_path / 'model'} any more: if it has moved, name it .*model_name="
    with pytest.raises(ModelNotFoundError, match=message):
        ask(index, **HOW)
    assert ask(index, model_name=str(folder), **HOW)
    with pytest.raises(ModelNotFoundError, match="/nowhere/model") as caught:
        ask(index, model_name="/nowhere/model", **HOW)
    assert "has moved" not in str(caught.value)
