"""Log-probabilities of target tokens under a frozen language-model head."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from autoreg_rag.head import Head

CHUNKS = {"cuda": 8192}
"""Words of the vocabulary, and positions, whose logits are held at a time, by kind of device."""

CHUNK = 2048
"""The same for other kinds."""

_precision = threading.Lock()
"""Of torch's precision of float32 products, which is one for the whole process."""


def token_log_probs(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """Return log p(target) at each position without the full logits.

    The logits of `CHUNK` words (or `CHUNKS`) at as many positions are held at a time; the
    softmax's sums go along, as in flash attention. Logits and sums are float32
    whatever the states are: rounded to bfloat16, logits near 20 are off by up to
    0.06 nats, which adds up over a passage. The head is frozen, so what the
    backward pass needs, ``(onehot - softmax) W`` at each position, is worked out
    while the logits are at hand; no gradient goes to `head`.

    States in bfloat16 (on CUDA float16, too) lower the process's precision of float32
    products while theirs run, see the notes of `_exact_products`.

    Parameters
    ----------
    hidden
        Last hidden states, [N, d].
    head
        What makes logits of them.
    targets
        Token ids, [N].

    Returns
    -------
    Tensor
        Natural logarithms, float32 [N].
    """
    with_gradient = torch.is_grad_enabled() and hidden.requires_grad
    scores: Tensor = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, head, targets, with_gradient
    )
    return scores


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Head,
        targets: Tensor,
        with_gradient: bool,
    ) -> Tensor:
        scores = hidden.new_empty(len(targets), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if with_gradient else None
        chunk = CHUNKS.get(hidden.device.type, CHUNK)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk):
                part = slice(start, start + chunk)
                found, slopes = _scores(hidden[part], head, targets[part], chunk, with_gradient)
                scores[part] = found
                if gradient is not None and slopes is not None:
                    gradient[part] = slopes
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return scores

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0][:, None].to(gradient.dtype), None, None, None


def _scores(
    hidden: Tensor, head: Head, targets: Tensor, chunk: int, with_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return log p(target), [n], and its gradient by the states, [n, d], if it is wanted."""
    states, weight = hidden.float(), head.weight.detach()
    largest = states.new_full((len(states), 1), -torch.inf)
    total = states.new_zeros(len(states), 1)
    chosen, slope = states.new_zeros(len(states), 1), states.new_ones(len(states), 1)
    mean = torch.zeros_like(states) if with_gradient else None  # of the words' vectors
    for start in range(0, len(weight), chunk):
        words = weight[start : start + chunk]
        with _exact_products(hidden):
            logits = states @ words.float().T
        if head.bias is not None:
            logits += head.bias[start : start + chunk].detach().float()
        if head.scale != 1:
            logits.mul_(head.scale)
        slopes: Tensor | None = None
        if head.softcap is not None:
            logits.div_(head.softcap).tanh_()
            slopes = 1 - logits.square() if with_gradient else None
            logits.mul_(head.softcap)
        here = ((targets >= start) & (targets < start + len(words))).nonzero()[:, 0]
        place = here, targets[here] - start
        chosen[here, 0] = logits[place]
        before, largest = largest, torch.maximum(largest, logits.amax(dim=1, keepdim=True))
        shrunk = before.sub_(largest).exp_()
        exponentials = logits.sub_(largest).exp_()
        total.mul_(shrunk).add_(exponentials.sum(dim=1, keepdim=True))
        if mean is not None:
            if slopes is not None:
                slope[here, 0] = slopes[place]
                exponentials.mul_(slopes)
            mean.mul_(shrunk).add_(exponentials.to(words.dtype) @ words)
    scores = (chosen - largest - total.log())[:, 0]
    if mean is None:
        return scores, None
    return scores, head.scale * (slope * weight[targets] - mean / total)


@contextmanager
def _exact_products(hidden: Tensor) -> Iterator[None]:
    """Let float32 products of numbers that have no more digits than bfloat16 run on its units.

    Nothing is rounded then but the sums, which are float32. TensorFloat-32 holds float16
    as well.

    Notes
    -----
    torch keeps the precision for the whole process: float32 products that another thread
    makes in the meantime are rounded as well. On a CPU there is no other way to these units:
    ``torch.mm(..., out_dtype=torch.float32)`` is for CUDA alone (torch 2.13), and a product
    of bfloat16 matrices rounds the logits.
    """
    cuda = hidden.device.type == "cuda"
    if hidden.dtype not in ((torch.bfloat16, torch.float16) if cuda else (torch.bfloat16,)):
        yield
        return
    backends: Any = torch.backends
    backend = (backends.cuda if cuda else backends.mkldnn).matmul
    with _precision:
        before = backend.fp32_precision
        backend.fp32_precision = "tf32" if cuda else "bf16"
        try:
            yield
        finally:
            backend.fp32_precision = before
