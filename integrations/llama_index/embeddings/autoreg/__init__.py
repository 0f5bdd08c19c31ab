"""autoreg-rag's embedding for LlamaIndex."""
