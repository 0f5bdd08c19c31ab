"""A run's curves as one picture: losses, learning rate, gradients, probes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from autoreg_rag.evaluate.figure import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    legend,
    panels,
    style,
    write_figure,
)
from autoreg_trainers.probe import PREFIX

WIDTH = 9.0
MANY = 40
"""From so many points on a noisy series is smoothed, and points are not marked."""

Points = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True)
class Series:
    """One line: a key of the log and how it is drawn."""

    key: str
    label: str
    colour: str
    dashed: bool = False
    thin: bool = False
    noisy: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines that share a vertical axis."""

    title: str
    series: tuple[Series, ...]
    height: float = 1.0
    log: bool = False


LOSSES = (
    Series("loss", "training", BLUE, noisy=True),
    Series("eval_loss", "held back", ORANGE),
    Series("no_context", "training, no context", BLUE, dashed=True, noisy=True),
    Series("eval_no_context", "held back, no context", ORANGE, dashed=True),
)
SHARES = (
    Series("preferred", "positive preferred", GREEN, noisy=True),
    Series("eval_preferred", "positive preferred, held back", GREEN, dashed=True),
    Series("s1_saturated", "S1 saturated", BLUE, noisy=True),
    Series("s2_saturated", "S2 saturated", ORANGE, noisy=True),
)


def draw_curve(history: Iterable[Mapping[str, Any]], path: Path, *, title: str = "") -> None:
    """Draw what a run logged, as a PNG that is written whole.

    Parameters
    ----------
    history
        As ``trainer.state.log_history``: mappings with a ``step`` and figures.
        What is missing or not finite is left out, and so is a panel without
        a point. Of several figures of one step the last counts.
    path
        Where to write.
    title
        Stands above the picture.
    """
    logged = _collected(history)
    shown = [panel for panel in _panels(logged) if any(s.key in logged for s in panel.series)]
    heights = [panel.height for panel in shown] or [1.0]
    figure, axes = panels(WIDTH, 2.4 * sum(heights) + 0.7, heights, sharex=True)
    for axis, panel in zip(axes, shown, strict=False):
        _draw(axis, panel, logged)
    if not shown:
        axes[0].text(0.5, 0.5, "no figures were logged", ha="center", va="center")
        axes[0].set_axis_off()
    axes[-1].set_xlabel("optimizer step")
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    drawn = {series.key for panel in shown for series in panel.series} & logged.keys()
    all_steps = {int(step) for key in drawn for step in logged[key][0]}
    if len(all_steps) == 1:  # else matplotlib zooms in to thousandths of a step
        axes[-1].set_xlim(min(all_steps) - 1, max(all_steps) + 1)
    if title:
        figure.suptitle(title, fontsize="large", x=0.01, ha="left")
    write_figure(figure, path, "png")


def _panels(logged: Mapping[str, Points]) -> list[Panel]:
    # Compression's loss is a mean over tokens; the others' have no unit.
    unit = " (nats per token)" if {"nll", "eval_nll"} & logged.keys() else ""
    keys = [key for key in logged if key.startswith(PREFIX)]
    means = (
        Series(f"{PREFIX}retrieval/mean", "retrieval, nDCG@10", BLUE),
        Series(f"{PREFIX}sts/mean", "similarity, Spearman", ORANGE),
    )
    single = tuple(
        Series(key, "", BLUE if key.startswith(f"{PREFIX}retrieval/") else ORANGE, thin=True)
        for key in keys
        if not key.endswith("/mean")
    )
    return [
        Panel(f"Loss{unit}", LOSSES, height=1.5),
        Panel("Shares of examples", SHARES),
        Panel("Learning rate", (Series("learning_rate", "", GREY),), height=0.6),
        Panel("Gradient norm", (Series("grad_norm", "", GREY, noisy=True),), height=0.6, log=True),
        Panel("Probe × 100 (bold: means)", (*single, *means), height=1.2),
    ]


def _collected(history: Iterable[Mapping[str, Any]]) -> dict[str, Points]:
    """Return each figure's steps, ascending, and values."""
    found: dict[str, dict[int, float]] = {}
    for entry in history:
        step = entry.get("step")
        if not isinstance(step, int):
            continue
        for key, value in entry.items():
            if key != "step" and _is_number(value) and (key != "grad_norm" or value > 0):
                found.setdefault(key, {})[step] = float(value)
    return {
        key: (np.array(sorted(values)), np.array([values[step] for step in sorted(values)]))
        for key, values in found.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _draw(axis: Axes, panel: Panel, logged: Mapping[str, Points]) -> None:
    for series in panel.series:
        if series.key in logged:
            _draw_series(axis, series, *logged[series.key])
    if panel.log:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    style(axis, panel.title)
    if axis.get_legend_handles_labels()[1]:
        legend(axis, title="last value", alignment="left", title_fontsize="small")


def _draw_series(
    axis: Axes, series: Series, steps: NDArray[np.int64], values: NDArray[np.float64]
) -> None:
    style = {"color": series.colour, "linestyle": "--" if series.dashed else "-"}
    faint = {**style, "linewidth": 0.8, "alpha": 0.35}
    many = len(steps) >= MANY
    if many and series.noisy:
        axis.plot(steps, values, **faint)
        values = _smoothed(values)
    markers: dict[str, Any] = {} if many else {"marker": "o", "markersize": 3.5}
    if series.thin:
        axis.plot(steps, values, **faint, **(markers if len(steps) == 1 else {}))
    else:
        axis.plot(steps, values, linewidth=1.8, **style, **markers)
    if series.label:  # an empty line, so that the legend shows it without markers
        axis.plot([], [], label=f"{series.label}: {values[-1]:#.3g}", **style)


def _smoothed(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each value's mean with its neighbours, a twentieth of all values wide."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(values))
    means: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return means
