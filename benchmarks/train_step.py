"""A training step beside the published procedure written plainly, on the default base.

Run: ``python benchmarks/train_step.py`` (add ``--help`` for options).

Both sides train the same parameters (an adapter on all linear layers, compress
tokens, bridge) from the same start, on the same rows with the same reference
scores, in the same number format. Ours is what the trainers do; the published
one is in `published.py`. Each contender is a fresh process of its own that
stays; steps are asked for in turns, so that a machine whose speed drifts slows
all. A step ends with the gradients clipped and AdamW at learning rate 0, so
that all steps are alike. The first ones, with what is compiled and memory that
is touched for the first time, are not counted. Times are medians of the
rounds, ratios medians of the rounds' ratios; CPU time shows what a busy machine
hides, and system time what first touches of memory cost. Memory is the resident
set: its peak over all steps, libraries and models included; what was held
before them, with the models loaded and read through; and the difference, what
the steps took on top (activations, gradients, the optimizer's state).

Rows are cut at ``--tokens``, since the published procedure at full length needs
more memory than many machines have; the cut is the same for all.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from contenders import Contender, Worker, prepared, workers
from safetensors.torch import load_file

from autoreg_rag.device import choose_dtype

TITLES = {"cda": "Conditional Distribution Alignment", "ic": "Information Compression"}
TARGETS = {"cda": (3, 1 / 3), "ic": (2, 1 / 3)}
"""Least factor of time, most share of memory."""

TOLERANCE = 1e-3
"""Largest relative difference of loss and gradients in float32."""


def differences(ours: str, theirs: str) -> dict[str, dict[str, float]]:
    """Return cosine and relative difference of two files of gradients, by kind of parameter."""
    first, second = load_file(ours), load_file(theirs)
    if first.keys() != second.keys():
        sys.exit("the contenders train different parameters")
    kinds: dict[str, list[str]] = {}
    for name in first:
        kind = f"adapter {'A' if 'lora_A' in name else 'B'}"
        kind = name if name.startswith("neck.") else kind
        kinds.setdefault(kind, []).append(name)
    result = {}
    for kind, names in sorted({**kinds, "all": list(first)}.items()):
        a, b = (
            torch.cat([grads[n].flatten().double() for n in names]) for grads in (first, second)
        )
        result[kind] = {
            "cosine": float(a @ b / (a.norm() * b.norm())),
            "relative": float((a - b).norm() / b.norm()),
        }
    return result


def chosen(objective: str, options: argparse.Namespace) -> list[Contender]:
    """Return who is compared."""
    from autoreg_trainers.acceleration import COMPILERS

    dtype = options.dtype or str(choose_dtype(None, torch.device("cpu"))).removeprefix("torch.")
    ours = Contender("ours", objective, dtype, budget=options.budget)
    found = [ours, replace(ours, label="ours, compiled", compiled=True)]
    if options.no_compile or not any(map(shutil.which, COMPILERS)):
        print(
            "no compiled layers: " + ("--no-compile" if options.no_compile else "no C++ compiler")
        )
        found.pop()
    elif options.default_only:
        found.pop(0)
    for attention in options.published_attention:
        label = f"published, {attention} attention"
        found.append(Contender(label, objective, dtype, published=True, attention=attention))
    return found


def timed(sides: Sequence[Worker], rounds: int, warm_up: int) -> dict[str, dict[str, Any]]:
    """Return seconds of each round, loss, and memory of each contender, by label."""
    figures: dict[str, dict[str, Any]] = {}
    for worker in sides:
        first = [worker("step")["seconds"] for _ in range(warm_up)]
        figures[worker.label] = {"warm_up": first, "seconds": [], "cpu": [], "system": []}
    for _ in range(rounds):
        for worker in sides:
            found = worker("step")
            for name in ("seconds", "cpu", "system"):
                figures[worker.label][name].append(found[name])
            figures[worker.label]["loss"] = found["loss"]
    for worker in sides:
        figures[worker.label]["memory"] = worker("memory")
    return figures


def print_figures(objective: str, figures: dict[str, dict[str, Any]]) -> None:
    """Print a line per contender, and what the others take of its time and memory."""
    print(
        "\n| step | warm-up s | s | CPU s | of it system | published / this | peak MiB "
        "| models loaded MiB | step alone MiB | peak / published | step alone / published |\n"
        + "|---" * 11
        + "|"
    )
    reference = list(figures.values())[-1]
    for label, found in figures.items():
        factor, peak, alone = compared(found, reference)
        memory = found["memory"]
        print(
            f"| {label} | {sum(found['warm_up']):.1f} | {statistics.median(found['seconds']):.2f} "
            f"| {statistics.median(found['cpu']):.2f} | {statistics.median(found['system']):.2f} "
            f"| {factor:.2f} | {memory['peak']:.0f} | {memory['loaded']:.0f} "
            f"| {memory['peak'] - memory['loaded']:.0f} | {peak:.3f} | {alone:.3f} |"
        )
    times, share = TARGETS[objective]
    print(f"\nto reach: {times} times as fast, {share:.3f} of the memory")


def compared(found: dict[str, Any], reference: dict[str, Any]) -> tuple[float, float, float]:
    """Return how many times as fast a contender is, and its shares of peak and of step memory."""
    pairs = zip(found["seconds"], reference["seconds"], strict=True)
    factor = statistics.median(theirs / ours for ours, theirs in pairs)
    mine, other = found["memory"], reference["memory"]
    alone = (mine["peak"] - mine["loaded"]) / (other["peak"] - other["loaded"])
    return factor, mine["peak"] / other["peak"], alone


def print_differences(title: str, found: dict[str, dict[str, float]]) -> None:
    """Print cosine and relative difference of each kind of parameter."""
    print(f"\n{title}:\n\n| gradient of | cosine | relative difference |\n|---|---|---|")
    for kind, values in found.items():
        print(f"| {kind} | {values['cosine']:.7f} | {values['relative']:.2e} |")


def print_profile(label: str, found: dict[str, Any]) -> None:
    """Print the groups and the operators that took longest."""
    total = sum(found["groups"].values())
    print(f"\n{label}: {total:.2f} s of operators\n\n| group | s | share |\n|---|---|---|")
    for group, seconds in sorted(found["groups"].items(), key=lambda item: -item[1]):
        print(f"| {group} | {seconds:.2f} | {seconds / total:.0%} |")
    print("\n| operator itself | group | s | calls |\n|---|---|---|---|")
    for item in found["operators"]:
        print(
            f"| {item['name'][:60]} | {item['group']} | {item['seconds']:.2f} | {item['calls']} |"
        )


def exact(objective: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare ours with the published in float32, on a few short rows."""
    rows = prepared(objective, options.exact_rows, options.exact_tokens)
    ours = Contender("ours, float32", objective, "float32", budget=options.exact_tokens * 2)
    sides = [ours, replace(ours, label="published, float32", published=True)]
    paths = [str(folder / f"exact{i}") for i in range(2)]
    with workers(sides, rows) as running:
        losses = [worker("gradients", path) for worker, path in zip(running, paths, strict=True)]
    found = differences(*paths)
    title = (
        f"float32, {len(rows)} rows of at most {options.exact_tokens} tokens in micro-batches of "
        f"{ours.budget}, loss {losses[0]:.6f} (ours), {losses[1]:.6f} (published)"
    )
    print_differences(title, found)
    worst = max(value["relative"] for value in found.values())
    return {
        "losses": losses,
        "gradients": found,
        "equal": max(worst, abs(losses[0] / losses[1] - 1)) < TOLERANCE,
    }


