"""Which records serve which tasks, so that a mixture of tasks comes out as asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from autoreg_trainers.data.mixing import Floats, Integers, filled, level

logger = logging.getLogger(__name__)

_ROUNDS = 200
_OFF = 0.02
"""A task whose share of the rows is wrong by more than this is worth a warning."""


def assigned(
    can: NDArray[np.bool_],
    sizes: Integers,
    limits: Floats,
    of_source: Integers,
    counts: Integers,
    shares: Mapping[str, float],
) -> Integers:
    """Give tasks to kinds of records.

    The kinds' and the tasks' totals are fitted in turns (iterative proportional
    fitting, Deming and Stephan 1940), which spreads each task evenly over all
    that can serve it. The totals of the sources come out exactly.

    Parameters
    ----------
    can
        Which tasks a kind of record can serve, one at least, [kinds, tasks].
    sizes, limits
        How many records of a kind there are, and how many may be drawn.
    of_source
        The source of each kind.
    counts
        How many records each source gives; no more than its limits allow.
    shares
        Each task's share of all, above 0.

    Returns
    -------
    Array of int
        How many records of a kind serve each task, [kinds, tasks].
    """
    asked = np.array(list(shares.values()))
    possible: NDArray[np.bool_] = np.any(can, axis=0)
    wanted = np.where(possible, asked, 0)
    wanted = wanted / wanted.sum()
    parts = can * sizes[:, None] * wanted
    for _ in range(_ROUNDS):
        totals = parts.sum(axis=0)
        # No entry may come so near to 0 that it could not recover.
        parts = parts * np.where(possible, counts.sum() * wanted / np.maximum(totals, 1e-30), 0)
        parts = np.where(can, np.maximum(parts, 1e-30), 0)
        for source, count in enumerate(counts):
            mine = np.flatnonzero(of_source == source)
            before = parts[mine].sum(axis=1)
            parts[mine] *= (level(count, before, limits[mine]) / before)[:, None]
    given = _whole(parts, limits, of_source, counts)
    _warn(given, list(shares), asked, possible)
    return given


def _whole(parts: Floats, limits: Floats, of_source: Integers, counts: Integers) -> Integers:
    """Round to whole numbers, by carrying each task's rounding error to the next kind."""
    totals = np.zeros(len(parts), dtype=np.int64)
    for source, count in enumerate(counts):
        mine = np.flatnonzero(of_source == source)
        totals[mine] = filled(int(count), parts[mine].sum(axis=1), limits[mine])
    given = np.zeros(parts.shape, dtype=np.int64)
    owed = np.zeros(parts.shape[1])
    for kind in np.argsort(totals, kind="stable"):
        owed += parts[kind]
        serving = np.flatnonzero(parts[kind])
        claims = np.maximum(owed[serving], 1e-9)
        given[kind, serving] = filled(int(totals[kind]), claims, np.full(len(serving), np.inf))
        owed -= given[kind]
    return given


def _warn(given: Integers, tasks: list[str], asked: Floats, possible: NDArray[np.bool_]) -> None:
    found = given.sum(axis=0)
    total = max(1, int(found.sum()))
    for task, count, share, can in zip(tasks, found, asked, possible, strict=True):
        if not can:
            logger.warning("no record can serve the task %s; the others share its part", task)
        elif abs(count / total - share) > _OFF and abs(count - share * total) >= 1:
            reason = "few can serve it" if count < share * total else "many can serve nothing else"
            logger.warning(
                "the task %s makes %.0f %% of the rows instead of %.0f %%: of the records drawn, "
                "too %s",
                task,
                100 * count / total,
                100 * share,
                reason,
            )
