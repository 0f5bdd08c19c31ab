"""Stores to test, chunks to fill them with, and a plain store to compare them with."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autoreg_rag.corpus.records import Chunk
from autoreg_rag.stores import FileRecord, Manifest, Store, create_store, open_store
from autoreg_rag.stores.faiss.store import FaissStore

DIMENSION = 16
KINDS = ["flat", "float16", "hnsw", "qdrant"]
MANIFEST = Manifest("f" * 64, "a/model", DIMENSION, {"docs": "/some/docs"})

_TEXTS = ["plain", "naïve café", "漢字かな", "emoji 🧵 👩‍👩‍👧", "two\nlines\t\0", "<b>\"'\\", ""]


def create(kind: str, folder: Path) -> Store:
    """Make an index of a kind, or open it for writing."""
    if kind == "qdrant":
        return create_store("qdrant", folder, MANIFEST)
    factory = "HNSW16" if kind == "hnsw" else None
    return create_store("faiss", folder, MANIFEST, float16=kind == "float16", factory=factory)


def reopen(kind: str, folder: Path, writable: bool = True) -> Store:
    """Open an index anew; an HNSW with so much effort that it finds all there is to find."""
    if kind == "hnsw":
        return FaissStore(folder, writable=writable, effort=10_000)
    return open_store(folder, writable=writable)


def vectors(count: int, seed: int = 0) -> np.ndarray:
    """Return random vectors of unit length."""
    rows = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def chunks(source: str, count: int, version: str = "1") -> list[Chunk]:
    """Return chunks whose ids depend on source and version, as the pipeline's do."""
    return [
        Chunk(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{source} {version} {place}")),
            text=f"{source} {version} {place} {_TEXTS[place % len(_TEXTS)]}",
            source=source,
            start=10 * place,
            end=10 * place + 7,
            metadata={
                "page": place // 4,
                "title": _TEXTS[place % 3],
                "ratio": place / 8,
                "draft": place % 2 == 0,
                "odd.key \\[0] $'%ü": "x" if place % 5 else "y",
            },
        )
        for place in range(count)
    ]


def vector_of(id: str) -> np.ndarray:
    """Return the vector that belongs to an id, always the same."""
    return vectors(1, seed=uuid.UUID(id).int % 2**63)[0]


class Oracle:
    """The contract of a store, kept by dictionaries and one matrix product."""

    def __init__(self, kind: str) -> None:
        self._stored_as = np.float16 if kind == "float16" else np.float32
        self._entries: dict[str, tuple[Chunk, np.ndarray, str]] = {}
        self._records: dict[str, FileRecord] = {}

    def present(self, ids):
        return {id for id in ids if id in self._entries}

    def add(self, chunks, vectors, digest):
        for chunk, vector in zip(chunks, vectors, strict=True):
            stored = vector.astype(self._stored_as).astype(np.float64)
            self._entries[chunk.id] = chunk, stored, digest

    def finish_file(self, record):
        self._keep(lambda chunk, digest: chunk.source != record.source or digest == record.digest)
        self._records[record.source] = record

    def remove_file(self, source):
        self._keep(lambda chunk, digest: chunk.source != source)
        self._records.pop(source, None)

    def discard(self, source, digest):
        self._keep(lambda chunk, other: chunk.source != source or other != digest)
        if source in self._records and self._records[source].digest == digest:
            del self._records[source]

    def file(self, source):
        return self._records.get(source)

    def files(self):
        return iter(sorted(self._records.values(), key=lambda record: record.source))

    def sources(self) -> Iterator[str]:
        return iter(sorted({c.source for c, _, _ in self._entries.values()} | {*self._records}))

    def chunks(self):
        return (self._entries[id][0] for id in sorted(self._entries))

    def get(self, ids):
        return [self._entries[id][0] for id in ids]

    def search(self, queries, k, where=None):
        """Return (score, chunk) pairs instead of hits."""
        found = [entry for entry in self._entries.values() if _meets(entry[0], where or {})]
        results = []
        for query in queries:
            scored = [(float(vector @ query), chunk) for chunk, vector, _ in found]
            scored.sort(key=lambda pair: (-round(pair[0], 9), pair[1].id))
            results.append(scored[:k])
        return results

    def optimize(self):
        pass

    def __len__(self):
        return len(self._entries)

    def _keep(self, condition):
        self._entries = {
            id: (chunk, vector, digest)
            for id, (chunk, vector, digest) in self._entries.items()
            if condition(chunk, digest)
        }


def _meets(chunk: Chunk, where) -> bool:
    known = {**chunk.metadata, "source": chunk.source}
    for key, wanted in where.items():
        values = [wanted] if isinstance(wanted, str | int | float) else wanted
        same = (
            isinstance(known[key], bool) == isinstance(value, bool) and known[key] == value
            for value in values
        )
        if key not in known or not any(same):
            return False
    return True


def assert_same_hits(store, oracle, queries, k, where=None) -> None:
    """Assert that a store finds what the oracle does, in the same order."""
    for hits, expected in zip(
        store.search(queries, k, where), oracle.search(queries, k, where), strict=True
    ):
        assert [hit.chunk for hit in hits] == [chunk for _, chunk in expected]
        scores = [hit.score for hit in hits]
        np.testing.assert_allclose(scores, [score for score, _ in expected], atol=2e-6)
        assert scores == sorted(scores, reverse=True)
        assert all(hit.scores == {"cosine": hit.score} for hit in hits)


def assert_same_content(store, oracle) -> None:
    """Assert that a store holds what the oracle does."""
    assert len(store) == len(oracle)
    assert list(store.chunks()) == list(oracle.chunks())
    assert list(store.files()) == list(oracle.files())
    assert list(store.sources()) == list(oracle.sources())
