from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoreg_trainers.data import DataError, Source


def test_settings_follow_the_path_after_colons():
    text = "C:/a b.jsonl:weight=0.5:limit=10:tasks=answer+title:split=dev:repeat=true:min_score=3"
    assert Source.parse(text) == Source(
        "C:/a b.jsonl", 0.5, 10, "dev", ("answer", "title"), repeat=True, min_score=3.0
    )


def test_a_mapping_says_the_same_as_text():
    mapping = {"path": "x.jsonl", "weight": 2, "tasks": ["answer", "given"]}
    assert Source.parse(mapping) == Source.parse("x.jsonl:weight=2:tasks=answer,given")
    assert Source.parse({"path": "x", "tasks": "answer"}) == Source("x", tasks=("answer",))


@given(
    path=st.from_regex(r"[a-z/.:*]+", fullmatch=True),
    weight=st.floats(0.001, 1000),
    limit=st.integers(1, 10**9),
)
def test_what_is_written_is_read_again(path: str, weight: float, limit: int):
    text = f"{path}:weight={weight!r}:limit={limit}"
    assert Source.parse(text) == Source(path, weight, limit)


@pytest.mark.parametrize(
    "value",
    [
        "x:weigth=1",
        "x:weight=much",
        "x:weight=0",
        "x:weight=-1",
        "x:weight=inf",
        "x:limit=0",
        "x:limit=1.5",
        "x:repeat=perhaps",
        "x:tasks=answer+anwser",
        ":weight=1",
        "",
        {"weight": 1},
        {"path": "x", "limit": "7"},
        {"path": "x", "limit": True},
        {"path": "x", "weight": "2"},
        {"path": "x", "tasks": [1]},
        {"path": "x", "tasks": [["answer"]]},
        {"path": "x", "tasks": 7},
        {"path": 3},
        7,
        None,
    ],
)
def test_settings_without_sense_are_refused(value: object):
    with pytest.raises(DataError):
        Source.parse(value)
