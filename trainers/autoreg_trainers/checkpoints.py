"""Which of a run's checkpoints are whole, and which are kept."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoreg_rag.errors import ModelError
from autoreg_rag.files import write_whole

COMPLETE_FILE = "complete"
"""Written last: a checkpoint without it was cut off. It holds the sizes of the others."""

_UNWRITTEN = ("inline_container", "iostream")
"""What torch says, by a RuntimeError, of a file that it cannot write to its end."""

_NAME = re.compile(r"checkpoint-(\d+)")

logger = logging.getLogger(__name__)


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder` of which nothing is missing."""
    return next(reversed(_complete(folder)), None)


def steps_done(checkpoint: Path) -> int:
    """Return after how many steps a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


@contextmanager
def unwritten_named(folder: str | Path | None) -> Iterator[None]:
    """Say in one line that a checkpoint inside the block could not be written.

    Raises
    ------
    ModelError
        torch could not write a file to its end.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(part in str(error) for part in _UNWRITTEN):
            raise
        raise ModelError(
            f"a checkpoint cannot be written into {folder}, whose disk may be full: make room, "
            "and go on with --resume"
        ) from error


def mark_complete(checkpoint: Path) -> None:
    """Say that a checkpoint has been written to its end."""
    write_whole(checkpoint / COMPLETE_FILE, json.dumps(_sizes(checkpoint)).encode())


def drop_checkpoints(folder: Path, keep: int) -> None:
    """Delete checkpoints that are not whole, and all whole ones but the last."""
    kept = _complete(folder)[-keep:]
    for path in _checkpoints(folder):
        if path not in kept:
            (path / COMPLETE_FILE).unlink(missing_ok=True)
            shutil.rmtree(path)


def _checkpoints(folder: Path) -> Iterator[Path]:
    return (path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name))


def _complete(folder: Path) -> list[Path]:
    return sorted(filter(_is_whole, _checkpoints(folder)), key=steps_done)


def _is_whole(checkpoint: Path) -> bool:
    file = checkpoint / COMPLETE_FILE
    if not file.is_file():
        return False
    try:
        stated = json.loads(file.read_bytes() or b"{}")  # empty before 27 November 2026
    except ValueError:
        stated = None
    found = _sizes(checkpoint)
    if isinstance(stated, dict) and stated.items() <= found.items():
        return True
    logger.warning("%s is damaged, and passed over", checkpoint)
    return False


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Return the bytes of each file but `COMPLETE_FILE`."""
    return {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != COMPLETE_FILE
    }
