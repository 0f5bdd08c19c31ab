"""The main job with the real default model: real text in, an answer with its place out."""

import json
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from autoreg_rag.index.index import Index

NAMES = ["try", "break", "lambda", "bltin-null-object"]


def command(name, *options, cwd):
    result = subprocess.run(
        [sys.executable, "-m", f"autoreg_rag.{name}", *map(str, options)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory, real_model):
    """A folder with a few topics of Python's reference, indexed with the default model."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "corpus").mkdir()
    for name in NAMES:
        text = topics[name][:2000]
        (folder / "corpus" / f"{name}.rst").write_text(text, encoding="utf-8")
    result = command("index", "corpus", "--dtype", "float32", "--json", cwd=folder)
    assert json.loads(result.stdout)["files"] == len(NAMES)
    assert "untrained" not in result.stderr
    return folder


def test_a_question_finds_its_topic(place):
    options = ["--dtype", "float32", "--json", "-k", "3"]
    result = command("search", "How do I leave a loop early?", *options, cwd=place)
    (answer,) = json.loads(result.stdout)
    assert len(answer["hits"]) == 3
    assert "corpus/break.rst" in [hit["source"] for hit in answer["hits"]]
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    for hit in answer["hits"]:
        text = (place / hit["source"]).read_text(encoding="utf-8")
        assert text[hit["start"] : hit["end"]] == hit["text"]


def test_hybrid_search_finds_the_words_of_the_question(place, real_model):
    with Index.open(place / "autoreg-index", model=real_model) as index:
        (hits,) = index.search(["lambda expression anonymous function"], 2, hybrid=True)
    assert hits[0].chunk.source == "corpus/lambda.rst"


def test_evaluate_measures_the_default_model_beside_bm25(place):
    folder = place / "set"
    folder.mkdir()
    lines = [json.dumps({"_id": name, "title": name, "text": topics[name][:300]}) for name in NAMES]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "break out of a loop"}\n')
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\tbreak\t1\n")
    pairs = "5\tA dog runs.\tA dog is running.\n1\tA dog runs.\tThe tax is due.\n"
    (place / "pairs.tsv").write_text("score\tsentence1\tsentence2\n" + pairs)
    result = command("evaluate", "set", "pairs.tsv", "--dtype", "float32", "--json", cwd=place)
    assert "ndcg" in result.stdout.lower()
    assert "bm25" in result.stdout.lower()
    json.loads(result.stdout)


def test_the_reference_corpus_is_written_as_files(tmp_path):
    script = Path(__file__).parents[1] / "examples" / "python_reference.py"
    subprocess.run([sys.executable, script, tmp_path / "out"], check=True, capture_output=True)
    written = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.rst")}
    assert written == topics
