"""What a store asks of the chunks and vectors that it is given."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.errors import StoreError
from autoreg_rag.stores.base import Vectors


def checked_queries(queries: Vectors, k: int, dimension: int) -> Vectors:
    """Return queries as contiguous float32 [n, d].

    Raises
    ------
    StoreError
        If they are not of this dimension or not finite, or if `k` is less than 1.
    """
    if k < 1:
        raise StoreError(f"cannot search for {k} chunks: ask for 1 or more")
    return _checked_vectors(queries, len(queries), dimension)


def checked_batch(
    chunks: Sequence[Chunk], vectors: Vectors, dimension: int
) -> tuple[list[Chunk], Vectors, list[str]]:
    """Return the chunks, of an id that comes twice only the last, and what belongs to them.

    Returns
    -------
    chunks, vectors, metadata
        The metadata as `encoded_metadata` gives it.

    Raises
    ------
    StoreError
        If there is not one finite vector of this dimension for each chunk, or
        if a chunk holds what UTF-8 or JSON cannot.
    """
    array = _checked_vectors(vectors, len(chunks), dimension)
    metadata = encoded_metadata(chunks)
    last = {chunk.id: place for place, chunk in enumerate(chunks)}
    places = list(last.values())
    return [chunks[place] for place in places], array[places], [metadata[place] for place in places]


def encoded_metadata(chunks: Sequence[Chunk]) -> list[str]:
    """Return each chunk's metadata as a JSON object.

    Raises
    ------
    StoreError
        If a chunk, its text included, holds what UTF-8 or JSON cannot.
    """
    encoded = []
    for chunk in chunks:
        try:
            metadata = json.dumps(dict(chunk.metadata), ensure_ascii=False, allow_nan=False)
            (chunk.text + chunk.source + metadata).encode()
        except UnicodeEncodeError as error:
            raise StoreError(
                f"a chunk of {chunk.source!r} cannot be stored: it holds half a character ({error})"
            ) from error
        except (TypeError, ValueError) as error:
            raise StoreError(f"metadata of {chunk.source!r} cannot be stored: {error}") from error
        encoded.append(metadata)
    return encoded


def _checked_vectors(vectors: Vectors, count: int, dimension: int) -> Vectors:
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.shape != (count, dimension):
        raise StoreError(
            f"the index takes vectors of shape {(count, dimension)}, these are {array.shape}"
        )
    if not np.isfinite(array).all():
        raise StoreError("a vector holds a value that is not finite: check the model")
    return array
