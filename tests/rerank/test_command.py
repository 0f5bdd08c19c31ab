"""Reranking from the command line, as a user runs it."""

import json

import pytest

from tests.index.test_commands import command, one_line_error, small


@pytest.fixture
def index(tmp_path, tiny_folder):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("Whales are mammals that live in the sea. " * 12)
    (corpus / "b.txt").write_text("Bread is baked from flour, water and salt.")
    options = [*small(tiny_folder), "--out", "my-index", "--json", "--score-parts"]
    result = command("index", "corpus", *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["scored"] == summary["chunks"]
    return tmp_path


def test_search_reranks_what_it_finds(index):
    options = ["--index", "my-index", "--json"]
    found = command("search", "whales", *options, "-k", "50", cwd=index)
    chosen = ["--rerank", "--score", "cda", "-k", "3", "--candidates", "50"]
    result = command("search", "whales", *options, *chosen, "--fusion", "0", cwd=index)
    assert result.returncode == 0, result.stderr
    (answer,) = json.loads(result.stdout)
    (before,) = json.loads(found.stdout)
    retrieved = {hit["id"]: hit["score"] for hit in before["hits"]}
    assert len(answer["hits"]) == 3
    for scores in (
        [hit["score"] for hit in answer["hits"]],
        [hit["scores"]["cda"] for hit in answer["hits"]],
    ):
        assert scores == sorted(scores, reverse=True)
    for hit in answer["hits"]:
        assert hit["scores"]["retrieval"] == pytest.approx(retrieved[hit["id"]], abs=1e-3)

    fused = command("search", "whales", *options, *chosen, "--fusion", "1", cwd=index)
    (answer,) = json.loads(fused.stdout)
    assert [hit["id"] for hit in answer["hits"]] == [hit["id"] for hit in before["hits"]][:3]


@pytest.mark.parametrize(
    "options",
    [
        ["--score", "pmi"],
        ["--fusion", "0.5"],
        ["--rerank", "--score", "x"],
        ["--candidates", "9"],
        ["--batch-tokens", "64"],
        ["--alpha", "0.5"],
        ["--hybrid", "--alpha", "1.5"],
    ],
)
def test_wrong_options_end_with_status_2(tmp_path, options):
    assert command("search", "q", *options, cwd=tmp_path).returncode == 2


def test_a_missing_index_and_an_empty_question_are_one_line(index):
    missing = command("search", "whales", "--index", "no-such", "--rerank", cwd=index)
    assert "no-such" in one_line_error(missing)
    for question in ("", " \n"):
        empty = command("search", question, "--index", "my-index", "--rerank", cwd=index)
        assert empty.returncode == 2
        assert "Traceback" not in empty.stderr
