"""Folders that appear whole or not at all, and the lock of the one that writes into them."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from autoreg_rag.errors import StoreError
from autoreg_rag.files import sync_folder, whole_folder

_LOCK = "write.lock"


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a temporary path, which takes the place of `path` when the block ends well."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder, which takes the place of `folder` when the block ends well.

    `folder` must not be there yet, or be empty. What a killed process left of
    an earlier try is removed.
    """
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        if left.is_dir() and _is_ours(left):
            _remove_unowned(left)
    lock = None
    try:
        with whole_folder(folder) as temporary:
            lock = write_lock(temporary)
            yield temporary
    finally:
        if lock:
            lock.release()


def write_lock(folder: Path) -> FileLock:
    """Take the folder's lock; the system releases it if the process is killed.

    Raises
    ------
    StoreError
        If another process, or another store of this one, has it.
    """
    path = folder / _LOCK
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"process {path.read_text() or '?'} is writing to {folder} (it holds {path}): "
            "wait until it is done"
        ) from None
    path.write_text(str(os.getpid()))
    return lock


def is_free(folder: Path) -> bool:
    """Say whether nothing is there that could be overwritten."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _is_ours(folder: Path) -> bool:
    return (folder / _LOCK).exists() or not any(folder.iterdir())


def _remove_unowned(folder: Path) -> None:
    try:
        lock = write_lock(folder)
    except StoreError:
        return  # somebody is at work in it
    shutil.rmtree(folder)
    lock.release()
