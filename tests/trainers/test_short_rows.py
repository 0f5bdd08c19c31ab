"""Rows with a text of too many tokens are left out, however the rows are stored."""

import pytest
from datasets import Dataset, Features, List, Value, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from autoreg_rag.errors import ModelError
from autoreg_trainers.settings import TrainingSettings
from autoreg_trainers.training import short_rows

IDS = st.lists(st.integers(0, 9), max_size=6)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "query": IDS,
            "positive": IDS,
            "negatives": st.lists(IDS, max_size=3),
            "group": st.text(max_size=9),
            "symmetric": st.booleans(),
        }
    ),
    min_size=1,
    max_size=7,
)
TOKENS = List(Value("int32"))
FEATURES = Features(
    query=TOKENS,
    positive=TOKENS,
    negatives=List(TOKENS),
    group=Value("string"),
    symmetric=Value("bool"),
)


def plain(rows, most):
    return [
        row
        for row in rows
        if all(len(ids) <= most for ids in (row["query"], row["positive"], *row["negatives"]))
    ]


def short(table, most):
    """The rows that are left; none if that is an error."""
    try:
        return short_rows(TrainingSettings(["rows.jsonl"], max_tokens=most), table).to_list()
    except ModelError:
        return []


def test_where_no_row_is_left_the_error_says_what_to_do():
    row = {"query": [1, 2], "positive": [3], "negatives": [], "group": "g", "symmetric": False}
    table = Dataset.from_list([row, row], features=FEATURES)
    with pytest.raises(ModelError, match=r"none of the 2 rows .* raise --max-tokens"):
        short_rows(TrainingSettings(["rows.jsonl"], max_tokens=1), table)


@settings(max_examples=40)
@given(ROWS, st.integers(1, 6))
def test_rows_with_a_long_text_are_left_out(rows, most):
    table = Dataset.from_list(rows, features=FEATURES)
    assert short(table, most) == plain(rows, most)
    assert short(table, None) == rows


@settings(max_examples=20)
@given(ROWS, st.integers(1, 6), st.data())
def test_parts_choices_and_pieces_of_tables_are_as_the_rows_in_them(rows, most, data):
    table = Dataset.from_list(rows, features=FEATURES)
    start = data.draw(st.integers(0, len(rows) - 1))
    stop = data.draw(st.integers(start, len(rows)))
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=8))
    part, picked = table.select(range(start, stop)), table.select(chosen)
    for found, expected in (
        (part, rows[start:stop]),
        (picked, [rows[i] for i in chosen]),
        (picked.select(range(1, len(chosen))), [rows[i] for i in chosen[1:]]),
        (picked.select([1, 0, 1]), [rows[chosen[i]] for i in (1, 0, 1)]),
        (concatenate_datasets([part, table, picked]), part.to_list() + rows + picked.to_list()),
    ):
        assert found.to_list() == expected
        assert short(found, most) == plain(expected, most)


@pytest.mark.parametrize("name", ["query", "positive", "negatives"])
def test_each_column_and_each_of_several_texts_counts(name):
    short_row = {"query": [1], "positive": [2, 3], "negatives": [[], [4, 5]], "group": "a b c d"}
    texts = [7, 7, 7] if name != "negatives" else [[4], [7, 7, 7], []]
    table = Dataset.from_list([short_row, {**short_row, name: texts}, short_row])
    assert short(table, 2) == [short_row, short_row]
    assert len(short(table, 3)) == 3


def test_columns_whose_lists_are_all_empty_have_no_long_text():
    row = {"query": [1, 2], "positive": [], "negatives": []}
    table = Dataset.from_list([row, row])
    assert short(table, 2) == [row, row]
    assert short(table, 1) == []
    rows = [{**row, "negatives": [[], []]}, row]
    assert short(Dataset.from_list(rows), 2) == rows
