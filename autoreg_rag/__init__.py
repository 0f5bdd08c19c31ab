"""Retrieval with embeddings that follow an LLM's autoregressive nature (AutoRegEmbed).

Names are loaded when they are first used, so that importing the package costs
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoreg_rag.config import AutoRegConfig as AutoRegConfig
    from autoreg_rag.corpus.records import Chunk as Chunk
    from autoreg_rag.corpus.records import Hit as Hit
    from autoreg_rag.errors import AutoRegError as AutoRegError
    from autoreg_rag.index.index import Index as Index
    from autoreg_rag.index.indexer import Indexer as Indexer
    from autoreg_rag.model import AutoRegModel as AutoRegModel
    from autoreg_rag.rerank import Reranker as Reranker
    from llama_index.embeddings.autoreg import AutoRegEmbedding as AutoRegEmbedding

_PLACES = {
    "AutoRegConfig": "autoreg_rag.config",
    "AutoRegEmbedding": "llama_index.embeddings.autoreg",
    "AutoRegError": "autoreg_rag.errors",
    "AutoRegModel": "autoreg_rag.model",
    "Chunk": "autoreg_rag.corpus.records",
    "Hit": "autoreg_rag.corpus.records",
    "Index": "autoreg_rag.index.index",
    "Indexer": "autoreg_rag.index.indexer",
    "Reranker": "autoreg_rag.rerank",
}

# Without what needs an extra, so that a star import works without extras.
__all__ = [  # noqa: RUF022 - in the order in which a reader meets them
    "AutoRegModel",
    "AutoRegConfig",
    "Indexer",
    "Index",
    "Reranker",
    "Hit",
    "Chunk",
    "AutoRegError",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_PLACES[name]), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("llama_index"):
            raise ImportError(
                f"{name} needs LlamaIndex: pip install 'autoreg-rag[llama-index]'"
            ) from error
        raise


def __dir__() -> list[str]:
    return sorted(_PLACES)
