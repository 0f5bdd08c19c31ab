"""How a hybrid search fuses: nDCG@10 of cosine and BM25 together, by ranks and by scores.

Run: ``python benchmarks/fusion.py SETS`` (add ``--help`` for options), SETS a folder of
retrieval sets. Vectors are worked out once and kept below ``--vectors``, a folder for each model
and a file for each set, so that a run that was cut off goes on and further fusions cost nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from autoreg_rag.evaluate.beir import RetrievalSet
from autoreg_rag.evaluate.discovery import load_sets
from autoreg_rag.evaluate.encoder import Encoder
from autoreg_rag.evaluate.peer import SentenceTransformerPeer
from autoreg_rag.evaluate.retrieval import DEPTH, Run, dense_run, lexical_run, measure
from autoreg_rag.files import write_whole
from autoreg_rag.fusion import hybrid_scores
from autoreg_rag.model import AutoRegModel
from autoreg_rag.stores.base import Vectors
from autoreg_trainers.teacher import model_hash

Scores = dict[str, float]
Fusion = Callable[[Scores, Scores], Scores]
"""Scores by id of one question's best by cosine and by BM25, to fused ones."""


class Kept:
    """An encoder of one set whose vectors are read from a file, or written to it first."""

    def __init__(self, dataset: RetrievalSet, encoder: Encoder, folder: Path) -> None:
        self.name = encoder.name
        texts = [*dataset.queries.values(), "", *dataset.documents.values()]
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        path = folder / f"{dataset.name}-{digest}.npz"
        if not path.is_file():
            queries = encoder.encode_queries(list(dataset.queries.values()))
            documents = encoder.encode_documents(
                list(dataset.documents.values()), show_progress=True
            )
            content = io.BytesIO()
            np.savez(content, Q=queries, D=documents)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, content.getvalue())
        with np.load(path) as vectors:
            self._queries, self._documents = vectors["Q"], vectors["D"]

    def encode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> Vectors:
        """Return the vectors of the set's queries."""
        return self._queries

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> Vectors:
        """Return the vectors of the set's documents."""
        return self._documents


def reciprocal_ranks(cosines: Scores, words: Scores) -> Scores:
    """Add 1 / (60 + rank) over both (Cormack, Clarke and Büttcher, SIGIR 2009)."""
    parts: defaultdict[str, list[float]] = defaultdict(list)
    for ranking in (cosines, words):
        for rank, id_ in enumerate(ranking, start=1):
            parts[id_].append(1 / (60 + rank))
    return {id_: math.fsum(part) for id_, part in parts.items()}


def least_to_most(cosines: Scores, words: Scores) -> Scores:
    """Add both after each was brought to 0 to 1 over its list; 0 for what it lacks."""
    fused: defaultdict[str, float] = defaultdict(float)
    for ranking in (cosines, words):
        values = ranking.values()
        least, most = min(values, default=0.0), max(values, default=0.0)
        for id_, value in ranking.items():
            fused[id_] += (value - least) / (most - least) if most > least else 1.0
    return dict(fused)


def standard(alpha: float) -> Fusion:
    """Return the fusion of `autoreg_rag.fusion.hybrid_scores`."""
    return lambda cosines, words: dict(hybrid_scores(cosines, words, DEPTH, alpha))


FUSIONS: dict[str, Fusion] = {
    "cosine": lambda cosines, words: cosines,
    "BM25": lambda cosines, words: words,
    "reciprocal ranks": reciprocal_ranks,
    "least to most": least_to_most,
    **{f"standard scores, alpha {alpha}": standard(alpha) for alpha in (0.3, 0.4, 0.5, 0.6, 0.7)},
}


def fused(dense: Run, lexical: Run, fusion: Fusion) -> dict[str, list[str]]:
    """Return the best of each query after fusion, equal scores by id."""
    runs = {}
    for query, cosines in dense.items():
        scores = fusion(cosines, lexical[query])
        runs[query] = sorted(scores, key=lambda id_: (-scores[id_], id_))[:DEPTH]
    return runs


def main() -> None:
    """Measure all fusions on all sets, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", type=Path, help="folder of retrieval sets")
    parser.add_argument("--model", help="folder of the model; by default the default one")
    parser.add_argument("--peer", help="a sentence-transformers model in its place")
    parser.add_argument("--vectors", type=Path, default=Path("runs/vectors"))
    options = parser.parse_args()
    encoder: Encoder
    if options.peer:
        encoder = SentenceTransformerPeer(options.peer)
        folder = options.vectors / model_hash(options.peer)
    else:
        encoder = AutoRegModel.from_pretrained(options.model)
        folder = options.vectors / encoder.fingerprint()
    sets = [one for one in load_sets(options.sets) if isinstance(one, RetrievalSet)]
    table: dict[str, list[float]] = {label: [] for label in FUSIONS}
    for dataset in sets:
        dense = dense_run(dataset, Kept(dataset, encoder, folder))
        lexical = lexical_run(dataset)
        for label, fusion in FUSIONS.items():
            ndcg = measure(fused(dense, lexical, fusion), dataset.qrels)["nDCG@10"]
            table[label].append(100 * ndcg)
    print(f"| {encoder.name} | {' | '.join(one.name for one in sets)} | mean |")
    print("|---" * (len(sets) + 2) + "|")
    for label, values in table.items():
        print(f"| {label} | {' | '.join(f'{value:.2f}' for value in (*values, fmean(values)))} |")


if __name__ == "__main__":
    main()
