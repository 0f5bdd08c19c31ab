"""autoreg-rag's index as a vector store of LlamaIndex."""

from llama_index.vector_stores.autoreg.base import AutoRegVectorStore

__all__ = ["AutoRegVectorStore"]
