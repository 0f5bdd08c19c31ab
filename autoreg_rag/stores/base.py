"""The contract between the index and the stores that hold it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from autoreg_rag.corpus.records import Chunk, Hit, Scalar

Vectors = NDArray[np.float32]
"""Embeddings, float32 [n, d], each of unit length."""

Where = Mapping[str, Scalar | Sequence[Scalar]]
"""A filter: every key must equal its value, or one of its values.

Keys are ``source`` and those of a chunk's metadata.
"""


@dataclass(frozen=True)
class Manifest:
    """What an index as a whole is: written at its creation, checked at each opening.

    Attributes
    ----------
    fingerprint
        Of the model that made the vectors (`autoreg_rag.config`).
    model
        The name or folder from which that model can be loaded again.
    dimension
        d, the length of a vector.
    corpora
        Name and absolute path of each corpus that was indexed.
    """

    fingerprint: str
    model: str
    dimension: int
    corpora: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the manifest as a JSON object."""
        return json.dumps(
            {
                "fingerprint": self.fingerprint,
                "model": self.model,
                "dimension": self.dimension,
                "corpora": dict(self.corpora),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file whose chunks are all in the store.

    Attributes
    ----------
    source
        As in `Chunk`.
    digest
        Of the file's bytes and of all settings that change its chunks.
    chunks
        How many chunks it has.
    failed
        How many of its records or pages could not be read.
    """

    source: str
    digest: str
    chunks: int
    failed: int = 0


class Store(ABC):
    """Chunks, their vectors, and the list of the files that are done.

    What a method has written is durable when it returns. A process that is
    killed at any moment leaves a store that opens, searches, and continues:
    chunks carry their file's digest, so a file that is being replaced is
    found under its old chunks, its new ones, or both, until `finish_file`
    removes the old.

    One process may write at a time; another that tries gets a `StoreError`.
    """

    manifest: Manifest

    @property
    @abstractmethod
    def float16(self) -> bool:
        """Whether vectors are stored in half precision."""

    @abstractmethod
    def options(self) -> str:
        """Return the options by which the index command makes another index of this kind.

        What the user is to name, such as ``NEW_DIR``, is in capitals.
        """

    @abstractmethod
    def write_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest."""

    @abstractmethod
    def present(self, ids: Sequence[str]) -> set[str]:
        """Return those of `ids` that are already stored."""

    @abstractmethod
    def add(self, chunks: Sequence[Chunk], vectors: Vectors, digest: str) -> None:
        """Store chunks of one file; an id that is there already is replaced."""

    @abstractmethod
    def set_metadata(self, chunks: Sequence[Chunk]) -> None:
        """Replace the metadata of chunks that are stored, by id; all else of them stays.

        A chunk that is not there is left out.
        """

    @abstractmethod
    def finish_file(self, record: FileRecord) -> None:
        """Mark a file as done, and delete its source's chunks of any other digest."""

    @abstractmethod
    def remove_file(self, source: str) -> None:
        """Delete a file's chunks and its record; nothing happens if it has none."""

    @abstractmethod
    def discard(self, source: str, digest: str) -> None:
        """Delete what was added of a file that cannot be finished; other digests stay."""

    @abstractmethod
    def file(self, source: str) -> FileRecord | None:
        """Return the record of one file, or None if it is not done."""

    @abstractmethod
    def files(self) -> Iterator[FileRecord]:
        """Yield the records of all files that are done, in order of source."""

    @abstractmethod
    def sources(self) -> Iterator[str]:
        """Yield the sources that have a record or a chunk, each once, in order."""

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks, in order of id."""

    @abstractmethod
    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """Return the chunks of these ids, in the order asked; KeyError if one is missing."""

    @abstractmethod
    def revision(self) -> str:
        """Return a text that is another one when chunks came or went since an earlier call.

        It is quick, and compares with those of this open store only. Of a file that another
        process is replacing, it may change no sooner than when the file is finished.
        """

    @abstractmethod
    def search(self, queries: Vectors, k: int, where: Where | None = None) -> list[list[Hit]]:
        """Find for each query the `k` chunks of highest cosine, best first.

        Fewer than `k` if the store, or what the filter leaves of it, has fewer.
        Equal scores are ordered by id.
        """

    @abstractmethod
    def optimize(self) -> None:
        """Bring the store into its best shape for searching; called when a run ends."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many chunks are stored."""

    @abstractmethod
    def close(self) -> None:
        """Release files, locks and connections; calling it again does nothing."""

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
