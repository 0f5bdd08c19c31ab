"""Rows of a source made into token ids, in batches, straight into an Arrow file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
import pyarrow as pa
from datasets import Features
from datasets.arrow_writer import ArrowWriter
from numpy.typing import NDArray

from autoreg_rag.backbone import Backbone
from autoreg_rag.config import AutoRegConfig
from autoreg_rag.truncation import Truncation
from autoreg_trainers.data.errors import DataError
from autoreg_trainers.data.reading import Part
from autoreg_trainers.data.records import Record, records_of
from autoreg_trainers.data.source import Source

TEXT = datasets.Value("string")
FLAG = datasets.Value("bool")
TOKENS = datasets.List(datasets.Value("int32"))
TOKEN_LISTS = datasets.List(TOKENS)

RECORD = "record"
"""The column that numbers the records; several rows may be made of one."""

_SUFFIX = "suffix"
"""The column that is never cut; it stands behind the text in the encoder's input."""

_NAMED_BAD_ROWS = 3
_BATCH_ROWS = 1000
_BATCH_CHARACTERS = 1 << 22

Cells = dict[str, Any]


class Recipe(Protocol):
    """What is made of a record.

    Attributes
    ----------
    features
        The columns: `TEXT`, `FLAG`, or ids (`TOKENS`, `TOKEN_LISTS`), which the recipe
        gives as text.
    needs
        What a record must be for any row to be made of it, for messages.
    """

    features: Features
    needs: str

    def settings(self) -> dict[str, Any]:
        """Return all that the rows depend on beside the record."""

    def rows(self, record: Record, source: str) -> list[Cells]:
        """Return the rows that are made of a record from a source of this name."""


@dataclass
class Report:
    """What was found in a source.

    Attributes
    ----------
    used, other
        Rows of use, and good ones of a shape that is of none here.
    bad
        Rows that could not be understood.
    first
        Of the first of them: number of the file, place in it, reason.
    """

    used: int = 0
    other: int = 0
    bad: int = 0
    first: list[tuple[int, str, str]] = field(default_factory=list)

    def add_bad(self, file: int, place: str, reason: str) -> None:
        """Count a bad row; the first few are kept by name."""
        self.bad += 1
        if len(self.first) < _NAMED_BAD_ROWS:
            self.first.append((file, place, reason))

    def lines(self, names: list[str]) -> list[str]:
        """Return a message for each bad row that is kept by name."""
        return [f"{names[file]}{place}: {reason}" for file, place, reason in self.first]


@dataclass
class _Made:
    """The rows made of one row of a source, by record."""

    file: int
    place: str
    records: list[list[Cells]]


