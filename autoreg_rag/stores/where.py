"""A filter, checked and sorted by the type of its values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoreg_rag.corpus.readers.encoding import storable
from autoreg_rag.corpus.records import Chunk, Scalar
from autoreg_rag.errors import StoreError
from autoreg_rag.stores.base import Where

SOURCE = "source"
"""The key that stands for the chunk's source, whatever its metadata holds."""


@dataclass(frozen=True, slots=True)
class Condition:
    """The values that one key may have.

    A number equals a number of the same value, be it whole or not; a truth
    value equals only itself.
    """

    key: str
    texts: list[str] = field(default_factory=list)
    numbers: list[int | float] = field(default_factory=list)
    flags: list[bool] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether no value can meet the condition."""
        return not (self.texts or self.numbers or self.flags)


def conditions(where: Where | None) -> list[Condition]:
    """Return one condition for each key of a filter; all must be met.

    Raises
    ------
    StoreError
        If a value is neither text, nor a finite number, nor true or false; a key is
        no text; or the filter is no mapping.
    """
    if where is not None and not isinstance(where, Mapping):
        raise StoreError(f"a filter gives values by key, and {where!r} does not")
    found = []
    for key, wanted in (where or {}).items():
        if not isinstance(key, str):
            raise StoreError(f"cannot filter by the key {key!r}: use text")
        condition = Condition(storable(key))  # as readers leave keys, too
        values: Sequence[object] = [wanted]
        if isinstance(wanted, Sequence) and not isinstance(wanted, str | bytes):
            values = wanted
        for value in values:
            if isinstance(value, bool):
                condition.flags.append(value)
            elif isinstance(value, str):
                condition.texts.append(storable(value))  # as readers leave it; SQLite cuts at NUL
            elif isinstance(value, int | float) and _is_finite(key, value):
                condition.numbers.append(value)
            else:
                raise StoreError(
                    f"cannot filter '{key}' by {value!r}: use text, a number, true or false"
                )
        found.append(condition)
    return found


def _is_finite(key: str, number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        # Too long for a float, and maybe for a message, too.
        raise StoreError(f"cannot filter '{key}' by a number that large") from None


def matches(chunk: Chunk, where: Where) -> bool:
    """Tell whether a chunk meets a filter, as a store's own search does."""
    return all(
        _meets(
            chunk.source if condition.key == SOURCE else chunk.metadata.get(condition.key),
            condition,
        )
        for condition in conditions(where)
    )


def _meets(value: Scalar | None, condition: Condition) -> bool:
    if isinstance(value, bool):
        return value in condition.flags
    return value in (condition.texts if isinstance(value, str) else condition.numbers)
