"""The cache of token ids: what is found again, what is not, and interruptions."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from autoreg_rag.backbone import Backbone
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.data import DataError, Source, load_compression, load_triplets, rows_hash
from tests.commands import command
from tests.trainers.data.conftest import Write, pairs


def load(model: AutoRegModel, path: Path, **settings: Any):
    settings = {"seed": 1, **settings}
    config = settings.pop("config", model.config)
    source = settings.pop("source", Source(str(path)))
    return load_triplets([source], model.backbone, config, **settings)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch):
    """Make tokenizing fail from now on."""

    def refused(*_: object) -> None:
        raise AssertionError("tokenized again")

    return lambda: monkeypatch.setattr(Backbone, "tokenize", refused)


def test_rows_are_tokenized_once(tiny_model: AutoRegModel, write: Write, refuse: Any):
    path = write("a.jsonl.gz", pairs("a", 50, neg=["n"]))
    first = load(tiny_model, path)[:]
    tasks = {"answer": 1, "reconstruct": 1}
    model = tiny_model
    rows = load_compression([str(path)], model.backbone, model.config, tasks=tasks, seed=1)[:]
    refuse()
    assert load(tiny_model, path)[:] == first
    again = load_compression([str(path)], model.backbone, model.config, tasks=tasks, seed=1)
    assert again[:] == rows
    # Neither do other draws from the same rows need it.
    assert len(load(tiny_model, path, seed=5, max_rows=10)) == 10
    load(tiny_model, path, source=Source(str(path), weight=3))


def test_what_is_made_of_rows_later_is_not_kept_beside_them(
    tiny_model: AutoRegModel, write: Write, cache: Path
):
    rows = load(tiny_model, write("a.jsonl", pairs("a", 50)), max_rows=10)
    before = sorted(cache.rglob("*"))
    rows.add_column("number", list(range(10)))
    assert sorted(cache.rglob("*")) == before


def test_bad_rows_are_named_from_the_cache_too(
    tiny_model: AutoRegModel, write: Write, refuse: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)  # a command before this one may have asked for more
    path = write("a.jsonl", [*pairs("a", 5), "bad"])
    load(tiny_model, path)
    first = caplog.messages[:]
    refuse()
    caplog.clear()
    load(tiny_model, path)
    assert caplog.messages == [text for text in first if "jsonl" in text]
    with pytest.raises(DataError, match=r"a\.jsonl:6: not JSON"):
        load(tiny_model, path, strict=True)
    moved = path.rename(path.parent.parent / "a.jsonl")
    with pytest.raises(DataError) as caught:
        load(tiny_model, moved, strict=True)
    assert str(caught.value).startswith(f"{moved}:6: ")


@pytest.mark.parametrize(
    "change",
    [
        {"num_negatives": 1},
        {"source": {"limit": 3}},
        {"config": {"max_length": 2}},
        {"config": {"query_instruction": "Another, longer instruction: "}},
    ],
)
def test_other_settings_tokenize_again(
    tiny_model: AutoRegModel, write: Write, refuse: Any, change: dict[str, Any]
):
    path = write("a.jsonl", pairs("a", 5))
    load(tiny_model, path)
    refuse()
    if "config" in change:
        change = {"config": dataclasses.replace(tiny_model.config, **change["config"])}
    if "source" in change:
        change = {"source": Source(str(path), **change["source"])}
    with pytest.raises(AssertionError, match="tokenized again"):
        load(tiny_model, path, **change)


def test_other_contents_tokenize_again(tiny_model: AutoRegModel, write: Write):
    path = write("a.jsonl", pairs("a", 5))
    before = path.stat()
    first = rows_hash(load(tiny_model, path))
    path.write_bytes(path.read_bytes().replace(b"says 3", b"says 7"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert rows_hash(load(tiny_model, path)) != first


def test_another_tokenizer_tokenizes_again(tiny_model: AutoRegModel, write: Write, refuse: Any):
    path = write("a.jsonl", pairs("a", 5))
    load(tiny_model, path)
    refuse()
    tiny_model.backbone.base_hash = "0" * 64
    with pytest.raises(AssertionError, match="tokenized again"):
        load(tiny_model, path)


def test_a_failure_leaves_nothing(
    tiny_model: AutoRegModel, write: Write, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write("a.jsonl", pairs("a", 2500))
    real = Backbone.tokenize

    def tokenize(self: Backbone, texts: list[str]) -> list[list[int]]:
        if any("2400" in text for text in texts):
            raise KeyboardInterrupt
        return real(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "tokenize", tokenize)
        with pytest.raises(KeyboardInterrupt):
            load(tiny_model, path)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]
    assert len(load(tiny_model, path)) == 2500


@pytest.mark.parametrize("name", ["rows.arrow", "report.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "nonsense"])
def test_a_damaged_entry_is_made_again(
    tiny_model: AutoRegModel, write: Write, cache: Path, name: str, damage: str
):
    path = write("a.jsonl", pairs("a", 500))
    first = rows_hash(load(tiny_model, path))
    (file,) = cache.glob(f"*/{name}")
    data = file.read_bytes()
    file.unlink()  # a mapped file must not shrink
    if damage != "gone":
        file.write_bytes(data[: len(data) // 2] if damage == "cut" else b"[1, 2]")
    assert rows_hash(load(tiny_model, path)) == first


def run(base: Path, data: Path, batches: int = 1 << 30) -> CompletedProcess[str]:
    return command("tests.trainers.data.tokenizing", base, data, batches, cwd=data.parent)


def test_two_processes_at_once_tokenize_once(
    tiny_model: AutoRegModel, tiny_folder: Path, write: Write
):
    path = write("a.jsonl", pairs("a", 5000))
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(run, [tiny_folder] * 2, [path] * 2))
    assert [each.returncode for each in done] == [0, 0]
    assert sum(each.stderr.count("tokenising") for each in done) == 1
    assert {each.stdout.strip() for each in done} == {rows_hash(load(tiny_model, path))}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_a_killed_process_leaves_no_half_entry(
    tiny_model: AutoRegModel, tiny_folder: Path, write: Write, cache: Path
):
    path = write("a.jsonl", pairs("a", 5000))
    assert run(tiny_folder, path, batches=3).returncode == -signal.SIGKILL
    assert not list(cache.glob("[!.]*/"))
    found = rows_hash(load(tiny_model, path))
    assert [entry.is_dir() for entry in cache.iterdir() if entry.suffix != ".lock"] == [True]
    shutil.rmtree(cache)
    assert rows_hash(load(tiny_model, path)) == found


def test_the_log_says_what_takes_time(
    tiny_model: AutoRegModel, write: Write, caplog: pytest.LogCaptureFixture
):
    path = write("a.jsonl", pairs("a", 5))
    with caplog.at_level(logging.INFO):
        load(tiny_model, path)
        load(tiny_model, path)
    assert caplog.messages.count(f"tokenising {path}") == 1
