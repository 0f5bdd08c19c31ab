"""Search in a store by cosine and by words together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoreg_rag.corpus.records import Hit
from autoreg_rag.fusion import DEFAULT_ALPHA, hybrid_scores
from autoreg_rag.index.words import WordSearch
from autoreg_rag.stores.base import Store, Vectors, Where


class HybridSearch:
    """A ranking by cosine and one by BM25, fused by `hybrid_scores`.

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
        alpha: float = DEFAULT_ALPHA,
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
        alpha
            Weight of the cosine, from 0, BM25 alone, to 1.

        Returns
        -------
        list of list of Hit
            A hit's score is the fused one; ``scores`` names its parts.

        Raises
        ------
        ValueError
            `k` is below 1, or `alpha` outside 0 to 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; it must be 1 or more")
        depth = max(10 * k, 100)
        by_cosine = [self._store.search(vectors, depth, where) for where in alternatives]
        by_words = self._words.search(queries, depth, alternatives)
        return [
            _fused(best(cosines, depth), words, depth, alpha)[:k]
            for *cosines, words in zip(*by_cosine, by_words, strict=True)
        ]


def best(rankings: Sequence[Sequence[Hit]], k: int) -> list[Hit]:
    """Return the `k` best hits of several rankings by one score, each chunk once."""
    found = {hit.chunk.id: hit for ranking in rankings for hit in ranking}
    return sorted(found.values(), key=lambda hit: (-hit.score, hit.chunk.id))[:k]


def _fused(
    by_cosine: Sequence[Hit], by_words: Sequence[Hit], depth: int, alpha: float
) -> list[Hit]:
    """Return every hit of a question once, best first, with the parts that it was found by."""
    cosines, words = ({hit.chunk.id: hit for hit in hits} for hits in (by_cosine, by_words))
    fused = hybrid_scores(_scores(cosines), _scores(words), depth, alpha)
    hits = []
    for id_, score in fused:
        found = [hit for ranking in (cosines, words) if (hit := ranking.get(id_))]
        parts = {name: part for hit in found for name, part in hit.scores.items()}
        hits.append(Hit(score, found[0].chunk, parts))
    return hits


def _scores(ranking: Mapping[str, Hit]) -> dict[str, float]:
    return {id_: hit.score for id_, hit in ranking.items()}
