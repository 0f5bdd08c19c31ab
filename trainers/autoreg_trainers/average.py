"""``python -m autoreg_trainers.average``: one model of the mean of several models' weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from autoreg_rag.cli import main
from autoreg_rag.errors import ModelError
from autoreg_rag.model import AutoRegModel
from autoreg_trainers.adaptation import rounded


def average(
    models: Annotated[
        list[str], typer.Argument(help="Saved models that were trained on from one start.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for their mean.")],
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Of each model, in their order; equal where none is given."),
    ] = None,
) -> None:
    """Write a model whose trained weights are the weighted mean of several models'."""
    result = mean(models, [1.0] * len(models) if weight is None else weight)
    result.save_pretrained(out)
    typer.echo(f"{out}: {result.name}, fingerprint {result.fingerprint()}")


def mean(models: Sequence[str | Path], weights: Sequence[float]) -> AutoRegModel:
    """Return the weighted mean of models ("model soup", Wortsman et al., ICML 2022).

    An adapter's two factors are averaged each by itself. Of A_1, B_1 and A_2, B_2 the
    product of the means differs from the mean of the products by a quarter of
    (B_1 - B_2)(A_1 - A_2), which is small where one model goes on from the other.

    Parameters
    ----------
    models
        Names or folders of two models or more: of one base, with adapters of one shape (or
        with weights of their own), and with the same settings. What is not trained, and the
        stage, is the first's.
    weights
        One per model, above 0; they are scaled to a sum of 1.

    Returns
    -------
    AutoRegModel
        In float32, rounded as a file holds it.

    Raises
    ------
    ModelError
        There are too few models, the weights do not fit, or the models cannot be averaged.
    """
    if len(models) < 2:
        raise ModelError("an average takes two models or more")
    if len(weights) != len(models):
        raise ModelError(f"there are {len(models)} models and {len(weights)} weights")
    for weight in weights:
        if not 0 < weight < math.inf:
            raise ModelError(f"a weight is {weight:g}; each must be a number above 0")
    first = AutoRegModel.from_pretrained(models[0], device="cpu", dtype="float32")
    averaged = _trained(first)
    sums = {name: value.double() * weights[0] for name, value in averaged.items()}
    for name, weight in zip(models[1:], weights[1:], strict=True):
        other = AutoRegModel.from_pretrained(name, device="cpu", dtype="float32")
        _check_alike(first, other, models[0], name)
        for key, value in _trained(other).items():
            sums[key] += weight * value.double()
    for name, value in averaged.items():
        value.copy_(sums[name] / sum(weights))
    return rounded(first)


def _trained(model: AutoRegModel) -> dict[str, Tensor]:
    """Return what training changes, by name; the tensors are the model's own."""
    values = {f"adapter.{name}": value for name, value in model.backbone.adapter_parameters()}
    values |= {f"neck.{name}": value for name, value in model.neck.state_dict().items()}
    if model.tuned is not None:
        own = model.tuned.language_model.named_parameters()
        values |= {f"encoder.{name}": value for name, value in own}
    return {name: value.detach() for name, value in values.items()}


def _check_alike(
    first: AutoRegModel, other: AutoRegModel, first_name: str | Path, name: str | Path
) -> None:
    ours, theirs = first.config.vector_settings(), other.config.vector_settings()
    differing = sorted(key for key, value in ours.items() if theirs[key] != value)
    shapes, others = ({k: v.shape for k, v in _trained(m).items()} for m in (first, other))
    if first.backbone.adapter_settings() != other.backbone.adapter_settings() or shapes != others:
        differing.append("what is trained (adapter, or the encoder's own weights)")
    if differing:
        raise ModelError(
            f"{first_name} and {name} cannot be averaged; they differ in {', '.join(differing)}"
        )


if __name__ == "__main__":
    main(average)
