"""The probe: what it draws, what it measures, and that training goes on as without it."""

import json
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.discovery import load_sets
from autoreg_rag.evaluate.retrieval import evaluate_retrieval
from autoreg_rag.evaluate.sts import evaluate_sts
from autoreg_trainers.probe import Probe, ProbeCallback

SHARED = Path(__file__).parents[3] / "shared" / "data" / "eval"

THINGS = ["bread", "rain", "whales", "a violin", "the tax", "snow", "a bridge", "tea", "glass"]


def write_retrieval(folder, documents, queries, qrels):
    folder.mkdir(parents=True)

    def lines(texts):
        return "\n".join(json.dumps({"_id": id_, "text": text}) for id_, text in texts.items())

    (folder / "corpus.jsonl").write_text(lines(documents))
    (folder / "queries.jsonl").write_text(lines(queries))
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    (folder / "qrels.tsv").write_text("\n".join(rows))


def write_things(folder, verb):
    """Nine queries, 36 documents; each query has two relevant documents."""
    documents = {
        f"d{i}": f"{thing} {verb} in the {place}"
        for i, (thing, place) in enumerate(
            (thing, place) for thing in THINGS for place in ("north", "south", "east", "west")
        )
    }
    queries = {f"q{i}": f"where {thing} {verb}" for i, thing in enumerate(THINGS)}
    qrels = [(f"q{i}", f"d{4 * i + j}", 1 + j) for i in range(len(THINGS)) for j in range(2)]
    write_retrieval(folder, documents, queries, qrels)


def write_pairs(path, shift):
    rows = [
        f"{(i + shift) % 5}\t{thing} was there\t{THINGS[i - shift]} was here"
        for i, thing in enumerate(THINGS)
    ]
    path.write_text("\n".join(["score\tsentence1\tsentence2", *rows]))


@pytest.fixture
def folder(tmp_path):
    write_things(tmp_path / "eval" / "retrieval" / "found", "is found")
    write_things(tmp_path / "eval" / "retrieval" / "sold", "is sold")
    (tmp_path / "eval" / "sts").mkdir()
    write_pairs(tmp_path / "eval" / "sts" / "near.tsv", 0)
    write_pairs(tmp_path / "eval" / "sts" / "far.tsv", 1)
    return tmp_path / "eval"


def test_drawing_all_gives_what_the_evaluation_gives(folder, tiny_model):
    scores = Probe(folder)(tiny_model)
    expected = {}
    for dataset in load_sets(folder):
        if hasattr(dataset, "qrels"):
            (result,) = evaluate_retrieval(dataset, [tiny_model], bm25=False)
            expected[f"retrieval/{dataset.name}"] = 100 * result.metrics["nDCG@10"]
        else:
            (result,) = evaluate_sts(dataset, [tiny_model])
            expected[f"sts/{dataset.name}"] = 100 * result.metrics["Spearman"]
    for kind in ("retrieval", "sts"):
        own = [score for key, score in expected.items() if key.startswith(kind)]
        assert len(own) == 2
        expected[f"{kind}/mean"] = fmean(own)
    assert scores == pytest.approx(expected)


def test_samples_have_their_size_and_keep_what_is_relevant(folder):
    probe = Probe(folder, queries=4, documents=11, pairs=5)
    whole = {dataset.name: dataset for dataset in load_sets(folder)}
    assert sorted(probe.sets) == ["retrieval/found", "retrieval/sold", "sts/far", "sts/near"]
    for key in ("retrieval/found", "retrieval/sold"):
        sample = probe.sets[key]
        full = whole[sample.name]
        assert (len(sample.queries), len(sample.documents)) == (4, 11)
        assert sample.queries.items() <= full.queries.items()
        assert sample.documents.items() <= full.documents.items()
        assert sample.qrels == {query: full.qrels[query] for query in sample.queries}
        for judged in sample.qrels.values():
            assert judged.keys() <= sample.documents.keys()
    for key in ("sts/far", "sts/near"):
        sample = probe.sets[key]
        full = whole[sample.name]
        rows = list(zip(sample.scores, sample.first, sample.second, strict=True))
        assert len(rows) == len(set(rows)) == 5
        assert set(rows) <= set(zip(full.scores, full.first, full.second, strict=True))


def test_relevant_documents_stay_even_where_they_are_more_than_asked_for(folder):
    sample = Probe(folder, queries=4, documents=3).sets["retrieval/found"]
    assert len(sample.documents) == 8


def test_samples_follow_from_the_seed_and_not_from_other_sets(folder, tmp_path):
    few = {"queries": 4, "documents": 11, "pairs": 5}
    probe = Probe(folder, **few, seed=3)
    assert Probe(folder, **few, seed=3).sets == probe.sets
    assert Probe(folder, **few, seed=4).sets != probe.sets
    write_things(folder / "another", "is lost")
    assert Probe(folder, **few, seed=3).sets.items() > probe.sets.items()


def test_copies_count_as_one_document_that_answers_for_all(tmp_path):
    write_retrieval(
        tmp_path / "copies",
        {"a": "rain  falls", "b": "snow", "c": "rain falls", "d": "snow", "e": "wind"},
        {"q": "what falls", "r": "what is white", "s": "what blows"},
        [("q", "c", 2), ("q", "a", 1), ("q", "d", 0), ("r", "d", 1), ("s", "e", 1)],
    )
    sample = Probe(tmp_path).sets["retrieval/copies"]
    assert sorted(sample.documents) == ["a", "b", "e"]
    assert sample.qrels == {"q": {"a": 2, "b": 0}, "r": {"b": 1}, "s": {"e": 1}}


