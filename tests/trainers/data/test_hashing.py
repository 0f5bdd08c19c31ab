from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset, List, Value, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreg_trainers.data import rows_hash

IDS = st.lists(st.integers(0, 5), max_size=3)
ROWS = st.lists(
    st.fixed_dictionaries({"query": IDS, "negatives": st.lists(IDS, max_size=2)}),
    min_size=1,
    max_size=5,
)


def dataset(rows: list[dict[str, Any]], width: str = "int32") -> Dataset:
    ids = List(Value(width))
    table = Dataset.from_list(rows)
    for name, kind in (("query", ids), ("negatives", List(ids))):
        table = table.cast_column(name, kind)
    return table


@settings(max_examples=30)
@given(ROWS, ROWS)
def test_hashes_are_equal_for_equal_rows_alone(first: list[Any], second: list[Any]):
    assert (rows_hash(dataset(first)) == rows_hash(dataset(second))) == (first == second)


@settings(max_examples=30)
@given(ROWS)
def test_how_rows_are_stored_does_not_count(rows: list[dict[str, Any]]):
    table = dataset(rows)
    expected = rows_hash(table)
    assert rows_hash(dataset(rows, "int64")) == expected
    assert rows_hash(table.select_columns(["negatives", "query"])) == expected
    assert rows_hash(table.add_column("source", ["x"] * len(rows))) == expected
    backwards = table.select(range(len(rows))[::-1])
    assert rows_hash(backwards.select(range(len(rows))[::-1])) == expected
    pieces = [table.select([number]) for number in range(len(rows))]
    assert rows_hash(concatenate_datasets(pieces)) == expected


def test_flags_count():
    table = dataset([{"query": [1], "negatives": []}, {"query": [2], "negatives": []}])
    flagged = [table.add_column("symmetric", flags) for flags in ([True, False], [False, True])]
    assert len({rows_hash(table), *map(rows_hash, flagged)}) == 3


@pytest.mark.parametrize("count", [4095, 4097, 10_000])
def test_every_row_counts(count: int):
    table = dataset([{"query": [n], "negatives": [[n], []]} for n in range(count)])
    changed = dataset(
        [{"query": [n - (n == count - 1)], "negatives": [[n], []]} for n in range(count)]
    )
    assert rows_hash(changed) != rows_hash(table)
    assert len(bytes.fromhex(rows_hash(table))) == 32
