"""What rows belong to: an article or a question, by its name; a topic is none."""

from __future__ import annotations

from collections import Counter

from datasets import Dataset

from autoreg_trainers.data.records import Record, digest

OWN = "own_group"
"""The column of the group that a row has where its topic does not count as one."""


def group_cells(record: Record, file: str) -> dict[str, str]:
    """Return a record's cells ``group`` and `OWN`.

    Names are told apart by where they come from, what the row says of it or else its
    file: numbers are used again by every one. Rows about one text belong together
    whatever file they are in.
    """
    own = digest(record.first)
    named = f"{record.origin or file}/{record.group}" if record.group else own
    return {"group": named, OWN: own}


def settled(table: Dataset, max_group: int | None) -> Dataset:
    """Return the rows of a source without `OWN`, which large groups' rows have as ``group``.

    Parameters
    ----------
    table
        With the columns of `group_cells`.
    max_group
        A group of more texts than this is taken for a topic. By default none is.
    """
    bare = table.remove_columns(OWN)
    if max_group is None:
        return bare
    pairs = list(zip(table["group"][:], table[OWN][:], strict=True))
    sizes = Counter(group for group, _ in set(pairs))
    if max(sizes.values(), default=0) <= max_group:
        return bare
    groups = [own if sizes[group] > max_group else group for group, own in pairs]
    return bare.remove_columns("group").add_column("group", groups)
