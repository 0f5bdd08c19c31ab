"""Text files of an evaluation set, line by line, plain or gzip."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from autoreg_rag.errors import EvaluationError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, each with its number (from 1), without its end.

    Raises
    ------
    EvaluationError
        The file cannot be read, is not UTF-8, or is broken gzip.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield number, text
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}, line {number}: not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:
        raise EvaluationError(f"{path}, after line {number}: cannot be read ({error})") from error


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    r"""Yield the rows of a file of tab-separated values, each with its line number.

    Quotes mean nothing, and a field holds neither tab nor line break.

    Parameters
    ----------
    path
        The file; its first line must be `columns`.
    columns
        The names of the columns, in order.

    Raises
    ------
    EvaluationError
        The first line is another, a row has more or fewer fields, or the file
        cannot be read.
    """
    rows = read_lines(path)
    _, header = next(rows, (0, ""))
    if tuple(header.split("\t")) != columns:
        raise EvaluationError(
            f"{path}, line 1: expected the tab-separated header {' '.join(columns)!r}"
        )
    for number, line in rows:
        fields = tuple(line.split("\t"))
        if len(fields) != len(columns):
            raise EvaluationError(
                f"{path}, line {number}: {len(fields)} fields where {len(columns)} belong"
            )
        yield number, fields
