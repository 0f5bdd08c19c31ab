"""A row that negatives are mined for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoreg_trainers.data.records import SYMMETRIC


@dataclass(frozen=True)
class Row:
    """A query and what answers it.

    Attributes
    ----------
    query
        The query.
    positives
        One text that answers it, or more.
    negatives
        The texts that it came with and that do not answer it.
    group, source
        What it belongs to and where it comes from, if stated.
    fields
        All that the row holds, as it was read.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    group: str | None
    source: str | None
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Row:
        """Return the row of fields ``query``, ``pos``, ``neg``, ``group`` and ``source``.

        ``pos`` and ``neg`` are a text or a list of texts; ``neg`` and what
        follows it may be missing or None.
        """
        group, source = fields.get("group"), fields.get("source")
        return cls(
            fields["query"],
            _texts(fields["pos"]),
            _texts(fields.get("neg")),
            None if group in (None, "") else str(group),
            None if source in (None, "") else str(source),
            fields,
        )

    @property
    def symmetric(self) -> bool:
        """Whether query and positives are sentences of one meaning."""
        return self.fields.get("kind") in SYMMETRIC

    def with_negatives(self, negatives: Sequence[str]) -> dict[str, Any]:
        """Return all fields, with these negatives."""
        return {**self.fields, "neg": list(negatives)}


def _texts(value: str | Sequence[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
