"""Hits of several rankings, fused into one."""

from __future__ import annotations

from collections.abc import Sequence

from autoreg_rag.corpus.records import Hit
from autoreg_rag.lexical import reciprocal_rank_fusion


def fuse(*rankings: Sequence[Hit]) -> list[Hit]:
    """Fuse rankings of the same question by reciprocal rank.

    Returns
    -------
    list of Hit
        Every hit once, best first; ``scores`` holds the parts it had in each
        ranking, and ``score`` the fused one.
    """
    chunks = {hit.chunk.id: hit.chunk for ranking in rankings for hit in ranking}
    parts: dict[str, dict[str, float]] = {id_: {} for id_ in chunks}
    for ranking in rankings:
        for hit in ranking:
            parts[hit.chunk.id] |= hit.scores
    fused = reciprocal_rank_fusion([[hit.chunk.id for hit in ranking] for ranking in rankings])
    return [Hit(score, chunks[id_], parts[id_]) for id_, score in fused]
