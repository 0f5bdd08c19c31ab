"""What this project's pictures share: a column of panels, one style, files written whole."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoreg_rag.files import write_whole

if TYPE_CHECKING:  # matplotlib is an extra
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by all eyes.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"


def panels(
    width: float, height: float, heights: Sequence[float], *, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure, in inches, and its panels, one below the other, of relative heights."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    grid = figure.subplots(
        len(heights), 1, sharex=sharex, squeeze=False, height_ratios=list(heights)
    )
    return figure, list(grid[:, 0])


def style(axis: Axes, title: str) -> None:
    """Give a panel its title, a faint grid, and no frame above and at the right."""
    axis.set_title(title, loc="left", fontsize="medium")
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def legend(axis: Axes, **options: Any) -> None:
    """Put a panel's legend to its right."""
    place = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)}
    axis.legend(frameon=False, fontsize="small", **place, **options)


def write_figure(figure: Figure, path: Path, kind: str) -> None:
    """Write a figure as a file of a kind, such as ``png``, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format=kind)
    write_whole(path, picture.getvalue())
