"""Batches of similar length under a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def length_buckets(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Group positions so that each batch, padded, stays within a budget of tokens.

    Sorting by length keeps padding to a few tokens a row; the longest batches
    come first, so that a budget too large for the memory fails at once and
    later batches reuse the memory of the first.

    Parameters
    ----------
    lengths
        Length of each sequence, in tokens.
    token_budget
        The most tokens of a batch, padding included. A single sequence that is
        longer still gets a batch of its own.

    Yields
    ------
    list of int
        Positions in `lengths`; over all batches each position comes once.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > token_budget:
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch
