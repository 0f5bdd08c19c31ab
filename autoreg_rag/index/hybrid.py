"""Search in a store by cosine and by words together."""

from __future__ import annotations

from collections.abc import Sequence

from autoreg_rag.corpus.records import Hit
from autoreg_rag.index.fusion import fuse
from autoreg_rag.index.words import WordSearch
from autoreg_rag.stores.base import Store, Vectors, Where


class HybridSearch:
    """A ranking by cosine and one by BM25, fused by reciprocal rank.

    Parameters
    ----------
    store
        Other processes may write to it meanwhile.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._words = WordSearch(store)

    def search(
        self,
        queries: Sequence[str],
        vectors: Vectors,
        k: int,
        alternatives: Sequence[Where | None] = (None,),
    ) -> list[list[Hit]]:
        """Find the `k` best chunks for each question, best first.

        Parameters
        ----------
        queries
            Questions.
        vectors
            Theirs, of unit length, [number of questions, d].
        k
            How many hits for each, at least 1.
        alternatives
            Filters of which a chunk must meet one; None filters nothing.

        Returns
        -------
        list of list of Hit
            A hit's score is the fused one; ``scores`` names its parts.

        Raises
        ------
        ValueError
            `k` is below 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; it must be 1 or more")
        depth = max(10 * k, 100)
        by_cosine = [self._store.search(vectors, depth, where) for where in alternatives]
        by_words = self._words.search(queries, depth, alternatives)
        return [
            fuse(best(cosines, depth), words)[:k]
            for *cosines, words in zip(*by_cosine, by_words, strict=True)
        ]


def best(rankings: Sequence[Sequence[Hit]], k: int) -> list[Hit]:
    """Return the `k` best hits of several rankings by one score, each chunk once."""
    found = {hit.chunk.id: hit for ranking in rankings for hit in ranking}
    return sorted(found.values(), key=lambda hit: (-hit.score, hit.chunk.id))[:k]
