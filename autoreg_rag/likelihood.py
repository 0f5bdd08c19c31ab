"""Log-probabilities of target tokens under a frozen language-model head."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 512
"""Positions whose logits are held at a time."""


def token_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float | None = None
) -> Tensor:
    """Return log p(target) at each position without the full logits.

    The logits of `CHUNK` positions are held at a time. Sums run in float32:
    in bfloat16 the spacing of numbers near 256 is two nats.

    Parameters
    ----------
    hidden
        Last hidden states, [N, d].
    weight
        The head's matrix, [V, d].
    targets
        Token ids, [N].
    softcap
        Bound of a head that squashes its logits: ``softcap * tanh(logits / softcap)``.

    Returns
    -------
    Tensor
        Natural logarithms, float32 [N].
    """
    parts = []
    for start in range(0, len(targets), CHUNK):
        logits = (hidden[start : start + CHUNK] @ weight.T).float()
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        chosen = logits.gather(1, targets[start : start + CHUNK, None])[:, 0]
        parts.append(chosen - logits.logsumexp(dim=1))
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)
