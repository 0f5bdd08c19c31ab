"""What the objectives share: texts encoded once, targets scored in batches, sums reported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoreg_rag.batching import SMALL_BATCH, SMALL_BATCHES, length_buckets
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.cut import rowwise

Row = Mapping[str, Any]

PADDING = 0.25
"""The share of a batch's tokens that may be padding before the batch is split."""


@dataclass
class Outcome:
    """What an objective makes of some rows.

    Attributes
    ----------
    loss
        Sum over the rows' units (tokens or rows), with its graph, [].
    units
        How many units that were.
    sums
        Figures to report: name to sum and count.
    vectors
        Pooled vectors of queries and of their positives, without a graph, [n, d]
        each; nothing where the objective has no pairs.
    """

    loss: Tensor
    units: int
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    vectors: tuple[Tensor, Tensor] | None = None


class Objective(nn.Module, ABC):
    """A loss over rows of token ids.

    Parameters
    ----------
    model
        The model to train; its trainable parameters need gradients already.
    token_budget
        The most tokens whose graph is held in either role.

    Attributes
    ----------
    separable
        Whether the loss of a batch is the sum over its rows, so that a batch
        may be worked off in parts.
    exchanges
        Whether a pass waits for the other processes' passes.
    max_target
        How many tokens of a target the decoder scores at most; None for all. A target
        that is cut has no end.
    one_pass
        Whether each role runs once per call, on padded rows, as sharded weights
        need: there every process must make the same number of passes.
    """

    separable = True
    exchanges = False

    def __init__(self, model: AutoRegModel, token_budget: int) -> None:
        super().__init__()
        self.model = model
        self.token_budget = token_budget
        self.one_pass = False
        self.max_target: int | None = None
        encoder = model.encoder
        self.query_suffix = encoder.suffix_ids(model.config.query_instruction)
        self.document_suffix = encoder.suffix_ids(model.config.document_instruction)
        self.limit = encoder.truncation.limit
        self.eos = encoder.backbone.tokenizer.eos_token_id

    def train(self, mode: bool = True) -> Self:
        """Switch training on or off; of the base only an adapter's dropout takes part.

        The base is the decoder too, which is frozen: it must score a text the
        same way each time, and as its reference did.
        """
        super().train(mode)
        for name, module in self.model.backbone.language_model.named_modules():
            module.training = mode and "lora_dropout" in name
        return self

    @abstractmethod
    def forward(self, rows: Sequence[Row]) -> Outcome:
        """Return the loss and the figures of some rows."""

    @abstractmethod
    def units(self, row: Row) -> int:
        """Return how many units (tokens or rows) the row's loss is a sum of."""

    @abstractmethod
    def encoder_tokens(self, row: Row) -> int:
        """Return how many tokens of the row the encoder reads."""

    def parts(self, rows: Sequence[Row], token_budget: int) -> Iterator[list[Row]]:
        """Split a batch into parts of similar length, within a budget of encoder tokens."""
        if not self.separable:
            yield list(rows)
            return
        sizes = [self.encoder_tokens(row) for row in rows]
        part: list[Row] = []
        held = 0
        for position in sorted(range(len(rows)), key=lambda i: -sizes[i]):
            if part and held + sizes[position] > token_budget:
                yield part
                part, held = [], 0
            part.append(rows[position])
            held += sizes[position]
        if part:
            yield part

    def queries(self, rows: Sequence[Row]) -> list[list[int]]:
        """Return what the encoder reads for the rows' queries: their ids under I_next.

        The query of a row that says ``symmetric`` is a text like its positive, and
        read like it: two sentences are compared under I_self.
        """
        wrapped = self.model.encoder.wrapped
        suffixes = (self.query_suffix, self.document_suffix)
        return [
            wrapped(row["query"][: self.limit], suffixes[bool(row.get("symmetric"))])
            for row in rows
        ]

    def documents(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return what the encoder reads for documents: their ids under I_self."""
        wrapped = self.model.encoder.wrapped
        return [wrapped(ids[: self.limit], self.document_suffix) for ids in texts]

    def targets(self, texts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return what the decoder generates: the texts' ids, closed by <eos>, or their start."""
        return [[*ids[: self.limit], self.eos][: self.max_target] for ids in texts]

    def encode(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Return e of each sequence, each distinct one encoded once, [n, k, d].

        Activations beyond the budget are not kept but worked out again in the
        backward pass (gradient checkpointing, batch by batch). That pass begins with
        the last batches, so theirs are kept: they are gone before others come back.
        """
        distinct = list(dict.fromkeys(map(tuple, sequences)))
        lengths = [len(ids) + self.model.neck.k for ids in distinct]
        left = sum(lengths)
        device = torch.empty(0, device=self.model.backbone.device)
        order: list[int] = []
        parts = []
        for positions in self.buckets(lengths):
            batch = [distinct[i] for i in positions]
            recompute = torch.is_grad_enabled() and left > self.token_budget and not self.one_pass
            work = partial(self._latents, batch)
            # By this tensor it knows the device whose random state, of dropout, comes again.
            parts.append(checkpoint(work, device, use_reentrant=False) if recompute else work())
            left -= sum(lengths[i] for i in positions)
            order += positions
        place = {distinct[i]: j for j, i in enumerate(order)}
        latents: Tensor = torch.cat(parts)[[place[tuple(ids)] for ids in sequences]]
        return latents

    def _latents(self, batch: list[tuple[int, ...]], _: Tensor | None = None) -> Tensor:
        base = self.model.backbone
        # Adapters and trained weights are float32; they compute in the base's format.
        with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
            return self.model.encoder.latents(batch).float()

    def pooled(self, latents: Tensor) -> Tensor:
        """Return the embeddings that retrieval compares, [n, k, d] to [n, d]."""
        return self.model.encoder.pool(latents)

    def log_likelihoods(self, latents: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        """Return log p(target | e) of each row, in nats, summed over its tokens, [n]."""
        return self._scored(self.model.neck.bridge(latents), targets)

    @torch.no_grad()
    def no_context(self, targets: Sequence[Sequence[int]]) -> Tensor:
        """Return log p(target) of each row with nothing before it, in nats, [n]."""
        return self._scored(self.model.decoder.no_context(len(targets)), targets)

    def _scored(self, prefix: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        def score(rows: Sequence[int], prefix: Tensor) -> Tensor:
            return self.model.decoder.log_probs(prefix, [targets[i] for i in rows])

        lengths = [prefix.shape[1] + len(ids) for ids in targets]
        return self.decode(score, lengths, prefix)

    def decode(
        self,
        function: Callable[..., Tensor],
        lengths: Sequence[int],
        *prefixes: Tensor,
    ) -> Tensor:
        """Apply a function of prefixes under the frozen decoder, `rowwise`.

        Parameters
        ----------
        function
            See `cut.rowwise`.
        lengths
            How many tokens the decoder runs for each row, for the budget, [n].
        *prefixes
            What stands before the targets, [n, p, d] each.

        Returns
        -------
        Tensor
            [n].
        """
        with self.model.as_decoder():
            return rowwise(function, self.buckets(lengths), *prefixes)

    def buckets(self, lengths: Sequence[int]) -> list[list[int]]:
        """Group positions into batches of one pass each."""
        if self.one_pass:
            return [list(range(len(lengths)))]
        small = SMALL_BATCHES.get(self.model.backbone.device.type, SMALL_BATCH)
        return list(length_buckets(lengths, self.token_budget, padding=PADDING, small=small))


def summed(values: Tensor) -> tuple[float, int]:
    """Return sum and number of some values, as `Outcome.sums` holds them."""
    return float(values.detach().sum()), values.numel()
