"""Cutting documents into passages of bounded length, with their places in the text."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

from autoreg_rag.corpus.formats import Format, format_of
from autoreg_rag.corpus.records import Chunk, Document
from autoreg_rag.errors import CorpusError

if TYPE_CHECKING:
    from semantic_text_splitter import MarkdownSplitter, TextSplitter
    from tokenizers import Tokenizer

DEFAULT_SIZE = 256
DEFAULT_OVERLAP = 32

SMALLEST_SIZE = 16
"""Smaller chunks could not hold every character: one may take many tokens."""

_CHUNKER_VERSION = "1"
"""Part of `Chunker.settings`: raise it when the same text is cut differently."""

_NAMESPACE = uuid.UUID("5f0c7f2e-3c1b-5d0a-9a7e-6b1d2f4c8e90")

_SECTION_CHARACTERS_PER_TOKEN = 32
_SECTIONS_AT_ONCE = 16
_SECTION_ENDS = ("\n\n", "\n\r\n", "\n", "\r", ". ", "。", " ")
"""Where a long text is cut, best first."""


class Chunker:
    """Cuts documents into chunks at the best boundaries that there are.

    Those are headings and blocks in Markdown, else empty lines, lines,
    sentences and words; semantic-text-splitter finds them. No chunk has more
    tokens than asked for, and all text but white space is in a chunk.

    Parameters
    ----------
    tokenizer
        The model's, a `tokenizers.Tokenizer` (of a fast tokenizer of transformers:
        its ``backend_tokenizer``). Padding, truncation and special tokens that it
        may be set to add do not count; it is not changed.
    size
        The most tokens in a chunk; an attribute as well.
    overlap
        How many tokens, at most, a chunk repeats of the one before it.

    Raises
    ------
    CorpusError
        `size` is below `SMALLEST_SIZE`, or `overlap` not below `size`.
    """

    def __init__(
        self, tokenizer: Tokenizer, size: int = DEFAULT_SIZE, overlap: int = DEFAULT_OVERLAP
    ) -> None:
        if size < SMALLEST_SIZE:
            raise CorpusError(f"a chunk size of {size} is too small: {SMALLEST_SIZE} or more")
        if not 0 <= overlap < size:
            raise CorpusError(
                f"a chunk overlap of {overlap} is out of range: 0 or more, and below the "
                f"chunk size of {size}"
            )
        self._tokenizer = _counting_only(tokenizer)
        self.size = size
        self._overlap = overlap

    @cached_property
    def settings(self) -> str:
        """All that the cuts depend on but the text, for `file_digest`."""
        tokenizer = hashlib.sha256(self._tokenizer.to_str().encode()).hexdigest()
        return (
            f"chunker {_CHUNKER_VERSION}, size {self.size}, overlap {self._overlap}, "
            f"tokenizer {tokenizer}"
        )

    def chunks(self, document: Document, digest: str) -> Iterator[Chunk]:
        """Cut a document.

        Parameters
        ----------
        document
            The document; the chunks share its metadata.
        digest
            Of the document's file and of all settings that change its chunks.

        Yields
        ------
        Chunk
            In order of their places; ``document.text[start:end] == text``.
        """
        is_markdown = format_of(document.source) is Format.MARKDOWN
        splitter = self._markdown_splitter if is_markdown else self._text_splitter
        # A splitter looks ahead over the whole text again and again, so a long
        # one is cut into sections, which it then works on in parallel.
        sections = _sections(document.text, self.size * _SECTION_CHARACTERS_PER_TOKEN)
        while batch := list(islice(sections, _SECTIONS_AT_ONCE)):
            texts = [document.text[start:end] for start, end in batch]
            cuts = splitter.chunk_all_indices(texts)
            for (section_start, _), section_cuts in zip(batch, cuts, strict=True):
                for offset, text in section_cuts:
                    if text.strip():  # Python counts some control characters as white space
                        yield _chunk(document, digest, section_start + offset, text)

    def texts(self, text: str) -> list[str]:
        """Cut a text that is no Markdown and has no file, and return the texts of its chunks."""
        return [chunk.text for chunk in self.chunks(Document(text, source=""), digest="")]

    @cached_property
    def _text_splitter(self) -> TextSplitter:
        from semantic_text_splitter import TextSplitter

        return TextSplitter.from_huggingface_tokenizer(self._tokenizer, self.size, self._overlap)

    @cached_property
    def _markdown_splitter(self) -> MarkdownSplitter:
        from semantic_text_splitter import MarkdownSplitter

        return MarkdownSplitter.from_huggingface_tokenizer(
            self._tokenizer, self.size, self._overlap
        )


def _counting_only(tokenizer: Tokenizer) -> Tokenizer:
    """Copy a tokenizer, without what would distort a count."""
    from tokenizers import Tokenizer

    settings = json.loads(tokenizer.to_str())
    settings["truncation"] = settings["padding"] = None
    if tokenizer.encode_special_tokens:  # then they are text; the written form does not tell
        settings["added_tokens"] = [t for t in settings["added_tokens"] if not t["special"]]
    return Tokenizer.from_str(json.dumps(settings))


def _sections(text: str, longest: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of consecutive sections of at most `longest` characters."""
    start = 0
    while len(text) - start > longest:
        end = _section_end(text, start + longest // 2, start + longest)
        yield start, end
        start = end
    yield start, len(text)


def _section_end(text: str, lowest: int, highest: int) -> int:
    """Find the end of the last paragraph in a range, or of a line, a sentence, a word."""
    for mark in _SECTION_ENDS:
        place = text.rfind(mark, lowest, highest)
        if place >= 0:
            return place + len(mark)
    return highest


def _chunk(document: Document, digest: str, start: int, text: str) -> Chunk:
    end = start + len(text)
    name = "\0".join((document.source, digest, str(document.part), str(start), str(end)))
    return Chunk(
        id=str(uuid.uuid5(_NAMESPACE, name)),
        text=text,
        source=document.source,
        start=start,
        end=end,
        metadata=document.metadata,
    )
