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
        if args or kwargs or not self._plain(x):
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        (adapter,) = self.active_adapters
        output: Tensor = self.base_layer(x)
        update = self.lora_A[adapter](x)
        output.view(-1, output.shape[-1]).addmm_(
            update.view(-1, update.shape[-1]),
            self.lora_B[adapter].weight.T,
            alpha=self.scaling[adapter],
        )
        return output

    def _plain(self, x: Tensor) -> bool:
        if torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type):
            return False
        if self.disable_adapters or self.merged or self.lora_variant:
            return False
        if len(self.active_adapters) != 1 or self.active_adapters[0] not in self.lora_A:
            return False
        (adapter,) = self.active_adapters
        if self.training and not isinstance(self.lora_dropout[adapter], nn.Identity):
            return False
        last = self.lora_B[adapter]
        return last.bias is None and last.weight.dtype == self.base_layer.weight.dtype == x.dtype


def fuse(model: PeftModel) -> None:
    """Make each LoRA layer of a plain linear layer a `FusedLoraLinear`, with the same weights."""
    for module in model.modules():
        if type(module) is lora.Linear and type(module.get_base_layer()) is nn.Linear:
            module.__class__ = FusedLoraLinear  # peft builds its layers itself, by their base
