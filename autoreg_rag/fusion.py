"""Two scores of the same candidates, brought to one scale and added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np
from numpy.typing import NDArray

DEFAULT_ALPHA = 0.5
"""Weight of the cosine beside BM25; `docs/experiments.md` has the figures."""


def standard_sum(
    first: NDArray[np.float64], second: NDArray[np.float64], weight: float
) -> NDArray[np.float64]:
    """Fuse two scores of the same candidates: the weighted sum of their standard scores.

    ``weight * z(first) + (1 - weight) * z(second)``, where z takes the mean over
    the candidates off and divides by their standard deviation (all zero where the
    candidates do not differ). Cosines, BM25 and nats so come to one scale, and a
    candidate that stands out keeps its lead, which a fusion of ranks would throw
    away. Such a score has a meaning among the candidates of one question only.

    Parameters
    ----------
    first, second
        Scores, higher is better, [n].
    weight
        From 0, `second` alone, to 1, `first` alone.

    Returns
    -------
    ndarray
        float64 [n].
    """
    return weight * _standard(first) + (1 - weight) * _standard(second)


def hybrid_scores(
    cosines: Mapping[str, float],
    words: Mapping[str, float],
    depth: int,
    alpha: float = DEFAULT_ALPHA,
) -> list[tuple[str, float]]:
    """Fuse the best by cosine and the best by BM25 of one question by `standard_sum`.

    What one list lacks scores there no more than the last that it holds, and counts as
    that. A list by BM25 of fewer than `depth` holds all that share a word with the
    question, so what it lacks scores 0.

    Parameters
    ----------
    cosines, words
        Scores by id: the `depth` best of each, or all that there are.
    depth
        How many of each were asked for.
    alpha
        Weight of the cosine, from 0, BM25 alone, to 1.

    Returns
    -------
    list of (id, score)
        All ids, best first; equal scores are ordered by cosine, then by id.

    Raises
    ------
    ValueError
        `alpha` is outside 0 to 1.
    """
    check_alpha(alpha)
    ids = sorted({*cosines, *words})
    least_cosine = min(cosines.values(), default=0.0)
    least_word = min(words.values()) if words and len(words) >= depth else 0.0
    near = [cosines.get(id_, least_cosine) for id_ in ids]
    said = [words.get(id_, least_word) for id_ in ids]
    fused = standard_sum(np.array(near, np.float64), np.array(said, np.float64), alpha).tolist()
    order = sorted(zip(ids, fused, near, strict=True), key=lambda hit: (-hit[1], -hit[2], hit[0]))
    return [(id_, score) for id_, score, _ in order]


def check_alpha(alpha: float) -> None:
    """Refuse a weight of the cosine outside 0 to 1 with a ValueError."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must be from 0 to 1")


def retrieval_scores(found: Sequence[object]) -> list[float]:
    """Return the scores that candidates came with; where one has none, all go by their order.

    Then they fall by 1 from each to the next, which standard scores bring to scale.

    Parameters
    ----------
    found
        A number, or anything else for a candidate without one, [n].
    """
    numbers = [float(one) for one in found if isinstance(one, Real)]
    return numbers if len(numbers) == len(found) else [-float(i) for i in range(len(found))]


def _standard(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    # Compared as they are: the deviation of equal numbers can round to more than 0.
    if not len(scores) or scores.min() == scores.max():
        return np.zeros(len(scores))
    standard: NDArray[np.float64] = (scores - scores.mean()) / scores.std()
    return standard
