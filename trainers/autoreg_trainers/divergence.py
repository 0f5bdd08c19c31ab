"""Divergence between two next-token distributions of a frozen head, in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from autoreg_trainers.cut import rowwise

CHUNK = 256
"""Positions whose logits are held at a time."""


def token_divergence(
    kind: Literal["kl", "js"],
    p: Tensor,
    q: Tensor,
    weight: Tensor,
    *,
    softcap: float | None = None,
) -> Tensor:
    """Return KL(P || Q), or Jensen-Shannon's divergence, at each position.

    Parameters
    ----------
    kind
        ``kl``, or ``js``: the mean of KL(P || M) and KL(Q || M) with M halfway
        between P and Q.
    p, q
        Last hidden states, [N, d]; gradients go to both.
    weight
        The head's matrix, [V, d], frozen.
    softcap
        See `autoreg_rag.likelihood.token_log_probs`.

    Returns
    -------
    Tensor
        In nats, float32 [N].
    """

    def log_softmax(hidden: Tensor) -> Tensor:
        logits = (hidden @ weight.T).float()
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return logits.log_softmax(dim=1)

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
