"""How likely passages are: given a question, by themselves, and given their own vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoreg_rag.likelihood import token_log_probs
from autoreg_rag.model import AutoRegModel
from autoreg_rag.rerank.budget import TokenBudget
from autoreg_rag.rerank.prefix import SharedPrefix

BLOCK = 1024
"""Passages whose tokens, and vectors where they are needed, are held at a time."""

CPU_TOKENS = 512
"""Tokens of a batch on a CPU: as fast as larger ones, if not faster, in a quarter of the memory."""

_States = Callable[[list[int], list[list[int]]], tuple[Tensor, Tensor]]
"""Positions of some passages and their ids, to states and tokens as in `Decoder.states`."""


class Likelihoods:
    """Log-likelihoods of any number of passages, in bounded memory.

    Passages stream through in blocks of `BLOCK`, sorted by length into batches
    under a token budget. Where a batch does not fit the memory, the budget is
    halved, stays so, and the work goes on.

    Sums over tokens run in float64: scores are differences of numbers of some
    hundred nats.

    Parameters
    ----------
    model
        Its encoder makes the vectors, its frozen decoder judges.
    token_budget
        The most tokens of a batch; by default the model's, on a CPU at most `CPU_TOKENS`.
    """

    def __init__(self, model: AutoRegModel, token_budget: int | None = None) -> None:
        self.model = model
        if token_budget is None:
            bound = CPU_TOKENS if model.backbone.device.type == "cpu" else model.token_budget
            token_budget = min(model.token_budget, bound)
        self.budget = TokenBudget(token_budget)

    @torch.inference_mode()
    def given_query(
        self, query: str, documents: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return log p(d | e_q) of each passage d, and how many tokens it has.

        One encoder pass compresses the question under I_next; the decoder reads
        its k vectors once, and all passages behind them.

        Returns
        -------
        ndarray, ndarray
            Nats, [n], and tokens with the closing end-of-sequence token, [n].
        """
        latents = self._latents([query], self.model.config.query_instruction)
        return self.behind(self.model.neck.bridge(latents), documents)

    def prior(self, documents: Sequence[str]) -> NDArray[np.float64]:
        """Return log p(d), of each passage by itself, in nats, [n].

        By itself means behind e = c, where the bridge leaves its b alone: the
        same k positions and the same learned start as behind a question, with
        nothing said in them. So log p(d | e_q) - log p(d) holds what the
        question's vectors say, and not that b suits one passage better than
        another, as it would if log p(d) were taken behind a bare ``<bos>``.
        """
        return self.behind(self.model.neck.bridge_start.detach()[None], documents)[0]

    @torch.inference_mode()
    def own(self, documents: Sequence[str], latents: Tensor | None = None) -> NDArray[np.float64]:
        """Return log p(d | e_d), of each passage behind its own vectors, in nats, [n].

        Parameters
        ----------
        documents
            n passages.
        latents
            e_d, [n, k, d], as `AutoRegModel.compress` makes them under I_self;
            None to make them here.
        """
        model = self.model
        sums = np.empty(len(documents))
        for rows, texts in _blocks(documents):
            own = latents[rows] if latents is not None else self._latents(texts)

            def states(
                positions: list[int], ids: list[list[int]], own: Tensor = own
            ) -> tuple[Tensor, Tensor]:
                return model.decoder.states(model.neck.bridge(own[positions]), ids)

            with model.as_decoder():
                sums[rows] = self._sums(model.decoder.ids(texts), states)
        return sums

    @torch.inference_mode()
    def behind(
        self, prefix: Tensor, documents: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return log p(d | prefix) of each passage, and how many tokens it has.

        Parameters
        ----------
        prefix
            Input vectors of the decoder, [1, p, d].
        documents
            n passages.

        Returns
        -------
        ndarray, ndarray
            As for `given_query`.
        """
        model = self.model
        sums, counts = np.empty(len(documents)), np.empty(len(documents), np.int64)
        with model.as_decoder():
            shared = SharedPrefix(model.decoder, prefix)
            for rows, texts in _blocks(documents):
                targets = model.decoder.ids(texts)
                counts[rows] = [len(ids) for ids in targets]
                sums[rows] = self._sums(targets, lambda _, ids: shared.states(ids))
        return sums, counts

    @torch.inference_mode()
    def _latents(self, texts: Sequence[str], instruction: str | None = None) -> Tensor:
        """Return e of a block of texts, as `AutoRegModel.compress` does, under this budget."""
        model = self.model
        encoder, k = model.encoder, model.neck.k
        if instruction is None:
            instruction = model.config.document_instruction
        sequences = encoder.ids(texts, instruction)
        device = encoder.backbone.device
        latents = torch.empty((len(texts), k, encoder.backbone.hidden_size), device=device)

        def encode(batch: list[int]) -> None:
            with encoder.backbone.lock:
                latents[batch] = encoder.latents([sequences[i] for i in batch]).float()

        self.budget.run([len(ids) + k for ids in sequences], encode)
        return latents

    def _sums(self, targets: list[list[int]], states: _States) -> NDArray[np.float64]:
        """Add up the log-probabilities of each row's tokens."""
        backbone = self.model.decoder.backbone
        sums = np.empty(len(targets))

        def add_up(batch: list[int]) -> None:
            ids = [targets[i] for i in batch]
            hidden, tokens = states(batch, ids)
            scores = token_log_probs(hidden, backbone.head, tokens)
            rows = np.repeat(np.arange(len(ids)), [len(row) for row in ids])
            weights = scores.cpu().double().numpy()
            sums[batch] = np.bincount(rows, weights=weights, minlength=len(ids))

        self.budget.run([len(ids) + self.model.neck.k for ids in targets], add_up)
        return sums


def _blocks(documents: Sequence[str]) -> Iterator[tuple[slice, list[str]]]:
    for start in range(0, len(documents), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, list(documents[rows])
