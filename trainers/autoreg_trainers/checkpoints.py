"""Which of a run's checkpoints are whole, and which are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

COMPLETE_FILE = "complete"
"""Written last: a checkpoint without it was cut off."""


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder` that was written to its end."""
    return next(reversed(_complete(folder)), None)


def steps_done(checkpoint: Path) -> int:
    """Return after how many steps a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def drop_checkpoints(folder: Path, keep: int) -> None:
    """Delete checkpoints that were cut off, and all complete ones but the last."""
    kept = _complete(folder)[-keep:]
    for path in folder.glob("checkpoint-*"):
        if path not in kept:
            (path / COMPLETE_FILE).unlink(missing_ok=True)
            shutil.rmtree(path)


def _complete(folder: Path) -> list[Path]:
    complete = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE_FILE}")]
    return sorted(complete, key=steps_done)
