"""The error of pairs that cannot be made."""

from __future__ import annotations

from autoreg_rag.errors import AutoRegError


class SentencesError(AutoRegError):
    """Pairs of sentences cannot be made as asked."""
