"""The bound on a text's length."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property

from autoreg_rag.backbone import Backbone
from autoreg_rag.config import AutoRegConfig
from autoreg_rag.errors import ModelError

logger = logging.getLogger(__name__)

SLACK = 64
"""Tokens behind the bound that are read too, since a cut word can be spelled otherwise."""


class Truncation:
    """Makes token ids of texts, cut at a bound, and warns the first time that it cuts.

    The bound, ``limit``, is ``config.max_length``, or what the base's window leaves beside
    the longer instruction and the compress tokens, if that is less.

    Raises
    ------
    ModelError
        The window leaves no room for a text.
    """

    def __init__(self, config: AutoRegConfig, backbone: Backbone) -> None:
        instructions = (config.query_instruction, config.document_instruction)
        around = backbone.tokenize([config.suffix(text) for text in instructions])
        prefix = backbone.tokenize([config.prefix])[0]
        self._backbone = backbone
        self._room = backbone.window - 1 - len(prefix) - config.num_compress_tokens
        self._max_length = config.max_length
        self.limit = self._limit(max(map(len, around)))
        self._warned = False

    def __call__(self, texts: Sequence[str], suffix: int = 0) -> list[list[int]]:
        """Return the ids of texts, each cut at the bound, or where `suffix` tokens leave no room.

        Raises
        ------
        ModelError
            They leave none at all.
        """
        limit = self._limit(suffix)
        # The start of a huge text has all of its tokens that are kept.
        letters = (limit + SLACK) * self._longest
        sequences = self._backbone.tokenize([text[:letters] for text in texts])
        if not self._warned and (cut := sum(len(ids) > limit for ids in sequences)):
            logger.warning(
                "%d of %d texts are longer than %d tokens and are cut there (said once)",
                cut,
                len(sequences),
                limit,
            )
            self._warned = True
        return [ids[:limit] for ids in sequences]

    def _limit(self, suffix: int) -> int:
        if (room := self._room - suffix) < 1:
            raise ModelError(
                f"an instruction of {suffix} tokens and the compress tokens leave no room for a "
                f"text in the model's window of {self._backbone.window}"
            )
        return min(self._max_length, room)

    @cached_property
    def _longest(self) -> int:
        """Letters of the longest token."""
        return max(map(len, self._backbone.tokenizer.get_vocab()))
