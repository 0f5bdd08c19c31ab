"""Reference scores: the likelihoods that the model gave before alignment began."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoreg_rag.model import AutoRegModel
from autoreg_trainers.blocks import kept_blocks
from autoreg_trainers.data import rows_hash
from autoreg_trainers.objectives import Alignment

if TYPE_CHECKING:
    from datasets import Dataset

MANIFEST_FILE = "references.json"

BLOCK = 512
"""Rows of one file: what is lost at most when the work is cut off."""


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
    BlocksError
        The folder holds scores of other rows, instructions or another model, or is damaged.
    """
    with_prefix = objective.settings.in_batch_negatives > 0
    wanted: dict[str, Any] = {**(key or reference_key(objective.model, rows))}
    wanted |= {"prefix": with_prefix, "max_target": objective.max_target}
    objective.eval()
    whole = kept_blocks(
        lambda part: objective.reference([rows[i] for i in part]),
        len(rows),
        folder,
        what="reference scores",
        manifest=MANIFEST_FILE,
        wanted=wanted,
        block=BLOCK,
    )
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
