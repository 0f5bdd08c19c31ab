"""The records of an index's files, in a collection of their own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict

from qdrant_client import models

from autoreg_rag.stores.base import FileRecord
from autoreg_rag.stores.qdrant.connection import Connection

_REVISION = ""
"""The source of the revision, which is kept as the digest of a record of no file.

A version that knows of no revision takes it for a file that is in no corpus.
"""


class FileRecords:
    """A second collection, ``<name>__files``: a point for each file, and one for the revision.

    It stands apart so that searches of any client find passages only.

    Parameters
    ----------
    connection
        To Qdrant.
    collection
        The collection of the chunks.
    """

    def __init__(self, connection: Connection, collection: str) -> None:
        self._connection = connection
        self._call, self._client = connection.call, connection.client
        self._collection = f"{collection}__files"

    def make(self) -> None:
        """Make the collection anew: what is there is of chunks that are gone."""
        if self._call(self._client.collection_exists, self._collection):
            self._call(self._client.delete_collection, self._collection)
        # Qdrant asks for a vector; records are not searched by it.
        vector = models.VectorParams(size=1, distance=models.Distance.DOT)
        self._call(self._client.create_collection, self._collection, vector)

    def get(self, source: str) -> FileRecord | None:
        """Return the record of one file, or None if it has none."""
        found = self._call(self._client.retrieve, self._collection, [_id(source)])
        return _record(found[0]) if found else None

    def all(self) -> Iterator[FileRecord]:
        """Yield the records of all files, in order of source."""
        points = self._connection.scroll(self._collection, with_payload=True)
        records = (record for record in map(_record, points) if record.source != _REVISION)
        yield from sorted(records, key=lambda record: record.source)

    def write(self, *records: FileRecord) -> None:
        """Write records, and with them a new revision."""
        revision = FileRecord(_REVISION, uuid.uuid4().hex, 0)
        points = [_point(record) for record in (*records, revision)]
        self._call(self._client.upsert, self._collection, points, wait=True)

    def delete(self, source: str) -> None:
        """Delete the record of a file; nothing happens if it has none."""
        self._call(self._client.delete, self._collection, [_id(source)], wait=True)

    def revision(self) -> str:
        """Return what `write` makes another each time."""
        revision = self.get(_REVISION)
        return revision.digest if revision else ""


def _id(source: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, source))


def _point(record: FileRecord) -> models.PointStruct:
    return models.PointStruct(id=_id(record.source), vector=[1.0], payload=asdict(record))


def _record(point: models.Record) -> FileRecord:
    return FileRecord(**(point.payload or {}))
