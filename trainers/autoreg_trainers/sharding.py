"""Weights of which each of several processes holds a part (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from autoreg_trainers.objectives import Objective


def make_shardable(objective: Objective) -> None:
    """Prepare an objective for its weights to be shared out by accelerate.

    The layers to share out are named where accelerate looks for them, and each role
    makes one pass a call.
    """
    objective.one_pass = True
    blocks: Any = objective.model.backbone.language_model._no_split_modules
    objective._no_split_modules = blocks


def whole(value: Tensor) -> Tensor:
    """Return all of a tensor; every process must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own_part(value: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return value.to_local() if isinstance(value, DTensor) else value


@torch.no_grad()
def fill(parameter: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into a parameter, or its part into what this process has of it."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
    parameter.copy_(value)


@contextmanager
def root_held(objective: nn.Module) -> Iterator[None]:
    """Hold what is shared by all layers together through several passes, then put it away.

    The decoder's backward pass comes in the middle of a forward pass, see
    `cut.rowwise`; after it torch would put embeddings and neck away, which the
    rest of the pass needs.
    """
    if isinstance(objective, FSDPModule):
        objective.set_reshard_after_backward(False, recurse=False)
        try:
            yield
        finally:
            objective.set_reshard_after_backward(True, recurse=False)
            _put_away(objective)
    else:
        yield


def gather(objective: Objective) -> None:
    """Put all weights together again, in every process, to be saved."""
    _put_away(objective)
    made: dict[Tensor, nn.Parameter] = {}  # a tied head and its embeddings stay one
    for module in objective.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            if isinstance(value, DTensor):
                if value not in made:
                    made[value] = nn.Parameter(value.full_tensor(), value.requires_grad)
                setattr(module, name, made[value])


def _put_away(objective: nn.Module) -> None:
    """Leave each process its part alone; a pass without gradients may have left all of some."""
    for module in objective.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
