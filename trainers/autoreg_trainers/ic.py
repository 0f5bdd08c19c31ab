"""``python -m autoreg_trainers.ic``: train by Information Compression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoreg_trainers.arguments import run
from autoreg_trainers.settings import CompressionSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from autoreg_trainers.objectives import Compression

DESCRIPTION = """
Information Compression: the encoder learns to put a text into k vectors from
which the frozen decoder generates the target. The loss is logged in nats per
token beside what the decoder reaches with no context; only below that do the
vectors carry anything.
"""


def ic(settings: CompressionSettings) -> None:
    """Train, leave a model folder in ``settings.out``, and print held-back figures."""
    # These take seconds to load, and --help needs none of them.
    from autoreg_trainers.callbacks import NoContext
    from autoreg_trainers.data import Source, load_compression
    from autoreg_trainers.objectives import Compression
    from autoreg_trainers.training import Recipe, print_figures, train

    sources = [Source.parse(source) for source in settings.sources]
    recipe = Recipe(
        stage="ic",
        rows=lambda model: load_compression(
            sources,
            model.backbone,
            model.config,
            tasks=settings.tasks,
            seed=settings.seed,
            max_rows=settings.max_rows,
            max_group=settings.max_group,
            strict=settings.strict,
        ),
        objective=lambda model: Compression(
            model, settings.token_budget, distillation=settings.distillation
        ),
        begin=lambda objective, training: begin_bridge(objective, training, settings),
        callbacks=lambda objective: [NoContext(objective)],
    )
    print_figures(train(settings, recipe))


def begin_bridge(objective: Compression, training: Dataset, settings: CompressionSettings) -> None:
    """Fit the bridge to the first rows to train on, where it begins anew."""
    from autoreg_trainers.bridge import fit_bridge

    model = objective.model
    begins = settings.tuning == "bridge" or not model.neck.fitted
    if settings.bridge_rows and begins:
        some = training.select(range(min(settings.bridge_rows, len(training))))
        kept = [row for row in some if row["target"]]
        fit_bridge(model, [objective.wrapped(row) for row in kept], [row["target"] for row in kept])


if __name__ == "__main__":
    run(ic, CompressionSettings, DESCRIPTION)
