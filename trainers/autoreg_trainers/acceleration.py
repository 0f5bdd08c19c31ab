"""How the layers run while they are trained: attention and compilation, by measurement."""

from __future__ import annotations

import logging
import shutil
from typing import Literal

import torch
from torch import nn

from autoreg_rag.backbone import Backbone
from autoreg_rag.model import AutoRegModel

logger = logging.getLogger(__name__)

COMPILERS = ("c++", "g++", "clang++")


def training_attention(device: torch.device) -> str | None:
    """Return the attention that trains fastest, None for transformers' own choice.

    On CPUs the backward pass of ``sdpa`` is slow for passages of up to some
    hundred tokens; `benchmarks/train_step.py` measures it.
    """
    return "eager" if device.type == "cpu" else None


def avoid_planning(device: torch.device) -> None:
    """Keep ``sdpa`` from cuDNN, for the whole process.

    It plans anew for each shape, and nearly every batch of texts has one of its own.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def compile_layers(model: AutoRegModel, mode: Literal["auto", "yes", "no"]) -> None:
    """Compile each transformer layer, so that small operators between products are fused.

    One graph with free batch size and length serves all layers of a role, so
    compilation takes seconds to a minute, once.

    Parameters
    ----------
    model
        Whose layers, in place.
    mode
        ``auto`` compiles where a C++ compiler is found (CPU) or on CUDA, and goes
        on uncompiled where compilation fails.
    """
    device = model.backbone.device.type
    possible = device == "cuda" or (device == "cpu" and any(map(shutil.which, COMPILERS)))
    if mode == "no" or (mode == "auto" and not possible):
        return
    # Adapter on and off, with and without gradients, float32 and bfloat16: all are meant.
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.suppress_errors = mode == "auto"
    for layer in _layers(model.backbone) + (_layers(model.tuned) if model.tuned else []):
        layer.compile(dynamic=True)
    logger.info("layers are compiled when they first run")


def _layers(backbone: Backbone) -> list[nn.Module]:
    """Return the transformer's blocks."""
    blocks = backbone.language_model._no_split_modules or []
    return [module for module in backbone.body.modules() if type(module).__name__ in blocks]
