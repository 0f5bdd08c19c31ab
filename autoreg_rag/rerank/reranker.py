"""The reranker: candidates by how likely a question's vectors make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoreg_rag.corpus.records import Hit
from autoreg_rag.errors import ModelError
from autoreg_rag.fusion import standard_sum
from autoreg_rag.model import AutoRegModel
from autoreg_rag.rerank.likelihoods import Likelihoods
from autoreg_rag.rerank.parts import MARK, fingerprint, stored_part
from autoreg_rag.scores import (
    DEFAULT_FUSION,
    DEFAULT_SCORE,
    RETRIEVAL,
    SCORES,
    WITH_BASELINE,
    Score,
    score,
)

if TYPE_CHECKING:
    Baselines = Sequence[float | None] | NDArray[np.float64]


class Reranker:
    """Scores passages by the likelihood of their text under a question's vectors.

    The question is compressed once, under I_next; all candidates are judged by
    the frozen decoder behind the same k vectors, whose keys and values are
    shared (Deng et al. 2025 compare texts by the text that they generate).

    Parameters
    ----------
    model
        An open model, or the name of one; None for the default model.
    score
        Kind of the score, see `autoreg_rag.scores.score`.
    token_budget
        The most tokens of a batch, padding included; by default the model's, on a
        CPU at most 512. Halved, and kept so, where a batch does not fit the memory.
    fusion
        The weight, from 0 to 1, of the retrieval score in the final one, see
        `standard_sum`; None to rank by this kind's score alone, as it is.

    Raises
    ------
    ValueError
        `score` is unknown, `token_budget` below 1 or `fusion` outside 0 to 1.
    ModelError
        The model cannot be loaded.
    """

    def __init__(
        self,
        model: AutoRegModel | str | None = None,
        *,
        score: Score = DEFAULT_SCORE,
        token_budget: int | None = None,
        fusion: float | None = DEFAULT_FUSION,
    ) -> None:
        if score not in SCORES:
            raise ValueError(f"score is {score!r}; it must be one of {', '.join(SCORES)}")
        if token_budget is not None and token_budget < 1:
            raise ValueError(f"token_budget is {token_budget}; it must be 1 or more")
        if fusion is not None and not 0 <= fusion <= 1:
            raise ValueError(f"fusion is {fusion}; it must be from 0 to 1, or None")
        if not isinstance(model, AutoRegModel):
            model = AutoRegModel.from_pretrained(model)
        self.model = model
        self.score = score
        self.fusion = fusion
        self._likelihoods = Likelihoods(model, token_budget)

    def scores(
        self,
        query: str,
        documents: Sequence[str],
        *,
        baselines: Baselines | None = None,
    ) -> NDArray[np.float64]:
        """Score passages for a question.

        Parameters
        ----------
        query
            The question, cut at ``config.max_length`` tokens.
        documents
            n passages, each cut likewise, with one warning.
        baselines
            What `baselines` returned for these passages; None, for all or for
            some, to compute it.

        Returns
        -------
        ndarray
            Raw scores, float64 [n], in the order of `documents`; higher is
            better, most are negative. Nats, or nats per token under ``mean`` and ``cda_mean``.

        Raises
        ------
        ValueError
            The question is empty, a document has no text, or `baselines` do not
            fit the documents or the kind of score.
        ModelError
            A score is not a finite number.
        """
        if not query.strip():
            raise ValueError("the question to rerank by is empty")
        documents = _texts(documents)
        known = self._known(baselines, len(documents))
        if not documents:
            return np.empty(0)
        distinct, places = _distinct(documents)
        sums, counts = self._likelihoods.given_query(query, distinct)
        missing = np.flatnonzero(np.isnan(known)) if known is not None else ()
        if known is not None and len(missing):
            known[missing] = self.baselines([documents[i] for i in missing])
        scores = score(self.score, sums[places], counts[places], known)
        if (place := _not_finite(scores)) is not None:
            raise ModelError(
                f"the score of document {place} is {scores[place]}: load the model in bfloat16 or "
                "float32 instead of float16, and check stored score parts"
            )
        return scores

    def rerank(self, query: str, hits: Sequence[Hit], *, top_n: int | None = None) -> list[Hit]:
        """Order the hits of a search by their scores for the question.

        Parts that indexing stored with the chunks (``--score-parts``) are used
        if this model made them, and computed otherwise.

        Parameters
        ----------
        query
            The question.
        hits
            As `Index.search` returns them.
        top_n
            How many to return; by default all.

        Returns
        -------
        list of Hit
            Best first, equal scores in the order of `hits`. ``score`` is the new
            score, fused if `fusion` is set; ``scores`` keeps the parts there
            were and adds this kind's score under its name and the score that
            the hit came with as ``retrieval``.

        Raises
        ------
        ValueError
            As for `scores`, or `top_n` is below 1, or a score to fuse is not finite.
        """
        if top_n is not None and top_n < 1:
            raise ValueError(f"top_n is {top_n}; it must be 1 or more")
        retrieval = np.array([hit.score for hit in hits], np.float64)
        if self.fusion is not None and (place := _not_finite(retrieval)) is not None:
            raise ValueError(
                f"the score of hit {place} is {retrieval[place]}, which cannot be fused: "
                "give it a number, or set fusion to None"
            )
        texts = [hit.chunk.text for hit in hits]
        stored = self.stored_baselines(texts, [hit.chunk.metadata for hit in hits])
        raw = self.scores(query, texts, baselines=stored)
        final = raw if self.fusion is None else standard_sum(retrieval, raw, self.fusion)
        rescored = []
        for best in np.argsort(-final, kind="stable")[:top_n].tolist():
            hit = hits[best]
            parts = {**hit.scores, RETRIEVAL: hit.score, self.score: float(raw[best])}
            rescored.append(Hit(float(final[best]), hit.chunk, parts))
        return rescored

    def baselines(self, documents: Sequence[str]) -> NDArray[np.float64] | None:
        """Return the parts of the scores that do not depend on the question.

        log p(d) under ``pmi`` and log p(d | e_d) under ``cda`` and ``cda_mean``, in nats,
        float64 [n], to be handed to `scores`; None under ``sum`` and ``mean``.

        Raises
        ------
        ValueError
            A document has no text.
        """
        if self.score not in WITH_BASELINE:
            return None
        distinct, places = _distinct(_texts(documents))
        likelihoods = self._likelihoods
        part = likelihoods.prior if self.score == "pmi" else likelihoods.own
        return part(distinct)[places]

    def stored_baselines(
        self, documents: Sequence[str], metadata: Sequence[Mapping[str, object]]
    ) -> list[float | None] | None:
        """Return what indexing stored of `baselines` in the metadata of n passages.

        None in the place of a passage for which this model stored nothing, or
        whose text is another by now; None as a whole under ``sum`` and ``mean``.
        """
        if self.score not in WITH_BASELINE:
            return None
        if not any(MARK in entry for entry in metadata):
            return [None] * len(metadata)
        return [
            stored_part(text, entry, self.score, self._fingerprint)
            for text, entry in zip(documents, metadata, strict=True)
        ]

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.model)

    def _known(self, baselines: Baselines | None, count: int) -> NDArray[np.float64] | None:
        """Return baselines as numbers, NaN for those to compute; None if none are needed."""
        if self.score not in WITH_BASELINE:
            if baselines is not None and any(value is not None for value in baselines):
                raise ValueError(f"the score {self.score!r} takes no baselines")
            return None
        if baselines is None:
            return np.full(count, np.nan)
        if len(baselines) != count:
            raise ValueError(f"there are {len(baselines)} baselines and {count} documents")
        if any(value is not None and not np.isfinite(value) for value in baselines):
            raise ValueError("a baseline is not a finite number")
        return np.array([np.nan if value is None else value for value in baselines], np.float64)


def _not_finite(values: NDArray[np.float64]) -> int | None:
    """Return the place of the first that is not a finite number."""
    return next(iter(np.flatnonzero(~np.isfinite(values)).tolist()), None)


def _distinct(documents: list[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Return each text once, and the place of each document's: equal texts score the same."""
    places = {text: place for place, text in enumerate(dict.fromkeys(documents))}
    return list(places), np.array([places[text] for text in documents], np.int64)


def _texts(documents: Sequence[str]) -> list[str]:
    if isinstance(documents, str):
        raise TypeError("a list of documents is needed, not one document")
    documents = list(documents)
    for place, text in enumerate(documents):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"document {place} has no text to score: leave it out")
    return documents
