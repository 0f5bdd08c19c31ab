"""The store of Qdrant, embedded or on a server."""
