"""Rows held back from training, that share nothing with those trained on."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Hashable, Iterator

from datasets import Dataset

from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.hashing import digests

logger = logging.getLogger(__name__)

_TEXTS = ("query", "positive", "context", "target")
_BATCH_ROWS = 4096

_LARGE = 20
"""A set of rows that belong together is large from this part of the rows asked for."""


def held_back(dataset: Dataset, rows: int, seed: int) -> tuple[Dataset, Dataset]:
    """Split rows in two that share no group and no text.

    Rows belong together if they have the same ``group``, or if a query,
    positive, context or target of one is one of the other; what belongs
    together stays on one side. Small such sets are held back first, in an order
    that depends on `seed` and on the groups' names alone, so that rows of
    different datasets that are made of the same records tend to be held back
    together.

    Parameters
    ----------
    dataset
        Triplets or compression rows.
    rows
        How many to hold back; fewer are where rows belong together in sets too
        large, with a warning.
    seed
        Of the choice.

    Returns
    -------
    tuple of Dataset
        Rows to train on and rows held back, both in the order of `dataset`.

    Raises
    ------
    DataError
        `rows` is negative or leaves nothing to train on, or nothing can be held back.
    """
    if not 0 <= rows < max(1, len(dataset)):
        raise DataError(
            f"{rows} rows are to be held back of {len(dataset)}; it must be 0 or more, and fewer "
            "than there are"
        )
    held: set[int] = set()
    if rows:
        together = _together(dataset)
        order = sorted(
            together, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest()
        )
        # A large set would make up much of the rows held back by itself.
        order.sort(key=lambda name: len(together[name]) * _LARGE > rows + _LARGE)
        for name in order:
            if len(held) + len(together[name]) <= rows:
                held.update(together[name])
        if not held:
            raise DataError(
                f"no {rows} rows can be held back: in each smaller part a group or a text "
                "is also in the rest; set held_back to 0, or max_group if groups are topics"
            )
        if len(held) < rows:
            logger.warning(
                "%d rows are held back, not %d: the others belong together in larger sets",
                len(held),
                rows,
            )
    train = [row for row in range(len(dataset)) if row not in held]
    return dataset.select(train), dataset.select(sorted(held))


def _together(dataset: Dataset) -> dict[str, list[int]]:
    """Return the rows that belong together, by the first name of a group among them."""
    parents: list[int] = list(range(len(dataset)))
    seen: dict[Hashable, int] = {}

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    groups: list[str] = []
    for row, (group, texts) in enumerate(_marks(dataset)):
        groups.append(group)
        for mark in (group, *texts):
            parents[root(row)] = root(seen.setdefault(mark, row))
    sets: dict[int, list[int]] = defaultdict(list)
    for row in range(len(dataset)):
        sets[root(row)].append(row)
    return {min(groups[row] for row in members): members for members in sets.values()}


def _marks(dataset: Dataset) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """Yield each row's group, and a digest of the ids of each of its texts."""
    names = [name for name in _TEXTS if name in dataset.column_names]
    for table in dataset.select_columns(["group", *names]).with_format("arrow").iter(_BATCH_ROWS):
        groups = table.column("group").to_pylist()
        texts = zip(*(digests(table.column(name)) for name in names), strict=True)
        yield from zip(groups, texts, strict=True)
