"""The error of training data that cannot be used."""

from __future__ import annotations

from autoreg_rag.errors import AutoRegError


class DataError(AutoRegError):
    """Training data is missing, unreadable or malformed, or is asked for in a wrong way."""
