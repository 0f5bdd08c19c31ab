import pytest

from autoreg_rag.errors import CorpusError, StoreError
from autoreg_rag.index.places import is_index, kept_if_used
from autoreg_rag.stores import Manifest, create_store


@pytest.fixture
def create(kind, tmp_path):
    return lambda: create_store(kind, tmp_path / "new", Manifest("f", "m", 4))


def test_an_index_is_known_from_other_folders(create, tmp_path):
    create().close()
    assert is_index(tmp_path / "new")
    (tmp_path / "meta.json").touch()
    (tmp_path / "index.sqlite").touch()
    assert not is_index(tmp_path)


def test_a_new_index_goes_with_a_bad_corpus(create, tmp_path):
    with pytest.raises(CorpusError), kept_if_used(create, tmp_path / "new"):
        raise CorpusError("bad")
    assert list(tmp_path.iterdir()) == []


def test_an_index_stays_for_any_other_error_and_if_it_was_there(create, tmp_path):
    with pytest.raises(StoreError), kept_if_used(create, tmp_path / "new"):
        raise StoreError("full")
    assert is_index(tmp_path / "new")
    with pytest.raises(CorpusError), kept_if_used(create, tmp_path / "new"):
        raise CorpusError("bad")
    assert is_index(tmp_path / "new")
