"""autoreg-rag's reranker for LlamaIndex."""
