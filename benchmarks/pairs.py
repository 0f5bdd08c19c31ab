"""The contenders of `rerank.py`: ours, pairs scored plainly, and a cross-encoder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from autoreg_rag.model import AutoRegModel
from autoreg_rag.rerank.reranker import Reranker
from autoreg_rag.scores import WITH_BASELINE, Score, score

Rerank = Callable[[str, list[str]], NDArray[np.float64]]
"""A question and passages to scores."""


@dataclass(frozen=True)
class Contender:
    """A way to score the candidates of a question.

    Attributes
    ----------
    kind
        Of the score; None for a cross-encoder, which has one of its own.
    batch
        Pairs that are scored plainly at a time; None for ours.
    stored
        Whether what does not depend on the question is there beforehand, as
        in an index that was made with ``--score-parts``.
    """

    label: str
    kind: Score | None
    batch: int | None = None
    stored: bool = False

    def parts(self, model: AutoRegModel, passages: list[str]) -> dict[str, float]:
        """Return what is there beforehand, by passage."""
        baselines = Reranker(model, score=self.kind).baselines(passages) if self.stored else None
        return {} if baselines is None else dict(zip(passages, baselines.tolist(), strict=True))

    def prepare(self, model: AutoRegModel, parts: dict[str, float]) -> Rerank:
        """Return the contender, ready to score passages whose `parts` are these."""
        if self.kind is None:
            return cross_encoder(model)
        if self.batch is not None:
            return plain(model, self.kind, self.batch)
        reranker = Reranker(model, score=self.kind)

        def rerank(query: str, documents: list[str]) -> NDArray[np.float64]:
            baselines = [parts[text] for text in documents] if parts else None
            return reranker.scores(query, documents, baselines=baselines)

        return rerank


def contenders(kinds: list[Score], batch: int) -> list[Contender]:
    """Return all contenders; the first of each kind is what the others are compared with."""
    found = []
    for kind in kinds:
        if kind in WITH_BASELINE:
            found.append(Contender(f"ours, {kind}, parts stored", kind, stored=True))
        found.append(Contender(f"ours, {kind}", kind))
        found.append(Contender(f"plain, {kind}, pair by pair", kind, batch=1))
        found.append(Contender(f"plain, {kind}, {batch} pairs at a time", kind, batch=batch))
    return [*found, Contender("cross-encoder, BERT-base, random weights", None)]


def plain(model: AutoRegModel, kind: Score, size: int) -> Rerank:
    """Score pairs with full logits and a log-softmax in float32, `size` of them at a time.

    The pairs of a batch come in the order of the candidates and are padded to
    its longest; each batch encodes the question, and what else its scores need.
    """
    instruction = model.config.query_instruction
    nothing = model.neck.bridge_center[None]  # e = c says nothing: the decoder reads b

    @torch.inference_mode()
    def batch(query: str, documents: list[str]) -> NDArray[np.float64]:
        sums, counts = _full_logits(model, model.compress([query], instruction), documents)
        baselines = None
        if kind == "pmi":
            baselines, _ = _full_logits(model, nothing, documents)
        elif kind == "cda":
            baselines, _ = _full_logits(model, model.compress(documents), documents)
        return score(kind, sums, counts, baselines)

    def rerank(query: str, documents: list[str]) -> NDArray[np.float64]:
        starts = range(0, len(documents), size)
        return np.concatenate([batch(query, documents[i : i + size]) for i in starts])

    return rerank


def _full_logits(
    model: AutoRegModel, latents: torch.Tensor, documents: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return log p(d | e) and the number of tokens of each document, from all logits at once."""
    backbone, k = model.decoder.backbone, model.neck.k
    rows = [torch.tensor(ids, device=backbone.device) for ids in model.decoder.ids(documents)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    counts = torch.tensor([len(row) for row in rows], device=backbone.device)
    real = torch.arange(ids.shape[1], device=backbone.device) < counts[:, None]
    with model.as_decoder():
        prefix = model.neck.bridge(latents).to(backbone.dtype).expand(len(rows), -1, -1)
        vectors = torch.cat([prefix, backbone.embed(ids)], dim=1)
        mask = torch.nn.functional.pad(real, (k, 0), value=True) if len(rows) > 1 else None
        logits = backbone.language_model(inputs_embeds=vectors, attention_mask=mask).logits
    log_probs = logits[:, k - 1 : -1].float().log_softmax(dim=-1)
    chosen = log_probs.gather(2, ids[..., None])[..., 0].double()
    return (chosen * real).sum(dim=1).cpu().numpy(), counts.cpu().numpy()


def cross_encoder(model: AutoRegModel) -> Rerank:
    """Return sentence-transformers' CrossEncoder around a BERT-base body with random weights."""
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer, vocabulary = model.backbone.tokenizer, len(model.backbone.head.weight)
    with tempfile.TemporaryDirectory() as folder:
        config = BertConfig(vocab_size=vocabulary, num_labels=1, max_position_embeddings=1024)
        BertForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        options = {"dtype": model.backbone.dtype}
        theirs = CrossEncoder(folder, max_length=512, model_kwargs=options)
    theirs.tokenizer.pad_token = theirs.tokenizer.pad_token or theirs.tokenizer.eos_token
    return lambda query, documents: theirs.predict([(query, text) for text in documents])
