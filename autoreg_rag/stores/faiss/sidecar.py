"""What a FAISS index knows beside its vectors: one SQLite database."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.errors import StoreError
from autoreg_rag.stores.base import FileRecord, Manifest
from autoreg_rag.stores.batches import encoded_metadata
from autoreg_rag.stores.faiss.vectors import Rows
from autoreg_rag.stores.faults import explained
from autoreg_rag.stores.where import SOURCE, Condition

_APPLICATION = 0x41526167  # "ARag", in the header of the file
_SCHEMA = 2
_BUSY_SECONDS = 60
_PAGE = 1000

# Texts stand apart, so that filters and renumbering do not read through them.
# A deleted chunk leaves its row of the matrix dead; the trigger keeps count.
_TABLES = """
CREATE TABLE state (
    manifest TEXT NOT NULL, storage TEXT NOT NULL, factory TEXT NOT NULL,
    generation INTEGER NOT NULL, rows INTEGER NOT NULL, dead INTEGER NOT NULL,
    indexed INTEGER NOT NULL
);
CREATE TABLE files (
    source TEXT PRIMARY KEY, digest TEXT NOT NULL, chunks INTEGER NOT NULL,
    failed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE chunks (
    key INTEGER PRIMARY KEY, row INTEGER NOT NULL, id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL, digest TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    metadata TEXT NOT NULL
);
CREATE INDEX chunks_by_row ON chunks (row);
CREATE INDEX chunks_by_source ON chunks (source, digest);
CREATE TABLE texts (key INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE dead (row INTEGER PRIMARY KEY);
CREATE TRIGGER bury AFTER DELETE ON chunks BEGIN
    DELETE FROM texts WHERE key = OLD.key;
    INSERT INTO dead VALUES (OLD.row);
    UPDATE state SET dead = dead + 1;
END;
"""

_CHUNK = "SELECT id, text, source, start, stop, metadata FROM chunks JOIN texts USING (key)"
_AMONG = "IN (SELECT value FROM json_each(?))"


@dataclass(frozen=True, slots=True)
class State:
    """What the files beside the database hold.

    Attributes
    ----------
    factory
        The FAISS factory string, ``Flat`` for none.
    generation
        How many times the rows were renumbered; part of the names of the files.
    rows, dead
        The rows of the matrix that count, and how many of those have no chunk.
    indexed
        How many rows the approximate index covers, from the first on.
    """

    factory: str
    generation: int
    rows: int
    dead: int
    indexed: int


class Sidecar:
    """Chunks, file records, manifest and state of a FAISS index.

    It may be used by several threads; one at a time gets its turn.

    Parameters
    ----------
    path
        The database.
    writable
        Whether it will be written to.
    """

    def __init__(self, path: Path, writable: bool) -> None:
        self._path = path
        self._lock = threading.RLock()
        with explained(path):
            self._db = sqlite3.connect(
                _address(path, writable),
                uri=True,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            with explained(path):
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute(f"PRAGMA query_only = {not writable}")
                self._check_schema()
                ((manifest, storage),) = self._all("SELECT manifest, storage FROM state")
        except BaseException:
            self._db.close()
            raise
        self.manifest = Manifest.from_json(manifest)
        self.storage: str = storage

    @staticmethod
    def create(path: Path, manifest: Manifest, storage: str, factory: str) -> None:
        """Write a database without chunks."""
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {_SCHEMA}")
            db.executescript(_TABLES)
            db.execute(
                "INSERT INTO state VALUES (?, ?, ?, 0, 0, 0, 0)",
                (manifest.to_json(), storage, factory),
            )
        finally:
            db.close()

    def close(self) -> None:
        """Close the database; calling it again does nothing."""
        with self._lock, explained(self._path):
            self._db.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See the database in one state for a whole block."""
        with self._lock:
            self._execute("BEGIN")
            try:
                yield
            finally:
                self._execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make all changes in a block, durably, or none if it fails."""
        with self._lock:
            self._execute("BEGIN IMMEDIATE")
            try:
                yield
                self._execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite may have rolled back by itself
                    self._execute("ROLLBACK")
                raise

    def state(self) -> State:
        """Return the state as it is now."""
        ((factory, *counts),) = self._all(
            "SELECT factory, generation, rows, dead, indexed FROM state"
        )
        return State(factory, *counts)

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        self._execute("UPDATE state SET manifest = ?", manifest.to_json())

    def set_factory(self, factory: str) -> None:
        """Choose another approximate index; the present one no longer counts."""
        self._execute("UPDATE state SET factory = ?, indexed = 0", factory)

    def set_indexed(self, rows: int) -> None:
        """Note how many rows the approximate index covers."""
        self._execute("UPDATE state SET indexed = ?", rows)

    def insert(
        self, start: int, chunks: Sequence[Chunk], metadata: Sequence[str], digest: str
    ) -> None:
        """Note chunks, whose metadata are JSON and whose vectors the rows from `start` on."""
        self._execute(f"DELETE FROM chunks WHERE id {_AMONG}", _array(c.id for c in chunks))
        for row, (chunk, encoded) in enumerate(zip(chunks, metadata, strict=True), start):
            key = self._execute(
                "INSERT INTO chunks (row, id, source, digest, start, stop, metadata) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
                chunk.id,
                chunk.source,
                digest,
                chunk.start,
                chunk.end,
                encoded,
            ).lastrowid
            self._execute("INSERT INTO texts VALUES (?, ?)", key, chunk.text)
        self._execute("UPDATE state SET rows = ?", start + len(chunks))

    def set_metadata(self, chunks: Sequence[Chunk]) -> None:
        """Replace the metadata of chunks, found by their ids."""
        for chunk, metadata in zip(chunks, encoded_metadata(chunks), strict=True):
            self._execute("UPDATE chunks SET metadata = ? WHERE id = ?", metadata, chunk.id)

    def renumber(self) -> None:
        """Give the chunks the rows from 0 on, in their order, in a new generation."""
        self._execute(
            "UPDATE chunks SET row = ranked.place FROM "
            "(SELECT key, ROW_NUMBER() OVER (ORDER BY row) - 1 AS place FROM chunks) AS ranked "
            "WHERE ranked.key = chunks.key"
        )
        self._execute("DELETE FROM dead")
        self._execute(
            "UPDATE state SET generation = generation + 1, rows = rows - dead, "
            "dead = 0, indexed = 0"
        )

    def finish_file(self, record: FileRecord) -> None:
        """Note a file as done, and delete its source's chunks of any other digest."""
        self._execute(
            "DELETE FROM chunks WHERE source = ? AND digest <> ?", record.source, record.digest
        )
        self._execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
            record.source,
            record.digest,
            record.chunks,
            record.failed,
        )

    def remove_file(self, source: str) -> None:
        """Delete the record and the chunks of a source."""
        self._execute("DELETE FROM files WHERE source = ?", source)
        self._execute("DELETE FROM chunks WHERE source = ?", source)

    def discard(self, source: str, digest: str) -> None:
        """Delete the record and the chunks of one version of a source."""
        self._execute("DELETE FROM files WHERE source = ? AND digest = ?", source, digest)
        self._execute("DELETE FROM chunks WHERE source = ? AND digest = ?", source, digest)

    def present(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are there."""
        return {id for (id,) in self._all(f"SELECT id FROM chunks WHERE id {_AMONG}", _array(ids))}

    def file(self, source: str) -> FileRecord | None:
        """Return the record of one file."""
        found = self._all("SELECT * FROM files WHERE source = ?", source)
        return FileRecord(*found[0]) if found else None

    def files(self) -> Iterator[FileRecord]:
        """Yield all records, in order of source."""
        pages = self._pages("SELECT * FROM files WHERE source > ? ORDER BY source")
        return (FileRecord(*values) for values in pages)

    def sources(self) -> Iterator[str]:
        """Yield the sources of records and of chunks, in order."""
        pages = self._pages(
            "SELECT source FROM files WHERE source > ?1 UNION "
            "SELECT source FROM chunks WHERE source > ?1 ORDER BY source"
        )
        return (source for (source,) in pages)

    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks, in order of id."""
        return map(_chunk, self._pages(f"{_CHUNK} WHERE id > ? ORDER BY id"))

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """Return the chunks of these ids, in the order asked."""
        found = {
            values[0]: _chunk(values)
            for values in self._all(f"{_CHUNK} WHERE id {_AMONG}", _array(ids))
        }
        return [found[id] for id in ids]

    def revision(self) -> str:
        """Return a text that is another one after each change, of this connection or another."""
        with self._lock:
            ((others,),) = self._all("PRAGMA data_version")
            ((own,),) = self._all("SELECT total_changes()")
        return f"{others} {own}"

    def ids(self, rows: Iterable[int]) -> dict[int, str]:
        """Return the id of the chunk in each of these rows."""
        return dict(self._all(f"SELECT row, id FROM chunks WHERE row {_AMONG}", _array(rows)))

    def dead_rows(self) -> Rows:
        """Return the rows without a chunk."""
        return self._rows("SELECT row FROM dead")

    def rows_where(self, conditions: Sequence[Condition]) -> Rows:
        """Return the rows of the chunks that meet all conditions, in ascending order."""
        clauses, values = zip(*map(_clause, conditions), strict=True)
        return self._rows(
            f"SELECT row FROM chunks WHERE {' AND '.join(clauses)} ORDER BY row",
            *(value for clause_values in values for value in clause_values),
        )

    def _check_schema(self) -> None:
        ((application,),) = self._all("PRAGMA application_id")
        ((schema,),) = self._all("PRAGMA user_version")
        if application != _APPLICATION:
            raise StoreError(f"{self._path} is not part of an index of autoreg-rag")
        if schema != _SCHEMA:
            raise StoreError(
                f"{self._path.parent} has layout {schema}, this version of autoreg-rag reads "
                f"layout {_SCHEMA}: install the version that made it, or rebuild the index"
            )

    def _pages(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query that is ordered by, and starts after, its first column."""
        last = ""
        while page := self._all(f"{query} LIMIT {_PAGE}", last):
            yield from page
            last = page[-1][0]

    def _all(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock, explained(self._path):
            return self._db.execute(query, values).fetchall()

    def _rows(self, query: str, *values: object) -> Rows:
        with self._lock, explained(self._path):
            return np.fromiter((row for (row,) in self._db.execute(query, values)), np.int64)

    def _execute(self, query: str, *values: object) -> sqlite3.Cursor:
        with self._lock, explained(self._path):
            return self._db.execute(query, values)


def _address(path: Path, writable: bool) -> str:
    """Return the URI to open; a reader of a read-only folder cannot use a write-ahead log."""
    if writable or os.access(path.parent, os.W_OK):
        mode = "mode=rw"
    elif path.with_name(path.name + "-wal").exists():
        mode = "mode=ro"
    else:
        mode = "immutable=1"
    return f"{path.absolute().as_uri()}?{mode}"


def _array(values: Iterable[Any]) -> str:
    return json.dumps(list(values))


def _chunk(values: tuple[Any, ...]) -> Chunk:
    id, text, source, start, stop, metadata = values
    return Chunk(id, text, source, start, stop, json.loads(metadata))


def _clause(condition: Condition) -> tuple[str, tuple[str, ...]]:
    """Return SQL for a condition, with the values of its parameters.

    ``json_each`` takes keys as they are, where a JSON path would have to quote them.
    """
    if condition.key == SOURCE:
        return f"source {_AMONG}", (_array(condition.texts),)
    return (
        "EXISTS (SELECT 1 FROM json_each(metadata) AS entry WHERE entry.key = ? AND ("
        f"entry.type = 'text' AND entry.value {_AMONG} "
        f"OR entry.type IN ('integer', 'real') AND entry.value {_AMONG} "
        f"OR entry.type {_AMONG}))",
        (
            condition.key,
            _array(condition.texts),
            _array(condition.numbers),
            _array("true" if flag else "false" for flag in condition.flags),
        ),
    )
