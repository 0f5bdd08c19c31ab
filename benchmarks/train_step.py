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
set: its peak over the process's life, libraries and models included; what was
held once the models were loaded and read through; and the difference, what the
steps took on top (activations, gradients, the optimizer's state).

Rows are cut at ``--tokens``, since the published procedure at full length needs
more memory than many machines have; the cut is the same for all.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from memory import held_mib, peak_mib
from safetensors.torch import load_file, save_file
from texts import triplets

from autoreg_rag.backbone import Backbone, choose_dtype
from autoreg_rag.errors import first_line
from autoreg_rag.model import AutoRegModel
from autoreg_rag.neck import Neck
from autoreg_rag.pretrained import DEFAULT_BASE

RANK = 32
TITLES = {"cda": "Conditional Distribution Alignment", "ic": "Information Compression"}
TARGETS = {"cda": (3, 1 / 3), "ic": (2, 1 / 3)}
"""Least factor of time, most share of memory."""

TOLERANCE = 1e-3
"""Largest relative difference of loss and gradients in float32."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """A way to make a step, and in which number format."""

    label: str
    objective: str
    dtype: str
    published: bool = False
    compiled: bool = False
    attention: str | None = None
    budget: int = 2048


class Ours:
    """The trainers' step: parts within a budget of tokens, as `AutoRegTrainer` works them off."""

    def __init__(self, contender: Contender) -> None:
        from autoreg_trainers.acceleration import compile_layers, training_attention
        from autoreg_trainers.adaptation import trainable

        model = AutoRegModel.from_pretrained(
            DEFAULT_BASE.name,
            device="cpu",
            dtype=contender.dtype,
            attention=contender.attention or training_attention(torch.device("cpu")),
        )
        model = trainable(model, "lora", rank=RANK)
        compile_layers(model, "yes" if contender.compiled else "no")
        self.objective = _objective(contender.objective, model, contender.budget).train()
        self.budget = contender.budget
        self.adapted, self.neck = model.backbone.language_model, model.neck
        self.modules = [self.adapted]

    def backward(self, rows: Sequence[Row]) -> float:
        """Leave the gradients of a batch; return its loss."""
        units = sum(map(self.objective.units, rows))
        total = 0.0
        for part in self.objective.parts(rows, self.budget):
            loss = self.objective(part).loss / units
            loss.backward()
            total += float(loss.detach())
        return total


class Theirs:
    """The published step."""

    def __init__(self, contender: Contender) -> None:
        from autoreg_trainers.objectives import AlignmentSettings
        from peft import LoraConfig, get_peft_model
        from published import Published

        how = {"device": "cpu", "dtype": contender.dtype, "attention": contender.attention}
        base, decoder = (Backbone.load(DEFAULT_BASE.name, **how) for _ in range(2))
        settings = AlignmentSettings()
        self.neck = Neck.untrained(base, 5)
        self.adapted = get_peft_model(
            base.language_model,
            LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"),
        )
        self.modules = [self.adapted, decoder.language_model]
        self.dtype = base.dtype
        self.step = Published(
            self.adapted, decoder.language_model, self.neck, settings.beta, settings.tau
        ).train()
        self.loss = self.step.alignment if contender.objective == "cda" else self.step.compression

    def backward(self, rows: Sequence[Row]) -> float:
        """Leave the gradients of a batch; return its loss."""
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            loss = self.loss(rows)
        loss.backward()
        return float(loss.detach())


class Step:
    """A contender at work: gradients, clipped, and the optimizer."""

    def __init__(self, contender: Contender, rows: list[Row]) -> None:
        self.side = (Theirs if contender.published else Ours)(contender)
        self.rows = rows
        adapter = dict(self.side.adapted.named_parameters())
        self.parameters = {name: value for name, value in adapter.items() if value.requires_grad}
        # An adapter as it is after some steps: B is zero at first, and A without a gradient.
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.normal_(std=0.01 if "lora_B" in name else 0.03, generator=generator)
        self.parameters |= {f"neck.{n}": value for n, value in self.side.neck.named_parameters()}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=0.0, weight_decay=0.0)
        for module in self.side.modules:
            for value in module.parameters():
                value.sum()  # weights mapped from their file are not held before they are read
        self.loaded, self.loading = held_mib(), peak_mib()

    def step(self) -> dict[str, float]:
        """Make a step; return its seconds, of the clock and of the processor, and its loss."""
        before, start = os.times(), time.perf_counter()
        loss = self.side.backward(self.rows)
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds, after = time.perf_counter() - start, os.times()
        system = after.system - before.system
        cpu = after.user - before.user + system
        return {"seconds": seconds, "cpu": cpu, "system": system, "loss": loss}

    def memory(self) -> dict[str, float]:
        """Return MiB: the process's peak, what it held with the models loaded, its peak by then."""
        return {"peak": peak_mib(), "loaded": self.loaded, "loading_peak": self.loading}

    def gradients(self, path: str) -> float:
        """Write the gradients into a file; return the loss."""
        loss = self.side.backward(self.rows)
        save_file({name: value.grad for name, value in self.parameters.items()}, path)
        self.optimizer.zero_grad()
        return loss

    def profile(self) -> dict[str, Any]:
        """Return where a step's time goes."""
        from step_profile import profiled

        vocabulary = self.side.adapted.get_input_embeddings().num_embeddings
        return profiled(self.step, vocabulary, RANK)


