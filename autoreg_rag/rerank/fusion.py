"""The fusion of a reranking with the ranking that it began from."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np
from numpy.typing import NDArray


def standard_sum(
    retrieval: NDArray[np.float64], reranking: NDArray[np.float64], weight: float
) -> NDArray[np.float64]:
    """Fuse two scores of the same candidates: the weighted sum of their standard scores.

    ``weight * z(retrieval) + (1 - weight) * z(reranking)``, where z takes the
    mean over the candidates off and divides by their standard deviation (all
    zero where the candidates do not differ). Cosines and nats so come to one
    scale, and a candidate that stands out keeps its lead, which a fusion of
    ranks would throw away. Such a score has a meaning among the candidates of
    one question only.

    Parameters
    ----------
    retrieval, reranking
        Scores, higher is better, [n].
    weight
        From 0, the reranking alone, to 1, the retrieval alone.

    Returns
    -------
    ndarray
        float64 [n].
    """
    return weight * _standard(retrieval) + (1 - weight) * _standard(reranking)


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
