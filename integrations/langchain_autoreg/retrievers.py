"""An index of autoreg-rag as a retriever of LangChain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from pathlib import Path
from types import TracebackType
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr

from autoreg_rag.corpus.records import Hit, Scalar
from autoreg_rag.fusion import DEFAULT_ALPHA
from autoreg_rag.index.index import Index
from autoreg_rag.index.sharing import SharedIndex
from autoreg_rag.model import full_name
from autoreg_rag.scores import Score
from autoreg_rag.stores import full_place, shown_place
from autoreg_rag.stores.names import COLLECTION, DEFAULT_PLACE
from autoreg_rag.stores.where import SOURCE
from langchain_autoreg.rerankers import (
    RETRIEVAL_SCORE,
    RETRIEVAL_SCORES,
    AutoRegReranker,
    check_question,
)
from langchain_autoreg.settings import MODEL_NAMES, LoadSettings, ModelName, Place, pop_model

Conditions = dict[str, Scalar | list[Scalar]]
"""Values that ``source`` or metadata must have: one, or any of several."""


class AutoRegRetriever(LoadSettings, BaseRetriever):
    """Finds passages in an index that ``python -m autoreg_rag.index`` made, of either kind.

    The index is opened with its model when the retriever is made. Retrievers of equal
    settings share both; threads take turns, and asynchronous calls do not keep the
    event loop. The retriever is a context manager; what is not closed is closed when
    the last retriever of the index is gone.

    A document has the chunk's text and id. Its metadata are the chunk's, with
    ``source``, ``start`` and ``end`` (offsets in characters), ``score`` (what the
    search ranked by, highest first) and ``scores`` (its parts by name); after a
    reranking also ``relevance_score``.

    Parameters
    ----------
    place
        The folder, or the URL of a Qdrant server; by default ``autoreg-index``.
    collection, api_key
        For a Qdrant server.
    model
        Also ``model_name``. By default the model that the index names; another folder
        if that one has moved.
    device, dtype, attention, token_budget
        See `autoreg_rag.AutoRegModel.from_pretrained`.
    query_instruction, document_instruction, pooling, max_length
        If the index was made with other settings than those saved with its model.
    k
        How many documents to return.
    where
        Values that ``source`` or metadata must have: one, or a list of alternatives.
    hybrid
        Fuse the ranking by cosine with one by BM25, see `autoreg_rag.Index.search`.
    alpha
        Under `hybrid`, the weight of the cosine, from 0, BM25 alone, to 1.
    reranker
        A kind of score, ``cda_mean`` or another one, by which the index's
        model reranks; or an `AutoRegReranker`, or any other document compressor.
    depth
        How many documents are found for the reranker; at least `k` are.

    Raises
    ------
    pydantic.ValidationError
        An argument is unknown or wrong.
    StoreError
        There is no index, or it cannot be opened.
    FingerprintError
        The index was made by another model, or with other settings.
    ModelError
        The model cannot be loaded.
    """

    model_config = ConfigDict(extra="forbid")  # a retriever of LangChain itself ignores them

    place: Place = Field(default=DEFAULT_PLACE, frozen=True, validate_default=True)
    collection: str = Field(default=COLLECTION, frozen=True)
    api_key: SecretStr | None = Field(default=None, frozen=True)
    model_name: ModelName | None = Field(default=None, alias="model", frozen=True)
    k: int = Field(default=4, gt=0)
    where: Conditions | None = None
    hybrid: bool = False
    alpha: float = Field(default=DEFAULT_ALPHA, ge=0, le=1)
    reranker: BaseDocumentCompressor | Score | None = None
    depth: int = Field(default=50, gt=0)

    _index: SharedIndex = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Open the index."""
        self._index = SharedIndex(
            self.place,
            collection=self.collection,
            api_key=None if self.api_key is None else self.api_key.get_secret_value(),
            model=self.model_name,
            **self.load_settings(),
        )
        self._index.open()

    def model_copy(
        self, *, update: Mapping[str, Any] | None = None, deep: bool = False
    ) -> AutoRegRetriever:
        """Return a copy, which has the index that its own settings name."""
        changed = dict(update or {})
        if "place" in changed:
            changed["place"] = full_place(changed["place"])
        if changed.keys() & MODEL_NAMES:
            name = pop_model(changed)
            changed["model_name"] = None if name is None else full_name(name)
        if isinstance(key := changed.get("api_key"), str):
            changed["api_key"] = SecretStr(key)
        copied = super().model_copy(update=changed, deep=deep)
        copied.model_post_init(None)
        return copied

    def __copy__(self) -> AutoRegRetriever:
        copied = super().__copy__()
        copied._index = copy(self._index)  # each is closed by itself
        return copied

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, shown_place(value) if name == "place" else value

    @classmethod
    def from_index(cls, place: str | Path = DEFAULT_PLACE, **settings: Any) -> AutoRegRetriever:
        """Open an index; the other parameters are those of the class."""
        return cls(place=str(place), **settings)

    def index_reranker(self, **settings: Any) -> AutoRegReranker:
        """Return a reranker with the index's model; `settings` are others of `AutoRegReranker`."""
        model = pop_model(settings)
        name = self._index.model_name if model is None else model
        return AutoRegReranker(**{**self.load_settings(), **settings, "model_name": name})

    def close(self) -> None:
        """Let go of the index; calling it again does nothing, searching raises StoreError."""
        self._index.close()

    def __enter__(self) -> AutoRegRetriever:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        where: Conditions | None = None,
        hybrid: bool | None = None,
        alpha: float | None = None,
    ) -> list[Document]:
        """Find documents; what is None is as the retriever has it.

        Raises
        ------
        TypeError, ValueError
            The question is no text, or is empty; `k` is below 1, or `alpha`
            outside 0 to 1.
        StoreError
            The index cannot be searched, or was closed.
        """
        k = self.k if k is None else k
        documents = self._index.use(self._search(query, k, where, hybrid, alpha))
        reranker = self._chosen_reranker()
        if reranker is None:
            return documents
        callbacks = run_manager.get_child()
        return list(reranker.compress_documents(documents, query, callbacks))[:k]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        where: Conditions | None = None,
        hybrid: bool | None = None,
        alpha: float | None = None,
    ) -> list[Document]:
        """Do what `_get_relevant_documents` does without keeping the event loop."""
        k = self.k if k is None else k
        documents = await self._index.ause(self._search(query, k, where, hybrid, alpha))
        reranker = self._chosen_reranker()
        if reranker is None:
            return documents
        callbacks = run_manager.get_child()
        return list(await reranker.acompress_documents(documents, query, callbacks))[:k]

    def _search(
        self,
        query: str,
        k: int,
        where: Conditions | None,
        hybrid: bool | None,
        alpha: float | None,
    ) -> Callable[[Index], list[Document]]:
        """Return what is to be done with the index."""
        check_question(query)
        if k < 1:
            raise ValueError(f"k is {k}; it must be 1 or more")
        count = k if self.reranker is None else max(k, self.depth)
        conditions = self.where if where is None else where
        fused = self.hybrid if hybrid is None else hybrid
        weight = self.alpha if alpha is None else alpha

        def search(index: Index) -> list[Document]:
            (hits,) = index.search([query], count, where=conditions, hybrid=fused, alpha=weight)
            return [_document(hit) for hit in hits]

        return search

    def _chosen_reranker(self) -> BaseDocumentCompressor | None:
        if not isinstance(self.reranker, str):
            return self.reranker
        return self.index_reranker(score=self.reranker)


def _document(hit: Hit) -> Document:
    chunk = hit.chunk
    return Document(
        id=chunk.id,
        page_content=chunk.text,
        metadata={
            **chunk.metadata,
            # As the payload of a point in Qdrant shows them to LangChain's own store.
            "start": chunk.start,
            "end": chunk.end,
            SOURCE: chunk.source,
            RETRIEVAL_SCORE: hit.score,
            RETRIEVAL_SCORES: dict(hit.scores),
        },
    )
