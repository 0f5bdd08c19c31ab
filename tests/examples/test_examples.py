"""The examples as their users run them, with the real default model on a tiny corpus."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from langchain_core.documents import Document

from autoreg_rag.stores import Manifest, create_store
from tests.commands import command

EXAMPLES = Path(__file__).parents[2] / "examples"
QA = ["qa_llama_index", "qa_langchain"]
ALL = [*QA, "explain"]
NOT_FOUND = "Answer: The corpus does not hold the answer."
NAMED = {
    "qa_llama_index": ("llama_index.core.llms:MockLLM", {"max_tokens": 4}),
    "qa_langchain": (
        "langchain_core.language_models:FakeListChatModel",
        {"responses": ["the corpus does not hold the answer"]},
    ),
}
TEXTS = {
    "bread.md": "# Bread\n\nBread is baked from flour, water and salt.\n",
    "sea.txt": "Whales are mammals that live in the sea.",
    "code.txt": "A compiler turns source code into machine code.",
    "garden.txt": "Tulips grow from bulbs. Roses grow on bushes.",
}
QUESTION = "What is bread made of?"
FEW = ["--candidates", "4", "--max-new-tokens", "6"]


def run(example, *options, cwd):
    return command(EXAMPLES / f"{example}.py", *options, cwd=cwd)


def output(example, *options, cwd):
    done = run(example, QUESTION, "notes", *FEW, *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory, real_model):
    """A working directory with a corpus, whose index the first example makes."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "notes").mkdir()
    for name, text in TEXTS.items():
        (folder / "notes" / name).write_text(text)
    return folder


def check_passages(shown, place, count):
    """Check numbers, files, offsets and texts of what is shown against the files."""
    heads = re.findall(r"^\[(\d+)\] (\S+) \[(\d+):(\d+)\]", shown, re.M)
    assert [int(number) for number, *_ in heads] == list(range(1, count + 1))
    for _, source, start, end in heads:
        passage = (place / source).read_text()[int(start) : int(end)].strip()
        assert passage
        assert "\n".join(f"    {line}" if line else "" for line in passage.split("\n")) in shown
    return [(number, f"{source} [{start}:{end}]") for number, source, start, end in heads]


@pytest.mark.parametrize("example", ALL)
def test_an_example_has_less_than_100_lines(example):
    assert len((EXAMPLES / f"{example}.py").read_text().splitlines()) < 100


@pytest.mark.parametrize("example", QA)
def test_the_base_answers_with_numbered_sources(example, place):
    # More passages than candidates: then there are as many candidates.
    chosen = ["--passages", "2", "--candidates", "1", "--least", "-1"]
    shown = output(example, *chosen, cwd=place)
    passages = check_passages(shown, place, 2)
    answer = re.search(r"^Answer: (.+)$", shown, re.M)
    assert answer
    assert shown.startswith("[1] notes/")
    sources = re.findall(r"^Source \[(\d+)\]: (.+)$", shown, re.M)
    assert sources == ([] if answer[0] == NOT_FOUND else passages)


@pytest.mark.parametrize("example", QA)
def test_another_language_model_answers_by_its_name(example, place):
    name, options = NAMED[example]
    llm = ["--llm", name, "--llm-options", json.dumps(options)]
    shown = output(example, "--passages", "1", "--least", "-1", *llm, cwd=place)
    passages = check_passages(shown, place, 1)
    sources = re.findall(r"^Source \[(\d+)\]: (.+)$", shown, re.M)
    if example == "qa_llama_index":  # the mock says one word again and again
        assert "\nAnswer: text text text text\n" in shown
        assert sources == passages
    else:
        assert shown.rstrip().endswith(NOT_FOUND)
        assert not sources


@pytest.mark.parametrize("example", QA)
def test_without_a_passage_of_the_least_cosine_nothing_is_answered(example, place):
    shown = output(example, "--least", "2", cwd=place)
    assert shown == f"{NOT_FOUND}\nNo passage reached the least cosine.\n"


def test_what_was_found_by_its_words_alone_stays_beside_what_is_near(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    near = importlib.import_module("qa_langchain").near
    by_both, by_words = (
        Document(page_content="text", metadata={"scores": scores})
        for scores in ({"cosine": 0.5, "bm25": 1.0}, {"bm25": 7.0})
    )
    assert near([by_words, by_both], 0.5) == [by_words, by_both]
    assert near([by_words, by_both], 0.6) == near([by_words], 0.5) == near([], -1) == []


def test_explain_takes_the_scores_apart(place):
    shown = output("explain", "--hits", "2", cwd=place)
    check_passages(shown, place, 2)
    assert "THE QUESTION'S VECTORS SAY" in shown
    for block in shown.split("\n[2] "):
        tokens = int(re.search(r"of (\d+) tokens", block)[1])
        rows = re.findall(r"^    (\S.*?)\s+(-?\d+\.\d\d)\s+(-?\d+\.\d{3})$", block, re.M)
        nats = {name: float(value) for name, value, _ in rows}
        assert all(
            float(mean) == pytest.approx(float(value) / tokens, abs=2e-3) for _, value, mean in rows
        )
        given, alone, own, pmi, cda = nats.values()
        assert pmi == pytest.approx(given - alone, abs=0.02)
        assert cda == pytest.approx(given - own, abs=0.02)
        assert max(given, alone, own) < 0


def test_explain_takes_an_index_of_another_model_as_it_is(tmp_path, tiny_folder):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "bread.txt").write_text("Bread is baked from flour.")
    options = ["--model", tiny_folder, "--chunk-size", 48, "--chunk-overlap", 8]
    made = command("autoreg_rag.index", "notes", "--out", "index", *options, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    done = run("explain", QUESTION, "--index", "index", *FEW, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_passages(done.stdout, tmp_path, 1)


def test_explain_says_that_an_index_without_passages_holds_nothing(tmp_path, real_model):
    manifest = Manifest(real_model.fingerprint(), real_model.reference, real_model.dimension)
    create_store("faiss", tmp_path / "empty", manifest).close()
    done = run("explain", QUESTION, "--index", "empty", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Nothing was found: the index holds no passages.\n"


def assert_one_line(done, *words):
    assert done.returncode == 1
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words)


@pytest.mark.parametrize("example", ALL)
def test_an_empty_question_is_one_line(example, tmp_path):
    assert_one_line(run(example, " ", cwd=tmp_path), "question", "empty")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("example", ALL)
def test_a_corpus_that_is_missing_is_one_line(example, tmp_path):
    assert_one_line(run(example, QUESTION, "nowhere", cwd=tmp_path), "nowhere")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("example", ALL)
def test_an_index_that_is_missing_is_one_line(example, tmp_path):
    assert_one_line(run(example, QUESTION, "--index", "nowhere", cwd=tmp_path), "nowhere", "corpus")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("example", QA)
def test_a_language_model_that_cannot_be_imported_is_one_line(example, tmp_path):
    done = run(example, QUESTION, "--llm", "nowhere.at_all:Model", cwd=tmp_path)
    assert_one_line(done, "nowhere.at_all:Model", "package.module:Class")
