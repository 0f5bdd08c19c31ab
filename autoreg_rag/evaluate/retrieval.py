"""Retrieval: nDCG, MRR and recall of embeddings, of BM25, and of both fused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from autoreg_rag.evaluate.beir import Qrels, RetrievalSet
from autoreg_rag.evaluate.encoder import Encoder
from autoreg_rag.evaluate.optional import require
from autoreg_rag.evaluate.results import Result
from autoreg_rag.fusion import hybrid_scores
from autoreg_rag.lexical import BM25Index, with_ties
from autoreg_rag.stores.base import Vectors

DEPTH = 100
"""How many documents per query are found and measured."""

_QUERIES = 64
"""Queries of one matrix product: their cosines with all passages are in memory."""

Run = dict[str, dict[str, float]]
"""The documents found for each query, by id, and their scores, best first."""

Cut = Callable[[str], list[str]]
"""What cuts a document into passages."""


def whole(text: str) -> list[str]:
    """Leave a document whole: a model reads it as far as its `max_length`."""
    return [text]


def evaluate_retrieval(
    dataset: RetrievalSet,
    encoders: Sequence[Encoder],
    *,
    cut: Cut = whole,
    bm25: bool = True,
    show_progress: bool = False,
) -> list[Result]:
    """Measure encoders on a retrieval set.

    A query that is itself a document of the corpus is left out of what is
    found for it. (BEIR and MTEB leave out any document of the query's id,
    which in sets that number queries and documents apart loses right ones.)

    Parameters
    ----------
    dataset
        The set.
    encoders
        What to measure.
    cut
        Cuts a document into the passages that are embedded, see `dense_run`.
    bm25
        Measure BM25 as well, and the fusion of each encoder with it, see
        `fused_run`.
    show_progress
        Show bars while encoding.

    Returns
    -------
    list of Result
        One per encoder, then BM25, then one per fusion; each but the first with the
        p-value of its difference from the first, see `difference`.
    """
    # If they are not installed, this shows before the encoding.
    _ir_measures()
    _stats()
    runs = [
        (encoder.name, dense_run(dataset, encoder, cut=cut, show_progress=show_progress))
        for encoder in encoders
    ]
    if bm25:
        lexical = lexical_run(dataset)
        fusions = [(f"{name} + BM25", fused_run(run, lexical)) for name, run in runs]
        runs = [*runs, ("BM25", lexical), *fusions]
    sizes = {"queries": len(dataset.queries), "documents": len(dataset.documents)}
    (_, first), qrels = runs[0], dataset.qrels
    return [
        Result(
            "retrieval",
            dataset.name,
            name,
            measure(run, qrels),
            sizes,
            None if run is first else difference(first, run, qrels),
        )
        for name, run in runs
    ]


def dense_run(
    dataset: RetrievalSet, encoder: Encoder, *, cut: Cut = whole, show_progress: bool = False
) -> Run:
    """Find for each query the documents of highest cosine, by exact search.

    A document that `cut` cuts into several passages counts by the best of them (MaxP;
    Dai and Callan, SIGIR 2019).
    """
    passages = [cut(text) or [text] for text in dataset.documents.values()]
    starts = np.cumsum([0, *map(len, passages)])[:-1]
    texts = [passage for of_document in passages for passage in of_document]
    vectors = encoder.encode_documents(texts, show_progress=show_progress)
    queries = encoder.encode_queries(list(dataset.queries.values()), show_progress=show_progress)
    return _run(dataset, _found(list(dataset.documents), vectors, starts, queries))


def lexical_run(dataset: RetrievalSet) -> Run:
    """Find for each query the documents of highest BM25."""
    index = BM25Index(dataset.documents.items())
    return _run(dataset, index.search(list(dataset.queries.values()), DEPTH + 1))


def fused_run(dense: Run, lexical: Run) -> Run:
    """Fuse a run by cosine with one by BM25, as a hybrid search does by default."""
    return {
        query: dict(hybrid_scores(cosines, lexical[query], DEPTH)[:DEPTH])
        for query, cosines in dense.items()
    }


def measure(run: Mapping[str, Iterable[str]], qrels: Qrels) -> dict[str, float]:
    """Return the mean over the queries of `qrels` of each measure, by `ir_measures`.

    nDCG takes the judgements as gains; MRR and recall count as relevant what
    is judged 1 or more. A query with nothing found scores 0.

    Parameters
    ----------
    run
        The ids of the documents found for each query, best first.
    qrels
        The judgements.
    """
    ir = _ir_measures()
    measures = {
        "nDCG@10": ir.nDCG @ 10,
        "MRR@10": ir.RR @ 10,
        "Recall@10": ir.R @ 10,
        "Recall@100": ir.R @ 100,
    }
    values = ir.calc_aggregate(list(measures.values()), qrels, _ranks(run))
    return {name: float(values[measure]) for name, measure in measures.items()}


def difference(
    run: Mapping[str, Iterable[str]], other: Mapping[str, Iterable[str]], qrels: Qrels
) -> float | None:
    """Return the p-value of two runs' difference in nDCG@10.

    By Student's paired t-test over the queries, two-sided: how likely equally good runs would
    differ at least as much by the choice of the queries. (Smucker, Allan and Carterette, CIKM
    2007, find it to agree with a randomisation test.)

    Parameters
    ----------
    run, other
        The ids of the documents found for each query, best first.
    qrels
        The judgements.

    Returns
    -------
    float or None
        None where no spread can be told: of one query, or where each differs as much.
    """
    first, second = (_by_query(one, qrels) for one in (run, other))
    if len(qrels) < 2 or np.ptp(first - second) == 0:
        return None
    return float(_stats().ttest_rel(first, second).pvalue)


def _by_query(run: Mapping[str, Iterable[str]], qrels: Qrels) -> NDArray[np.float64]:
    """Return the nDCG@10 of each query, in the order of the judgements."""
    ir = _ir_measures()
    values = ir.iter_calc([ir.nDCG @ 10], qrels, _ranks(run))
    found = {value.query_id: value.value for value in values}
    return np.array([found[query] for query in qrels])


def _ranks(run: Mapping[str, Iterable[str]]) -> dict[str, dict[str, float]]:
    """Return ranks for scores: the libraries behind ir_measures break ties each in its own way."""
    return {
        query: {id_: -float(rank) for rank, id_ in enumerate(ids)} for query, ids in run.items()
    }


def _ir_measures() -> ModuleType:
    return require("ir_measures", "autoreg-rag[eval]")


def _stats() -> ModuleType:
    return require("scipy.stats", "autoreg-rag[eval]")


def _found(
    ids: Sequence[str], passages: Vectors, starts: NDArray[np.int64], queries: Vectors
) -> Iterator[list[tuple[str, float]]]:
    """Yield each query's best documents; that of `ids[i]` begins at passage `starts[i]`."""
    for first in range(0, len(queries), _QUERIES):
        cosines = queries[first : first + _QUERIES] @ passages.T
        for scores in np.maximum.reduceat(cosines, starts, axis=1):
            yield [(ids[row], scores[row]) for row in with_ties(scores, DEPTH + 1).tolist()]


def _run(dataset: RetrievalSet, found: Iterable[list[tuple[str, float]]]) -> Run:
    """Order what was found by score, then id, without the query's own document."""
    return {
        query: dict(
            [
                (id_, float(score))
                for id_, score in sorted(hits, key=lambda hit: (-hit[1], hit[0]))
                if not (id_ == query and query in dataset.own)
            ][:DEPTH]
        )
        for query, hits in zip(dataset.queries, found, strict=True)
    }
