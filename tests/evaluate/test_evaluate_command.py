from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from autoreg_rag.cli import main
from autoreg_rag.corpus import Chunker
from autoreg_rag.errors import ModelError
from autoreg_rag.evaluate.__main__ import evaluate
from autoreg_rag.evaluate.beir import load_retrieval_set
from autoreg_rag.evaluate.retrieval import evaluate_retrieval

LONG = " ".join(f"Dogs and cats number {number} sleep while rain falls." for number in range(9))


@pytest.fixture
def command(encoder, tiny_model, monkeypatch, capsys):
    """Run the command with the small encoder for a model; give status, output and errors."""
    from autoreg_rag.model import AutoRegModel

    asked: dict = {}

    def from_pretrained(name=None, **options):
        if name == "missing":
            raise ModelError("there is no model 'missing'")
        asked.update(name=name, **options)
        encoder.config = SimpleNamespace(max_length=64)
        encoder.backbone, encoder.encoder = tiny_model.backbone, tiny_model.encoder
        return encoder

    monkeypatch.setattr(AutoRegModel, "from_pretrained", from_pretrained)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main(evaluate)
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    run.asked = asked
    return run


@pytest.fixture
def sets(tmp_path, retrieval_folder, sts_file):
    retrieval_folder(tmp_path / "sets" / "pets")
    sts_file(tmp_path / "sets" / "similar.tsv")
    return tmp_path / "sets"


def test_tables_go_to_standard_output_and_progress_to_standard_error(command, sets):
    status, output, errors = command(sets)
    assert status == 0
    lines = output.splitlines()
    assert lines[0].replace(" ", "").startswith("|set|queries|documents|system|nDCG@10|")
    systems = [line.split("|")[4].strip() for line in lines[2:5]]
    assert systems == ["word vectors", "BM25", "word vectors + BM25"]
    assert lines[5] == ""
    assert lines[-1].startswith("| similar |     5 | word vectors |")
    assert len(errors.splitlines()) == 4
    assert "pets: BM25: nDCG@10" in errors


def test_json_names_the_model_and_holds_all_results(command, sets):
    status, output, _ = command(sets, "--json", "--no-bm25")
    content = json.loads(output)
    assert status == 0
    assert content["model"] == {
        "name": "word vectors",
        "fingerprint": "0123abcd",
        "max_length": 64,
        "chunk_size": None,
    }
    found = [(r["set"], r["system"]) for r in content["results"]]
    assert sorted(found) == [("pets", "word vectors"), ("similar", "word vectors")]


def test_json_is_exact_on_an_output_that_lacks_letters(command, sets, monkeypatch):
    (sets / "pets").rename(sets / "漢字")
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="cp1252"))
    status, _, _ = command(sets / "漢字", "--json", "--no-bm25")
    (result,) = json.loads(printed.getvalue())["results"]
    assert (status, result["set"]) == (0, "漢字")


def test_results_can_go_to_a_file(command, sets, tmp_path):
    _, expected, _ = command(sets)
    status, output, _ = command(sets, "--out", tmp_path / "results.md")
    assert (status, output) == (0, "")
    assert (tmp_path / "results.md").read_text() == expected


def test_results_can_be_drawn(command, sets, tmp_path):
    status, output, _ = command(sets, "--plot", tmp_path / "results.svg")
    assert (status, output) == command(sets)[:2]
    picture = ElementTree.parse(tmp_path / "results.svg").getroot()
    assert picture.tag.endswith("svg")


def test_options_reach_the_sets_and_the_model(command, sets):
    status, output, _ = command(
        sets / "pets", sets / "similar.tsv", "--limit", 2, "--sts-role", "query", "--json",
        "--model", "m", "--device", "cpu", "--dtype", "float32", "--batch-tokens", 99,
    )  # fmt: skip
    sizes = {r["set"]: r.get("queries", r.get("pairs")) for r in json.loads(output)["results"]}
    assert (status, sizes) == (0, {"pets": 2, "similar": 2})
    assert command.asked == {
        "name": "m",
        "device": "cpu",
        "dtype": "float32",
        "token_budget": 99,
    }


def test_documents_are_cut_as_the_indexer_cuts_them(command, sets, encoder, tiny_model):
    corpus = sets / "pets" / "corpus.jsonl"
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join([json.dumps({"_id": "d5", "text": LONG}), *lines]) + "\n")
    options = ("--json", "--no-bm25", "--chunk-size", 16, "--chunk-overlap", 0)
    status, output, _ = command(sets / "pets", *options)
    content = json.loads(output)
    chunker = Chunker(tiny_model.backbone.tokenizer.backend_tokenizer, 16, 0)
    dataset = load_retrieval_set(sets / "pets")
    (expected,) = evaluate_retrieval(dataset, [encoder], cut=chunker.texts, bm25=False)
    assert len(chunker.texts(LONG)) > 2
    assert (status, content["model"]["chunk_size"]) == (0, 16)
    assert content["results"][0]["metrics"] == expected.metrics
    assert content["results"][0]["documents"] == 5


def test_the_role_of_sentences_changes_their_score(command, sets):
    scores = {
        role: json.loads(command(sets / "similar.tsv", "--json", "--sts-role", role)[1])
        for role in ("query", "document")
    }
    assert scores["query"] != scores["document"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: nowhere does not exist"),
        (["sets", "--model", "missing"], "error: there is no model 'missing'"),
        (["sets", "--out", "nowhere/results.md"], "no file can be written there"),
        (["sets", "--out", "sets"], "no file can be written there"),
        (["sets", "--plot", "nowhere/results.png"], "no file can be written there"),
        (["sets", "--plot", "results.txt"], "the name must end in .png, .svg, .pdf"),
        (["sets", "--chunk-size", "3"], "a chunk size of 3 is too small"),
        (["sets", "--chunk-size", "999"], "error: --chunk-size 999 is more than the model's "),
        (["sets", "--split", "dev", "nowhere"], "error: nowhere does not exist"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_1(
    command, sets, monkeypatch, arguments, message
):
    monkeypatch.chdir(sets.parent)
    status, output, errors = command(*arguments)
    assert (status, output) == (1, "")
    assert len(errors.splitlines()) == 1
    assert message in errors


def test_an_overlap_without_chunks_is_refused(command, sets):
    status, output, errors = command(sets, "--chunk-overlap", 5)
    assert (status, output) == (2, "")
    assert "--chunk-overlap needs --chunk-size" in errors


def test_a_malformed_set_is_found_before_the_model_is_loaded(command, sets):
    with (sets / "pets" / "corpus.jsonl").open("a") as file:
        file.write("{broken\n")
    status, _, errors = command(sets)
    assert status == 1
    assert "corpus.jsonl, line 5: not JSON" in errors
    assert command.asked == {}
