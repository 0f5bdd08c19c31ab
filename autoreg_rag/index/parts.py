"""The parts of rerank scores that are computed when a corpus is indexed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from torch import Tensor
from tqdm.auto import tqdm

from autoreg_rag.corpus import Chunk
from autoreg_rag.model import AutoRegModel
from autoreg_rag.rerank.likelihoods import Likelihoods
from autoreg_rag.rerank.parts import fingerprint, has_parts, with_parts
from autoreg_rag.stores.base import Store


class ScoreParts:
    """Puts log p(d) and log p(d | e_d) into the metadata of chunks.

    Parameters
    ----------
    model
        The one that encodes them.
    """

    def __init__(self, model: AutoRegModel) -> None:
        self._model = model
        self._maker = fingerprint(model)
        self._likelihoods = Likelihoods(model)

    def added(self, chunks: Sequence[Chunk], latents: Tensor) -> list[Chunk]:
        """Return the chunks with their parts; `latents` are their e_d, [n, k, d]."""
        return with_parts(self._likelihoods, self._maker, chunks, latents)

    def complete(self, store: Store, size: int, *, show_progress: bool = False) -> int:
        """Add the parts to the chunks in a store that have none of this model.

        Each block is durable when the next one starts, so a run that is killed
        is continued by the next one. Everything else in the store stays.

        Parameters
        ----------
        store
            Open for writing.
        size
            How many chunks are scored between two commits.
        show_progress
            Draw a progress bar on standard error.

        Returns
        -------
        int
            How many chunks got their parts.
        """
        scored = 0
        with tqdm(
            total=len(store), unit="chunk", desc="score parts", disable=not show_progress
        ) as progress:
            chunks = self._missing(store, progress)
            while block := list(islice(chunks, size)):
                latents = self._model.compress([chunk.text for chunk in block])
                store.set_metadata(self.added(block, latents))
                scored += len(block)
        return scored

    def _missing(self, store: Store, progress: tqdm) -> Iterator[Chunk]:
        for chunk in store.chunks():
            if not has_parts(chunk.text, chunk.metadata, self._maker):
                yield chunk
            progress.update()
