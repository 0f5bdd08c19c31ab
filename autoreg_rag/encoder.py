"""The encoder: texts to the k vectors that hold them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from autoreg_rag.backbone import Backbone
from autoreg_rag.batching import length_buckets, right_padded
from autoreg_rag.config import AutoRegConfig
from autoreg_rag.neck import Neck
from autoreg_rag.truncation import Truncation

BLOCK = 8192
"""Texts whose tokens are held at a time."""


class Encoder:
    """Runs ``<bos> text instruction c_1 .. c_k`` and reads e at the compress tokens.

    Parameters
    ----------
    config, backbone, neck
        Those of the model.
    truncation
        Cuts texts that are too long.
    """

    def __init__(
        self, config: AutoRegConfig, backbone: Backbone, neck: Neck, truncation: Truncation
    ) -> None:
        self.config = config
        self.backbone = backbone
        self.neck = neck
        self.truncation = truncation

    def ids(self, texts: Sequence[str], instruction: str) -> list[list[int]]:
        """Return what stands before the compress tokens; only the text is ever cut."""
        suffix = self.suffix_ids(instruction)
        sequences = self.truncation(texts, len(suffix))
        return [self.wrapped(ids, suffix) for ids in sequences]

    def suffix_ids(self, instruction: str) -> list[int]:
        """Return the ids of what stands between a text and the compress tokens."""
        return self.backbone.tokenize([self.config.suffix(instruction)])[0]

    def wrapped(self, text: Sequence[int], suffix: Sequence[int]) -> list[int]:
        """Put a text's ids between the beginning, with ``<bos>``, and the suffix."""
        return [*self._prefix, *text, *suffix]

    @cached_property
    def _prefix(self) -> list[int]:
        bos = self.backbone.tokenizer.bos_token_id
        return [bos] * (bos is not None) + self.backbone.tokenize([self.config.prefix])[0]

    def latents(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Return e for one batch; gradients flow where they are enabled.

        Causal attention never looks right, so rows that are padded on the right
        need no mask: what they hold sees what it would see alone.

        Parameters
        ----------
        sequences
            n rows of ids, as `ids` makes them.

        Returns
        -------
        Tensor
            Last hidden states at the compress tokens, [n, k, d].
        """
        ids, lengths = right_padded(sequences, self.backbone.device, extra=self.neck.k)
        inputs, positions = self.neck.append(self.backbone.embed(ids), lengths)
        hidden = self.backbone.body(inputs_embeds=inputs, use_cache=False).last_hidden_state
        rows = torch.arange(len(sequences), device=hidden.device)[:, None]
        latents: Tensor = hidden[rows, positions]
        return latents

    @torch.inference_mode()
    def batches(
        self, texts: Sequence[str], instruction: str, token_budget: int, *, show_progress: bool
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Yield e of all texts, batch by batch: their positions, and float32 [n, k, d].

        Texts are tokenised `BLOCK` at a time, so that the first batch comes soon.
        """
        with tqdm(total=len(texts), unit="text", disable=not show_progress) as progress:
            for start in range(0, len(texts), BLOCK):
                sequences = self.ids(texts[start : start + BLOCK], instruction)
                lengths = [len(ids) + self.neck.k for ids in sequences]
                for batch in length_buckets(lengths, token_budget):
                    with self.backbone.lock:
                        latents = self.latents([sequences[i] for i in batch]).float()
                    yield [start + i for i in batch], latents
                    progress.update(len(batch))

    def pool(self, latents: Tensor) -> Tensor:
        """Turn k vectors into one of unit length, [n, k, d] to [n, d] (``concat``: [n, k d])."""
        if self.config.pooling == "mean":
            pooled = latents.mean(dim=1)
        elif self.config.pooling == "last":
            pooled = latents[:, -1]
        else:
            pooled = latents.flatten(1)
        return normalize(pooled, dim=-1)
