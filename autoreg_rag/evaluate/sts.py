"""Semantic textual similarity: rank correlation of cosines with people's scores.

A set is a file of tab-separated values, plain or ``.gz``, with the header
``score``, ``sentence1``, ``sentence2``; quotes in it mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.encoder import Encoder
from autoreg_rag.evaluate.lines import read_lines, read_table
from autoreg_rag.evaluate.optional import require
from autoreg_rag.evaluate.results import Result

COLUMNS = ("score", "sentence1", "sentence2")

Role = Literal["query", "document"]


@dataclass(frozen=True)
class STSSet:
    """Pairs of sentences, and how alike people find them.

    Attributes
    ----------
    name
        The file's, without its endings.
    first, second
        The sentences of each pair.
    scores
        The higher, the more alike; any scale.
    """

    name: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    scores: tuple[float, ...]


def is_sts_file(path: Path) -> bool:
    """Tell a file of similarity pairs from any other path."""
    if not path.name.endswith((".tsv", ".tsv.gz")) or not path.is_file():
        return False
    try:
        _, header = next(read_lines(path), (0, ""))
    except EvaluationError:
        return False
    return tuple(header.split("\t")) == COLUMNS


def load_sts_set(path: Path, *, limit: int | None = None) -> STSSet:
    """Read a file of similarity pairs, the first `limit` of them if given.

    Raises
    ------
    EvaluationError
        The file is missing or malformed, or its scores are all the same.
    """
    rows: list[tuple[float, str, str]] = []
    for number, (score, first, second) in islice(read_table(path, COLUMNS), limit):
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise EvaluationError(f"{path}, line {number}: the score {score!r} is not a number")
        rows.append((value, first, second))
    if len({score for score, _, _ in rows}) < 2:
        raise EvaluationError(f"{path}: a correlation needs two different scores or more")
    scores, firsts, seconds = zip(*rows, strict=True)
    name = path.name.removesuffix(".gz").removesuffix(".tsv")
    return STSSet(name, firsts, seconds, scores)


def evaluate_sts(
    dataset: STSSet,
    encoders: Sequence[Encoder],
    *,
    role: Role = "document",
    show_progress: bool = False,
) -> list[Result]:
    """Measure Spearman's correlation of cosines with scores.

    Parameters
    ----------
    dataset
        The set.
    encoders
        What to measure.
    role
        How both sentences are embedded, as the task is symmetric: as documents
        (what the text itself says) or as queries (what would follow it).
    show_progress
        Show bars while encoding.

    Returns
    -------
    list of Result
        One per encoder. An encoder whose cosines are all the same ranks
        nothing and scores 0.
    """
    stats = require("scipy.stats", "autoreg-rag[eval]")
    results = []
    for encoder in encoders:
        encode = encoder.encode_queries if role == "query" else encoder.encode_documents
        vectors = encode([*dataset.first, *dataset.second], show_progress=show_progress)
        first, second = np.split(vectors.astype(np.float64), 2)
        cosines = np.einsum("nd,nd->n", first, second)
        correlation = stats.spearmanr(cosines, dataset.scores).statistic if np.ptp(cosines) else 0
        results.append(
            Result(
                "sts",
                dataset.name,
                encoder.name,
                {"Spearman": float(correlation)},
                {"pairs": len(dataset.scores)},
            )
        )
    return results
