"""autoreg-rag's embedding for LlamaIndex."""

from llama_index.embeddings.autoreg.base import AutoRegEmbedding

__all__ = ["AutoRegEmbedding"]
