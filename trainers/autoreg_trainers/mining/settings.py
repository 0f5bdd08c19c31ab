"""What is mined, and how strictly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from autoreg_rag.errors import AutoRegError

Method = Literal["bm25", "model", "both"]
Scope = Literal["source", "all"]


class MiningError(AutoRegError):
    """Negatives cannot be mined as asked."""


@dataclass(frozen=True)
class Settings:
    """How negatives are chosen.

    Attributes
    ----------
    by
        What ranks the candidates: words, the model's vectors, or each in turn.
    negatives
        How many a row is to have, those it came with included.
    margin
        A candidate must score at most this share of what the row's own
        positive scores. Rankers often place unmarked right answers above or
        close to the marked one (NV-Retriever's TopK-PercPos, Moreira et al.,
        2024, arXiv 2407.15831; 0.95 there).
    skip_top
        How many candidates to pass over, the best of those that all guards let
        through.
    depth
        How many candidates per row and ranking are looked at, the best that
        keep the margin.
    pool
        Whether candidates come from the row's own file or from all files.
    max_group
        A group of more rows than this is taken for a topic, whose rows may be
        negatives of each other, and not for one article or question. By
        default every group counts.

    Raises
    ------
    MiningError
        A value is out of its range.
    """

    by: Method = "bm25"
    negatives: int = 4
    margin: float = 0.95
    skip_top: int = 0
    depth: int = 100
    pool: Scope = "source"
    max_group: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("negatives", 1), ("skip_top", 0), ("depth", 1), ("max_group", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                option = name.replace("_", "-")
                raise MiningError(f"--{option} is {value}; it must be {least} or more")
        if not 0 <= self.margin <= 1:
            raise MiningError(f"--margin is {self.margin}; it must be between 0 and 1")
