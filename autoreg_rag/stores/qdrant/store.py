"""An index in Qdrant, embedded or on a server."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from qdrant_client import models

from autoreg_rag.corpus.records import Chunk, Hit
from autoreg_rag.errors import StoreError
from autoreg_rag.stores import ranking
from autoreg_rag.stores.base import FileRecord, Manifest, Store, Vectors, Where
from autoreg_rag.stores.batches import checked_batch, checked_queries, encoded_metadata
from autoreg_rag.stores.faults import explained
from autoreg_rag.stores.folders import new_folder
from autoreg_rag.stores.names import COLLECTION, QDRANT_STORAGE
from autoreg_rag.stores.qdrant import payload
from autoreg_rag.stores.qdrant.connection import Connection
from autoreg_rag.stores.qdrant.records import FileRecords
from autoreg_rag.stores.qdrant.requests import request_bodies
from autoreg_rag.stores.where import conditions

_MANIFEST = "autoreg"
_IDS_AT_ONCE = 1000
_QUERIES_AT_ONCE = 32
_PARTS = [payload.TEXT, payload.CHUNK]


class QdrantStore(Store):
    """A collection of chunks, and a second one of file records.

    The manifest is in the collection's metadata. There are no transactions
    here, so every method writes in an order that leaves no record without its
    chunks, and can be repeated. Points that other programs put into the
    collection are neither found nor changed.

    Embedded, Qdrant keeps all in memory, compares with every vector, warns
    above 20,000 chunks, and lets one process at a time open the folder, be it
    to read or to write. Its client stores points as Python pickles: open no
    embedded storage that you would not run as a program. A server has no such
    limits. A lock file in the user's cache folder keeps two writers of one
    machine and user apart; the server has no lock that others would see.

    Parameters
    ----------
    connection
        To Qdrant; the store closes it, at once if there is no such index.
    writable
        Whether chunks will be added or removed.
    collection
        Its name.

    Raises
    ------
    StoreError
        If there is no such collection, or it is not an index.
    """

    def __init__(
        self, connection: Connection, *, writable: bool = False, collection: str = COLLECTION
    ) -> None:
        self._connection = connection
        self._call, self._client = connection.call, connection.client
        self._writable = writable
        self._collection = collection
        self._records = FileRecords(connection, collection)
        # The sources that had chunks before this store added any, and the digests of those
        # that it added: where there can be no old chunks, `finish_file` does not look for
        # them, for which embedded Qdrant walks through all.
        self._earlier: set[str] | None = None
        self._added: dict[str, set[str]] = {}
        try:
            if writable:
                connection.lock(collection)
            info = self._info()
            self.manifest = self._manifest_of(info)
            if writable and not connection.embedded:
                self._index_payload(info)
        except BaseException:
            connection.close()
            raise

    @classmethod
    def open(
        cls,
        location: Path | str,
        *,
        writable: bool = False,
        api_key: str | None = None,
        collection: str = COLLECTION,
    ) -> QdrantStore:
        """Open an index in a folder, a `Path`, or on a server, whose URL is text."""
        return cls(_connect(location, api_key), writable=writable, collection=collection)

    @classmethod
    def create(
        cls,
        location: Path | str,
        manifest: Manifest,
        *,
        api_key: str | None = None,
        collection: str = COLLECTION,
        float16: bool = False,
    ) -> QdrantStore:
        """Open an index for writing; make it first if it is not there.

        Parameters
        ----------
        location, api_key, collection
            As for `open`.
        manifest
            For a new index; one that is there keeps its own.
        float16
            Keep the vectors of a new index in half the space; embedded Qdrant does not.
        """
        if isinstance(location, Path) and not (location / QDRANT_STORAGE).exists():
            with explained(location), new_folder(location, QDRANT_STORAGE) as new:
                connection = Connection.to_folder(new)
                try:
                    _make(connection, manifest, collection, float16)
                finally:
                    connection.close()
        connection = _connect(location, api_key)
        try:
            connection.lock(collection)
            _make(connection, manifest, collection, float16)
        except BaseException:
            connection.close()
            raise
        return cls(connection, writable=True, collection=collection)

    @property
    def float16(self) -> bool:
        """Whether vectors are stored in half precision."""
        vectors = self._call(self._client.get_collection, self._collection).config.params.vectors
        return (
            isinstance(vectors, models.VectorParams) and vectors.datatype == models.Datatype.FLOAT16
        )

    def options(self) -> str:
        """Return the options by which the index command makes another index of this kind."""
        if not self._connection.embedded:
            url = shlex.quote(self._connection.place)
            return f"--store qdrant --url {url} --collection NEW_NAME"
        if self._collection == COLLECTION:
            return "--store qdrant --out NEW_DIR"
        return f"--store qdrant --out NEW_DIR --collection {shlex.quote(self._collection)}"

    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest."""
        self._check_writable()
        self._call(
            self._client.update_collection,
            self._collection,
            metadata={_MANIFEST: manifest.to_json()},
        )
        self.manifest = manifest

    def present(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are already stored."""
        return {str(point.id) for point in self._retrieve(ids, [payload.DIGEST_PATH])}

    def add(self, chunks: Sequence[Chunk], vectors: Vectors, digest: str) -> None:
        """Store chunks of one file; an id that is there already is replaced."""
        self._check_writable()
        chunks, vectors, _ = checked_batch(chunks, vectors, self.manifest.dimension)
        self._note_earlier()
        for chunk in chunks:
            self._added.setdefault(chunk.source, set()).add(digest)
        points = (
            models.PointStruct(
                id=chunk.id, vector=vector.tolist(), payload=payload.payload(chunk, digest)
            )
            for chunk, vector in zip(chunks, vectors, strict=True)
        )
        for request in request_bodies(points):
            self._call(self._client.upsert, self._collection, request, wait=True)

    def set_metadata(self, chunks: Sequence[Chunk]) -> None:
        """Replace the metadata of chunks that are stored; all else of them stays."""
        self._check_writable()
        encoded_metadata(chunks)  # refuses what no payload could hold, before anything changes
        digests = {
            str(point.id): (point.payload or {})[payload.CHUNK]["digest"]
            for point in self._retrieve([chunk.id for chunk in chunks], [payload.CHUNK])
        }
        changes = (
            models.OverwritePayloadOperation(
                overwrite_payload=models.SetPayload(
                    payload=payload.payload(chunk, digests[chunk.id]), points=[chunk.id]
                )
            )
            for chunk in chunks
            if chunk.id in digests
        )
        for request in request_bodies(changes):
            self._call(self._client.batch_update_points, self._collection, request, wait=True)

    def finish_file(self, record: FileRecord) -> None:
        """Mark a file as done, and delete its source's chunks of any other digest."""
        self._check_writable()
        earlier = self.file(record.source)
        if earlier and earlier.digest != record.digest:
            self._records.delete(record.source)
        earlier_sources = self._note_earlier()
        others = self._added.get(record.source, set()) - {record.digest}
        if others or record.source in earlier_sources:
            self._delete(payload.versions(record.source, but=record.digest))
        self._records.write(record)
        earlier_sources.discard(record.source)
        self._added[record.source] = {record.digest}

    def remove_file(self, source: str) -> None:
        """Delete a file's chunks and its record; nothing happens if it has none."""
        self._check_writable()
        self._records.delete(source)
        self._delete(payload.versions(source))
        self._records.write()

    def discard(self, source: str, digest: str) -> None:
        """Delete what was added of a file that cannot be finished; other digests stay."""
        self._check_writable()
        record = self.file(source)
        if record and record.digest == digest:
            self._records.delete(source)
        self._delete(payload.versions(source, digest=digest))
        self._records.write()

    def file(self, source: str) -> FileRecord | None:
        """Return the record of one file, or None if it is not done."""
        return self._records.get(source)

    def files(self) -> Iterator[FileRecord]:
        """Yield the records of all files that are done, in order of source."""
        return self._records.all()

    def revision(self) -> str:
        """Return a text that is another one when chunks came or went since an earlier call."""
        return f"{self._points()} {self._records.revision()}"

    def sources(self) -> Iterator[str]:
        """Yield the sources that have a record or a chunk, each once, in order."""
        found = self._chunk_sources()
        yield from sorted(found.union(record.source for record in self.files()))

    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks, in order of id."""
        points = self._connection.scroll(self._collection, with_payload=_PARTS)
        return map(_chunk, filter(payload.is_chunk, points))

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """Return the chunks of these ids, in the order asked; KeyError if one is missing."""
        found = {str(point.id): _chunk(point) for point in self._retrieve(ids, _PARTS)}
        return [found[id] for id in ids]

    def search(self, queries: Vectors, k: int, where: Where | None = None) -> list[list[Hit]]:
        """Find for each query the `k` chunks of highest cosine, best first."""
        queries = checked_queries(queries, k, self.manifest.dimension)
        wanted = conditions(where)
        if any(condition.is_empty for condition in wanted):
            return [[] for _ in queries]
        narrowed, strictly = (payload.all_of(wanted, only_chunks=only) for only in (False, True))

        def candidates(some: Vectors, width: int) -> list[ranking.Scored[Chunk]]:
            found = self._nearest(some, width, narrowed)
            # Under a filter embedded Qdrant walks through all, so it is for those who need it.
            if not all(payload.is_chunk(point) for points in found for point in points):
                found = self._nearest(some, width, strictly)
            return [[(point.score, _chunk(point)) for point in points] for points in found]

        hits = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            some = queries[start : start + _QUERIES_AT_ONCE]
            for found in ranking.widened(some, k, candidates):
                found.sort(key=lambda scored: (-scored[0], scored[1].id))
                hits.append(ranking.hits(found[:k]))
        return hits

    def optimize(self) -> None:
        """Do nothing: a server optimizes by itself, and embedded Qdrant cannot."""

    def __len__(self) -> int:
        return self._points(payload.CHUNKS)

    def close(self) -> None:
        """Close the client; calling it again does nothing."""
        self._connection.close()

    def _check_writable(self) -> None:
        if not self._writable:
            raise StoreError(
                f"{self._connection.place} was opened for reading: open it as writable"
            )

    def _info(self) -> models.CollectionInfo:
        if not self._call(self._client.collection_exists, self._collection):
            raise StoreError(
                f"Qdrant at {self._connection.place} has no collection '{self._collection}': name "
                "another, or make it with 'python -m autoreg_rag.index CORPUS --store qdrant'"
            )
        return self._call(self._client.get_collection, self._collection)

    def _manifest_of(self, info: models.CollectionInfo) -> Manifest:
        text = (info.config.metadata or {}).get(_MANIFEST)
        if not isinstance(text, str):
            place = f"Qdrant at {self._connection.place}"
            raise StoreError(
                f"the collection '{self._collection}' of {place} was not made by autoreg-rag, "
                "or the server is older than 1.16: name another collection, or update the server"
            )
        return Manifest.from_json(text)

    def _index_payload(self, info: models.CollectionInfo) -> None:
        """Make the payload indexes that are missing; an older version made fewer."""
        for path in payload.INDEXED:
            if path in info.payload_schema:
                continue
            self._call(
                self._client.create_payload_index,
                self._collection,
                path,
                models.PayloadSchemaType.KEYWORD,
                wait=True,
            )

    def _points(self, which: models.Filter | None = None) -> int:
        """Return how many points there are, by default with those of other programs."""
        return self._call(self._client.count, self._collection, which, exact=True).count

    def _chunk_sources(self) -> set[str]:
        facets = self._call(
            self._client.facet,
            self._collection,
            payload.SOURCE_PATH,
            facet_filter=payload.CHUNKS,
            limit=max(1, self._points()),
            exact=True,
        )
        return {str(hit.value) for hit in facets.hits}

    def _note_earlier(self) -> set[str]:
        """Return the sources that had chunks before this store added any."""
        if self._earlier is None:
            self._earlier = self._chunk_sources()
        return self._earlier

    def _nearest(
        self, queries: Vectors, width: int, narrowed: models.Filter | None
    ) -> list[list[models.ScoredPoint]]:
        requests = [
            models.QueryRequest(query=query, filter=narrowed, limit=width, with_payload=_PARTS)
            for query in queries.tolist()
        ]
        answers = self._call(self._client.query_batch_points, self._collection, requests)
        return [answer.points for answer in answers]

    def _retrieve(self, ids: Sequence[str], with_payload: list[str]) -> Iterator[models.Record]:
        """Yield the chunks that there are of these ids."""
        ids = [id for id in ids if payload.is_id(id)]  # a server refuses all for any other
        for start in range(0, len(ids), _IDS_AT_ONCE):
            some = ids[start : start + _IDS_AT_ONCE]
            points = self._call(self._client.retrieve, self._collection, some, with_payload)
            yield from filter(payload.is_chunk, points)

    def _delete(self, which: models.Filter) -> None:
        """Delete chunks; to write records next, be it none, tells readers by a new revision."""
        selector = models.FilterSelector(filter=which)
        self._call(self._client.delete, self._collection, selector, wait=True)


def _connect(location: Path | str, api_key: str | None) -> Connection:
    if isinstance(location, Path):
        return Connection.to_folder(location)
    return Connection.to_server(location, api_key)


def _make(connection: Connection, manifest: Manifest, collection: str, float16: bool) -> None:
    """Make what is not there; the collection that holds the manifest comes last."""
    call, client = connection.call, connection.client
    vectors = models.VectorParams(
        size=manifest.dimension,
        distance=models.Distance.COSINE,
        datatype=models.Datatype.FLOAT16 if float16 else None,
    )
    try:
        if call(client.collection_exists, collection):
            return
        FileRecords(connection, collection).make()
        metadata = {_MANIFEST: manifest.to_json()}
        call(client.create_collection, collection, vectors, metadata=metadata)
    except ValueError as error:
        raise StoreError(f"Qdrant cannot make the collection '{collection}': {error}") from error


def _chunk(point: models.Record | models.ScoredPoint) -> Chunk:
    return payload.chunk_of(str(point.id), point.payload or {})
