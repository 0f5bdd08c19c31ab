import errno
import os
import shlex
from pathlib import Path

import pytest
from store_cases import MANIFEST, chunks, create, vectors

from autoreg_rag.errors import FingerprintError, StoreError
from autoreg_rag.stores import (
    FileRecord,
    Manifest,
    check_fingerprint,
    check_url,
    create_store,
    open_store,
    shown_place,
)
from autoreg_rag.stores.faiss.store import FaissStore
from autoreg_rag.stores.folders import write_lock
from autoreg_rag.stores.qdrant.store import QdrantStore


@pytest.fixture(params=["faiss", "qdrant"])
def kind(request):
    return request.param


@pytest.fixture
def occupied(folder):
    """Give a folder that holds something that must not be touched."""
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    return folder


def test_a_folder_is_opened_by_what_it_holds(kind, folder):
    create_store(kind, folder, MANIFEST).close()
    with open_store(str(folder)) as store:
        assert isinstance(store, FaissStore if kind == "faiss" else QdrantStore)
        assert store.manifest == MANIFEST


def test_an_index_that_is_there_is_opened_for_writing_as_it_is(kind, folder):
    with create_store(kind, folder, MANIFEST) as store:
        store.add(chunks("c/a", 3), vectors(3), "1")
        store.finish_file(FileRecord("c/a", "1", 3))
    with create_store(kind, folder, Manifest(MANIFEST.fingerprint, "other", 3)) as store:
        assert store.manifest == MANIFEST
        assert len(store) == 3
        store.remove_file("c/a")
        assert len(store) == 0


def test_an_index_is_made_in_an_empty_folder_and_below_folders_that_are_not_there(kind, folder):
    folder.mkdir()
    create_store(kind, folder, MANIFEST).close()
    create_store(kind, folder / ".." / "a" / "b", MANIFEST).close()
    open_store(folder).close()
    open_store(folder.parent / "a" / "b").close()


def test_an_index_is_made_where_a_link_leads_and_in_the_working_folder(kind, folder, monkeypatch):
    for name in ("target", "working"):
        (folder.parent / name).mkdir()
    folder.symlink_to("target")
    create_store(kind, folder, MANIFEST).close()
    create_store(kind, folder, MANIFEST).close()
    assert folder.is_symlink()
    open_store(folder.parent / "target").close()
    monkeypatch.chdir(folder.parent / "working")
    for _ in range(2):
        with create_store(kind, Path(), MANIFEST) as store:
            store.finish_file(FileRecord("c/a", "1", 0))
    monkeypatch.chdir(folder.parent)
    with open_store("working") as store:
        assert store.file("c/a")
    assert sorted(path.name for path in Path().iterdir()) == ["index", "target", "working"]


@pytest.mark.parametrize(
    ("method", "code"),
    [("pathlib.Path.replace", errno.EBUSY), ("tempfile.mkdtemp", errno.EACCES)],
)
def test_a_mount_point_and_a_parent_without_rights_are_said_with_what_to_do(
    kind, folder, monkeypatch, method, code
):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    folder.mkdir()
    monkeypatch.setattr(method, refuse)
    with pytest.raises(StoreError, match=rf"{folder} \(.*choose a folder inside it"):
        create_store(kind, folder, MANIFEST)
    assert list(folder.iterdir()) == []
    assert list(folder.parent.iterdir()) == [folder]


def test_a_new_folder_may_be_entered_by_those_who_may_enter_others(kind, folder):
    create_store(kind, folder, MANIFEST).close()
    (folder.parent / "other").mkdir()
    assert folder.stat().st_mode == (folder.parent / "other").stat().st_mode


def test_a_folder_of_something_else_is_refused_untouched(kind, occupied):
    with pytest.raises(StoreError, match="holds something other than an index"):
        create_store(kind, occupied, MANIFEST)
    with pytest.raises(StoreError, match=r"something other .*python -m autoreg_rag.index CORPUS"):
        open_store(occupied)
    assert [path.name for path in occupied.iterdir()] == ["letter.txt"]
    assert [path.name for path in occupied.parent.iterdir()] == ["index"]


def test_a_file_in_place_of_a_folder_is_refused(kind, occupied):
    for write in (lambda path: create_store(kind, path, MANIFEST), open_store):
        with pytest.raises(StoreError, match="is not a folder"):
            write(occupied / "letter.txt")
    for below in ("b", "b/c"):
        with pytest.raises(StoreError, match=r"letter.txt is not a folder: choose another --out"):
            create_store(kind, occupied / "letter.txt" / below, MANIFEST)


def test_a_folder_that_is_empty_or_not_there_is_no_index(folder):
    with pytest.raises(StoreError, match=r"does not exist.*python -m autoreg_rag.index"):
        open_store(folder)
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(StoreError, match=r"is empty.*python -m autoreg_rag.index"):
        open_store(folder)
    assert list(folder.iterdir()) == []


def test_an_index_of_the_other_kind_is_refused(folder):
    create("flat", folder / "f").close()
    create("qdrant", folder / "q").close()
    with pytest.raises(StoreError, match="use --store faiss"):
        create_store("qdrant", folder / "f", MANIFEST)
    with pytest.raises(StoreError, match="use --store qdrant"):
        create_store("faiss", folder / "q", MANIFEST)


def test_a_collection_is_qdrants(folder):
    with pytest.raises(StoreError, match="--collection other goes with Qdrant only"):
        create_store("faiss", folder, MANIFEST, collection="other")
    create_store("faiss", folder, MANIFEST).close()
    with pytest.raises(StoreError, match="--collection other goes with Qdrant only"):
        open_store(folder, collection="other")


