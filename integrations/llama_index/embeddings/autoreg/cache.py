"""Vectors in a key-value store, told apart by role and model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore

Role = Literal["query", "document"]

_COLLECTION = "embeddings"
_VECTOR = "embedding"


class VectorCache(BaseKVStore):
    """A key-value store of vectors, under keys of model, role and text.

    LlamaIndex itself keys a vector by its text alone, so that a question gets the
    vector of the equal passage, and a model that of another. This one counts as
    false, which makes LlamaIndex leave it alone; `AutoRegEmbedding` looks into it.

    Parameters
    ----------
    store
        Where the vectors are kept.
    """

    def __init__(self, store: BaseKVStore) -> None:
        self.store = store

    def __bool__(self) -> bool:
        return False

    @staticmethod
    def keys(fingerprint: str, role: Role, texts: Sequence[str]) -> list[str]:
        """Return the key of each text's vector; TypeError if one is no text."""
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a list of texts is needed, each of them a str")
        return [
            f"{fingerprint}-{role}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"
            for text in texts
        ]

    def vectors(self, keys: Sequence[str]) -> dict[str, list[float]]:
        """Return the vectors that are there, by key."""
        entries = {key: self.get(key, _COLLECTION) for key in keys}
        return {key: entry[_VECTOR] for key, entry in entries.items() if entry}

    async def avectors(self, keys: Sequence[str]) -> dict[str, list[float]]:
        """Return the vectors that are there, by key."""
        entries = {key: await self.aget(key, _COLLECTION) for key in keys}
        return {key: entry[_VECTOR] for key, entry in entries.items() if entry}

    def keep(self, vectors: dict[str, list[float]]) -> None:
        """Store vectors by their keys."""
        for key, vector in vectors.items():
            self.put(key, {_VECTOR: vector}, _COLLECTION)

    async def akeep(self, vectors: dict[str, list[float]]) -> None:
        """Store vectors by their keys."""
        for key, vector in vectors.items():
            await self.aput(key, {_VECTOR: vector}, _COLLECTION)

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Put into the store."""
        self.store.put(key, val, collection)

    async def aput(
        self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION
    ) -> None:
        """Put into the store."""
        await self.store.aput(key, val, collection)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Get from the store."""
        return self.store.get(key, collection)

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Get from the store."""
        return await self.store.aget(key, collection)

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Get all of a collection from the store."""
        return self.store.get_all(collection)

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Get all of a collection from the store."""
        return await self.store.aget_all(collection)

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete from the store."""
        return self.store.delete(key, collection)

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Delete from the store."""
        return await self.store.adelete(key, collection)