def test_a_query_that_is_a_document_is_not_found_for_itself(tmp_path, tiny_model):
    texts = {f"d{i}": f"{thing} is a good thing" for i, thing in enumerate(THINGS)}
    qrels = [(f"d{i}", f"d{(i + 1) % len(THINGS)}", 1) for i in range(len(THINGS))]
    write_retrieval(tmp_path / "own", texts, texts, qrels)
    (dataset,) = load_sets(tmp_path)
    (result,) = evaluate_retrieval(dataset, [tiny_model], bm25=False)
    score = Probe(tmp_path)(tiny_model)["retrieval/own"]
    assert score == pytest.approx(100 * result.metrics["nDCG@10"])


def test_the_model_and_the_random_numbers_are_left_as_they_were(folder, tiny_model):
    probe = Probe(folder, queries=2, documents=4, pairs=4)
    tiny_model.train()
    tiny_model.neck.eval()
    modes = [module.training for module in tiny_model.modules()]
    parameters = [(p.requires_grad, p.clone()) for p in tiny_model.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    probe(tiny_model)
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in tiny_model.modules()] == modes
    assert torch.is_grad_enabled()
    for (requires_grad, value), now in zip(parameters, tiny_model.parameters(), strict=True):
        assert now.requires_grad == requires_grad
        assert torch.equal(now, value)


def test_dropout_is_off_while_measuring(folder, tiny_model):
    probe = Probe(folder)
    expected = probe(tiny_model)
    for layer in tiny_model.backbone.body.layers:
        layer.self_attn.attention_dropout = 0.9
    assert probe(tiny_model.train()) == expected


@pytest.mark.parametrize("settings", [{"queries": 0}, {"pairs": 1}])
def test_samples_that_are_too_small_are_refused(folder, settings):
    with pytest.raises(EvaluationError, match=next(iter(settings))):
        Probe(folder, **settings)


def test_pairs_of_one_score_are_refused(folder):
    rows = (f"{i == 0:d}\tone thing\tthing {i}" for i in range(9))
    (folder / "sts" / "flat.tsv").write_text("\n".join(["score\tsentence1\tsentence2", *rows]))

    def draw_again_and_again():
        for seed in range(20):
            Probe(folder, pairs=2, seed=seed)

    with pytest.raises(EvaluationError, match="draw more"):
        draw_again_and_again()


def test_a_folder_without_sets_is_refused_at_once(tmp_path):
    for folder, says in ((tmp_path / "missing", "does not exist"), (tmp_path, "no evaluation set")):
        with pytest.raises(EvaluationError, match=says):
            Probe(folder)


def test_two_sets_of_one_name_are_refused(folder):
    write_things(folder / "more" / "found", "is found")
    with pytest.raises(EvaluationError, match="found"):
        Probe(folder)


class Pull(nn.Module):
    """Trains compress tokens towards small vectors; any loss would do."""

    def __init__(self, model):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.model.neck.compress_tokens.requires_grad_(True)
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids):
        latents = self.model.encoder.latents(ids.tolist())
        return {"loss": self.dropout(latents).square().mean()}


def trained(model, output, **how):
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=5,
        logging_steps=1,
        per_device_train_batch_size=2,
        report_to=["tensorboard"],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        learning_rate=0.1,
    )
    rows = [{"ids": torch.arange(3) + 10 * i} for i in range(10)]
    trainer = Trainer(Pull(model), arguments, train_dataset=rows)
    if how:
        trainer.add_callback(ProbeCallback(how["probe"], trainer, model, how["steps"]))
    trainer.train()
    return trainer.state.log_history


@pytest.mark.parametrize(("steps", "taken"), [(2, [2, 4, 5]), (5, [5]), (0, [5])])
def test_scores_are_logged_and_training_goes_on_as_without(
    folder, tmp_path, tiny_folder, steps, taken
):
    from autoreg_rag.model import AutoRegModel

    def model():
        return AutoRegModel.from_pretrained(tiny_folder, dtype="float32", device="cpu")

    probe = Probe(folder, queries=3, documents=8, pairs=6)
    plain = trained(model(), tmp_path / "plain")
    tuned = model()
    probed = trained(tuned, tmp_path / "probed", probe=probe, steps=steps)
    losses = [
        [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
        for history in (plain, probed)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 5
    scores = [entry for entry in probed if "probe/retrieval/mean" in entry]
    assert [entry["step"] for entry in scores] == taken
    last = {f"probe/{key}": score for key, score in probe(tuned).items()}
    assert {key: scores[-1][key] for key in last} == last


def test_real_sets_can_be_drawn_from(tiny_model):
    if not SHARED.is_dir():
        pytest.skip(f"no evaluation sets at {SHARED}")
    probe = Probe(SHARED, queries=3, documents=9, pairs=10)
    for sample in probe.sets.values():
        if hasattr(sample, "qrels"):
            texts = [" ".join(text.split()) for text in sample.documents.values()]
            assert len(set(texts)) == len(texts)
            assert len(sample.queries) == 3
            for judged in sample.qrels.values():
                assert any(judged[id_] > 0 for id_ in judged.keys() & sample.documents.keys())
    scores = probe(tiny_model)
    assert scores.keys() == {*probe.sets, "retrieval/mean", "sts/mean"}
    assert all(-100 <= score <= 100 for score in scores.values())
