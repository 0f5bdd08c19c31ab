"""What flows from the corpus to a store: documents, and the chunks cut from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Scalar = str | int | float | bool
"""A metadata value: what JSON, SQLite and Qdrant all hold and filter on."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text as a reader took it out of a file.

    A plain text file is one document; a PDF is one per page; a JSON Lines or
    CSV file is one per record.

    Attributes
    ----------
    text
        The text. Offsets of chunks count its characters (code points).
    source
        ``<corpus name>/<path below the corpus>``, with forward slashes.
    part
        Which document of the file this is, from 0: its page or record.
    metadata
        What else is known, flat: ``title``, ``page``, ``row``, ``language`` ...
    """

    text: str
    source: str
    part: int = 0
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document: what is embedded, stored and found.

    ``document.text[start:end] == text`` always holds.

    Attributes
    ----------
    id
        A UUID that depends on the source, the file's digest, the part and the
        offsets, and on nothing else: the same input gives the same id.
    text
        The passage.
    source, metadata
        Those of the document.
    start, end
        Offsets in the document's text, in characters.
    """

    id: str
    text: str
    source: str
    start: int
    end: int
    metadata: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that a search found.

    Attributes
    ----------
    score
        What the list is sorted by, highest first. The cosine of question and
        passage for a vector search; raw, never squashed.
    chunk
        The passage, with its source, offsets and metadata.
    scores
        The parts of the score by name (``cosine``, ``bm25`` ...).
    """

    score: float
    chunk: Chunk
    scores: Mapping[str, float] = field(default_factory=dict)
