"""Our scores against those of the `mteb` package, on tasks that live in memory."""

from __future__ import annotations

import random
import socket

import pytest

mteb = pytest.importorskip("mteb")

from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.abstasks.sts import AbsTaskSTS  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402
from mteb.models.models_protocols import EncoderProtocol  # noqa: E402

from autoreg_rag.evaluate.beir import load_retrieval_set  # noqa: E402
from autoreg_rag.evaluate.mteb_encoder import AutoRegMTEBEncoder  # noqa: E402
from autoreg_rag.evaluate.retrieval import evaluate_retrieval  # noqa: E402
from autoreg_rag.evaluate.sts import evaluate_sts, load_sts_set  # noqa: E402

chance = random.Random(5)
VOCABULARY = [f"word{i}" for i in range(60)]


def text() -> str:
    return " ".join(chance.choices(VOCABULARY, k=8))


CORPUS = [{"_id": f"d{i}", "title": text() if i % 3 else "", "text": text()} for i in range(150)]
QUERIES = [{"_id": f"q{i}", "text": text()} for i in range(12)]
QRELS = [
    (query["_id"], document["_id"], chance.choice([0, 1, 2]))
    for query in QUERIES
    for document in chance.sample(CORPUS, 30)
]
PAIRS = [(chance.randrange(6), text(), text()) for _ in range(40)]


def metadata(name: str, kind: str, score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        type=kind,
        main_score=score,
        description="A task in memory.",
        dataset={"path": "none", "revision": "none"},
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
    )


class LocalRetrieval(AbsTaskRetrieval):
    metadata = metadata("LocalRetrieval", "Retrieval", "ndcg_at_10")

    def load_data(self, **kwargs):
        self.corpus = {"test": {d["_id"]: d for d in CORPUS}}
        self.queries = {"test": {q["_id"]: q["text"] for q in QUERIES}}
        relevant: dict[str, dict[str, int]] = {}
        for query, document, score in QRELS:
            relevant.setdefault(query, {})[document] = score
        self.relevant_docs = {"test": relevant}
        self.data_loaded = True


class LocalSTS(AbsTaskSTS):
    metadata = metadata("LocalSTS", "STS", "cosine_spearman")

    def load_data(self, **kwargs):
        scores, first, second = zip(*PAIRS, strict=True)
        columns = {"score": scores, "sentence1": first, "sentence2": second}
        self.dataset = DatasetDict({"test": Dataset.from_dict(columns)})
        self.data_loaded = True


@pytest.fixture
def mteb_scores(encoder, monkeypatch):
    def no_network(*args):
        raise AssertionError("the network was asked")

    def run(task) -> dict[str, float]:
        monkeypatch.setattr(socket.socket, "connect", no_network)
        result = mteb.evaluate(
            AutoRegMTEBEncoder(encoder),
            task,
            cache=None,
            co2_tracker=False,
            encode_kwargs={"batch_size": 7, "show_progress_bar": False},
        )
        assert result.model_name == "autoreg-rag/word-vectors"
        assert result.model_revision == encoder.fingerprint()
        return result.task_results[0].scores["test"][0]

    return run


def test_mteb_takes_it_for_an_encoder(encoder):
    assert isinstance(AutoRegMTEBEncoder(encoder), EncoderProtocol)


def test_retrieval_scores_are_those_of_mteb(encoder, mteb_scores, tmp_path, retrieval_folder):
    theirs = mteb_scores(LocalRetrieval())
    folder = retrieval_folder(tmp_path, corpus=CORPUS, queries=QUERIES, qrels=QRELS)
    (ours,) = evaluate_retrieval(load_retrieval_set(folder), [encoder], bm25=False)
    names = {
        "nDCG@10": "ndcg_at_10",
        "MRR@10": "mrr_at_10",
        "Recall@10": "recall_at_10",
        "Recall@100": "recall_at_100",
    }
    assert ours.metrics == pytest.approx({n: theirs[m] for n, m in names.items()}, abs=1e-5)
    assert 0 < ours.metrics["nDCG@10"] < 1


def test_similarity_scores_are_those_of_mteb(encoder, mteb_scores, tmp_path, sts_file):
    theirs = mteb_scores(LocalSTS())
    dataset = load_sts_set(sts_file(tmp_path / "pairs.tsv", PAIRS))
    (ours,) = evaluate_sts(dataset, [encoder])
    assert ours.metrics["Spearman"] == pytest.approx(theirs["cosine_spearman"], abs=1e-5)
    assert theirs["cosine_spearman"] == pytest.approx(theirs["spearman"], abs=1e-5)
