"""Rows of query, positive and negatives: for CDA, for InfoNCE, for mining."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features

from autoreg_rag.backbone import Backbone
from autoreg_rag.config import AutoRegConfig
from autoreg_trainers.data.cache import tokenised
from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.groups import OWN, group_cells, settled
from autoreg_trainers.data.hashing import digests
from autoreg_trainers.data.mixing import mixed
from autoreg_trainers.data.records import Record, Shape
from autoreg_trainers.data.rows import FLAG, RECORD, TEXT, TOKEN_LISTS, TOKENS, Cells
from autoreg_trainers.data.source import Source, parsed

logger = logging.getLogger(__name__)


class _Triplets:
    features = Features(
        {
            "query": TOKENS,
            "positive": TOKENS,
            "negatives": TOKEN_LISTS,
            "symmetric": FLAG,
            "group": TEXT,
            OWN: TEXT,
            "source": TEXT,
        }
    )
    needs = "has a query and a positive"

    def __init__(self, num_negatives: int | None) -> None:
        self._num_negatives = num_negatives

    def settings(self) -> dict[str, Any]:
        return {"triplets": self._num_negatives}

    def rows(self, record: Record, source: str) -> list[Cells]:
        if record.shape is not Shape.PAIR:
            return []
        return [
            {
                "query": record.first,
                "positive": record.second,
                "negatives": record.negatives[: self._num_negatives],
                "symmetric": record.symmetric,
                **group_cells(record, source),
                "source": source,
            }
        ]


def load_triplets(
    sources: Iterable[Source | str | Mapping[str, Any]],
    backbone: Backbone,
    config: AutoRegConfig,
    *,
    seed: int,
    max_rows: int | None = None,
    max_group: int | None = None,
    strict: bool = False,
    num_negatives: int | None = None,
) -> Dataset:
    """Load triplets from several sources, mixed by their weights.

    Parameters
    ----------
    sources
        Where rows come from; what `Source.parse` takes will do.
    backbone
        Whose tokenizer is used.
    config
        How long a text may be.
    seed
        Of the draw and of the order; the same seed gives the same rows.
    max_rows
        The most rows. See `autoreg_trainers.data.mixing` for how weights share them.
    max_group
        A group of more texts than this is taken for a topic: it does not count. By default
        every group does.
    strict
        Whether a bad row is an error instead of a warning.
    num_negatives
        The most negatives of a row, the first ones; by default all that it has.

    Returns
    -------
    datasets.Dataset
        Columns ``query`` and ``positive`` (the ids of the bare text, without
        special tokens, cut at ``config.max_length`` or what the window leaves),
        ``negatives`` (a list of such, perhaps empty, without the query's own text and what
        answers it in another row of the source), ``symmetric`` (whether query and
        positive are sentences of one meaning, which are both read under I_self),
        ``group`` (the row's own, told apart by where it comes from, else a digest of the
        query's text: rows of one group are no negatives of each other) and ``source`` (the
        file's name without its endings). A row with several positives gives a row for each.

    Raises
    ------
    DataError
        A source is missing, unreadable or of no use, or has a bad row and `strict` is set.
    """
    if num_negatives is not None and num_negatives < 0:
        raise DataError(f"num_negatives is {num_negatives}; it must be 0 or more")
    found = parsed(sources)
    recipe = _Triplets(num_negatives)
    tables = [
        _consistent(tokenised(source, recipe, backbone, config, strict=strict), source)
        for source in found
    ]
    rows = [settled(table.remove_columns(RECORD), max_group) for table in tables]
    return mixed(rows, found, seed=seed, max_rows=max_rows)


def _consistent(table: Dataset, source: Source) -> Dataset:
    """Return a source's rows without the negatives that are an answer to their own query.

    Such are the positives of the same query in any row, and the query itself: alignment and
    InfoNCE would push away from one row's query what they draw to another's.
    """
    columns = table.data
    queries = list(digests(columns.column("query")))
    answers: defaultdict[bytes, set[bytes]] = defaultdict(set)
    for query, positive in zip(queries, digests(columns.column("positive")), strict=True):
        answers[query] |= {query, positive}
    lists = columns.column("negatives").combine_chunks()
    owners, texts = pc.list_parent_indices(lists).to_numpy(), lists.flatten()
    found = zip(owners, digests(pa.chunked_array([texts])), strict=True)
    kept = np.array([text not in answers[queries[row]] for row, text in found], dtype=bool)
    if kept.all():
        return table
    logger.warning(
        "%s: %d of %d negatives answer the same query in another row, or are the query, and "
        "are left out",
        source.path,
        np.count_nonzero(~kept),
        len(kept),
    )
    ends = np.cumsum(np.bincount(owners[kept], minlength=len(table)))
    offsets = pa.array(np.concatenate([[0], ends]), type=pa.int32())
    negatives = pa.ListArray.from_arrays(offsets, texts.filter(pa.array(kept)))
    return table.remove_columns("negatives").add_column("negatives", negatives)
