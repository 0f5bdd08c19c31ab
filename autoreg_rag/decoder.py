"""The frozen decoder: how likely k vectors make a text, and what text they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autoreg_rag.backbone import Backbone
from autoreg_rag.batching import length_buckets, right_padded
from autoreg_rag.likelihood import token_log_probs
from autoreg_rag.neck import Neck
from autoreg_rag.truncation import Truncation


class Decoder:
    """Runs the base behind the bridged vectors; the caller switches the adapter off.

    Parameters
    ----------
    backbone, neck
        Those of the model.
    truncation
        Cuts targets that are too long.
    """

    def __init__(self, backbone: Backbone, neck: Neck, truncation: Truncation) -> None:
        self.backbone = backbone
        self.neck = neck
        self.truncation = truncation

    def ids(self, targets: Sequence[str]) -> list[list[int]]:
        """Return the ids of each target, closed by the end-of-sequence token."""
        eos = self.backbone.tokenizer.eos_token_id
        return [[*ids, eos] for ids in self.truncation(targets)]

    def states(self, prefix: Tensor, targets: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return the states that predict the targets' tokens, of all rows on end, for one batch.

        Parameters
        ----------
        prefix
            Input vectors that stand before the targets, [n, p, d].
        targets
            n rows of ids, as `ids` makes them.

        Returns
        -------
        Tensor, Tensor
            Last hidden states, [N, d] for N tokens in all, and the token that each
            predicts, [N]; row by row.
        """
        ids, lengths = right_padded(targets, self.backbone.device)
        inputs = torch.cat(
            [prefix.to(self.backbone.dtype), self.backbone.embed(ids[:, :-1])], dim=1
        )
        hidden = self.backbone.body(inputs_embeds=inputs, use_cache=False).last_hidden_state
        # The state at the prefix's last position predicts the first token.
        hidden = hidden[:, prefix.shape[1] - 1 :]
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return hidden[real], ids[real]

    def log_probs(self, prefix: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        """Return the sum of log D(t_i | prefix, t_<i) over each target's tokens, for one batch.

        Parameters
        ----------
        prefix
            What the decoder reads, [n, p, d]: `Neck.bridge` of e, or `no_context`.
        targets
            n rows of ids, as `ids` makes them.

        Returns
        -------
        Tensor
            In nats, float32 [n].
        """
        hidden, tokens = self.states(prefix, targets)
        scores = token_log_probs(hidden, self.backbone.head, tokens)
        return row_sums(scores, targets)

    def no_context(self, n: int) -> Tensor:
        """Return the prefix that tells nothing, the token that begins a text, [n, 1, d]."""
        tokenizer = self.backbone.tokenizer
        start = tokenizer.bos_token_id
        start = tokenizer.eos_token_id if start is None else start
        return self.backbone.embed(torch.full((n, 1), start, device=self.backbone.device))

    @torch.inference_mode()
    def score(
        self, latents: Tensor, targets: Sequence[str], token_budget: int
    ) -> tuple[Tensor, Tensor]:
        """Return summed log-probabilities and numbers of tokens of all targets, [n] each."""
        sequences = self.ids(targets)
        sums = torch.empty(len(sequences), device=self.backbone.device)
        lengths = [len(ids) + self.neck.k for ids in sequences]
        for positions in length_buckets(lengths, token_budget):
            batch = [sequences[i] for i in positions]
            sums[positions] = self.log_probs(self.neck.bridge(latents[positions]), batch)
        return sums, torch.tensor([len(ids) for ids in sequences], device=sums.device)

    @torch.inference_mode()
    def generate(self, latents: Tensor, max_new_tokens: int, token_budget: int) -> list[str]:
        """Return the text that each row of latents, [n, k, d], makes, decoded greedily."""
        model: Any = self.backbone.language_model
        tokenizer = self.backbone.tokenizer
        texts: list[str] = []
        for rows in latents.split(max(1, token_budget // (self.neck.k + max_new_tokens))):
            prefix = self.neck.bridge(rows).to(self.backbone.dtype)
            ids = model.generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device),
                max_new_tokens=max_new_tokens,
            )
            texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts


def row_sums(values: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Add up one value per token, [N], to one per row of `targets`, [n]."""
    lengths = torch.tensor([len(ids) for ids in targets], device=values.device)
    rows = torch.repeat_interleave(torch.arange(len(targets), device=values.device), lengths)
    return values.new_zeros(len(targets)).index_add(0, rows, values)
