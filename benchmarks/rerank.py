"""Reranking beside scoring each pair plainly, beside a cross-encoder, and what it brings.

Run: ``python benchmarks/rerank.py`` (add ``--help`` for options).

Speed: real questions against passages of mixed length. Plainly means each pair
alone, with all that its score needs: the question and, for ``cda``, the passage
through the encoder, full logits, log-softmax in float32. Rounds alternate, so
that a machine whose speed drifts slows all; a figure is the median of its
rounds, a ratio the median of the rounds' ratios. Memory is that of a fresh
process per contender: its peak, and what that is above the level at which it
stood with the model loaded and warm.

No cross-encoder's weights can be had from a package index, as far as is known.
The one here has random weights, a BERT-base body and this model's vocabulary
(124M parameters beside SmolLM2's 135M): its scores mean nothing, so only its
time and memory are shown.

Quality: nDCG@10 of the best of a first stage, reranked, on folders in BEIR layout.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from memory import peak_mib, restart_peak
from numpy.typing import NDArray
from texts import SHARED, mixed_texts

from autoreg_rag.evaluate.beir import RetrievalSet, load_retrieval_set
from autoreg_rag.evaluate.retrieval import measure
from autoreg_rag.lexical import BM25Index
from autoreg_rag.model import AutoRegModel
from autoreg_rag.rerank.fusion import standard_sum
from autoreg_rag.rerank.likelihoods import Likelihoods
from autoreg_rag.rerank.reranker import Reranker
from autoreg_rag.scores import SCORES, Score, score

Rerank = Callable[[str, list[str]], NDArray[np.float64]]
"""A question and passages to scores."""

QUESTIONS = ["What is the name of the first variable?", "When is an exception raised again?"]
"""Asked where the shared sets are missing."""


def ours(name: str | None, dtype: str | None, kind: Score, passages: list[str] | None) -> Rerank:
    """Our reranker; with the parts of these passages computed beforehand, as an index has them."""
    reranker = Reranker(AutoRegModel.from_pretrained(name, dtype=dtype), score=kind)
    stored = dict(zip(passages, reranker.baselines(passages), strict=True)) if passages else {}

    def rerank(query: str, documents: list[str]) -> NDArray[np.float64]:
        known = [stored.get(text) for text in documents] if stored else None
        return reranker.scores(query, documents, baselines=known)

    return rerank


def plain(name: str | None, dtype: str | None, kind: Score, passages: list[str] | None) -> Rerank:
    """Each pair alone, with full logits."""
    model = AutoRegModel.from_pretrained(name, dtype=dtype)
    nothing = torch.zeros((1, model.neck.k, model.backbone.hidden_size))
    instruction = model.config.query_instruction

    @torch.inference_mode()
    def pair(query: str, document: str) -> float:
        total, count = _full_logits(model, model.compress([query], instruction), document)
        if kind == "mean":
            return total / count
        if kind == "pmi":
            return total - _full_logits(model, nothing.to(model.backbone.device), document)[0]
        if kind == "cda":
            return total - _full_logits(model, model.compress([document]), document)[0]
        return total

    return lambda query, documents: np.array([pair(query, text) for text in documents])


def _full_logits(model: AutoRegModel, latents: torch.Tensor, document: str) -> tuple[float, int]:
    with model.as_decoder():
        backbone = model.decoder.backbone
        ids = torch.tensor(model.decoder.ids([document]), device=backbone.device)
        prefix = model.neck.bridge(latents).to(backbone.dtype)
        vectors = torch.cat([prefix, backbone.embed(ids)], dim=1)
        logits = backbone.language_model(inputs_embeds=vectors).logits
        log_probs = logits.float().log_softmax(dim=-1)[:, model.neck.k - 1 : -1]
    return log_probs.gather(2, ids[..., None]).sum().item(), ids.shape[1]


def plain_batch(
    name: str | None, dtype: str | None, kind: Score, passages: list[str] | None
) -> Rerank:
    """All pairs of a question in one padded batch, with full logits; ``sum`` alone."""
    model = AutoRegModel.from_pretrained(name, dtype=dtype)

    @torch.inference_mode()
    def rerank(query: str, documents: list[str]) -> NDArray[np.float64]:
        latents = model.compress([query], model.config.query_instruction)
        rows = [torch.tensor(ids) for ids in model.decoder.ids(documents)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(latents.device)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        with model.as_decoder():
            backbone = model.decoder.backbone
            prefix = model.neck.bridge(latents).to(backbone.dtype).expand(len(rows), -1, -1)
            vectors = torch.cat([prefix, backbone.embed(ids)], dim=1)
            logits = backbone.language_model(inputs_embeds=vectors).logits
            log_probs = logits.float().log_softmax(dim=-1)[:, model.neck.k - 1 : -1]
        chosen = log_probs.gather(2, ids[..., None])[..., 0]
        return (chosen * mask.to(chosen.device)).sum(dim=1).double().cpu().numpy()

    return rerank


def cross_encoder(
    name: str | None, dtype: str | None, kind: Score, passages: list[str] | None
) -> Rerank:
    """sentence-transformers' CrossEncoder around a BERT-base body with random weights."""
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification

    model = AutoRegModel.from_pretrained(name, device="cpu")
    tokenizer, vocabulary = model.backbone.tokenizer, len(model.backbone.head_weight)
    dtype = dtype or str(model.backbone.dtype).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as folder:
        config = BertConfig(vocab_size=vocabulary, num_labels=1, max_position_embeddings=1024)
        BertForSequenceClassification(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        options = {"dtype": getattr(torch, dtype)}
        theirs = CrossEncoder(folder, max_length=512, model_kwargs=options)
    theirs.tokenizer.pad_token = theirs.tokenizer.pad_token or theirs.tokenizer.eos_token
    return lambda query, documents: theirs.predict([(query, text) for text in documents])


CONTENDERS = {
    "ours": ours,
    "plain": plain,
    "plain, one batch": plain_batch,
    "cross-encoder, random weights": cross_encoder,
}


def used_memory(contender: str, *arguments: object) -> tuple[float, float]:
    """GiB that a fresh process holds at most, and how much that is above its level when warm."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measure_memory, args=(send, contender, *arguments))
    process.start()
    send.close()
    try:
        return receive.recv()
    except EOFError:  # the process was killed: its memory did not suffice
        return float("nan"), float("nan")
    finally:
        process.join()


def _measure_memory(send, contender, name, dtype, kind, stored, query, passages) -> None:  # noqa: ANN001
    logging.disable(logging.WARNING)
    rerank = CONTENDERS[contender](name, dtype, kind, passages if stored else None)
    rerank(query, [min(passages, key=len)])
    level = restart_peak()
    rerank(query, passages)
    send.send((peak_mib() / 1024, (peak_mib() - level) / 1024))


def speed(options: argparse.Namespace) -> None:
    """Compare and print times, memory and scores."""
    questions = _questions(options.rounds + 1)
    passages = mixed_texts(options.passages)
    model = AutoRegModel.from_pretrained(options.model, dtype=options.dtype)
    lengths = [len(ids) for ids in model.decoder.ids(passages)]
    dtype = str(model.backbone.dtype).removeprefix("torch.")
    print(
        f"{len(passages)} passages, {sum(lengths)} tokens ({min(lengths)} to {max(lengths)}), "
        f"{torch.get_num_threads()} threads, {model.backbone.device}, {dtype}"
    )
    del model

    sides: dict[str, tuple[str, Score, bool]] = {}
    for kind in options.kinds:
        if kind in ("pmi", "cda"):
            sides[f"ours, {kind}, parts stored"] = ("ours", kind, True)
        sides[f"ours, {kind}"] = ("ours", kind, False)
        sides[f"plain, {kind}"] = ("plain", kind, False)
    if options.batch:
        sides["plain, sum, one batch"] = ("plain, one batch", "sum", False)
    if not options.no_cross_encoder:
        sides["cross-encoder, BERT-base, random weights"] = (
            "cross-encoder, random weights",
            "sum",
            False,
        )
    loaded = {
        label: CONTENDERS[side](options.model, dtype, kind, passages if stored else None)
        for label, (side, kind, stored) in sides.items()
    }
    for rerank in loaded.values():
        rerank(questions[0], passages[: max(4, len(passages) // 8)])
    seconds: dict[str, list[float]] = {label: [] for label in sides}
    scores: dict[str, list[NDArray[np.float64]]] = {label: [] for label in sides}
    for question in questions[1:]:
        for label, rerank in loaded.items():
            start = time.perf_counter()
            scores[label].append(rerank(question, passages))
            seconds[label].append(time.perf_counter() - start)
    del loaded

    print("\n| contender | s | time / ours | peak GiB | above the model | largest difference |")
    print("|---|---|---|---|---|---|")
    for label, (side, kind, stored) in sides.items():
        mine = next(other for other, (s, k, _) in sides.items() if s == "ours" and k == kind)
        pairs = zip(seconds[mine], seconds[label], strict=True)
        ratio = statistics.median(b / a for a, b in pairs)
        difference = "-"
        if side.startswith("plain"):
            gaps = (abs(a - b).max() for a, b in zip(scores[mine], scores[label], strict=True))
            difference = f"{max(gaps):.2g}"
        memory = "- | -"
        if not options.no_memory:
            arguments = (options.model, dtype, kind, stored, questions[1], passages)
            memory = "{:.2f} | {:.2f}".format(*used_memory(side, *arguments))
        median = statistics.median(seconds[label])
        print(f"| {label} | {median:.2f} | {ratio:.2f} | {memory} | {difference} |", flush=True)
    print("\nDifferences are in nats, per token for mean, from the first of ours of that kind.")


def _questions(count: int) -> list[str]:
    folders = sorted(path for path in SHARED.glob("*") if path.is_dir())
    sets = [load_retrieval_set(folder, limit=count) for folder in folders[:count]]
    asked = [next(iter(dataset.queries.values())) for dataset in sets] or QUESTIONS
    return (asked * count)[:count]


class Parts:
    """The parts of scores that do not depend on a question, computed once per document."""

    def __init__(self, likelihoods: Likelihoods) -> None:
        decoder = likelihoods.model.decoder
        self._compute = {
            "b": likelihoods.prior,
            "bos": lambda texts: likelihoods.behind(decoder.no_context(1), texts)[0],
            "own": likelihoods.own,
        }
        self._known: dict[str, dict[str, float]] = {name: {} for name in self._compute}

    def of(self, name: str, texts: list[str]) -> NDArray[np.float64]:
        """Return one part of each text."""
        known = self._known[name]
        new = list(dict.fromkeys(text for text in texts if text not in known))
        known.update(zip(new, self._compute[name](new).tolist(), strict=True))
        return np.array([known[text] for text in texts])


def quality(options: argparse.Namespace) -> None:
    """Rerank the best of a first stage on each set, and print nDCG@10."""
    model = AutoRegModel.from_pretrained(options.model, dtype=options.dtype)
    rows: dict[str, dict[str, float]] = {}
    names: list[str] = []
    for folder in options.sets:
        dataset = load_retrieval_set(folder, limit=options.queries)
        names.append(f"{dataset.name} ({len(dataset.queries)})")
        for label, ndcg in reranked(dataset, model, options).items():
            rows.setdefault(label, {})[names[-1]] = ndcg
    print(f"\nnDCG@10 x 100, the best {options.depth} by {options.first_stage} reranked; ")
    print("fused: at this weight of the retrieval score. In brackets: how many questions.\n")
    print(f"| ranking | {' | '.join(names)} | mean |\n|---|{'---|' * (len(names) + 1)}")
    for label, values in rows.items():
        cells = [100 * values[name] for name in names]
        figures = " | ".join(f"{value:.2f}" for value in [*cells, statistics.mean(cells)])
        print(f"| {label} | {figures} |")


def reranked(
    dataset: RetrievalSet, model: AutoRegModel, options: argparse.Namespace
) -> dict[str, float]:
    """Return nDCG@10 of the first stage and of all rerankings of it."""
    likelihoods = Likelihoods(model)
    parts = Parts(likelihoods)
    runs: dict[str, dict[str, list[str]]] = {}
    found = (by_bm25 if options.first_stage == "bm25" else by_cosine)(dataset, model, options.depth)
    for query, (ids, retrieval) in zip(dataset.queries, found, strict=True):
        texts = [dataset.documents[id_] for id_ in ids]
        runs.setdefault("not reranked", {})[query] = ids
        if not ids:
            continue
        sums, counts = likelihoods.given_query(dataset.queries[query], texts)
        given = partial(score, sums=sums, counts=counts)
        prior, bos, own = (parts.of(name, texts) for name in ("b", "bos", "own"))
        kinds = {
            "sum": given("sum"),
            "mean": given("mean"),
            "pmi": given("pmi", baselines=prior),
            "cda": given("cda", baselines=own),
            "pmi, log p(d) behind <bos>": given("pmi", baselines=bos),
            "pmi per token": given("pmi", baselines=prior) / counts,
            "cda per token": given("cda", baselines=own) / counts,
        }
        for kind, raw in kinds.items():
            for weight in (None, *options.fusion):
                final = raw if weight is None else standard_sum(retrieval, raw, weight)
                label = kind if weight is None else f"{kind}, fused at {weight}"
                order = np.argsort(-final, kind="stable")
                runs.setdefault(label, {})[query] = [ids[place] for place in order]
    return {label: measure(run, dataset.qrels)["nDCG@10"] for label, run in runs.items()}


Found = Iterable[tuple[list[str], NDArray[np.float64]]]
"""For each question, the ids that a first stage found, best first, and their scores."""


def by_cosine(dataset: RetrievalSet, model: AutoRegModel, depth: int) -> Found:
    """Search by the model's own vectors."""
    ids = list(dataset.documents)
    documents = model.encode_documents(list(dataset.documents.values()), show_progress=True)
    vectors = model.encode_queries(list(dataset.queries.values()))
    for query, scores in zip(dataset.queries, vectors @ documents.T, strict=True):
        order = [
            i for i in np.argsort(-scores, kind="stable") if not _is_itself(dataset, query, ids[i])
        ]
        yield [ids[i] for i in order[:depth]], scores[order[:depth]].astype(np.float64)


def by_bm25(dataset: RetrievalSet, model: AutoRegModel, depth: int) -> Found:
    """Search by words, for which no document is encoded."""
    index = BM25Index(dataset.documents.items())
    rankings = index.search(list(dataset.queries.values()), depth + 1)
    for query, ranking in zip(dataset.queries, rankings, strict=True):
        kept = [(id_, s) for id_, s in ranking if not _is_itself(dataset, query, id_)][:depth]
        yield [id_ for id_, _ in kept], np.array([s for _, s in kept], np.float64)


def _is_itself(dataset: RetrievalSet, query: str, id_: str) -> bool:
    return id_ == query and query in dataset.own


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of the model; by default the default one")
    parser.add_argument("--dtype", help="number format; by default the device's fastest")
    parser.add_argument("--only", choices=["speed", "quality"])
    parser.add_argument("--passages", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3, help="questions that are timed")
    parser.add_argument("--kinds", nargs="+", choices=SCORES, default=["sum", "pmi", "cda"])
    parser.add_argument("--no-memory", action="store_true", help="leave the memory figures out")
    parser.add_argument("--no-cross-encoder", action="store_true")
    parser.add_argument(
        "--batch", action="store_true", help="also all pairs in one padded batch: takes tens of GiB"
    )
    parser.add_argument(
        "--sets", nargs="+", type=Path, help="folders in BEIR layout; by default the shared ones"
    )
    parser.add_argument("--queries", type=int, help="of each set; by default all")
    parser.add_argument("--depth", type=int, default=50, help="hits that are reranked")
    parser.add_argument("--first-stage", choices=["cosine", "bm25"], default="cosine")
    parser.add_argument("--fusion", nargs="*", type=float, default=[0.25, 0.5, 0.75])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    options.sets = options.sets or sorted(path for path in SHARED.glob("*") if path.is_dir())
    if options.only != "quality":
        speed(options)
    if options.only != "speed":
        quality(options)


if __name__ == "__main__":
    main()
