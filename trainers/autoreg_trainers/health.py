"""How well embeddings use their space: alignment, uniformity, effective rank."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean squared distance of texts from their positives.

    l_align = mean of ||x_i - y_i||^2 (Wang and Isola, "Understanding Contrastive
    Representation Learning through Alignment and Uniformity on the Hypersphere",
    ICML 2020, with alpha = 2). 0 where all pairs coincide, 4 where they are
    opposite; lower is better.

    Parameters
    ----------
    x, y
        Embeddings of unit length, row for row a pair, [n, d], n >= 1.

    Returns
    -------
    Tensor
        float32 [].
    """
    return (x.float() - y.float()).square().sum(dim=1).mean()


def uniformity(x: Tensor, t: float = 2) -> Tensor:
    """Return how evenly embeddings spread over the sphere.

    l_uniform = log of the mean over all pairs of different rows of
    exp(-t ||x_i - x_j||^2) (Wang and Isola, ICML 2020). 0 where all embeddings
    coincide, about -2t where they point anywhere; lower is better.

    Parameters
    ----------
    x
        Embeddings of unit length, [n, d].
    t
        How local the measure is; 2 in the paper.

    Returns
    -------
    Tensor
        float32 []; NaN where n < 2, for then there are no pairs.
    """
    x = x.float()
    first, second = torch.triu_indices(len(x), len(x), offset=1, device=x.device)
    if not len(first):
        return x.new_tensor(math.nan)
    # ||a - b||^2 = 2 - 2 <a, b> where a and b have unit length
    cosines = (x @ x.T)[first, second]
    return torch.logsumexp(-2 * t * (1 - cosines).clamp(min=0), dim=0) - math.log(len(first))


def effective_rank(x: Tensor) -> Tensor:
    """Return over how many directions embeddings spread.

    exp(H(p)), where p are the singular values divided by their sum and H is the
    entropy in nats (Roy and Vetterli, "The effective rank: a measure of effective
    dimensionality", EUSIPCO 2007). 1 where all embeddings coincide; at most
    min(n, d), so only batches of one size compare.

    Parameters
    ----------
    x
        Embeddings, [n, d], n >= 1, not all zero.

    Returns
    -------
    Tensor
        float32 []; NaN where an embedding is not finite.
    """
    # On the CPU, as some devices lack it; the matrices are small.
    embeddings = x.float().cpu()
    if not embeddings.isfinite().all():  # of these no singular values can be had
        return x.new_tensor(math.nan, dtype=torch.float32)
    values = torch.linalg.svdvals(embeddings)
    entropy = torch.special.entr(values / values.sum()).sum()
    rank: Tensor = entropy.exp().to(x.device)
    return rank
