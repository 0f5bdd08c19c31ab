"""autoreg-rag's frozen base as an LLM of LlamaIndex."""

from llama_index.llms.autoreg.base import AutoRegLLM

__all__ = ["AutoRegLLM"]
