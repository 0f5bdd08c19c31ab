"""A copy finds the model that its own fields name, and loads it once, in both frameworks.

A retriever's copy finds its index, too.
"""

import shutil
from pathlib import Path

import pytest

from autoreg_rag.errors import FingerprintError
from autoreg_rag.model import AutoRegModel
from autoreg_rag.stores import Manifest, create_store
from langchain_autoreg import AutoRegEmbeddings, AutoRegRetriever
from llama_index.embeddings.autoreg import AutoRegEmbedding

WAYS = [
    (AutoRegEmbedding, AutoRegEmbedding.get_query_embedding),
    (AutoRegEmbeddings, AutoRegEmbeddings.embed_query),
]


@pytest.fixture
def loads(monkeypatch):
    """The names of the models that are loaded."""
    names, load = [], AutoRegModel.from_pretrained

    def counted(name, **settings):
        names.append(name)
        return load(name, **settings)

    monkeypatch.setattr(AutoRegModel, "from_pretrained", counted)
    return names


@pytest.fixture
def beside(other_folder, tmp_path, monkeypatch):
    """The folder of another model, in a working directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(other_folder, tmp_path / "model")


@pytest.mark.parametrize(("make", "embed"), WAYS)
@pytest.mark.parametrize("written", [str, Path])
def test_a_copy_with_a_relative_name_loads_its_model_once(
    make, embed, written, how, beside, loads, monkeypatch
):
    first = make(**how)
    expected = embed(first, "text")
    loads.clear()
    other = first.model_copy(update={"model_name": written("model")})
    assert other.model_name == str(beside)
    monkeypatch.chdir("/")
    vectors = [embed(other, "text") for _ in range(3)]
    assert loads == [str(beside)]
    assert vectors == [embed(make(**how | {"model_name": str(beside)}), "text")] * 3
    assert embed(first, "text") == expected != vectors[0]


@pytest.mark.parametrize(("make", "embed"), WAYS)
def test_one_that_was_made_before_its_folder_loads_the_model_once(
    make, embed, how, beside, loads, tmp_path
):
    first = make(**how | {"model_name": "later"})
    beside.rename(tmp_path / "later")
    for _ in range(3):
        embed(first, "text")
    assert loads == [str(tmp_path / "later")]


@pytest.mark.parametrize(("make", "embed"), WAYS)
def test_a_copy_that_names_no_fingerprint_takes_the_model_as_it_is(make, embed, how):
    first = make(**how, fingerprint="0" * 16)
    with pytest.raises(FingerprintError):
        embed(first, "text")
    anew = first.model_copy(update={"fingerprint": None})
    assert embed(anew, "text") == embed(make(**how), "text")
    with pytest.raises(FingerprintError):
        embed(first, "text")


@pytest.mark.parametrize(("make", "embed"), WAYS)
def test_pydantics_older_way_to_copy_gives_the_same(make, embed, how, other_folder):
    first = make(**how)
    expected = embed(first, "text")
    other = first.copy(update={"model_name": str(other_folder)})
    assert embed(other, "text") == embed(make(**how | {"model_name": str(other_folder)}), "text")
    assert embed(first.copy(), "text") == embed(first.copy(deep=True), "text") == expected


def test_langchains_may_name_the_model_by_either_name(how, other_folder):
    first = AutoRegEmbeddings(**how)
    other = first.model_copy(update={"model": other_folder})
    assert other.model_name == str(other_folder)
    assert other.embed_query("text") != first.embed_query("text")


@pytest.mark.parametrize("copied", [AutoRegRetriever.model_copy, AutoRegRetriever.copy])
def test_a_retrievers_copy_takes_what_its_class_takes(copied, make_index, model, beside, tmp_path):
    manifest = Manifest(model.fingerprint(), model.reference, model.dimension)
    create_store("faiss", tmp_path / "empty", manifest).close()
    place = make_index("faiss", model, tmp_path)
    with AutoRegRetriever(place=place, dtype="float32", device="cpu") as retriever:
        with copied(retriever, update={"place": "empty", "api_key": "s3cret"}) as other:
            assert other.api_key.get_secret_value() == "s3cret"
            assert "s3cret" not in repr(other)
            assert other.invoke("text") == []
        assert retriever.invoke("text")
        for name in ("model", "model_name"):
            with pytest.raises(FingerprintError, match=str(beside)):
                copied(retriever, update={name: "model"})
        assert copied(retriever, update={"model": None}).invoke("text")
