"""Which files a FAISS index consists of."""

from __future__ import annotations

from pathlib import Path

from autoreg_rag.stores.faiss.sidecar import State
from autoreg_rag.stores.faiss.vectors import Matrix

STORAGES = ("f32", "f16")
"""Endings of the matrix in single and in half precision."""


class Layout:
    """The paths of an index's files.

    Parameters
    ----------
    folder
        Where they are.
    storage
        One of `STORAGES`.
    dimension
        d, the length of a vector.
    """

    def __init__(self, folder: Path, storage: str, dimension: int) -> None:
        self._folder = folder
        self._storage = storage
        self._dimension = dimension

    def matrix(self, generation: int) -> Matrix:
        """Return the vectors of a generation."""
        return Matrix(self._folder / f"vectors-{generation}.{self._storage}", self._dimension)

    def approximate(self, generation: int, rows: int) -> Path:
        """Return the path of the approximate index over the first rows of a generation."""
        return self._folder / f"index-{generation}-{rows}.faiss"

    def sweep(self, state: State) -> None:
        """Delete the files of other states: a crash, or the last change, left them."""
        current = {
            self.matrix(state.generation).path,
            self.approximate(state.generation, state.indexed),
        }
        for pattern in ("vectors-*", "index-*.faiss*"):
            for path in self._folder.glob(pattern):
                if path not in current:
                    path.unlink()
