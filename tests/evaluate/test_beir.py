from __future__ import annotations

import gzip
import json
import logging

import pytest

from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.beir import is_retrieval_folder, load_retrieval_set

DOCUMENTS = {
    "d1": "Cats Cats sleep most of the day.",
    "d2": "Dogs bark at strangers.",
    "d3": "A garden needs rain and sun.",
    "d4": "Rain Rain falls from clouds.",
}


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("qrels_name", ["qrels.tsv", "qrels/test.tsv"])
def test_a_folder_is_read_plain_or_gzip(tmp_path, retrieval_folder, ending, qrels_name):
    folder = retrieval_folder(tmp_path / "pets", ending=ending, qrels_name=qrels_name)
    dataset = load_retrieval_set(folder)
    assert is_retrieval_folder(folder)
    assert dataset.name == "pets"
    assert dataset.documents == DOCUMENTS
    assert list(dataset.queries) == ["q1", "q2", "q3"]  # q4 has no relevant document
    assert dataset.qrels == {"q1": {"d1": 1}, "q2": {"d2": 2, "d1": 0}, "q3": {"d4": 1, "d3": 1}}
    assert dataset.own == frozenset()


def test_a_query_whose_judgements_are_all_zero_is_left_out(tmp_path, retrieval_folder):
    folder = retrieval_folder(tmp_path, qrels=[("q1", "d1", 1), ("q2", "d2", 0)])
    assert list(load_retrieval_set(folder).queries) == ["q1"]


def test_the_limit_takes_the_first_queries_that_count_and_all_documents(tmp_path, retrieval_folder):
    folder = retrieval_folder(tmp_path, qrels=[("q3", "d4", 1), ("q2", "d2", 1), ("q1", "d1", 0)])
    dataset = load_retrieval_set(folder, limit=1)
    assert list(dataset.queries) == list(dataset.qrels) == ["q2"]
    assert dataset.documents == DOCUMENTS


def test_the_split_chooses_the_judgements(tmp_path, retrieval_folder):
    folder = retrieval_folder(tmp_path, qrels_name="qrels/dev.tsv")
    assert len(load_retrieval_set(folder, split="dev").queries) == 3
    with pytest.raises(EvaluationError, match=r"no .*qrels\.tsv and no .*test\.tsv"):
        load_retrieval_set(folder)


def test_a_query_is_its_own_document_only_if_id_and_text_agree(tmp_path, retrieval_folder):
    corpus = [
        {"_id": "1", "title": "A title", "text": "the very  same words"},
        {"_id": "2", "title": "", "text": "a document that is numbered like a query"},
        {"_id": "3", "title": "Both", "text": "title and text"},
    ]
    queries = [
        {"_id": "1", "text": "the very same words "},
        {"_id": "2", "text": "a query that is numbered like a document"},
        {"_id": "3", "text": "Both title and text"},
    ]
    qrels = [("1", "2", 1), ("2", "2", 1), ("3", "1", 1)]
    folder = retrieval_folder(tmp_path, corpus=corpus, queries=queries, qrels=qrels)
    assert load_retrieval_set(folder).own == {"1", "3"}


@pytest.mark.parametrize(
    ("file", "number", "line", "problem"),
    [
        ("corpus.jsonl", 3, "{not json", "not JSON"),
        ("corpus.jsonl", 3, "[1, 2]", "not a JSON object"),
        ("corpus.jsonl", 3, '{"text": "no id"}', "must be strings"),
        ("corpus.jsonl", 3, '{"_id": "x", "title": "no text"}', "must be strings"),
        ("corpus.jsonl", 3, '{"_id": 7, "text": "a number for id"}', "must be strings"),
        ("corpus.jsonl", 3, '{"_id": "d1", "text": "again"}', "'d1' comes a second time"),
        ("queries.jsonl", 2, '{"_id": "q1", "text": "again"}', "'q1' comes a second time"),
        ("queries.jsonl", 2, '{"_id": "q9", "text": null}', "must be strings"),
        ("qrels.tsv", 1, "q1\td1\t1", "expected the tab-separated header"),
        ("qrels.tsv", 2, "q1 d1 1", "1 fields where 3 belong"),
        ("qrels.tsv", 4, "q1\td1\thigh", "'high' is not a whole number"),
    ],
)
def test_a_malformed_line_is_named_with_its_file(
    tmp_path, retrieval_folder, file, number, line, problem
):
    path = retrieval_folder(tmp_path) / file
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines))
    with pytest.raises(EvaluationError, match=rf"{file}, line {number}: .*{problem}"):
        load_retrieval_set(tmp_path)


def test_bytes_that_are_not_utf8_are_named_with_their_line(tmp_path, retrieval_folder):
    retrieval_folder(tmp_path)
    (tmp_path / "corpus.jsonl").write_bytes(b'{"_id": "d1", "text": "ok"}\n{"_id": "d2 \xff\n')
    with pytest.raises(EvaluationError, match=r"corpus.jsonl, line 2: not UTF-8"):
        load_retrieval_set(tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "garbage"])
def test_broken_gzip_is_one_clear_error(tmp_path, retrieval_folder, damage):
    retrieval_folder(tmp_path, ending=".gz")
    path = tmp_path / "corpus.jsonl.gz"
    content = gzip.compress(
        b"".join(json.dumps({"_id": str(i), "text": "x"}).encode() + b"\n" for i in range(5000))
    )
    path.write_bytes(content[: len(content) // 2] if damage == "truncate" else b"not gzip at all")
    with pytest.raises(EvaluationError, match=r"corpus.jsonl.gz, after line \d+: cannot be read"):
        load_retrieval_set(tmp_path)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(tmp_path, retrieval_folder, name):
    (retrieval_folder(tmp_path) / name).unlink()
    with pytest.raises(EvaluationError, match=f"there is no .*{name}"):
        load_retrieval_set(tmp_path)
    assert is_retrieval_folder(tmp_path) == (name == "qrels.tsv")


def test_a_set_without_relevant_documents_is_refused(tmp_path, retrieval_folder):
    folder = retrieval_folder(tmp_path, qrels=[("q1", "d1", 0)])
    with pytest.raises(EvaluationError, match="none of the queries has a relevant document"):
        load_retrieval_set(folder)


def test_judgements_of_another_corpus_are_refused(tmp_path, retrieval_folder):
    folder = retrieval_folder(tmp_path, qrels=[("q1", "elsewhere", 1)])
    with pytest.raises(EvaluationError, match="none of the relevant documents is in the corpus"):
        load_retrieval_set(folder)


def test_some_relevant_documents_missing_is_a_warning(tmp_path, retrieval_folder, caplog):
    folder = retrieval_folder(tmp_path, qrels=[("q1", "elsewhere", 1), ("q1", "d1", 1)])
    with caplog.at_level(logging.WARNING):
        dataset = load_retrieval_set(folder)
    assert "1 of 2 relevant documents are not in the corpus, 'elsewhere' for one" in caplog.text
    assert dataset.qrels == {"q1": {"elsewhere": 1, "d1": 1}}
