"""``python -m autoreg_trainers.reference``: the reference scores that alignment needs."""

from __future__ import annotations

import typer

from autoreg_trainers.arguments import run
from autoreg_trainers.cda import alignment_recipe
from autoreg_trainers.settings import AlignmentTrainingSettings

DESCRIPTION = """
Reference scores for Conditional Distribution Alignment: how likely the model
makes each positive and negative given the query's vectors, before anything is
aligned; and teachers' vectors, where there are any. Takes the settings of the
run that will use them. Goes on where it was cut off.
"""


def reference(settings: AlignmentTrainingSettings) -> None:
    """Write the scores into ``settings.references``, or ``out/references``."""
    # These take seconds to load, and --help needs none of them.
    from autoreg_trainers.acceleration import compile_layers
    from autoreg_trainers.training import build_objective, join_processes, load_model, short_rows

    state = join_processes(settings)
    recipe = alignment_recipe(settings)
    model = load_model(settings, recipe.stage)
    compile_layers(model, settings.compile)
    with state.main_process_first():
        rows = short_rows(settings, recipe.rows(model))
    rows = recipe.prepare(build_objective(settings, recipe, model), rows)
    if state.is_main_process:
        typer.echo(f"{len(rows)} rows scored")


if __name__ == "__main__":
    run(reference, AlignmentTrainingSettings, DESCRIPTION)
