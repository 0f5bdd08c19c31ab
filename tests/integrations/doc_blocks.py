"""The code of a page of the documents, run as a reader would run it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.commands import command

DOCS = Path(__file__).parents[2] / "docs"

_COMMAND = re.compile(r"^python -m (autoreg_rag\.index .*)$", re.MULTILINE)
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


def run_blocks(
    page: Path, blocks: Sequence[str], names: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run blocks in order, and return what they have defined.

    Parameters
    ----------
    page
        Where they are from.
    blocks
        Some of its `python_blocks`.
    names
        What blocks before them have defined.
    """
    scope = {"__name__": "__main__"} if names is None else names
    for block in blocks:
        exec(compile(block, str(page), "exec"), scope)
    return scope


def run_page(name: str) -> dict[str, Any]:
    """Run all blocks of a page in order, and return what they have defined.

    Parameters
    ----------
    name
        Of the page, below ``docs``, such as ``langchain.md``.

    Raises
    ------
    ValueError
        The page has no block: then a test of it would say nothing.
    """
    page = DOCS / name
    blocks = python_blocks(page)
    if not blocks:
        raise ValueError(f"{page} has no python block")
    return run_blocks(page, blocks)


def run_index_commands(name: str) -> int:
    """Run the page's commands that make an index, and return how many there are."""
    commands = _COMMAND.findall((DOCS / name).read_text(encoding="utf-8"))
    for line in commands:
        command(*shlex.split(line), cwd=Path.cwd()).check_returncode()
    return len(commands)
