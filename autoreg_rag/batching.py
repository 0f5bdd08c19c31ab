"""Batches of similar length under a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

SMALL_BATCHES = {"cuda": 16384}
"""Tokens below which a batch leaves the device idle, by kind of device."""

SMALL_BATCH = 256
"""The same for other kinds."""


def length_buckets(
    lengths: Sequence[int],
    token_budget: int,
    *,
    padding: float = 1.0,
    small: int = SMALL_BATCH,
) -> Iterator[list[int]]:
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
    padding
        A sequence that would waste more than this share of its place begins a
        new batch, unless the last one has fewer than `small` tokens.
    small
        Below it a batch does not use the device well.

    Yields
    ------
    list of int
        Positions in `lengths`; over all batches each position comes once.
    """
    batch: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batch[0]] if batch else 0
        full = (len(batch) + 1) * longest > token_budget
        wasteful = lengths[position] < (1 - padding) * longest
        if batch and (full or (wasteful and len(batch) * longest >= small)):
            yield batch
            batch = []
        batch.append(position)
    if batch:
        yield batch


def right_padded(
    sequences: Sequence[Sequence[int]], device: torch.device, *, extra: int = 0
) -> tuple[Tensor, Tensor]:
    """Stack rows of token ids, padded on the right with id 0.

    Lengths, not ids, tell padding from text: the padding token of many models
    is also a real one.

    Parameters
    ----------
    sequences
        n rows of ids.
    device
        Where the result goes.
    extra
        Free positions to leave behind the longest row.

    Returns
    -------
    Tensor, Tensor
        Ids, [n, T + extra], and lengths, [n].
    """
    rows = [torch.tensor(ids, dtype=torch.long) for ids in sequences]
    ids = nn.functional.pad(nn.utils.rnn.pad_sequence(rows, batch_first=True), (0, extra))
    lengths = torch.tensor([len(row) for row in rows])
    return ids.to(device), lengths.to(device)
