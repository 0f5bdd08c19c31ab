"""autoreg-rag's reranker for LlamaIndex."""

from llama_index.postprocessor.autoreg_rerank.base import AutoRegRerank

__all__ = ["AutoRegRerank"]
