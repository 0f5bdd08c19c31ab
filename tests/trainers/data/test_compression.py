from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreg_rag.config import AutoRegConfig
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.data import TASKS, DataError, Source, load_compression, rows_hash
from autoreg_trainers.data.records import Record, Shape
from autoreg_trainers.data.tasks import examples, task_shares
from tests.trainers.data.conftest import Ids, Write, pairs

CONFIG = AutoRegConfig("a base", "its hash")

LONG = "The first sentence is here, and it is long. The second one follows, and so does a third."

ROWS: dict[str, dict[str, Any]] = {
    "qa": {"query": "Who?", "pos": LONG, "kind": "qa"},
    "no kind": {"query": "Who?", "pos": "They."},
    "title": {"query": "A title", "pos": LONG, "kind": "title"},
    "heading": {"query": "A heading", "pos": "Its text.", "kind": "heading"},
    "definition": {"query": "term", "pos": "its gloss", "kind": "definition"},
    "nli": {"query": "A man eats.", "pos": "Someone eats.", "kind": "nli"},
    "paraphrase": {"query": "How much?", "pos": "What does it cost?", "kind": "paraphrase"},
    "alike": {"sentence1": "One says.", "sentence2": "It is said.", "score": 4.2},
    "unscored": {"sentence1": "One says.", "sentence2": "It is said.", "score": None},
    "unlike": {"sentence1": "One says.", "sentence2": "Another eats.", "score": 1},
    "given": {"context": LONG, "instruction": "Second word?", "output": "first"},
    "text": {"text": LONG},
    "short": {"text": "Short."},
    "titled": {"title": "A title", "text": "Its text."},
}
SERVES = {
    "qa": {"answer", "reconstruct", "continue"},
    "no kind": {"answer", "reconstruct"},
    "title": {"answer", "reconstruct", "continue", "title_to_text", "text_to_title"},
    "heading": {"answer", "reconstruct", "title_to_text", "text_to_title"},
    "definition": {"answer", "reconstruct", "definition"},
    "nli": {"reconstruct", "paraphrase"},
    "paraphrase": {"reconstruct", "paraphrase"},
    "alike": {"reconstruct", "paraphrase"},
    "unscored": {"reconstruct", "paraphrase"},
    "unlike": {"reconstruct"},
    "given": {"given"},
    "text": {"reconstruct", "continue"},
    "short": {"reconstruct"},
    "titled": {"answer", "reconstruct", "title_to_text", "text_to_title"},
}


def load(model: AutoRegModel, *sources: Path | Source, tasks: dict[str, float], **settings: Any):
    found = [s if isinstance(s, Source) else Source(str(s)) for s in sources]
    settings = {"seed": 1, **settings}
    return load_compression(found, model.backbone, model.config, tasks=tasks, **settings)


def decoded(model: AutoRegModel, row: dict[str, Any]) -> tuple[str, str, str]:
    decode = model.backbone.tokenizer.decode
    return decode(row["context"]), decode(row["suffix"]), decode(row["target"])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ROWS)
def test_a_shape_says_which_tasks_it_serves(
    tiny_model: AutoRegModel, write: Write, name: str, task: str
):
    path = write("a.jsonl", [ROWS[name]])
    if task in SERVES[name]:
        (row,) = load(tiny_model, path, tasks={task: 1})
        assert row["task"] == task
        assert row["source"] == "a"
        assert row["group"]
    else:
        with pytest.raises(DataError, match=f"none of its 1 rows .*{task}"):
            load(tiny_model, path, tasks={task: 1})


@pytest.mark.parametrize(
    ("name", "task", "context", "instruction", "target"),
    [
        ("qa", "answer", "Who?", "query", LONG),
        ("definition", "definition", "term", "query", "its gloss"),
        ("short", "reconstruct", "Short.", "document", "Short."),
        ("nli", "paraphrase", "A man eats.", "document", "Someone eats."),
        ("alike", "paraphrase", "One says.", "document", "It is said."),
        ("titled", "title_to_text", "A title", 'The passage with this title: "', "Its text."),
        ("titled", "text_to_title", "Its text.", 'The title of this passage: "', "A title"),
        ("given", "given", LONG, "Second word?", "first"),
        (
            "text",
            "continue",
            LONG.partition(" The second")[0],
            'The text that follows this: "',
            LONG[LONG.index("The second") :],
        ),
    ],
)
def test_what_a_task_asks_for(
    tiny_model: AutoRegModel,
    write: Write,
    name: str,
    task: str,
    context: str,
    instruction: str,
    target: str,
):
    config = tiny_model.config
    own = {"query": config.query_instruction, "document": config.document_instruction}
    (row,) = load(tiny_model, write("a.jsonl", [ROWS[name]]), tasks={task: 1})
    suffix = config.suffix(own.get(instruction, instruction))
    assert decoded(tiny_model, row) == (context, suffix, target)


