"""Names by which an index is found and chosen; free of heavy imports."""

from __future__ import annotations

DATABASE = "index.sqlite"
"""The file by which a folder is known to be a FAISS index."""

EXACT = "Flat"
"""The FAISS factory string that stands for no approximate index."""

QDRANT_STORAGE = "meta.json"
"""The file by which a folder is known to be an embedded Qdrant storage."""

COLLECTION = "autoreg"
"""The collection of a Qdrant index if none is named."""

DEFAULT_PLACE = "autoreg-index"
"""The folder of an index if none is named."""
