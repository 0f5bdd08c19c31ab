from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from autoreg_rag.model import AutoRegModel
from autoreg_trainers.data import DataError, Source, held_back, load_triplets, rows_hash
from tests.trainers.data.conftest import Ids, Write, pairs

ROW = {
    "query": "Who?",
    "pos": "They did.",
    "neg": ["She did.", "They did.", "He did."],
    "group": "people",
    "kind": "qa",
}


def load(model: AutoRegModel, *sources: Path | Source, seed: int = 1, **settings: object):
    found = [s if isinstance(s, Source) else Source(str(s)) for s in sources]
    return load_triplets(found, model.backbone, model.config, seed=seed, **settings)


def test_columns_hold_the_ids_of_the_bare_texts(tiny_model: AutoRegModel, write: Write, ids: Ids):
    (row,) = load(tiny_model, write("people.jsonl.gz", [ROW]))
    assert row == {
        "query": ids("Who?"),
        "positive": ids("They did."),
        "negatives": [ids("She did."), ids("He did.")],  # the positive is no negative
        "symmetric": False,
        "group": "people/people",
        "source": "people",
    }


def test_what_answers_a_query_in_another_row_is_no_negative_of_it(
    tiny_model: AutoRegModel, write: Write, ids: Ids, caplog: pytest.LogCaptureFixture
):
    rows = [
        {"query": "q", "pos": "a", "neg": ["x", "b", "q"]},
        {"query": "q", "pos": "b", "neg": ["a"]},
        {"query": "r", "pos": "c", "neg": ["a", "b"]},
        {"query": "s", "pos": "d"},
    ]
    path = write("a.jsonl", rows)
    found = {tuple(row["positive"]): row["negatives"] for row in load(tiny_model, path)}
    expected = {"a": ["x"], "b": [], "c": ["a", "b"], "d": []}
    assert found == {
        tuple(ids(positive)): [ids(text) for text in negatives]
        for positive, negatives in expected.items()
    }
    assert any(f"{path}: 3 of 6 negatives" in text for text in caplog.messages)
    other = write("b.jsonl", [{"query": "t", "pos": "e", "neg": ["x"]}])
    assert len(load(tiny_model, path, other)) == 5


def test_several_positives_give_several_rows(tiny_model: AutoRegModel, write: Write, ids: Ids):
    rows = load(
        tiny_model, write("a.jsonl", [{"query": "q", "pos": ["a", "b", "a"], "neg": ["b", "c"]}])
    )
    assert sorted(rows["positive"]) == sorted([ids("a"), ids("b")])
    assert rows["negatives"][:] == [[ids("c")]] * 2
    assert len(set(rows["group"])) == 1


def test_a_row_without_a_group_belongs_to_its_query(tiny_model: AutoRegModel, write: Write):
    rows = [{"query": q, "pos": p} for q, p in (("a", "1"), ("a", "2"), ("b", "3"))]
    found = load(tiny_model, write("a.jsonl", rows))
    groups = {tuple(row["positive"]): row["group"] for row in found}
    assert sorted(Counter(groups.values()).values()) == [1, 2]
    assert all(groups.values())


def test_a_groups_name_counts_where_it_comes_from(tiny_model: AutoRegModel, write: Write):
    """Numbers are used again by every file, names by all files of what a row calls its source."""
    for name in "ab":
        write(f"{name}.jsonl", pairs(name, 1, group=1))
        write(f"{name}2.jsonl", pairs(f"{name}2", 1, group=1, source="s"))
        path = write(f"{name}3.jsonl", [{"query": "same", "pos": name, "source": ["no name"]}])
    groups = {row["source"]: row["group"] for row in load(tiny_model, path.parent)}
    assert groups["a"] != groups["b"]
    assert groups["a2"] == groups["b2"] not in (groups["a"], groups["b"])
    assert groups["a3"] == groups["b3"]


