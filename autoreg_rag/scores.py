"""The kinds of score by which passages are reranked; free of heavy imports."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Score = Literal["sum", "mean", "pmi", "cda", "cda_mean"]
"""Names of the kinds, see `score`."""

SCORES: tuple[Score, ...] = get_args(Score)

DEFAULT_SCORE: Score = "cda_mean"

DEFAULT_FUSION = 0.9
"""Weight of the retrieval score in the final one; `docs/scores.md` has the figures."""

WITH_BASELINE: tuple[Score, ...] = ("pmi", "cda", "cda_mean")
"""The kinds of which a part does not depend on the question."""

RETRIEVAL = "retrieval"
"""The name, among the parts of a hit's score, of the score that it was found by."""


def score(
    kind: Score,
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
    baselines: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the scores of n passages d for a question with vectors e_q.

    ============ ================================== ==============
    kind         score                              unit
    ============ ================================== ==============
    ``sum``      log p(d | e_q)                     nats
    ``mean``     log p(d | e_q) / tokens of d       nats per token
    ``pmi``      log p(d | e_q) - log p(d)          nats
    ``cda``      log p(d | e_q) - log p(d | e_d)    nats
    ``cda_mean`` ``cda`` / tokens of d              nats per token
    ============ ================================== ==============

    ``cda`` is the difference inside S1 of Conditional Distribution Alignment
    (Deng et al. 2025), without its bars: the vectors of d itself are the upper
    bound, and a question's vectors that make d likelier still lose nothing.

    Parameters
    ----------
    kind
        One of `SCORES`.
    sums, counts
        log p(d | e_q), and the tokens of d with the closing end-of-sequence token, [n].
    baselines
        What is subtracted under ``pmi``, ``cda`` and ``cda_mean``, [n].

    Returns
    -------
    ndarray
        float64 [n], higher is better; raw, never squashed.
    """
    values = sums if baselines is None else sums - baselines
    return values / counts if kind in ("mean", "cda_mean") else values
