"""A budget of tokens that shrinks to what the memory holds."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from autoreg_rag.batching import length_buckets

logger = logging.getLogger(__name__)


class TokenBudget:
    """The most tokens of a batch: halved, for good, when a batch does not fit the memory.

    Parameters
    ----------
    tokens
        What to begin with, padding included.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def run(self, lengths: Sequence[int], work: Callable[[list[int]], None]) -> None:
        """Do some work batch by batch; what does not fit is done in smaller batches.

        Parameters
        ----------
        lengths
            Length of each sequence, in tokens.
        work
            Given the positions of a batch's sequences. It may be given some of
            them again, after it ran out of memory.

        Raises
        ------
        RuntimeError
            A single sequence does not fit, or `work` failed for another reason.
        """
        batches = deque(length_buckets(lengths, self.tokens))
        while batches:
            batch = batches.popleft()
            try:
                work(batch)
                continue
            except RuntimeError as error:
                if len(batch) == 1 or not should_reduce_batch_size(error):
                    raise
            # Out of the handler, the error no longer holds the batch's tensors.
            clear_device_cache(garbage_collection=True)
            self.tokens = max(1, len(batch) * lengths[batch[0]] // 2)
            logger.warning("out of memory: going on with %d tokens a batch", self.tokens)
            rest = [*batch, *chain.from_iterable(batches)]
            smaller = length_buckets([lengths[i] for i in rest], self.tokens)
            batches = deque([rest[i] for i in part] for part in smaller)
