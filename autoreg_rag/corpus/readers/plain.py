"""Reads plain text, Markdown, reStructuredText and source code: the file's text as it is."""

from __future__ import annotations

from collections.abc import Iterator

from autoreg_rag.corpus.files import CorpusFile
from autoreg_rag.corpus.formats import Format, format_of, language_of
from autoreg_rag.corpus.readers.encoding import decode, encoding_metadata
from autoreg_rag.corpus.readers.opening import read_bytes
from autoreg_rag.corpus.readers.titles import as_title, markdown_title, rst_title
from autoreg_rag.corpus.records import Document

_TITLES = {Format.MARKDOWN: markdown_title, Format.RST: rst_title}


def read_plain(file: CorpusFile, max_bytes: int) -> Iterator[Document]:
    """Yield the file as one document: its decoded text, exactly."""
    text, encoding = decode(read_bytes(file, max_bytes), file.source)
    metadata = encoding_metadata(encoding)
    kind = format_of(file.source)
    if kind in _TITLES:
        metadata.update(as_title(_TITLES[kind](text)))
    if language := language_of(file.source):
        metadata["language"] = language
    yield Document(text, file.source, 0, metadata)