def test_the_precision_of_an_index_cannot_change(folder):
    create_store("faiss", folder, MANIFEST, float16=True).close()
    create_store("faiss", folder, MANIFEST, float16=True).close()
    create_store("faiss", folder, MANIFEST).close()
    with pytest.raises(StoreError, match="half precision"):
        create_store("faiss", folder, MANIFEST, float16=False)
    open_store(folder, writable=True).close()


def test_the_precision_of_a_qdrant_index_cannot_change(folder):
    QdrantStore.create(folder, MANIFEST, float16=True).close()
    create_store("qdrant", folder, MANIFEST).close()
    with pytest.raises(StoreError, match="half precision"):
        create_store("qdrant", folder, MANIFEST, float16=False)
    open_store(folder).close()


def test_embedded_qdrant_has_no_half_precision(folder):
    with pytest.raises(StoreError, match="leave out --float16"):
        create_store("qdrant", folder, MANIFEST, float16=True)
    assert not folder.exists()


def test_an_index_of_another_model_is_refused_before_anything_is_changed(folder):
    create_store("faiss", folder, MANIFEST).close()
    with pytest.raises(FingerprintError):
        create_store("faiss", folder, Manifest("0" * 64, "b", 16), factory="HNSW8")
    with pytest.raises(StoreError, match="single precision"):
        create_store("faiss", folder, MANIFEST, factory="HNSW8", float16=True)
    with create_store("faiss", folder, MANIFEST) as store:
        assert store.factory == "Flat"


def test_folders_with_a_name_like_a_temporary_one_are_left_alone(kind, folder):
    others = [folder.with_name(name) for name in (".index.backup00", ".index.old")]
    for other in others:
        other.mkdir()
    (others[0] / "letter.txt").write_text("dear")
    (others[1] / "write.lock").write_text("1")
    create_store(kind, folder, MANIFEST).close()
    assert (others[0] / "letter.txt").read_text() == "dear"
    assert (others[1] / "write.lock").read_text() == "1"


def test_a_temporary_folder_is_removed_only_if_nobody_is_at_work_in_it(kind, folder):
    busy, left = (folder.with_name(f".index.{name}") for name in ("abcdefgh", "12345678"))
    for temporary in (busy, left):
        temporary.mkdir()
        (temporary / "write.lock").touch()
    lock = write_lock(busy)
    create_store(kind, folder, MANIFEST).close()
    assert busy.exists()
    assert not left.exists()
    lock.release()


@pytest.mark.parametrize("url", ["localhost:6333", "foo:8", "", "file:///x", "httpx://a"])
def test_what_was_meant_as_a_url_is_not_taken_for_a_folder(url):
    with pytest.raises(StoreError, match="must start with http:// or https://"):
        check_url(url)


def test_a_home_folder_is_one_place_for_making_and_opening(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    create_store(kind, "~/index", MANIFEST).close()
    open_store("~/index").close()
    open_store(tmp_path / "home" / "index").close()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_faiss_takes_no_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match=r"http://host:6333 is a server's address.*qdrant"):
        create_store("faiss", "http://me:word@host:6333", MANIFEST)
    assert not any(tmp_path.iterdir())


def test_a_url_is_a_url():
    assert check_url("https://host:6333/x") == "https://host:6333/x"


def test_a_factory_goes_with_faiss_only(folder):
    with pytest.raises(StoreError, match="--store faiss only"):
        create_store("qdrant", folder, MANIFEST, factory="HNSW8")
    assert not folder.exists()


def test_the_fingerprint_of_the_model_at_hand_is_accepted(folder):
    with create("flat", folder) as store:
        check_fingerprint(store, MANIFEST.fingerprint, "a/model")
        check_fingerprint(store, MANIFEST.fingerprint, "the same model elsewhere")


@pytest.mark.parametrize(
    ("model", "ways"),
    [
        ("b model", ["'a/model'", "--model a/model", shlex.quote("b model")]),
        ("a/model", ["other settings or weights", "--model a/model"]),
    ],
)
def test_another_fingerprint_is_refused_with_the_command_that_mends_it(folder, model, ways):
    with create("flat", folder) as store, pytest.raises(FingerprintError) as caught:
        check_fingerprint(store, "0" * 64, model)
    message = str(caught.value)
    assert "python -m autoreg_rag.index /some/docs --out NEW_DIR --model " in message
    assert all(way in message for way in ways)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("kind", "collection", "options"),
    [
        ("faiss", "autoreg", "--out NEW_DIR"),
        ("qdrant", "autoreg", "--store qdrant --out NEW_DIR"),
        ("qdrant", "my own", "--store qdrant --out NEW_DIR --collection 'my own'"),
    ],
)
def test_the_command_that_mends_names_the_store_and_all_corpora(folder, kind, collection, options):
    manifest = Manifest("1" * 64, "a/model", 16, {"one": "/some/docs", "two": "/a b/c's"})
    create_store(kind, folder, manifest, collection=collection).close()
    with pytest.raises(FingerprintError) as caught:
        create_store(kind, folder, Manifest("0" * 64, "b m", 16), collection=collection)
    corpora = shlex.join(manifest.corpora.values())
    command = f"python -m autoreg_rag.index {corpora} {options} --model 'b m'"
    assert str(caught.value).endswith(command)


def test_a_place_is_shown_without_secrets_even_if_it_is_no_address(folder):
    assert shown_place("https://user:s3cret@host:6333/?token=token") == "https://host:6333"
    for url in ("http://", "http://user:s3cret@", "http://[s3cret"):
        assert shown_place(url) == "http://..."
    assert shown_place(folder) == str(folder)
