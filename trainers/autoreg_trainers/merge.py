"""``python -m autoreg_trainers.merge``: work an adapter into the encoder's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from peft import PeftModel

from autoreg_rag.cli import main
from autoreg_rag.errors import ModelError
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.adaptation import merged, rounded


def merge(
    model: Annotated[str, typer.Argument(help="A saved model with an adapter.")],
    out: Annotated[Path, typer.Argument(help="Folder for the merged model.")],
) -> None:
    """Write a model whose encoder has its adapter worked into its own weights.

    It encodes without the adapter's extra products, and takes the space of a
    second set of weights, since the decoder stays the frozen base.
    """
    loaded = AutoRegModel.from_pretrained(model, dtype="float32")
    backbone = loaded.backbone
    if not isinstance(backbone.language_model, PeftModel):
        raise ModelError(f"{model} has no adapter to merge")
    tuned = merged(backbone)
    backbone.language_model = backbone.language_model.unload()
    result = AutoRegModel(loaded.config, backbone, loaded.neck, tuned=tuned)
    rounded(result).save_pretrained(out)
    typer.echo(f"{out}: {result.name}, fingerprint {result.fingerprint()}")


if __name__ == "__main__":
    main(merge)
