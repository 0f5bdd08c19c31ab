"""The bridge's first fit, in closed form: what e says, told in the decoder's own words.

A bridge that only scales tells the decoder nothing at first, and a constant prompt is
the nearest gain: the vectors of all texts then fall together before they carry anything
(docs/experiments.md). A hidden state does hold its text, in another space than input
vectors; a ridge regression finds the way from one to the other.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from autoreg_rag.backbone import Backbone
from autoreg_rag.batching import length_buckets
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.data import DataError

logger = logging.getLogger(__name__)

RIDGE = 0.1
"""The penalty, in means of the regression's diagonal."""

_ALIKE = 1e-3
"""A share of their length by which vectors differ where rounding or next to nothing parts them."""


@torch.no_grad()
def fit_bridge(
    model: AutoRegModel, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> None:
    """Fit the bridge so that the decoder reads what its targets are about, in place.

    From each e_j the mean input vector of the target's tokens is predicted, rare
    tokens counting more (by the square of their inverse document frequency). b
    becomes the mean of those means, c the mean of e, and M is scaled so that what a
    text adds to b is as long as a token's input vector.

    Parameters
    ----------
    model
        The model as its encoder is now.
    contexts
        What the encoder reads, n rows of ids with instruction.
    targets
        What the decoder is to generate, n rows of ids, none empty.

    Raises
    ------
    DataError
        The contexts or the targets are alike, or there is only one.
    """
    latents = _latents(model, contexts)
    words = _content(model, targets)
    start = words.mean(dim=0)
    center = latents.mean(dim=0)
    apart, told = latents - center, words - start
    if not (_share(apart, latents) > _ALIKE and _share(told, words) > _ALIKE):
        raise DataError(
            f"the bridge cannot be fitted to {len(contexts)} rows whose texts are alike: give "
            "other rows or more of them, or set bridge_rows to 0"
        )
    inputs = apart.flatten(0, 1)
    outputs = told[:, None].expand_as(latents).flatten(0, 1)
    squares = inputs.T @ inputs
    squares.diagonal().add_(RIDGE * squares.diagonal().mean())
    matrix = torch.linalg.solve(squares, inputs.T @ outputs)
    neck = model.neck
    neck.bridge_start.copy_(start.expand_as(neck.bridge_start))
    neck.bridge_center.copy_(center)
    length = _token_length(model.backbone)
    neck.bridge_matrix.copy_(matrix * length / (apart @ matrix).norm(dim=-1).mean())
    logger.info("the bridge is fitted to %d rows", len(contexts))


def _token_length(backbone: Backbone) -> Tensor:
    """Return the mean length of a token's input vector."""
    # Of the vectors as the decoder reads them: Gemma's are its table's times sqrt(d).
    ids = torch.arange(len(backbone.input_weight), device=backbone.device)
    length: Tensor = backbone.embed(ids).float().norm(dim=-1).mean()
    return length


def _share(part: Tensor, whole: Tensor) -> float:
    """Return the length of a part of vectors as a share of theirs."""
    return float(part.norm() / whole.norm().clamp_min(1e-12))


def _latents(model: AutoRegModel, contexts: Sequence[Sequence[int]]) -> Tensor:
    """Return e of each context, float32 [n, k, d]."""
    shape = (len(contexts), model.neck.k, model.backbone.hidden_size)
    latents = torch.empty(shape, device=model.backbone.device)
    lengths = [len(ids) + model.neck.k for ids in contexts]
    for rows in length_buckets(lengths, model.token_budget):
        latents[rows] = model.encoder.latents([contexts[i] for i in rows]).float()
    return latents


def _content(model: AutoRegModel, targets: Sequence[Sequence[int]]) -> Tensor:
    """Return the weighted mean of each target's input vectors, float32 [n, d]."""
    device = model.backbone.device
    rows = [torch.tensor(ids, dtype=torch.long, device=device) for ids in targets]
    found = torch.zeros(len(model.backbone.input_weight), device=device)
    for ids in rows:
        found[ids.unique()] += 1
    weights = ((1 + len(rows)) / (1 + found)).log().square()
    means = []
    for ids in rows:
        share = weights[ids] / weights[ids].sum().clamp_min(1e-12)
        means.append(share @ model.backbone.embed(ids).float())
    return torch.stack(means)
