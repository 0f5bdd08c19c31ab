"""The passages that negatives are chosen from, and what is known of each."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set

from autoreg_trainers.mining.row import Row

Group = tuple[str, str, str]
"""Within what it is a group (``file`` or ``source``), the name of that, and its own name."""

_PUNCTUATION = {
    code: " " for code in range(0x10000) if unicodedata.category(chr(code)).startswith("P")
}


def normalised(text: str) -> str:
    """Return what two texts share if they differ in case, punctuation and spaces only.

    A text of nothing but those stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_PUNCTUATION).split()) or text


class Pool:
    """All positives and given negatives of some files, each text once.

    Texts that are equal when `normalised` are one passage.

    Parameters
    ----------
    files
        Rows by the name of their file.
    max_group
        Groups of more queries are not respected.

    Attributes
    ----------
    passages
        The texts, in the order in which they came.
    """

    def __init__(self, files: Mapping[str, Sequence[Row]], *, max_group: int | None = None) -> None:
        self.passages: list[str] = []
        self._numbers: dict[str, int] = {}
        self._positives: defaultdict[str, set[int]] = defaultdict(set)
        self._groups: defaultdict[int, set[Group]] = defaultdict(set)
        self._max_group = max_group
        asked = {
            (g, row.query)
            for file, rows in files.items()
            for row in rows
            for g in _groups(file, row)
        }
        self._sizes = Counter(group for group, _ in asked)
        for file, rows in files.items():
            for row in rows:
                self._add(file, row)

    def __len__(self) -> int:
        """How many passages there are."""
        return len(self.passages)

    def _add(self, file: str, row: Row) -> None:
        positives = {self._number(text) for text in row.positives}
        self._positives[normalised(row.query)] |= positives
        groups = self.groups(file, row)
        for number in positives | {self._number(text) for text in row.negatives}:
            self._groups[number] |= groups

    def _number(self, text: str) -> int:
        number = self._numbers.setdefault(normalised(text), len(self.passages))
        if number == len(self.passages):
            self.passages.append(text)
        return number

    def number(self, text: str) -> int:
        """Return a passage's place in `passages`; KeyError if it is not in the pool."""
        return self._numbers[normalised(text)]

    def answers(self, query: str) -> Set[int]:
        """Return the positives of all rows that ask this query, and the query's own text."""
        key = normalised(query)
        itself = {self._numbers[key]} if key in self._numbers else set()
        return self._positives[key] | itself

    def groups(self, file: str, row: Row) -> set[Group]:
        """Return the groups that a row belongs to and that are respected."""
        limit = self._max_group
        return {g for g in _groups(file, row) if limit is None or self._sizes[g] <= limit}

    def groups_of(self, passage: int) -> Set[Group]:
        """Return the groups of all rows that hold a passage, as positive or as negative."""
        return self._groups[passage]


def _groups(file: str, row: Row) -> Iterator[Group]:
    """Name a row's group within its file, and within all rows of the same source."""
    if row.group is not None:
        yield "file", file, row.group
        if row.source is not None:
            yield "source", row.source, row.group
