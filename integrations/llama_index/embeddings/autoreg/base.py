"""AutoRegEmbed as an embedding model of LlamaIndex."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field, field_validator
from llama_index.core.storage.kvstore.types import BaseKVStore

from autoreg_rag.model import AutoRegModel
from llama_index.embeddings.autoreg.cache import Role, VectorCache
from llama_index.embeddings.autoreg.settings import ModelSettings


class AutoRegEmbedding(ModelSettings, BaseEmbedding):
    """Embeddings that follow an LLM's autoregressive nature (Deng et al. 2025).

    A query is embedded under I_next, "the text that answers this", a text under
    I_self, "this text itself", each as the model was trained to. Vectors have unit
    length. The model is loaded when it is first used, once per process for equal
    settings; threads take turns, and asynchronous calls do not keep the event loop.

    The fields, all of which are keyword arguments, are those of `ModelSettings`
    and of LlamaIndex's `BaseEmbedding`. The model's cannot be changed afterwards:
    make another embedding.

    Parameters
    ----------
    model_name
        By default the default model; else a folder, a GGUF file or a hub id.
    device, dtype, attention, token_budget
        See `autoreg_rag.AutoRegModel.from_pretrained`.
    query_instruction, document_instruction, pooling, max_length
        To change what is saved with the model, see `autoreg_rag.AutoRegConfig`.
    fingerprint
        What the model's must be. By default whatever it is; the field is None until
        the model is loaded, which serialising the embedding does, too.
    embed_batch_size
        Texts between two events; the model's own batches are made by tokens.
    embeddings_cache
        A key-value store of LlamaIndex. Its keys name model and role, so it can be
        shared by embeddings of different models. It is not part of a dictionary or
        of JSON.

    Raises
    ------
    pydantic.ValidationError
        An argument is unknown or wrong.
    ModelError, FingerprintError
        When first used: the model cannot be loaded, or is another.

    Examples
    --------
    >>> AutoRegEmbedding(max_length=256).model_name
    'default'
    """

    embed_batch_size: int = Field(
        default=256, gt=0, le=2048, description="The number of texts between two events."
    )
    embeddings_cache: Any | None = Field(
        default=None, exclude=True, frozen=True, description="A key-value store for vectors."
    )

    @field_validator("embeddings_cache")
    @classmethod
    def _told_apart(cls, cache: Any) -> Any:
        plain = isinstance(cache, BaseKVStore) and not isinstance(cache, VectorCache)
        return VectorCache(cache) if plain else cache

    @classmethod
    def class_name(cls) -> str:
        """Return the name that dumps of the embedding carry."""
        return "AutoRegEmbedding"

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._embed("query", [query])[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return (await self._aembed("query", [query]))[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._embed("document", [text])[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await self._aembed("document", [text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embed("document", texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await self._aembed("document", texts)

    def _embed(self, role: Role, texts: Sequence[str]) -> list[Embedding]:
        cache: VectorCache | None = self.embeddings_cache
        if cache is None:
            return self._use(_encoding(role, texts))
        keys = cache.keys(self._fingerprint(), role, texts)
        vectors = cache.vectors(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in vectors}
        if missing:
            encoded = self._use(_encoding(role, list(missing.values())))
            new = dict(zip(missing, encoded, strict=True))
            cache.keep(new)
            vectors |= new
        return [vectors[key] for key in keys]

    async def _aembed(self, role: Role, texts: Sequence[str]) -> list[Embedding]:
        cache: VectorCache | None = self.embeddings_cache
        if cache is None:
            return await self._ause(_encoding(role, texts))
        keys = cache.keys(await self._afingerprint(), role, texts)
        vectors = await cache.avectors(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in vectors}
        if missing:
            encoded = await self._ause(_encoding(role, list(missing.values())))
            new = dict(zip(missing, encoded, strict=True))
            await cache.akeep(new)
            vectors |= new
        return [vectors[key] for key in keys]


def _encoding(role: Role, texts: Sequence[str]) -> Callable[[AutoRegModel], list[Embedding]]:
    """Return what is to be done with the model."""

    def encode(model: AutoRegModel) -> list[Embedding]:
        encoder = model.encode_queries if role == "query" else model.encode_documents
        vectors: list[Embedding] = encoder(texts).tolist()
        return vectors

    return encode
