"""Tensors that are worked out block by block and kept, to go on from where work was cut off."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm.auto import tqdm

from autoreg_rag.errors import AutoRegError
from autoreg_rag.files import write_whole


class BlocksError(AutoRegError):
    """What is kept in a folder belongs to something else, or is damaged."""


def kept_blocks(
    compute: Callable[[range], dict[str, Tensor]],
    count: int,
    folder: Path,
    *,
    what: str,
    manifest: str,
    wanted: Mapping[str, Any],
    block: int,
) -> dict[str, Tensor]:
    """Return tensors of many items, worked out block by block where they are not kept yet.

    Processes that were started together share the work, and return when all of it is done.

    Parameters
    ----------
    compute
        Gives the tensors of some items, whose first dimensions are joined over all blocks.
    count
        How many items there are.
    folder
        Where they are kept, one file a block.
    what
        A noun for messages, in the plural.
    manifest, wanted
        The name of the JSON file beside the blocks, and what it holds: what the tensors depend
        on; `count` and `block` are added.
    block
        Items of one file, if the folder is new: what is lost at most when the work is cut off.

    Raises
    ------
    BlocksError
        The folder holds what depends on something else, or is damaged.
    """
    wanted = {**wanted, "count": count}
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if rank == 0:
        _claim(folder / manifest, wanted, what, block)
    _wait(processes)
    block = _claim(folder / manifest, wanted, what, block)
    paths = {start: folder / f"{start:08d}.safetensors" for start in range(0, count, block)}
    missing = [start for start, path in paths.items() if not path.is_file()]
    _wait(processes)  # until all have looked
    for start in tqdm(missing[rank::processes], unit="block", desc=what, disable=None):
        write_whole(paths[start], save(compute(range(start, min(start + block, count)))))
    _wait(processes)
    blocks = [_read(path) for path in paths.values()]
    return {name: torch.cat([part[name] for part in blocks]) for name in blocks[0]}


def _wait(processes: int) -> None:
    if processes > 1:
        dist.barrier()


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BlocksError(f"{path} is damaged; delete it: {error}") from error


def _claim(path: Path, wanted: dict[str, Any], what: str, block: int) -> int:
    """Take a new folder for these tensors, or make sure that it is theirs; return its block."""
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        write_whole(path, (json.dumps({**wanted, "block": block}, indent=2) + "\n").encode())
        return block
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise BlocksError(f"{path} is damaged; delete the folder: {error}") from error
    if not isinstance(found, dict):
        raise BlocksError(f"{path} is damaged; delete the folder: it is not a JSON object")
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise BlocksError(
            f"the {what} in {folder} belong to other {' and '.join(differing)}; "
            "name another folder, or delete it"
        )
    return int(found.get("block", block))
