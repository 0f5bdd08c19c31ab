from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping

import numpy as np
import pytest

from autoreg_rag.evaluate.beir import RetrievalSet, load_retrieval_set
from autoreg_rag.evaluate.retrieval import (
    DEPTH,
    Run,
    dense_run,
    difference,
    evaluate_retrieval,
    fused_run,
    lexical_run,
    measure,
)
from autoreg_rag.fusion import hybrid_scores


def oracle(run: Mapping[str, Iterable[str]], qrels: dict[str, dict[str, int]]) -> dict[str, float]:
    """The four measures, by their definitions."""
    totals = dict.fromkeys(["nDCG@10", "MRR@10", "Recall@10", "Recall@100"], 0.0)
    for query, judged in qrels.items():
        ranking = list(run.get(query, []))
        relevant = {id_ for id_, score in judged.items() if score > 0}
        gain = sum(max(judged.get(d, 0), 0) / math.log2(i + 2) for i, d in enumerate(ranking[:10]))
        ideal = sorted((score for score in judged.values() if score > 0), reverse=True)[:10]
        totals["nDCG@10"] += gain / sum(s / math.log2(i + 2) for i, s in enumerate(ideal))
        first = next((i for i, d in enumerate(ranking[:10], start=1) if d in relevant), None)
        totals["MRR@10"] += 1 / first if first else 0
        for cut in (10, 100):
            totals[f"Recall@{cut}"] += len(relevant & set(ranking[:cut])) / len(relevant)
    return {name: total / len(qrels) for name, total in totals.items()}


@pytest.mark.parametrize("seed", range(20))
def test_the_measures_are_what_their_definitions_say(seed: int):
    chance = random.Random(seed)
    documents = [f"d{i}" for i in range(150)]
    run, qrels = {}, {}
    for query in (f"q{i}" for i in range(8)):
        judged = chance.sample(documents, chance.randint(1, 25))
        qrels[query] = {id_: chance.choice([0, 1, 1, 2, 3]) for id_ in judged} | {judged[0]: 1}
        if chance.random() < 0.8:  # the others found nothing
            run[query] = chance.sample(documents, chance.randint(0, DEPTH))
    assert measure(run, qrels) == pytest.approx(oracle(run, qrels), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_p_value_is_about_that_of_the_exact_randomisation_test(seed: int):
    """Of runs that are equally good, either could have been the better one of each query."""
    chance = random.Random(seed)
    qrels = {f"q{i}": {"right": 1} for i in range(12)}
    runs = []
    for best in (1, 1 + seed):  # the further apart, the less by chance
        places = {query: chance.randint(best, 12) for query in qrels}
        runs.append({q: ["wrong"] * (place - 1) + ["right"] for q, place in places.items()})
        for ids in runs[-1].values():
            ids[:-1] = [f"{id_}{i}" for i, id_ in enumerate(ids[:-1])]
    first, second = (
        np.array([oracle({q: run[q]}, {q: qrels[q]})["nDCG@10"] for q in qrels]) for run in runs
    )
    signs = np.array(list(itertools.product([1, -1], repeat=len(qrels))))
    sums = np.abs(signs @ (first - second))
    exact = np.mean(sums >= abs((first - second).sum()) - 1e-9)
    assert difference(*runs, qrels) == pytest.approx(exact, abs=0.04)
    assert difference(*reversed(runs), qrels) == pytest.approx(difference(*runs, qrels))


def test_no_p_value_is_told_where_nothing_varies():
    qrels = {"a": {"x": 1}, "b": {"y": 1}}
    assert difference({"a": ["x"], "b": ["y"]}, {"a": ["x"], "b": ["y"]}, qrels) is None
    assert difference({"a": ["x"], "b": ["y"]}, {}, qrels) is None
    assert difference({"a": ["x"]}, {"a": ["z"]}, {"a": {"x": 1}}) is None


def random_set(documents: int, queries: int, *, own: frozenset[str] = frozenset()) -> RetrievalSet:
    chance = random.Random(documents)
    vocabulary = [f"word{i}" for i in range(300)]

    def text() -> str:
        return " ".join(chance.choices(vocabulary, k=12))

    ids = [f"d{i}" for i in range(documents)]
    chance.shuffle(ids)
    return RetrievalSet(
        name="random",
        documents={id_: text() for id_ in ids},
        queries={f"d{i}": text() for i in range(queries)},
        qrels={f"d{i}": {f"d{i + 1}": 1} for i in range(queries)},
        own=own,
    )


def ranked(run: Run) -> dict[str, list[str]]:
    """Leave the scores away."""
    return {query: list(found) for query, found in run.items()}


def by_hand(dataset: RetrievalSet, encoder) -> dict[str, list[str]]:
    """Score every pair, sort everything."""
    ids = list(dataset.documents)
    documents = encoder.encode_documents(list(dataset.documents.values())).astype(np.float64)
    run = {}
    for query, text in dataset.queries.items():
        scores = documents @ encoder.encode_queries([text])[0].astype(np.float64)
        order = sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))
        run[query] = [ids[i] for i in order]
    return run


