"""A prefix that many texts stand behind, read by the decoder once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from autoreg_rag.batching import right_padded
from autoreg_rag.decoder import Decoder


class SharedPrefix:
    """Input vectors of the decoder, and the keys and values that it makes of them.

    Every text behind the prefix attends to the same keys and values, so a batch
    reads its texts alone. Models that keep more than keys and values (recurrent
    or convolutional layers) read the prefix again with each text.

    The caller puts the model into its role of decoder, without gradients.

    Parameters
    ----------
    decoder
        That of the model.
    vectors
        What stands before each text, [1, p, d]: `Neck.bridge` of one row of e, or
        `Decoder.no_context`.
    """

    def __init__(self, decoder: Decoder, vectors: Tensor) -> None:
        self._decoder = decoder
        self._vectors = vectors.to(decoder.backbone.dtype)
        self._cache = _PrefixCache(config=decoder.backbone.language_model.config)
        if self._cache.is_shareable:  # as far as the configuration tells; reading may add layers
            self._last = self._read(self._vectors)[:, -1:]
            self._cache.is_complete = True

    def states(self, targets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return the states that predict the targets' tokens, as `Decoder.states` does.

        Parameters
        ----------
        targets
            n rows of ids, as `Decoder.ids` makes them.

        Returns
        -------
        Tensor, Tensor
            Last hidden states, [N, d] for N tokens in all, and the token that each
            predicts, [N]; row by row.
        """
        n = len(targets)
        if not self._cache.is_shareable:
            return self._decoder.states(self._vectors.expand(n, -1, -1), targets)
        backbone = self._decoder.backbone
        ids, lengths = right_padded(targets, backbone.device)
        hidden = self._last.expand(n, -1, -1)  # predicts each text's first token
        if ids.shape[1] > 1:
            hidden = torch.cat([hidden, self._read(backbone.embed(ids[:, :-1]))], dim=1)
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return hidden[real], ids[real]

    def _read(self, vectors: Tensor) -> Tensor:
        """Return the last hidden states of what stands behind the cache."""
        hidden: Tensor = self._decoder.backbone.body(
            inputs_embeds=vectors, past_key_values=self._cache, use_cache=True
        ).last_hidden_state
        return hidden


class _PrefixCache(DynamicCache):
    """A cache that grows by the prefix and, once complete, is only read.

    `DynamicCache` would keep the keys and values of every layer of a batch until
    its end, though nothing follows it.
    """

    is_complete = False

    @property
    def is_shareable(self) -> bool:
        """Whether keys and values are all that the layers keep, and they keep them here."""
        kinds = (DynamicLayer, DynamicSlidingWindowLayer)
        layers: list[Any] = self.layers
        return all(
            type(layer) in kinds and (layer.is_initialized or not self.is_complete)
            for layer in layers
        )

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_complete:
            grown: tuple[Tensor, Tensor] = super().update(
                key_states, value_states, layer_idx, *args, **kwargs
            )
            return grown
        layer: Any = self.layers[layer_idx]
        shape = (len(key_states), -1, -1, -1)
        return (
            torch.cat([layer.keys.expand(shape), key_states], dim=-2),
            torch.cat([layer.values.expand(shape), value_states], dim=-2),
        )
