"""Reads HTML: the text that a browser shows, in lines and paragraphs."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from autoreg_rag.corpus.files import CorpusFile
from autoreg_rag.corpus.readers.encoding import decode, encoding_metadata
from autoreg_rag.corpus.readers.opening import read_bytes
from autoreg_rag.corpus.readers.titles import as_title
from autoreg_rag.corpus.records import Document

_FEED_CHARACTERS = 1 << 16

_HIDDEN = {"script", "style", "template", "noscript"}
_CELLS = {"td", "th"}
_LINES = {"caption", "dd", "dt", "figcaption", "legend", "li", "option", "summary", "tr"}
_PARAGRAPHS = {
    *("address", "article", "aside", "blockquote", "body", "details", "dialog", "div", "dl"),
    *("fieldset", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header"),
    *("hgroup", "hr", "main", "menu", "nav", "ol", "p", "pre", "section", "table", "ul"),
}


def read_html(file: CorpusFile, max_bytes: int) -> Iterator[Document]:
    """Yield the page as one document, with its ``<title>``."""
    text, encoding = decode(read_bytes(file, max_bytes), file.source)
    visible, title = visible_text(text)
    yield Document(visible, file.source, 0, {**as_title(title), **encoding_metadata(encoding)})


def visible_text(html: str) -> tuple[str, str]:
    """Take the visible text and the title out of a page.

    Parameters
    ----------
    html
        The page, well-formed or not.

    Returns
    -------
    text, title
        Paragraphs are parted by an empty line, lines by a newline, table cells
        by a tab; other white space is one space, but in ``<pre>``.
    """
    from lxml.etree import HTMLParser

    if not html.strip():
        return "", ""
    page = _Page()
    # Events instead of a tree: a tree takes 50 times the page's memory.
    parser = HTMLParser(target=page, huge_tree=True)
    for start in range(0, len(html), _FEED_CHARACTERS):
        parser.feed(html[start : start + _FEED_CHARACTERS])
    parser.close()
    return "".join(page.text).rstrip(), "".join(page.title)


class _Gap(IntEnum):
    """What parts two pieces of text; the stronger one wins."""

    NONE = 0
    SPACE = 1
    CELL = 2
    LINE = 3
    PARAGRAPH = 4


_WRITTEN = {
    _Gap.NONE: "",
    _Gap.SPACE: " ",
    _Gap.CELL: "\t",
    _Gap.LINE: "\n",
    _Gap.PARAGRAPH: "\n\n",
}


class _Page:
    """Collects text from a parser's events (the interface of an lxml parser target)."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.title: list[str] = []
        self._gap = _Gap.NONE
        self._hidden = 0
        self._preformatted = 0
        self._in_title = False

    def start(self, tag: str, attributes: object) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag == "title":
            self._in_title = not self.title  # drawings have titles too
        elif tag == "pre":
            self._preformatted += 1
        self._part(tag)

    def end(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden -= 1
        elif tag == "title":
            self._in_title = False
        elif tag == "pre":
            self._preformatted -= 1
        if tag != "br":
            self._part(tag)

    def data(self, data: str) -> None:
        if self._in_title:
            self.title.append(data)
        elif self._hidden:
            return
        elif self._preformatted:
            self._write(data)
        else:
            self._flow(data)

    def close(self) -> None:
        """Nothing is left to be done: the pieces are taken from the attributes."""

    def _part(self, tag: str) -> None:
        if tag in _PARAGRAPHS or (tag == "br" and self._gap is _Gap.LINE):
            self._gap = _Gap.PARAGRAPH
        elif tag in _LINES or tag == "br":
            self._gap = max(self._gap, _Gap.LINE)
        elif tag in _CELLS:
            self._gap = max(self._gap, _Gap.CELL)

    def _flow(self, data: str) -> None:
        words = data.split()
        if data[0].isspace():
            self._gap = max(self._gap, _Gap.SPACE)
        if words:
            self._write(" ".join(words))
            if data[-1].isspace():
                self._gap = _Gap.SPACE

    def _write(self, piece: str) -> None:
        if self.text:
            self.text.append(_WRITTEN[self._gap])
        self.text.append(piece)
        self._gap = _Gap.NONE
