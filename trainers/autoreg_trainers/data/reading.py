"""Rows of a source, one by one, each with its place: a file and a line."""

from __future__ import annotations

import codecs
import csv
import glob
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from autoreg_rag.errors import first_line
from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.files import JSON_LINES, PARQUET, TABLES, HubDataset, bare_name, ending

_NOT_UTF8 = "\ufdd0"
"""Stands for bytes that are not UTF-8: a code point for inner use, which no text holds."""

_MARKING = "autoreg_trainers.mark"
codecs.register_error(_MARKING, lambda error: (_NOT_UTF8, getattr(error, "end", 0)))

_CHUNK_CHARACTERS = 1 << 20
_PARQUET_ROWS = 1000

_READING_ERRORS = (OSError, EOFError, zlib.error, ValueError)
"""What damaged files raise in gzip, in Arrow and in ``datasets``."""


class Row(NamedTuple):
    """A row, with its place for messages: what follows the file's name, such as ``:12``.

    The value is what the row holds, or a ValueError that says why it cannot be read.
    """

    place: str
    value: Any


class Part(NamedTuple):
    """A file of a source, or the one stream that a hub dataset is.

    Attributes
    ----------
    name
        What messages call it.
    label
        What the column ``source`` calls it.
    rows
        Begins to read it.
    """

    name: str
    label: str
    rows: Callable[[], Iterator[Row]]


def parts(found: list[Path] | HubDataset) -> list[Part]:
    """Return what `files.find` found as parts that can be read."""
    if isinstance(found, HubDataset):
        name = f"{found.name} ({found.split})"
        return [Part(name, found.label, partial(_rows_of_hub_dataset, found, name))]
    return [Part(str(file), bare_name(file), partial(rows_of_file, file)) for file in found]


def rows_of_file(file: Path) -> Iterator[Row]:
    """Yield the rows of a file, lines with nothing in them left out.

    Raises
    ------
    DataError
        The file as a whole, or from some line on, cannot be read.
    """
    kind = ending(file)
    if kind in PARQUET:
        for number, row in _numbered(str(file), _parquet(file), "row"):
            yield Row(f", row {number}", row)
    elif kind in TABLES:
        yield from _table(file, _Tabs if kind == ".tsv" else csv.excel)
    else:
        parse = _json if kind in JSON_LINES else _plain
        for number, line in _lines(file):
            if line.strip():
                yield Row(f":{number}", parse(line))


def _rows_of_hub_dataset(dataset: HubDataset, name: str) -> Iterator[Row]:
    for number, row in _numbered(name, dataset.stream(), "row"):
        yield Row(f", row {number}", row)


def _open(builder: str, file: Path, **settings: Any) -> datasets.IterableDataset:
    try:
        return datasets.load_dataset(
            builder,
            data_files={"train": [glob.escape(str(file.resolve()))]},
            split="train",
            streaming=True,
            **settings,
        )
    except _READING_ERRORS as error:
        raise DataError(f"{file} cannot be read: {first_line(error)}") from error


def _parquet(file: Path) -> datasets.IterableDataset:
    # By default a batch is as long as the first part of the file, which may have no rows.
    return _open("parquet", file, batch_size=_PARQUET_ROWS)


def _numbered(
    name: str, stream: datasets.IterableDataset, unit: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows with their numbers, from 1."""
    number = 0
    try:
        for number, row in enumerate(stream, start=1):
            yield number, row
    except _READING_ERRORS as error:
        raise DataError(
            f"{name}: damaged after {unit} {number} or incomplete: {first_line(error)}"
        ) from error


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    stream = _open(
        "text",
        file,
        encoding="utf-8-sig",
        encoding_errors=_MARKING,
        keep_linebreaks=True,
        chunksize=_CHUNK_CHARACTERS,
    )
    for number, row in _numbered(str(file), stream, "line"):
        yield number, row["text"]


def _json(line: str) -> Any:
    """Parse a line; what is wrong with it is returned, not raised."""
    if _NOT_UTF8 in line:
        return ValueError("not UTF-8 text")
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON: {error.msg.removesuffix(' at')} at character {error.pos}")
    except RecursionError:
        return ValueError("not readable JSON: nested too deeply")
    except ValueError as error:  # a number of thousands of digits
        return ValueError(f"not readable JSON: {error}")


def _plain(line: str) -> Any:
    return ValueError("not UTF-8 text") if _NOT_UTF8 in line else {"text": line.rstrip("\n")}


class _Tabs(csv.excel_tab):
    quoting = csv.QUOTE_NONE


def _table(file: Path, dialect: type[csv.Dialect]) -> Iterator[Row]:
    """Yield the rows below a header; only in ``.csv`` have quotes a meaning."""
    lines = (line for _, line in _lines(file))
    reader = csv.reader(lines, dialect)
    header: list[str] | None = None
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(f":{number}", ValueError(first_line(error)))
            continue
        if header is None:
            header = fields
        elif any(fields):
            yield Row(f":{number}", _table_row(header, fields))


def _table_row(header: list[str], fields: list[str]) -> Any:
    if len(fields) != len(header):
        return ValueError(f"{len(fields)} fields where {len(header)} belong")
    if any(_NOT_UTF8 in field for field in fields):
        return ValueError("not UTF-8 text")
    # An empty cell is how a table says that there is no value.
    return {name: field for name, field in zip(header, fields, strict=True) if field}
