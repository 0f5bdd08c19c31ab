"""Stores: where chunks and vectors are kept and searched.

Opening one imports its library, FAISS or Qdrant's client, and not before.
"""

from autoreg_rag.stores.base import FileRecord, Manifest, Store, Vectors, Where
from autoreg_rag.stores.fingerprint import check_fingerprint
from autoreg_rag.stores.location import (
    Kind,
    check_url,
    create_store,
    full_place,
    open_store,
    shown_place,
)

__all__ = [
    "FileRecord",
    "Kind",
    "Manifest",
    "Store",
    "Vectors",
    "Where",
    "check_fingerprint",
    "check_url",
    "create_store",
    "full_place",
    "open_store",
    "shown_place",
]
