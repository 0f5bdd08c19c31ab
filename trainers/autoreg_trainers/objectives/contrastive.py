"""InfoNCE on the pooled vectors: the baseline of the paper's tables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from autoreg_rag.model import AutoRegModel
from autoreg_trainers.losses import cosine_error, info_nce, listwise_divergence
from autoreg_trainers.objectives.objective import Objective, Outcome, Row, summed
from autoreg_trainers.teacher import Teacher


class Contrastive(Objective):
    """InfoNCE with in-batch and hard negatives, of queries under I_next to texts under I_self.

    Rows hold token ids ``query``, ``positive`` and ``negatives``, and ``group``.
    All processes' documents are candidates. Those of the query's own group, other answers to
    the same query, and copies of its positive or of itself are left out. The unit is a row.

    Parameters
    ----------
    model, token_budget
        See `Objective`.
    tau
        Temperature of the cosines.
    teacher, teacher_weight, teacher_cosine_weight
        Another encoder, and the weights of the divergence and of the squared difference from
        its similarities. The rows then have what `Teacher.read` gives them.
    """

    separable = False
    exchanges = True

    def __init__(
        self,
        model: AutoRegModel,
        token_budget: int,
        *,
        tau: float = 0.05,
        teacher: Teacher | None = None,
        teacher_weight: float = 1.0,
        teacher_cosine_weight: float = 0.0,
    ) -> None:
        super().__init__(model, token_budget)
        self.tau = tau
        self.teacher = teacher
        self.teacher_weight = teacher_weight
        self.teacher_cosine_weight = teacher_cosine_weight

    def units(self, row: Row) -> int:
        """Return 1."""
        return 1

    def encoder_tokens(self, row: Row) -> int:
        """Return how many tokens of the row the encoder reads."""
        texts = [row["query"], row["positive"], *row["negatives"]]
        around = len(self.document_suffix) + self.model.neck.k + 1
        return sum(len(ids) + around for ids in texts)

    def forward(self, rows: Sequence[Row]) -> Outcome:
        """Return InfoNCE, summed over the rows."""
        n = len(rows)
        documents = [row["positive"] for row in rows]
        documents += [ids for row in rows for ids in row["negatives"]]
        vectors = self.pooled(self.encode(self.queries(rows) + self.documents(documents)))
        queries, own = vectors[:n], vectors[n:]
        # Held-back rows are batches of their own: processes may have different numbers of them.
        contrasted = contrast(
            rows, queries, own, tau=self.tau, gather=self.training, teacher=self.teacher
        )
        loss = contrasted.loss.sum()
        loss = loss + contrasted.lesson(self.teacher_weight, self.teacher_cosine_weight)
        return Outcome(loss, n, contrasted.sums(), (queries.detach(), own[:n].detach()))


@dataclass
class Contrasted:
    """What `contrast` gives of each row, [n] each.

    Attributes
    ----------
    loss
        InfoNCE.
    ranked_first
        Whether the positive is the most similar candidate.
    divergence, cosine_error
        From the teacher's similarities, where there is a teacher.
    """

    loss: Tensor
    ranked_first: Tensor
    divergence: Tensor | None = None
    cosine_error: Tensor | None = None

    def lesson(self, weight: float, cosine_weight: float) -> Tensor | float:
        """Return what the teacher adds to the loss, summed over the rows."""
        if self.divergence is None or self.cosine_error is None:
            return 0.0
        return weight * self.divergence.sum() + cosine_weight * self.cosine_error.sum()

    def sums(self) -> dict[str, tuple[float, int]]:
        """Return the figures to report."""
        sums = {
            "info_nce": summed(self.loss),
            "ranked_first": summed(self.ranked_first.float()),
        }
        if self.divergence is not None and self.cosine_error is not None:
            sums["divergence"] = summed(self.divergence)
            sums["cosine_error"] = summed(self.cosine_error)
        return sums


def contrast(
    rows: Sequence[Row],
    queries: Tensor,
    documents: Tensor,
    *,
    tau: float,
    gather: bool,
    teacher: Teacher | None = None,
) -> Contrasted:
    """Compare each query to all documents.

    InfoNCE leaves out what is not `allowed`; the teacher, who knows how near they are, is
    asked about all.

    Parameters
    ----------
    rows
        With ``query``, ``group``, ``positive`` and ``negatives``.
    queries, documents
        Vectors of unit length: of the rows' queries, [n, d]; of their positives, then of
        all negatives, [c, d].
    tau
        Temperature.
    gather
        Whether other processes' documents are candidates too. All must call this then.
    teacher
        Whose similarities are to be learnt.
    """
    n, d = len(rows), queries.shape[1]
    keys = document_keys(rows)
    taught = None if teacher is None else teacher.vectors(rows, queries.device)
    if taught is not None:
        documents = torch.cat([documents, taught[1]], dim=1)
    candidates, candidate_keys, first = (
        _gathered(documents, keys) if gather else (documents, keys, 0)
    )
    mask = torch.from_numpy(allowed(keys[:n], candidate_keys)).to(queries.device)
    positives = torch.arange(first, first + n, device=queries.device)
    mask[torch.arange(n, device=queries.device), positives] = True
    cosines = queries @ candidates[:, :d].T
    similarities = cosines.masked_fill(~mask, -torch.inf)
    contrasted = Contrasted(
        info_nce(similarities, positives, tau), similarities.argmax(dim=1) == positives
    )
    if taught is not None:
        wanted = taught[0] @ candidates[:, d:].T.detach()
        contrasted.divergence = listwise_divergence(wanted, cosines, tau)
        contrasted.cosine_error = cosine_error(wanted, cosines)
    return contrasted


_KEYS = np.dtype([(name, np.int64) for name in ("group", "query", "text", "asked")])


def document_keys(rows: Sequence[Row]) -> np.ndarray:
    """Return what tells each row's positive, then all negatives, from others, as hashes, [c].

    ``group`` and ``query`` say what a document answers, ``text`` what it is, ``asked`` the
    query's own text as a document would have it. A negative answers nothing: it has a group
    and a query of its own.
    """
    positives = [
        (
            _hash(f"g{row['group']}" if row["group"] else f"p{row['positive']}"),
            _hash(f"q{row['query']}"),
            _hash(f"t{row['positive']}"),
            _hash(f"t{row['query']}"),
        )
        for row in rows
    ]
    negatives = [
        (_hash(f"n{ids}"), _hash(f"n{ids}"), _hash(f"t{ids}"), 0)
        for row in rows
        for ids in row["negatives"]
    ]
    return np.array(positives + negatives, dtype=_KEYS)


def allowed(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Tell which candidates may be a query's negatives, [n, c].

    Their text is not the query's own, nor that of any candidate that answers the query or is
    of its group, its positive among them: what is a positive there stays one as another row's
    negative.
    """
    result = np.empty((len(queries), len(candidates)), dtype=bool)
    for row, query in zip(result, queries, strict=True):
        answers = (candidates["group"] == query["group"]) | (candidates["query"] == query["query"])
        row[:] = ~np.isin(candidates["text"], [*candidates["text"][answers], query["asked"]])
    return result


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), signed=True)


def _gathered(vectors: Tensor, keys: np.ndarray) -> tuple[Tensor, np.ndarray, int]:
    """Return all processes' vectors and keys, and where this process's begin."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return vectors, keys, 0
    everyone: list[np.ndarray] = [keys] * dist.get_world_size()
    dist.all_gather_object(everyone, keys)
    sizes = [len(part) for part in everyone]
    room = max(sizes) - len(vectors)
    padded = torch.nn.functional.pad(vectors, (0, 0, 0, room))
    parts: Tensor = _AllGather.apply(padded)  # type: ignore[no-untyped-call]
    kept = [part[:size] for part, size in zip(parts, sizes, strict=True)]
    return torch.cat(kept), np.concatenate(everyone), sum(sizes[: dist.get_rank()])


class _AllGather(torch.autograd.Function):
    """All processes' tensors of one shape, [p, ...]; their losses' gradients come back added up."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        gradient = outer[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]
