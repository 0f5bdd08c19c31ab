"""The folder that mined rows are written to, and the record of what is done in it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autoreg_rag.files import sha256, write_whole
from autoreg_trainers.mining.counts import Counts
from autoreg_trainers.mining.settings import MiningError

MANIFEST = "mining.json"
LEVEL = 6
"""Of gzip's compression."""


class MinedFolder:
    """Files of mined rows, each written whole, each with how it was made.

    Parameters
    ----------
    path
        The folder; it is made if it is not there.

    Raises
    ------
    MiningError
        No folder can be made there or written to, or its record is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise MiningError(f"--out {path} is not a folder")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MiningError(f"--out {path} cannot be written: {error.strerror}") from error
        if not os.access(path, os.W_OK):
            raise MiningError(f"--out {path} cannot be written: it is read-only")
        try:
            content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            self._done: dict[str, Any] = dict(content["files"])
        except FileNotFoundError:
            self._done = {}
        except (ValueError, KeyError, TypeError) as error:
            raise MiningError(
                f"{path / MANIFEST} is damaged; delete it to mine everything anew"
            ) from error

    def done(self, name: str, made_by: Mapping[str, Any]) -> Counts | None:
        """Return the counts of a file that is there and was made just so, else None."""
        record = self._done.get(name)
        file = self.path / name
        if record is None or record["made_by"] != made_by or not file.is_file():
            return None
        return Counts(**record["counts"]) if record["sha256"] == sha256(file) else None

    def write(
        self,
        name: str,
        rows: Iterable[Mapping[str, Any]],
        made_by: Mapping[str, Any],
        counts: Counts,
    ) -> None:
        """Write a file of rows, as gzipped JSON lines, and record it as done.

        Parameters
        ----------
        name
            The file's name in the folder.
        rows
            The rows; what JSON does not know, such as a date, is written as text.
            Once they are through, `counts` must be complete.
        made_by
            What the file depends on, ready for JSON.
        counts
            What was found.
        """
        lines = "".join(f"{json.dumps(row, default=str)}\n" for row in rows)
        # Without a time in its header the file depends on its content only.
        write_whole(self.path / name, gzip.compress(lines.encode(), LEVEL, mtime=0))
        self._done[name] = {
            "made_by": dict(made_by),
            "sha256": sha256(self.path / name),
            "counts": counts.as_dict(),
        }
        content = {"files": dict(sorted(self._done.items()))}
        text = json.dumps(content, ensure_ascii=False, indent=2)
        write_whole(self.path / MANIFEST, f"{text}\n".encode())
