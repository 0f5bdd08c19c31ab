"""The head of a causal language model: last hidden states to logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from autoreg_rag.errors import ModelError

_TOLERANCE = 0.02
"""Of logits beside their own size: bfloat16 rounds by less, another kind of head moves by more."""

_SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap")
"""What configurations call a head's bound."""


@dataclass(frozen=True)
class Head:
    """Logits are ``cap(scale (h W^T + bias))`` with ``cap(x) = softcap tanh(x / softcap)``.

    Attributes
    ----------
    weight
        W, [V, d].
    bias
        [V], or None where there is none.
    scale
        What some families multiply their logits by.
    softcap
        The bound of a head that squashes its logits, else None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def capped(self, logits: Tensor) -> Tensor:
        """Return logits within the bound."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    @classmethod
    def of(cls, model: PreTrainedModel, scale: float) -> Head:
        """Return a model's head, whose scale is known."""
        layer: Any = model.get_output_embeddings()
        bias = getattr(layer, "bias", None)
        config = model.config.get_text_config()
        bounds = (getattr(config, name, None) for name in _SOFTCAPS)
        return cls(layer.weight, bias, scale, next(filter(None, bounds), None))


@torch.inference_mode()
def measured_scale(model: PreTrainedModel, inputs: Tensor, hidden: Tensor) -> float:
    """Find the scale of a model's head: families give it by other names, or senses of one name.

    Parameters
    ----------
    model
        A causal LM.
    inputs
        Input vectors of a few tokens, [1, T, d].
    hidden
        The last hidden states that the model makes of them, [1, T, d].

    Returns
    -------
    float
        That of `Head`: exactly 1 where logits are not scaled.

    Raises
    ------
    ModelError
        The model's logits are none that a `Head` gives.
    """
    expected = model(inputs_embeds=inputs, use_cache=False).logits.float()
    head = Head.of(model, 1.0)
    plain = hidden.float() @ head.weight.float().T
    if head.bias is not None:
        plain = plain + head.bias.float()
    scale = 1.0
    if not _close(head.capped(plain), expected):
        bounded = expected
        if head.softcap is not None:
            bounded = head.softcap * torch.atanh((expected / head.softcap).clamp(-0.999, 0.999))
        scale = float((bounded * plain).sum() / plain.square().sum())
        if not _close(head.capped(scale * plain), expected):
            raise ModelError("its head is of a kind that this version cannot evaluate")
    return scale


def _close(logits: Tensor, expected: Tensor) -> bool:
    return bool((logits - expected).abs().max() <= _TOLERANCE * expected.abs().max())
