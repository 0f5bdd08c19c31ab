"""``python -m autoreg_trainers.contrastive``: the InfoNCE baseline on the same encoder."""

from __future__ import annotations

from autoreg_trainers.arguments import run
from autoreg_trainers.settings import ContrastiveSettings

DESCRIPTION = """
InfoNCE with in-batch and hard negatives on the pooled vectors: the baseline of
the paper's tables, with the same data and the same encoder.
"""


def contrastive(settings: ContrastiveSettings) -> None:
    """Train, leave a model folder in ``settings.out``, and print held-back figures."""
    # These take seconds to load, and --help needs none of them.
    from autoreg_trainers.data import Source, load_triplets
    from autoreg_trainers.objectives import Contrastive
    from autoreg_trainers.teacher import teacher_of
    from autoreg_trainers.training import Recipe, print_figures, train

    sources = [Source.parse(source) for source in settings.sources]
    teacher = teacher_of(settings)
    recipe = Recipe(
        stage="contrastive",
        rows=lambda model: load_triplets(
            sources,
            model.backbone,
            model.config,
            seed=settings.seed,
            max_rows=settings.max_rows,
            max_group=settings.max_group,
            strict=settings.strict,
            num_negatives=settings.negatives,
        ),
        objective=lambda model: Contrastive(
            model,
            settings.token_budget,
            tau=settings.tau,
            teacher=teacher,
            teacher_weight=settings.teacher_weight,
            teacher_cosine_weight=settings.teacher_cosine_weight,
        ),
        prepare=lambda objective, rows: (
            rows if teacher is None else teacher.read(rows, objective.model.backbone)
        ),
    )
    print_figures(train(settings, recipe))


if __name__ == "__main__":
    run(contrastive, ContrastiveSettings, DESCRIPTION)
