"""Retrieval sets in the folder layout of BEIR (Thakur et al., NeurIPS 2021).

A folder holds ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl``
(``_id``, ``text``) and the judgements, ``qrels.tsv`` or ``qrels/<split>.tsv``
(``query-id``, ``corpus-id``, ``score``), each of them plain or as ``.gz``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from autoreg_rag.errors import EvaluationError
from autoreg_rag.evaluate.lines import read_lines, read_table

logger = logging.getLogger(__name__)

CORPUS = "corpus.jsonl"
QUERIES = "queries.jsonl"
QRELS_COLUMNS = ("query-id", "corpus-id", "score")

Qrels = dict[str, dict[str, int]]
"""Judgements: for each query, how relevant documents are to it (0: not at all)."""


@dataclass(frozen=True)
class RetrievalSet:
    """Documents, questions, and which answers which.

    Attributes
    ----------
    name
        The folder's.
    documents
        Texts by id: title and text with a space between, as BEIR and MTEB join them.
    queries
        Texts by id, in the order of the file; only those with a relevant document.
    qrels
        The judgements of these queries.
    own
        The ids of the queries that are documents of the corpus themselves
        (the same id and the same text), as in ArguAna.
    """

    name: str
    documents: dict[str, str]
    queries: dict[str, str]
    qrels: Qrels
    own: frozenset[str]


def is_retrieval_folder(path: Path) -> bool:
    """Tell a folder in BEIR layout from any other path."""
    return all(_plain_or_gzip(path / name) for name in (CORPUS, QUERIES))


def load_retrieval_set(
    folder: Path, *, split: str = "test", limit: int | None = None
) -> RetrievalSet:
    """Read a folder in BEIR layout.

    Parameters
    ----------
    folder
        The folder.
    split
        Which file of ``qrels/`` to take where there is no ``qrels.tsv``.
    limit
        Keep only the first so many queries; all documents stay.

    Raises
    ------
    EvaluationError
        A file is missing or malformed, or no query has a relevant document.
    """
    qrels_file = _existing(folder / "qrels.tsv", folder / "qrels" / f"{split}.tsv")
    qrels = _read_qrels(qrels_file)
    asked = {id_: text for id_, _, text in _read_records(_existing(folder / QUERIES))}
    judged = (id_ for id_ in asked if any(score > 0 for score in qrels.get(id_, {}).values()))
    queries = {id_: asked[id_] for id_ in islice(judged, limit)}
    if not queries:
        raise EvaluationError(f"{qrels_file}: none of the queries has a relevant document")

    documents: dict[str, str] = {}
    own: set[str] = set()
    for id_, title, text in _read_records(_existing(folder / CORPUS)):
        documents[id_] = f"{title} {text}".strip()
        if id_ in queries and queries[id_].split() in (text.split(), documents[id_].split()):
            own.add(id_)

    qrels = {id_: qrels[id_] for id_ in queries}
    _check_documents(qrels_file, qrels, documents)
    return RetrievalSet(folder.resolve().name, documents, queries, qrels, frozenset(own))


def _plain_or_gzip(path: Path) -> Path | None:
    compressed = path.with_name(f"{path.name}.gz")
    return next((file for file in (path, compressed) if file.is_file()), None)


def _existing(*paths: Path) -> Path:
    for path in paths:
        if file := _plain_or_gzip(path):
            return file
    raise EvaluationError(f"there is no {' and no '.join(map(str, paths))}, plain or .gz")


def _read_records(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the id, the title (maybe empty) and the text of each record."""
    seen: set[str] = set()
    for number, line in read_lines(path):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise EvaluationError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise EvaluationError(f"{path}, line {number}: not a JSON object")
        id_, title, text = record.get("_id"), record.get("title") or "", record.get("text")
        if not (isinstance(id_, str) and isinstance(title, str) and isinstance(text, str)):
            raise EvaluationError(
                f"{path}, line {number}: '_id' and 'text' must be strings, and 'title' if given"
            )
        if id_ in seen:
            raise EvaluationError(f"{path}, line {number}: the id {id_!r} comes a second time")
        seen.add(id_)
        yield id_, title, text


def _read_qrels(path: Path) -> Qrels:
    qrels: Qrels = {}
    for number, (query, document, score) in read_table(path, QRELS_COLUMNS):
        try:
            qrels.setdefault(query, {})[document] = int(score)
        except ValueError as error:
            raise EvaluationError(
                f"{path}, line {number}: the score {score!r} is not a whole number"
            ) from error
    return qrels


def _check_documents(path: Path, qrels: Qrels, documents: dict[str, str]) -> None:
    """Warn of relevant documents that the corpus lacks; refuse if it lacks them all."""
    relevant = [id_ for judged in qrels.values() for id_, score in judged.items() if score > 0]
    missing = [id_ for id_ in relevant if id_ not in documents]
    if len(missing) == len(relevant):
        raise EvaluationError(f"{path}: none of the relevant documents is in the corpus")
    if missing:
        logger.warning(
            "%s: %d of %d relevant documents are not in the corpus, %r for one; "
            "they count as not found",
            path,
            len(missing),
            len(relevant),
            missing[0],
        )
