"""Copies of a sentence that lose little of it, and copies that lose too much."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

LONGEST_PART = 0.55
"""A worse copy that is a part of the sentence has at most this share of its words, and a
lossy copy more."""


def lossy(words: Sequence[str], random: Random) -> list[str]:
    """Return a copy that says nearly the same: of the same words, some lost or moved.

    One of four ways is drawn: each word goes with a chance of 8 to 25 %; a few go and two
    neighbouring stretches change places; one long stretch stays; stretches change
    places twice.

    Parameters
    ----------
    words
        The sentence's, seven or more.
    random
        Draws.
    """
    way = random.randrange(4)
    if way == 0:
        copy = _dropped(words, random.uniform(0.08, 0.25), random)
    elif way == 1:
        copy = _swapped(_dropped(words, 0.08, random), random)
    elif way == 2:
        copy = _part(words, 0.65, 0.9, random)
    else:
        copy = _swapped(_swapped(words, random), random)
    return list(words[:-1]) if copy == list(words) else copy


def worse(words: Sequence[str], others: Sequence[str], random: Random) -> list[str]:
    """Return a copy that does not say the same: other words in places, or a short part.

    Parameters
    ----------
    words
        The sentence's, seven or more.
    others
        What takes the place of words.
    random
        Draws; two of three copies have other words.
    """
    if random.random() < 0.65:
        share = random.uniform(0.15, 0.5)
        return [random.choice(others) if random.random() < share else word for word in words]
    return _part(words, 0.25, LONGEST_PART, random)


def _dropped(words: Sequence[str], share: float, random: Random) -> list[str]:
    kept = [word for word in words if random.random() > share]
    return kept if len(kept) > LONGEST_PART * len(words) else list(words[:-1])


def _swapped(words: Sequence[str], random: Random) -> list[str]:
    """Let two neighbouring stretches of up to five words change places."""
    middle = random.randrange(1, len(words) - 1)
    start, end = max(0, middle - random.randint(1, 5)), middle + random.randint(1, 5)
    return [*words[:start], *words[middle:end], *words[start:middle], *words[end:]]


def _part(words: Sequence[str], least: float, most: float, random: Random) -> list[str]:
    """Return a stretch of a share of the words, of three at least."""
    length = max(3, int(len(words) * random.uniform(least, most)))
    start = random.randrange(len(words) - length + 1)
    return list(words[start : start + length])
