"""A copy finds the model that its own fields name, and loads it once, in both frameworks."""

import shutil
from pathlib import Path

import pytest

from autoreg_rag.errors import FingerprintError
from autoreg_rag.model import AutoRegModel
from langchain_autoreg import AutoRegEmbeddings
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
