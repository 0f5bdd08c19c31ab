"""What a mining run found and what it left out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass
class Counts:
    """Counts over the rows of a file, or of several.

    Attributes
    ----------
    rows
        Rows mined for.
    given, mined
        Negatives that rows came with, and negatives that were added.
    without
        Rows that have none in the end.
    contradictory
        Given negatives that were left out: the text of the query, or of a
        positive of the same query, or a negative given twice.
    above_margin
        Candidates that score too close to the positive, or above it.
    same_group
        Candidates of the row's own group.
    same_text
        Candidates that are the query, or a positive of the same query in
        another row, but for case, punctuation and spaces.
    """

    rows: int = 0
    given: int = 0
    mined: int = 0
    without: int = 0
    contradictory: int = 0
    above_margin: int = 0
    same_group: int = 0
    same_text: int = 0

    def __iadd__(self, other: Counts) -> Counts:
        """Add those of another file."""
        for name in self.as_dict():
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return all counts, ready for JSON."""
        return dataclasses.asdict(self)

    def lines(self) -> list[str]:
        """Return the counts for people, a line each."""
        mean = (self.given + self.mined) / self.rows if self.rows else 0.0
        return [
            f"rows:      {self.rows} ({self.without} without a negative)",
            f"negatives: {mean:.2f} per row ({self.given} given, {self.mined} mined)",
            f"left out:  {self.above_margin} above the margin, {self.same_group} of the same "
            f"group, {self.same_text} of the same text, {self.contradictory} given but "
            "contradictory",
        ]
