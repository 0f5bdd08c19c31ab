"""The command as a user runs it, on files of all kinds and on real ones."""

import gzip
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from autoreg_trainers.mining.pool import normalised
from tests.commands import command
from tests.trainers.running import heard

ROWS = [
    {"query": "how is bread baked", "pos": "Bread is baked from flour.", "neg": [], "kind": "qa"},
    {"query": "how is cake baked", "pos": "Cake is baked from flour and sugar.", "neg": []},
    {"query": "where do whales live", "pos": "Whales live in the sea.", "neg": ["Whales sing."]},
    {"query": "where do lions live", "pos": "Lions live in the savannah.", "neg": []},
]
REAL = Path(__file__).parents[3] / "shared" / "data" / "train"


mine = partial(command, "autoreg_trainers.mine")


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Run the command in this process, which has loaded all; give status, output and errors."""
    monkeypatch.chdir(tmp_path)
    return partial(heard, capsys, "mine")


@pytest.fixture
def refusal(here):
    """Run the command, and give the one line by which it refuses."""

    def refusal(*options):
        status, output, errors = here(*options)
        assert (status, output) == (1, "")
        (line,) = [each for each in errors.splitlines() if each.startswith("error: ")]
        return line

    return refusal


def write(path, rows=ROWS):
    path.parent.mkdir(exist_ok=True)
    lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


def read(path):
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def test_files_of_each_format_give_the_same_negatives(tmp_path, here):
    write(tmp_path / "data" / "plain.jsonl")
    write(tmp_path / "data" / "packed.jsonl.gz")
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "data" / "table.parquet")
    write(tmp_path / "data" / "texts.jsonl", [{"text": "A text."}])
    (tmp_path / "data" / "README.md").write_text("About.")
    result = mine("data", "--out", "data/mined", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "texts.jsonl: left out" in result.stderr
    summary = json.loads(result.stdout)
    names = ["packed.jsonl.gz", "plain.jsonl.gz", "table.jsonl.gz"]
    assert list(summary["files"]) == names
    out = tmp_path / "data" / "mined"
    packed, plain, table = (read(out / name) for name in names)
    assert packed == plain
    assert [row["neg"] for row in table] == [row["neg"] for row in plain]
    assert [row.get("kind") for row in table] == ["qa", None, None, None]
    assert plain[0]["neg"] == [ROWS[1]["pos"]]
    assert plain[2]["neg"] == ["Whales sing.", ROWS[3]["pos"]]
    assert summary["rows"] == 12
    assert summary["given"] == 3
    assert summary["given"] + summary["mined"] == sum(
        len(row["neg"]) for rows in (packed, plain, table) for row in rows
    )

    status, output, _ = here("data", "--out", "data/mined")
    assert (status, output.splitlines()[0]) == (
        0,
        "files:     3 in data/mined (3 kept from an earlier run)",
    )


def test_by_the_model(tmp_path, here, tiny_folder):
    write(tmp_path / "a.jsonl")
    how = ["--margin", 1, "--device", "cpu", "--dtype", "float32", "--model", tiny_folder]
    for by in ("model", "both"):
        assert here("a.jsonl", "--out", by, "--by", by, *how)[0] == 0
    assert here("a.jsonl", "--out", "words", "--margin", 1)[0] == 0
    found = {
        by: [row["neg"] for row in read(tmp_path / by / "a.jsonl.gz")]
        for by in ("model", "both", "words")
    }
    for model, both, words in zip(*found.values(), strict=True):
        assert both[: len(words[:1])] == words[:1]
        assert set(both) <= set(model) | set(words)


def test_bad_rows_are_named_and_left_out_or_end_a_strict_run(tmp_path, here, refusal, caplog):
    write(tmp_path / "a.jsonl", [*ROWS, {"query": "no answer"}, {"query": "q", "pos": "\ud800"}])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"query": 3, "pos": "x"}\n{"text": "A text."}\n{broken\n')
    status, output, _ = here("a.jsonl", "--out", "out", "--json")
    assert status == 0
    assert [f"a.jsonl:{line}: " in caplog.text for line in range(1, 10)] == [False] * 4 + [True] * 5
    assert json.loads(output)["bad"] == 5
    assert len(read(tmp_path / "out" / "a.jsonl.gz")) == len(ROWS)
    assert "a.jsonl:5: " in refusal("a.jsonl", "--out", "new", "--strict")
    assert not (tmp_path / "new").exists()


def test_what_the_user_can_mend_is_one_line(tmp_path, here, refusal):
    write(tmp_path / "a.jsonl")
    write(tmp_path / "other" / "a.jsonl.gz")
    write(tmp_path / "texts" / "t.jsonl", [{"text": "A text."}])
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "torn.jsonl.gz").write_bytes(gzip.compress(b'{"query": "q"' * 99)[:-20])
    (tmp_path / "folder").mkdir()
    for options, message in [
        (["nowhere.jsonl"], "there is no file or folder nowhere.jsonl"),
        (["folder"], "the folder folder holds no file to read"),
        (["texts"], "nothing in texts has query and pos"),
        (["texts/t.jsonl"], "t.jsonl: none of its rows"),
        (["empty.jsonl"], "empty.jsonl: none of its rows"),
        (["torn.jsonl.gz"], "torn.jsonl.gz"),
        (["a.jsonl", "other"], "would both be written to a.jsonl.gz"),
        (["other", "--out", "other"], "lies in --out other"),
        (["a.jsonl", "--out", "empty.jsonl"], "--out empty.jsonl is not a folder"),
        (["a.jsonl", "--negatives", "-1"], "--negatives is -1; it must be 1 or more"),
        (["a.jsonl", "--margin", "1.5"], "--margin is 1.5; it must be between 0 and 1"),
        (["a.jsonl", "--model", "m"], "--by bm25 ranks by words"),
        (["a.jsonl", "--by", "model", "--model", "./m"], "m"),
    ]:
        assert message in refusal("--out", "out", *options)
    assert not (tmp_path / "out").exists()
    assert here("a.jsonl", "--out", "out", "--by", "luck")[0] == 2
    result = mine("nowhere", "--out", "out", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines() == ["error: there is no file or folder nowhere"]


def test_help_is_quick_to_load():
    code = (
        "import sys, autoreg_trainers.mine\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.skipif(not REAL.is_dir(), reason="the training data is not on this machine")
def test_real_rows_get_negatives_that_are_none_of_their_answers(tmp_path):
    files = ["covid_faq_deepset.jsonl.gz", "trecqa_wang_train.jsonl.gz"]
    result = mine(*(REAL / name for name in files), "--out", "out", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for name in files:
        before, after = read(REAL / name), read(tmp_path / "out" / name)
        assert [{**row, "neg": 0} for row in before] == [{**row, "neg": 0} for row in after]
        assert sum(len(row["neg"]) for row in after) > 2 * len(after)
        passages = {row["pos"] for row in before}.union(*(row["neg"] for row in before))
        for was, row in zip(before, after, strict=True):
            mined = row["neg"][len(was["neg"]) :]
            assert row["neg"][: len(was["neg"])] == was["neg"]
            assert passages.issuperset(mined)
            query = normalised(row["query"])
            answers = {
                normalised(other["pos"])
                for other in before
                if normalised(other["query"]) == query
                or ("group" in row and other.get("group") == row["group"])
            }
            assert answers.isdisjoint(map(normalised, mined))
    assert json.loads(result.stdout)["rows"] == 320 + 187
