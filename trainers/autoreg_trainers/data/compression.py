"""Rows of context, instruction and target: for Information Compression."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Features

from autoreg_rag.backbone import Backbone
from autoreg_rag.config import AutoRegConfig
from autoreg_trainers.data.assignment import assigned
from autoreg_trainers.data.cache import tokenised
from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.groups import OWN, group_cells, settled
from autoreg_trainers.data.mixing import Integers, draw, generator, picked, rows_by_source
from autoreg_trainers.data.records import Record
from autoreg_trainers.data.rows import RECORD, TEXT, TOKENS, Cells
from autoreg_trainers.data.source import Source, parsed
from autoreg_trainers.data.tasks import examples, expanded, instructions, task_shares


class _Compression:
    features = Features(
        {
            "context": TOKENS,
            "suffix": TOKENS,
            "target": TOKENS,
            "task": TEXT,
            "group": TEXT,
            OWN: TEXT,
            "source": TEXT,
        }
    )

    def __init__(self, tasks: Sequence[str], config: AutoRegConfig) -> None:
        self._tasks = tasks
        self._config = config
        self.needs = f"can serve a task asked for ({', '.join(tasks)})"

    def settings(self) -> dict[str, Any]:
        return {"compression": {task: instructions(self._config)[task] for task in self._tasks}}

    def rows(self, record: Record, source: str) -> list[Cells]:
        return [
            {
                "context": example.context,
                "suffix": self._config.suffix(example.instruction),
                "target": example.target,
                "task": task,
                **group_cells(record, source),
                "source": source,
            }
            for task, example in examples(record, self._tasks, self._config)
        ]


def load_compression(
    sources: Iterable[Source | str | Mapping[str, Any]],
    backbone: Backbone,
    config: AutoRegConfig,
    *,
    tasks: Mapping[str, float],
    seed: int,
    max_rows: int | None = None,
    max_group: int | None = None,
    strict: bool = False,
) -> Dataset:
    """Load rows for Information Compression, mixed by the weights of sources and tasks.

    Each record drawn serves one of the tasks that its shape admits. The tasks
    are given out so that their shares are as near to `tasks` as the records
    allow; where one falls short, a warning says so.

    Parameters
    ----------
    sources
        Where rows come from; what `Source.parse` takes will do.
    backbone
        Whose tokenizer is used.
    config
        The instructions I_next and I_self, the template, and how long a text may be.
    tasks
        The weight of each task; those of `autoreg_trainers.data.TASKS`, and
        ``title`` for both that are about titles.
    seed
        Of the draw, the tasks and the order; the same seed gives the same rows.
    max_rows
        The most rows. See `autoreg_trainers.data.mixing` for how weights share them.
    max_group
        A group of more texts than this is taken for a topic: it does not count. By default
        every group does.
    strict
        Whether a bad row is an error instead of a warning.

    Returns
    -------
    datasets.Dataset
        Columns ``context`` (ids of the bare text, without special tokens, cut at
        ``config.max_length`` or what the window leaves), ``suffix`` (ids of
        ``config.suffix(instruction)``, never cut), ``target`` (cut like the
        context, without <eos>), ``task``, ``group`` (the row's own, told apart by where it
        comes from, else a digest of its first text) and ``source`` (the file's name without
        its endings).

    Raises
    ------
    DataError
        A source is missing, unreadable or of no use, or has a bad row and
        `strict` is set; or a task is not known.
    """
    found = parsed(sources)
    shares = task_shares(tasks)
    tables = []
    for source in found:
        allowed = set(expanded(source.tasks)) or set(shares)
        serving = [task for task in shares if task in allowed]
        if not serving:
            raise DataError(
                f"source {source.path}: none of its tasks ({', '.join(source.tasks)}) has a weight"
            )
        recipe = _Compression(serving, config)
        tables.append(tokenised(source, recipe, backbone, config, strict=strict))
    chosen = _chosen(tables, found, shares, seed, max_rows)
    rows = [settled(table.remove_columns(RECORD), max_group) for table in tables]
    return picked(rows, chosen, seed)


def _chosen(
    tables: Sequence[Dataset],
    sources: Sequence[Source],
    shares: Mapping[str, float],
    seed: int,
    max_rows: int | None,
) -> list[Integers]:
    """Return which rows of each table are taken: per record drawn, that of one task."""
    places = [_places(table, list(shares)) for table in tables]
    counts = rows_by_source([len(part) for part in places], sources, max_rows)
    # Records that can serve the same tasks are alike; there are few such kinds.
    kinds = [np.unique(part >= 0, axis=0, return_inverse=True) for part in places]
    of_source = np.repeat(np.arange(len(kinds)), [len(can) for can, _ in kinds])
    sizes = np.concatenate([np.bincount(kind.ravel()) for _, kind in kinds])
    repeats = np.array([source.repeat for source in sources])[of_source]
    parts = assigned(
        np.concatenate([can for can, _ in kinds]),
        sizes,
        np.where(repeats, np.inf, sizes),
        of_source,
        counts,
        shares,
    )
    chosen = []
    for number, (part, (_, kind)) in enumerate(zip(places, kinds, strict=True)):
        rows = [np.empty(0, dtype=np.int64)]
        for which, given in enumerate(parts[of_source == number]):
            members = np.flatnonzero(kind.ravel() == which)
            records = draw(generator(seed, number, which), members, int(given.sum()))
            rows.append(part[records, np.repeat(np.arange(len(given)), given)])
        chosen.append(np.concatenate(rows))
    return chosen


def _places(table: Dataset, tasks: list[str]) -> Integers:
    """Return where the row of each record for each task is, or -1, [records, tasks]."""
    records = table.data.column(RECORD).to_numpy()
    names = table.data.column("task").to_pylist()
    numbers = {task: number for number, task in enumerate(tasks)}
    places = np.full((int(records[-1]) + 1, len(tasks)), -1, dtype=np.int64)
    places[records, [numbers[name] for name in names]] = np.arange(len(records))
    return places
