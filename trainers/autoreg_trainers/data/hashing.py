"""Hashes of token ids: of all rows, to bind computed numbers to them, and of each text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pyarrow as pa
from datasets import Dataset, LargeList, List, Value

_BATCH_ROWS = 4096


def rows_hash(dataset: Dataset) -> str:
    """Return the SHA-256 of all token ids and flags of a dataset, in the order of its rows.

    Columns of token ids and of truth values count with their names, whatever their
    order; other columns do not. How the rows are stored makes no difference.
    """
    names = sorted(name for name, kind in dataset.features.items() if _counts(kind))
    digests = {name: hashlib.sha256() for name in names}
    lengths = {name: hashlib.sha256() for name in names}
    for table in dataset.select_columns(names).with_format("arrow").iter(_BATCH_ROWS):
        for name in names:
            column = table.column(name).combine_chunks()
            while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
                lengths[name].update(_bytes(column.value_lengths()))
                column = column.flatten()
            digests[name].update(_bytes(column))
    whole = hashlib.sha256(f"{len(dataset)}".encode())
    for name in names:
        whole.update(f"\0{name}\0".encode() + lengths[name].digest() + digests[name].digest())
    return whole.hexdigest()


def digests(column: pa.ChunkedArray) -> Iterator[bytes]:
    """Yield a digest of the token ids of each text."""
    for chunk in column.chunks:
        ids, offsets = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        for start, end in pairwise(offsets):
            yield hashlib.blake2b(ids[start:end].tobytes(), digest_size=16).digest()


def _counts(kind: Any) -> bool:
    """Tell truth values, lists of whole numbers, and lists of such lists from other columns."""
    if isinstance(kind, Value):
        return str(kind.dtype) == "bool"
    if isinstance(kind, (List, LargeList)):
        inner = kind.feature
        return _counts(inner) or (isinstance(inner, Value) and "int" in inner.dtype)
    return False


def _bytes(column: Any) -> bytes:
    data: bytes = column.to_numpy(zero_copy_only=False).astype("<i8").tobytes()
    return data
