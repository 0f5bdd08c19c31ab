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
from autoreg_rag.files import KeptFolderError, sync_folder, whole_folder

_LOCK = "write.lock"
_TEMPORARY_SUFFIX = "?" * 8  # as `tempfile` makes them


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
def new_folder(folder: Path, sign: str) -> Iterator[Path]:
    """Give an empty folder, which takes the place of `folder` when the block ends well.

    `folder` must not be there yet, or be empty. What a killed process left of
    an earlier try is removed, if it got as far as to lock it.

    Parameters
    ----------
    folder, sign
        See `whole_folder`.

    Raises
    ------
    StoreError
        `folder` has to stay.
    """
    folder = folder.resolve()
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.{_TEMPORARY_SUFFIX}"):
        if (left / _LOCK).is_file():
            _remove_unowned(left)
    lock = None
    try:
        with whole_folder(folder, sign) as temporary:
            lock = write_lock(temporary)
            yield temporary
    except KeptFolderError as error:
        raise StoreError(str(error)) from error
    finally:
        if lock:
            lock.release()


def write_lock(folder: Path) -> FileLock:
    """Take the lock of a folder, see `take_lock`."""
    return take_lock(folder / _LOCK, str(folder))


def take_lock(path: Path, place: str) -> FileLock:
    """Take a lock for writing; the system releases it if the process is killed.

    Parameters
    ----------
    path
        The file that stands for the lock.
    place
        What it protects, for the message.

    Raises
    ------
    StoreError
        If another process, or another store of this one, has it.
    """
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"process {path.read_text() or '?'} is writing to {place} (it holds {path}): "
            "wait until it is done"
        ) from None
    path.write_text(str(os.getpid()))
    return lock


def _remove_unowned(folder: Path) -> None:
    try:
        lock = write_lock(folder)
    except (StoreError, OSError):
        return  # somebody is at work in it, or it is another user's
    try:
        shutil.rmtree(folder)
    finally:
        lock.release()
