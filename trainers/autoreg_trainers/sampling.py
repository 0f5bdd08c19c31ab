"""The order of rows: which of them meet in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class SourceSampler(Sampler[int]):
    """Yields all rows at random, so that as many batches as can be are of one source.

    Rows of one source are harder to tell apart than rows of any, so they make better
    in-batch negatives. What is left over of the sources meets in mixed batches, and
    what makes no whole batch comes last.

    Parameters
    ----------
    sources
        The source of each row.
    batch_size
        Rows of a batch, over all processes.
    seed
        Of the order; the same seed and epoch give the same.
    """

    def __init__(self, sources: Sequence[str], batch_size: int, seed: int) -> None:
        _, self._sources = np.unique(np.asarray(sources), return_inverse=True)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._sources)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of a pass over the rows."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        numbers = np.random.default_rng([self._seed, self._epoch])
        order = numbers.permutation(len(self))
        whole: list[NDArray[np.int64]] = []
        left = []
        for source in range(self._sources.max(initial=-1) + 1):
            rows = order[self._sources[order] == source]
            batches, rest = self._cut(rows)
            whole += batches
            left.append(rest)
        mixed, last = self._cut(numbers.permutation(np.concatenate([*left, order[:0]])))
        whole += mixed
        for batch in numbers.permutation(len(whole)):
            yield from whole[batch].tolist()
        yield from last.tolist()

    def _cut(self, rows: NDArray[np.int64]) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
        """Return the whole batches of some rows, and what is left."""
        end = len(rows) - len(rows) % self._batch_size
        return list(rows[:end].reshape(-1, self._batch_size)), rows[end:]
