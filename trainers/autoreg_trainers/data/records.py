"""Rows of any known shape, checked and brought into one form."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypedDict


class Shape(Enum):
    """What a record's texts are to each other."""

    PAIR = "pair"
    """`first` asks, names or says what `second` answers, explains or says."""

    UNLIKE = "unlike"
    """Two texts that do not say the same."""

    GIVEN = "given"
    """`second` is what `instruction` asks of `first`."""

    TEXT = "text"
    """There is `first` alone."""


SYMMETRIC = frozenset({"nli", "paraphrase"})
"""Kinds of pairs whose texts are alike, so that either may stand for the other."""


@dataclass(frozen=True)
class Record:
    """A row that was understood.

    Attributes
    ----------
    shape
        What `first` and `second` are to each other.
    first, second
        The texts, as they stand in the row; `second` is empty where there is one.
    negatives
        Texts that `second` must be told from.
    kind
        ``qa``, ``title``, ``definition``, ``nli`` and so on; empty if not stated.
    group, origin
        The row's ``group`` and ``source``: what it says that it belongs to, and where that
        comes from; empty if not stated.
    instruction
        The row's own, of the shape GIVEN.
    """

    shape: Shape
    first: str
    second: str = ""
    negatives: tuple[str, ...] = ()
    kind: str = ""
    group: str = ""
    origin: str = ""
    instruction: str = ""

    @property
    def symmetric(self) -> bool:
        """Whether `first` and `second` are two sentences of one meaning."""
        return self.shape is Shape.PAIR and self.kind in SYMMETRIC


def records_of(row: Any, *, min_score: float) -> Iterator[Record]:
    """Yield the record that a row holds, or several where it has several positives.

    Shapes are told by their fields: ``query`` and ``pos`` (a text or several),
    perhaps ``neg``, ``kind``; ``context``, ``instruction`` and
    ``output``; ``sentence1`` and ``sentence2``, perhaps ``score``; ``text``,
    perhaps ``title``; all perhaps with ``group`` and ``source``. Other fields mean nothing.

    Parameters
    ----------
    row
        Field names and values, as JSON has them.
    min_score
        From which ``score`` on two sentences say the same.

    Raises
    ------
    ValueError
        The row is bad; the message says why.
    """
    if not isinstance(row, Mapping):
        raise ValueError("not an object with named fields")
    for fields, reader in _READERS:
        if any(row.get(field) is not None for field in fields):
            yield from reader(row, min_score)
            return
    known = "; ".join(" and ".join(fields) for fields, _ in _READERS)
    raise ValueError(f"has none of the known fields ({known}), but {_names(row)}")


def _pairs(row: Mapping[str, Any], min_score: float) -> Iterator[Record]:
    query = _text(row, "query")
    positives = _texts(row, "pos")
    if not positives:
        raise ValueError("'pos' is missing or empty")
    negatives = tuple(text for text in _texts(row, "neg") if text not in positives)
    kind = _name(row, "kind")
    for positive in positives:
        yield Record(Shape.PAIR, query, positive, negatives, kind, **_belonging(row))


def _given(row: Mapping[str, Any], min_score: float) -> Iterator[Record]:
    context, output = _text(row, "context"), _text(row, "output")
    instruction, kind = _text(row, "instruction"), _name(row, "kind")
    yield Record(
        Shape.GIVEN, context, output, kind=kind, instruction=instruction, **_belonging(row)
    )


def _sentences(row: Mapping[str, Any], min_score: float) -> Iterator[Record]:
    first, second = _text(row, "sentence1"), _text(row, "sentence2")
    shape = Shape.PAIR if _score(row, default=min_score) >= min_score else Shape.UNLIKE
    yield Record(shape, first, second, kind="paraphrase", **_belonging(row))


def _passage(row: Mapping[str, Any], min_score: float) -> Iterator[Record]:
    text, kind = _text(row, "text"), _name(row, "kind")
    if row.get("title") in (None, ""):
        yield Record(Shape.TEXT, text, kind=kind, **_belonging(row))
    else:
        yield Record(Shape.PAIR, _text(row, "title"), text, kind="title", **_belonging(row))


_READERS = (
    (("query", "pos"), _pairs),
    (("context", "output"), _given),
    (("sentence1", "sentence2"), _sentences),
    (("text",), _passage),
)


class _Belonging(TypedDict):
    group: str
    origin: str


def _belonging(row: Mapping[str, Any]) -> _Belonging:
    origin = _name(row, "source") if isinstance(row.get("source"), str) else ""
    return {"group": _name(row, "group"), "origin": origin}


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if value is None:
        raise ValueError(f"{field!r} is missing")
    return _checked(value, field)


def _texts(row: Mapping[str, Any], field: str) -> list[str]:
    value = row.get(field)
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(_checked(text, field) for text in values))


def _checked(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{field!r} holds {type(value).__name__}, not text")
    if not value.strip():
        raise ValueError(f"{field!r} is empty")
    return value


def _name(row: Mapping[str, Any], field: str) -> str:
    """Return a label; numbers are labels too."""
    value = row.get(field)
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Parquet's way, where a row of the column has none
    if not isinstance(value, (str, int)):
        raise ValueError(f"{field!r} holds {type(value).__name__}, not text")
    return str(value).encode("utf-8", "replace").decode()  # lone surrogates cannot be stored


def _score(row: Mapping[str, Any], default: float) -> float:
    value = row.get("score")
    if value is None:
        return default
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"the score {value!r} is not a number")
    return score


def _names(row: Mapping[str, Any]) -> str:
    names = [str(name) for name in row][:6]
    return ", ".join(names) if names else "nothing"


def digest(text: str) -> str:
    """Return a group's name for a text that states none."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()
