"""Ranking the passages of a pool for a query, below the score of its positive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from autoreg_rag.evaluate.encoder import Encoder
from autoreg_rag.lexical import BM25Index, with_ties
from autoreg_trainers.mining.row import Row

Scores = NDArray[np.float32]

BLOCK_SCORES = 1 << 24
"""Scores that are held at once: 64 MiB."""


class Scorer(Protocol):
    """What scores all passages of a pool."""

    def scores(self, rows: Sequence[Row]) -> Iterator[Scores]:
        """Yield for each row's query the scores of all passages, [n]."""


class WordScorer:
    """Scores passages by BM25.

    Parameters
    ----------
    passages
        n texts.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        self._index = BM25Index((str(i), text) for i, text in enumerate(passages))

    def scores(self, rows: Sequence[Row]) -> Iterator[Scores]:
        """Yield for each row's query the scores of all passages, [n]."""
        yield from self._index.scores([row.query for row in rows])


class VectorScorer:
    """Scores passages by the cosine of their vectors with the query's, exactly.

    Parameters
    ----------
    encoder
        Embeds queries as questions and passages as documents, at unit length. The query of
        a row that is `Row.symmetric` is embedded as a document, as it is in training.
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

    def scores(self, rows: Sequence[Row]) -> Iterator[Scores]:
        """Yield for each row's query its cosines with all passages, [n]."""
        vectors = np.empty((len(rows), self._passages.shape[1]), dtype=np.float32)
        encoder = self._encoder
        for symmetric, encode in (
            (False, encoder.encode_queries),
            (True, encoder.encode_documents),
        ):
            mine = [i for i, row in enumerate(rows) if row.symmetric == symmetric]
            if mine:
                queries = [rows[i].query for i in mine]
                vectors[mine] = encode(queries, show_progress=self._show_progress)
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
    # All that tie with the last stay in, for their numbers to decide.
    numbers = numbers[with_ties(scores[numbers], depth)]
    best = numbers[np.argsort(-scores[numbers], kind="stable")][:depth]
    return Ranking(best.tolist(), int(above.sum()))
