"""The contract between the evaluation and the models it measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from autoreg_rag.stores.base import Vectors


class Encoder(Protocol):
    """What embeds queries and documents: `AutoRegModel`, or a peer of it."""

    @property
    def name(self) -> str:
        """What tables call the model."""

    def encode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> Vectors:
        """Embed texts as questions."""

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> Vectors:
        """Embed texts as passages."""
