"""What the operating system and SQLite complain about, said in a way that helps."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoreg_rag.errors import StoreError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


def damaged(what: Path, why: str) -> StoreError:
    """Return the error for a file that cannot be an intact part of an index."""
    return StoreError(
        f"{what} is damaged ({why}): run the index command again; if it says the same, rebuild "
        "the index with 'python -m autoreg_rag.index CORPUS --out NEW_DIR'"
    )


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn errors of files and of SQLite into a `StoreError` that names the folder."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise _explain(error, folder) from error


def _explain(error: OSError | sqlite3.Error, folder: Path) -> StoreError:
    # sqlite3 has error codes only since Python 3.11; the texts are SQLite's own and stable.
    text = str(error)
    code = error.errno if isinstance(error, OSError) else None
    if code in _NO_SPACE or "disk is full" in text:
        return StoreError(
            f"no space left to write to {folder}: free some and run the command again; "
            "what was stored before is safe"
        )
    if code in _NO_RIGHT or "readonly database" in text:
        return StoreError(f"no right to use {folder}: change its permissions or its place")
    if "not a database" in text or "malformed" in text:
        return damaged(folder, text)
    if "unable to open" in text:
        return StoreError(f"{folder} cannot be opened: check that it is readable")
    if "closed database" in text:
        return StoreError(f"{folder} was closed: open it again")
    if "locked" in text:
        return StoreError(f"another process keeps {folder} busy: try again when it is done")
    return StoreError(f"{folder}: {text}")
