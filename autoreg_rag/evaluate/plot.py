"""What an evaluation finds, as a picture: a row per set, a mark per system."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.figure import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    legend,
    panels,
    style,
    write_figure,
)
from autoreg_rag.evaluate.optional import require
from autoreg_rag.evaluate.results import Result, Task, means

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")

_TITLES: dict[Task, str] = {"retrieval": "Retrieval", "sts": "Similarity"}
_COLOURS = (BLUE, ORANGE, GREEN, PINK, GREY)
_MARKS = "osD^v"
_WIDTH, _ROW, _FRAME = 8.0, 0.3, 1.0
"""Inches: of the picture, of a set's row, of what a panel has above and below its rows."""


def check_plot(path: Path) -> None:
    """Raise EvaluationError if no picture can be drawn to this path, before there is any work."""
    if path.suffix.lower() not in FORMATS:
        raise EvaluationError(f"--plot {path}: the name must end in {', '.join(FORMATS)}")
    require("matplotlib", "autoreg-rag[eval]")


def draw_results(results: Sequence[Result], path: Path) -> None:
    """Draw each task's main measure, the means below the sets, as a file that is written whole.

    Parameters
    ----------
    results
        At least one. The main measure is the first of a result's metrics.
    path
        Where to; its ending, one of `FORMATS`, says in which format.
    """
    rows = [*results, *means(results)]
    tasks = [task for task in get_args(Task) if any(row.task == task for row in rows)]
    groups = [[row for row in rows if row.task == task] for task in tasks]
    heights = [_FRAME + _ROW * len({row.name for row in group}) for group in groups]
    figure, axes = panels(_WIDTH, sum(heights), heights)
    systems = list(dict.fromkeys(row.system for row in rows))  # each looks the same everywhere
    for axis, task, group in zip(axes, tasks, groups, strict=True):
        _draw(axis, _TITLES[task], group, systems)
    write_figure(figure, path, path.suffix[1:].lower())


def _draw(axis: Axes, title: str, rows: Sequence[Result], systems: Sequence[str]) -> None:
    metric = next(iter(rows[0].metrics))
    names = list(dict.fromkeys(row.name for row in rows))
    for number, system in enumerate(systems):
        if not (own := [row for row in rows if row.system == system]):
            continue
        axis.plot(
            [100 * row.metrics[metric] for row in own],
            [names.index(row.name) for row in own],
            linestyle="none",
            marker=_MARKS[number % len(_MARKS)],
            color=_COLOURS[number % len(_COLOURS)],
            label=system,
            alpha=0.85,
        )
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)  # the first set above
    if names[-1].startswith("mean of"):
        axis.axhline(len(names) - 1.5, color="black", linewidth=0.8)
    style(axis, f"{title}: {metric} × 100")
    axis.set_axisbelow(True)
    legend(axis)
