"""What each of several processes does that share documents, a teacher or reference scores."""

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
from autoreg_trainers import teacher as teachers
from autoreg_trainers.objectives import Alignment, AlignmentSettings, Contrastive
from tests.trainers.plain import gradients, prepared, triplets
from tests.trainers.teaching import COLUMNS, recording, taught

NEGATIVES = (2, 0, 1, 3, 0)
SHARES = ((0, 2), (2, 5))
"""Rows of each process; their candidates differ in number too."""
BLOCK = 3
"""Texts of a file of a teacher's vectors."""

OBJECTIVES = {
    "contrastive": lambda model, teacher: Contrastive(model, 200, tau=0.3),
    "alignment": lambda model, teacher: Alignment(model, 200, aligned(contrastive_weight=5)),
    "taught-contrastive": lambda model, teacher: Contrastive(
        model, 200, tau=0.3, teacher=teacher, teacher_weight=7, teacher_cosine_weight=90
    ),
    "taught-alignment": lambda model, teacher: Alignment(
        model, 200, aligned(teacher_weight=7, teacher_cosine_weight=90), teacher
    ),
}


def aligned(**weights):
    return AlignmentSettings(beta=0.02, tau=0.3, contrastive_tau=0.3, **weights)


def rows_of(model):
    """Rows of which two share a group and two a text, across the processes."""
    rows = triplets(model, negatives=NEGATIVES)
    rows[4]["group"] = rows[0]["group"]
    rows[3]["positive"] = rows[1]["positive"]
    return rows


def work(rank: int, folder: Path, teacher_folder: Path, out: Path) -> None:
    """Take one process's share of the batch; leave losses, figures and gradients in `out`."""
    peer = recording()
    teachers.BLOCK, teachers.SentenceTransformerPeer = BLOCK, peer
    with together(rank, out):
        model = prepared(folder)
        teacher, rows = taught(rows_of(model), model, [teacher_folder], out / "teacher")
        save_file({"read": torch.tensor(len(peer.texts))}, out / f"read-{rank}.safetensors")
        share = rows[slice(*SHARES[rank])]
        for kind, make in OBJECTIVES.items():
            objective = make(model, teacher).train()
            outcome, found = gradients(objective, share)
            objective.eval()
            if rank == 0:  # alone: an evaluation waits for nobody
                found["held_back"] = objective(share).loss.detach()
            found["loss"] = outcome.loss.detach()
            for name in {"ranked_first", "divergence"} & outcome.sums.keys():
                found[name] = torch.tensor(outcome.sums[name][0])
            save_file(found, out / f"{kind}-{rank}.safetensors")
            dist.barrier()


def score(rank: int, folder: Path, out: Path) -> None:
    """Make reference scores together, two rows at a time, in `out`; say which are read."""
    references.BLOCK = 2
    with together(rank, out):
        objective = OBJECTIVES["alignment"](prepared(folder), None)
        rows = [{name: row[name] for name in COLUMNS} for row in rows_of(objective.model)]
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
