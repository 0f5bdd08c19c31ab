"""LoRA layers that add their update inside one matrix product."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel
from peft.tuners import lora
from torch import Tensor, nn


class FusedLoraLinear(lora.Linear):  # type: ignore[misc]  # peft's layers have no types
    """peft's LoRA of a linear layer, with ``W x + s B A x`` written in place.

    peft makes two more tensors of the layer's width, s B A x and the sum. On a CPU
    reading and writing them costs more than the adapter's arithmetic. Whatever is not
    plain inference (gradients, a mixture of number formats, a merged adapter or one
    that is switched off) is left to peft.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output, [..., inputs] to [..., outputs]."""
        adapter = None if args or kwargs else self._plain_adapter(x)
        if adapter is None:
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        output: Tensor = self.base_layer(x)
        update = self.lora_A[adapter](x)
        output.view(-1, output.shape[-1]).addmm_(
            update.view(-1, update.shape[-1]),
            self.lora_B[adapter].weight.T,
            alpha=self.scaling[adapter],
        )
        return output

    def _plain_adapter(self, x: Tensor) -> str | None:
        """Return the one adapter, where all that is to be done is to add its update."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return None
        if self.disable_adapters or self.merged or self.lora_variant:
            return None
        active: list[str] = self.active_adapters
        if len(active) != 1 or active[0] not in self.lora_A:
            return None
        (adapter,) = active
        if self.training and not isinstance(self.lora_dropout[adapter], nn.Identity):
            return None
        last = self.lora_B[adapter]
        alike = last.weight.dtype == self.base_layer.weight.dtype == x.dtype
        return adapter if alike and last.bias is None else None


def fuse(model: PeftModel) -> None:
    """Make each LoRA layer of a plain linear layer a `FusedLoraLinear`, with the same weights."""
    for module in model.modules():
        if type(module) is lora.Linear and type(module.get_base_layer()) is nn.Linear:
            module.__class__ = FusedLoraLinear  # peft builds its layers itself, by their base
