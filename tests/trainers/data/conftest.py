"""Small files of training rows, and a cache of their own."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from autoreg_rag.model import AutoRegModel
from autoreg_rag.pretrained import CACHE_VARIABLE

Write = Callable[[str, Iterable[Any]], Path]
Ids = Callable[[str], list[int]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of cached rows."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder / "rows"


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write rows as JSON Lines, gzipped if the name says so; a text stands for itself."""

    def written(name: str, rows: Iterable[Any]) -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        data = "".join(f"{line}\n" for line in lines).encode()
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return written


@pytest.fixture
def ids(tiny_model: AutoRegModel) -> Ids:
    """The token ids of a text."""
    return lambda text: tiny_model.backbone.tokenize([text])[0]


def pairs(name: str, count: int, **fields: Any) -> list[dict[str, Any]]:
    """Return rows of a query and a positive that are all different."""
    return [
        {"query": f"{name} {number}?", "pos": f"{name} says {number}.", **fields}
        for number in range(count)
    ]
