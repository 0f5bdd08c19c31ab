"""Reads Word documents (docx): paragraphs and tables in their order."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING
from zipfile import ZipFile

from autoreg_rag.corpus.files import CorpusFile
from autoreg_rag.corpus.readers.opening import read_bytes
from autoreg_rag.corpus.readers.titles import as_title
from autoreg_rag.corpus.records import Document
from autoreg_rag.errors import ReadError

if TYPE_CHECKING:
    from docx.blkcntnr import BlockItemContainer
    from docx.oxml.xmlchemy import BaseOxmlElement
    from docx.table import Table

_OLE_MARK = b"\xd0\xcf\x11\xe0"
"""How old Office files begin, and new ones that are encrypted."""

_GONE = ("w:del", "w:moveFrom")
_WRAPPERS = (
    *("w:ins", "w:moveTo", "w:sdt", "w:sdtContent", "w:customXml", "w:smartTag", "w:fldSimple"),
    *("w:dir", "w:bdo"),
)
"""What may stand around runs, paragraphs, rows or cells, where python-docx sees none of them."""


def read_docx(file: CorpusFile, max_bytes: int) -> Iterator[Document]:
    """Yield the text as one document: blocks parted by an empty line, cells by a tab."""
    import docx

    data = read_bytes(file, max_bytes)
    if data.startswith(_OLE_MARK):
        raise ReadError(f"{file.source}: encrypted, or in Word's old format; save it as plain docx")
    with ZipFile(BytesIO(data)) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max_bytes:
        raise ReadError(f"{file.source}: unpacks to more than the limit of {max_bytes:,} bytes")
    word = docx.Document(BytesIO(data))
    _unwrap(word.element.body)
    text = "\n\n".join(_blocks(word))
    yield Document(text, file.source, 0, as_title(word.core_properties.title))


def _unwrap(body: BaseOxmlElement) -> None:
    """Bring a text to its last revision, and put what wrappers hold in their place."""
    from docx.oxml.ns import qn

    for gone in list(body.iter(*map(qn, _GONE))):
        gone.getparent().remove(gone)
    for wrapper in list(body.iter(*map(qn, _WRAPPERS))):
        for child in list(wrapper):
            wrapper.addprevious(child)
        wrapper.getparent().remove(wrapper)


def _blocks(container: BlockItemContainer) -> Iterator[str]:
    """Yield the paragraphs and tables that are not empty."""
    from docx.table import Table

    for block in container.iter_inner_content():
        text = "\n".join(_rows(block)) if isinstance(block, Table) else block.text
        if text.strip():
            yield text


def _rows(table: Table) -> Iterator[str]:
    """Yield the rows of a table; a merged cell counts once in each."""
    for row in table.rows:
        cells = {cell._tc: cell for cell in row.cells}
        yield "\t".join("\n".join(_blocks(cell)) for cell in cells.values())
