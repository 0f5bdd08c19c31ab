"""Readers: from a file to the documents in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

from autoreg_rag.corpus.files import CorpusFile, shown
from autoreg_rag.corpus.formats import Format, format_of
from autoreg_rag.corpus.readers.csv_records import read_csv
from autoreg_rag.corpus.readers.encoding import storable
from autoreg_rag.corpus.readers.html import read_html
from autoreg_rag.corpus.readers.json_records import read_json, read_jsonl
from autoreg_rag.corpus.readers.pdf import read_pdf
from autoreg_rag.corpus.readers.plain import read_plain
from autoreg_rag.corpus.readers.reasons import reason
from autoreg_rag.corpus.readers.word import read_docx
from autoreg_rag.corpus.records import Document
from autoreg_rag.errors import ReadError

logger = logging.getLogger(__name__)

READER_VERSION = "3"
"""Part of what a file's digest is taken over: raise it when documents come out differently."""

MAX_BYTES = 100_000_000
"""The largest file, or line of a streamed file, that is read as a whole."""

_Reader = Callable[[CorpusFile, int], Iterator["Document | ReadError"]]

_READERS: dict[Format, _Reader] = {
    Format.PLAIN: read_plain,
    Format.MARKDOWN: read_plain,
    Format.RST: read_plain,
    Format.CODE: read_plain,
    Format.HTML: read_html,
    Format.PDF: read_pdf,
    Format.DOCX: read_docx,
    Format.JSON: read_json,
    Format.JSONL: read_jsonl,
    Format.CSV: read_csv,
}


def read_documents(
    file: CorpusFile,
    *,
    max_bytes: int = MAX_BYTES,
    on_error: Callable[[ReadError], None] | None = None,
) -> Iterator[Document]:
    """Read the documents in a file, in order; those without any text are left out.

    Parameters
    ----------
    file
        The file. Its name tells the format; one of no known format is read as text.
    max_bytes
        A file that has to be read as a whole may have so many bytes. JSON Lines
        and CSV are streamed: for them it is the limit of one line.
    on_error
        Called for each record or page that cannot be read; the others are read
        all the same. The default logs a warning.

    Yields
    ------
    Document
        No text or metadata in it holds a NUL or a lone surrogate.

    Raises
    ------
    ReadError
        The file cannot be read: no rights, binary, encrypted, too large, or
        malformed, be it from some place on, after documents that were yielded;
        or none of its records can be read.
    """
    report = on_error or _log
    failed = 0
    last_error: ReadError | None = None
    any_read = False
    for item in _items(file, max_bytes):
        if isinstance(item, ReadError):
            failed += 1
            last_error = item
            report(item)
            continue
        any_read = True
        if item.text.strip():
            yield _storable(item)
    if last_error and not any_read:
        raise ReadError(f"{file.source}: none of its {failed} records can be read") from last_error


def _items(file: CorpusFile, max_bytes: int) -> Iterator[Document | ReadError]:
    """Read a file, and make one ReadError of all that the libraries raise on it."""
    reader = _READERS[format_of(file.source) or Format.PLAIN]
    try:
        yield from reader(file, max_bytes)
    except (ReadError, MemoryError):
        raise
    except Exception as error:
        raise ReadError(f"{file.source}: {reason(error)}") from error


def _storable(document: Document) -> Document:
    metadata = {
        storable(name): storable(value) if isinstance(value, str) else value
        for name, value in document.metadata.items()
    }
    return replace(document, text=storable(document.text), metadata=metadata)


def _log(error: ReadError) -> None:
    logger.warning("%s", shown(error))
