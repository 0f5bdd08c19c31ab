"""What an evaluation finds, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal, get_args

Task = Literal["retrieval", "sts"]


@dataclass(frozen=True)
class Result:
    """The scores of one system on one set.

    Attributes
    ----------
    task
        What the system had to do.
    name
        The set's.
    system
        The model's name, ``BM25``, or both with a plus sign for their fusion.
    metrics
        Scores by name, between 0 and 1 (correlations: -1 and 1).
    sizes
        How many queries, documents or pairs the set has.
    p
        The p-value of the difference from the first system on the set; None where none is told.
    """

    task: Task
    name: str
    system: str
    metrics: Mapping[str, float]
    sizes: Mapping[str, int] = field(default_factory=dict)
    p: float | None = None


def means(results: Iterable[Result]) -> list[Result]:
    """Return each system's mean over the sets of a task, where it has several."""
    groups: dict[tuple[Task, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, result.system), []).append(result)
    return [
        Result(
            task,
            f"mean of {len(group)}",
            system,
            {metric: fmean(r.metrics[metric] for r in group) for metric in group[0].metrics},
        )
        for (task, system), group in groups.items()
        if len(group) > 1
    ]


def markdown(results: Sequence[Result]) -> str:
    """Render a Markdown table per task, means at its end, all scores times 100.

    A column ``p`` is there if p-values are, of which below 0.05 is often called significant.
    """
    rows = [*results, *means(results)]
    groups = ([row for row in rows if row.task == task] for task in get_args(Task))
    return "\n\n".join(_table(group) for group in groups if group)


def to_json(results: Sequence[Result]) -> dict[str, Any]:
    """Return results and means as JSON values; scores are as in `Result`."""
    return {
        "results": [_plain(result) for result in results],
        "means": [_plain(mean) for mean in means(results)],
    }


def _table(rows: Sequence[Result]) -> str:
    sizes, metrics = list(rows[0].sizes), list(rows[0].metrics)
    told = ["p"] if any(row.p is not None for row in rows) else []
    cells = [["set", *sizes, "system", *metrics, *told]]
    for row in rows:
        counts = [str(row.sizes.get(size, "")) for size in sizes]
        scores = [f"{100 * row.metrics[metric]:.2f}" for metric in metrics]
        chance = ["" if row.p is None else f"{row.p:.3f}" for _ in told]
        cells.append([row.name, *counts, row.system, *scores, *chance])
    numeric = [False, *(True for _ in sizes), False, *(True for _ in [*metrics, *told])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = [
        "-" * (width - 1) + ":" if right else "-" * width
        for width, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        + " |"
        for line in [cells[0], rule, *cells[1:]]
    )


def _plain(result: Result) -> dict[str, Any]:
    return {
        "task": result.task,
        "set": result.name,
        "system": result.system,
        **result.sizes,
        "metrics": dict(result.metrics),
        **({} if result.p is None else {"p": result.p}),
    }
