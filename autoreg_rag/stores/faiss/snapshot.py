"""One state of a FAISS index, open for searching."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from autoreg_rag.stores import ranking
from autoreg_rag.stores.base import Vectors
from autoreg_rag.stores.faiss.ann import ApproximateIndex
from autoreg_rag.stores.faiss.sidecar import State
from autoreg_rag.stores.faiss.vectors import Rows, spans, take


@dataclass(frozen=True)
class Snapshot:
    """The files that belong to one state of the database.

    Attributes
    ----------
    state
        What the database said when they were opened.
    matrix
        [rows, d], mapped into memory.
    alive
        [rows]: which rows have a chunk.
    approximate
        The approximate index, if there is one.
    """

    state: State
    matrix: NDArray[np.generic]
    alive: NDArray[np.bool_]
    approximate: ApproximateIndex | None

    def search(
        self, queries: Vectors, k: int, allowed: Rows | None = None
    ) -> list[ranking.Scored[int]]:
        """Return for each query the best `k` rows, and those that may tie with the last.

        Parameters
        ----------
        queries
            [n, d].
        k
            How many rows are wanted.
        allowed
            The only rows that may be found, ascending; they are compared one by one.
        """
        available = self.state.rows - self.state.dead if allowed is None else len(allowed)
        if not available:
            return [[] for _ in queries]

        def candidates(some: Vectors, width: int) -> list[ranking.Scored[int]]:
            width = min(width, available)
            if allowed is None:
                found = self._nearest(some, width, fewest=min(k, available))
            else:
                spanned = spans(0, available, self.matrix.shape[1])
                found = self._exact(some, width, (allowed[low:high] for low, high in spanned))
            return [
                [(score, row) for score, row in zip(*pair, strict=True) if row >= 0]
                for pair in zip(found.D.tolist(), found.I.tolist(), strict=True)
            ]

        return [
            self._rescored(query, [row for _, row in found])
            for query, found in zip(queries, ranking.widened(queries, k, candidates), strict=True)
        ]

    def _nearest(self, queries: Vectors, width: int, fewest: int) -> faiss.ResultHeap:
        """Search all living rows, by the approximate index as far as there is one.

        A graph or a few lists may not lead to as many rows as there are. Where
        they leave a query with less than `fewest`, the search is exact.
        """
        if self.approximate is not None:
            found = self._exact(
                queries,
                width,
                self._living(len(self.approximate)),
                self.approximate.search(queries, width, self.alive),
            )
            if (np.count_nonzero(found.I >= 0, axis=1) >= fewest).all():
                return found
        return self._exact(queries, width, self._living(0))

    def _exact(
        self,
        queries: Vectors,
        width: int,
        blocks: Iterable[Rows],
        found: tuple[Vectors, Rows] | None = None,
    ) -> faiss.ResultHeap:
        """Compare queries with each of some rows; merge with what was found elsewhere."""
        nearest = faiss.ResultHeap(len(queries), width, keep_max=True)
        if found:
            nearest.add_result(*found)
        for rows in blocks:
            if len(rows):
                scores, places = faiss.knn(
                    queries,
                    take(self.matrix, rows),
                    min(width, len(rows)),
                    faiss.METRIC_INNER_PRODUCT,
                )
                nearest.add_result(scores, rows[places])
        nearest.finalize()
        return nearest

    def _living(self, start: int) -> Iterator[Rows]:
        for low, high in spans(start, self.state.rows, self.matrix.shape[1]):
            yield np.flatnonzero(self.alive[low:high]) + low

    def _rescored(self, query: NDArray[np.float32], rows: list[int]) -> ranking.Scored[int]:
        ascending = sorted(rows)
        scores = ranking.exact_scores(query, take(self.matrix, np.array(ascending, np.int64)))
        return list(zip(scores, ascending, strict=True))
