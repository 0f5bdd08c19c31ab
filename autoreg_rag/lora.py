"""LoRA layers that add their update inside one matrix product."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn.functional import linear


class FusedLoraLinear(lora.Linear):  # type: ignore[misc]  # peft's layers have no types
    """peft's LoRA of a linear layer, with the sum of ``W x + s B A x`` made by a matrix product.

    peft makes two more tensors of the layer's width, s B A x and the sum, and under
    autocast copies of x in two formats. On a CPU reading and writing them costs more than
    the adapter's arithmetic, on a GPU launching them does. What the product cannot do
    (other mixtures of formats, dropout, a merged adapter or one that is switched off) is
    left to peft.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output, [..., inputs] to [..., outputs]."""
        adapter = None if args or kwargs else self._plain_adapter(x)
        if adapter is None:
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        output: Tensor = self.base_layer(x)
        update = linear(x, self.lora_A[adapter].weight.to(x.dtype))
        last = self.lora_B[adapter].weight.to(x.dtype).T
        update, rows = update.view(-1, len(last)), output.view(-1, output.shape[-1])
        scale = self.scaling[adapter]
        if torch.is_grad_enabled():
            return torch.addmm(rows, update, last, alpha=scale).view_as(output)
        rows.addmm_(update, last, alpha=scale)
        return output

    def _plain_adapter(self, x: Tensor) -> str | None:
        """Return the one adapter, where all that is to be done is to add its update."""
        if self.disable_adapters or self.merged or self.lora_variant:
            return None
        active: list[str] = self.active_adapters
        if len(active) != 1 or active[0] not in self.lora_A:
            return None
        (adapter,) = active
        dropout = self.lora_dropout[adapter]  # which may be in training by itself
        if dropout.training and not isinstance(dropout, nn.Identity):
            return None
        last = self.lora_B[adapter]
        kind = x.device.type
        format_ = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        alike = (format_ or last.weight.dtype) == self.base_layer.weight.dtype == x.dtype
        return adapter if alike and last.bias is None else None


def fuse(model: PeftModel) -> None:
    """Make each LoRA layer of a plain linear layer a `FusedLoraLinear`, with the same weights."""
    for module in model.modules():
        if type(module) is lora.Linear and type(module.get_base_layer()) is nn.Linear:
            module.__class__ = FusedLoraLinear  # peft builds its layers itself, by their base
