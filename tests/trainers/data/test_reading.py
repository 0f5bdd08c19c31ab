"""Files of every kind, whole and damaged, through the triplets that they give."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autoreg_rag.model import AutoRegModel
from autoreg_trainers.data import DataError, Source, load_compression, load_triplets
from tests.trainers.data.conftest import Write, pairs


def load(model: AutoRegModel, *sources: str | Path | Source, **settings: object):
    """Load triplets of sources with a tiny model's tokenizer."""
    found = [s if isinstance(s, Source) else Source(str(s)) for s in sources]
    return load_triplets(found, model.backbone, model.config, seed=1, **settings)


def queries(model: AutoRegModel, dataset: object) -> set[str]:
    return {model.backbone.tokenizer.decode(row) for row in dataset["query"]}


ROWS = [{"query": f"q{n}", "pos": f"p{n}"} for n in range(5)]
QUERIES = {row["query"] for row in ROWS}


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "A [1]*.JSONL", "a'b é.jsonl"]
)
def test_json_lines(tiny_model: AutoRegModel, write: Write, name: str):
    assert queries(tiny_model, load(tiny_model, write(name, ROWS))) == QUERIES


def test_parquet(tiny_model: AutoRegModel, tmp_path: Path):
    rows = [{**row, "pos": [row["pos"]], "neg": ["n"]} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = load(tiny_model, tmp_path / "a.parquet")
    assert queries(tiny_model, found) == QUERIES
    assert [len(row) for row in found["negatives"]] == [1] * 5


def test_parquet_without_rows_and_with_numbers_of_which_some_are_missing(
    tiny_model: AutoRegModel, tmp_path: Path
):
    """Such numbers are stored as floats."""
    columns = {"query": ["a", "b"], "pos": ["c", "d"], "group": pa.array([7.0, None])}
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "n.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "none.parquet")
    found = load(tiny_model, tmp_path, strict=True)
    assert len(found) == 2
    assert "n/7" in found["group"]
    pq.write_table(table.set_column(2, "group", pa.array([0.5, 1.0])), tmp_path / "n.parquet")
    with pytest.raises(DataError, match="'group' holds float, not text"):
        load(tiny_model, tmp_path, strict=True)


def test_tables_of_scored_sentences(tiny_model: AutoRegModel, write: Write):
    tabs = write(
        "a.tsv", ["score\tsentence1\tsentence2", '4.5\ta "quoted one\tb', "1\tc\td", "5\te\tf"]
    )
    commas = write(
        "a.csv", ["sentence1,sentence2,score", '"g, ""h""",i,4', '"two\nlines",k,5', "l,m,3.9"]
    )
    assert queries(tiny_model, load(tiny_model, tabs)) == {'a "quoted one', "e"}
    assert queries(tiny_model, load(tiny_model, commas)) == {'g, "h"', "two\nlines"}
    lenient = Source(str(commas), min_score=3.5)
    assert queries(tiny_model, load(tiny_model, lenient)) == {'g, "h"', "two\nlines", "l"}


def test_plain_text_is_a_text_per_line(tiny_model: AutoRegModel, write: Write):
    path = write("a.txt.gz", ["one line", "", "another"])
    model = tiny_model
    found = load_compression(
        [str(path)], model.backbone, model.config, tasks={"reconstruct": 1}, seed=1
    )
    texts = {model.backbone.tokenizer.decode(row) for row in found["context"]}
    assert texts == {"one line", "another"}


def test_a_folder_stands_for_its_files(tiny_model: AutoRegModel, write: Write):
    write("deep/a.jsonl", ROWS[:2])
    write("deep/er/b.jsonl.gz", ROWS[2:])
    write("deep/.hidden/c.jsonl", ["broken"])
    write("deep/README.md", ["# not data"])
    folder = write("deep/d.unknown", ["not data"]).parent
    found = load(tiny_model, folder, strict=True)
    assert queries(tiny_model, found) == QUERIES
    assert set(found["source"]) == {"a", "b"}


@pytest.mark.parametrize("pattern", ["**/*.jsonl*", "deep/*"])
def test_a_pattern_stands_for_its_matches(tiny_model: AutoRegModel, write: Write, pattern: str):
    write("deep/a.jsonl", ROWS[:2])
    write("deep/README.md", ["# not data"])
    root = write("deep/b.jsonl.gz", ROWS[2:]).parent.parent
    assert queries(tiny_model, load(tiny_model, root / pattern)) == QUERIES


def test_a_copy_of_a_hub_dataset_has_splits(tiny_model: AutoRegModel, tmp_path: Path):
    folder = tmp_path / "copy"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A dataset\n")
    for split, rows in (("train", ROWS[:3]), ("test", ROWS[3:])):
        pq.write_table(
            pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    found = load(tiny_model, folder)
    assert queries(tiny_model, found) == {"q0", "q1", "q2"}
    assert set(found["source"]) == {"copy"}
    test = load(tiny_model, Source(str(folder), split="test"))
    assert queries(tiny_model, test) == {"q3", "q4"}
    with pytest.raises(DataError, match="dev"):
        load(tiny_model, Source(str(folder), split="dev"))


def test_a_dataset_that_no_hub_serves_is_an_error(tiny_model: AutoRegModel):
    with pytest.raises(DataError, match="'nobody/nothing' is no file"):
        load(tiny_model, "nobody/nothing")


@pytest.mark.parametrize("path", ["none.jsonl", "no folder/x.jsonl.gz", "no*.jsonl", "a/b/c"])
def test_what_is_not_there_is_an_error(
    tiny_model: AutoRegModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=path.replace("*", r"\*")):
        load(tiny_model, path)


def test_a_file_of_another_kind_is_an_error(tiny_model: AutoRegModel, write: Write):
    with pytest.raises(DataError, match=r"a\.docx is of no kind"):
        load(tiny_model, write("a.docx", ["x"]))
    path = write("a.jsonl", ROWS)
    with pytest.raises(DataError, match="split"):
        load(tiny_model, Source(str(path), split="test"))


BAD = {
    "{not json": "not JSON",
    "[1, 2]": "not an object",
    "7": "not an object",
    '{"query": "q"}': "'pos' is missing",
    '{"pos": "p"}': "'query' is missing",
    '{"query": "q", "pos": []}': "'pos' is missing or empty",
    '{"query": "", "pos": "p"}': "'query' is empty",
    '{"query": "q", "pos": " \\n"}': "'pos' is empty",
    '{"query": "q", "pos": 7}': "'pos' holds int",
    '{"query": "q", "pos": ["p", null]}': "'pos' holds NoneType",
    '{"query": "q", "pos": "p", "neg": [""]}': "'neg' is empty",
    '{"query": "q", "pos": "p", "neg": {"a": 1}}': "'neg' holds dict",
    '{"query": "q", "pos": "p", "group": ["g"]}': "'group' holds list",
    '{"sentence1": "a", "sentence2": "b", "score": "high"}': "'high' is not a number",
    '{"context": "a", "output": "b"}': "'instruction' is missing",
    '{"text": null, "body": "b"}': "none of the known fields",
    "{}": "none of the known fields",
    "[" * 100_000: "nested too deeply",
    '{"query": "q", "pos": "p", "n": ' + "9" * 5000 + "}": "not readable JSON",
}


@pytest.mark.parametrize(("line", "reason"), BAD.items(), ids=BAD.values())
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_bad_row_is_named_and_left_out(
    tiny_model: AutoRegModel,
    write: Write,
    caplog: pytest.LogCaptureFixture,
    line: str,
    reason: str,
    ending: str,
):
    path = write(f"a.jsonl{ending}", [ROWS[0], "", line, ROWS[1]])
    assert queries(tiny_model, load(tiny_model, path)) == {"q0", "q1"}
    assert any(text.startswith(f"{path}:3: ") and reason in text for text in caplog.messages)
    assert f"{path}: 1 of 3 rows are bad, left out" in caplog.messages
    with pytest.raises(DataError) as caught:
        load(tiny_model, path, strict=True)
    assert str(caught.value).startswith(f"{path}:3: ")


def test_lines_count_with_any_end_and_mark_at_the_start(tiny_model: AutoRegModel, tmp_path: Path):
    good = json.dumps(ROWS[0]).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\r\n" + good + b"\nbad\r\n" + good)
    with pytest.raises(DataError, match=r"a\.jsonl:4: "):
        load(tiny_model, path, strict=True)
    assert len(load(tiny_model, path)) == 3


def test_bytes_that_are_not_utf8_spoil_their_line_only(tiny_model: AutoRegModel, tmp_path: Path):
    path = tmp_path / "a.jsonl"
    line = json.dumps({"query": "é", "pos": "ü\ufffd"}, ensure_ascii=False).encode()
    path.write_bytes(line + b"\n" + line.replace(b"\xc3\xa9", b"\xe9") + b"\n" + line)
    assert len(load(tiny_model, path)) == 2
    with pytest.raises(DataError, match=r"a\.jsonl:2: not UTF-8"):
        load(tiny_model, path, strict=True)


def test_rows_of_tables_are_named_by_line(tiny_model: AutoRegModel, write: Write):
    path = write("a.csv", ["query,pos", '"a\nb",c', "x", "d,e"])
    with pytest.raises(DataError, match=r"a\.csv:4: 1 fields where 2 belong"):
        load(tiny_model, path, strict=True)
    assert queries(tiny_model, load(tiny_model, path)) == {"a\nb", "d"}


def test_rows_of_parquet_are_named_by_number(tiny_model: AutoRegModel, tmp_path: Path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([ROWS[0], {"query": None, "pos": "p"}]), path)
    with pytest.raises(DataError, match=r"a\.parquet, row 2: 'query' is missing"):
        load(tiny_model, path, strict=True)


def test_only_the_first_bad_rows_are_named(
    tiny_model: AutoRegModel, write: Write, caplog: pytest.LogCaptureFixture
):
    load(tiny_model, write("a.jsonl", [*ROWS, *["bad"] * 50]))
    named = [text for text in caplog.messages if ".jsonl:" in text]
    assert 1 < len(named) < 50
    assert any("50 of 55 rows" in text for text in caplog.messages)


@pytest.mark.parametrize("rows", [[], ["", " "], ["bad", "worse"], [{"text": "t"}]])
@pytest.mark.parametrize("strict", [True, False])
def test_no_row_of_use_is_an_error(
    tiny_model: AutoRegModel, write: Write, cache: Path, rows: list[object], strict: bool
):
    path = write("a.jsonl", rows)
    with pytest.raises(DataError, match=r"a\.jsonl"):
        load(tiny_model, path, strict=strict)
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


def test_rows_of_another_use_are_not_bad(
    tiny_model: AutoRegModel, write: Write, caplog: pytest.LogCaptureFixture
):
    given = {"context": "c", "instruction": "i", "output": "o"}
    path = write("a.jsonl", [*ROWS, given, {"text": "t"}])
    with caplog.at_level(logging.WARNING):
        assert len(load(tiny_model, path, strict=True)) == 5
    assert not caplog.messages


@pytest.mark.parametrize("part", [0.3, 0.9])
@pytest.mark.parametrize("strict", [True, False])
def test_a_file_cut_short_is_an_error(
    tiny_model: AutoRegModel, write: Write, cache: Path, part: float, strict: bool
):
    path = write("a.jsonl.gz", pairs("x", 3000))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: damaged after line \d+ or incomplete"):
        load(tiny_model, path, strict=strict)
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


def test_damaged_files_are_errors(tiny_model: AutoRegModel, tmp_path: Path):
    flipped = bytearray(gzip.compress(b"".join(json.dumps(row).encode() for row in ROWS)))
    flipped[len(flipped) // 2] ^= 0xFF
    contents = {"a.jsonl.gz": b"not gzip", "b.jsonl.gz": bytes(flipped), "c.parquet": b"PAR1 x"}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            load(tiny_model, tmp_path / name)
