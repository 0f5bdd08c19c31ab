"""Retrieval with embeddings that follow an LLM's autoregressive nature (AutoRegEmbed)."""
