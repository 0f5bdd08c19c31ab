"""Ranking the passages of a pool for a query, below the score of its positive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from autoreg_rag.evaluate.encoder import Encoder

Scores = NDArray[np.float32]

BLOCK_SCORES = 1 << 24
"""Scores that are held at once: 64 MiB."""


class Scorer(Protocol):
    """What scores all passages of a pool: `BM25Index`, or `VectorScorer`."""

    def scores(self, queries: Sequence[str]) -> Iterator[Scores]:
        """Yield for each query the scores of all passages, [n]."""


class VectorScorer:
    """Scores passages by the cosine of their vectors with the query's, exactly.

    Parameters
    ----------
    encoder
        Embeds queries as questions and passages as documents, at unit length.
    passages
        n texts; their vectors, [n, d], stay in memory.
    show_progress
        Show bars while encoding.
    """

    def __init__(
        self, encoder: Encoder, passages: Sequence[str], *, show_progress: bool = False
    ) -> None:
        self._encoder = encoder
        self._show_progress = show_progress
        self._passages = encoder.encode_documents(passages, show_progress=show_progress)

    def scores(self, queries: Sequence[str]) -> Iterator[Scores]:
        """Yield for each query its cosines with all passages, [n]."""
        vectors = self._encoder.encode_queries(queries, show_progress=self._show_progress)
        step = max(1, BLOCK_SCORES // max(1, len(self._passages)))
        for start in range(0, len(vectors), step):
            yield from vectors[start : start + step] @ self._passages.T


class Ranking(NamedTuple):
    """The candidates of one query.

    Attributes
    ----------
    passages
        Numbers of passages, best first; equal scores in ascending order.
    above
        How many passages, the positives aside, score more than the margin lets.
    """

    passages: list[int]
    above: int


def rank(scores: Scores, positives: Sequence[int], *, margin: float, depth: int) -> Ranking:
    """Rank the passages that score more than 0 and at most `margin` times what a positive does.

    Parameters
    ----------
    scores
        Of all passages, [n].
    positives
        The numbers of the row's positives; of several, the one of least score
        sets the limit.
    margin
        Between 0 and 1.
    depth
        How many to rank: the best.
    """
    limit = margin * float(scores[positives].min())
    above = scores > limit
    candidates = (scores > 0) & ~above
    above[positives] = candidates[positives] = False
    numbers = np.flatnonzero(candidates)
    if len(numbers) > depth:
        # All that tie with the last stay in, for their numbers to decide.
        last = np.partition(scores[numbers], -depth)[-depth]
        numbers = numbers[scores[numbers] >= last]
    best = numbers[np.argsort(-scores[numbers], kind="stable")][:depth]
    return Ranking(best.tolist(), int(above.sum()))