@pytest.mark.parametrize("documents", [3, DEPTH, DEPTH + 1, 700])
def test_dense_search_finds_what_a_full_sort_finds(encoder, documents: int):
    dataset = random_set(documents, 2)
    expected = {query: ids[:DEPTH] for query, ids in by_hand(dataset, encoder).items()}
    assert ranked(dense_run(dataset, encoder)) == expected


def test_a_document_scores_by_its_best_passage(encoder):
    dataset = random_set(300, 3)

    def cut(text: str) -> list[str]:
        words = text.split()  # some documents give no passage: they stay whole
        return [] if "word7" in words else [" ".join(words[i : i + 5]) for i in range(0, 12, 5)]

    run = {}
    for query, text in dataset.queries.items():
        asked = encoder.encode_queries([text])[0]
        scores = {
            id_: max(encoder.encode_documents(cut(document) or [document]) @ asked)
            for id_, document in dataset.documents.items()
        }
        run[query] = sorted(scores, key=lambda id_: (-scores[id_], id_))[:DEPTH]
    assert ranked(dense_run(dataset, encoder, cut=cut)) == run
    assert ranked(dense_run(dataset, encoder)) != run


def test_only_a_query_that_is_a_document_is_left_out_of_its_own_results(encoder):
    dataset = random_set(300, 4, own=frozenset({"d1", "d3"}))
    expected = {
        query: [id_ for id_ in ids if id_ != query or query not in dataset.own][:DEPTH]
        for query, ids in by_hand(dataset, encoder).items()
    }
    assert ranked(dense_run(dataset, encoder)) == expected
    same = RetrievalSet("same", {"a": "x1 y1", "b": "x1 z1"}, {"a": "x1 y1"}, {}, frozenset("a"))
    assert ranked(lexical_run(same)) == ranked(dense_run(same, encoder)) == {"a": ["b"]}


def test_documents_of_equal_score_are_ordered_by_id(encoder):
    documents = dict.fromkeys(("c", "a", "d", "b"), "the same text")
    dataset = RetrievalSet("ties", documents, {"q": "same text"}, {"q": {"a": 1}}, frozenset())
    for run in (dense_run(dataset, encoder), lexical_run(dataset)):
        assert ranked(run) == {"q": ["a", "b", "c", "d"]}


def test_documents_of_equal_score_are_ordered_by_id_even_at_the_cut(encoder):
    ids = [f"{number:04}" for number in range(3 * DEPTH)]
    documents = dict.fromkeys(reversed(ids), "the same text")
    dataset = RetrievalSet("ties", documents, {"q": "same text"}, {"q": {ids[0]: 1}}, frozenset())
    for run in (dense_run(dataset, encoder), lexical_run(dataset)):
        assert ranked(run) == {"q": ids[:DEPTH]}


def test_each_system_is_measured_on_its_own_run(tmp_path, retrieval_folder, encoder):
    dataset = load_retrieval_set(retrieval_folder(tmp_path / "pets"))
    dense, lexical = dense_run(dataset, encoder), lexical_run(dataset)
    results = evaluate_retrieval(dataset, [encoder])
    assert [(r.task, r.name, r.system) for r in results] == [
        ("retrieval", "pets", "word vectors"),
        ("retrieval", "pets", "BM25"),
        ("retrieval", "pets", "word vectors + BM25"),
    ]
    for result, run in zip(results, [dense, lexical, fused_run(dense, lexical)], strict=True):
        assert result.metrics == pytest.approx(oracle(run, dataset.qrels))
        assert result.sizes == {"queries": 3, "documents": 4}
        assert result.p == (None if run == dense else difference(dense, run, dataset.qrels))
    assert evaluate_retrieval(dataset, [encoder], bm25=False) == results[:1]


def test_fusion_is_that_of_hybrid_search_and_as_deep_as_the_runs():
    dense = {"q": {f"a{i}": 1 - i / DEPTH for i in range(DEPTH)}, "p": {"x": 0.5}}
    lexical = {"q": {f"b{i}": 9 - i / DEPTH for i in range(DEPTH)}, "p": {}}
    fused = fused_run(dense, lexical)
    expected = hybrid_scores(dense["q"], lexical["q"], DEPTH)[:DEPTH]
    assert list(fused["q"].items()) == expected
    assert fused["p"] == {"x": 0.0}


def test_stemming_and_stop_words_help_on_real_sets(shared_sets):
    from autoreg_rag.lexical import BM25Index

    for name in ("adi", "time"):
        dataset = load_retrieval_set(shared_sets / "retrieval" / name)
        queries = list(dataset.queries.values())
        ndcg = {}
        for english in (True, False):
            hits = BM25Index(dataset.documents.items(), english=english).search(queries, 10)
            found = ([id_ for id_, _ in ranked] for ranked in hits)
            run = dict(zip(dataset.queries, found, strict=True))
            ndcg[english] = measure(run, dataset.qrels)["nDCG@10"]
        assert ndcg[True] > ndcg[False] > 0.3
