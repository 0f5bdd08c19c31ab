"""``python -m autoreg_trainers.cda``: train by Conditional Distribution Alignment."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from autoreg_trainers.arguments import run
from autoreg_trainers.settings import AlignmentTrainingSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from autoreg_rag.model import AutoRegModel
    from autoreg_trainers.objectives import Alignment
    from autoreg_trainers.training import Recipe

logger = logging.getLogger(__name__)

BLOCK = 4096
"""Rows looked at at once."""

DESCRIPTION = """
Conditional Distribution Alignment, on a model that Information Compression has
trained: the query's vectors should generate the positive as well as its own
vectors do (S1), and gain more on it than on the negatives since the reference
(S2). Reference scores are made first, unless --references holds them.
"""


def cda(settings: AlignmentTrainingSettings) -> None:
    """Train, leave a model folder in ``settings.out``, and print held-back figures."""
    # This takes seconds to load, and --help needs none of it.
    from autoreg_trainers.training import print_figures, train

    print_figures(train(settings, alignment_recipe(settings)))


def alignment_recipe(settings: AlignmentTrainingSettings) -> Recipe:
    """Return how alignment is trained; its rows and scores serve `reference` too."""
    from autoreg_trainers.data import Source, load_triplets
    from autoreg_trainers.objectives import Alignment, AlignmentSettings
    from autoreg_trainers.references import reference_key, with_references
    from autoreg_trainers.teacher import teacher_of
    from autoreg_trainers.training import Recipe

    sources = [Source.parse(source) for source in settings.sources]
    folder = Path(settings.references or Path(settings.out) / "references")
    teacher = teacher_of(settings)

    def rows(model: AutoRegModel) -> Dataset:
        triplets = load_triplets(
            sources,
            model.backbone,
            model.config,
            seed=settings.seed,
            max_rows=settings.max_rows,
            max_group=settings.max_group,
            strict=settings.strict,
            num_negatives=settings.negatives,
        )
        needless = (
            settings.in_batch_negatives
            or settings.contrastive_weight
            or settings.compression_weight
            or settings.teacher
        )
        return triplets if needless else with_negatives(triplets)

    def objective(model: AutoRegModel) -> Alignment:
        return Alignment(
            model,
            settings.token_budget,
            AlignmentSettings(
                form=settings.form,
                beta=settings.beta,
                tau=settings.tau,
                reduction=settings.reduction,
                in_batch_negatives=settings.in_batch_negatives,
                contrastive_weight=settings.contrastive_weight,
                contrastive_tau=settings.contrastive_tau,
                compression_weight=settings.compression_weight,
                teacher_weight=settings.teacher_weight,
                teacher_cosine_weight=settings.teacher_cosine_weight,
            ),
            teacher,
        )

    def prepare(objective: Alignment, rows: Dataset) -> Dataset:
        key = reference_key(objective.model, rows)  # of the rows as they were loaded
        if teacher is not None:  # first: one that is not there shows before the scores are made
            rows = teacher.read(rows, objective.model.backbone)
        return with_references(objective, rows, folder, key=key)

    return Recipe(stage="cda", rows=rows, objective=objective, prepare=prepare)


def with_negatives(rows: Dataset) -> Dataset:
    """Return the rows that have a negative: without one, L_CDA is 0 whatever the model does.

    Raises
    ------
    DataError
        No row has one.
    """
    import numpy as np
    import pyarrow.compute as pc

    from autoreg_trainers.data import DataError

    kept: list[bool] = []
    for table in rows.select_columns(["negatives"]).with_format("arrow").iter(BLOCK):
        kept += pc.greater(pc.list_value_length(table["negatives"]), 0).to_pylist()
    if not any(kept):
        raise DataError(
            f"none of the {len(rows)} rows has a negative; mine some by "
            "python -m autoreg_trainers.mine, or set in_batch_negatives"
        )
    if not all(kept):
        logger.warning(
            "%d of %d rows have no negative and are left out; mine some, or set in_batch_negatives",
            kept.count(False),
            len(rows),
        )
    return rows.select(np.flatnonzero(kept))


if __name__ == "__main__":
    run(cda, AlignmentTrainingSettings, DESCRIPTION)
