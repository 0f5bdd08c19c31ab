"""How a chunk looks in Qdrant: to this project, to LangChain and to LlamaIndex alike.

LangChain reads ``page_content`` and ``metadata``. LlamaIndex reads
``_node_content``, a text node as JSON, and filters and deletes by ``doc_id``
and by metadata at the top. This project reads ``page_content`` and ``_chunk``,
and filters by ``metadata`` and, where offsets hide fields there, by ``_chunk``.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import models

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.errors import StoreError
from autoreg_rag.stores.where import SOURCE, Condition

TEXT = "page_content"
METADATA = "metadata"
CHUNK = "_chunk"
"""Keys of a payload."""

SOURCE_PATH = f"{METADATA}.{SOURCE}"
DIGEST_PATH = f"{CHUNK}.digest"
"""Paths to filter by."""

_DOCUMENT = "doc_id"
_DOCUMENT_KEYS = (_DOCUMENT, "document_id", "ref_doc_id")

INDEXED = (SOURCE_PATH, DIGEST_PATH, _DOCUMENT, *(f"{METADATA}.{key}" for key in _DOCUMENT_KEYS))
"""Paths of texts that filters name without being asked to, so that they need a payload index.

A server in strict mode filters by nothing else. LlamaIndex's own store deletes by
``doc_id``; this project's store for LlamaIndex looks for such keys in metadata too.
"""

_OFFSETS = ("start", "end")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_EXACT_IN_FLOAT64 = 2**53


def payload(chunk: Chunk, digest: str) -> dict[str, Any]:
    """Return the payload of a chunk's point.

    A metadata key that means something else here (``source``, ``doc_id`` ...)
    gives way in the frameworks' views, and is kept in ``_chunk``.
    """
    offsets = dict(zip(_OFFSETS, (chunk.start, chunk.end), strict=True))
    metadata = {**chunk.metadata, SOURCE: chunk.source}
    return {
        **metadata,
        TEXT: chunk.text,
        METADATA: {**metadata, **offsets},
        CHUNK: {
            SOURCE: chunk.source,
            "digest": digest,
            **offsets,
            METADATA: dict(chunk.metadata),
        },
        "_node_content": json.dumps(_node(chunk, metadata), ensure_ascii=False),
        "_node_type": "TextNode",
        **dict.fromkeys(_DOCUMENT_KEYS, chunk.source),
    }


def chunk_of(id: str, payload: Mapping[str, Any]) -> Chunk:
    """Return the chunk from which a payload was made; needs `TEXT` and `CHUNK` of it."""
    parts = payload[CHUNK]
    return Chunk(id, payload[TEXT], parts[SOURCE], parts["start"], parts["end"], parts[METADATA])


def is_id(id: object) -> bool:
    """Whether an id is spelled as those of chunks are."""
    try:
        return str(uuid.UUID(id)) == id  # type: ignore[arg-type] # or what is caught
    except (AttributeError, TypeError, ValueError):
        return False


def is_chunk(point: models.Record | models.ScoredPoint) -> bool:
    """Tell a chunk, by at least `DIGEST_PATH` of its payload, from another program's point."""
    parts = (point.payload or {}).get(CHUNK)
    return isinstance(parts, Mapping) and "digest" in parts


# `is_chunk` as a condition, on a path that has a payload index.
_FOREIGN = models.IsEmptyCondition(is_empty=models.PayloadField(key=DIGEST_PATH))

CHUNKS = models.Filter(must_not=[_FOREIGN])
"""Matches chunks, but no points of other programs."""


def versions(source: str, *, digest: str | None = None, but: str | None = None) -> models.Filter:
    """Match chunks of a source: all, those of one digest, or those of any other digest."""
    return models.Filter(
        must=[_equals(SOURCE_PATH, source), *([_equals(DIGEST_PATH, digest)] if digest else [])],
        must_not=[_FOREIGN, *([_equals(DIGEST_PATH, but)] if but else [])],
    )


def all_of(conditions: Sequence[Condition], *, only_chunks: bool) -> models.Filter | None:
    """Match points that meet all conditions, none of which may be empty; None for no conditions.

    Parameters
    ----------
    only_chunks
        Whether points of other programs are left out.
    """
    if not conditions:
        return CHUNKS if only_chunks else None
    return models.Filter(
        must=[_any_of(condition) for condition in conditions],
        must_not=[_FOREIGN] if only_chunks else None,
    )


def _any_of(condition: Condition) -> models.Filter:
    path = _path(condition.key)
    choices: list[models.Condition] = [
        *(_equals(path, flag) for flag in condition.flags),
        *(_equals_number(path, number) for number in condition.numbers),
    ]
    if condition.texts:
        match = models.MatchAny(any=condition.texts)
        choices.append(models.FieldCondition(key=path, match=match))
    return models.Filter(should=choices)


def _equals(path: str, value: str | int | bool) -> models.FieldCondition:
    return models.FieldCondition(key=path, match=models.MatchValue(value=value))


def _equals_number(path: str, number: float) -> models.FieldCondition:
    # Qdrant matches whole numbers with whole numbers only, and fractions not at all.
    # A range takes both, but compares in float64.
    if isinstance(number, int) and abs(number) > _EXACT_IN_FLOAT64:
        return _equals(path, number)
    return models.FieldCondition(key=path, range=models.Range(gte=number, lte=number))


def _path(key: str) -> str:
    # What LangChain reads as metadata has the chunk's offsets in place of fields of that name.
    parent = f"{CHUNK}.{METADATA}" if key in _OFFSETS else METADATA
    if _PLAIN_KEY.fullmatch(key):
        return f"{parent}.{key}"
    if '"' in key or not key:
        raise StoreError(f"Qdrant cannot filter by a key like {key!r}: rename it in the corpus")
    return f'{parent}."{key}"'


def _node(chunk: Chunk, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return LlamaIndex's node: its text for embedding and for an LLM is the passage alone."""
    return {
        "class_name": "TextNode",
        "id_": chunk.id,
        "text": chunk.text,
        "start_char_idx": chunk.start,
        "end_char_idx": chunk.end,
        "metadata": metadata,
        "excluded_embed_metadata_keys": list(metadata),
        "excluded_llm_metadata_keys": list(metadata),
        "relationships": {
            "1": {"class_name": "RelatedNodeInfo", "node_id": chunk.source, "node_type": "4"}
        },
    }
