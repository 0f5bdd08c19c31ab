"""A file of vectors, row by row, that only grows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoreg_rag.stores.base import Vectors
from autoreg_rag.stores.faults import damaged

Rows = NDArray[np.int64]

_BLOCK_BYTES = 32 * 2**20


class Matrix:
    """A matrix in a file, float32 or float16, without a header.

    Parameters
    ----------
    path
        The file; its ending, ``.f32`` or ``.f16``, tells the type.
    dimension
        d, the length of a row.
    """

    def __init__(self, path: Path, dimension: int) -> None:
        self.path = path
        self.dimension = dimension
        self.dtype = np.dtype("<f2" if path.suffix == ".f16" else "<f4")
        self.row_bytes = dimension * self.dtype.itemsize

    def write(self, start: int, vectors: Vectors) -> None:
        """Write rows from row `start` on; they are on the disk when this returns."""
        with self.path.open("r+b") as file:
            file.seek(start * self.row_bytes)
            file.write(vectors.astype(self.dtype).tobytes())
            file.flush()
            os.fsync(file.fileno())

    def truncate(self, rows: int) -> None:
        """Cut off what lies beyond the first `rows` rows."""
        if self.path.stat().st_size > rows * self.row_bytes:
            os.truncate(self.path, rows * self.row_bytes)

    def check(self, rows: int) -> None:
        """Raise a `StoreError` if the file has fewer rows than it should have."""
        size = self.path.stat().st_size
        if size < rows * self.row_bytes:
            raise damaged(self.path, f"{size:,} bytes instead of {rows * self.row_bytes:,}")

    def mapped(self, start: int, stop: int) -> NDArray[np.generic]:
        """Return rows [start, stop) as they are in the file, mapped into memory."""
        shape = (stop - start, self.dimension)
        if start == stop:
            return np.empty(shape, self.dtype)
        return np.memmap(self.path, self.dtype, "r", start * self.row_bytes, shape)


def spans(start: int, stop: int, dimension: int) -> Iterator[tuple[int, int]]:
    """Divide rows [start, stop) into spans that fit into memory, converted to float32."""
    step = max(1, _BLOCK_BYTES // (4 * dimension))
    for low in range(start, stop, step):
        yield low, min(low + step, stop)


def take(matrix: NDArray[np.generic], rows: Rows) -> Vectors:
    """Return some rows, in ascending order, as float32; without a copy where it can be."""
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return np.asarray(matrix[rows[0] : rows[-1] + 1], dtype=np.float32)
    return np.asarray(matrix[rows], dtype=np.float32)
