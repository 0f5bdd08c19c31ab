"""autoreg-rag for LangChain."""
