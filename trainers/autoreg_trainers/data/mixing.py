"""How many rows each source gives, and which.

With ``max_rows``, every source gives its share by weight; one that has fewer
rows than its share gives all that it has, and the others make up for it.
Without, sources of equal weight give all their rows, and for other weights as
many rows are drawn as keep the shares exact. Only a source that says ``repeat``
gives a row more than once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, concatenate_datasets
from numpy.typing import ArrayLike, NDArray

from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.source import Source

logger = logging.getLogger(__name__)

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_SHORT = 0.95
"""A source that gives less than this part of its share is worth a warning."""


def mixed(
    tables: Sequence[Dataset], sources: Sequence[Source], *, seed: int, max_rows: int | None
) -> Dataset:
    """Draw rows from each source's table, without copying them, in random order.

    Parameters
    ----------
    tables, sources
        The rows of each source, and the source, which says its weight.
    seed
        Of the draw and of the order.
    max_rows
        The most rows.
    """
    sizes = [len(table) for table in tables]
    counts = rows_by_source(sizes, sources, max_rows)
    chosen = [
        draw(generator(seed, number), np.arange(size), count)
        for number, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]
    return picked(tables, chosen, seed)


def picked(tables: Sequence[Dataset], chosen: Sequence[Integers], seed: int) -> Dataset:
    """Return the chosen rows of each table, all in one random order."""
    starts = np.cumsum([0, *(len(table) for table in tables)])
    rows = np.concatenate([start + part for start, part in zip(starts, chosen, strict=False)])
    return concatenate_datasets(list(tables)).select(generator(seed).permutation(rows))


def generator(seed: int, *parts: int) -> np.random.Generator:
    """Return the random numbers of one part of a draw."""
    if seed < 0:
        raise DataError(f"the seed is {seed}; it must be 0 or more")
    return np.random.default_rng([seed, *parts])


def draw(numbers: np.random.Generator, rows: Integers, count: int) -> Integers:
    """Return `count` of the rows at random, each again only after all others."""
    rounds = math.ceil(count / len(rows)) if len(rows) else 0
    shuffled = [numbers.permutation(rows) for _ in range(rounds)]
    return np.concatenate([np.empty(0, dtype=np.int64), *shuffled])[:count]


def rows_by_source(
    sizes: Sequence[int], sources: Sequence[Source], max_rows: int | None
) -> Integers:
    """Return how many rows each source gives.

    Parameters
    ----------
    sizes
        How many rows each source has, 1 or more.
    sources
        The sources, for weights and repetition.
    max_rows
        The most rows in all.

    Raises
    ------
    DataError
        `max_rows` is below 1.
    """
    if max_rows is not None and max_rows < 1:
        raise DataError(f"max_rows is {max_rows}; it must be 1 or more")
    weights = np.array([source.weight for source in sources], dtype=np.float64)
    shares = weights / weights.sum()
    have = np.array(sizes, dtype=np.int64)
    repeats = np.array([source.repeat for source in sources])
    if max_rows is None:
        if np.allclose(shares, shares[0]):
            return have
        rows = _largest_mix(have, shares, repeats)
        logger.info("%d of %d rows are drawn, so that the weights hold", rows, have.sum())
    else:
        rows = max_rows
    counts = filled(rows, shares, np.where(repeats, np.inf, have))
    for source, count, share in zip(sources, counts, shares, strict=True):
        if max_rows is not None and count < _SHORT * math.floor(share * rows):
            logger.warning(
                "%s: its %d rows are fewer than its share of %d", source.path, count, share * rows
            )
    return counts


def _largest_mix(have: Integers, shares: Floats, repeats: NDArray[np.bool_]) -> int:
    """Return with how many rows the first source runs out that must not repeat.

    If all may, until each row of the one that lasts longest was drawn.
    """
    rows = have / shares
    last = float(rows.max() if repeats.all() else rows[~repeats].min())
    return max(1, math.floor(last * (1 + 1e-12)))


def filled(total: int, weights: ArrayLike, limits: ArrayLike) -> Integers:
    """Share a total by weights, none above its limit; what one lacks goes to the others.

    Parameters
    ----------
    total
        How much there is to share.
    weights
        Above 0.
    limits
        Whole numbers, or infinite.

    Returns
    -------
    Array of int
        Whole numbers whose sum is `total`, or that of the limits if that is less.
    """
    bounds = np.asarray(limits, dtype=np.float64)
    parts = level(total, np.asarray(weights, dtype=np.float64), bounds)
    counts = np.floor(parts + 1e-9).astype(np.int64)
    missing = round(min(float(total), bounds.sum())) - int(counts.sum())
    order = np.argsort(counts - parts, kind="stable")
    free = order[counts[order] < bounds[order]]
    counts[free[:missing]] += 1
    return counts


def level(total: float, weights: Floats, limits: Floats) -> Floats:
    """Share a total as `filled` does, but in fractions."""
    parts = np.zeros_like(weights)
    is_open = np.ones(len(weights), dtype=bool)
    while total > 0 and is_open.any():
        left = total - parts[~is_open].sum()
        parts[is_open] = left * weights[is_open] / weights[is_open].sum()
        full = is_open & (parts >= limits)
        if not full.any():
            break
        parts[full] = limits[full]
        is_open &= ~full
    return parts
