"""What an indexing run did."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 100
"""How many failures, and how many things skipped, a summary names; it counts them all."""


@dataclass
class Summary:
    """Counts of one run.

    Attributes
    ----------
    added, replaced, unchanged, removed
        Files that are new, changed, as they were, and gone since the last run.
    empty
        Files among the added and replaced that hold no text.
    skipped
        Files of no known format, and other things that are not indexed.
    failed
        Files, folders and records that could not be read, those of unchanged
        files included.
    skips, failures
        The first `EXAMPLES` of each, with source and reason.
    encoded, resumed
        Chunks that were encoded, and chunks that an interrupted run had stored.
    scored
        Chunks that got the parts of rerank scores.
    chunks
        Chunks in the store when the run ended.
    seconds
        Time that the run took.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    empty: int = 0
    skipped: int = 0
    failed: int = 0
    skips: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    encoded: int = 0
    resumed: int = 0
    scored: int = 0
    chunks: int = 0
    seconds: float = 0.0

    def skip(self, message: str) -> None:
        """Count something that is not indexed."""
        self.skipped += 1
        if len(self.skips) < EXAMPLES:
            self.skips.append(message)

    def fail(self, message: str, count: int = 1) -> None:
        """Count something that could not be read; `count` things in one message."""
        self.failed += count
        if len(self.failures) < EXAMPLES:
            self.failures.append(message)

    @property
    def files(self) -> int:
        """How many files the index holds that this run saw."""
        return self.added + self.replaced + self.unchanged

    def as_dict(self) -> dict[str, Any]:
        """Return all counts, ready for JSON."""
        return {"files": self.files, **dataclasses.asdict(self)}

    def lines(self) -> list[str]:
        """Return the summary for people, a line each."""
        parts = [
            f"{self.added} added",
            f"{self.replaced} replaced",
            f"{self.unchanged} unchanged",
            f"{self.removed} removed",
            f"{self.empty} empty",
            f"{self.skipped} skipped",
            f"{self.failed} failed",
        ]
        rate = (
            f"{self.encoded / self.seconds:.1f} chunks/s" if self.encoded else "nothing to encode"
        )
        chunks = [f"{self.encoded} encoded", f"{self.resumed} resumed"]
        if self.scored:
            chunks.append(f"{self.scored} with score parts")
        return [
            f"files:  {self.files} ({', '.join(parts)})",
            f"chunks: {self.chunks} ({', '.join(chunks)})",
            f"time:   {self.seconds:.1f} s ({rate})",
        ]
