"""Log-probabilities of target tokens under a frozen language-model head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 256
"""Positions whose logits are held at a time."""


def token_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, softcap: float | None = None
) -> Tensor:
    """Return log p(target) at each position without the full logits.

    The logits of `CHUNK` positions are held at a time, in the forward and in
    the backward pass. Sums run in float32: in bfloat16 the spacing of numbers
    near 256 is two nats. The head is frozen, so what the backward pass needs,
    ``(onehot - softmax) W`` at each position, is worked out while the logits are
    at hand; no gradient goes to `weight`.

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
    with_gradient = torch.is_grad_enabled() and hidden.requires_grad
    scores: Tensor = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, weight.detach(), targets, softcap, with_gradient
    )
    return scores


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        softcap: float | None,
        with_gradient: bool,
    ) -> Tensor:
        scores = hidden.new_empty(len(targets), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if with_gradient else None
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            logits = (hidden[part] @ weight.T).float()
            slope: Tensor | None = None
            if softcap is not None:
                logits.div_(softcap).tanh_()
                slope = 1 - logits.square() if with_gradient else None
                logits.mul_(softcap)
            chosen = targets[part, None]
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            scores[part] = (logits.gather(1, chosen) - normaliser)[:, 0]
            if gradient is None:
                continue
            softmax = logits.sub_(normaliser).exp_()
            if slope is None:
                gradient[part] = weight[targets[part]] - softmax.to(weight.dtype) @ weight
            else:
                difference = softmax.neg_().scatter_add_(1, chosen, torch.ones_like(normaliser))
                gradient[part] = difference.mul_(slope).to(weight.dtype) @ weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return scores

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0][:, None].to(gradient.dtype), None, None, None, None
