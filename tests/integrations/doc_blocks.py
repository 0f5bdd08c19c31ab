"""The code of a page of the documents, run as a reader would run it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(page: Path) -> list[str]:
    """Return the page's ```python blocks, each with empty lines before it.

    There are as many as stand before it on the page, so that an error names the
    page's own line.
    """
    content = page.read_text(encoding="utf-8")
    return [
        "\n" * content.count("\n", 0, match.start(1)) + match[1]
        for match in _BLOCK.finditer(content)
    ]


def run_page(name: str, **names: Any) -> dict[str, Any]:
    """Run all blocks of a page in order, and return what they have defined.

    Parameters
    ----------
    name
        Of the page, below ``docs``, such as ``langchain.md``.
    **names
        What the blocks may use without defining it.

    Raises
    ------
    ValueError
        The page has no block: then a test of it would say nothing.
    """
    page = DOCS / name
    blocks = python_blocks(page)
    if not blocks:
        raise ValueError(f"{page} has no python block")
    scope: dict[str, Any] = {"__name__": "__main__", **names}
    for block in blocks:
        exec(compile(block, str(page), "exec"), scope)
    return scope
