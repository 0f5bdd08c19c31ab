"""The contenders of `train_step.py`: whole training steps, each in a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from memory import peak_mib, restart_peak
from safetensors.torch import save_file
from texts import triplets

from autoreg_rag.backbone import Backbone
from autoreg_rag.errors import first_line
from autoreg_rag.model import AutoRegModel
from autoreg_rag.neck import Neck
from autoreg_rag.pretrained import DEFAULT_BASE

RANK = 32

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
        from peft import LoraConfig, get_peft_model
        from published import Published

        from autoreg_trainers.objectives import AlignmentSettings

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
        self.loading = peak_mib()
        self.loaded = restart_peak()

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
        """Return MiB: the peak of all steps, what was held before them, the peak of loading."""
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
