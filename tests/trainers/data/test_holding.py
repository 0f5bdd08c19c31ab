from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreg_trainers.data import DataError, held_back

TEXTS = ("query", "positive", "context", "target")
TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=3)


def rows_of(first: str, second: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = st.fixed_dictionaries(
        {first: TOKENS, second: TOKENS, "group": st.sampled_from("abcdefghijklmnop")}
    )
    return st.lists(row, min_size=2, max_size=40)


def marks(rows: Dataset) -> tuple[set[str], set[tuple[int, ...]]]:
    texts = {tuple(text) for name in TEXTS if name in rows.column_names for text in rows[name]}
    return set(rows["group"]), texts


@settings(max_examples=60)
@given(
    st.one_of(rows_of("query", "positive"), rows_of("context", "target")),
    st.integers(0, 45),
    st.integers(0, 5),
)
def test_the_sides_share_nothing(rows: list[dict[str, Any]], number: int, seed: int):
    dataset = Dataset.from_list(rows)
    try:
        train, held = held_back(dataset, number, seed)
    except DataError:
        return
    assert len(held) <= number
    assert bool(len(held)) == bool(number)
    assert len(train)
    for one, other in zip(marks(train), marks(held), strict=True):
        assert not one & other
    kept = [(row["group"], *(tuple(row[n]) for n in TEXTS if n in row)) for row in (*train, *held)]
    every = [(row["group"], *(tuple(row[n]) for n in TEXTS if n in row)) for row in rows]
    assert Counter(kept) == Counter(every)


def distinct(count: int, group: str = "{}") -> Dataset:
    rows = [
        {"query": [n, 0], "positive": [n, 1], "group": group.format(n), "source": "s"}
        for n in range(count)
    ]
    return Dataset.from_list(rows)


@pytest.mark.parametrize("number", [0, 1, 30, 99])
def test_as_many_are_held_back_as_asked(number: int):
    train, held = held_back(distinct(100), number, 3)
    assert (len(train), len(held)) == (100 - number, number)


def test_the_seed_decides():
    first, again, other = (held_back(distinct(100), 30, seed)[1]["group"][:] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_order_of_the_rows_does_not_count():
    dataset = distinct(100)
    _, held = held_back(dataset, 30, 1)
    _, shuffled = held_back(dataset.shuffle(seed=5), 30, 1)
    assert set(held["group"]) == set(shuffled["group"])


def test_datasets_of_the_same_groups_hold_back_the_same():
    other = distinct(100).rename_columns({"query": "context", "positive": "target"})
    _, held = held_back(distinct(100), 30, 1)
    _, held_other = held_back(other.select(range(50, 100)), 30, 1)
    groups, others = set(held["group"]), set(held_other["group"])
    assert {group for group in groups if int(group) >= 50} <= others


def test_one_large_group_is_trained_on(caplog: pytest.LogCaptureFixture):
    rows = [{"query": [n], "positive": [-n], "group": "g"} for n in range(1, 90)]
    rows += [{"query": [n], "positive": [-n], "group": str(n)} for n in range(90, 100)]
    train, held = held_back(Dataset.from_list(rows), 20, 1)
    assert (len(train), len(held)) == (89, 10)
    assert any("10 rows are held back, not 20" in text for text in caplog.messages)


@pytest.mark.parametrize("number", [-1, 100, 1000])
def test_numbers_without_sense_are_refused(number: int):
    with pytest.raises(DataError, match="held back"):
        held_back(distinct(100), number, 1)


def test_rows_that_all_belong_together_cannot_be_split():
    with pytest.raises(DataError, match=r"no 5 rows can be held back.*held_back to 0"):
        held_back(distinct(100, group="one"), 5, 1)
