"""LlamaIndex's metadata filters in terms of the index's own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from autoreg_rag.corpus.records import Scalar
from autoreg_rag.stores.where import SOURCE

Alternative = dict[str, list[Scalar]]
"""A filter of the index: every key must have one of its values."""

MOST_ALTERNATIVES = 64

_DOCUMENT_KEYS = {"doc_id", "document_id", "ref_doc_id"}
"""What LlamaIndex calls a chunk's source."""


def alternatives(
    filters: MetadataFilters | None, sources: Sequence[str] | None = None
) -> list[Alternative]:
    """Return filters of which a chunk must meet any.

    Parameters
    ----------
    filters
        ``==`` and ``in``, joined by ``and`` and ``or`` to any depth.
    sources
        What the source must be one of; None leaves it open.

    Raises
    ------
    ValueError
        The index cannot filter like that, or there are too many alternatives.
    """
    found = _group(filters) if filters is not None else [{}]
    if sources is not None:
        among: Alternative = {SOURCE: list(sources)}
        found = [merged for one in found if (merged := _both(one, among)) is not None]
    return found


def _group(group: MetadataFilters) -> list[Alternative]:
    parts = [
        _group(part) if isinstance(part, MetadataFilters) else _single(part)
        for part in group.filters
    ]
    if group.condition == FilterCondition.NOT:
        raise ValueError("the index cannot filter by 'not': use 'and', 'or', '==' and 'in'")
    if not parts:
        return [{}]
    if group.condition == FilterCondition.OR:
        return _bounded([one for part in parts for one in part])
    found: list[Alternative] = [{}]
    for part in parts:
        pairs = product(found, part)
        found = _bounded([merged for pair in pairs if (merged := _both(*pair)) is not None])
    return found


def _single(single: MetadataFilter) -> list[Alternative]:
    operator, value = single.operator, single.value
    if operator == FilterOperator.EQ and isinstance(value, str | int | float):
        values: list[Scalar] = [value]
    elif operator == FilterOperator.IN and isinstance(value, list):
        values = list(value)
    else:
        raise ValueError(
            f"the index cannot filter by '{single.key} {operator.value} {value!r}': "
            "use '==' with one value, or 'in' with a list"
        )
    # A record may have a field of that name, which its node shows too.
    keys = [SOURCE, single.key] if single.key in _DOCUMENT_KEYS else [single.key]
    return [{key: values} for key in keys]


def _both(one: Alternative, other: Alternative) -> Alternative | None:
    """Return the filter that asks for both, None if nothing can meet it."""
    merged = one | other
    for key in one.keys() & other.keys():
        merged[key] = [value for value in one[key] if value in other[key]]
    return merged if all(merged.values()) else None


def _bounded(found: list[Alternative]) -> list[Alternative]:
    if len(found) > MOST_ALTERNATIVES:
        raise ValueError(
            f"the filter has {len(found)} alternatives, more than {MOST_ALTERNATIVES}: "
            "use 'in' in place of 'or' where the key is the same"
        )
    return found
