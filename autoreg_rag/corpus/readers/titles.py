"""Titles of texts: the first heading of a Markdown or reStructuredText file."""

from __future__ import annotations

import re

_TITLE_CHARACTERS = 300
_HEAD_CHARACTERS = 100_000
"""A heading that stands further down is no title of the whole."""

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?^---[ \t]*$", re.MULTILINE | re.DOTALL)
_CODE_BLOCK = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
_MARKDOWN_HEADING = re.compile(
    r"^ {0,3}(?:#{1,6}[ \t]+(\S.*)|(\S.*)\n {0,3}(?:=+|-+)[ \t]*$)", re.MULTILINE
)
_CLOSING_HASHES = re.compile(r"[ \t]#+$")
_RST_HEADING = re.compile(r"^ ?(\w.*)\n([!-/:-@\[-`{-~])(\2*)[ \t]*$", re.MULTILINE)


def as_title(raw: object) -> dict[str, str]:
    """Give ``{"title": ...}`` for a text, on one line and of bounded length; else {}."""
    title = " ".join(raw.split()) if isinstance(raw, str) else ""
    title = title[:_TITLE_CHARACTERS].rstrip()
    return {"title": title} if title else {}


def markdown_title(text: str) -> str | None:
    """Find the first heading, of either style, outside code blocks and front matter."""
    head = _CODE_BLOCK.sub("", _FRONT_MATTER.sub("", _head(text)))
    if match := _MARKDOWN_HEADING.search(head):
        return _CLOSING_HASHES.sub("", (match[1] or match[2]).rstrip())
    return None


def rst_title(text: str) -> str | None:
    """Find the first line with a row of one punctuation mark below it, at least as long."""
    for match in _RST_HEADING.finditer(_head(text)):
        title = match[1].rstrip()
        if 1 + len(match[3]) >= len(title):
            return title
    return None


def _head(text: str) -> str:
    return text[:_HEAD_CHARACTERS].replace("\r\n", "\n")