def test_the_suffix_is_that_of_the_encoder(tiny_model: AutoRegModel, write: Write):
    (row,) = load(tiny_model, write("a.jsonl", [ROWS["qa"]]), tasks={"answer": 1})
    assert row["suffix"] == tiny_model.encoder.suffix_ids(tiny_model.config.query_instruction)


def test_queries_are_reconstructed_too(tiny_model: AutoRegModel, write: Write):
    found = load(tiny_model, write("a.jsonl", pairs("x", 400)), tasks={"reconstruct": 1})
    assert all(row["context"] == row["target"] for row in found)
    questions = sum(decoded(tiny_model, row)[0].endswith("?") for row in found)
    assert 50 < questions < 150


@settings(max_examples=60)
@given(st.text())
def test_a_continued_text_is_whole(text: str):
    for _, example in examples(Record(Shape.TEXT, text), ["continue"], CONFIG):
        head, tail = example.context, example.target
        assert text.startswith(head)
        assert text.endswith(tail)
        assert not text[len(head) : len(text) - len(tail)].strip()
        assert head.strip()
        assert tail.strip()
        assert not tail[0].isspace()


@settings(max_examples=60)
@given(st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=20, max_size=60))
def test_a_text_is_cut_between_words(words: list[str]):
    text = " ".join(words)
    for _, example in examples(Record(Shape.TEXT, text), ["continue"], CONFIG):
        assert example.context.split() + example.target.split() == words


def test_an_instruction_is_never_cut(tiny_model: AutoRegModel, write: Write, ids: Ids):
    instruction = "Which of these words is it? " * 5
    row = {"context": "word " * 500, "instruction": instruction, "output": "word " * 500}
    (found,) = load(tiny_model, write("a.jsonl", [row]), tasks={"given": 1})
    suffix = ids(tiny_model.config.suffix(instruction))
    assert found["suffix"] == suffix
    used = 1 + len(found["context"]) + len(suffix) + tiny_model.config.num_compress_tokens
    assert used == tiny_model.backbone.window


def test_an_instruction_without_room_makes_a_bad_row(tiny_model: AutoRegModel, write: Write):
    row = {"context": "c", "instruction": "word " * 1000, "output": "o"}
    path = write("a.jsonl", [ROWS["given"], row])
    assert len(load(tiny_model, path, tasks={"given": 1})) == 1
    with pytest.raises(DataError, match=r"a\.jsonl:2: its instruction leaves no room in 256"):
        load(tiny_model, path, tasks={"given": 1}, strict=True)


MIX = {"answer": 0.4, "reconstruct": 0.4, "title": 0.1, "continue": 0.1}


def mixed_rows() -> list[dict[str, Any]]:
    """Return rows of many kinds, that a mixture can be made of."""
    return [
        *(dict(row, pos=f"{row['pos']} {LONG}") for row in pairs("q", 120, kind="qa")),
        *pairs("t", 40, kind="title"),
        *pairs("n", 60, kind="nli"),
        *({"text": f"{number} {LONG}"} for number in range(60)),
    ]


@pytest.mark.parametrize("rows", [None, 200, 100, 40])
def test_a_mixture_comes_out_as_asked(tiny_model: AutoRegModel, write: Write, rows: int | None):
    found = load(tiny_model, write("a.jsonl", mixed_rows()), tasks=MIX, max_rows=rows)
    total = rows or 280
    assert len(found) == total
    counts = Counter(found["task"])
    counts["title"] = counts.pop("title_to_text", 0) + counts.pop("text_to_title", 0)
    for task, share in MIX.items():
        assert abs(counts[task] - share * total) <= 2


def test_every_record_is_drawn_once(tiny_model: AutoRegModel, write: Write):
    rows = [{"text": f"{number} {LONG}", "group": str(number)} for number in range(50)]
    found = load(tiny_model, write("a.jsonl", rows), tasks={"reconstruct": 1, "continue": 2})
    groups = sorted(found["group"])
    assert groups == sorted(f"a/{number}" for number in range(50))
    topic = write("b.jsonl", [{**row, "group": "all"} for row in rows])
    found = load(tiny_model, topic, tasks={"reconstruct": 1, "continue": 2}, max_group=49)
    assert len(set(found["group"])) == 50


