"""What each of several processes does in `test_contrastive`."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from autoreg_trainers.objectives import Contrastive
from tests.trainers.plain import gradients, prepared, triplets

NEGATIVES = (2, 0, 1, 3, 0)
SHARES = ((0, 2), (2, 5))
"""Rows of each process; their candidates differ in number too."""


def rows_of(model):
    """Rows of which two share a group and two a text, across the processes."""
    rows = triplets(model, negatives=NEGATIVES)
    rows[4]["group"] = rows[0]["group"]
    rows[3]["positive"] = rows[1]["positive"]
    return rows


def work(rank: int, folder: Path, out: Path) -> None:
    """Take one process's share of the batch; leave its loss, figures and gradients in `out`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=len(SHARES)
    )
    try:
        model = prepared(folder)
        objective = Contrastive(model, 200, tau=0.3).train()
        share = rows_of(model)[slice(*SHARES[rank])]
        outcome, found = gradients(objective, share)
        objective.eval()
        if rank == 0:  # alone: an evaluation waits for nobody
            found["held_back"] = objective(share).loss.detach()
        ranked = torch.tensor(outcome.sums["ranked_first"][0])
        figures = {"loss": outcome.loss.detach(), "ranked_first": ranked}
        save_file({**found, **figures}, out / f"{rank}.safetensors")
        dist.barrier()
    finally:
        dist.destroy_process_group()
