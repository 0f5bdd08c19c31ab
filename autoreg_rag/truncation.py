"""The bound on a text's length."""

from __future__ import annotations

import logging

from autoreg_rag.backbone import Backbone
from autoreg_rag.config import AutoRegConfig

logger = logging.getLogger(__name__)


class Truncation:
    """Cuts the token ids of texts, and warns the first time that it does.

    The bound, ``limit``, is ``config.max_length``, or what the base's window leaves beside
    the longer instruction and the compress tokens, if that is less.
    """

    def __init__(self, config: AutoRegConfig, backbone: Backbone) -> None:
        instructions = (config.query_instruction, config.document_instruction)
        around = backbone.tokenize([config.suffix(text) for text in instructions])
        prefix = backbone.tokenize([config.prefix])[0]
        self._room = backbone.window - 1 - len(prefix) - config.num_compress_tokens
        self.limit = max(1, min(config.max_length, self._room - max(map(len, around))))
        self._warned = False

    def __call__(self, sequences: list[list[int]], suffix: int = 0) -> list[list[int]]:
        """Return the sequences, each cut at the bound, or where `suffix` tokens leave no room."""
        limit = max(1, min(self.limit, self._room - suffix))
        if not self._warned and (cut := sum(len(ids) > limit for ids in sequences)):
            logger.warning(
                "%d of %d texts are longer than %d tokens and are cut there (said once)",
                cut,
                len(sequences),
                limit,
            )
            self._warned = True
        return [ids[:limit] for ids in sequences]
