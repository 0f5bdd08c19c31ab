"""Reranking by likelihood as a document compressor of LangChain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from numbers import Real
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import Field

from autoreg_rag.corpus.records import Chunk, Hit
from autoreg_rag.fusion import retrieval_scores
from autoreg_rag.model import AutoRegModel
from autoreg_rag.rerank import Reranker
from autoreg_rag.scores import DEFAULT_FUSION, DEFAULT_SCORE, Score
from langchain_autoreg.settings import ModelSettings

RETRIEVAL_SCORE = "score"
"""The key of metadata under which `AutoRegRetriever` gives the score that it ranked by."""

RETRIEVAL_SCORES = "scores"
"""The key under which it gives the score's parts by name, a mapping."""

RELEVANCE_SCORE = "relevance_score"
"""The key of metadata that holds the score of the reranking."""


class AutoRegReranker(ModelSettings, BaseDocumentCompressor):
    """Orders documents by the likelihood of their text under the question's vectors.

    Scores are those of `autoreg_rag.rerank.Reranker`: higher is better, and without
    `fusion` most are negative. Equal scores keep their order. Parts of a score that indexing has
    stored in the documents' metadata are used, others computed. With the settings of
    an `AutoRegEmbeddings` it shares that one's model.

    Parameters
    ----------
    top_n
        How many documents to return, by default all.
    score
        ``sum``, ``mean``, ``pmi``, ``cda`` or ``cda_mean``, see `autoreg_rag.scores.score`.
    fusion
        The weight, from 0 to 1, in the final score of the one that the document was
        retrieved with; where a document has none, of the order that the documents come
        in. None to rank by this score alone, as it is.
    retrieval_score_key
        The key of metadata under which another retriever gives its score, higher is
        better. Without it only `AutoRegRetriever`'s count, which are in
        ``metadata["score"]`` with their parts in ``metadata["scores"]``: a ``score`` by
        itself may be anything, such as a forum's votes.
    model, fingerprint, device, dtype, attention, token_budget, max_length
        As for `AutoRegEmbeddings`, and so are the other settings of the model.

    Raises
    ------
    pydantic.ValidationError
        An argument is unknown or wrong.
    ValueError
        When used: the question is empty, a document has no text or, under `fusion`,
        a score that is not finite.
    ModelError, FingerprintError
        When first used: the model cannot be loaded, or is another.
    """

    top_n: int | None = Field(default=None, gt=0)
    score: Score = DEFAULT_SCORE
    fusion: float | None = Field(default=DEFAULT_FUSION, ge=0, le=1)
    retrieval_score_key: str | None = None

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the documents, best first, with the score in their metadata.

        Parameters
        ----------
        documents
            The candidates, which stay as they are.
        query
            The question.
        callbacks
            Not called: no other component runs.

        Returns
        -------
        list of Document
            At most ``top_n``. ``metadata["relevance_score"]`` is the score, fused if
            ``fusion`` is not None.
        """
        check_question(query)
        candidates = list(documents)  # which may come one by one
        return self._use(self._reranking(candidates, query)) if candidates else []

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Do what `compress_documents` does without keeping the event loop."""
        check_question(query)
        candidates = list(documents)
        return await self._ause(self._reranking(candidates, query)) if candidates else []

    def _reranking(
        self, documents: Sequence[Document], query: str
    ) -> Callable[[AutoRegModel], list[Document]]:
        """Return what is to be done with the model."""
        scores = [self._retrieval_score(one.metadata) for one in documents]
        if self.retrieval_score_key and all(score is None for score in scores):
            raise ValueError(f"no document has {self.retrieval_score_key!r} in its metadata")
        found = retrieval_scores(scores)
        scored = enumerate(zip(documents, found, strict=True))
        hits = [_hit(place, document, score) for place, (document, score) in scored]

        def rerank(model: AutoRegModel) -> list[Document]:
            reranker = self._model().keep(
                (Reranker, self.score, self.fusion),
                lambda: Reranker(model, score=self.score, fusion=self.fusion),
            )
            best = reranker.rerank(query, hits, top_n=self.top_n)
            return [_scored(documents[int(hit.chunk.id)], hit.score) for hit in best]

        return rerank

    def _retrieval_score(self, metadata: Mapping[str, Any]) -> object:
        """Return the score that a document was retrieved with; None if it is not known."""
        if self.retrieval_score_key is not None:
            score = metadata.get(self.retrieval_score_key)
            if not isinstance(score, Real | None):
                raise ValueError(f"{self.retrieval_score_key!r} holds {score!r}, not a number")
            return score
        is_ours = isinstance(metadata.get(RETRIEVAL_SCORES), Mapping)
        return metadata.get(RETRIEVAL_SCORE) if is_ours else None


def _hit(place: int, document: Document, score: float) -> Hit:
    """Return a document as a hit whose id is the document's place."""
    text = document.page_content
    return Hit(score, Chunk(str(place), text, "", 0, len(text), document.metadata))


def check_question(query: str) -> None:
    """Refuse what is no question: TypeError if it is no text, ValueError if it is empty."""
    if not isinstance(query, str):
        raise TypeError(f"the question is a {type(query).__name__}; it must be a str")
    if not query.strip():
        raise ValueError("the question is empty")


def _scored(document: Document, score: float) -> Document:
    metadata = deepcopy(document.metadata) | {RELEVANCE_SCORE: score}
    return document.model_copy(update={"metadata": metadata})
