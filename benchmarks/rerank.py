"""Reranking beside scoring pairs plainly, beside a cross-encoder, and what it brings.

Run: ``python benchmarks/rerank.py`` (add ``--help`` for options).

Speed: real questions against passages of mixed length, in turns, so that a
machine whose speed drifts slows all. Plainly means with full logits and a
log-softmax in float32: pair by pair, where nothing is padded and nothing shared,
or some pairs at a time, padded to the longest, in the order of the candidates.
Processor time counts beside time, for machines that others use too. A figure is
the median of the rounds, a ratio the median of the rounds' ratios. Memory is that
of a fresh process per contender in its second pass: its peak, and what that is above
what it held before that pass, freed memory handed back. Scores are equal in float32 only.

No cross-encoder's weights can be had from a package index, as far as is known.
The one here has random weights, a BERT-base body and this model's vocabulary
(124M parameters beside SmolLM2's 135M): its scores mean nothing, so only its
time and memory are shown.

Quality: see `rerank_quality.py`.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from memory import peak_mib, release_free, restart_peak
from pairs import Contender, contenders
from rerank_quality import quality
from texts import SHARED, mixed_texts

from autoreg_rag.evaluate.beir import load_retrieval_set
from autoreg_rag.model import AutoRegModel
from autoreg_rag.scores import SCORES

QUESTIONS = ["What is the name of the first variable?", "When is an exception raised again?"]
"""Asked where the shared sets are missing."""


def used_memory(
    contender: Contender,
    name: str | None,
    dtype: str,
    parts: dict[str, float],
    query: str,
    passages: list[str],
) -> tuple[float, float]:
    """MiB that a fresh process holds at most, and how much that is above its level when warm."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    arguments = (send, contender, name, dtype, parts, query, passages)
    process = context.Process(target=_measure_memory, args=arguments)
    process.start()
    send.close()
    try:
        peak, level = receive.recv()
    except EOFError:  # the process was killed: its memory did not suffice
        return float("nan"), float("nan")
    finally:
        process.join()
    return peak, peak - level


def _measure_memory(
    send: Connection,
    contender: Contender,
    name: str | None,
    dtype: str,
    parts: dict[str, float],
    query: str,
    passages: list[str],
) -> None:
    logging.disable(logging.WARNING)
    rerank = contender.prepare(AutoRegModel.from_pretrained(name, dtype=dtype), parts)
    rerank(query, passages)  # weights are read, kernels compiled
    release_free()
    level = restart_peak()
    rerank(query, passages)
    send.send((peak_mib(), level))


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
    sides = contenders(options.kinds, options.batch)
    parts = {side: side.parts(model, passages) for side in sides}
    loaded = {side: side.prepare(model, parts[side]) for side in sides}
    for rerank in loaded.values():
        rerank(questions[0], passages[: max(4, len(passages) // 8)])
    seconds = {side: [] for side in sides}
    processor = {side: [] for side in sides}
    scores = {side: [] for side in sides}
    for question in questions[1:]:
        for side, rerank in loaded.items():
            start, busy = time.perf_counter(), time.process_time()
            scores[side].append(rerank(question, passages))
            processor[side].append(time.process_time() - busy)
            seconds[side].append(time.perf_counter() - start)
    del loaded, model

    print(
        "\n| contender | s | processor s | times ours | peak MiB | above the model | share | gap |"
    )
    print("|---|---|---|---|---|---|---|---|")
    extra: dict[Contender, float] = {}
    for side in sides:
        ours = next(other for other in sides if other.kind == (side.kind or sides[0].kind))
        ratio = statistics.median(
            b / a for a, b in zip(processor[ours], processor[side], strict=True)
        )
        gap = "-"
        if side.kind and side is not ours:
            gaps = (abs(a - b).max() for a, b in zip(scores[ours], scores[side], strict=True))
            gap = f"{max(gaps):.2g}"
        memory = "- | - | -"
        if not options.no_memory:
            peak, extra[side] = used_memory(
                side, options.model, dtype, parts[side], questions[1], passages
            )
            memory = f"{peak:.0f} | {extra[side]:.0f} | {extra[ours] / extra[side]:.3f}"
        times = f"{statistics.median(seconds[side]):.2f} | {statistics.median(processor[side]):.2f}"
        print(f"| {side.label} | {times} | {ratio:.2f} | {memory} | {gap} |", flush=True)
    print(
        "\nOurs: the first of the same kind of score, beside the cross-encoder the first of all. "
        "Times ours: of processor time. Share: what ours takes above the model, of what this does. "
        "Gap: largest difference of scores, in nats, per token for mean."
    )


def _questions(count: int) -> list[str]:
    folders = sorted(path for path in SHARED.glob("*") if path.is_dir())
    sets = [load_retrieval_set(folder, limit=count) for folder in folders[:count]]
    asked = [next(iter(dataset.queries.values())) for dataset in sets] or QUESTIONS
    return (asked * count)[:count]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of the model; by default the default one")
    parser.add_argument("--dtype", help="number format; by default the device's fastest")
    parser.add_argument("--only", choices=["speed", "quality"])
    group = parser.add_argument_group("speed")
    group.add_argument("--passages", type=int, default=50)
    group.add_argument("--rounds", type=int, default=3, help="questions that are timed")
    group.add_argument("--kinds", nargs="+", choices=SCORES, default=["sum", "pmi", "cda"])
    group.add_argument("--batch", type=int, default=8, help="pairs that are scored at a time")
    group.add_argument("--no-memory", action="store_true", help="leave the memory figures out")
    group = parser.add_argument_group("quality")
    group.add_argument(
        "--sets", nargs="+", type=Path, help="folders in BEIR layout; by default the shared ones"
    )
    group.add_argument("--queries", type=int, help="of each set; by default all")
    group.add_argument("--depth", type=int, default=50, help="hits that are reranked")
    group.add_argument(
        "--fusion",
        nargs="*",
        type=float,
        default=[0.5, 0.75, 0.9],
        help="weights of the retrieval score",
    )
    group.add_argument(
        "--raw", type=Path, help="write the parts of all scores to this file, as JSON lines"
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    options.sets = options.sets or sorted(path for path in SHARED.glob("*") if path.is_dir())
    if options.only != "quality":
        speed(options)
    if options.only != "speed":
        quality(options)


if __name__ == "__main__":
    main()
