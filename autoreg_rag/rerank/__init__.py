"""Reranking: passages in the order of their likelihood under a question's vectors."""

from autoreg_rag.rerank.reranker import Reranker

__all__ = ["Reranker"]
