"""The output folder: the same each time, continued, whole or not at all."""

import gzip
import json
import os
import signal
from itertools import pairwise

import pytest

from autoreg_trainers.mining.job import Job
from autoreg_trainers.mining.row import Row
from autoreg_trainers.mining.settings import MiningError, Settings
from tests.forkserver import processes

FRUIT = ["apple", "banana", "cherry", "grape", "lemon", "melon"]
FILES = {
    "a.jsonl.gz": [
        {"query": f"{a} {b}", "pos": f"{a} {b} cake", "neg": [], "id": i, "more": {"x": [None, 1]}}
        for i, (a, b) in enumerate(pairwise(FRUIT))
    ],
    "b.jsonl.gz": [{"query": f"what is {a}?", "pos": f"{a} or apple, né"} for a in FRUIT],
    "c.jsonl.gz": [{"query": "apple", "pos": "apple", "neg": ["cherry"], "group": 7}],
}


def rows_of(files):
    return {name: [Row.of(fields) for fields in rows] for name, rows in files.items()}


def run(out, files=FILES, model=None, **settings):
    return Job(rows_of(files), out, Settings(**{"margin": 1, **settings}), model).run()


def read(path):
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def test_each_file_is_written_with_all_fields_and_its_negatives(tmp_path):
    counts, kept = run(tmp_path)
    assert kept == []
    assert sorted(bytes_of(tmp_path)) == [*FILES, "mining.json"]
    for name, rows in FILES.items():
        written = read(tmp_path / name)
        assert [{**row, "neg": None} for row in written] == [{**row, "neg": None} for row in rows]
        assert sum(len(row["neg"]) for row in written) == counts[name].given + counts[name].mined
        assert sum(not row["neg"] for row in written) == counts[name].without
        pool = {row["pos"] for row in rows}.union(*(row.get("neg", ()) for row in rows))
        assert pool.issuperset(text for row in written for text in row["neg"])
    assert read(tmp_path / "a.jsonl.gz")[0]["neg"] == ["banana cherry cake"]
    assert read(tmp_path / "c.jsonl.gz")[0]["neg"] == ["cherry"]


def test_all_files_can_be_one_pool(tmp_path):
    run(tmp_path, pool="all", negatives=20)
    (row,) = read(tmp_path / "c.jsonl.gz")
    assert row["neg"][0] == "cherry"
    assert "apple banana cake" in row["neg"]


def test_two_runs_write_the_same_bytes(tmp_path, tiny_model):
    for place in ("one", "two"):
        run(tmp_path / place, model=tiny_model, by="both", pool="all")
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_what_is_done_is_kept_and_counted(tmp_path):
    counts, _ = run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run(tmp_path) == (counts, list(FILES))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def changed_row(files):
    return {**files, "a.jsonl.gz": [{"query": "x", "pos": "y"}, *files["a.jsonl.gz"]]}


@pytest.mark.parametrize(
    ("pool", "files", "settings", "kept"),
    [
        ("source", FILES, {"negatives": 1}, []),
        ("source", FILES, {"margin": 0.5}, []),
        ("source", changed_row(FILES), {}, ["b.jsonl.gz", "c.jsonl.gz"]),
        ("all", changed_row(FILES), {}, []),
        ("source", {"c.jsonl.gz": FILES["c.jsonl.gz"]}, {}, ["c.jsonl.gz"]),
        ("all", {"c.jsonl.gz": FILES["c.jsonl.gz"]}, {}, []),
    ],
)
def test_what_depends_on_something_else_is_mined_anew(tmp_path, pool, files, settings, kept):
    run(tmp_path / "out", pool=pool)
    assert run(tmp_path / "out", files, pool=pool, **settings)[1] == kept
    run(tmp_path / "fresh", files, pool=pool, **settings)
    for name in files:
        assert read(tmp_path / "out" / name) == read(tmp_path / "fresh" / name)


def test_another_model_mines_anew(tmp_path, tiny_model):
    run(tmp_path, model=tiny_model, by="model")
    assert run(tmp_path, model=tiny_model, by="model")[1] == list(FILES)
    tiny_model.neck.compress_tokens.data += 1
    assert run(tmp_path, model=tiny_model, by="model")[1] == []


def test_a_file_that_was_changed_or_removed_is_mined_again(tmp_path):
    run(tmp_path)
    before = bytes_of(tmp_path)
    (tmp_path / "a.jsonl.gz").unlink()
    (tmp_path / "b.jsonl.gz").write_bytes(before["b.jsonl.gz"][:-9])
    assert run(tmp_path)[1] == ["c.jsonl.gz"]
    assert bytes_of(tmp_path) == before


def test_a_damaged_record_and_a_file_for_a_folder_are_refused(tmp_path):
    run(tmp_path / "out")
    for content in ("{", "[]", "{}", '{"files": 3}'):
        (tmp_path / "out" / "mining.json").write_text(content)
        with pytest.raises(MiningError, match=r"mining\.json is damaged"):
            run(tmp_path / "out")
    with pytest.raises(MiningError, match="is not a folder"):
        run(tmp_path / "out" / "a.jsonl.gz")
    with pytest.raises(MiningError, match="cannot be written"):
        run(tmp_path / "out" / "a.jsonl.gz" / "deeper")


def test_a_model_is_for_rankings_by_a_model(tmp_path, tiny_model):
    for by, model in (("bm25", tiny_model), ("model", None), ("both", None)):
        with pytest.raises(ValueError, match="only if"):
            run(tmp_path, model=model, by=by)


def run_and_die(out, die_at):
    """Mine in a process that kills itself at an fsync; return how many there were, or None."""
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_work, args=(out, die_at, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        assert process.exitcode == -signal.SIGKILL
        return None


def _work(out, die_at, sender):
    count, sync = 0, os.fsync

    def counted(descriptor):
        nonlocal count
        count += 1
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(descriptor)

    os.fsync = counted
    run(out)
    sender.send(count)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
def test_a_killed_run_leaves_whole_files_and_is_continued(tmp_path):
    events = run_and_die(tmp_path / "whole", 0)
    expected = bytes_of(tmp_path / "whole")
    assert events >= 2 * len(FILES)
    for die_at in range(1, events + 1):
        out = tmp_path / str(die_at)
        assert run_and_die(out, die_at) is None
        left = bytes_of(out)
        left.pop("mining.json", None)
        assert left.items() <= expected.items()
        kept = run(out)[1]
        assert set(kept) <= set(left)
        assert bytes_of(out) == expected