class RowWriter:
    """Writes what a recipe makes of a source as token ids.

    Texts are cut where the model would cut them (`Truncation`); instructions
    never are.

    Parameters
    ----------
    source, recipe
        What is read, and what is made of it.
    backbone, config
        Whose tokenizer, and whose bounds.
    strict
        Whether a bad row is an error.
    """

    def __init__(
        self,
        source: Source,
        recipe: Recipe,
        backbone: Backbone,
        config: AutoRegConfig,
        *,
        strict: bool,
    ) -> None:
        self._source = source
        self._recipe = recipe
        self._backbone = backbone
        self._strict = strict
        self._limit = Truncation(config, backbone).limit
        prefix = backbone.tokenize([config.prefix])[0]
        self._room = backbone.window - 1 - len(prefix) - config.num_compress_tokens
        self._features = Features({**recipe.features, RECORD: datasets.Value("int32")})
        self._ids = [
            name for name, kind in recipe.features.items() if kind in (TOKENS, TOKEN_LISTS)
        ]
        self._records = 0

    def write(self, content: list[Part], path: Path) -> Report:
        """Write all rows into an Arrow file.

        Parameters
        ----------
        content
            The source's files.
        path
            The file to write.

        Raises
        ------
        DataError
            A file cannot be read, no row is of use, or one is bad and must not be.
        """
        self._parts, self._report = content, Report()
        with ArrowWriter(features=self._features, path=str(path)) as writer:
            for batch in self._batches():
                writer.write_table(self._table(batch))
            if not self._report.used:
                raise DataError(self._nothing())
            writer.finalize()
        return self._report

    def _nothing(self) -> str:
        path, report = self._source.path, self._report
        if report.bad:
            first = self._bad_lines()[0]
            return f"{path}: of {report.bad + report.other} rows none is good; {first}"
        if report.other:
            return f"{path}: none of its {report.other} rows {self._recipe.needs}"
        return f"{path}: there is no row in it"

    def _bad_lines(self) -> list[str]:
        return self._report.lines([part.name for part in self._parts])

    def _batches(self) -> Iterator[list[_Made]]:
        """Yield what is made of the rows, as many at once as are quick to tokenise."""
        batch: list[_Made] = []
        characters = 0
        for made in self._within_limit():
            batch.append(made)
            characters += sum(map(len, self._texts(made)))
            if len(batch) == _BATCH_ROWS or characters > _BATCH_CHARACTERS:
                yield batch
                batch, characters = [], 0
        if batch:
            yield batch

    def _within_limit(self) -> Iterator[_Made]:
        """Yield what is made of all rows, or of as many as the limit allows, file by file alike."""
        self._read = [0] * len(self._parts)
        left = self._source.limit
        if left is None:
            yield from chain.from_iterable(map(self._made, range(len(self._parts))))
            return
        files = list(range(len(self._parts)))
        while files and left:
            lasting = []
            for place, file in enumerate(files):
                quota = math.ceil(left / (len(files) - place))
                found = 0
                for made in islice(self._made(file), quota):
                    found += 1
                    yield made
                left -= found
                if found == quota:
                    lasting.append(file)
            files = lasting  # what the others lack is taken from these

    def _made(self, file: int) -> Iterator[_Made]:
        """Yield what is made of each row of use that was not read yet; count the others."""
        _, label, rows = self._parts[file]
        for row in islice(rows(), self._read[file], None):
            self._read[file] += 1
            try:
                if isinstance(row.value, ValueError):
                    raise row.value
                records = list(records_of(row.value, min_score=self._source.min_score))
            except ValueError as error:
                self._add_bad(file, row.place, str(error))
                continue
            made = [cells for record in records if (cells := self._recipe.rows(record, label))]
            if made:
                yield _Made(file, row.place, made)
            else:
                self._report.other += 1

    def _add_bad(self, file: int, place: str, reason: str) -> None:
        self._report.add_bad(file, place, reason)
        if self._strict:
            raise DataError(self._bad_lines()[0])

    def _texts(self, made: _Made) -> Iterator[str]:
        """Yield the texts of rows that are to become ids."""
        for cells in chain.from_iterable(made.records):
            for name in self._ids:
                value = cells[name]
                yield from [value] if isinstance(value, str) else value

    def _table(self, batch: list[_Made]) -> pa.Table:
        texts = list(dict.fromkeys(text for made in batch for text in self._texts(made)))
        ids = {
            text: np.asarray(tokens, dtype=np.int32)
            for text, tokens in zip(texts, self._backbone.tokenize(texts), strict=True)
        }
        rows = []
        for made in batch:
            try:
                records = [[self._cut(row, ids) for row in record] for record in made.records]
            except ValueError as error:
                self._add_bad(made.file, made.place, str(error))
                continue
            self._report.used += 1
            for record in records:
                rows += [{**row, RECORD: self._records} for row in record]
                self._records += 1
        columns = [
            _column([row[name] for row in rows], kind) for name, kind in self._features.items()
        ]
        return pa.Table.from_arrays(columns, schema=self._features.arrow_schema)

    def _cut(self, row: Cells, ids: dict[str, NDArray[np.int32]]) -> Cells:
        """Replace texts by ids, cut to what the model takes; ValueError where nothing is left."""
        suffix = ids[row[_SUFFIX]] if _SUFFIX in row else None
        limit = self._limit if suffix is None else min(self._limit, self._room - len(suffix))
        if limit < 1:
            raise ValueError(f"its instruction leaves no room in {self._backbone.window} positions")
        cut = dict(row)
        for name in self._ids:
            value, bound = row[name], None if name == _SUFFIX else limit
            texts = [value] if isinstance(value, str) else value
            found = [ids[text][:bound] for text in texts]
            if not all(map(len, found)):
                raise ValueError(f"the tokenizer sees nothing in its {name}")
            cut[name] = found[0] if isinstance(value, str) else found
        return cut


def _column(values: list[Any], kind: Any) -> pa.Array:
    """Build a column; flat arrays and offsets, as lists of Python numbers are slow."""
    if kind == TOKENS:
        return _lists(values, _flat(values))
    if kind == TOKEN_LISTS:
        inner = list(chain.from_iterable(values))
        return _lists(values, _lists(inner, _flat(inner)))
    return pa.array(values, type=kind.pa_type)


def _flat(arrays: list[NDArray[np.int32]]) -> pa.Array:
    return pa.array(np.concatenate([np.empty(0, dtype=np.int32), *arrays]))


def _lists(values: list[Any], items: pa.Array) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])])
    return pa.ListArray.from_arrays(pa.array(offsets, type=pa.int32()), items)
