"""Chunks on their way into a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from tqdm import tqdm

from autoreg_rag.corpus import Chunk, CorpusFile
from autoreg_rag.index.parts import ScoreParts
from autoreg_rag.index.summary import Summary
from autoreg_rag.model import AutoRegModel
from autoreg_rag.stores.base import FileRecord, Store, Vectors


@dataclass(eq=False)
class OpenFile:
    """A file between its first chunk and its record.

    Attributes
    ----------
    file, digest
        The file, and the digest of it and of all settings.
    state
        The `file_state` from before the digest was taken.
    is_new, is_short
        Whether the store has no record of it, or has one of this digest, but not all chunks.
    chunks, failed
        How many chunks it had, and how many of its records could not be read.
    counted_bytes
        How far the progress bar counts it as done.
    """

    file: CorpusFile
    digest: str
    state: tuple[int, ...]
    is_new: bool
    is_short: bool
    chunks: int = 0
    failed: int = 0
    counted_bytes: int = 0


@dataclass
class Block:
    """Chunks of consecutive files that are encoded and stored together.

    Attributes
    ----------
    model, store
        Encode the chunks and keep them.
    size
        How many chunks there are at once.
    summary, progress
        Told what was stored.
    parts
        Makes the parts of rerank scores that go with the chunks, if asked for.
    """

    model: AutoRegModel
    store: Store
    size: int
    summary: Summary
    progress: tqdm
    parts: ScoreParts | None = None
    _chunks: list[tuple[OpenFile, Chunk]] = field(default_factory=list, init=False)
    _finished: list[OpenFile] = field(default_factory=list, init=False)

    def add(self, file: OpenFile, chunk: Chunk) -> None:
        """Take a chunk; if the block is full now, store it."""
        file.chunks += 1
        self._chunks.append((file, chunk))
        if len(self._chunks) >= self.size:
            self.flush()

    def finish(self, file: OpenFile) -> None:
        """Give the file its record as soon as its last chunk is stored."""
        self._finished.append(file)

    def drop(self, file: OpenFile) -> None:
        """Forget the file, and take what was stored of it out again; not what was there before."""
        self._chunks = [pair for pair in self._chunks if pair[0] is not file]
        if not file.is_short:
            self.store.discard(file.file.source, file.digest)
        self._count_rest(file)

    def flush(self) -> None:
        """Encode and store the chunks that are not in the store yet, and finish files."""
        present = self.store.present([chunk.id for _, chunk in self._chunks])
        missing = [pair for pair in self._chunks if pair[1].id not in present]
        chunks, vectors = self._encoded([chunk for _, chunk in missing])
        start = 0
        for file, pairs in groupby(missing, key=itemgetter(0)):
            end = start + len(list(pairs))
            self.store.add(chunks[start:end], vectors[start:end], file.digest)
            start = end
        self.summary.encoded += len(missing)
        self.summary.resumed += len(present)
        for file, chunk in self._chunks:
            # The text's bytes stand for the file's until the file ends.
            step = min(len(chunk.text.encode()), file.file.size - file.counted_bytes)
            file.counted_bytes += step
            self.progress.update(step)
        for file in self._finished:
            self._record(file)
        self._chunks.clear()
        self._finished.clear()

    def _encoded(self, chunks: list[Chunk]) -> tuple[list[Chunk], Vectors]:
        """Return the chunks, with their score parts if asked for, and their vectors."""
        texts = [chunk.text for chunk in chunks]
        if self.parts is None or not chunks:
            return chunks, self.model.encode_documents(texts)
        latents = self.model.compress(texts)
        vectors = self.model.encoder.pool(latents).cpu().numpy()
        self.summary.scored += len(chunks)
        return self.parts.added(chunks, latents), vectors

    def _record(self, file: OpenFile) -> None:
        self.store.finish_file(
            FileRecord(file.file.source, file.digest, file.chunks, failed=file.failed)
        )
        self.summary.added += file.is_new
        self.summary.replaced += not file.is_new
        self.summary.empty += not file.chunks
        self._count_rest(file)

    def _count_rest(self, file: OpenFile) -> None:
        self.progress.update(file.file.size - file.counted_bytes)