class Worker:
    """A contender in a process of its own."""

    def __init__(self, contender: Contender, rows: list[Row]) -> None:
        context = multiprocessing.get_context("spawn")
        self.label = contender.label
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, contender, rows), daemon=True)
        self.process.start()
        other.close()

    def __call__(self, method: str, *arguments: object) -> Any:
        """Call a method of the process's `Step`."""
        try:
            self.connection.send((method, arguments))
            result = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            sys.exit(
                f"{self.label}: the process ended with {self.process.exitcode}; "
                "if it ran out of memory, give fewer --tokens or --rows"
            )
        if isinstance(result, Exception):
            sys.exit(f"{self.label}: {first_line(result)}")
        return result

    def end(self) -> None:
        """End the process."""
        self.connection.close()  # which it sees, if it is not at work
        self.process.join(10)
        self.process.terminate()
        self.process.join()


@contextmanager
def workers(contenders: Sequence[Contender], rows: list[Row]) -> Iterator[list[Worker]]:
    """Start the contenders' processes, one after the other, and end them."""
    started: list[Worker] = []
    try:
        for contender in contenders:
            started.append(Worker(contender, rows))
            started[-1]("memory")  # loaded before the next one starts
        yield started
    finally:
        for worker in started:
            worker.end()


def _serve(connection: Connection, contender: Contender, rows: list[Row]) -> None:
    _quiet()
    step: Step | None = None
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            step = step or Step(contender, rows)
            connection.send(getattr(step, method)(*arguments))
        except Exception as error:
            connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _quiet() -> None:
    """Leave out what libraries say while they load."""
    import transformers

    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()


def _objective(name: str, model: AutoRegModel, budget: int) -> Any:
    from autoreg_trainers.objectives import Alignment, AlignmentSettings, Compression

    if name == "ic":
        return Compression(model, budget)
    return Alignment(model, budget, AlignmentSettings())


def prepared(objective: str, count: int, tokens: int) -> list[Row]:
    """Return a batch as both sides take it, with reference scores, from a process that then ends.

    CDA: query, positive and a hard negative. IC: half the rows a query and its
    positive under I_next, half a positive and itself under I_self.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_prepared, objective, count, tokens).result()


def _prepared(objective: str, count: int, tokens: int) -> list[Row]:
    _quiet()
    model = AutoRegModel.from_pretrained(DEFAULT_BASE.name, device="cpu", dtype="float32")
    made = _objective(objective, model, 2048).eval()
    ask, itself, wrapped = made.query_suffix, made.document_suffix, model.encoder.wrapped
    rows: list[Row] = []
    for texts in triplets(count):
        query, positive, negative = (ids[:tokens] for ids in model.backbone.tokenize(list(texts)))
        target, other = made.targets([positive, negative])
        if objective == "cda":
            row = {"query": query, "positive": positive, "negatives": [negative]}
            row |= {"query_input": wrapped(query, ask), "positive_input": wrapped(positive, itself)}
            row |= {"positive_target": target, "negative_target": other}
        else:
            context, suffix = (positive, itself) if len(rows) % 2 else (query, ask)
            row = {"context": context, "suffix": suffix, "target": positive}
            row |= {"context_input": wrapped(context, suffix), "target_ids": target}
        rows.append(row)
    if objective == "cda":
        scores = made.reference(rows)
        for i, row in enumerate(rows):
            row["reference_positive"] = float(scores["positive"][i])
            row["reference_negatives"] = [float(scores["negatives"][i])]
    return rows


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


def contenders(objective: str, options: argparse.Namespace) -> list[Contender]:
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
        "\n| step | warm-up s | s | CPU s | of it system | published / this | peak MiB | models loaded MiB "
        "| step alone MiB | peak / published | step alone / published |\n" + "|---" * 11 + "|"
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
    sides = contenders(objective, options)
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
