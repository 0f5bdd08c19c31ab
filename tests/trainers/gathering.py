"""What each of several processes does that share documents or reference scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from safetensors.torch import save_file

from autoreg_trainers import references
from autoreg_trainers.objectives import Alignment, AlignmentSettings, Contrastive
from tests.trainers.plain import gradients, prepared, triplets

NEGATIVES = (2, 0, 1, 3, 0)
SHARES = ((0, 2), (2, 5))
"""Rows of each process; their candidates differ in number too."""

OBJECTIVES = {
    "contrastive": lambda model: Contrastive(model, 200, tau=0.3),
    "alignment": lambda model: Alignment(
        model, 200, AlignmentSettings(beta=0.02, tau=0.3, contrastive_weight=5, contrastive_tau=0.3)
    ),
}


def rows_of(model):
    """Rows of which two share a group and two a text, across the processes."""
    rows = triplets(model, negatives=NEGATIVES)
    rows[4]["group"] = rows[0]["group"]
    rows[3]["positive"] = rows[1]["positive"]
    return rows


def work(rank: int, kind: str, folder: Path, out: Path) -> None:
    """Take one process's share of the batch; leave its loss, figures and gradients in `out`."""
    with together(rank, out):
        model = prepared(folder)
        objective = OBJECTIVES[kind](model).train()
        share = rows_of(model)[slice(*SHARES[rank])]
        outcome, found = gradients(objective, share)
        objective.eval()
        if rank == 0:  # alone: an evaluation waits for nobody
            found["held_back"] = objective(share).loss.detach()
        ranked = torch.tensor(outcome.sums["ranked_first"][0])
        figures = {"loss": outcome.loss.detach(), "ranked_first": ranked}
        save_file({**found, **figures}, out / f"{rank}.safetensors")
        dist.barrier()


def score(rank: int, folder: Path, out: Path) -> None:
    """Make reference scores together, two rows at a time, in `out`; say which are read."""
    references.BLOCK = 2
    with together(rank, out):
        objective = OBJECTIVES["alignment"](prepared(folder))
        columns = ("query", "positive", "negatives", "symmetric", "group")
        rows = [{name: row[name] for name in columns} for row in rows_of(objective.model)]
        scored: list[Any] = []
        reference = objective.reference
        objective.reference = lambda part: scored.append(len(part)) or reference(part)
        found = references.with_references(objective, Dataset.from_list(rows), out / "scores")
        values = {"scores": torch.tensor(found["reference_positive"][:], dtype=torch.float64)}
        save_file({**values, "scored": torch.tensor(scored)}, out / f"{rank}.safetensors")


@contextmanager
def together(rank: int, out: Path) -> Iterator[None]:
    """Join the other processes, which meet in `out`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=len(SHARES)
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
