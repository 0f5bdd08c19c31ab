"""Which of a model's weights are trained: an adapter's, all of the encoder's, or none of them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from typing import Literal

from peft import LoraConfig, PeftModel, get_peft_model

from autoreg_rag.backbone import Backbone
from autoreg_rag.errors import ModelError
from autoreg_rag.lora import fuse
from autoreg_rag.model import AutoRegModel

logger = logging.getLogger(__name__)

Tuning = Literal["lora", "full", "bridge"]


def trainable(
    model: AutoRegModel,
    tuning: Tuning,
    *,
    rank: int = 32,
    alpha: int | None = None,
    dropout: float = 0.0,
    target_modules: str | list[str] = "all-linear",
) -> AutoRegModel:
    """Return the model with the weights that are to be trained unfrozen, in float32.

    Parameters
    ----------
    model
        An adapter that it has already is trained on; its settings stay.
    tuning
        ``lora``: an adapter on the one set of weights that serves both roles;
        ``full``: a copy of the weights for the encoder, beside the frozen ones;
        ``bridge``: nothing of the encoder, so that embeddings stay as they are.
    rank, alpha, dropout, target_modules
        Of a new adapter, see `peft.LoraConfig`; alpha is twice the rank unless
        it is given.

    Raises
    ------
    ModelError
        An adapter is asked for on a model whose weights were all trained, or
        peft refuses the settings.
    """
    backbone = model.backbone
    tuned = model.tuned
    if tuning == "bridge":
        model.requires_grad_(False)
    elif tuning == "lora":
        if model.tuned is not None:
            raise ModelError(
                f"all weights of {model.name} were trained; go on with tuning: full, "
                "or start from a model with an adapter"
            )
        if not isinstance(backbone.language_model, PeftModel):
            settings = LoraConfig(
                r=rank,
                lora_alpha=2 * rank if alpha is None else alpha,
                lora_dropout=dropout,
                target_modules=target_modules,
            )
            try:
                backbone.language_model = get_peft_model(backbone.language_model, settings)
            except ValueError as error:
                raise ModelError(f"no adapter fits {backbone.name}: {error}") from error
            fuse(backbone.language_model)  # as it will be when it is loaded
        else:
            kept = backbone.language_model.peft_config["default"]
            numbers = {
                "rank": (kept.r, rank),
                "alpha": (kept.lora_alpha, kept.lora_alpha if alpha is None else alpha),
                "dropout": (kept.lora_dropout, dropout),
            }
            others = [f"{name} {has}" for name, (has, asked) in numbers.items() if has != asked]
            targets = _last_names(kept.target_modules)
            if target_modules != "all-linear" and targets != _last_names(target_modules):
                others.append(f"targets {', '.join(sorted(targets))}")
            if others:
                logger.warning("the model's adapter stays as it is: %s", "; ".join(others))
        for name, parameter in backbone.language_model.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    else:
        tuned = model.tuned or merged(backbone)
        tuned.language_model.float().requires_grad_(True)
        # The decoder's role is the base's; the encoder's head is never run.
        head = tuned.language_model.get_output_embeddings().weight
        if head is not tuned.language_model.get_input_embeddings().weight:
            head.requires_grad_(False)
        if isinstance(backbone.language_model, PeftModel):
            backbone.language_model = backbone.language_model.unload()
    model.neck.requires_grad_(True)
    model.neck.compress_tokens.requires_grad_(tuning != "bridge")
    prepared = AutoRegModel(
        model.config,
        backbone,
        model.neck,
        tuned=tuned,
        reference=model.reference,
        token_budget=model.token_budget,
    )
    logger.info("%d parameters are trained", count(prepared))
    return prepared


def _last_names(modules: str | Iterable[str]) -> set[str]:
    """Return modules' names without what they are in: peft keeps them whole."""
    names = [modules] if isinstance(modules, str) else modules
    return {name.rpartition(".")[2] for name in names}


def merged(backbone: Backbone) -> Backbone:
    """Return a copy of a backbone with its adapter, if any, worked into the weights.

    The sums are made in float32.
    """
    model = copy.deepcopy(backbone.language_model).float()
    if isinstance(model, PeftModel):
        model = model.merge_and_unload(safe_merge=True)
    return Backbone(
        backbone.name,
        model.eval(),
        backbone.tokenizer,
        backbone.base_hash,
        backbone.logit_scale,
    )


def rounded(model: AutoRegModel) -> AutoRegModel:
    """Return the model with what was trained, but the neck, as it will be saved."""
    # Parameters alone: rotary frequencies, which are buffers, stay float32.
    for name, parameter in model.backbone.language_model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.bfloat16().to(model.backbone.dtype)
    if model.tuned is not None:
        for parameter in model.tuned.language_model.parameters():
            parameter.data = parameter.data.bfloat16().to(model.backbone.dtype)
    return model


def count(model: AutoRegModel) -> int:
    """Return how many parameters are trained."""
    return sum(value.numel() for value in model.parameters() if value.requires_grad)
