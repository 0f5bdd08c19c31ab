"""Short real rows, two tiny teachers, a cache, and the training commands as tests run them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from autoreg_rag.pretrained import CACHE_VARIABLE
from tests.trainers.running import heard, short_rows
from tests.trainers.teaching import make_teacher

ROWS = 48

Here = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short rows of a query, a positive and a negative, all different."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [json.dumps(row) + "\n" for row in islice(short_rows(60), ROWS)]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A real sentence-transformers model with different prompts for queries and documents."""
    pytest.importorskip("sentence_transformers")
    return make_teacher(tmp_path_factory.mktemp("teacher") / "model", tiny_folder)


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """Another such model, whose vectors are of another length."""
    pytest.importorskip("sentence_transformers")
    folder = tmp_path_factory.mktemp("other") / "model"
    return make_teacher(folder, tiny_folder, seed=1, head=1, width=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, whose cache is used."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Run a command in this process; give status, output and errors."""

    def here(name: str, *options: object) -> tuple[int, str, str]:
        monkeypatch.chdir(place)
        return heard(capsys, name, *options)

    return here
