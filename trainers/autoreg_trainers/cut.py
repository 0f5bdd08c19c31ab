"""The cut at the neck: a graph of many rows, run in batches whose memory is freed at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def rowwise(
    function: Callable[..., Tensor], batches: Iterable[Sequence[int]], *inputs: Tensor
) -> Tensor:
    """Apply a function that treats each row alone, holding the graph of one batch at a time.

    Row i of the result depends on row i of the inputs and on nothing else that
    needs a gradient, so its gradient by the inputs can be taken while its batch
    is at hand; the backward pass only scales it. What a later loss does with the
    result is left to autograd, and gradients equal those of the graph kept whole.

    AutoRegEmbed's decoder is such a function: from the k x d numbers of a row to
    the likelihood of its target.

    Parameters
    ----------
    function
        Called with the rows' positions and with each input's rows; returns one
        number a row, [b].
    batches
        Positions of rows; over all batches each position comes once.
    *inputs
        Tensors of n rows.

    Returns
    -------
    Tensor
        float32 [n].
    """
    with_gradient = torch.is_grad_enabled() and any(value.requires_grad for value in inputs)
    values: Tensor = _Rowwise.apply(  # type: ignore[no-untyped-call]
        function, list(batches), with_gradient, *inputs
    )
    return values


class _Rowwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Tensor],
        batches: list[Sequence[int]],
        with_gradient: bool,
        *inputs: Tensor,
    ) -> Tensor:
        values = inputs[0].new_zeros(len(inputs[0]), dtype=torch.float32)
        gradients = [torch.zeros_like(value) for value in inputs] if with_gradient else []
        for rows in batches:
            leaves = [value[rows].detach().requires_grad_(with_gradient) for value in inputs]
            with torch.set_grad_enabled(with_gradient):
                result = function(rows, *leaves)
                values[rows] = result.detach()
                found = torch.autograd.grad(result.sum(), leaves) if with_gradient else ()
            for gradient, part in zip(gradients, found, strict=True):
                gradient[rows] = part
            del leaves, result  # the graph of this batch, before the next one is built
        ctx.save_for_backward(*gradients)
        return values

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [
            gradient * outer[0].reshape(-1, *[1] * (gradient.dim() - 1)).to(gradient.dtype)
            for gradient in ctx.saved_tensors
        ]
        return None, None, None, *scaled