def test_a_scarce_task_gets_all_that_can_serve_it(
    tiny_model: AutoRegModel, write: Write, caplog: pytest.LogCaptureFixture
):
    rows = [*pairs("t", 5, kind="title"), *pairs("q", 95, kind="qa")]
    found = load(tiny_model, write("a.jsonl", rows), tasks={"title_to_text": 0.5, "answer": 0.5})
    assert Counter(found["task"]) == {"title_to_text": 5, "answer": 95}
    assert any("title_to_text" in text and "5 %" in text for text in caplog.messages)


def test_a_draw_prefers_the_records_that_the_mixture_lacks(tiny_model: AutoRegModel, write: Write):
    rows = [*pairs("t", 10, kind="title"), *pairs("q", 500, kind="qa")]
    path = write("a.jsonl", rows)
    found = load(tiny_model, path, tasks={"title_to_text": 1, "answer": 1}, max_rows=20)
    assert Counter(found["task"]) == {"title_to_text": 10, "answer": 10}


def test_a_task_that_nothing_serves_leaves_its_part_to_the_others(
    tiny_model: AutoRegModel, write: Write, caplog: pytest.LogCaptureFixture
):
    path = write("a.jsonl", [{"text": f"{number} {LONG}"} for number in range(50)])
    found = load(tiny_model, path, tasks=MIX)
    assert Counter(found["task"]) == {"reconstruct": 40, "continue": 10}
    assert any("no record can serve the task answer" in text for text in caplog.messages)


def test_a_source_serves_only_its_tasks(tiny_model: AutoRegModel, write: Write):
    first = Source(str(write("a.jsonl", pairs("a", 50, kind="title"))), tasks=("title",))
    second = write("b.jsonl", pairs("b", 50, kind="title"))
    found = load(tiny_model, first, second, tasks={"title": 1, "answer": 1})
    tasks = {name: {row["task"] for row in found if row["source"] == name} for name in ("a", "b")}
    assert tasks == {"a": {"title_to_text", "text_to_title"}, "b": {"answer"}}
    with pytest.raises(DataError, match=r"a\.jsonl: none of its tasks"):
        load(tiny_model, first, tasks={"answer": 1})


def test_weights_of_sources_and_tasks_hold_together(tiny_model: AutoRegModel, write: Write):
    sources = [
        Source(str(write("a.jsonl", pairs("a", 300, kind="title"))), weight=1),
        Source(str(write("b.jsonl", pairs("b", 300, kind="qa"))), weight=2),
        Source(str(write("c.jsonl", pairs("c", 5, kind="nli"))), weight=1, repeat=True),
    ]
    tasks = {"answer": 5, "reconstruct": 4, "title_to_text": 1}
    found = load(tiny_model, *sources, tasks=tasks, max_rows=200)
    assert Counter(found["source"]) == {"a": 50, "b": 100, "c": 50}
    for task, count in {"answer": 100, "reconstruct": 80, "title_to_text": 20}.items():
        assert abs(Counter(found["task"])[task] - count) <= 2


def test_the_seed_alone_decides(tiny_model: AutoRegModel, write: Write):
    path = write("a.jsonl", mixed_rows())
    first = rows_hash(load(tiny_model, path, tasks=MIX, max_rows=100))
    assert rows_hash(load(tiny_model, path, tasks=MIX, max_rows=100)) == first
    assert rows_hash(load(tiny_model, path, tasks=MIX, max_rows=100, seed=2)) != first


@pytest.mark.parametrize(
    "tasks",
    [{}, {"answer": 0}, {"answer": -1}, {"answer": float("nan")}, {"anwser": 1}, {"answer": "1"}],
)
def test_weights_without_sense_are_refused(tasks: dict[str, Any]):
    with pytest.raises(DataError, match="task"):
        task_shares(tasks)


def test_strict_concerns_bad_rows_alone(
    tiny_model: AutoRegModel, write: Write, caplog: pytest.LogCaptureFixture
):
    path = write("a.jsonl", list(ROWS.values()))
    with caplog.at_level(logging.WARNING):
        found = load(tiny_model, path, tasks={"answer": 1}, strict=True)
    assert len(found) == sum("answer" in tasks for tasks in SERVES.values())
    assert not caplog.messages
