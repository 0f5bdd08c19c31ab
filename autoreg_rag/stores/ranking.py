"""Choosing the best k so that equal scores are ordered by id, even at the k-th place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autoreg_rag.corpus.records import Chunk, Hit
from autoreg_rag.stores.base import Vectors

Item = TypeVar("Item")
Scored = list[tuple[float, Item]]
"""Items with their scores, best first."""

_MARGIN = 16
_TOLERANCE = 1e-6
"""More than float32 arithmetic errs in the cosine of two vectors."""


def widened(
    queries: Vectors,
    k: int,
    candidates: Callable[[Vectors, int], list[Scored[Item]]],
) -> list[Scored[Item]]:
    """Fetch, for each query, the best `k` items and all that might tie with the last of them.

    Parameters
    ----------
    queries
        [n, d].
    k
        How many items are wanted.
    candidates
        Gives the best `width` items for each of some queries, fewer only if
        there are no more.
    """
    found: list[Scored[Item]] = [[] for _ in range(len(queries))]
    open_queries = np.arange(len(queries))
    width = k + _MARGIN
    while len(open_queries):
        tied = []
        for query, items in zip(
            open_queries, candidates(queries[open_queries], width), strict=True
        ):
            found[query] = items
            if len(items) >= width and items[k - 1][0] - items[-1][0] <= _TOLERANCE:
                tied.append(query)
        open_queries = np.array(tied, dtype=np.intp)
        width *= 2
    return found


def exact_scores(query: NDArray[np.float32], vectors: Vectors) -> list[float]:
    """Return the inner products, in float64 and in one fixed order of summation.

    Equal vectors get equal scores, whatever batch, block or index they were
    found in.
    """
    products = vectors.astype(np.float64) * query
    scores: list[float] = products.sum(axis=1).tolist()
    return scores


def hits(scored: Sequence[tuple[float, Chunk]]) -> list[Hit]:
    """Return search results of vectors as hits."""
    return [Hit(score, chunk, {"cosine": score}) for score, chunk in scored]
