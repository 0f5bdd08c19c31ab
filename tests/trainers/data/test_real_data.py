"""The real training set, where it is there."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from autoreg_rag.model import AutoRegModel
from autoreg_trainers.data import Source, held_back, load_compression, load_triplets

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "train"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"there is no {FOLDER}")


def test_all_of_it_is_good(tiny_model: AutoRegModel, caplog: pytest.LogCaptureFixture):
    model = tiny_model
    with caplog.at_level(logging.WARNING):
        rows = load_triplets(
            [Source(str(FOLDER), limit=4000)], model.backbone, model.config, seed=1, strict=True
        )
    # A few rows have a negative that answers their query in another row.
    assert ["answer the same query" in message for message in caplog.messages] == [True]
    assert len(rows) == 4000
    # Every file but those of compression and plain text gives some.
    names = {file.name.removesuffix(".jsonl.gz") for file in FOLDER.glob("*.jsonl.gz")}
    assert set(rows["source"]) == names - {"compression", "text"}
    train, held = held_back(rows, 300, 1)
    assert not set(train["group"]) & set(held["group"])
    assert len(train) + len(held) == len(rows)


def test_a_mixture_of_all_tasks(tiny_model: AutoRegModel, caplog: pytest.LogCaptureFixture):
    model = tiny_model
    tasks = {
        "answer": 0.3,
        "reconstruct": 0.3,
        "given": 0.1,
        "title": 0.1,
        "definition": 0.05,
        "paraphrase": 0.1,
        "continue": 0.05,
    }
    with caplog.at_level(logging.WARNING):
        rows = load_compression(
            [Source(str(FOLDER), limit=6000)],
            model.backbone,
            model.config,
            tasks=tasks,
            seed=1,
            max_rows=800,
            strict=True,
        )
    assert not caplog.messages
    counts = Counter(rows["task"])
    counts["title"] = counts.pop("title_to_text") + counts.pop("text_to_title")
    assert {task: abs(counts[task] / 800 - share) < 0.01 for task, share in tasks.items()} == (
        dict.fromkeys(tasks, True)
    )
