"""The bound on a text's length."""

from __future__ import annotations

import logging

from autoreg_rag.backbone import Backbone
from autoreg_rag.config import AutoRegConfig

logger = logging.getLogger(__name__)


class Truncation:
    """Cuts the token ids of texts, and warns the first time that it does.

    The bound is ``config.max_length``, or what the base's window leaves beside
    the longer instruction and the compress tokens, if that is less.
    """

    def __init__(self, config: AutoRegConfig, backbone: Backbone) -> None:
        instructions = (config.query_instruction, config.document_instruction)
        around = backbone.tokenize([config.suffix(text) for text in instructions])
        prefix = backbone.tokenize([config.prefix])[0]
        extra = 1 + len(prefix) + max(map(len, around)) + config.num_compress_tokens
        self.limit = max(1, min(config.max_length, backbone.window - extra))
        self._warned = False

    def __call__(self, sequences: list[list[int]]) -> list[list[int]]:
        """Return the sequences, each cut at the bound."""
        if not self._warned and (cut := sum(len(ids) > self.limit for ids in sequences)):
            logger.warning(
                "%d of %d texts are longer than %d tokens and are cut there (said once)",
                cut,
                len(sequences),
                self.limit,
            )
            self._warned = True
        return [ids[: self.limit] for ids in sequences]
