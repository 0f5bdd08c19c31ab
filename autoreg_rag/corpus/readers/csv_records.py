"""Reads CSV and TSV with a header line: a record per row, streamed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

from autoreg_rag.corpus.files import CorpusFile
from autoreg_rag.corpus.readers.encoding import encoding_metadata
from autoreg_rag.corpus.readers.fields import document_of
from autoreg_rag.corpus.readers.opening import is_damaged, open_lines
from autoreg_rag.corpus.records import Document
from autoreg_rag.errors import ReadError

_DELIMITERS = ",;\t|"

_DELIMITER_LINE = re.compile(r"""["']?sep=([^\w\s"']|\t)["']?\s*""", re.IGNORECASE)
"""What Excel reads, and others write, before the header."""

_LARGEST_FIELD_LIMIT = 2**31 - 1
"""More is refused by csv on some systems."""


def read_csv(file: CorpusFile, max_bytes: int) -> Iterator[Document | ReadError]:
    """Yield the rows that are not empty, counted from 1 for the first one below the header.

    Blank lines before the header, a line ``sep=;`` there, spaces after a delimiter, and
    empty cells beyond the header's are all passed over. A quotation mark that is not closed
    makes one cell of all that follows; that is an error, not a row.
    """
    # The limit is one for the whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), min(max_bytes, _LARGEST_FIELD_LIMIT)))
    with open_lines(file, max_bytes) as (lines, encoding):
        skipped, header_line, delimiter = _opening(lines)
        is_at_end = False

        def rest() -> Iterator[str]:
            nonlocal is_at_end
            yield header_line
            yield from lines
            is_at_end = True

        rows = csv.reader(
            rest(),
            delimiter=delimiter or _delimiter(file, header_line),
            skipinitialspace=True,
        )
        header = _names(next(rows, []))
        if is_at_end:
            raise ReadError(f"{file.source}: a quotation mark in the header is not closed")
        metadata = encoding_metadata(encoding)
        begin = rows.line_num + 1
        for row, cells in enumerate(_tried(rows), start=1):
            place = f"{file.source}, row {row} (line {skipped + rows.line_num})"
            if isinstance(cells, csv.Error):
                yield ReadError(f"{place}: {cells}")
            elif is_at_end:  # a row that is whole asks for no more lines
                place = f"{file.source}, row {row} (line {skipped + begin} to the end)"
                yield ReadError(f"{place}: a quotation mark is not closed")
            elif any(map(str.strip, cells[len(header) :])):
                yield ReadError(f"{place}: {len(cells)} fields, but the header has {len(header)}")
            elif any(map(is_damaged, cells)):
                yield ReadError(f"{place}: not valid {encoding}")
            elif any(map(str.strip, cells)):
                record = dict(zip(header, cells, strict=False))
                yield document_of(record, file.source, row, metadata)
            begin = rows.line_num + 1


def _opening(lines: Iterator[str]) -> tuple[int, str, str | None]:
    """Read up to the header: how many lines stand before it, it, and a delimiter named there."""
    delimiter = None
    for skipped, line in enumerate(lines):
        if match := _DELIMITER_LINE.fullmatch(line):
            delimiter = match[1]
        elif line.strip():
            return skipped, line, delimiter
    return 0, "", delimiter


def _delimiter(file: CorpusFile, header: str) -> str:
    """Tell the delimiter: a tab in a TSV, else the most frequent one in the header."""
    if file.source.lower().removesuffix(".gz").endswith(".tsv"):
        return "\t"
    return max(_DELIMITERS, key=header.count)


def _names(header: list[str]) -> list[str]:
    """Name the columns; those without a name of their own by their number."""
    given = [name.strip() for name in header]
    taken = set(given)
    names: dict[str, None] = {}
    for number, own in enumerate(given, start=1):
        name = own
        if not own or own in names:
            name = f"column_{number}"
            while name in taken:
                name += "_"
        names[name] = None
    return list(names)


def _tried(rows: Iterator[list[str]]) -> Iterator[list[str] | csv.Error]:
    """Yield the error in place of a row that is malformed, and go on after it."""
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield error
