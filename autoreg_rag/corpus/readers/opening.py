"""Opening files: whole ones within a limit of size, and long ones line by line."""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from autoreg_rag.corpus.files import CorpusFile
from autoreg_rag.corpus.readers.encoding import detect
from autoreg_rag.errors import ReadError

_SAMPLE_BYTES = 1 << 20
"""How much of a streamed file its encoding is told from."""

_STEP_BYTES = 1 << 16
"""How much more than its size a file is read for, as it may have grown."""

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


def read_bytes(file: CorpusFile, max_bytes: int) -> bytes:
    """Read a whole file; ReadError if it is longer than `max_bytes`."""
    data = b""
    with file.path.open("rb") as stream:
        while True:
            size = os.fstat(stream.fileno()).st_size
            if max(size, len(data)) > max_bytes:
                raise ReadError(f"{file.source}: larger than the limit of {max_bytes:,} bytes")
            # A read takes memory for all it asks for, so it asks by size, not by limit.
            more = stream.read(max(size - len(data), 0) + _STEP_BYTES)
            if not more:
                return data
            data += more


@contextmanager
def open_lines(file: CorpusFile, max_bytes: int) -> Iterator[tuple[Iterator[str], str]]:
    """Open a text file, gzipped or not, to be read line by line.

    Parameters
    ----------
    file
        The file; it is unpacked if its name ends with ``.gz``.
    max_bytes
        A line of more characters is a ReadError: it would have to be read whole.

    Yields
    ------
    lines, encoding
        The lines, with their ends as they are. `is_damaged` tells those with
        bytes that are not in the encoding.
    """
    open_binary = gzip.open if file.source.lower().endswith(".gz") else open
    with cast(BinaryIO, open_binary(file.path, "rb")) as raw:
        sample = raw.read(_SAMPLE_BYTES)
        encoding = detect(sample, file.source, whole=len(sample) < _SAMPLE_BYTES)
        raw.seek(0)
        with io.TextIOWrapper(raw, encoding, errors="surrogateescape", newline="") as text:
            yield _lines(text, max_bytes, file.source), encoding


def is_damaged(line: str) -> bool:
    """Tell whether a line of `open_lines` had bytes that are not in the file's encoding."""
    return _ESCAPED_BYTE.search(line) is not None


def _lines(text: io.TextIOWrapper, limit: int, source: str) -> Iterator[str]:
    while line := text.readline(limit + 1):
        if len(line) > limit:
            raise ReadError(f"{source}: a line is longer than the limit of {limit:,} characters")
        yield line
