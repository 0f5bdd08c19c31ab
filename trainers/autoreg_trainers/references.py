"""Reference scores: the likelihoods that the model gave before alignment began."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from tqdm.auto import tqdm

from autoreg_rag.errors import AutoRegError
from autoreg_rag.files import write_whole
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.data import rows_hash
from autoreg_trainers.objectives import Alignment

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

BLOCK = 512
"""Rows of one file: what is lost at most when the work is cut off."""

MANIFEST_FILE = "references.json"


class ReferenceError(AutoRegError):
    """Reference scores do not belong to these rows, instructions or this model."""


def reference_key(model: AutoRegModel, rows: Dataset) -> dict[str, str]:
    """Return what reference scores are bound to: rows, instructions, and all of the model."""
    neck = hashlib.sha256()
    for name, value in sorted(model.neck.state_dict().items()):
        neck.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return {
        "rows": rows_hash(rows),
        "model": model.fingerprint(),
        "neck": neck.hexdigest(),
        "query_instruction": model.config.query_instruction,
        "document_instruction": model.config.document_instruction,
    }


def with_references(
    objective: Alignment, rows: Dataset, folder: Path, *, key: dict[str, str] | None = None
) -> Dataset:
    """Return the rows with their reference scores, worked out where they are not there yet.

    Work goes on where it was cut off, file by file. Processes that were started together
    share it, and return when all of it is done.

    Parameters
    ----------
    objective
        Alignment with the model as Information Compression left it.
    rows
        Triplets, as `data.load_triplets` gives them.
    folder
        Where the scores are kept, float32, under the hash of what they belong to.
    key
        See `reference_key`; worked out if it is not given.

    Returns
    -------
    Dataset
        With columns ``reference_positive``, ``reference_negatives`` (sums of
        log-likelihoods, in nats) and, where negatives come from the batch,
        ``reference_prefix`` (what the decoder read for the query, flat [k d]).

    Raises
    ------
    ReferenceError
        The folder holds scores of other rows, instructions or another model.
    """
    with_prefix = objective.settings.in_batch_negatives > 0
    wanted: dict[str, Any] = {**(key or reference_key(objective.model, rows))}
    wanted |= {"count": len(rows), "block": BLOCK, "prefix": with_prefix}
    wanted["max_target"] = objective.max_target
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if rank == 0:
        _claim(folder, wanted)
    _wait(processes)
    _claim(folder, wanted)
    objective.eval()
    starts = {start: folder / f"{start:08d}.safetensors" for start in range(0, len(rows), BLOCK)}
    missing = [start for start, path in starts.items() if not path.is_file()]
    _wait(processes)  # until all have looked
    own = tqdm(missing[rank::processes], unit="block", desc="reference scores", disable=None)
    for start in own:
        part = [rows[i] for i in range(start, min(start + BLOCK, len(rows)))]
        write_whole(starts[start], save(objective.reference(part)))
    _wait(processes)
    blocks = [_block(path) for path in starts.values()]
    whole = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
    ends = whole["counts"].cumsum(0).tolist()
    negatives = whole["negatives"].tolist()
    starts_of = [0, *ends[:-1]]
    result = rows.add_column("reference_positive", whole["positive"].tolist()).add_column(
        "reference_negatives",
        [negatives[a:b] for a, b in zip(starts_of, ends, strict=True)],
    )
    if with_prefix:
        result = result.add_column("reference_prefix", list(whole["prefix"].numpy()))
    return result


def _wait(processes: int) -> None:
    if processes > 1:
        dist.barrier()


def _block(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ReferenceError(f"{path} is damaged; delete it: {error}") from error


def _claim(folder: Path, wanted: dict[str, Any]) -> None:
    """Take a new folder for these scores, or make sure that it is theirs."""
    path = folder / MANIFEST_FILE
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_whole(path, (json.dumps(wanted, indent=2) + "\n").encode())
        return
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ReferenceError(f"{path} is damaged; delete the folder: {error}") from error
    if not isinstance(found, dict):
        raise ReferenceError(f"{path} is damaged; delete the folder: it is not a JSON object")
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise ReferenceError(
            f"the reference scores in {folder} belong to other {' and '.join(differing)}; "
            "name another folder, or delete it"
        )
