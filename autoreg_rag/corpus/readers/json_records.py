"""Reads JSON (a list of records, or one) and JSON Lines (a record per line, streamed)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from autoreg_rag.corpus.files import CorpusFile
from autoreg_rag.corpus.readers.encoding import decode, encoding_metadata
from autoreg_rag.corpus.readers.fields import document_of
from autoreg_rag.corpus.readers.opening import is_damaged, open_lines, read_bytes
from autoreg_rag.corpus.records import Document
from autoreg_rag.errors import ReadError


def read_json(file: CorpusFile, max_bytes: int) -> Iterator[Document | ReadError]:
    """Yield the records of a list, counted from 1, or the one record that the file is."""
    text, encoding = decode(read_bytes(file, max_bytes), file.source)
    try:
        value = _parsed(text)
    except ValueError as error:
        raise ReadError(f"{file.source}: {error}") from error
    for row, record in enumerate(value if isinstance(value, list) else [value], start=1):
        try:
            yield document_of(record, file.source, row, encoding_metadata(encoding))
        except ValueError as error:
            yield ReadError(f"{file.source}, record {row}: {error}")


def read_jsonl(file: CorpusFile, max_bytes: int) -> Iterator[Document | ReadError]:
    """Yield the records of the lines that are not empty; rows are line numbers, from 1."""
    with open_lines(file, max_bytes) as (lines, encoding):
        for row, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                if is_damaged(line):
                    raise ValueError(f"not valid {encoding}")
                yield document_of(_parsed(line), file.source, row, encoding_metadata(encoding))
            except ValueError as error:
                yield ReadError(f"{file.source}, line {row}: {error}")


def _parsed(text: str) -> Any:
    """Parse JSON; ValueError that says in few words what is wrong with it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"not valid JSON: {error.msg.removesuffix(' at')} at character {error.pos}"
        ) from error
    except RecursionError as error:
        raise ValueError("not readable JSON: nested too deeply") from error
