"""Approximate indexes of FAISS: HNSW and IVF, over the rows of a matrix."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from autoreg_rag.errors import StoreError
from autoreg_rag.stores.base import Vectors
from autoreg_rag.stores.faiss.vectors import Matrix, Rows, spans, take
from autoreg_rag.stores.folders import new_file
from autoreg_rag.stores.names import EXACT

_EF_SEARCH = 128
_TRAINING_ROWS = 65_536
_TRAINING_ROWS_PER_LIST = 64

_WHERE = re.compile(r"^Error in .* at \S+:\d+: (Error: )?")

_logger = logging.getLogger(__name__)


def check_factory(factory: str, dimension: int) -> None:
    """Raise a `StoreError` if a factory string cannot be used."""
    if factory != EXACT:
        _empty(factory, dimension)


class ApproximateIndex:
    """An index of the first `len` rows of a matrix.

    It may miss near rows, and above all some of many equal ones.

    Parameters
    ----------
    index
        HNSW or IVF, by inner product.
    effort
        ``efSearch`` of HNSW, ``nprobe`` of IVF: more finds more, and takes
        longer. None chooses 128, or the square root of the number of lists.
    """

    def __init__(self, index: Any, effort: int | None = None) -> None:
        self._index = index
        self._effort = effort

    @classmethod
    def open(cls, path: Path, effort: int | None) -> ApproximateIndex:
        """Map an index that `write` wrote into memory."""
        return cls(_read(path, faiss.IO_FLAG_MMAP_IFC), effort)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def search(
        self, queries: Vectors, k: int, alive: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], Rows]:
        """Return scores and rows [n, k] of the nearest rows, -1 where too few were found.

        Parameters
        ----------
        alive
            [rows]: which rows may be found.
        """
        bits = np.packbits(alive[: len(self)], bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        if isinstance(self._index, faiss.IndexHNSW):
            effort = self._effort or _EF_SEARCH
            parameters = faiss.SearchParametersHNSW(efSearch=max(effort, k), sel=selector)
        else:
            effort = self._effort or round(self._index.nlist**0.5)
            parameters = faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        scores, rows = self._index.search(queries, k, params=parameters)
        return scores, rows


def write(path: Path, factory: str, matrix: Matrix, rows: int, earlier: Path | None = None) -> bool:
    """Write an index of the first `rows` rows of a matrix.

    Parameters
    ----------
    path
        Where it goes, whole or not at all.
    factory
        A string as `faiss.index_factory` takes it.
    earlier
        An index of the same factory over fewer rows, to add the rest to. One that
        is trained is made anew whenever the rows reach another power of four.

    Returns
    -------
    bool
        Whether it was written. If the rows are too few to train it on, it is not, which
        is worth a warning only: a later run may find more.
    """
    index = _begun(factory, matrix.dimension, rows, earlier)
    if not index.is_trained:
        try:
            _train(index, _sample(index, matrix.mapped(0, rows)))
        except RuntimeError as error:
            _logger.warning(
                "%d vectors are too few to train '%s' on (%s): they are searched exactly until "
                "there are more",
                rows,
                factory,
                _reason(error),
            )
            return False
    try:
        for start, stop in spans(index.ntotal, rows, matrix.dimension):
            index.add(np.asarray(matrix.mapped(start, stop), dtype=np.float32))
        with new_file(path) as temporary:
            faiss.write_index(index, str(temporary))
    except RuntimeError as error:
        raise StoreError(
            f"FAISS cannot build '{factory}' over {rows} vectors ({_reason(error)}): choose "
            "another --faiss-factory; the index is complete and searched exactly until then"
        ) from error
    return True


def _begun(factory: str, dimension: int, rows: int, earlier: Path | None) -> Any:
    """Return the earlier index, or an empty one if there is none or it has to be trained again.

    No file says how many rows it was trained on. It was at the last power of four or
    later, so the rows never grow to four times those; and all the training that comes
    again costs a third of the last at most.
    """
    empty = _empty(factory, dimension)
    if earlier is None:
        return empty
    index = _read(earlier, 0)
    return index if empty.is_trained or _power(index.ntotal) == _power(rows) else empty


def _power(rows: int) -> int:
    """Return the largest power of four that is not above `rows`, as its exponent."""
    return (rows.bit_length() - 1) // 2


def _empty(factory: str, dimension: int) -> Any:
    try:
        index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise StoreError(
            f"FAISS cannot make the factory '{factory}' ({_reason(error)}): "
            "use Flat, HNSW32, IVF64,Flat or the like"
        ) from error
    has_lists = isinstance(index, faiss.IndexIVF) and index.nlist > 0
    is_known = has_lists or isinstance(index, faiss.IndexHNSW)
    if not is_known or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise StoreError(
            f"the FAISS factory '{factory}' is not supported here: "
            "use Flat, HNSW32, IVF64,Flat or the like"
        )
    graph = index if isinstance(index, faiss.IndexHNSW) else faiss.downcast_index(index.quantizer)
    if isinstance(graph, faiss.IndexHNSW) and graph.hnsw.cum_nneighbor_per_level.size() < 3:
        # FAISS ends the whole process when it adds to a graph that has no room for edges.
        raise StoreError(
            f"the FAISS factory '{factory}' makes a graph of fewer than 2 neighbours: "
            "use HNSW32 or the like"
        )
    return index


def _sample(index: Any, matrix: NDArray[np.generic]) -> Vectors:
    rows = len(matrix)
    size = _TRAINING_ROWS
    if isinstance(index, faiss.IndexIVF):
        size = max(size, _TRAINING_ROWS_PER_LIST * index.nlist)
    if rows <= size:
        return take(matrix, np.arange(rows))
    chosen = np.random.default_rng(0).choice(rows, size, replace=False)
    return take(matrix, np.sort(chosen))


def _train(index: Any, sample: Vectors) -> None:
    if isinstance(index, faiss.IndexIVF):
        wanted = index.cp.min_points_per_centroid * index.nlist
        if index.nlist <= len(sample) < wanted:
            _logger.warning(
                "%d vectors are few for %d lists; %d or more divide better",
                len(sample),
                index.nlist,
                wanted,
            )
        index.cp.min_points_per_centroid = 1  # FAISS would say the same on standard error
    index.train(sample)


def _read(path: Path, flags: int) -> Any:
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        path.stat()  # FAISS has one error for all; a file that is not there is a case of its own
        raise StoreError(
            f"{path} cannot be read ({_reason(error)}): delete it and run the index command "
            "again, which builds it anew"
        ) from error


def _reason(error: RuntimeError) -> str:
    """Return what FAISS says, without the C++ function and the condition that failed."""
    line = _WHERE.sub("", str(error).splitlines()[0])
    return "it cannot be read" if "stoi" in line else line.rsplit("failed: ")[-1]