def test_a_large_group_is_a_topic(tiny_model: AutoRegModel, write: Write):
    """Its rows belong to their queries, as if they had stated no group."""
    rows = [*pairs("t", 6, group="topic"), *pairs("a", 5, group="article")]
    rows[1]["query"] = rows[0]["query"]  # five queries then
    path = write("a.jsonl", rows)
    assert Counter(load(tiny_model, path, max_group=5)["group"]) == {"a/topic": 6, "a/article": 5}
    rows[1]["query"] = "another"
    write("a.jsonl", [*rows, {**rows[0], "pos": "again"}])
    found = load(tiny_model, path, max_group=5)
    assert sorted(Counter(found["group"]).values()) == [1, 1, 1, 1, 1, 2, 5]
    assert len(set(load(tiny_model, path)["group"])) == 2
    train, held = held_back(found, 4, 0)
    assert (len(train), len(held)) == (8, 4)
    # What is drawn of it does not change what it is.
    assert "a/topic" not in load(tiny_model, path, max_group=5, max_rows=4)["group"]


@pytest.mark.parametrize("number", [0, 1, 5])
def test_the_first_negatives_are_kept(
    tiny_model: AutoRegModel, write: Write, ids: Ids, number: int
):
    (row,) = load(tiny_model, write("a.jsonl", [ROW]), num_negatives=number)
    assert row["negatives"] == [ids("She did."), ids("He did.")][:number]


def test_titles_and_scored_sentences_are_pairs_too(
    tiny_model: AutoRegModel, write: Write, ids: Ids
):
    rows = [
        {"title": "T", "text": "t"},
        {"sentence1": "a", "sentence2": "b", "score": 4.5},
        {"sentence1": "c", "sentence2": "d", "score": 1},
        {"sentence1": "e", "sentence2": "f"},
    ]
    found = load(tiny_model, write("a.jsonl", rows))
    texts = {(tuple(row["query"]), tuple(row["positive"])) for row in found}
    assert texts == {(tuple(ids(a)), tuple(ids(b))) for a, b in ("Tt", "ab", "ef")}
    symmetric = {tuple(row["query"]): row["symmetric"] for row in found}
    assert symmetric == {tuple(ids("T")): False, tuple(ids("a")): True, tuple(ids("e")): True}


@pytest.mark.parametrize(
    ("kind", "expected"), [("nli", True), ("paraphrase", True), ("qa", False), (None, False)]
)
def test_inference_and_paraphrase_are_symmetric(
    tiny_model: AutoRegModel, write: Write, kind: str | None, expected: bool
):
    (row,) = load(tiny_model, write("a.jsonl", [{"query": "q", "pos": "p", "kind": kind}]))
    assert row["symmetric"] is expected


def test_long_texts_are_cut_where_the_encoder_cuts_them(
    tiny_model: AutoRegModel, write: Write, ids: Ids
):
    text = "word " * 1000
    (row,) = load(tiny_model, write("a.jsonl", [{"query": text, "pos": text, "neg": ["." + text]}]))
    limit = tiny_model.encoder.truncation.limit
    assert limit < len(ids(text))
    assert row["query"] == row["positive"] == ids(text)[:limit]
    assert row["negatives"] == [ids("." + text)[:limit]]


def test_texts_that_cannot_be_utf8_are_read_like_everywhere(
    tiny_model: AutoRegModel, write: Write, ids: Ids
):
    line = '{"query": "a\\ud800", "pos": "b \\ud83d\\ude00", "group": "\\udfff"}'
    (row,) = load(tiny_model, write("a.jsonl", [line]))
    assert row["query"] == ids("a\ud800")
    assert row["positive"] == ids("b \N{GRINNING FACE}")


def test_rows_that_a_tokenizer_does_not_see_are_bad(tiny_model: AutoRegModel, write: Write):
    from tokenizers.normalizers import Replace

    tiny_model.backbone.tokenizer.backend_tokenizer.normalizer = Replace("\u200b", "")
    path = write("a.jsonl", [*pairs("x", 3), {"query": "\u200b", "pos": "p"}])
    assert len(load(tiny_model, path)) == 3
    with pytest.raises(DataError, match=r"a\.jsonl:4: the tokenizer sees nothing in its query"):
        load(tiny_model, path, strict=True)


