"""Reads PDF: a document per page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING

from autoreg_rag.corpus.files import CorpusFile, shown
from autoreg_rag.corpus.readers.opening import read_bytes
from autoreg_rag.corpus.readers.reasons import reason
from autoreg_rag.corpus.readers.titles import as_title
from autoreg_rag.corpus.records import Document
from autoreg_rag.errors import ReadError

if TYPE_CHECKING:
    from pypdf import PdfReader

logger = logging.getLogger(__name__)


def read_pdf(file: CorpusFile, max_bytes: int) -> Iterator[Document | ReadError]:
    """Yield the pages, counted from 1; a page that cannot be read is an error of its own."""
    from pypdf import PdfReader

    _quieten(logging.getLogger("pypdf"))
    pdf = PdfReader(BytesIO(read_bytes(file, max_bytes)))
    if pdf.is_encrypted and not pdf.decrypt(""):
        raise ReadError(f"{file.source}: encrypted; save it without a password")
    metadata = _title(pdf)
    has_text = False
    for index, page in enumerate(pdf.pages):
        try:
            text = page.extract_text()
        except MemoryError:
            raise
        except Exception as error:  # whatever a malformed page leads pypdf into
            yield ReadError(f"{file.source}, page {index + 1}: {reason(error)}")
            continue
        has_text = has_text or bool(text.strip())
        yield Document(text, file.source, index, {**metadata, "page": index + 1})
    if not has_text:
        source = shown(file.source)
        logger.warning("%s: no text in it; scanned pages need text recognition", source)


def _title(pdf: PdfReader) -> dict[str, str]:
    """Give the title as metadata; none where it is malformed, as the pages may still be right."""
    try:
        return as_title(pdf.metadata.title if pdf.metadata else None)
    except MemoryError:
        raise
    except Exception:  # whatever a malformed dictionary leads pypdf into
        return {}


def _quieten(library: logging.Logger) -> None:
    """Silence a library that logs every flaw of a file, unless the user asked to hear it."""
    if library.level == logging.NOTSET:
        library.setLevel(logging.CRITICAL)
