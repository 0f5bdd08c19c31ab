"""The store of FAISS: vectors in a flat file, the rest in SQLite."""
