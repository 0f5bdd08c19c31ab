"""Divergence between two next-token distributions of a frozen head, in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from autoreg_rag.head import Head
from autoreg_trainers.cut import rowwise

CHUNK = 256
"""Positions whose logits are held at a time."""


def token_divergence(
    kind: Literal["kl", "js"],
    p: Tensor,
    q: Tensor,
    head: Head,
) -> Tensor:
    """Return KL(P || Q), or Jensen-Shannon's divergence, at each position.

    Parameters
    ----------
    kind
        ``kl``, or ``js``: the mean of KL(P || M) and KL(Q || M) with M halfway
        between P and Q.
    p, q
        Last hidden states, [N, d]; gradients go to both.
    head
        What makes logits of them, frozen.

    Returns
    -------
    Tensor
        In nats, float32 [N].
    """
    weight = head.weight.detach().float()
    bias = None if head.bias is None else head.bias.detach().float()

    def log_softmax(hidden: Tensor) -> Tensor:
        # float32, since logits rounded to bfloat16 are as far apart as close distributions.
        logits = hidden.float() @ weight.T
        if bias is not None:
            logits = logits + bias
        return head.capped(head.scale * logits).log_softmax(dim=1)

    def divergence(_: Sequence[int], p: Tensor, q: Tensor) -> Tensor:
        log_p, log_q = log_softmax(p), log_softmax(q)
        if kind == "kl":
            return _kl(log_p, log_q)
        middle = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
        return (_kl(log_p, middle) + _kl(log_q, middle)) / 2

    chunks = [range(start, min(start + CHUNK, len(p))) for start in range(0, len(p), CHUNK)]
    return rowwise(divergence, chunks, p, q)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
