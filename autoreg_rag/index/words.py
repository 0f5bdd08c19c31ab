"""Search in a store by words."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from autoreg_rag.corpus.records import Chunk, Hit
from autoreg_rag.lexical import BM25Index
from autoreg_rag.stores.base import Store, Where
from autoreg_rag.stores.where import matches

_SMALLEST_PAGE = 1000
"""Chunks that are read at once to see whether a filter keeps them."""


class WordSearch:
    """BM25 over a store's chunks: built for the first search, and when files changed.

    Parameters
    ----------
    store
        Other processes may write to it meanwhile.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._revision: str | None = None
        self._bm25 = BM25Index(())
        self._building = threading.Lock()

    def search(
        self, queries: Sequence[str], depth: int, alternatives: Sequence[Where | None] = (None,)
    ) -> list[list[Hit]]:
        """Find for each question the `depth` best chunks that share a word with it.

        A chunk must meet one of the filters; None filters nothing.
        """
        bm25 = self._current()
        # A filter can leave out any number of chunks, so then all of them are ranked.
        rankings = bm25.search(queries, len(bm25) if all(alternatives) else depth)
        return [self._hits(ranking, depth, alternatives) for ranking in rankings]

    def _current(self) -> BM25Index:
        with self._building:
            # Read first: what changes while the chunks are read is seen the next time.
            revision = self._store.revision()
            if revision != self._revision:
                self._bm25 = BM25Index((chunk.id, chunk.text) for chunk in self._store.chunks())
                self._revision = revision
            return self._bm25

    def _hits(
        self,
        ranking: list[tuple[str, float]],
        depth: int,
        alternatives: Sequence[Where | None],
    ) -> list[Hit]:
        hits: list[Hit] = []
        page = max(depth, _SMALLEST_PAGE)
        for start in range(0, len(ranking), page):
            scores = dict(ranking[start : start + page])
            hits.extend(
                Hit(scores[chunk.id], chunk, {"bm25": scores[chunk.id]})
                for chunk in self._still_there(list(scores))
                if any(where is None or matches(chunk, where) for where in alternatives)
            )
            if len(hits) >= depth:
                break
        return hits[:depth]

    def _still_there(self, ids: list[str]) -> list[Chunk]:
        """Return the chunks in this order, without those that were removed meanwhile."""
        try:
            return self._store.get(ids)
        except KeyError:
            found = []
        for id_ in ids:
            try:
                found.extend(self._store.get([id_]))
            except KeyError:
                continue
        return found
