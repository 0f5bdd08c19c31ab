"""Log-probabilities of tokens under the head, without gradients, in a few megabytes."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 512
"""The most positions whose logits are held at a time."""

_CPU_BLOCK = 1024
_GPU_BLOCK = 16384


def token_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float | None = None
) -> Tensor:
    """Return log p(target) at each position, from one block of the vocabulary after another.

    A block's logits fit a CPU's cache, where they are made and reduced, so that
    reducing them costs less than half of what it costs over whole rows; and none
    of the head's matrix is read more than once for `ROWS` positions.

    The target's logit is worked out in float32, and stands so in the normaliser too:
    in bfloat16 logits are rounded, which over a whole vocabulary all but cancels out,
    and in one of them does not.

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
    size = _CPU_BLOCK if weight.device.type == "cpu" else _GPU_BLOCK
    scores = torch.empty(len(targets), device=hidden.device)
    for start in range(0, len(targets), ROWS):
        rows = slice(start, start + ROWS)
        states, tokens = hidden[rows], targets[rows]
        chosen = (states.float() * weight[tokens].float()).sum(dim=1)
        normalisers = []
        for first in range(0, len(weight), size):
            block = weight[first : first + size]
            logits = (states @ block.T).float()
            (inside,) = ((tokens >= first) & (tokens < first + len(block))).nonzero(as_tuple=True)
            logits[inside, tokens[inside] - first] = chosen[inside]
            normalisers.append(_capped(logits, softcap).logsumexp(dim=1))
        scores[rows] = _capped(chosen, softcap) - torch.stack(normalisers).logsumexp(dim=0)
    return scores


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)
