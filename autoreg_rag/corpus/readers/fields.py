"""What becomes of a record: which field is the text, and which are metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from autoreg_rag.corpus.readers.titles import as_title
from autoreg_rag.corpus.records import Document, Scalar

TEXT_FIELDS = ("text", "content", "body", "page_content", "passage", "contents")
"""The fields that hold a record's text; the first one wins. Case does not matter."""

_OURS = {"source", "row", "encoding"}
"""Metadata that the readers set; a record's own field of that name is ``record_<name>``."""

_LONGEST_VALUE = 1000
_LONGEST_METADATA = 4000
"""Characters of one metadata value, and of all of a record's: each chunk stores them."""


def document_of(record: Any, source: str, row: int, metadata: Mapping[str, Scalar]) -> Document:
    """Make a document of one record.

    Parameters
    ----------
    record
        A mapping of fields to values, as JSON has them, or just a text.
    source
        The file's name.
    row
        The record's place in the file, from 1.
    metadata
        What is known of all records.

    Returns
    -------
    Document
        Its text is the first of `TEXT_FIELDS` that is a string and not empty, or the
        title where all are empty; without such a field, a line ``name: value``
        for each field. Scalar fields are metadata, but for long texts, in their
        order until names and values come to 4,000 characters; the rest is left out.

    Raises
    ------
    ValueError
        The record is neither a mapping nor a text.
    """
    known = {**metadata, "row": row}
    if isinstance(record, str):
        return Document(record, source, row - 1, known)
    if not isinstance(record, dict):
        raise ValueError("not a record: neither an object nor a text")
    names = {name.casefold(): name for name, value in record.items() if isinstance(value, str)}
    text_names = [names[name] for name in TEXT_FIELDS if name in names]
    given = (name for name in text_names if record[name].strip())
    text_name = next(given, text_names[0] if text_names else None)
    title = as_title(record.get(names.get("title")))
    if text_name is None:
        text = "\n".join(f"{name}: {_written(v)}" for name, v in record.items() if _is_given(v))
    else:
        text = record[text_name] if record[text_name].strip() else title.get("title", "")
    others = {name: v for name, v in record.items() if name not in (text_name, names.get("title"))}
    return Document(text, source, row - 1, {**_metadata(others), **title, **known})


def _metadata(fields: Mapping[str, Any]) -> dict[str, Scalar]:
    """Take what can be metadata, in order, until it comes to more than may be stored."""
    metadata: dict[str, Scalar] = {}
    left = _LONGEST_METADATA
    for name, value in fields.items():
        if _is_metadata(value):
            left -= len(name) + len(str(value))
            if left < 0:
                break
            stored_name = f"record_{name}" if name in _OURS else name
            metadata[stored_name] = value if _fits(value) else str(value)
    return metadata


def _is_given(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None


def _is_metadata(value: Any) -> bool:
    """Tell scalars that can be stored: no NaN, which JSON lacks, and no long texts."""
    if isinstance(value, str):
        return _is_given(value) and len(value) <= _LONGEST_VALUE
    return isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))


def _fits(value: Scalar) -> bool:
    """Tell all but integers beyond 64 bits, which databases lack."""
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
