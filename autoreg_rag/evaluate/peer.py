"""A sentence-transformers model in the place of ours, to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoreg_rag.errors import ModelError, first_line
from autoreg_rag.evaluate.optional import require
from autoreg_rag.stores.base import Vectors


class SentenceTransformerPeer:
    """A sentence-transformers model as an `Encoder`, with its own prompts.

    Parameters
    ----------
    model
        A folder, or a name that sentence-transformers resolves.
    device
        Where it runs; sentence-transformers' choice by default.
    batch_size
        Texts that it reads at once.

    Raises
    ------
    EvaluationError
        sentence-transformers is not installed.
    ModelError
        It cannot load the model.
    """

    def __init__(self, model: str, *, device: str | None = None, batch_size: int = 32) -> None:
        package = require("sentence_transformers", "sentence-transformers>=5.1")
        self.batch_size = batch_size
        self.name = Path(model).name if Path(model).is_dir() else model
        try:
            self._model = package.SentenceTransformer(model, device=device)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"sentence-transformers cannot load {model}: {first_line(error)}"
            ) from error

    def encode_queries(self, texts: Sequence[str], *, show_progress: bool = False) -> Vectors:
        """Embed texts as questions."""
        vectors = self._model.encode_query(
            list(texts),
            batch_size=self.batch_size,
            normalize_embeddings=True,
            show_progress_bar=show_progress,
        )
        return np.asarray(vectors, dtype=np.float32)

    def encode_documents(self, texts: Sequence[str], *, show_progress: bool = False) -> Vectors:
        """Embed texts as passages."""
        vectors = self._model.encode_document(
            list(texts),
            batch_size=self.batch_size,
            normalize_embeddings=True,
            show_progress_bar=show_progress,
        )
        return np.asarray(vectors, dtype=np.float32)
