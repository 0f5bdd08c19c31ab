"""Conditional Distribution Alignment: query and document must generate the same text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from autoreg_rag.decoder import row_sums
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.divergence import token_divergence
from autoreg_trainers.losses import (
    AlignmentForm,
    alignment_score,
    cda_loss,
    saturated,
    separation_score,
)
from autoreg_trainers.objectives.contrastive import allowed, contrast, document_keys
from autoreg_trainers.objectives.objective import Objective, Outcome, Row, summed
from autoreg_trainers.teacher import Teacher


@dataclass(frozen=True)
class AlignmentSettings:
    """What the paper leaves open, or varies.

    Attributes
    ----------
    form
        S1's form, see `losses.alignment_score`.
    beta, tau
        Steepness and temperature.
    reduction
        Likelihoods summed over a target's tokens, as printed, or their ``mean``.
        Sums of passages of 100 tokens saturate the sigmoids at the paper's beta.
    in_batch_negatives
        How many positives of other rows, those nearest to the query, count as
        negatives too: 0 to batch size - 1.
    contrastive_weight, contrastive_tau
        Weight and temperature of InfoNCE on the pooled vectors, added to the loss; the
        negatives are the rows' own and in-batch ones, of all processes. 0 is the pure method.
    compression_weight
        Weight of Information Compression's loss on d+, in nats per token, behind e_q
        and, where the form has scored it there, behind e_d+. CDA asks only for
        differences of likelihoods, InfoNCE for none: this keeps the vectors readable,
        and costs nothing, since both are scored already. 0 is the pure method.
    teacher_weight
        Weight of the divergence from the similarities of a teacher, if there is one, at
        `contrastive_tau`.
    teacher_cosine_weight
        Weight of the mean squared difference from them.
    """

    form: AlignmentForm = "log_ratio"
    beta: float = 0.1
    tau: float = 0.1
    reduction: Literal["sum", "mean"] = "sum"
    in_batch_negatives: int = 0
    contrastive_weight: float = 0.0
    contrastive_tau: float = 0.05
    compression_weight: float = 0.0
    teacher_weight: float = 1.0
    teacher_cosine_weight: float = 0.0


class Alignment(Objective):
    """L_CDA of Deng et al. 2025 on rows of query, positive and negatives.

    Rows hold token ids ``query``, ``positive`` and ``negatives``, and what the
    reference gave: ``reference_positive`` and ``reference_negatives``, summed
    log-likelihoods; with in-batch negatives also ``reference_prefix``, what the
    reference's decoder read for the query, [k, d]. The unit is a row.

    Parameters
    ----------
    model, token_budget
        See `Objective`.
    settings
        The loss.
    teacher
        Another encoder, whose similarities are learnt beside it. The rows then have what
        `Teacher.read` gives them.
    """

    def __init__(
        self,
        model: AutoRegModel,
        token_budget: int,
        settings: AlignmentSettings,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(model, token_budget)
        self.settings = settings
        self.teacher = teacher
        self.exchanges = settings.contrastive_weight > 0 or teacher is not None
        self.separable = not (settings.in_batch_negatives or self.exchanges)

    def units(self, row: Row) -> int:
        """Return 1."""
        return 1

    def encoder_tokens(self, row: Row) -> int:
        """Return how many tokens of the row the encoder reads."""
        around = len(self.document_suffix) + self.model.neck.k + 1
        texts = [row["query"], row["positive"]]
        texts += row["negatives"] if self.exchanges else []
        return sum(len(ids) + around for ids in texts)

    def forward(self, rows: Sequence[Row]) -> Outcome:
        """Return L_CDA, summed over the rows."""
        n = len(rows)
        settings = self.settings
        texts = [row["positive"] for row in rows]
        if self.exchanges:
            texts += [ids for row in rows for ids in row["negatives"]]
        latents = self.encode(self.queries(rows) + self.documents(texts))
        vectors = self.pooled(latents)
        queries, candidates = vectors[:n], vectors[n:]
        documents = candidates[:n]
        positives = self.targets([row["positive"] for row in rows])
        negatives = self.targets([ids for row in rows for ids in row["negatives"]])
        owners = [i for i, row in enumerate(rows) for _ in row["negatives"]]
        references = [score for row in rows for score in row["reference_negatives"]]
        if settings.in_batch_negatives:
            others = self._in_batch(rows, queries.detach() @ documents.detach().T, positives)
            owners, negatives = owners + others[0], negatives + others[1]
            references += others[2]

        # One decoder batch: d+ and each d- behind e_q, and d+ behind its own vectors.
        owner = torch.tensor(owners, dtype=torch.long, device=latents.device)
        behind_query = torch.cat([torch.arange(n, device=latents.device), owner])
        targets = positives + negatives
        if settings.form in ("kl", "js"):
            scores = self.log_likelihoods(latents[behind_query], targets)
            distance = self._divergence(latents[:n], latents[n : 2 * n], positives)
            generated = [scores[:n]]
        else:
            own = torch.arange(n, 2 * n, device=latents.device)
            behind = torch.cat([behind_query, own])
            scores = self.log_likelihoods(latents[behind], targets + positives)
            scores, upper = scores[: len(targets)], scores[len(targets) :]
            distance = self._reduced(scores[:n] - upper, positives).abs()
            generated = [scores[:n], upper]

        reference = scores.new_tensor([row["reference_positive"] for row in rows])
        gain = self._reduced(scores[:n] - reference, positives)
        negative_gain = self._reduced(scores[n:] - scores.new_tensor(references), negatives)
        first = alignment_score(distance, settings.beta, settings.form)
        argument = settings.beta * (gain[owner] - negative_gain)
        second = separation_score(gain[owner], negative_gain, settings.beta)
        loss = cda_loss(first, _by_row(second, owner, n), settings.tau).sum()

        margin = self._reduced(scores[:n], positives)[owner] - self._reduced(scores[n:], negatives)
        sums = {
            "s1": summed(first),
            "s2": summed(second),
            "margin": summed(margin),
            "reward_margin": summed(gain[owner] - negative_gain),
            "preferred": summed((margin > 0).float()),
            "s2_saturated": summed(saturated(argument).float()),
            "distance": summed(distance),
        }
        if settings.form != "log_sigmoid":  # whose slope is not lost at large distances
            sums["s1_saturated"] = summed(saturated(settings.beta * distance).float())
        if self.exchanges:
            contrasted = contrast(
                rows,
                queries,
                candidates,
                tau=settings.contrastive_tau,
                gather=self.training,
                teacher=self.teacher,
            )
            sums |= contrasted.sums()
            loss = loss + settings.contrastive_weight * contrasted.loss.sum()
            loss = loss + contrasted.lesson(settings.teacher_weight, settings.teacher_cosine_weight)
        if settings.compression_weight:
            compressed = -_per_token(torch.stack(generated).mean(dim=0), positives)
            sums["nll"] = summed(compressed)
            loss = loss + settings.compression_weight * compressed.sum()
        return Outcome(loss, n, sums, (queries.detach(), documents.detach()))

    @torch.no_grad()
    def reference(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Return the model's own scores of some rows, on the CPU, as reference for later.

        ``positive``, [n], and ``negatives``, flat, with their ``counts``, [n]: summed
        log-likelihoods given the query's vectors, float32, in nats. With in-batch
        negatives also ``prefix``, what the decoder read, float16 [n, k d].
        """
        latents = self.encode(self.queries(rows))
        negatives = self.targets([ids for row in rows for ids in row["negatives"]])
        owners = [i for i, row in enumerate(rows) for _ in row["negatives"]]
        targets = self.targets([row["positive"] for row in rows]) + negatives
        scores = self.log_likelihoods(latents[[*range(len(rows)), *owners]], targets).cpu()
        result = {
            "positive": scores[: len(rows)].clone(),
            "negatives": scores[len(rows) :].clone(),
            "counts": torch.tensor([len(row["negatives"]) for row in rows]),
        }
        if self.settings.in_batch_negatives:
            result["prefix"] = self.model.neck.bridge(latents).flatten(1).half().cpu()
        return result

    def _reduced(self, values: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
        return values if self.settings.reduction == "sum" else _per_token(values, targets)

    def _divergence(
        self, queries: Tensor, documents: Tensor, targets: Sequence[Sequence[int]]
    ) -> Tensor:
        """Return the divergence of D(. | e_q) from D(. | e_d) along each target, [n]."""
        kind: Literal["kl", "js"] = "kl" if self.settings.form == "kl" else "js"
        base, decoder, bridge = self.model.backbone, self.model.decoder, self.model.neck.bridge

        def divergence(rows: Sequence[int], query: Tensor, document: Tensor) -> Tensor:
            batch = [targets[i] for i in rows]
            hidden, _ = decoder.states(torch.cat([document, query]), [*batch, *batch])
            p, q = hidden.chunk(2)
            return row_sums(token_divergence(kind, p, q, base.head), batch)

        lengths = [2 * (self.model.neck.k + len(ids)) for ids in targets]
        sums = self.decode(divergence, lengths, bridge(queries), bridge(documents))
        return self._reduced(sums, targets)

    @torch.no_grad()
    def _in_batch(
        self, rows: Sequence[Row], similarities: Tensor, positives: list[list[int]]
    ) -> tuple[list[int], list[list[int]], list[float]]:
        """Choose the nearest positives of other rows: owners, targets, reference scores."""
        mask = _others(rows).to(similarities.device)
        similarities = similarities.masked_fill(~mask, -torch.inf)
        count = min(self.settings.in_batch_negatives, len(rows) - 1)
        best = similarities.topk(count, dim=1)
        owners, others = [], []
        for i, (values, columns) in enumerate(
            zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ):
            kept = [j for value, j in zip(values, columns, strict=True) if value > -torch.inf]
            owners += [i] * len(kept)
            others += kept
        idle = not others
        if idle and not self.one_pass:
            return [], [], []
        if idle:  # other processes' passes wait for this one
            owners, others = [0], [0]
        targets = [positives[j] for j in others]
        prefix = torch.tensor([rows[i]["reference_prefix"] for i in owners], dtype=torch.float32)
        prefix = prefix.unflatten(1, (self.model.neck.k, -1)).to(similarities.device)
        scores = self._scored(prefix, targets)
        return ([], [], []) if idle else (owners, targets, scores.tolist())


def _per_token(values: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    return values / values.new_tensor([len(ids) for ids in targets])


def _others(rows: Sequence[Row]) -> Tensor:
    """Tell which rows' positives may be further negatives of which rows, each text once, [n, n]."""
    keys = document_keys(rows)[: len(rows)]
    _, first = np.unique(keys["text"], return_index=True)
    once = np.isin(np.arange(len(rows)), first)
    has = [[other["positive"] in row["negatives"] for other in rows] for row in rows]
    return torch.from_numpy(allowed(keys, keys) & once & ~np.array(has))


def _by_row(values: Tensor, owners: Tensor, n: int) -> Tensor:
    """Spread values of flat pairs over their rows, [n, m], with -inf where a row has fewer."""
    counts = torch.bincount(owners, minlength=n)
    columns = torch.zeros_like(owners)
    seen: dict[int, int] = {}
    for position, owner in enumerate(owners.tolist()):
        columns[position] = seen.setdefault(owner, 0)
        seen[owner] += 1
    table = values.new_full((n, int(counts.max()) if n else 0), -torch.inf)
    return table.index_put((owners, columns), values)
