"""Token ids of a source: made once, written whole, read from the cache after that."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path

from datasets import Dataset, disable_caching

from autoreg_rag.backbone import Backbone
from autoreg_rag.config import AutoRegConfig
from autoreg_rag.files import whole_folder, write_whole
from autoreg_rag.pretrained import cache_folder, cache_lock
from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.files import find, identity
from autoreg_trainers.data.reading import parts
from autoreg_trainers.data.rows import Recipe, Report, RowWriter
from autoreg_trainers.data.source import Source

logger = logging.getLogger(__name__)

_VERSION = 4
"""Part of the keys: raise it when the same rows give other ids or columns."""

_FOLDER = "rows"
_ROWS = "rows.arrow"
_REPORT = "report.json"

_SETTINGS = (
    "max_length",
    "num_compress_tokens",
    "template",
    "query_instruction",
    "document_instruction",
)
"""What of a config changes ids, or where they are cut."""


def tokenised(
    source: Source, recipe: Recipe, backbone: Backbone, config: AutoRegConfig, *, strict: bool
) -> Dataset:
    """Return all rows that a recipe makes of a source.

    They are found again by the contents of the files, the tokenizer and the
    settings. Bad rows are left out with a warning, also when the rows come from
    the cache.

    Raises
    ------
    DataError
        The source cannot be read or is of no use, or has a bad row and `strict` is set.
    ModelError
        The cache cannot be written.
    """
    # What is selected of rows and added to them would be written beside them, and never deleted.
    disable_caching()
    found = find(source)
    content = parts(found)
    names = [part.name for part in content]
    key = _key(source, identity(found), recipe, backbone, config)
    entry = cache_folder() / _FOLDER / key
    with cache_lock(f"{_FOLDER}/{key}"):
        kept = _open(entry)
        if kept is None:
            logger.info("tokenising %s", source.path)
            for left in entry.parent.glob(f".{key}.*"):  # by a process that was killed
                shutil.rmtree(left)
            writer = RowWriter(source, recipe, backbone, config, strict=strict)
            with whole_folder(entry) as folder:
                report = writer.write(content, folder / _ROWS)
                write_whole(folder / _REPORT, json.dumps(asdict(report)).encode())
            kept = Dataset.from_file(str(entry / _ROWS)), report
    dataset, report = kept
    if report.bad and strict:
        raise DataError(report.lines(names)[0])
    _warn(source, names, report)
    return dataset


def _key(
    source: Source, contents: list[str], recipe: Recipe, backbone: Backbone, config: AutoRegConfig
) -> str:
    content = {
        "version": _VERSION,
        "source": [source.limit, source.min_score, *contents],
        "recipe": recipe.settings(),
        "base": [backbone.base_hash, backbone.window],
        "config": {name: getattr(config, name) for name in _SETTINGS},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _open(entry: Path) -> tuple[Dataset, Report] | None:
    """Open an entry of the cache; one that is damaged is removed."""
    if not entry.is_dir():
        return None
    try:
        report = Report(**json.loads((entry / _REPORT).read_text()))
        return Dataset.from_file(str(entry / _ROWS)), report
    except (OSError, ValueError, TypeError) as error:
        logger.warning("%s is damaged (%s); it is made again", entry, error)
        shutil.rmtree(entry)
        return None


def _warn(source: Source, names: list[str], report: Report) -> None:
    for line in report.lines(names):
        logger.warning("%s", line)
    if report.bad:
        total = report.used + report.other + report.bad
        logger.warning("%s: %d of %d rows are bad, left out", source.path, report.bad, total)
    if report.other:
        logger.info("%s: %d rows are of a shape without use here", source.path, report.other)