def test_the_seed_alone_decides(tiny_model: AutoRegModel, write: Write):
    a, b = write("a.jsonl", pairs("a", 40)), write("b.jsonl", pairs("b", 40))
    first = rows_hash(load(tiny_model, a, b, max_rows=30))
    assert rows_hash(load(tiny_model, a, b, max_rows=30)) == first
    assert rows_hash(load(tiny_model, a, b, max_rows=30, seed=2)) != first


def test_the_order_on_disk_does_not_count(tiny_model: AutoRegModel, tmp_path: Path):
    contents = {f"{name}.jsonl": pairs(name, 10) for name in "abcd"}
    hashes = set()
    for number, names in enumerate((sorted(contents), sorted(contents, reverse=True))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / name).write_text("\n".join(map(json.dumps, contents[name])))
        hashes.add(rows_hash(load(tiny_model, folder)))
    assert len(hashes) == 1


def test_weights_share_the_rows(tiny_model: AutoRegModel, write: Write):
    sources = [
        Source(str(write("a.jsonl", pairs("a", 100))), weight=3),
        Source(str(write("b.jsonl", pairs("b", 100)))),
    ]
    assert Counter(load(tiny_model, *sources, max_rows=40)["source"]) == {"a": 30, "b": 10}
    assert Counter(load(tiny_model, *sources)["source"]) == {"a": 100, "b": 33}


def test_a_source_repeats_only_if_asked(
    tiny_model: AutoRegModel, write: Write, caplog: pytest.LogCaptureFixture
):
    small, large = write("a.jsonl", pairs("a", 4)), write("b.jsonl", pairs("b", 100))
    found = load(tiny_model, small, large, max_rows=40)
    assert Counter(found["source"]) == {"a": 4, "b": 36}
    assert any("a.jsonl" in text and "4" in text for text in caplog.messages)
    found = load(tiny_model, Source(str(small), repeat=True), large, max_rows=40)
    assert Counter(found["source"]) == {"a": 20, "b": 20}
    assert set(Counter(map(tuple, found["query"])).values()) == {1, 5}


@pytest.mark.parametrize("limit", [1, 7, 20, 33, 1000])
def test_a_limit_spreads_over_the_files(tiny_model: AutoRegModel, write: Write, limit: int):
    sizes = {"a": 3, "b": 10, "c": 20}
    for name, size in sizes.items():
        path = write(f"{name}.jsonl", pairs(name, size))
    found = Counter(load(tiny_model, Source(str(path.parent), limit=limit))["source"])
    assert found.total() == min(limit, sum(sizes.values()))
    spread = [found[name] for name in sizes if found[name] < sizes[name]]
    assert max(spread, default=0) - min(spread, default=0) <= 1


def test_a_limit_is_reached_past_files_of_no_use(
    tiny_model: AutoRegModel, write: Write, caplog: pytest.LogCaptureFixture
):
    write("a.jsonl", ["bad", *pairs("a", 50)])
    write("b.jsonl", [{"text": "t"}] * 500)
    folder = write("c.jsonl", pairs("c", 3)).parent
    assert Counter(load(tiny_model, Source(str(folder), limit=40))["source"]) == {"a": 37, "c": 3}
    assert f"{folder}: 1 of 541 rows are bad, left out" in caplog.messages


@pytest.mark.parametrize(
    "settings", [{"max_rows": 0}, {"max_rows": -1}, {"num_negatives": -1}, {"seed": -1}]
)
def test_numbers_without_sense_are_refused(
    tiny_model: AutoRegModel, write: Write, settings: dict[str, int]
):
    with pytest.raises(DataError, match=r"-1|0"):
        load(tiny_model, write("a.jsonl", [ROW]), **settings)


def test_no_source_is_an_error(tiny_model: AutoRegModel):
    with pytest.raises(DataError, match="no source"):
        load(tiny_model)
