"""An index of autoreg-rag as a vector store of LlamaIndex."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, field_validator
from llama_index.core.schema import (
    BaseNode,
    NodeRelationship,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from autoreg_rag.corpus.readers.encoding import storable
from autoreg_rag.corpus.records import Chunk, Hit
from autoreg_rag.errors import StoreError
from autoreg_rag.fusion import DEFAULT_ALPHA
from autoreg_rag.index.hybrid import HybridSearch, best
from autoreg_rag.index.index import model_of
from autoreg_rag.model import DEFAULT
from autoreg_rag.stores import Store, Vectors, Where, full_place, open_store, shown_place
from autoreg_rag.stores.names import COLLECTION, DEFAULT_PLACE
from autoreg_rag.stores.where import SOURCE, matches
from llama_index.embeddings.autoreg import AutoRegEmbedding
from llama_index.embeddings.autoreg.settings import FromDump
from llama_index.vector_stores.autoreg.filters import alternatives

_INDEX = ("place", "collection", "api_key")
"""The fields that say which index it is."""


class AutoRegVectorStore(FromDump, BasePydanticVectorStore):
    """An index that ``python -m autoreg_rag.index`` made, of either kind, open for reading.

    What a query finds are text nodes with the passage as text, its offsets, its
    metadata and its file as source document; ``similarity`` is the cosine, or in the
    mode ``hybrid`` its fusion with BM25 (`autoreg_rag.fusion.hybrid_scores`). Neither
    an embedding nor an LLM reads the metadata. Files are added and removed by
    indexing the corpus again, which an open store of FAISS or of a Qdrant server sees.
    Copies share the open index.

    Parameters
    ----------
    place
        The folder, or the URL of a Qdrant server; by default ``autoreg-index``.
    api_key, collection
        For a Qdrant server.

    Raises
    ------
    pydantic.ValidationError
        An argument is unknown or wrong.
    StoreError
        There is no index, or it cannot be opened.
    """

    model_config = ConfigDict(extra="forbid")

    stores_text: bool = Field(default=True, frozen=True)
    place: str = Field(default=DEFAULT_PLACE, frozen=True, validate_default=True)
    collection: str = Field(default=COLLECTION, frozen=True)
    api_key: str | None = Field(default=None, frozen=True, exclude=True, repr=False)

    _store: Store = PrivateAttr()
    _hybrid: HybridSearch = PrivateAttr()

    @field_validator("place", mode="before")
    @classmethod
    def _in_full(cls, place: Any) -> Any:
        return full_place(place) if isinstance(place, str | Path) else place

    def model_post_init(self, context: Any, /) -> None:
        """Open the index."""
        self._store = open_store(self.place, api_key=self.api_key, collection=self.collection)
        self._hybrid = HybridSearch(self._store)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, which shares the open index unless it is to have another one."""
        changed = dict(update or {})
        if "place" in changed:
            changed["place"] = full_place(changed["place"])
        copied = super().model_copy(update=changed, deep=deep)
        if any(getattr(copied, name) != getattr(self, name) for name in _INDEX):
            copied.model_post_init(None)
        return copied

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, shown_place(value) if name == "place" else value

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> AutoRegVectorStore:
        # An embedded Qdrant admits no second one, and locks cannot be copied.
        memo = {} if memo is None else memo
        memo |= {id(one): one for one in (self._store, self._hybrid)}
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex's own would try to pickle the open index, and log that it cannot.
        return {"__dict__": dict(self.__dict__)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # LlamaIndex's own would hide that the index cannot be opened.
        self.__init__(**state["__dict__"])  # type: ignore[misc]

    @classmethod
    def class_name(cls) -> str:
        """Return the name that dumps of the store carry."""
        return "AutoRegVectorStore"

    @classmethod
    def from_index(
        cls,
        place: str | Path = DEFAULT_PLACE,
        *,
        api_key: str | None = None,
        collection: str = COLLECTION,
    ) -> AutoRegVectorStore:
        """Open an index; the parameters are those of the class."""
        return cls(place=str(place), api_key=api_key, collection=collection)

    def embedding(self, **settings: Any) -> AutoRegEmbedding:
        """Return the embedding that made the index's vectors.

        Parameters
        ----------
        **settings
            Of `AutoRegEmbedding`: ``device``, ``model_name`` if the model has moved,
            an instruction if the index was made with another than the model's.

        Returns
        -------
        AutoRegEmbedding
            It raises a `FingerprintError` at its first use if its model is not the
            one that the index was made with.

        Raises
        ------
        ModelNotFoundError
            The model has moved, and no other is named.
        """
        manifest = self._store.manifest
        model = settings.pop("model_name", None)
        name = model_of(manifest) if model is None else model
        chosen = {"fingerprint": manifest.fingerprint, **settings, "model_name": name}
        return AutoRegEmbedding(**chosen)

    @property
    def client(self) -> Store:
        """The store of autoreg-rag."""
        return self._store

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find the passages of highest cosine, or by cosine and words, best first.

        A query vector that is not of unit length, such as the mean of several, is
        brought to it. The first search in the mode ``hybrid`` reads all texts, and so
        does the first one after files were indexed; ``hybrid_top_k`` takes the place of
        ``similarity_top_k``, and ``alpha`` weighs the cosine, from 0, BM25 alone, to 1;
        by default both count alike.

        Raises
        ------
        ValueError
            There is no query vector, or no question in the mode ``hybrid``; the question
            is blank; or the index cannot search as is asked: only in the modes ``default``
            and ``hybrid``, with filters of ``==`` and ``in``, an ``alpha`` from 0 to 1,
            and no other keywords.
        StoreError
            The vector is of another dimension than the index, and so of another
            model.
        """
        if kwargs:
            raise ValueError(f"the index takes no {', '.join(kwargs)}: use filters or doc_ids")
        mode = VectorStoreQueryMode(query.mode)  # a query takes its name as well
        if mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.HYBRID):
            raise ValueError(f"the index cannot be queried in mode '{mode.value}'")
        if query.node_ids:
            raise ValueError("the index cannot search among node_ids: use doc_ids or filters")
        question = query.query_str
        is_needed = query.query_embedding is None or query.mode == VectorStoreQueryMode.HYBRID
        # LlamaIndex does not embed the empty text: beside a vector it stands for none.
        if question is not None and not question.strip() and (question or is_needed):
            raise ValueError("the question is empty")
        vector = self._unit(query.query_embedding)
        wanted = alternatives(query.filters, query.doc_ids or None)
        if query.mode == VectorStoreQueryMode.HYBRID:
            hits = self._by_both(query, vector, wanted)
        else:
            k = query.similarity_top_k
            found = [self._store.search(vector, k, where)[0] for where in wanted]
            hits = best(found, k)
        return VectorStoreQueryResult(
            nodes=[_node(hit.chunk) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.chunk.id for hit in hits],
        )

    def _by_both(
        self, query: VectorStoreQuery, vector: Vectors, wanted: Sequence[Where]
    ) -> list[Hit]:
        if query.query_str is None:
            raise ValueError("the mode 'hybrid' needs the question: query through a retriever")
        question = storable(query.query_str)
        k = query.similarity_top_k if query.hybrid_top_k is None else query.hybrid_top_k
        alpha = DEFAULT_ALPHA if query.alpha is None else query.alpha
        (hits,) = self._hybrid.search([question], vector, k, wanted, alpha)
        return hits

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do what `query` does, in another thread."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Return the nodes of these ids that are there, or all, that meet the filters."""
        wanted = alternatives(filters)
        if node_ids is None:
            chunks = self._store.chunks()
        else:
            present = self._store.present(node_ids)
            chunks = iter(self._store.get([id_ for id_ in node_ids if id_ in present]))
        return [_node(chunk) for chunk in chunks if any(matches(chunk, one) for one in wanted)]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Do what `get_nodes` does, in another thread."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Refuse: an index takes files, so that it can tell which have changed.

        Raises
        ------
        StoreError
            Always, unless there are no nodes.
        """
        if nodes:
            raise self._read_only()
        return []

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Refuse: see `add`."""
        raise self._read_only()

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Refuse: see `add`."""
        raise self._read_only()

    def clear(self) -> None:
        """Refuse: see `add`."""
        raise self._read_only()

    def close(self) -> None:
        """Release the index; calling it again does nothing."""
        self._store.close()

    def __enter__(self) -> AutoRegVectorStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _unit(self, embedding: list[float] | None) -> Vectors:
        if embedding is None:
            raise ValueError("the query has no vector: query through a retriever with an embedding")
        vector = np.asarray([embedding], dtype=np.float32)
        manifest = self._store.manifest
        if vector.shape[1] != manifest.dimension:
            raise StoreError(
                f"the query vector has {vector.shape[1]} numbers, those of the index have "
                f"{manifest.dimension}: use the embedding of the index, which embedding() returns"
            )
        norm = np.linalg.norm(vector)
        if not norm:
            raise ValueError("the query vector is zero")
        unit: Vectors = vector / norm
        return unit

    def _read_only(self) -> StoreError:
        options = self._store.options().replace("NEW_DIR", shlex.quote(self.place))
        options = options.replace("NEW_NAME", shlex.quote(self.collection))
        model = self._store.manifest.model
        if model != DEFAULT:
            options += f" --model {shlex.quote(model)}"
        return StoreError(
            f"{shown_place(self.place)} cannot be changed through LlamaIndex: change the files of "
            f"its corpus and run 'python -m autoreg_rag.index CORPUS {options}' again, with the "
            "options that it was made with: that adds, replaces and removes"
        )


def _node(chunk: Chunk) -> TextNode:
    metadata = {**chunk.metadata, SOURCE: chunk.source}
    return TextNode(
        id_=chunk.id,
        text=chunk.text,
        start_char_idx=chunk.start,
        end_char_idx=chunk.end,
        metadata=metadata,
        excluded_embed_metadata_keys=list(metadata),
        excluded_llm_metadata_keys=list(metadata),
        relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(
                node_id=chunk.source, node_type=ObjectType.DOCUMENT
            )
        },
    )
