"""The commands as a user runs them: a process, a status, standard output and error."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import commands

KINDS = ["faiss", "qdrant"]


def command(name, *options, cwd):
    return commands.command(f"autoreg_rag.{name}", *options, cwd=cwd)


def small(model):
    """Options for a tiny model, whose window is small."""
    return ["--model", model, "--chunk-size", "32", "--chunk-overlap", "8"]


def one_line_error(result):
    """The one line on standard error that starts with ``error:``; no traceback beside it."""
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("kind", KINDS)
def test_index_and_search(corpus, tmp_path, tiny_folder, kind):
    corpus.write("bad.txt", b"\x00")
    options = ["--store", kind, *small(tiny_folder), "--json", "--out", "my-index"]
    result = command("index", "corpus", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["files"], summary["added"], summary["failed"]) == (3, 3, 1)
    assert "corpus/bad.txt: a binary file" in result.stderr
    assert "%|" not in result.stderr  # nobody watches, so there are no bars

    strict = command("index", "corpus", *options, "--strict", cwd=tmp_path)
    assert "1 could not be read" in one_line_error(strict)
    assert json.loads(strict.stdout)["unchanged"] == 3

    found = command(
        "search", "flour", "whales", "--index", "my-index", "-k", "3", "--json", cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    answers = json.loads(found.stdout)
    assert [answer["question"] for answer in answers] == ["flour", "whales"]
    for hit in (hit for answer in answers for hit in answer["hits"]):
        text = (tmp_path / hit["source"]).read_text()
        assert text[hit["start"] : hit["end"]] == hit["text"]

    options = ["--index", "my-index", "--where", "source=corpus/b.md", "--hybrid"]
    filtered = command("search", "flour", *options, cwd=tmp_path)
    assert filtered.returncode == 0, filtered.stderr
    assert "corpus/b.md [0:" in filtered.stdout
    assert "corpus/a.txt" not in filtered.stdout

    best = ["search", "flour", "--index", "my-index", "-k", "1", "--json"]
    scores = set()
    for alpha in ([], ["--alpha", "0"]):
        found = command(*best, "--hybrid", *alpha, cwd=tmp_path)
        (hit,) = json.loads(found.stdout)[0]["hits"]
        scores.add(hit["score"])
    assert len(scores) == 2
    assert (hit["source"], "bm25" in hit["scores"]) == ("corpus/b.md", True)

    for word in ("nan", "inf", "1e999", "9" * 400):
        options = ["--index", "my-index", "--where", f"title={word}"]
        none = command("search", "flour", *options, cwd=tmp_path)
        assert none.returncode == 0, none.stderr
        assert "nothing found" in none.stdout


def test_a_corpus_or_index_that_is_not_there_is_one_line(tmp_path):
    missing = command("index", "missing", cwd=tmp_path)
    assert "cannot read the corpus missing" in one_line_error(missing)
    assert list(tmp_path.iterdir()) == []
    assert "python -m autoreg_rag.index" in one_line_error(command("search", "q", cwd=tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="HOME names the home folder on POSIX only")
def test_a_home_folder_that_no_shell_has_written_out_is_one_place_for_both_commands(
    corpus, tmp_path, tiny_folder, monkeypatch
):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    result = command("index", "corpus", "--out=~/idx", *small(tiny_folder), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "home"]
    found = command("search", "flour", "--index=~/idx", "-k", "1", cwd=tmp_path)
    assert found.returncode == 0, found.stderr


def test_an_empty_corpus_leaves_no_index(tmp_path, tiny_folder):
    (tmp_path / "corpus").mkdir()
    result = command("index", "corpus", *small(tiny_folder), cwd=tmp_path)
    assert "no files in" in one_line_error(result)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_that_is_gone_can_be_removed(corpus, tmp_path, tiny_folder, kind):
    options = ["corpus", "--store", kind, *small(tiny_folder), "--json"]
    removal = [*options, "--allow-empty"]
    assert command("index", *options, cwd=tmp_path).returncode == 0
    shutil.rmtree(corpus.folder)
    line = one_line_error(command("index", *options, cwd=tmp_path))
    assert "cannot read the corpus corpus" in line
    assert "--allow-empty removes the corpus 'corpus' from the index" in line
    elsewhere = command("index", *removal, "--out", "elsewhere", cwd=tmp_path)
    assert "elsewhere does not exist" in one_line_error(elsewhere)
    result = command("index", *removal, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["removed"], summary["files"], summary["chunks"]) == (3, 0, 0)
    again = one_line_error(command("index", *removal, cwd=tmp_path))
    assert "cannot read the corpus corpus" in again
    assert "--allow-empty" not in again


def test_a_corpus_that_cannot_be_read_leaves_no_index(tmp_path, tiny_folder):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "bad.txt").write_bytes(b"\x00")
    result = command("index", "corpus", *small(tiny_folder), cwd=tmp_path)
    assert "no file could be read" in one_line_error(result)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_url_without_its_scheme_and_a_malformed_pattern_are_one_line(tmp_path, corpus):
    url = ["--url", "localhost:6333"]
    for result in (
        command("index", "corpus", "--store", "qdrant", *url, cwd=tmp_path),
        command("search", "q", *url, cwd=tmp_path),
    ):
        assert "must start with http://" in one_line_error(result)
    result = command("index", "corpus", "--glob", "[z-a].txt", cwd=tmp_path)
    assert "malformed" in one_line_error(result)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_cannot_be_written_is_one_line():
    def main(stdout):
        code = (
            "from autoreg_rag import cli\n"
            "def command() -> None:\n"
            "    cli.print_json(['x' * 100000])\n"
            "cli.main(command)"
        )
        return subprocess.run(
            [sys.executable, "-c", code],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    with Path("/dev/full").open("w") as full:
        assert "No space left" in one_line_error(main(full))
    reader, writer = os.pipe()
    os.close(reader)
    result = main(writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


def test_json_is_exact_on_an_output_that_lacks_letters(tmp_path, tiny_folder, monkeypatch):
    (tmp_path / "corpus").mkdir()
    text = "Île → 漢字 🙂"
    (tmp_path / "corpus" / "file.txt").write_text(text, encoding="utf-8")
    command("index", "corpus", *small(tiny_folder), cwd=tmp_path)
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    result = command("search", "island", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)[0]["hits"][0]["text"] == text
    plain = command("search", "island", cwd=tmp_path)
    assert plain.returncode == 0
    assert "? " in plain.stdout


def test_passages_do_not_command_the_terminal(tmp_path, tiny_folder):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "file.txt").write_text("one \x1b]0;title\x07 two")
    record = {"text": "one by one", "page": "\x1b]0;title\x07\n9"}
    (tmp_path / "corpus" / "records.json").write_text(json.dumps(record))
    command("index", "corpus", *small(tiny_folder), cwd=tmp_path)
    result = command("search", "one", cwd=tmp_path)
    assert "\x1b" not in result.stdout
    assert "two" in result.stdout
    assert "9 [0:10]" in result.stdout


def test_an_index_whose_model_has_moved_says_which_and_what_to_do(tmp_path, corpus, tiny_folder):
    shutil.copytree(tiny_folder, tmp_path / "model")
    command("index", "corpus", *small(tmp_path / "model"), cwd=tmp_path)
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    line = one_line_error(command("search", "q", cwd=tmp_path))
    assert "the model that made the index" in line
    assert "--model" in line
    assert command("search", "q", "--model", "elsewhere", cwd=tmp_path).returncode == 0


def test_a_folder_with_something_else_is_left_alone(tmp_path, corpus, tiny_folder):
    result = command("index", "corpus", "--out", "corpus", *small(tiny_folder), cwd=tmp_path)
    assert "something other than an index" in one_line_error(result)
    assert not (tmp_path / "corpus" / "index.sqlite").exists()


def test_a_server_that_does_not_answer_is_one_line_without_secrets(tmp_path, corpus, tiny_folder):
    url = "http://user:secret@127.0.0.1:9"
    options = ["--store", "qdrant", "--url", url, *small(tiny_folder)]
    line = one_line_error(command("index", "corpus", *options, cwd=tmp_path))
    assert "127.0.0.1:9" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    "options",
    [
        ["--store", "shelf"],
        ["--url", "http://127.0.0.1:9", "--out", "x", "--store", "qdrant"],
        ["--url", "http://127.0.0.1:9"],
        ["--out", "http://127.0.0.1:9"],
        ["--batch-tokens", "0"],
        ["--chunk-size", "8"],
        ["--chunk-size", "32", "--chunk-overlap", "32"],
        ["--store", "qdrant", "--faiss-factory", "HNSW32"],
    ],
)
def test_wrong_options_end_with_status_2(tmp_path, corpus, options):
    assert command("index", "corpus", *options, cwd=tmp_path).returncode == 2


def test_wrong_filters_end_with_status_2(tmp_path):
    assert command("search", "q", "--where", "no-equals-sign", cwd=tmp_path).returncode == 2


def test_help_and_import_are_quick_to_load():
    """Neither may import what takes seconds to load."""
    heavy = "torch transformers faiss qdrant_client llama_index langchain_core"
    code = (
        "import sys, autoreg_rag, autoreg_rag.search, autoreg_rag.index.__main__\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
