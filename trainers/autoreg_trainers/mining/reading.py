"""Finding and reading the files that negatives are mined for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoreg_trainers.data.files import HubDataset, bare_name, find
from autoreg_trainers.data.reading import rows_of_file
from autoreg_trainers.data.records import records_of
from autoreg_trainers.data.source import Source
from autoreg_trainers.mining.row import Row
from autoreg_trainers.mining.settings import MiningError

logger = logging.getLogger(__name__)

EXAMPLES = 20
"""How many bad rows of a file are named; all are counted."""


def read_files(
    paths: Sequence[Path], out: Path, *, strict: bool = False
) -> tuple[dict[str, list[Row]], int]:
    """Read all rows with ``query`` and ``pos``, and count those that cannot be used.

    Bad rows are left out, each with a warning, up to `EXAMPLES` of a file. So
    are files in a folder that hold rows of other kinds only, such as plain texts.

    Parameters
    ----------
    paths
        Files, and folders that hold such at any depth.
    out
        The output folder; what a folder of `paths` holds of it is left out.
    strict
        Whether a bad row is an error.

    Returns
    -------
    files, bad
        The rows of each file by the name that its output is to have, in the
        order of these names; and how many rows are bad.

    Raises
    ------
    DataError
        A file cannot be read, or is of a kind that never is.
    MiningError
        There is nothing at a path, or no row to mine for; a path lies in the
        output folder; two files would be written to one; a row is bad, if
        `strict`.
    """
    files: dict[str, list[Row]] = {}
    total = 0
    for name, file in _find(paths, out).items():
        rows, bad = _read(file, strict=strict)
        total += bad
        if rows:
            files[name] = rows
        elif file in paths:
            raise MiningError(f"{file}: none of its rows can be used; they need query and pos")
        else:
            logger.warning("%s: left out, none of its rows has query and pos", file)
    if not files:
        named = ", ".join(map(str, paths))
        raise MiningError(f"nothing in {named} has query and pos")
    return files, total


def _find(paths: Sequence[Path], out: Path) -> dict[str, Path]:
    """Return the files to read, by the name that the output of each is to have."""
    target = out.resolve()
    found: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise MiningError(f"there is no file or folder {path}")
        if target in (path.resolve(), *path.resolve().parents):
            raise MiningError(f"{path} lies in --out {out}; choose another folder for the output")
        files = find(Source(str(path)))
        if isinstance(files, HubDataset):
            raise MiningError(f"{path} is a copy of a hub dataset; name its files instead")
        for file in files:
            if target in file.resolve().parents:
                continue
            name = f"{bare_name(file)}.jsonl.gz"
            other = found.setdefault(name, file)
            if other.resolve() != file.resolve():
                raise MiningError(f"{other} and {file} would both be written to {name}")
    return dict(sorted(found.items()))


def _read(file: Path, *, strict: bool) -> tuple[list[Row], int]:
    """Return the rows of a file, and how many are bad; of other kinds only, none is."""
    rows: list[Row] = []
    bad: list[str] = []
    others: list[str] = []
    for place, value in rows_of_file(file):
        try:
            if isinstance(value, dict) and not {"query", "pos"} & value.keys():
                others.append(f"{file}{place}: has no query and no pos")
            else:
                rows.append(_row(value))
        except ValueError as error:
            bad.append(f"{file}{place}: {error}")
    if rows:
        bad += others
    if bad and strict:
        raise MiningError(f"{bad[0]} (bad rows in this file: {len(bad)})")
    for message in bad[:EXAMPLES]:
        logger.warning("%s; left out", message)
    if len(bad) > EXAMPLES:
        logger.warning("%s: %d more bad rows left out", file, len(bad) - EXAMPLES)
    return rows, len(bad)


def _row(value: Any) -> Row:
    """Return a row; ValueError if it is bad."""
    if isinstance(value, ValueError):
        raise value
    for record in records_of(value, min_score=0.0):
        # Tokenizers refuse them, long after this.
        if any(_is_torn(text) for text in (record.first, record.second, *record.negatives)):
            raise ValueError("holds half of a surrogate pair")
    return Row.of(value)


def _is_torn(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
