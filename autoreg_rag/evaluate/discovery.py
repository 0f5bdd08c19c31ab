"""Evaluation sets among files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.beir import RetrievalSet, is_retrieval_folder, load_retrieval_set
from autoreg_rag.evaluate.sts import STSSet, is_sts_file, load_sts_set


def load_sets(
    path: Path, *, split: str = "test", limit: int | None = None
) -> list[RetrievalSet | STSSet]:
    """Read a retrieval folder, a similarity file, or all of them below a folder.

    Parameters
    ----------
    path
        Where to look. Below a folder, other files are passed over, and
        symbolic links to folders are not followed.
    split, limit
        As for `load_retrieval_set`; `limit` counts the pairs of a similarity file.

    Raises
    ------
    EvaluationError
        There is no set, or one is malformed.
    """
    if path.is_file():
        return [load_sts_set(path, limit=limit)]
    sets = [
        load_retrieval_set(found, split=split, limit=limit)
        if found.is_dir()
        else load_sts_set(found, limit=limit)
        for found in _find(path)
    ]
    if not sets:
        raise EvaluationError(
            f"{path} has no evaluation set: neither a folder in BEIR layout "
            "nor a .tsv file of sentence pairs"
            if path.is_dir()
            else f"{path} does not exist"
        )
    return sets


def _find(folder: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(folder):
        if is_retrieval_folder(Path(name)):
            folders.clear()
            yield Path(name)
            continue
        folders.sort()
        yield from (
            path for path in (Path(name, file) for file in sorted(files)) if is_sts_file(path)
        )
