"""What reranking brings: nDCG@10 of the best of three first stages, reranked by each kind of score.

The first stages are the model's own vectors, BM25, and both as a hybrid search fuses
them. Every passage goes through the encoder once, and what does not depend on a question
is worked out once for each passage that is found; the candidates of all stages share one
decoder pass per question, of which all kinds of score come.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from autoreg_rag.evaluate.beir import RetrievalSet, load_retrieval_set
from autoreg_rag.evaluate.retrieval import measure
from autoreg_rag.fusion import hybrid_scores, standard_sum
from autoreg_rag.lexical import BM25Index
from autoreg_rag.model import AutoRegModel
from autoreg_rag.rerank.likelihoods import Likelihoods
from autoreg_rag.scores import score

COSINE, BM25, HYBRID = "cosine", "BM25", "both"
STAGES = (COSINE, BM25, HYBRID)

Floats = NDArray[np.float64]
Ranking = list[tuple[str, float]]
"""Ids that a first stage found, best first, and their scores."""


@dataclass(frozen=True)
class Candidates:
    """What was found for a question, and the parts of its scores.

    Attributes
    ----------
    found
        The ranking of each first stage.
    parts
        By id: log p(d | e_q), the number of tokens, log p(d), log p(d | e_d).
    """

    query: str
    found: dict[str, Ranking]
    parts: dict[str, tuple[float, int, float, float]]

    def scores(self, stage: str) -> tuple[list[str], Floats, dict[str, Floats]]:
        """Return the ids of a stage, its own scores, and those of each kind of reranking."""
        ids = [id_ for id_, _ in self.found[stage]]
        retrieval = np.array([value for _, value in self.found[stage]], np.float64)
        sums, counts, prior, own = np.array([self.parts[id_] for id_ in ids]).reshape(-1, 4).T
        kinds = {
            "sum": score("sum", sums, counts),
            "mean": score("mean", sums, counts),
            "pmi": score("pmi", sums, counts, prior),
            "pmi per token": score("pmi", sums, counts, prior) / counts,
            "cda": score("cda", sums, counts, own),
            "cda_mean": score("cda_mean", sums, counts, own),
        }
        return ids, retrieval, kinds


def quality(options: argparse.Namespace) -> None:
    """Rerank the best of each first stage on each set, and print nDCG@10."""
    model = AutoRegModel.from_pretrained(options.model, dtype=options.dtype)
    dtype = str(model.backbone.dtype).removeprefix("torch.")
    print(f"{model.name}, {dtype}, k = {model.neck.k}", flush=True)
    tables: dict[str, dict[str, dict[str, float]]] = {stage: {} for stage in STAGES}
    if options.raw:
        options.raw.write_text("")
    for folder in options.sets:
        start = time.perf_counter()
        dataset = load_retrieval_set(folder, limit=options.queries)
        found = list(candidates(dataset, model, options.depth))
        if options.raw:
            with options.raw.open("a", encoding="utf-8") as lines:
                for one in found:
                    lines.write(json.dumps({"set": dataset.name, **vars(one)}) + "\n")
        name = f"{dataset.name} ({len(dataset.queries)})"
        for stage in STAGES:
            for label, ndcg in reranked(dataset, found, stage, options.fusion).items():
                tables[stage].setdefault(label, {})[name] = ndcg
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print("\nnDCG@10 x 100; fused: at this weight of the retrieval score. ", end="")
    print("In brackets: how many questions, from the beginning of the file.")
    for stage, rows in tables.items():
        names = list(rows["not reranked"])
        print(f"\nThe best {options.depth} by {stage}:\n")
        print(f"| ranking | {' | '.join(names)} | mean |\n|---|{'---|' * (len(names) + 1)}")
        for label, values in rows.items():
            cells = [100 * values[name] for name in names]
            figures = " | ".join(f"{value:.2f}" for value in [*cells, statistics.mean(cells)])
            print(f"| {label} | {figures} |")


def candidates(dataset: RetrievalSet, model: AutoRegModel, depth: int) -> Iterator[Candidates]:
    """Find the candidates of each question, and work out the parts of their scores."""
    documents = {id_: text for id_, text in dataset.documents.items() if text.strip()}
    places = {id_: place for place, id_ in enumerate(documents)}
    texts = list(documents.values())
    latents = model.compress(texts, show_progress=True)
    vectors = model.encoder.pool(latents).cpu()
    questions = list(dataset.queries.values())
    asked = torch.from_numpy(model.encode_queries(questions))
    words = BM25Index(documents.items()).search(questions, depth + 1)
    likelihoods = Likelihoods(model)
    known: dict[str, tuple[float, float]] = {}
    for place, (query, question) in enumerate(dataset.queries.items()):
        cosines = (vectors @ asked[place]).tolist()
        dense = sorted(zip(documents, cosines, strict=True), key=lambda hit: -hit[1])[: depth + 1]
        found = {
            stage: [hit for hit in hits if not (hit[0] == query and query in dataset.own)][:depth]
            for stage, hits in ((COSINE, dense), (BM25, words[place]))
        }
        both = hybrid_scores(dict(found[COSINE]), dict(found[BM25]), depth)
        found[HYBRID] = both[:depth]
        ids = list(dict.fromkeys(id_ for hits in found.values() for id_, _ in hits))
        new = [id_ for id_ in ids if id_ not in known]
        rows = [places[id_] for id_ in new]
        priors = likelihoods.prior([texts[row] for row in rows]).tolist()
        owns = likelihoods.own([texts[row] for row in rows], latents[rows]).tolist()
        known.update(zip(new, zip(priors, owns, strict=True), strict=True))
        sums, counts = likelihoods.given_query(question, [documents[id_] for id_ in ids])
        given = zip(ids, sums.tolist(), counts.tolist(), strict=True)
        yield Candidates(query, found, {id_: (s, n, *known[id_]) for id_, s, n in given})


def reranked(
    dataset: RetrievalSet, found: list[Candidates], stage: str, weights: list[float]
) -> dict[str, float]:
    """Return nDCG@10 of a first stage and of all rerankings of it."""
    runs: dict[str, dict[str, list[str]]] = {}
    for one in found:
        ids, retrieval, kinds = one.scores(stage)
        finals = {"not reranked": retrieval}
        for kind, raw in kinds.items():
            finals[kind] = raw
            for weight in weights:
                finals[f"{kind}, fused at {weight}"] = standard_sum(retrieval, raw, weight)
        for label, final in finals.items():
            order = np.argsort(-final, kind="stable")
            runs.setdefault(label, {})[one.query] = [ids[place] for place in order]
    return {label: measure(run, dataset.qrels)["nDCG@10"] for label, run in runs.items()}
