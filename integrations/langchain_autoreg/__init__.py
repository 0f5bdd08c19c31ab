"""autoreg-rag for LangChain: embeddings, a retriever, a reranker and a chat model."""

from __future__ import annotations

try:
    import langchain_core as _langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    raise ImportError(
        "langchain_autoreg needs LangChain: pip install 'autoreg-rag[langchain]'"
    ) from error

from langchain_autoreg.chat_models import AutoRegChat
from langchain_autoreg.embeddings import AutoRegEmbeddings
from langchain_autoreg.rerankers import AutoRegReranker
from langchain_autoreg.retrievers import AutoRegRetriever

__all__ = ["AutoRegChat", "AutoRegEmbeddings", "AutoRegReranker", "AutoRegRetriever"]