def compare(objective: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all comparisons of one objective, print them, and return them."""
    rows = prepared(objective, options.rows, options.tokens)
    keys = (
        ("positive_target",) * 2 + ("negative_target",) if objective == "cda" else ("target_ids",)
    )
    passes = [[len(row[key]) for row in rows] for key in keys]
    decoded, padded = sum(map(sum, passes)), sum(len(p) * max(p) for p in passes)
    sides = chosen(objective, options)
    dtype = sides[0].dtype
    print(
        f"\n# {TITLES[objective]}\n\n{len(rows)} rows, texts cut at {options.tokens} tokens; "
        f"targets of {min(map(min, passes))} to {max(map(max, passes))} tokens, {decoded} decoded "
        f"in all, {padded} when padded; {torch.get_num_threads()} threads, {dtype}",
        flush=True,
    )
    result: dict[str, Any] = {"rows": len(rows), "tokens": options.tokens, "dtype": dtype}
    if options.profile:
        result["profiles"] = {}
        for side in sides:
            with workers([side], rows) as (worker,):
                for _ in range(options.warm_up):
                    worker("step")
                result["profiles"][side.label] = worker("profile")
            print_profile(side.label, result["profiles"][side.label])
        return result

    paths = {side.label: str(folder / str(i)) for i, side in enumerate(sides)}
    with workers(sides, rows) as running:
        result["figures"] = figures = timed(running, options.rounds, options.warm_up)
        print_figures(objective, figures)
        for worker in running:
            worker("gradients", paths[worker.label])
    print(
        "\nloss: " + ", ".join(f"{found['loss']:.5f} ({name})" for name, found in figures.items())
    )
    pairs = [(label, paths[label], sides[-1].label) for label in paths if label != sides[-1].label]
    if dtype != "float32":
        truth = replace(sides[0], label="ours, float32", dtype="float32")
        paths[truth.label] = str(folder / "float32")
        with workers([truth], rows) as (worker,):
            print(f"loss: {worker('gradients', paths[truth.label]):.5f} ({truth.label})")
        pairs += [(side.label, paths[side.label], truth.label) for side in (sides[0], sides[-1])]
    result["gradients"] = {}
    for label, path, other in pairs:
        name = f"{label}, beside {other}"
        result["gradients"][name] = differences(path, paths[other])
        print_differences(name, result["gradients"][name])
    result["float32"] = exact(objective, options, folder)
    return result


def main() -> None:
    """Compare and print; exit 1 where loss or gradients differ in float32."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objective", choices=["cda", "ic", "both"], default="both")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=80, help="longest text, in tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=2, help="steps before the first round")
    parser.add_argument("--budget", type=int, default=2048, help="tokens of our micro-batches")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="the machine's best")
    parser.add_argument(
        "--published-attention",
        nargs="+",
        default=["sdpa"],
        help="of the published step; several are several contenders, ratios are to the last",
    )
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled layers out")
    parser.add_argument(
        "--default-only", action="store_true", help="leave our uncompiled step out, for its memory"
    )
    parser.add_argument("--exact-rows", type=int, default=6, help="of the float32 comparison")
    parser.add_argument("--exact-tokens", type=int, default=48)
    parser.add_argument("--profile", action="store_true", help="show where a step's time goes")
    parser.add_argument("--json", help="write all figures into this file")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.profile:  # the compiler's fused loops by name, in the children
        os.environ["TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE"] = "1"

    names = list(TITLES) if options.objective == "both" else [options.objective]
    with tempfile.TemporaryDirectory() as folder:
        results = {name: compare(name, options, Path(folder)) for name in names}
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    wrong = [n for n, found in results.items() if not found.get("float32", {"equal": 1})["equal"]]
    if wrong:
        sys.exit(f"in float32 loss or gradients differ: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
