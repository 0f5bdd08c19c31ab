"""Encoding speed beside sentence-transformers on the same backbone.

Run: ``python benchmarks/encode.py`` (add ``--help`` for options).

Both sides read the same texts with the same instruction behind them, so both
do the same work but for our k compress tokens; sentence-transformers pools the
last token. The default model, with its adapter, stands beside them twice: with its
LoRA layers as they are loaded, and with peft's own. Rounds alternate, so that a
machine whose speed drifts slows all. A figure is the median of its rounds; a ratio
is the median of the rounds' ratios. Memory is the peak of a fresh process that does
one side only.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from memory import peak_mib
from peft.tuners import lora
from texts import mixed_texts

from autoreg_rag.backbone import Backbone
from autoreg_rag.base import find_folder
from autoreg_rag.config import AutoRegConfig
from autoreg_rag.lora import FusedLoraLinear
from autoreg_rag.model import AutoRegModel
from autoreg_rag.pretrained import DEFAULT_BASE

INSTRUCTION = AutoRegConfig("", "").document_instruction

Encode = Callable[[list[str]], object]


def ours(
    dtype: str | None,
    tokens: int,
    attention: str | None = None,
    name: str | None = DEFAULT_BASE.name,
) -> Encode:
    """Our encoder at a dtype and an attention implementation, or at its defaults."""
    model = AutoRegModel.from_pretrained(name, dtype=dtype, attention=attention, max_length=tokens)
    return model.encode_documents


def unfused(dtype: str | None, tokens: int) -> Encode:
    """Return the default model's encoder with peft's own LoRA layers."""
    model = AutoRegModel.from_pretrained(dtype=dtype, max_length=tokens)
    for module in model.backbone.language_model.modules():
        if isinstance(module, FusedLoraLinear):
            module.__class__ = lora.Linear
    return model.encode_documents


def theirs(dtype: str | None, tokens: int) -> Encode:
    """sentence-transformers around the same backbone, at a dtype or its defaults."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    options = {"dtype": getattr(torch, dtype)} if dtype else {}
    body = Transformer(str(find_folder(DEFAULT_BASE.name)), model_kwargs=options)
    body.max_seq_length = tokens
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode="lasttoken")
    model = SentenceTransformer(modules=[body, pooling])
    return lambda texts: model.encode([f"{text}\n{INSTRUCTION}" for text in texts])


SIDES = {
    "ours": ours,
    "ours with eager attention": partial(ours, attention="eager"),
    "default model": partial(ours, name=None),
    "default model with peft's LoRA": unfused,
    "sentence-transformers": theirs,
}


def gemm_peak(dtype: torch.dtype) -> float:
    """Best FLOP/s of this machine over matrix products of the shapes of a layer."""
    best = 0.0
    for rows in (1024, 2048, 4096):
        for inner, outer in ((576, 1536), (1536, 576), (1024, 1024)):
            a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(outer, inner, dtype=dtype)
            for round_ in range(12):
                start = time.perf_counter()
                torch.nn.functional.linear(a, b)
                if round_ > 1:
                    seconds = time.perf_counter() - start
                    best = max(best, 2 * rows * inner * outer / seconds)
    return best


def flops(backbone: Backbone, lengths: list[int]) -> float:
    """FLOPs of the layers' matrix products and of causal attention, without the head."""
    config = backbone.language_model.config
    weights = sum(p.numel() for p in backbone.body.layers.parameters() if p.dim() == 2)
    width = config.num_attention_heads * config.head_dim * config.num_hidden_layers
    return sum(2 * weights * n + 2 * width * n * n for n in lengths)


def peak_memory(side: str, dtype: str | None, tokens: int, texts: list[str]) -> float:
    """GiB that a fresh process needs to load one side and encode the texts."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure_memory, args=(queue, side, dtype, tokens, texts))
    process.start()
    peak: float = queue.get()
    process.join()
    return peak


def _measure_memory(queue, side, dtype, tokens, texts) -> None:  # noqa: ANN001
    SIDES[side](dtype, tokens)(texts)
    queue.put(peak_mib() / 1024)


def rounds(encoders: dict[str, Encode], texts: list[str], count: int) -> dict[str, list[float]]:
    """Seconds of each encoder in each round, in turns, after a warm-up of each."""
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for encode in encoders.values():
        encode(texts[: max(8, len(texts) // 4)])
    for _ in range(count):
        for name, encode in encoders.items():
            start = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=512, help="longest text, in tokens")
    parser.add_argument("--no-memory", action="store_true", help="leave the memory figures out")
    parser.add_argument("--no-defaults", action="store_true", help="compare at equal dtype only")
    options = parser.parse_args()
    logging.disable(logging.WARNING)

    model = AutoRegModel.from_pretrained(DEFAULT_BASE.name, max_length=options.tokens)
    dtype = str(model.backbone.dtype).removeprefix("torch.")
    texts = mixed_texts(options.texts)
    lengths = [min(len(ids), options.tokens) for ids in model.backbone.tokenize(texts)]
    total = sum(lengths)
    print(
        f"{len(texts)} texts, {total} tokens ({min(lengths)} to {max(lengths)}), "
        f"{torch.get_num_threads()} threads, our dtype {dtype}"
    )

    sides = {
        f"ours, {dtype}": ("ours", dtype),
        f"ours with eager attention, {dtype}": ("ours with eager attention", dtype),
        f"default model, {dtype}": ("default model", dtype),
        f"default model with peft's LoRA, {dtype}": ("default model with peft's LoRA", dtype),
        f"sentence-transformers, {dtype}": ("sentence-transformers", dtype),
        "sentence-transformers, defaults": ("sentence-transformers", None),
    }
    if options.no_defaults:
        del sides["sentence-transformers, defaults"]
    encoders = {label: SIDES[side](kind, options.tokens) for label, (side, kind) in sides.items()}
    seconds = rounds(encoders, texts, options.rounds)
    mine = next(iter(seconds.values()))
    print("\n| encoder | tokens/s | time / ours | peak GiB |\n|---|---|---|---|")
    for label, (side, kind) in sides.items():
        ratio = statistics.median(b / a for a, b in zip(mine, seconds[label], strict=True))
        memory = (
            "-"
            if options.no_memory
            else f"{peak_memory(side, kind, options.tokens, texts[:64]):.2f}"
        )
        rate = total / statistics.median(seconds[label])
        print(f"| {label} | {rate:.0f} | {ratio:.2f} | {memory} |")

    words = " ".join(mixed_texts(400))
    ids = model.backbone.tokenize([words])[0][: options.tokens]
    long = [model.backbone.tokenizer.decode(ids)] * 16
    work = flops(
        model.backbone, [len(s) + model.neck.k for s in model.encoder.ids(long, INSTRUCTION)]
    )
    shares = []
    for _ in range(options.rounds):
        peak = gemm_peak(model.backbone.dtype)
        start = time.perf_counter()
        model.encode_documents(long)
        shares.append(work / (time.perf_counter() - start) / peak)
    print(
        f"\n{options.tokens}-token texts: {statistics.median(shares):.0%} of the GEMM peak "
        f"({peak / 1e9:.0f} GFLOP/s in the last round)"
    )


if __name__ == "__main__":
    main()
