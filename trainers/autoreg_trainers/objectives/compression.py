"""Information Compression: the k vectors must generate the target text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autoreg_rag.batching import right_padded
from autoreg_rag.decoder import row_sums
from autoreg_rag.likelihood import token_log_probs
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.divergence import token_divergence
from autoreg_trainers.objectives.objective import Objective, Outcome, Row


class Compression(Objective):
    """L_IC = -log p(target | e(context, instruction)), per token (Deng et al. 2025).

    Rows hold token ids: ``context``, ``suffix`` (the instruction, as
    `AutoRegConfig.suffix` puts it) and ``target``. The unit is a target's token,
    its closing <eos> included.

    Parameters
    ----------
    model, token_budget
        See `Objective`.
    distillation
        Weight, 0 to 1, of KL(D(. | context) || D(. | e)) at each token of the
        target; the likelihood has the rest. The teacher is the frozen decoder
        that reads the context itself.
    """

    def __init__(
        self, model: AutoRegModel, token_budget: int, *, distillation: float = 0.0
    ) -> None:
        super().__init__(model, token_budget)
        self.distillation = distillation
        self.compare = False
        """Whether to report, in training too, what the decoder reaches without the context."""

    def units(self, row: Row) -> int:
        """Return the number of the target's tokens."""
        return len(self.targets([row["target"]])[0])

    def encoder_tokens(self, row: Row) -> int:
        """Return how many tokens of the row the encoder reads."""
        return len(self.wrapped(row)) + self.model.neck.k

    def forward(self, rows: Sequence[Row]) -> Outcome:
        """Return the negative log-likelihood of the rows' targets, summed over tokens."""
        contexts = [self.wrapped(row) for row in rows]
        targets = self.targets([row["target"] for row in rows])
        units = sum(map(len, targets))
        prefix = self.model.neck.bridge(self.encode(contexts))
        likelihood = torch.zeros(len(rows), device=prefix.device)

        def loss(positions: Sequence[int], prefix: Tensor) -> Tensor:
            batch = [targets[i] for i in positions]
            decoder, base = self.model.decoder, self.model.backbone
            hidden, tokens = decoder.states(prefix, batch)
            scores = token_log_probs(hidden, base.head, tokens)
            likelihood[list(positions)] = row_sums(scores.detach(), batch)
            if not self.distillation:
                return -row_sums(scores, batch)
            with torch.no_grad():
                teacher = self._with_context([contexts[i] for i in positions], batch)
            distance = token_divergence("kl", teacher, hidden, base.head)
            mixed = self.distillation * distance - (1 - self.distillation) * scores
            return row_sums(mixed, batch)

        lengths = [self.model.neck.k + len(ids) for ids in targets]
        if self.distillation:  # the teacher reads context and target
            pairs = zip(lengths, contexts, targets, strict=True)
            lengths = [length + len(context) + len(ids) for length, context, ids in pairs]
        losses = self.decode(loss, lengths, prefix)
        sums = {"nll": (-float(likelihood.sum()), units)}
        if self.compare or not self.training:
            nothing = -float(self.no_context(targets).sum())
            sums["no_context"] = (nothing, units)
            sums["gain"] = (nothing + float(likelihood.sum()), units)
            if len(rows) > 1:
                # A constant prefix already helps; what a text's own vectors add is content.
                with torch.no_grad():
                    others = -float(self._scored(prefix.detach().roll(1, 0), targets).sum())
                sums["content"] = (others + float(likelihood.sum()), units)
        return Outcome(losses.sum(), units, sums)

    def wrapped(self, row: Row) -> list[int]:
        """Return what the encoder reads of a row."""
        wrapped = self.model.encoder.wrapped
        around = len(wrapped([], row["suffix"])) + self.model.neck.k
        room = max(1, min(self.limit, self.model.backbone.window - around))
        return wrapped(row["context"][:room], row["suffix"])

    def _with_context(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> Tensor:
        """Return the states that predict the targets behind their contexts as text, [N, d]."""
        base = self.model.backbone
        rows = [[*context, *ids[:-1]] for context, ids in zip(contexts, targets, strict=True)]
        ids, lengths = right_padded(rows, base.device)
        hidden = base.body(inputs_embeds=base.embed(ids), use_cache=False).last_hidden_state
        position = torch.arange(ids.shape[1], device=ids.device)
        first = lengths - torch.tensor([len(row) for row in targets], device=ids.device)
        real = (position >= first[:, None]) & (position < lengths[:, None])
        states: Tensor = hidden[real]
        return states
