import errno
import os
import threading
from pathlib import Path

import pytest

from autoreg_rag.files import expanded, sync_folder, whole_folder, write_whole


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("before")
    link.symlink_to(target)
    write_whole(link, b"after")
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_takes_the_content_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"content")
    reader.join()
    assert read == [b"content"]
    assert pipe.is_fifo()


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="this system names no open files")
def test_a_pipe_by_the_name_of_its_descriptor_takes_the_content():
    reading, writing = os.pipe()
    write_whole(Path(f"/dev/fd/{writing}"), b"content")
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert pipe.read() == b"content"


def test_the_home_folder_is_that_of_a_user_who_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert expanded("~/index") == tmp_path / "index"
    assert expanded("~no such user/index") == Path("~no such user/index")


def test_a_link_to_an_empty_folder_stays_and_the_folder_is_filled(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.mkdir()
    link.symlink_to(target)
    with whole_folder(link) as folder:
        (folder / "a").write_text("content")
    assert link.is_symlink()
    assert (target / "a").read_text() == "content"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]


def test_the_working_folder_is_filled_the_sign_last(tmp_path, monkeypatch):
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    before = working.stat().st_ino
    moved = []
    replace = Path.replace
    monkeypatch.setattr(
        Path, "replace", lambda *paths: moved.append(paths[1].name) or replace(*paths)
    )
    with whole_folder(Path(), "a") as folder:
        for name in "abc":
            (folder / name).write_text(name)
    assert sorted(moved) == ["a", "b", "c"]
    assert moved[-1] == "a"
    assert sorted(path.name for path in Path().iterdir()) == ["a", "b", "c"]
    assert working.stat().st_ino == before
    assert list(tmp_path.iterdir()) == [working]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot sync folders")
def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path, monkeypatch):
    def fail(code):
        def fsync(descriptor):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fsync)

    for code in (errno.EINVAL, errno.ENOTSUP):
        fail(code)
        sync_folder(tmp_path)
    fail(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
